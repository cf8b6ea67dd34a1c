"""How much a mean over tasks, runs and test samples varies: by the runs that were drawn, and by the samples.

Letters of shapes: R runs, U units of runs (the orders, or the seeds of one order), N samples of a task, C groups of
samples that belong together. Any axes may stand in front of (R, N). numpy and scipy are imported where they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

CURVE = 1.25  # how a critical value goes from the samples' to the runs'; 1: Cochran and Cox
LEAST_P = 1e-100  # below that scipy has no quantiles of some degrees of freedom


@dataclass(frozen=True)
class Spread:
    """A mean, and the variance that it has from runs and from samples, with the degrees of freedom of both.

    The variances are NaN where they are undefined.
    """

    mean: Array
    runs: Array
    samples: Array
    freedom_of_runs: int
    freedom_of_samples: Array

    @property
    def error(self) -> Array:
        """The standard error of the mean."""
        import numpy as np

        return np.sqrt(self.runs + self.samples)

    def critical(self, alpha: float) -> Array:
        """How many standard errors the mean is off with the probability ``alpha``, either way.

        t_S + w^(5/4) (t_R - t_S), w the runs' share of the variance, t_R and t_S Student's of their degrees of freedom.
        """
        import numpy as np
        from scipy.special import stdtrit

        together = self.runs + self.samples
        share = np.divide(self.runs, together, out=np.zeros_like(together), where=together > 0) ** CURVE
        of_runs, of_samples = (-stdtrit(free, alpha / 2) for free in (self.freedom_of_runs, self.freedom_of_samples))
        return (1 - share) * of_samples + share * of_runs

    def p(self, errors: float) -> float:
        """The ``alpha`` whose critical value is so many standard errors; of a single mean, by bisection."""
        low, high = math.log(LEAST_P), 0.0
        for _ in range(60):
            middle = (low + high) / 2
            if self.critical(math.exp(middle)) > errors:
                low = middle
            else:
                high = middle
        return math.exp(high)


def spread(tasks: Sequence[Array], units: Sequence[int], groups: Sequence[Array | None]) -> Spread:
    """The mean over tasks, each counting the same, and how it varies.

    Args:
        tasks: (..., R, N) of each; the rows are the same runs.
        units: of how many rows, in their order, each unit consists.
        groups: (N,) numbers of each task's samples; None: every sample is its own group.

    The variance of the means of U units is estimated from these, that of the means of C groups over all runs from
    these, task by task. Both have in them what chance of one run does on one group; it is estimated from what is left
    of the (U, C) means without their rows' and columns' means, and taken off the groups' part, which has the more
    degrees of freedom. Units and groups of unequal sizes enter by the sums of their deviations.
    """
    import numpy as np

    parts = [_of_task(task, units, own) for task, own in zip(tasks, groups, strict=True)]
    mean_U = np.sum([part.mean_U for part in parts], axis=0) / len(parts)
    mean = mean_U.sum(axis=-1)
    size_U = np.array(units) / sum(units)
    deviation_U = mean_U - size_U * mean[..., None]
    several = len(units) > 1
    runs = (deviation_U**2).sum(axis=-1) * len(units) / (len(units) - 1) if several else np.zeros_like(mean)
    known = [part for part in parts if part.groups > 1]
    if len(known) < len(parts):  # all tasks without: about runs alone
        samples = np.full_like(mean, math.nan if known or not several else 0.0)
        return Spread(mean, runs, samples, max(1, len(units) - 1), np.ones_like(mean))
    total = sum(part.samples for part in parts)
    squares = sum(part.samples**2 / (part.groups - 1) for part in parts)
    most = np.full_like(mean, sum(part.groups - 1 for part in parts))
    freedom = np.divide(total**2, squares, out=most, where=squares > 0)  # Satterthwaite's
    samples = np.maximum(total - sum(part.chance for part in parts), 0.0) / len(parts) ** 2
    return Spread(mean, runs, samples, max(1, len(units) - 1), freedom)


@dataclass(frozen=True)
class _Task:
    """``mean_U``: of each unit, times its share of the runs; variances of the task's mean by its groups of samples."""

    mean_U: Array
    samples: Array
    chance: Array
    groups: int


def _of_task(scores_RN: Array, units: Sequence[int], groups: Array | None) -> _Task:
    import numpy as np

    runs, samples = scores_RN.shape[-2:]
    firsts = np.cumsum([0, *units[:-1]])
    mean_R = scores_RN.sum(axis=-1) / samples if samples else np.full(scores_RN.shape[:-1], math.nan)
    mean_U = np.add.reduceat(mean_R, firsts, axis=-1) / runs
    deviation_UN = np.add.reduceat(scores_RN - mean_R[..., None], firsts, axis=-2) / (runs * max(samples, 1))
    deviation_UC = deviation_UN if groups is None else _summed(deviation_UN, groups)
    count, nothing = deviation_UC.shape[-1], np.zeros(scores_RN.shape[:-2])
    if count < 2:
        return _Task(mean_U, nothing, nothing, count)
    deviation_C = deviation_UC.sum(axis=-2)
    of_groups = (deviation_C**2).sum(axis=-1) * count / (count - 1)
    if len(units) < 2:
        return _Task(mean_U, of_groups, nothing, count)
    chance_UC = deviation_UC - np.array(units)[:, None] / runs * deviation_C[..., None, :]
    freed = count / (count - 1) * len(units) / (len(units) - 1)
    return _Task(mean_U, of_groups, (chance_UC**2).sum(axis=(-2, -1)) * freed, count)


def _summed(values_N: Array, groups: Array) -> Array:
    """The sums (..., C) of the values of each group."""
    import numpy as np

    place_N = np.unique(groups, return_inverse=True)[1]
    by_group = np.argsort(place_N, kind="stable")
    firsts = np.flatnonzero(np.diff(place_N[by_group], prepend=-1))
    return np.add.reduceat(values_N[..., by_group], firsts, axis=-1)
