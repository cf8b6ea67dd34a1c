"""What modalities have to do with forgetting: pure functions on a score matrix, numpy only.

A ``matrix`` is that of ``benchmark.metrics``: (T+1, T), row 0 before any training, row i after task i. ``modalities``
names the modality of every task in the order in which the tasks were learned, T strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from benchmark import metrics


def step_drops(matrix: ArrayLike, modalities: Sequence[str]) -> tuple[float, float]:
    """Intra- and inter-modality forgetting: what one step takes from an earlier task of its own modality, of another.

    Learning task i changes an earlier task j by A[i-1, j] - A[i, j] (i = 2..T, j < i; positive is a loss). The first
    number is the mean over all pairs (i, j) of one modality, the second over all other pairs. NaN without such a pair,
    and where a cell is NaN. Both are losses per step, so a long stream has no larger numbers than a short one.

    Raises:
        ValueError: the shape is not (T+1, T), or there are not T modalities.
    """
    array = np.asarray(matrix, dtype=np.float64)
    metrics.last_accuracy(array)  # refuses another shape
    if len(modalities) != array.shape[1]:
        raise ValueError(f"{array.shape[1]} tasks have {len(modalities)} modalities")
    same: list[float] = []
    other: list[float] = []
    for stage in range(2, len(array)):
        for task in range(stage - 1):
            drop = array[stage - 1, task] - array[stage, task]
            (same if modalities[task] == modalities[stage - 1] else other).append(drop)
    return _mean(same), _mean(other)


def forward_transfer_per_task(matrix: ArrayLike) -> list[float]:
    """A[j-1, j] - A[0, j] for j = 2..T, T-1 numbers: ``metrics.forward_transfer`` is their mean."""
    array = np.asarray(matrix, dtype=np.float64)
    metrics.last_accuracy(array)
    return [float(array[task, task] - array[0, task]) for task in range(1, array.shape[1])]


@dataclass(frozen=True)
class Changes:
    """Forgetting, backward and forward transfer of some tasks, a number per task that has one: the task learned last
    has no forgetting and no backward transfer, the one learned first no forward transfer."""

    forgetting: list[float] = field(default_factory=list)
    bwt: list[float] = field(default_factory=list)
    fwt: list[float] = field(default_factory=list)


def per_modality(matrix: ArrayLike, modalities: Sequence[str]) -> dict[str, Changes]:
    """The changes of the tasks of every modality, modalities in order of appearance."""
    found = {name: Changes() for name in modalities}
    for name, value in zip(modalities[:-1], metrics.forgetting_per_task(matrix).tolist(), strict=True):
        found[name].forgetting.append(value)
    for name, value in zip(modalities[:-1], metrics.backward_transfer_per_task(matrix).tolist(), strict=True):
        found[name].bwt.append(value)
    for name, value in zip(modalities[1:], forward_transfer_per_task(matrix), strict=True):
        found[name].fwt.append(value)
    return found


def learned_so_far(matrix: ArrayLike) -> list[float]:
    """1/i sum_{j <= i} A[i, j] for i = 1..T: ``metrics.average_incremental_accuracy`` is their mean."""
    array = np.asarray(matrix, dtype=np.float64)
    metrics.last_accuracy(array)
    return [float(array[stage, :stage].mean()) for stage in range(1, len(array))]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
