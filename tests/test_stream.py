"""Streams as values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.stream import Label, Stream, Task


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    sizes = draw(st.lists(st.integers(2, 4), min_size=1, max_size=6))
    ids = iter(range(sum(sizes)))
    tasks = []
    for index, size in enumerate(sizes):
        labels = tuple(Label(i, f"class {i}", (f"a {i}",)) for i in (next(ids) for _ in range(size)))
        tasks.append(Task(index, f"task {index}", "ct", "classification", labels, len(sizes)))
    return Stream("made", 1, "own", tuple(tasks))


@given(streams(), st.data())
def test_reordered_moves_tasks_and_keeps_label_ids(stream: Stream, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(stream))))
    moved = stream.reordered(order)
    assert [task.index for task in moved] == list(range(len(stream)))
    assert [task.name for task in moved] == [stream.tasks[old].name for old in order]
    assert [task.labels for task in moved] == [stream.tasks[old].labels for old in order]
    assert {task.of for task in moved} == {len(stream)}
    assert moved.labels() == stream.labels()
    back = [order.index(i) for i in range(len(order))]
    assert moved.reordered(back) == stream


@given(streams(), st.lists(st.integers(-1, 6), max_size=6))
def test_only_a_permutation_reorders(stream: Stream, order: list[int]) -> None:
    if sorted(order) == list(range(len(stream))):
        assert len(stream.reordered(order)) == len(stream)
    else:
        with pytest.raises(ValueError, match=r"no permutation of 0\.\."):
            stream.reordered(order)


@given(streams(), st.integers(0, 7))
def test_slices_are_what_has_been_seen(stream: Stream, k: int) -> None:
    seen = stream[:k]
    assert tuple(seen) == stream.tasks[:k] and seen.name == stream.name
    assert [label.id for label in seen.labels()] == list(range(sum(len(task.labels) for task in stream.tasks[:k])))
