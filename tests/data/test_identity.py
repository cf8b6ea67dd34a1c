"""What a stream's hash tells apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.data import catalog, identity
from benchmark.data.sources import phantoms
from tests.source_files import arrays, saved

FILE = """
name: {name}
description: {description}
version: {version}
orders: {orders}
tasks:
  - {{name: n, modality: ct, source: npz, path: {path}, classes: [a, b, {third}], template: "{template}"}}
  - name: made
    modality: {modality}
    source: phantom
    generator: ct
    seed: {seed}
    sizes: {{train: {train}}}
    classes: [small, large]
    regions: [{{lesion_size: [0.05, {high}]}}, {{lesion_size: [0.6, 0.95]}}]
    template: "{{}}"
"""
BASE = {
    "name": "s", "description": "one", "version": 1, "orders": "[[0, 1]]", "path": "set.npz", "third": "c",
    "template": "a {}", "modality": "ct", "seed": 3, "train": 8, "high": 0.4,
}  # fmt: skip


def hashed(folder: Path, **changes: Any) -> str:
    (folder / "s.yaml").write_text(FILE.format(**(BASE | changes)))
    recipe = catalog.load(str(folder / "s.yaml"), folder)
    return identity.stream_hash(recipe.stream, identity.identities(recipe))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saved(tmp_path, arrays())
    saved(tmp_path, arrays(), "same.npz")
    saved(tmp_path, arrays() | {"train_images": np.zeros((6, 9, 11), np.uint8)}, "other.npz")
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        {"template": "the {}"}, {"third": "d"}, {"modality": "mri"},
        {"path": "other.npz"}, {"seed": 4}, {"train": 9}, {"high": 0.3},
    ],
    ids=str,
)  # fmt: skip
def test_the_hash_changes_with_prompts_labels_and_samples(change: dict[str, Any], folder: Path) -> None:
    assert hashed(folder, **change) != hashed(folder)


@pytest.mark.parametrize(
    "change",
    [{"description": "other"}, {"path": "same.npz"}, {"orders": "[[1, 0], [0, 1]]"}, {"name": "t"}, {"version": 2}],
    ids=str,
)
def test_the_hash_stays_with_descriptions_paths_and_orders(change: dict[str, Any], folder: Path) -> None:
    assert hashed(folder, **change) == hashed(folder)


def test_the_hash_depends_on_the_generators_version_and_defaults(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hashed(folder)
    assert hashed(folder, train="8, val: 64, test: 256") == before  # the defaults written out
    monkeypatch.setattr(phantoms.phantom, "VERSION", phantoms.phantom.VERSION + 1)
    assert hashed(folder) != before


def test_the_hash_tells_the_order_of_listing_and_the_label_space(folder: Path) -> None:
    recipe = catalog.load("smoke", folder)
    told = identity.identities(recipe)
    seen = {
        identity.stream_hash(recipe.stream, told),
        identity.stream_hash(recipe.stream, told[::-1]),
        identity.stream_hash(recipe.stream.reordered([1, 0]), told[::-1]),
        identity.stream_hash(replace(recipe.stream, label_space="shared"), told),
    }
    assert len(seen) == 4


def test_a_task_that_must_not_be_mirrored_has_another_hash_and_one_that_may_the_old_one(folder: Path) -> None:
    usual = hashed(folder)
    assert hashed(folder, modality="ct\n    mirror: true") == usual != hashed(folder, modality="ct\n    mirror: false")
    recipe = catalog.load("phantom8", folder)
    assert identity.stream_hash(recipe.stream, identity.identities(recipe)).startswith("f24fd8bfbe76")  # of its records
