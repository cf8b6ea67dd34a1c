"""Images are fitted as open_clip does it, once; the cache tells contents and sizes apart."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import pytest
from filelock import FileLock
from PIL import Image
from torchvision.transforms import Compose

from benchmark.data import sources
from benchmark.data.batches import task_data
from benchmark.data.cache import cached, resized
from benchmark.errors import UserError
from benchmark.stream import Framing, Label, Task
from tests.source_files import CLASSES, COUNTS, arrays, in_folders, listed, npz_source, saved

FRAMINGS = [
    Framing(mode, interpolation, fill)
    for mode, fill in (("shortest", 0), ("longest", 0), ("longest", 7), ("squash", 0))
    for interpolation in ("bicubic", "bilinear")
]


@pytest.mark.parametrize("framing", FRAMINGS, ids=lambda framing: f"{framing.mode}-{framing.interpolation}")
def test_images_of_odd_sizes_are_fitted_as_open_clip_fits_them(framing: Framing) -> None:
    """To the pixel, for round and floor agree on none of the sides of many images."""
    rng = np.random.default_rng(1)
    shapes = [
        (20, 45),
        (51, 33),
        (65, 64),
        (64, 65),
        (28, 28),
        (8, 8),
        (3, 300),
        (1, 97),
        *rng.integers(9, 150, (90, 2)),
    ]
    for size in (8, 64):
        theirs = open_clip.image_transform(
            size, is_train=False, resize_mode=framing.mode, interpolation=framing.interpolation, fill_color=framing.fill
        )
        fitted = Compose(theirs.transforms[:-2])  # without ToTensor and Normalize
        for number, (height, width) in enumerate(shapes):
            grey = number % 3 == 0
            image = rng.integers(0, 256, (height, width) if grey else (height, width, 3), np.uint8)
            (made,) = resized([image], size, framing)
            if framing.mode == "longest" and size * min(height, width) < max(height, width) / 2:
                continue  # less than half a pixel is left of it, and open_clip fails
            assert np.array_equal(made.transpose(1, 2, 0), np.asarray(fitted(Image.fromarray(image)))), (height, width)


def test_a_long_strip_leaves_a_row_of_pixels() -> None:
    strip = np.full((1, 300), 200, np.uint8)
    (made,) = resized([strip], 8, Framing("longest"))
    assert (made[:, 3] == 200).all() and made.sum() == 3 * 8 * 200


def test_caches_of_other_framings_are_others(tmp_path: Path, cache: Path) -> None:
    content = arrays((9, 11, 3))
    source = npz_source(saved(tmp_path, content))
    told = sources.identity(source)
    for framing in (Framing(), Framing("squash"), Framing("squash", "bilinear"), Framing("longest", fill=3)):
        made = cached(source, told, 8, framing)["val"].images
        assert np.array_equal(made, resized(content["val_images"], 8, framing))
    assert len(list(cache.iterdir())) == 4


def test_a_framing_that_open_clip_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="fitted 'crop', expected one of shortest, longest, squash"):
        Framing("crop")


def test_an_image_of_the_right_size_is_not_touched() -> None:
    images = np.random.default_rng(2).integers(0, 256, (3, 64, 64, 3), np.uint8)
    assert np.array_equal(resized(images, 64).transpose(0, 2, 3, 1), images)


def test_the_second_call_reads_the_cache(tmp_path: Path, cache: Path) -> None:
    content = arrays((9, 11, 3))
    source = npz_source(saved(tmp_path, content))
    told = sources.identity(source)
    first = cached(source, told, 8)
    (folder,) = cache.iterdir()
    source.options["path"].unlink()  # the second call cannot read it
    second = cached(source, told, 8)
    assert [path.name for path in cache.iterdir()] == [folder.name]
    for split in COUNTS:
        assert np.array_equal(first[split].images, resized(content[f"{split}_images"], 8))
        assert np.array_equal(first[split].images, second[split].images)
        assert np.array_equal(first[split].labels, second[split].labels) and second[split].pairs is None
        assert isinstance(second[split].images, np.memmap) and not second[split].images.flags.writeable


def test_the_cache_tells_sizes_and_contents_apart(tmp_path: Path, cache: Path) -> None:
    one, other = arrays(), arrays() | {"val_images": np.zeros((3, 9, 11), np.uint8)}
    for name, content, size in (("one", one, 8), ("one", one, 16), ("other", other, 8)):
        source = npz_source(saved(tmp_path, content, f"{name}.npz"))
        made = cached(source, sources.identity(source), size)["val"]
        assert np.array_equal(made.images, resized(content["val_images"], size))
        assert made.labels.tolist() == [0, 1, 2]
    assert len(list(cache.iterdir())) == 3


def test_a_refused_file_leaves_no_cache(tmp_path: Path, cache: Path) -> None:
    source = npz_source(saved(tmp_path, arrays() | {"test_labels": np.full(4, 3)}))
    with pytest.raises(UserError, match="test_labels"):
        cached(source, sources.identity(source), 8)
    assert list(cache.iterdir()) == []


def test_images_of_all_sizes_are_decoded_and_cached_once(chest: Path, cache: Path) -> None:
    source = in_folders(chest)
    told = sources.identity(source)
    loaded = sources.load(source, "train")
    for sample, image in zip(listed(source)["train"], loaded.images, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(sample.path)))
    assert loaded.labels.tolist() == [0] * 4 + [1] * 4 and loaded.labels.dtype == np.int64
    first = cached(source, told, 8)
    expected = [resized(np.asarray(image)[None], 8)[0] for image in loaded.images]
    assert np.array_equal(first["train"].images, np.stack(expected))
    task = Task(0, "t", "x-ray", "classification", tuple(Label(i + 5, c, (c,)) for i, c in enumerate(CLASSES)), 1)
    shutil.rmtree(chest)  # from here on the cache answers
    data = task_data(task, source, told, 8, None)
    test = data.splits["test"]
    assert test.images is not None and test.images.shape == (4, 3, 8, 8) and test.labels.tolist() == [5, 5, 6, 6]


def test_what_killed_processes_were_building_is_removed_and_what_living_ones_build_is_not(
    tmp_path: Path, cache: Path
) -> None:
    source = npz_source(saved(tmp_path, arrays()))
    for name in ("dead", "alive"):
        (cache / f".building-{name}" / "deep").mkdir(parents=True)
    (cache / ".gone.lock").touch()
    with FileLock(cache / ".alive.lock"):
        cached(source, sources.identity(source), 8)
        hidden = sorted(path.name for path in cache.iterdir() if path.name.startswith("."))
    assert hidden == [".alive.lock", ".building-alive"]


def test_of_many_that_find_a_damaged_cache_one_makes_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And whoever has it mapped keeps what he has."""
    source = npz_source(saved(tmp_path, arrays()))
    told = sources.identity(source)
    first = cached(source, told, 8)
    (folder,) = cache.iterdir()
    before = first["train"].images.tobytes()
    (folder / "val_labels.npy").write_bytes(b"damaged")
    loaded: list[str] = []
    load = sources.load
    monkeypatch.setattr(sources, "load", lambda source, split: loaded.append(split) or load(source, split))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cached(source, told, 8)["train"].images.tobytes(), range(4)))
    assert found == [before] * 4 == [first["train"].images.tobytes()] * 4
    assert sorted(loaded) == ["test", "train", "val"] and capsys.readouterr().err.count("val_labels.npy: damaged") == 1
    assert list(cache.iterdir()) == [folder]


def test_a_full_disk_is_told_with_the_file_and_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    source = npz_source(saved(tmp_path, arrays()))
    told = sources.identity(source)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        cached(source, told, 8)
    assert str(cache) in str(caught.value.filename) and list(cache.iterdir()) == []
