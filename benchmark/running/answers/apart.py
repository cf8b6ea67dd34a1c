"""The answers of one row told apart: the recall of every class, what it is taken for, the score of every subgroup.

Legend: N samples or queries, K classes of a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark.data.batches import Subgrouping
from benchmark.record.parts import ClassConfusion, SubgroupScore
from benchmark.running.answers.question import Cell
from benchmark.stream import Stream

Row = Mapping[str, Sequence[Cell | None]]  # protocol -> a cell for each task


def class_recall(row: Row, stream: Stream) -> dict[str, dict[str, list[float | None]]]:
    """Protocol -> task -> the recall of each of its labels; None where there is no cell, no sample or no answer."""

    def recalls(cell: Cell | None, labels: int) -> list[float | None]:
        return [None] * labels if cell is None or cell.recalls is None else _numbers(cell.recalls)

    return {
        protocol: {task.name: recalls(cell, len(task.labels)) for task, cell in zip(stream, cells, strict=True)}
        for protocol, cells in row.items()
    }


def class_confusion(row: Row, stream: Stream) -> dict[str, ClassConfusion] | None:
    """Task -> how its classes are taken for one another with the identity given; None where no task has answers."""
    found = {
        task.name: ClassConfusion(cell.confusion.tolist(), _numbers(cell.sensitivity))
        for task, cell in zip(stream, row["given"], strict=True)
        if cell is not None and cell.confusion is not None and cell.sensitivity is not None
    }
    return found or None


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def subgroups(row: Row, stream: Stream) -> dict[str, dict[str, dict[str, dict[str, SubgroupScore]]]] | None:
    """Protocol -> task -> column -> value -> score, of the tasks with such columns; None where no task has one.

    How many samples a subgroup has does not depend on the protocol: it is told where there is no answer as well.
    """
    columns = [cell.subgroups if cell else {} for cell in row["given"]]
    found = {
        protocol: {
            task.name: {name: subgroup_scores(cell, own) for name, own in named.items()}
            for task, cell, named in zip(stream, cells, columns, strict=True)
            if named
        }
        for protocol, cells in row.items()
    }
    return found if any(columns) else None


def subgroup_scores(cell: Cell | None, column: Subgrouping) -> dict[str, SubgroupScore]:
    """By value of a column the primary metric of its samples; values without a sample are left out.

    The score is None without an answer, and where one of several means has none of these samples: a subgroup of images
    without a text of its own.
    """
    hits, parts = (None, ()) if cell is None else (cell.hits, cell.parts)
    part_N: NDArray[np.int64] = np.repeat(np.arange(max(len(parts), 1)), parts or [len(column.numbers)])
    found = {}
    for place, value in enumerate(column.values):
        mine_N = column.numbers == place
        means = [] if hits is None else [hits[mine_N & (part_N == part)] for part in np.unique(part_N)]
        score = float(np.mean([each.mean() for each in means])) if means and all(map(len, means)) else None
        if mine_N.any():
            found[value] = SubgroupScore(int(mine_N.sum()), score)
    return found
