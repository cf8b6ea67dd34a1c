"""Drawn splits: the same everywhere, no group torn apart, the shares that were asked for."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data import sources
from benchmark.data.sources.held_out import drawn as drawn_of
from benchmark.data.sources.in_files import Sample
from benchmark.data.sources.table import joined_groups
from tests.source_files import WHERE, in_folders, in_table, names, refused, retrieval


def test_drawn_splits_are_the_same_everywhere_and_change_with_seed_and_fractions(classed: Path, tmp_path: Path) -> None:
    first = names(in_folders(classed))
    assert {split: len(first[split]) for split in first} == {"train": 21, "val": 3, "test": 6}
    assert [name for name, _ in first["val"]] == ["NORMAL-10.png", "NORMAL-4.png", "PNEUMONIA-0.png"]  # everywhere
    told = sources.identity(in_folders(classed))
    shutil.copytree(classed, tmp_path / "elsewhere")
    assert names(in_folders(tmp_path / "elsewhere")) == first
    assert sources.identity(in_folders(tmp_path / "elsewhere")) == told
    assert sources.identity(in_folders(classed, seed=0, fractions={"val": 0.1, "test": 0.2})) == told
    half = in_folders(classed, fractions={"test": 0.5})
    assert Counter(label for _, label in names(half)["test"]) == {0: 10, 1: 5}
    assert len({told, sources.identity(in_folders(classed, seed=1)), sources.identity(half)}) == 3


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), min_size=1, max_size=60),
    st.integers(0, 3),
    st.floats(0.05, 0.45),
    st.floats(0.05, 0.45),
)
def test_a_draw_never_tears_a_group_apart(rows: list[tuple[int, int]], seed: int, val: float, test: float) -> None:
    samples = [Sample(Path(str(i)), label, f"p{group}") for i, (label, group) in enumerate(rows)]
    source = in_table(Path("t.csv"), seed=seed, fractions={"val": val, "test": test})
    drawn = drawn_of(source, samples, sources.SPLITS)
    assert sorted(s.path.name for part in drawn.values() for s in part) == sorted(s.path.name for s in samples)
    groups = [{sample.group for sample in drawn[split]} for split in sources.SPLITS]
    assert sum(map(len, groups)) == len(set.union(*groups))
    for part in drawn.values():  # in the order of the table
        assert [int(s.path.name) for s in part] == sorted(int(s.path.name) for s in part)
    alone = [Sample(s.path, s.label, s.path.name) for s in samples]
    counts = {split: Counter(s.label for s in part) for split, part in drawn_of(source, alone, sources.SPLITS).items()}
    for label, count in Counter(s.label for s in samples).items():
        assert counts["val"][label] == min(round(count * val), count - 1) and counts["train"][label]
        assert counts["test"][label] == min(round(count * test), count - 1 - counts["val"][label])


def test_adding_a_class_does_not_move_the_images_of_another() -> None:
    """So the draw of a part of a set is that part of the draw of the set."""
    rows = [Sample(Path(str(i)), i % 3, f"g{i}") for i in range(90)]
    source = in_table(Path("t.csv"))
    whole, part = (drawn_of(source, [s for s in rows if s.label < n], sources.SPLITS) for n in (3, 2))
    assert {split: [s for s in whole[split] if s.label < 2] for split in whole} == part


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15), st.integers(0, 20)), min_size=12, max_size=40),
    st.integers(0, 3),
)
def test_a_draw_for_retrieval_tears_no_image_text_or_group_apart(rows: list[tuple[int, int, int]], seed: int) -> None:
    groups = [f"group:{group}" for _, _, group in rows]
    joined = joined_groups(groups, [str(image) for image, _, _ in rows], [str(text) for _, text, _ in rows])
    samples = [
        Sample(Path(str(image)), 0, group, str(text)) for (image, text, _), group in zip(rows, joined, strict=True)
    ]
    drawn = drawn_of(retrieval(Path("t.csv"), seed=seed), samples, sources.SPLITS)
    assert sum(map(len, drawn.values())) == len(rows)
    for told in (lambda s: s.path, lambda s: s.text, lambda s: s.group):
        parts = [{told(sample) for sample in drawn[split]} for split in sources.SPLITS]
        assert len(set.union(*parts)) == sum(map(len, parts))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fractions": {"train": 0.1}}, (".fractions", "unknown key 'train'")),
        ({"fractions": {"val": 0}}, (".fractions.val", "between 0 and 1")),
        ({"fractions": {"val": "few"}}, (".fractions.val", "between 0 and 1", "'few'")),
        ({"fractions": {"val": True}}, (".fractions.val", "between 0 and 1")),
        ({"fractions": {"val": float("nan")}}, (".fractions.val", "between 0 and 1")),
        ({"fractions": {"val": 0.5, "test": 0.5}}, (".fractions", "nothing is left")),
        ({"fractions": 0.1}, (".fractions", "keys and values")),
        ({"seed": "one"}, (".seed", "whole number")),
    ],
)
def test_wrong_options_of_a_draw(options: dict[str, Any], says: tuple[str, ...], classed: Path) -> None:
    message = refused(in_folders(classed, **options))
    assert message.startswith(WHERE) and all(part in message for part in says), message
