"""Files in the MedMNIST layout: what is read and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.data import sources
from benchmark.errors import UserError
from tests.source_files import COUNTS, arrays, npz_source, saved


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
