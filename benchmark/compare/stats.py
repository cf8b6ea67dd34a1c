"""Numbers from replicates: means and intervals, paired tests on the same samples, ranks over many streams.

Letters of shapes: M methods, B blocks (streams or cells). numpy and scipy are imported where they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from benchmark.compare import variance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Task = NDArray[Any] | Sequence[ArrayLike]  # (orders, seeds, samples), or (seeds, samples) of each order
    Scores = Sequence[Task]
    Groups = Sequence[ArrayLike | None]  # per task: (samples,)

FEWEST_BLOCKS = 5  # of a critical difference: its distribution is that of many blocks


# One set of runs


def whole(values: Sequence[float | None]) -> list[float]:
    """The values, or no value if one of them is null."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def mean(values: Sequence[float | None]) -> float | None:
    """The mean, None when there is no value or one of them is null."""
    known = whole(values)
    return fmean(known) if known else None


def deviation(values: Sequence[float | None]) -> float | None:
    """The sample standard deviation (ddof 1), None for fewer than two values or with a null."""
    known = whole(values)
    return stdev(known) if len(known) > 1 else None


# Runs and test samples


def interval(scores: Scores, groups: Groups | None = None, level: float = 0.95) -> tuple[float, float, float]:
    """The mean over tasks, runs and samples, and its interval for other runs and other test samples.

    Args:
        scores: per task, each counting the same, an array (orders, seeds, samples) of scores in [0, 1]; where orders
            have unequally many seeds, a list with an array (seeds, samples) for each order. Every run counts the same.
        groups: per task (samples,) numbers of what belongs together (a patient, an image with its captions); None, or
            None for a task: every sample stands for itself.
        level: the share of such intervals that hold the truth.

    Returns:
        (mean, low, high), within [0, 1]. With one order they are about that order, with several about a random one;
        with a single run about that trained model on other samples. With one group a task, nothing is known of samples
        and they are about other runs on the same ones. Where nothing varies the interval is a point. NaN where
        undefined: low and high of a single run without samples, or where only some tasks have several groups; all three
        where a score is NaN or a task empty.

    Raises:
        ValueError: no tasks, or tasks of other runs.

    The variance is that of two crossed ways of drawing (``variance.spread``): runs, by orders if there are several (the
    seeds' part is in their means), else by seeds, and samples by groups, which all runs share; what chance of a run on
    a sample adds is counted once. The critical value lies between Student's for the runs' few degrees of freedom and
    that for the samples' many, as Cochran and Cox have it (Experimental Designs, 1957, 4.14), but for an exponent on
    the runs' share of the variance: coverage stays within .93 to .97 whatever the share. Satterthwaite's degrees of
    freedom cover .87 with two runs or two orders and .92 with three at worst, and at the small levels that Holm's
    correction asks for they are exceeded many times too often: runs that happen to agree look like many.
    """
    found = spread(scores, groups)
    return float(found.mean), *_ends(found, level, lowest=0.0)


def difference(
    a: Scores, b: Scores, groups: Groups | None = None, level: float = 0.95
) -> tuple[float, float, float, float]:
    """The mean of a - b with its interval, and the two-sided p of none: as ``interval``, of each sample's difference.

    Args:
        a, b: as there, with the same orders, seeds and samples in the same places. groups, level: as there.

    Returns:
        (mean, low, high, p), within [-1, 1]; p is below 1 - level just where the interval leaves zero out, and NaN
        where it is. Where nothing varies p is 1 without a difference, else 0.

    Raises:
        ValueError: no tasks, or the two were not tested in the same runs on the same samples.
    """
    found = paired(a, b, groups)
    mean, error = float(found.mean), float(found.error)
    if math.isnan(error):
        p = math.nan
    elif error < 1e-12:
        p = 1.0 if abs(mean) < 1e-12 else 0.0
    else:
        p = found.p(abs(mean) / error)
    return mean, *_ends(found, level, lowest=-1.0), p


def paired(a: Scores, b: Scores, groups: Groups | None = None) -> variance.Spread:
    """What ``difference`` is made of: the mean of a - b, and how it varies by runs and by samples.

    Raises:
        ValueError: as there.
    """
    mine, other = ([list(map(_floats, task)) for task in each] for each in (a, b))
    if [[order.shape for order in task] for task in mine] != [[order.shape for order in task] for task in other]:
        raise ValueError("the two were not tested in the same runs on the same samples")
    gaps = [[one - two for one, two in zip(*tasks, strict=True)] for tasks in zip(mine, other, strict=True)]
    return spread(gaps, groups)


def _floats(values: ArrayLike) -> NDArray[np.float64]:
    import numpy as np

    return np.asarray(values, dtype=np.float64)


def spread(scores: Scores, groups: Groups | None = None) -> variance.Spread:
    """What ``interval`` is made of: the mean, and how it varies by runs and by samples.

    Raises:
        ValueError: as there.
    """
    import numpy as np

    tasks = [list(map(_floats, task)) for task in scores]
    runs = [[len(seeds) for seeds in task] for task in tasks]
    if not runs or not runs[0] or min(runs[0]) < 1 or any(each != runs[0] for each in runs):
        raise ValueError("no tasks, or tasks that were not learned in the same runs")
    units = runs[0] if len(runs[0]) > 1 else [1] * runs[0][0]
    given = [None] * len(tasks) if groups is None else groups
    numbers = [None if own is None else np.asarray(own) for own in given]
    return variance.spread([np.concatenate(task) for task in tasks], units, numbers)


def _ends(found: variance.Spread, level: float, lowest: float) -> tuple[float, float]:
    if math.isnan(found.error):
        return math.nan, math.nan
    mean, half = float(found.mean), float(found.error * found.critical(1 - level))
    return max(lowest, mean - half), min(1.0, mean + half)


# Many methods


def average_ranks(table_BM: ArrayLike) -> list[float]:
    """The rank in each block, 1 for the largest value, equals sharing the mean of their ranks; averaged over blocks."""
    import numpy as np

    table = np.asarray(table_BM, float)
    mine, others = table[:, :, None], table[:, None, :]
    doubled = 1 + 2 * (others > mine).sum(axis=2) + (others == mine).sum(axis=2)  # whole numbers: twice the rank
    return (doubled.sum(axis=0) / (2 * len(table))).tolist()


def friedman(table_BM: ArrayLike) -> tuple[float, float, list[float]]:
    """Friedman's test that all methods rank alike, larger is better: statistic (corrected for ties), p, average ranks.

    NaN and NaN when all methods are equal in every block.

    Raises:
        ValueError: fewer than three methods or two blocks.
    """
    import numpy as np
    from scipy.stats import friedmanchisquare

    table = np.asarray(table_BM, float)
    if table.ndim != 2 or len(table) < 2 or table.shape[1] < 3:
        raise ValueError(f"Friedman's test needs two blocks and three methods, got {table.shape}")
    ranks = average_ranks(table)
    if (table == table[:, :1]).all():
        return math.nan, math.nan, ranks
    statistic, p = friedmanchisquare(*table.T)
    return float(statistic), float(p), ranks


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given; NaN, of what cannot be tested, stays uncounted."""
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for step, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - step) * p))
        adjusted[place] = largest
    return adjusted


def wilcoxon_holm(table_BM: ArrayLike) -> list[tuple[int, int, float, float]]:
    """Wilcoxon's signed-rank test of every two methods over the blocks: (a, b, two-sided p, p after Holm), a < b.

    Blocks without a difference are left out (zero method ``wilcox``), and the test is exact: by its distribution, with
    ties by all permutations up to 13 blocks. Two methods that never differ leave nothing to rank: their p is 1. With B
    blocks no p is below 2 ** (1 - B), so five cannot reach 0.05 even alone.
    """
    import numpy as np
    from scipy.stats import wilcoxon

    table = np.asarray(table_BM, float)
    pairs = list(combinations(range(table.shape[1]), 2))
    gaps = [np.round(table[:, a] - table[:, b], 6) for a, b in pairs]  # equal gaps of decimals are not equal floats
    found = [float(wilcoxon(gap, zero_method="wilcox").pvalue) if gap.any() else 1.0 for gap in gaps]
    return [(a, b, p, after) for (a, b), p, after in zip(pairs, found, holm(found), strict=True)]


@lru_cache
def _studentised_range(methods: int, alpha: float) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(1 - alpha, methods, math.inf))


def critical_difference(table_BM: ArrayLike, alpha: float = 0.05) -> tuple[float, list[tuple[int, ...]]]:
    """Nemenyi's critical difference of average ranks (Demšar, JMLR 2006), and the cliques that it leaves together.

    CD = q sqrt(M (M + 1) / (6 B)), q the upper alpha point of the studentised range over sqrt(2). A clique is a largest
    set of methods, best first, of which no two differ by more than CD; methods that stand alone form none.

    Raises:
        ValueError: fewer than five blocks or two methods.
    """
    import numpy as np

    table = np.asarray(table_BM, float)
    blocks, methods = table.shape
    if blocks < FEWEST_BLOCKS or methods < 2:
        raise ValueError(f"a critical difference needs {FEWEST_BLOCKS} blocks and two methods, got {table.shape}")
    critical = _studentised_range(methods, alpha) / math.sqrt(2) * math.sqrt(methods * (methods + 1) / (6 * blocks))
    ranks = average_ranks(table)
    best_first = sorted(range(methods), key=lambda method: (ranks[method], method))
    cliques: list[tuple[int, ...]] = []
    reached = 0
    for start, first in enumerate(best_first):
        stop = max(place for place, other in enumerate(best_first) if ranks[other] - ranks[first] <= critical) + 1
        if stop > reached and stop - start > 1:
            cliques.append(tuple(best_first[start:stop]))
        reached = max(reached, stop)
    return critical, cliques
