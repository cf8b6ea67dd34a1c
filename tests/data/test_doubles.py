"""What stands twice in a task's data is counted, once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.data import catalog, doubles, identity, sources
from benchmark.data.catalog import Source
from tests.source_files import (
    COUNTS,
    arrays,
    fusion,
    in_table,
    npz_source,
    pixels,
    retrieval,
    save,
    saved,
    stream_file,
    written,
)

NOTHING = {"test": 0, "val": 0, "labels": 0}


def changed(folder: Path, **images: Any) -> Source:
    return npz_source(saved(folder, arrays() | images))


def test_random_images_stand_once(tmp_path: Path) -> None:
    assert doubles.counted(changed(tmp_path)) == NOTHING


def test_images_in_two_splits_and_under_two_labels(tmp_path: Path) -> None:
    made = arrays()  # labels 0, 1, 2 in turn
    train, val, test = (made[f"{split}_images"].copy() for split in sources.SPLITS)
    test[0], test[1], test[2] = train[0], train[0], val[1]  # 0 as in train, 0 under 1 as well, 1 under 2 as well
    assert doubles.counted(changed(tmp_path, test_images=test)) == {"test": 3, "val": 0, "labels": 2}
    val[0] = train[3]  # both 0
    assert doubles.counted(changed(tmp_path, val_images=val)) == {"test": 0, "val": 1, "labels": 0}
    train[1] = train[0]  # within one split, under two labels
    assert doubles.counted(changed(tmp_path, train_images=train)) == {"test": 0, "val": 0, "labels": 1}


def test_a_copy_counts_in_whatever_file_it_lies(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / f"{i}.png", pixels(i))
    save(tmp_path / "again.bmp", pixels(0))
    rows = [
        {"file": f"{i}.png", "finding": i % 2, "split": ("train", "train", "val", "test")[i // 2 % 4]}
        for i in range(12)
    ]
    rows[-1] = rows[6] | {"file": "again.bmp"}
    rows[6]["split"] = rows[-1]["split"] = "test"
    columns = {"image": "file", "label": "finding", "split": "split"}
    assert doubles.counted(in_table(written(tmp_path, rows), columns=columns))["test"] == 1


def test_with_texts_images_count_and_texts_where_each_is_its_own(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / f"{i}.png", pixels(i))
    parts = ["train"] * 6 + ["val"] * 3 + ["test"] * 3

    def counted(files: list[int], texts: list[str], answers: list[str]) -> dict[str, int]:
        told = zip(files, texts, answers, parts, strict=True)
        rows = [{"file": f"{f}.png", "question": t, "answer": a, "part": part} for f, t, a, part in told]
        made = doubles.counted(fusion(written(tmp_path, rows)))
        found = doubles.counted(retrieval(written(tmp_path, rows)))
        assert found == made | {"labels": 0}  # which has none
        return made

    own, asked = [f"report {i}" for i in range(12)], ["what is it?"] * 12
    answers = ["no", "yes"] * 6
    once = [*range(12)]
    assert counted(once, own, answers) == NOTHING
    assert counted(once, asked, answers) == NOTHING  # one question of all images
    assert counted([*once[:11], 0], own, answers) == {"test": 1, "val": 0, "labels": 0}  # another question of an image
    assert counted([*once[:11], 0], [*own[:11], own[0]], answers) == {"test": 1, "val": 0, "labels": 1}
    assert counted(once, [*own[:6], own[0], *own[7:11], own[1]], answers) == {"test": 1, "val": 1, "labels": 0}


def stream(folder: Path, test: Any) -> tuple[catalog.Recipe, tuple[str, ...]]:
    saved(folder, arrays() | {"test_images": test})
    task = {"name": "cells", "modality": "ct", "source": "npz", "path": "set.npz", "classes": ["a", "b", "c"],
            "template": "{}"}  # fmt: skip
    made = {"name": "made", "modality": "ct", "source": "phantom", "generator": "ct", "seed": 1, "classes": ["d", "e"],
            "regions": [{}, {}], "template": "{}"}  # fmt: skip
    recipe = catalog.load(stream_file(folder, {"name": "s", "tasks": [task, made]}), folder)
    return recipe, identity.identities(recipe)


def test_a_stream_counts_once_and_again_where_what_it_kept_is_damaged(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = arrays()["test_images"].copy()
    test[3] = arrays()["train_images"][0]
    recipe, identities = stream(tmp_path, test)
    expected = {"cells": {"test": 1, "val": 0, "labels": 0}}
    assert doubles.of_stream(recipe, identities) == expected
    assert doubles.told(expected) == "cells (1 of test also in train or val)"
    calls: list[str] = []
    load = sources.load
    monkeypatch.setattr(sources, "load", lambda source, split: calls.append(split) or load(source, split))
    assert doubles.of_stream(recipe, identities) == expected and not calls
    (kept,) = (cache / "doubles").iterdir()
    good = kept.read_bytes()
    lie = json.loads(good) | {"counts": NOTHING}
    for damage in (b"", b"[]", b"{}", good[:-5], good.replace(b'"test": 1', b'"test": 0'), json.dumps(lie).encode()):
        kept.write_bytes(damage)
        calls.clear()
        assert doubles.of_stream(recipe, identities) == expected and calls == list(sources.SPLITS), damage
        assert kept.read_bytes() == good
    other = replace(recipe, sources=recipe.sources)
    assert doubles.of_stream(other, ("0" * 64, identities[1])) == expected  # of another identity: its own file


def test_plan_leaves_to_the_run_what_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, identities = stream(tmp_path, arrays()["train_images"][: COUNTS["test"]])
    monkeypatch.setattr(doubles, "LARGE", 10)
    assert doubles.of_stream(recipe, identities, quick=True) == {}
    assert doubles.of_stream(recipe, identities)["cells"]["test"] == 4
    assert doubles.of_stream(recipe, identities, quick=True)["cells"]["test"] == 4


def test_made_samples_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = catalog.load("phantom8", None)
    monkeypatch.setattr(doubles, "counted", np.sum)
    assert doubles.of_stream(recipe, ["0" * 64] * 8) == {}


def test_nothing_is_kept_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, identities = stream(tmp_path, arrays()["train_images"][: COUNTS["test"]])
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MBIL_CACHE", str(tmp_path / "file"))
    assert doubles.of_stream(recipe, identities)["cells"]["test"] == 4
