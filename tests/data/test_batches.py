"""Samples: the npz reader, LIMIT, resizing, the cache, batches, and what a stream's hash tells apart."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from benchmark.data import catalog, identity, module, phantoms, sources
from benchmark.data.catalog import Source
from benchmark.errors import UserError
from benchmark.stream import Label, Task

CPU = torch.device("cpu")
COUNTS = {"train": 6, "val": 3, "test": 4}


def arrays(shape: tuple[int, ...] = (9, 11), column: bool = True) -> dict[str, NDArray[Any]]:
    """Three splits of random images and labels 0, 1, 2 in turn."""
    rng = np.random.default_rng(0)
    made: dict[str, NDArray[Any]] = {}
    for split, n in COUNTS.items():
        made[f"{split}_images"] = rng.integers(0, 256, (n, *shape), np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 3
        made[f"{split}_labels"] = labels[:, None] if column else labels
    return made


def npz_source(path: Path, classes: tuple[str, ...] = ("a", "b", "c")) -> Source:
    return Source("s.yaml: tasks[0]", "npz", classes, {"path": path})


def saved(folder: Path, content: dict[str, NDArray[Any]], name: str = "set.npz") -> Path:
    np.savez(folder / name, **content)
    return folder / name


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MBIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# The npz reader


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.int32])
@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3), (9, 13), (17, 5, 3), (3, 3)])
def test_npz_gives_what_was_saved(shape: tuple[int, ...], dtype: Any, column: bool, tmp_path: Path) -> None:
    content = arrays(shape, column)
    content |= {key: value.astype(dtype) for key, value in content.items() if key.endswith("labels")}
    source = npz_source(saved(tmp_path, content))
    for split, n in COUNTS.items():
        loaded = sources.load(source, split)
        assert np.array_equal(loaded.images, content[f"{split}_images"]) and loaded.images.dtype == np.uint8
        assert loaded.labels.tolist() == [i % 3 for i in range(n)] and loaded.labels.dtype == np.int64


def test_a_compressed_file_and_further_arrays_are_fine(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "set.npz", **arrays(), extra=np.arange(3.0))
    assert sources.load(npz_source(tmp_path / "set.npz"), "test").images.shape == (4, 9, 11)


OBJECTS = np.array([{"a": 1}, None], dtype=object)
WRONG: dict[str, tuple[dict[str, NDArray[Any] | None], str]] = {
    "missing images": ({"train_images": None}, "missing array: unknown array 'train_images'"),
    "missing labels": ({"train_labels": None}, "missing array: unknown array 'train_labels'"),
    "float images": ({"train_images": np.zeros((6, 9, 9))}, "train_images: expected uint8, got float64"),
    "wide images": ({"train_images": np.zeros((6, 9, 9), np.int16)}, "train_images: expected uint8, got int16"),
    "flat images": ({"train_images": np.zeros((6, 81), np.uint8)}, r"train_images: expected .* got \(6, 81\)"),
    "channels first": ({"train_images": np.zeros((6, 3, 9, 9), np.uint8)}, r"train_images: expected .* \(6, 3, 9, 9\)"),
    "RGBA": ({"train_images": np.zeros((6, 9, 9, 4), np.uint8)}, r"train_images: expected .* \(6, 9, 9, 4\)"),
    "no pixels": ({"train_images": np.zeros((6, 0, 9), np.uint8)}, r"train_images: expected .* \(6, 0, 9\)"),
    "float labels": ({"train_labels": np.zeros(6)}, "train_labels: expected integers, got float64"),
    "text labels": ({"train_labels": np.array(["a"] * 6)}, "train_labels: expected integers, got <U1"),
    "bool labels": ({"train_labels": np.zeros(6, bool)}, "train_labels: expected integers, got bool"),
    "one-hot labels": ({"train_labels": np.eye(6, 3, dtype=np.int64)}, r"train_labels: \(6, 3\) does not fit 6"),
    "fewer labels": ({"train_labels": np.zeros(5, np.int64)}, r"train_labels: \(5,\) does not fit 6 images"),
    "label too high": ({"train_labels": np.array([0, 1, 2, 3, 0, 1])}, r"train_labels: labels 0\.\.3 but .*classes"),
    "label negative": ({"train_labels": np.array([0, 1, 2, -1, 0, 1])}, r"train_labels: labels -1\.\.2 but .*classes"),
    "empty split": (
        {"train_images": np.zeros((0, 9, 9), np.uint8), "train_labels": np.zeros((0, 1), np.int64)},
        "train_images: the split is empty",
    ),
    "objects": ({"train_images": OBJECTS}, "not readable as npz"),
    "object labels": ({"train_labels": OBJECTS}, "not readable as npz"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arrays_are_refused_by_name(wrong: str, tmp_path: Path) -> None:
    change, says = WRONG[wrong]
    content = {key: value for key, value in (arrays() | change).items() if value is not None}
    path = saved(tmp_path, content)
    with pytest.raises(UserError, match=says) as error:
        sources.load(npz_source(path), "train")
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_labels_outside_the_classes_name_the_stream_files_key(tmp_path: Path) -> None:
    path = saved(tmp_path, arrays())
    with pytest.raises(UserError) as error:
        sources.load(npz_source(path, ("a", "b")), "val")
    assert "s.yaml: tasks[0].classes lists 2 classes (0..1)" in str(error.value)


def no_npz(folder: Path) -> dict[str, bytes]:
    good = saved(folder, arrays(), "good.npz").read_bytes()
    np.save(folder / "one.npy", np.zeros(3))
    np.save(folder / "pickle.npy", OBJECTS)
    np.savez_compressed(folder / "small.npz", **arrays((64, 64)))
    small = bytearray((folder / "small.npz").read_bytes())
    small[80:2000] = b"\xff" * 1920
    return {
        "text": b"no archive",
        "empty": b"",
        "cut short": good[: len(good) // 2],
        "zip of nothing": good[:4],
        "damaged": bytes(small),
        "one": (folder / "one.npy").read_bytes(),
        "pickle": (folder / "pickle.npy").read_bytes(),
    }


@pytest.mark.parametrize("kind", ["text", "empty", "cut short", "zip of nothing", "one", "pickle", "damaged"])
def test_what_is_no_npz_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(no_npz(tmp_path)[kind])
    with pytest.raises(UserError, match=r"set\.npz: not readable as npz") as error:
        sources.load(npz_source(tmp_path / "set.npz"), "train")
    assert "\n" not in str(error.value)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    trap = np.empty(6, object)
    trap[:] = [Trap() for _ in range(6)]
    path = saved(tmp_path, arrays() | {"train_images": trap})
    with pytest.raises(UserError, match="not readable as npz"):
        sources.load(npz_source(path), "train")
    assert not (tmp_path / "sprung").exists()


# LIMIT


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 70))
def test_limited_takes_the_first_of_each_class_in_turn(labels: list[int], limit: int) -> None:
    given_labels = np.array(labels)
    kept = module.limited(given_labels, limit)
    assert kept.tolist() == sorted(set(kept.tolist())) and len(kept) == min(limit, len(labels))
    taken = {c: [i for i in kept.tolist() if labels[i] == c] for c in set(labels)}
    for c, indices in taken.items():
        assert indices == np.flatnonzero(given_labels == c)[: len(indices)].tolist()
    for c, d in itertools.permutations(taken, 2):  # a class has fewer only if it has no more
        assert len(taken[c]) >= min(len(taken[d]) - 1, labels.count(c))
    assert np.array_equal(kept, module.limited(given_labels.copy(), limit))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 39))
def test_a_larger_limit_keeps_what_a_smaller_one_took(labels: list[int], limit: int) -> None:
    few, more = (set(module.limited(np.array(labels), n).tolist()) for n in (limit, limit + 1))
    assert few <= more


def test_limited_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    assert module.limited(labels, 3).tolist() == [0, 4, 6]
    assert module.limited(labels, 5).tolist() == [0, 1, 4, 5, 6]
    assert module.limited(labels, 6).tolist() == [0, 1, 2, 4, 5, 6]
    assert module.limited(labels, None).tolist() == list(range(7))


# Resizing


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("size", [8, 32, 64])
@pytest.mark.parametrize("shape", [(28, 28), (64, 64), (20, 45), (51, 33), (65, 64), (8, 8)])
def test_resized_is_pil_bicubic_of_the_shorter_side_and_the_centre(
    shape: tuple[int, int], size: int, colour: bool
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, *shape, *((3,) if colour else ())), np.uint8)
    made = module.resized(images, size)
    assert made.shape == (2, 3, size, size) and made.dtype == np.uint8
    height, width = shape
    for image, out in zip(images, made, strict=True):
        picture = Image.fromarray(image)
        if height <= width:
            picture = picture.resize((max(size, round(size * width / height)), size), Image.Resampling.BICUBIC)
        else:
            picture = picture.resize((size, max(size, round(size * height / width))), Image.Resampling.BICUBIC)
        left, top = (picture.width - size) // 2, (picture.height - size) // 2
        expected = np.asarray(picture.crop((left, top, left + size, top + size)).convert("RGB"))
        assert np.array_equal(out.transpose(1, 2, 0), expected)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    images = np.random.default_rng(2).integers(0, 256, (3, 64, 64, 3), np.uint8)
    assert np.array_equal(module.resized(images, 64).transpose(0, 2, 3, 1), images)


# The cache


def test_the_second_call_reads_the_cache(tmp_path: Path, cache: Path) -> None:
    content = arrays((9, 11, 3))
    source = npz_source(saved(tmp_path, content))
    told = sources.identity(source)
    first = module.cached(source, told, 8)
    (folder,) = cache.iterdir()
    source.options["path"].unlink()  # the second call cannot read it
    second = module.cached(source, told, 8)
    assert [path.name for path in cache.iterdir()] == [folder.name]
    for split in COUNTS:
        assert np.array_equal(first[split].images, module.resized(content[f"{split}_images"], 8))
        assert np.array_equal(first[split].images, second[split].images)
        assert np.array_equal(first[split].labels, second[split].labels) and second[split].pairs is None
        assert isinstance(second[split].images, np.memmap) and not second[split].images.flags.writeable


def test_the_cache_tells_sizes_and_contents_apart(tmp_path: Path, cache: Path) -> None:
    one, other = arrays(), arrays() | {"val_images": np.zeros((3, 9, 11), np.uint8)}
    for name, content, size in (("one", one, 8), ("one", one, 16), ("other", other, 8)):
        source = npz_source(saved(tmp_path, content, f"{name}.npz"))
        made = module.cached(source, sources.identity(source), size)["val"]
        assert np.array_equal(made.images, module.resized(content["val_images"], size))
        assert made.labels.tolist() == [0, 1, 2]
    assert len(list(cache.iterdir())) == 3


def test_a_refused_file_leaves_no_cache(tmp_path: Path, cache: Path) -> None:
    source = npz_source(saved(tmp_path, arrays() | {"test_labels": np.full(4, 3)}))
    with pytest.raises(UserError, match="test_labels"):
        module.cached(source, sources.identity(source), 8)
    assert list(cache.iterdir()) == []


def test_labels_are_checked_against_the_classes_also_when_cached(tmp_path: Path) -> None:
    path = saved(tmp_path, arrays())
    told = sources.identity(npz_source(path))
    module.cached(npz_source(path), told, 8)
    with pytest.raises(UserError, match=r"train_labels: labels 0\.\.2 but .* lists 2 classes"):
        module.task_data(task(0, [0, 1]), npz_source(path, ("a", "b")), told, 8, None, CPU)


# The loaders of a task


def task(index: int, ids: list[int]) -> Task:
    return Task(index, f"t{index}", "ct", "classification", tuple(Label(i, f"c{i}", (f"c{i}",)) for i in ids), 2)


@pytest.mark.parametrize("limit", [None, 3])
def test_task_data_has_global_ids_and_obeys_the_limit(limit: int | None, tmp_path: Path) -> None:
    content = arrays()
    source = npz_source(saved(tmp_path, content))
    data = module.task_data(task(4, [10, 11, 12]), source, sources.identity(source), 8, limit, CPU)
    for split, n in COUNTS.items():
        images, labels = data.splits[split].images, data.splits[split].labels
        assert images is not None
        expected = module.resized(content[f"{split}_images"], 8)[: limit or n]
        assert np.array_equal(images.numpy(), expected) and images.dtype == torch.uint8
        assert labels.tolist() == [10 + i % 3 for i in range(limit or n)]
    batch = next(iter(data.batches("test", CPU)))
    assert batch["task"].tolist() == [4] * len(batch["label"]) and batch["index"].tolist() == [*range(limit or 4)]


def parts(*counts: int) -> list[module.TaskData]:
    """Tasks whose images tell task and sample: every pixel is the sample, the label id too."""
    made = []
    for index, count in enumerate(counts):
        images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
        made.append(
            module.TaskData(task(index, [0]), {"train": module.Samples(images, torch.arange(count) + 100 * index)})
        )
    return made


def epoch(batches: module.Batches) -> dict[str, torch.Tensor]:
    found = list(batches)
    assert len(found) == len(batches)
    return {key: torch.cat([batch[key] for batch in found]) for key in found[0]}


@given(st.integers(1, 40), st.integers(1, 9))
def test_stored_order_has_every_sample_once(count: int, size: int) -> None:
    (data,) = parts(count)
    seen = epoch(module.Batches([(data.splits["train"], 0)], size, CPU))
    assert seen["index"].tolist() == seen["label"].tolist() == list(range(count))
    assert {key: value.dtype for key, value in seen.items()} == {
        "image": torch.uint8, "label": torch.int64, "task": torch.int64, "index": torch.int64,
    }  # fmt: skip


@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_has_every_sample_once_with_its_own_label(counts: list[int], size: int, seed: int) -> None:
    seen = epoch(module.training_batches(parts(*counts), size, CPU, lambda: seed))
    assert sorted(seen["index"].tolist()) == list(range(sum(counts)))
    assert seen["label"].tolist() == [
        100 * t + i for t, i in zip(seen["task"].tolist(), seen["image"][:, 0, 0, 0].tolist(), strict=True)
    ]


def test_the_epochs_seed_makes_the_order() -> None:
    seeds = iter([1, 2, 1])
    batches = module.training_batches(parts(30), 7, CPU, lambda: next(seeds))
    first, second, again = (epoch(batches)["index"].tolist() for _ in range(3))
    assert first == again != second
    torch.manual_seed(123)  # the global generator has no part in it
    assert epoch(module.training_batches(parts(30), 7, CPU, lambda: 1))["index"].tolist() == first


def test_balanced_draws_every_task_as_often_as_the_largest() -> None:
    batches = module.training_batches(parts(5, 20, 8), 6, CPU, lambda: 3, balanced=True)
    seen = epoch(batches)
    assert torch.bincount(seen["task"]).tolist() == [20, 20, 20] and len(batches) == 10
    times = torch.bincount(seen["index"], minlength=33)
    assert times[:5].tolist() == [4] * 5 and times[5:25].tolist() == [1] * 20
    assert sorted(times[25:].tolist()) == [2] * 4 + [3] * 4  # 8 samples, 20 draws


# The hash of a stream

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
