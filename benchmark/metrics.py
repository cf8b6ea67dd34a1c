"""What a score matrix says: pure functions, numpy only.

A ``matrix`` is a (T+1, T) array of fractions in [0, 1]: row 0 before any training, row i after task i (i = 1..T),
column j the test set of task j. In the formulas A[i, j] counts rows from 0 and tasks from 1, so A[0, j] is the score
before training and A[j, j] the score right after task j was learned. Row 0 never counts as learned.

A cell that does not exist is NaN and a metric that needs it is NaN, without a warning; so is a metric of *other* tasks
(forgetting, backward and forward transfer, Transfer) at T = 1. With the identity hidden row 0 and the cells j > i are
NaN: last, average incremental and learning accuracy, forgetting and backward transfer remain defined.

Every function of a matrix raises ``ValueError`` when its shape is not (T+1, T) with T >= 1.

Sources: MTIL (Zheng et al., "Preventing Zero-Shot Transfer Degradation", ICCV 2023) for Transfer, Avg and Last;
Lopez-Paz and Ranzato, "Gradient Episodic Memory", NeurIPS 2017, section 2 for backward and forward transfer;
Chaudhry et al., "Riemannian Walk", ECCV 2018, section 3 for forgetting (here the best score may be that of the task's
own stage, as everyone computes it); Rebuffi et al., "iCaRL", CVPR 2017 for average incremental accuracy; Guo et al.,
"On Calibration of Modern Neural Networks", ICML 2017, section 2 for the expected calibration error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

DIRECTIONS = ("i2t", "t2i")  # an image asks for its texts, a text for its images
RECALLS = (1, 5, 10)
BINS = 15  # of the expected calibration error
MATCHES = ("mean_recall", *(f"{way}_{name}" for way in DIRECTIONS for name in ("r1", "r5", "r10", "mrr")))


def _checked(matrix: ArrayLike) -> Array:
    array = np.asarray(matrix, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] < 1 or array.shape[0] != array.shape[1] + 1:
        raise ValueError(f"a score matrix has the shape (T+1, T), row 0 before training; got {array.shape}")
    return array


def _mean(values: ArrayLike) -> float:
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()) if array.size else float("nan")


def last_accuracy(matrix: ArrayLike) -> float:
    """Last = 1/T sum_j A[T, j]."""
    return _mean(_checked(matrix)[-1])


def worst_task(matrix: ArrayLike) -> float:
    """min_j A[T, j]: the task that the final model does worst."""
    return float(_checked(matrix)[-1].min())


def average_accuracy(matrix: ArrayLike) -> float:
    """MTIL's Avg: the mean over all tasks and the stages 1..T, future tasks included (NaN when identity is hidden)."""
    return _mean(_checked(matrix)[1:])


def average_incremental_accuracy(matrix: ArrayLike) -> float:
    """AIA = 1/T sum_i (1/i sum_{j <= i} A[i, j])."""
    array = _checked(matrix)
    return _mean([array[stage, :stage].mean() for stage in range(1, len(array))])


def learning_accuracy(matrix: ArrayLike) -> float:
    """The mean of A[j, j]: how well each task was learned when its turn came."""
    return _mean(np.diagonal(_checked(matrix)[1:]))


def forgetting_per_task(matrix: ArrayLike) -> Array:
    """max_{j <= i < T} A[i, j] - A[T, j] for j = 1..T-1, shape (T-1,).

    Negative for a task that is best at the very end. The last task had no time to be forgotten and is left out.
    """
    learned = _checked(matrix)[1:]
    tasks = len(learned)
    return np.array([learned[task : tasks - 1, task].max() - learned[-1, task] for task in range(tasks - 1)])


def forgetting(matrix: ArrayLike) -> float:
    """F = 1/(T-1) sum_{j < T} (max_{j <= i < T} A[i, j] - A[T, j]); complete forgetting is 1."""
    return _mean(forgetting_per_task(matrix))


def backward_transfer_per_task(matrix: ArrayLike) -> Array:
    """A[T, j] - A[j, j] for j = 1..T-1, shape (T-1,)."""
    learned = _checked(matrix)[1:]
    return (learned[-1] - np.diagonal(learned))[:-1]


def backward_transfer(matrix: ArrayLike) -> float:
    """BWT = 1/(T-1) sum_{j < T} (A[T, j] - A[j, j]). (CoIN and MCIT divide by T.)"""
    return _mean(backward_transfer_per_task(matrix))


def forward_transfer(matrix: ArrayLike) -> float:
    """FWT = 1/(T-1) sum_{j >= 2} (A[j-1, j] - A[0, j]): what the tasks before j gave to j, against no training."""
    array = _checked(matrix)
    return _mean([array[task, task] - array[0, task] for task in range(1, array.shape[1])])


def transfer(matrix: ArrayLike) -> float:
    """MTIL's Transfer: the mean over j >= 2 of 1/(j-1) sum_{1 <= i < j} A[i, j], the ability before learning j."""
    array = _checked(matrix)
    return _mean([array[1 : task + 1, task].mean() for task in range(1, array.shape[1])])


def summary(matrix: ArrayLike) -> dict[str, float | None]:
    """Every single number above by the name it has in a record; None where it is undefined."""
    values = {
        "last_acc": last_accuracy(matrix),
        "avg_acc": average_accuracy(matrix),
        "aia": average_incremental_accuracy(matrix),
        "forgetting": forgetting(matrix),
        "bwt": backward_transfer(matrix),
        "fwt": forward_transfer(matrix),
        "transfer": transfer(matrix),
        "learning_acc": learning_accuracy(matrix),
        "worst_task": worst_task(matrix),
    }
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def expected_calibration_error(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> float:
    """ECE = sum_m |B_m| / N |acc(B_m) - conf(B_m)|: how far what an answer is held for is from how often it is right.

    Args:
        confidence: (N,) the probability of the label that was answered, in [0, 1].
        right: (N,) whether it is the true one.
        bins: of equal width; bin m = 1..M has the confidences in ((m - 1) / M, m / M], the first one 0 as well.

    0 is perfect, lower is better. NaN without samples and where a confidence is NaN.

    Raises:
        ValueError: the shapes differ or are not (N,), a confidence is outside [0, 1], or there is no bin.
    """
    held_N, right_N = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if held_N.ndim != 1 or held_N.shape != right_N.shape or bins < 1:
        raise ValueError(f"confidence and right are both (N,); got {held_N.shape}, {right_N.shape} and {bins} bins")
    if not len(held_N) or np.isnan(held_N).any():
        return float("nan")
    if held_N.min() < 0 or held_N.max() > 1:
        raise ValueError(f"a confidence is in [0, 1], got {held_N.min()} to {held_N.max()}")
    bin_N = np.searchsorted(np.arange(1, bins) / bins, held_N)
    gap_M = np.bincount(bin_N, weights=right_N - held_N, minlength=bins)
    return float(np.abs(gap_M).sum() / len(held_N))


def best_ranks(similarity: ArrayLike, positives: ArrayLike) -> Array:
    """(Q,) the rank of each query's best positive in the gallery, from 1; infinite for a query without one.

    Args:
        similarity: (Q, G), larger is closer.
        positives: (Q, G) boolean; a query may have several positives.

    Ties are pessimistic: an item that ties with the best positive and is not itself positive ranks before it. A query
    with a NaN among its similarities has the rank NaN.

    Raises:
        ValueError: the shapes differ or are not (Q, G).
    """
    scores, relevant = np.asarray(similarity, dtype=np.float64), np.asarray(positives, dtype=bool)
    if scores.ndim != 2 or scores.shape != relevant.shape:
        raise ValueError(f"similarity and positives are both (Q, G); got {scores.shape} and {relevant.shape}")
    best = np.where(relevant, scores, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
    rank = 1.0 + np.count_nonzero(~relevant & (scores >= best), axis=1)
    rank[~relevant.any(axis=1)] = np.inf
    rank[np.isnan(scores).any(axis=1)] = np.nan
    return rank


def recall_at_k(similarity: ArrayLike, positives: ArrayLike, k: int) -> float:
    """R@k: the fraction of queries with a positive among the first k of the gallery.

    Args:
        similarity: (Q, G), larger is closer.
        positives: (Q, G) boolean; a query may have several positives (any hit counts) or none (always a miss).
        k: 1 or more; more than G is allowed.

    Ties are pessimistic (:func:`best_ranks`), so a model that gives every pair the same similarity scores 0 and not 1.
    NaN similarities make the recall NaN, and so does an empty set of queries.

    Raises:
        ValueError: the shapes differ or are not (Q, G), or k < 1.
    """
    if k < 1:
        raise ValueError(f"k is 1 or more, got {k}")
    rank = best_ranks(similarity, positives)
    return float("nan") if np.isnan(rank).any() else _mean(rank <= k)


def match_metrics(ranks: dict[str, Array]) -> dict[str, float]:
    """``MATCHES`` as fractions, from the best ranks of the queries of both directions; all NaN if one is NaN.

    The mean recall is that of R@1, R@5 and R@10 in both directions; MRR is the mean of 1 / rank.
    """
    if any(np.isnan(rank).any() for rank in ranks.values()):
        return dict.fromkeys(MATCHES, float("nan"))
    values: dict[str, float] = {}
    for way, rank in ranks.items():
        values |= {f"{way}_r{k}": _mean(rank <= k) for k in RECALLS}
        values[f"{way}_mrr"] = _mean(1 / rank)
    recalls = [values[f"{way}_r{k}"] for way in DIRECTIONS for k in RECALLS]
    values["mean_recall"] = _mean(recalls)
    return {name: values[name] for name in MATCHES}


def modality_drop(full: ArrayLike, without: ArrayLike) -> float:
    """MMD_m = 1/T sum_j (A_full[T, j] - A_{-m}[T, j]): what the final model loses when modality m is missing.

    Args:
        full, without: scores with every modality and without m; the last row counts, so a (T+1, T) matrix, the same
            without row 0, and (T,) final scores all do.

    Raises:
        ValueError: the final rows differ in length.
    """
    last_full, last_without = (np.atleast_2d(np.asarray(each, dtype=np.float64))[-1] for each in (full, without))
    if last_full.shape != last_without.shape:
        raise ValueError(f"the two have {len(last_full)} and {len(last_without)} tasks")
    return _mean(last_full - last_without)


def dominance(drop_a: float, drop_b: float) -> float:
    """(MMD_a - MMD_b) / (MMD_a + MMD_b): 1 if only modality a matters, -1 if only b, NaN if the drops cancel out."""
    total = drop_a + drop_b
    return float((drop_a - drop_b) / total) if total != 0 else float("nan")


def at_missing_rate(full: ArrayLike, without: ArrayLike, rate: float) -> Array:
    """The score to expect where each sample lacks a modality with probability ``rate``: (1 - rate) full + rate without.

    Exact, not a simulation: a method answers every sample by itself. ``without`` may be the mean over modalities.
    """
    return (1 - rate) * np.asarray(full, dtype=np.float64) + rate * np.asarray(without, dtype=np.float64)
