"""Images and texts that are stored once each, and rows that name both. Legend: P rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def numbered(keys: Sequence[Hashable]) -> tuple[list[int], NDArray[np.int64]]:
    """Where every different key stands first, and for each key the number of that place: counted from 0."""
    first: dict[Hashable, int] = {}
    rows = np.array([first.setdefault(key, len(first)) for key in keys], np.int64)
    _, places = np.unique(rows, return_index=True)
    return places.tolist(), rows


def components(*columns: Sequence[Hashable] | NDArray[np.int64]) -> NDArray[np.int64]:
    """(P,) the number of what belongs together: rows that share an entry of a column, and what these share in turn.

    Counted from 0 in the order of the first row of each. All columns have P entries.
    """
    above: dict[Hashable, Hashable] = {}

    def top(node: Hashable) -> Hashable:
        while above.setdefault(node, node) != node:
            above[node] = above[above[node]]
            node = above[node]
        return node

    listed = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns]
    for row, entries in enumerate(zip(*listed, strict=True)):
        for column, entry in enumerate(entries):
            above[top((column, entry))] = top(row)
    return numbered([top(row) for row in range(len(listed[0]))])[1]
