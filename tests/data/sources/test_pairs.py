"""What belongs together."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.sources import pairs


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=30))
def test_components_are_those_of_the_graph(edges: list[tuple[int, int]]) -> None:
    """Against the closure of "shares an image or a text", by multiplying matrices."""
    rows = np.array(edges)
    near = (rows[:, None, 0] == rows[None, :, 0]) | (rows[:, None, 1] == rows[None, :, 1])
    for _ in edges:
        near = near @ near
    found = pairs.components(rows[:, 0], rows[:, 1])
    assert np.array_equal(found[:, None] == found[None, :], near)
    first = [found.tolist().index(number) for number in range(found.max() + 1)]
    assert first == sorted(first)
    assert pairs.components([str(i) for i, _ in edges], [t for _, t in edges]).tolist() == found.tolist()


def test_numbered_counts_in_the_order_of_first_appearance() -> None:
    places, rows = pairs.numbered(["b", "a", "b", "c", "a"])
    assert places == [0, 1, 3] and rows.tolist() == [0, 1, 0, 2, 1] and rows.dtype == np.int64
