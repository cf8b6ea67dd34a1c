"""Numbers from replicates: means and intervals, paired tests on the same samples, ranks over many streams.

Letters of shapes: M methods, B blocks (streams or cells), C cells (a seed and an order), N samples of a task, R rows
of samples (a method in a cell), D draws. numpy and scipy are imported where they are needed. Draws come from fixed
seeds and counts are added as whole numbers, so that the same runs give the same digits everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from statistics import fmean, stdev, variance
from typing import TYPE_CHECKING, NamedTuple

from benchmark.record.schema import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

DRAWS = 2000
FEWEST_BLOCKS = 5  # of a critical difference: its distribution is that of many blocks
AT_ONCE = 2**20  # random numbers held in memory


class Paired(NamedTuple):
    """A mean difference with its 95 % interval and two-sided p, in the unit of what was compared."""

    difference: float
    low: float
    high: float
    p: float


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


def interval(runs: Sequence[Record], values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """A 95 % percentile interval of the mean from a nested bootstrap: orders are drawn, then seeds within each.

    The runs of one key differ in seed and order, and runs of one order are alike, so both levels are drawn again.
    None for a single run or with a null. Additions are elementwise, in one order, so that no machine rounds otherwise.
    """
    known = whole(values)
    if len(known) < 2:
        return None, None
    import numpy as np

    orders: dict[int, list[float]] = {}
    for run, value in zip(runs, known, strict=True):
        orders.setdefault(run.order, []).append(value)
    sizes, widest = np.array([len(each) for each in orders.values()]), max(map(len, orders.values()))
    table_OS = np.array([each + [0.0] * (widest - len(each)) for each in orders.values()])
    generator = np.random.Generator(np.random.PCG64(int(runs[0].key, 16)))
    total, count = np.zeros(DRAWS), np.zeros(DRAWS)
    for _ in range(len(orders)):
        order_D = (generator.random(DRAWS) * len(orders)).astype(int)
        for place in range(widest):
            seed_D = (generator.random(DRAWS) * sizes[order_D]).astype(int)
            total += np.where(place < sizes[order_D], table_OS[order_D, seed_D], 0.0)
            count += place < sizes[order_D]
    low, high = np.percentile(total / count, [2.5, 97.5])
    return float(low), float(high)


# Two methods on the same samples


def mcnemar(hits_a: ArrayLike, hits_b: ArrayLike) -> float:
    """McNemar's exact two-sided p: of the samples (N,) that one of two models alone answers rightly, each does half.

    Only for samples drawn independently of each other: those of one cell, for a sample that returns with every seed
    is no new sample. 1 when the models never differ.
    """
    import numpy as np
    from scipy.stats import binom

    a_N, b_N = np.asarray(hits_a, bool), np.asarray(hits_b, bool)
    if a_N.shape != b_N.shape:
        raise ValueError(f"hits of other samples: {a_N.shape} and {b_N.shape}")
    only_a, only_b = int((a_N & ~b_N).sum()), int((b_N & ~a_N).sum())
    return min(1.0, 2 * float(binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))


def resampled(tasks: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over tasks of the share of hits, per row: as observed, then under DRAWS draws of each task's samples.

    Args:
        tasks: per task hits (R, N) as booleans; the rows were tested on the same samples, and share every draw.

    Returns:
        (1 + DRAWS, R) fractions. The draws depend on the sizes of the tasks alone, not on who else is a row.
    """
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(0))
    total = np.zeros((1 + DRAWS, len(tasks[0])))
    for hits_RN in tasks:
        samples = hits_RN.shape[1]
        hits_NR = hits_RN.T.astype(np.float32)  # exact: sums of whole numbers below 2 ** 24
        total[0] += hits_RN.sum(axis=1) / samples
        step = max(1, AT_ONCE // samples)
        for start in range(1, 1 + DRAWS, step):
            draws = min(step, 1 + DRAWS - start)
            drawn_DN = (generator.random((draws, samples)) * samples).astype(int)
            drawn_DN += samples * np.arange(draws)[:, None]
            times_DN = np.bincount(drawn_DN.ravel(), minlength=draws * samples).reshape(draws, samples)
            total[start : start + draws] += (times_DN.astype(np.float32) @ hits_NR).astype(float) / samples
    return total / len(tasks)


def paired(a_EC: np.ndarray, b_EC: np.ndarray) -> Paired:
    """Whether ``a`` and ``b`` differ beyond what other runs and other samples would change.

    Args:
        a_EC, b_EC: of the cells that both share, columns of ``resampled``: row 0 observed, then the draws (1 + D, C).

    The cells are drawn again over the draws of the samples, C - 1 of C so that the variance between cells comes out
    unbiased (Rao and Wu, JASA 1988). Interval and p are Student's with that bootstrap's standard error: percentiles of
    a bootstrap of two or three seeds are too narrow, and a share of 2000 draws is too coarse to be corrected for
    hundreds of pairs. Degrees of freedom by Satterthwaite: the variance between cells, s^2 / C, has C - 1, the samples'
    any number. Of one cell the answer is about those two trained models, not about the methods.
    """
    import numpy as np
    from scipy.stats import t

    gap_EC = a_EC - b_EC
    cells = gap_EC.shape[1]
    difference = fmean(gap_EC[0].tolist())
    generator = np.random.Generator(np.random.PCG64(1))
    drawn, rows = np.zeros(DRAWS), np.arange(1, 1 + DRAWS)
    for _ in range(max(1, cells - 1)):
        drawn += gap_EC[rows, (generator.random(DRAWS) * cells).astype(int)]
    error = float(drawn.std()) / max(1, cells - 1)
    if error < 1e-12:  # no sample and no cell says anything else
        return Paired(difference, difference, difference, 1.0 if abs(difference) < 1e-12 else 0.0)
    between = variance(gap_EC[0].tolist()) / cells if cells > 1 else 0.0
    freedom = (cells - 1) * max(1.0, (error**2 / between) ** 2) if between > 1e-24 else math.inf
    half = error * float(t.ppf(0.975, freedom))
    low, high = max(-1.0, difference - half), min(1.0, difference + half)
    return Paired(difference, low, high, 2 * float(t.sf(abs(difference) / error, freedom)))


def paired_bootstrap(a: Sequence[Sequence[np.ndarray]], b: Sequence[Sequence[np.ndarray]]) -> Paired:
    """``paired`` of two methods from their hits: per cell, per task booleans (N,), of both the same cells and samples.

    The statistic is the mean over cells and tasks of the difference in the share of hits; every task counts the same.
    A draw takes the same samples in every cell, because it is the same test set that every run was tested on.
    """
    import numpy as np

    if [[len(task) for task in cell] for cell in a] != [[len(task) for task in cell] for cell in b] or not a:
        raise ValueError("the two methods were not tested in the same cells on the same samples")
    share_ER = resampled([np.array(rows, bool) for rows in zip(*a, *b, strict=True)])
    return paired(share_ER[:, : len(a)], share_ER[:, len(a) :])


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
    """Holm's step-down adjusted p values, in the order given."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[place]))
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
