"""Images in files and sets of MedMNIST: layouts, drawn splits, identities, and what is refused in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tests.table_files import written

from benchmark import cli
from benchmark.data import catalog, files, medmnist, module, sources
from benchmark.data.catalog import Source
from benchmark.errors import UserError
from benchmark.stream import Label, Task

WHERE = "s.yaml: tasks[0]"
CLASSES = ("normal lungs", "pneumonia")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MBIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "cache"


def pixels(seed: int, shape: tuple[int, ...] = (9, 11, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path: Path, image: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def folder(path: Path, classes: tuple[str, ...] = ("NORMAL", "PNEUMONIA"), **options: Any) -> Source:
    return Source(WHERE, "folder", CLASSES, {"path": path, "folders": list(classes), **options})


def table(path: Path, **options: Any) -> Source:
    options = {"columns": {"image": "file", "label": "finding"}} | options
    return Source(WHERE, "table", CLASSES, {"path": path, **options})


def names(source: Source) -> dict[str, list[tuple[str, int]]]:
    listed = files.listed(source)
    return {split: [(sample.path.name, sample.label) for sample in listed[split]] for split in files.SPLITS}


def refused(source: Source) -> str:
    with pytest.raises(UserError) as error:
        sources.identity(source)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    """The layout of Chest X-Ray Pneumonia: images of several sizes and sorts, and what does not belong there."""
    root = tmp_path / "chest_xray"
    shapes = ((20, 14), (9, 11, 3), (8, 8), (31, 8, 3))
    for s, split in enumerate(("train", "val", "test")):
        for c, name in enumerate(("NORMAL", "PNEUMONIA")):
            for i in range(4 - s):
                save(root / split / name / f"{split}-{name}-{i}.png", pixels(100 * s + 10 * c + i, shapes[i]))
    save(root / "train" / "NORMAL" / ".hidden.png", pixels(0))
    save(root / "train" / "NORMAL" / ".hidden" / "a.png", pixels(0))
    save(root / "train" / "OTHER" / "a.png", pixels(0))
    (root / "train" / "NORMAL" / "Thumbs.db").write_bytes(b"no image")
    (root / "val" / "NORMAL" / "notes.txt").write_text("no image")
    return root


@pytest.fixture
def classed(tmp_path: Path) -> Path:
    """Class folders without splits, 20 and 10 images."""
    for c, (name, count) in enumerate((("NORMAL", 20), ("PNEUMONIA", 10))):
        for i in range(count):
            save(tmp_path / "classed" / name / f"{name}-{i}.png", pixels(100 * c + i))
    return tmp_path / "classed"


# Folders


def test_split_folders_give_their_images_class_by_class(chest: Path) -> None:
    assert names(folder(chest)) == {
        split: [(f"{split}-{name}-{i}.png", c) for c, name in enumerate(("NORMAL", "PNEUMONIA")) for i in range(4 - s)]
        for s, split in enumerate(("train", "val", "test"))
    }
    turned = files.listed(folder(chest, ("PNEUMONIA", "NORMAL")))["test"]
    assert [(s.path.parent.name, s.label) for s in turned] == [("PNEUMONIA", 0)] * 2 + [("NORMAL", 1)] * 2


def test_the_classes_names_are_the_folders_unless_others_are_given(chest: Path) -> None:
    for name in ("NORMAL", "PNEUMONIA"):
        for split in ("train", "val", "test"):
            (chest / split / name).rename(chest / split / {"NORMAL": CLASSES[0], "PNEUMONIA": CLASSES[1]}[name])
    assert len(files.listed(Source(WHERE, "folder", CLASSES, {"path": chest}))["train"]) == 8


def test_images_of_all_sizes_are_decoded_and_cached_once(chest: Path, cache: Path) -> None:
    source = folder(chest)
    told = sources.identity(source)
    loaded = sources.load(source, "train")
    for sample, image in zip(files.listed(source)["train"], loaded.images, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(sample.path)))
    assert loaded.labels.tolist() == [0] * 4 + [1] * 4 and loaded.labels.dtype == np.int64
    first = module.cached(source, told, 8)
    expected = [module.resized(np.asarray(image)[None], 8)[0] for image in loaded.images]
    assert np.array_equal(first["train"].images, np.stack(expected))
    task = Task(0, "t", "x-ray", "classification", tuple(Label(i + 5, c, (c,)) for i, c in enumerate(CLASSES)), 1)
    shutil.rmtree(chest)  # from here on the cache answers
    data = module.task_data(task, source, told, 8, None, torch.device("cpu"))
    test = data.splits["test"]
    assert test.images is not None and test.images.shape == (4, 3, 8, 8) and test.labels.tolist() == [5, 5, 6, 6]


@pytest.mark.parametrize("missing", [("val",), ("test",), ("val", "test")])
def test_a_missing_split_is_drawn_from_train(missing: tuple[str, ...], classed: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    shutil.copytree(classed, root / "train")
    for split in {"val", "test"} - set(missing):
        save(root / split / "NORMAL" / "own.png", pixels(7))
    listed = names(folder(root))
    counts = {split: Counter(label for _, label in listed[split]) for split in files.SPLITS}
    drawn = {"val": {0: 2, 1: 1}, "test": {0: 4, 1: 2}}
    for split in ("val", "test"):
        assert counts[split] == (drawn[split] if split in missing else {0: 1})
    assert counts["train"] == {0: 20 - sum(drawn[s][0] for s in missing), 1: 10 - sum(drawn[s][1] for s in missing)}
    everything = [name for split in ("train", *missing) for name, _ in listed[split]]
    assert sorted(everything) == sorted(path.name for path in classed.rglob("*.png"))


def test_splits_name_the_folders(chest: Path) -> None:
    expected = names(folder(chest))
    (chest / "train").rename(chest / "Training"), (chest / "test").rename(chest / "7")
    assert names(folder(chest, splits={"train": "Training", "val": "val", "test": 7})) == expected
    assert "folder not found" in refused(folder(chest, splits={"train": "Training", "val": "valid"}))
    assert "expected the folder of train" in refused(folder(chest, splits={"val": "val"}))


def test_drawn_splits_are_the_same_everywhere_and_change_with_seed_and_fractions(classed: Path, tmp_path: Path) -> None:
    first = names(folder(classed))
    assert {split: len(first[split]) for split in first} == {"train": 21, "val": 3, "test": 6}
    assert [name for name, _ in first["val"]] == ["NORMAL-10.png", "NORMAL-4.png", "PNEUMONIA-0.png"]  # everywhere
    told = sources.identity(folder(classed))
    shutil.copytree(classed, tmp_path / "elsewhere")
    assert names(folder(tmp_path / "elsewhere")) == first
    assert sources.identity(folder(tmp_path / "elsewhere")) == told
    assert sources.identity(folder(classed, seed=0, fractions={"val": 0.1, "test": 0.2})) == told
    half = folder(classed, fractions={"test": 0.5})
    assert Counter(label for _, label in names(half)["test"]) == {0: 10, 1: 5}
    assert len({told, sources.identity(folder(classed, seed=1)), sources.identity(half)}) == 3


def test_the_identity_changes_with_one_pixel_a_label_or_a_split(chest: Path) -> None:
    told = sources.identity(folder(chest))
    image = chest / "test" / "NORMAL" / "test-NORMAL-0.png"
    before = np.array(Image.open(image))
    save(image, before ^ np.eye(*before.shape, dtype=np.uint8))
    changed = sources.identity(folder(chest))
    save(image, before)
    assert sources.identity(folder(chest)) == told != changed
    image.rename(chest / "test" / "NORMAL" / "renamed.png")  # the order may have changed: the samples have not
    (chest / "test" / "NORMAL" / "renamed.png").rename(image)
    assert sources.identity(folder(chest, ("PNEUMONIA", "NORMAL"))) not in (told, changed)
    image.rename(chest / "val" / "NORMAL" / "z.png")
    assert sources.identity(folder(chest)) not in (told, changed)


def test_contents_are_hashed_once(chest: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    told = sources.identity(folder(chest))
    assert not cache.exists()  # files of this moment could change within one tick of the clock: nothing is remembered
    monkeypatch.setattr(files.time, "time_ns", lambda: now() + 3_000_000_000)
    assert sources.identity(folder(chest)) == told
    (memory,) = (cache / "digests").iterdir()
    assert len(json.loads(memory.read_text())) == 18
    hashed: list[Any] = []
    real = hashlib.file_digest
    monkeypatch.setattr(files.hashlib, "file_digest", lambda file, *a: hashed.append(file.name) or real(file, *a))
    assert sources.identity(folder(chest)) == told and hashed == []
    image = save(chest / "val" / "NORMAL" / "val-NORMAL-0.png", pixels(3))
    assert sources.identity(folder(chest)) != told and hashed == [str(image)]
    memory.write_text("damaged")
    sources.identity(folder(chest))
    assert len(hashed) == 1 + 18


def test_a_cache_that_cannot_be_written_is_done_without(chest: Path, cache: Path) -> None:
    told = sources.identity(folder(chest))
    cache.write_text("a file where the folder should be")
    assert sources.identity(folder(chest)) == told


# Sorts of images


def test_every_sort_of_image_is_eight_bits_grey_or_colour(tmp_path: Path) -> None:
    grey, colour = pixels(1, (6, 5)), pixels(2, (6, 5, 3))
    Image.fromarray(grey).save(tmp_path / "grey.bmp")
    Image.fromarray(colour).save(tmp_path / "colour.tif")
    Image.fromarray(grey.astype(np.uint16) * 256 + 77).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([colour, grey])).save(tmp_path / "alpha.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.gif")
    Image.fromarray(grey > 127).save(tmp_path / "bits.png")
    expected = {
        "grey.bmp": grey,
        "colour.tif": colour,
        "deep.png": grey,
        "alpha.png": colour,
        "palette.gif": np.dstack([grey] * 3),
        "bits.png": np.dstack([(grey > 127) * np.uint8(255)] * 3),
    }
    for name, image in expected.items():
        made = files.decoded(tmp_path / name)
        assert made.dtype == np.uint8 and np.array_equal(made, image), name


def test_a_jpeg_is_what_pil_reads(tmp_path: Path) -> None:
    Image.fromarray(pixels(5, (40, 60, 3))).save(tmp_path / "a.jpeg")
    assert np.array_equal(files.decoded(tmp_path / "a.jpeg"), np.asarray(Image.open(tmp_path / "a.jpeg")))


@pytest.mark.parametrize("kind", ["text", "empty", "cut short", "float", "32 bits"])
def test_an_image_that_cannot_be_read_is_named(kind: str, chest: Path, cache: Path) -> None:
    bad = chest / "train" / "NORMAL" / "train-NORMAL-2.tif"
    if kind == "float":
        Image.fromarray(np.ones((5, 5), np.float32)).save(bad)
    elif kind == "32 bits":
        Image.fromarray(np.full((5, 5), 70_000, np.int32)).save(bad)
    elif kind == "cut short":
        Image.fromarray(pixels(1, (50, 50, 3))).save(bad)
        bad.write_bytes(bad.read_bytes()[:900])
    else:
        bad.write_bytes(b"no image at all" if kind == "text" else b"")
    with pytest.raises(UserError, match="not readable as an image") as error:
        module.cached(folder(chest), sources.identity(folder(chest)), 8)
    assert str(error.value).startswith(str(bad)) and "\n" not in str(error.value)
    assert list(cache.iterdir()) == []


# What is refused of a folder


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"folders": ["NORMAL"]}, (".folders", "2 different names")),
        ({"folders": ["NORMAL", "NORMAL"]}, (".folders", "2 different names")),
        ({"folders": "NORMAL"}, (".folders", "2 different names")),
        ({"folders": ["NORMAL", True]}, (".folders", "2 different names")),
        ({"folders": ["NORMAL", "PNEUMONA"]}, ("unknown class folder 'PNEUMONA'", "did you mean 'PNEUMONIA'?")),
        ({"splits": {"valid": "val"}}, (".splits", "unknown key 'valid'", "did you mean 'val'?")),
        ({"splits": ["train"]}, (".splits", "keys and values")),
        ({"splits": {"train": "train", "val": "train"}}, (".splits", "different names")),
        ({"fractions": {"val": 0.1}}, (".fractions.val", "nothing is to be drawn")),
    ],
)
def test_wrong_options_of_a_folder(options: dict[str, Any], says: tuple[str, ...], chest: Path) -> None:
    message = refused(Source(WHERE, "folder", CLASSES, {"path": chest, "folders": ["NORMAL", "PNEUMONIA"]} | options))
    assert message.startswith(WHERE) and all(part in message for part in says), message


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
    message = refused(folder(classed, **options))
    assert message.startswith(WHERE) and all(part in message for part in says), message


def test_an_empty_class_or_split_is_refused(chest: Path, classed: Path) -> None:
    shutil.rmtree(chest / "val" / "NORMAL")
    assert len(files.listed(folder(chest))["val"]) == 3  # a class may be absent outside train
    shutil.rmtree(chest / "val" / "PNEUMONIA")
    assert refused(folder(chest)) == f"{chest}: val: no images in this split"
    shutil.rmtree(chest / "train" / "PNEUMONIA")
    (chest / "train" / "PNEUMONIA").mkdir()
    assert refused(folder(chest)) == f"{chest / 'train' / 'PNEUMONIA'}: no images"
    for path in [*classed.rglob("*-[1-9]*.png")]:
        path.unlink()
    assert "val: no images in this split" in refused(folder(classed))  # one image a class: nothing to draw from


# Tables

ROWS = [
    {"file": f"{i}.png", "finding": CLASSES[i % 3 == 0], "split": ("train", "train", "val", "test")[i % 4],
     "patient": f"p{i // 3}", "report": 'clear,\n"no" effusion', "number": int(i % 3 == 0)}
    for i in range(24)
]  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i in range(24):
        save(tmp_path / "t" / f"{i}.png", pixels(i))
    return tmp_path / "t"


KINDS = ["csv", "tsv", "jsonl", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_lists_its_rows_in_order(kind: str, images: Path) -> None:
    columns = {"image": "file", "label": "finding", "split": "split", "group": "patient", "text": "report"}
    listed = names(table(written(images, ROWS, kind), columns=columns))
    assert listed == {
        split: [(row["file"], row["number"]) for row in ROWS if row["split"] == split] for split in files.SPLITS
    }


def test_every_kind_of_table_has_the_same_identity_and_integers_do_for_classes(images: Path, tmp_path: Path) -> None:
    columns = {"image": "file", "label": "finding", "group": "patient"}
    numbers = columns | {"label": "number"}
    told = {
        sources.identity(table(written(images, ROWS, kind), columns=c)) for kind in KINDS for c in (columns, numbers)
    }
    turned = [row | {"number": 1 - row["number"]} for row in ROWS]
    told.add(sources.identity(table(written(images, turned, "csv"), columns=numbers, values=[1, 0])))
    written(images, ROWS, "csv")
    shutil.copytree(images, tmp_path / "moved")
    told.add(sources.identity(table(tmp_path / "moved" / "table.csv", columns=columns)))
    assert len(told) == 1
    save(tmp_path / "moved" / "3.png", pixels(3) ^ np.uint8(1))
    assert sources.identity(table(tmp_path / "moved" / "table.csv", columns=columns)) not in told


def test_a_table_and_a_folder_with_the_same_samples_are_the_same(chest: Path) -> None:
    rows = [
        {"file": str(sample.path.relative_to(chest)), "finding": sample.label, "split": split}
        for split, samples in files.listed(folder(chest)).items()
        for sample in samples
    ]
    columns = {"image": "file", "label": "finding", "split": "split"}
    assert sources.identity(table(written(chest, rows, "csv"), columns=columns)) == sources.identity(folder(chest))


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_group_is_a_group_of_its_own(kind: str, images: Path) -> None:
    rows = pd.DataFrame(ROWS).assign(patient=pd.array([i // 3 if i % 3 else None for i in range(24)], "Int64"))
    columns = {"image": "file", "label": "finding", "group": "patient"}
    path = written(images, rows, kind)
    groups = {s.path.name: s.group for part in files.listed(table(path, columns=columns)).values() for s in part}
    assert groups == {f"{i}.png": f"group:{i // 3}" if i % 3 else f"image:{i}.png" for i in range(24)}


def test_values_stand_for_classes_and_images_lie_in_several_folders(tmp_path: Path) -> None:
    """The layout of HAM10000: identities without suffix, two folders, codes for the classes, lesions as groups."""
    rows = [{"lesion_id": f"L{i // 2}", "image_id": f"ISIC_{i}", "dx": ("nv", "mel")[i // 2 % 2]} for i in range(40)]
    for i in range(40):
        save(tmp_path / f"part_{i % 2 + 1}" / f"ISIC_{i}.jpg", pixels(i))
    columns = {"image": "image_id", "label": "dx", "group": "lesion_id"}
    options = {"columns": columns, "values": ["mel", "nv"], "suffix": ".jpg", "images": ["part_1", "part_2"]}
    source = table(written(tmp_path, rows, "csv"), **options)
    listed = names(source)
    assert {split: len(listed[split]) for split in listed} == {"train": 28, "val": 4, "test": 8}
    assert {name: label for split in listed.values() for name, label in split} == {
        f"ISIC_{i}.jpg": 1 - i // 2 % 2 for i in range(40)
    }
    assert module.cached(source, sources.identity(source), 8)["train"].images.shape == (28, 3, 8, 8)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), min_size=1, max_size=60),
    st.integers(0, 3),
    st.floats(0.05, 0.45),
    st.floats(0.05, 0.45),
)
def test_a_draw_never_tears_a_group_apart(rows: list[tuple[int, int]], seed: int, val: float, test: float) -> None:
    samples = [files.Sample(Path(str(i)), label, f"p{group}") for i, (label, group) in enumerate(rows)]
    source = table(Path("t.csv"), seed=seed, fractions={"val": val, "test": test})
    drawn = files._drawn(source, samples, files.SPLITS)
    assert sorted(s.path.name for part in drawn.values() for s in part) == sorted(s.path.name for s in samples)
    groups = [{sample.group for sample in drawn[split]} for split in files.SPLITS]
    assert sum(map(len, groups)) == len(set.union(*groups))
    for part in drawn.values():  # in the order of the table
        assert [int(s.path.name) for s in part] == sorted(int(s.path.name) for s in part)
    alone = [files.Sample(s.path, s.label, s.path.name) for s in samples]
    counts = {
        split: Counter(s.label for s in part) for split, part in files._drawn(source, alone, files.SPLITS).items()
    }
    for label, count in Counter(s.label for s in samples).items():
        assert counts["val"][label] == min(round(count * val), count - 1) and counts["train"][label]
        assert counts["test"][label] == min(round(count * test), count - 1 - counts["val"][label])


def test_adding_a_class_does_not_move_the_images_of_another(images: Path) -> None:
    """So the draw of a part of a set is that part of the draw of the set."""
    rows = [files.Sample(Path(str(i)), i % 3, f"g{i}") for i in range(90)]
    source = table(Path("t.csv"))
    whole, part = (files._drawn(source, [s for s in rows if s.label < n], files.SPLITS) for n in (3, 2))
    assert {split: [s for s in whole[split] if s.label < 2] for split in whole} == part


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"columns": {"image": "file"}}, (WHERE, ".columns", "'label' is missing")),
        ({"columns": {"image": "file", "label": "findin"}}, ("table.csv", "unknown column 'findin'", "'finding'")),
        ({"columns": {"image": "file", "label": "finding", "text": "x"}}, ("unknown column 'x'", "columns.text")),
        ({"columns": {"image": "file", "label": "finding", "spilt": "s"}}, (".columns", "did you mean 'split'?")),
        ({"columns": {"image": ["file"], "label": "finding"}}, (".columns", "different names")),
        ({"columns": {"image": "file", "label": "patient"}}, ("row 1", "column 'patient'", "unknown label 'p0'")),
        ({"columns": {"image": "patient", "label": "finding"}}, ("row 1", "image not found", "24 of 24")),
        ({"columns": {"image": "file", "label": "finding", "split": "patient"}}, ("row 1", "unknown split 'p0'")),
        ({"values": ["a"]}, (WHERE, ".values", "2 different names")),
        ({"values": ["a", "b"]}, ("row 1", "unknown label 'pneumonia'")),
        ({"suffix": 3}, (WHERE, ".suffix", "expected text")),
        ({"suffix": ".jpg"}, ("row 1", "image not found", "0.png.jpg")),
        ({"images": 3}, (WHERE, ".images", "a list of folders")),
        ({"images": "pictures"}, ("row 1", "image not found", "pictures")),
        ({"splits": {"train": "train"}}, (WHERE, ".splits", "no columns.split")),
    ],
)
def test_wrong_options_of_a_table(options: dict[str, Any], says: tuple[str, ...], images: Path) -> None:
    message = refused(table(written(images, ROWS, "csv"), **options))
    assert all(part in message for part in says), message


def test_a_table_names_its_splits_and_one_may_be_missing(images: Path) -> None:
    columns = {"image": "file", "label": "finding", "split": "split", "group": "patient"}
    fold = {"train": 1, "val": 2, "test": 3}
    rows = [row | {"split": fold[row["split"]]} for row in ROWS]
    expected = names(table(written(images, ROWS, "csv"), columns=columns))
    for kind in KINDS:
        assert names(table(written(images, rows, kind), columns=columns, splits=fold)) == expected
    without = [row | {"split": "train" if row["split"] == "val" else row["split"]} for row in ROWS]
    source = table(written(images, without, "csv"), columns=columns)
    drawn = files.listed(source)
    assert [s.path.name for s in drawn["test"]] == [name for name, _ in expected["test"]]
    assert drawn["val"] and not {s.group for s in drawn["val"]} & {s.group for s in drawn["train"]}
    message = refused(table(written(images, rows, "csv"), columns=columns, splits={"train": 1, "test": 3}))
    assert "row 3: column 'split': unknown split '2'" in message


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"", "not readable as a table"),
        ("t.csv", b'a,b\n"1', "not readable as a table"),
        ("t.csv", b"file,finding\n\xff,1\n", "not readable as a table"),
        ("t.jsonl", b'{"a": 1', "not readable as a table"),
        ("t.parquet", b"no parquet", "not readable as a table"),
        ("t.xlsx", b"", "unknown kind of table '.xlsx'"),
        ("t.csv", b"file,finding\n", "train: no images in this split"),
        ("t.csv", b"file,finding\n,pneumonia\n", "row 1: image not found"),
    ],
)
def test_what_is_no_table_is_refused(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(table(tmp_path / name))
    assert message.startswith(str(tmp_path / name)) and says in message


def test_parquet_without_pyarrow_says_what_to_install(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(images, ROWS, "parquet")

    def missing(*args: Any, **kwargs: Any) -> Any:
        raise ImportError("Unable to find a usable engine;\ntried using: 'pyarrow', 'fastparquet'.")

    monkeypatch.setattr(pd, "read_parquet", missing)
    assert refused(table(path)) == f"{path}: reading Parquet needs pyarrow: pip install pyarrow (or save it as CSV)"


# MedMNIST

OWN_NAMES = ("retinamnist", "chestmnist")  # officially digits; officially several labels an image


def mnist(flag: str = "breastmnist", places: tuple[Path, ...] = (), **options: Any) -> Source:
    return Source(WHERE, "medmnist", CLASSES, {"flag": flag, "places": places, **options})


def small(path: Path, classes: int = 2, shape: tuple[int, ...] = (28, 28), several: int = 0) -> Path:
    """A file of the official layout: labels uint8 (N, 1), or (N, ``several``) of 0 and 1, none in every other row."""
    arrays: dict[str, NDArray[Any]] = {}
    for s, (split, n) in enumerate({"train": 2 * classes, "val": classes, "test": classes}.items()):
        labels = np.arange(n, dtype=np.uint8)[:, None] % classes
        if several:
            labels = labels * (np.arange(several) % 3 != n % 3).astype(np.uint8)
        arrays |= {f"{split}_images": pixels(s, (n, *shape)), f"{split}_labels": labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(("size", "name"), [(None, "breastmnist"), (28, "breastmnist"), (64, "breastmnist_64")])
def test_a_set_that_is_there_is_read_by_its_official_name(size: int | None, name: str, tmp_path: Path) -> None:
    options = {} if size is None else {"size": size}
    edge = size or 28
    for place in ("home/.medmnist", "beside", "data"):  # the last is preferred once it is there
        path = small(tmp_path / place / f"{name}.npz", shape=(edge, edge))
        source = mnist(places=(tmp_path / "data", tmp_path / "beside"), **options)
        assert medmnist.found(source) == medmnist.obtained(source) == path
    for split, n in {"train": 4, "val": 2, "test": 2}.items():
        loaded = sources.load(source, split)
        with np.load(path) as arrays:
            assert np.array_equal(np.asarray(loaded.images), arrays[f"{split}_images"])
        assert loaded.labels.tolist() == [i % 2 for i in range(n)]


def test_chestmnist_becomes_any_finding_or_none(tmp_path: Path) -> None:
    small(tmp_path / "chestmnist.npz", several=14)
    source = mnist("chestmnist", (tmp_path,), multi_label="any")
    assert sources.load(source, "train").labels.tolist() == [0, 1, 0, 1]
    assert "several labels an image; multi_label: any" in refused(mnist("chestmnist", (tmp_path,)))


def test_the_identity_is_the_official_one_before_and_after_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path / "data" / "pathmnist_64.npz")
    official = {"MD5_64": hashlib.md5(path.read_bytes()).hexdigest()}
    monkeypatch.setattr(medmnist, "_table", lambda _: {"pathmnist": official})
    told = {sources.identity(mnist("pathmnist", places, size=64)) for places in ((), (tmp_path / "data",))}
    assert len(told) == 1 and not (tmp_path / "home").exists()
    small(path, shape=(32, 32))
    assert sources.identity(mnist("pathmnist", (tmp_path / "data",), size=64)) not in told


def test_a_download_is_the_packages_and_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets.utils

    asked = []

    def download_url(url: str, root: str, filename: str, md5: str) -> None:
        asked.append((url, md5))
        small(Path(root) / filename)
        if len(asked) == 1:
            raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download_url)
    with pytest.raises(UserError) as error:
        sources.load(mnist(), "train")
    assert "\n" not in str(error.value) and "breastmnist.npz could not be downloaded" in str(error.value)
    assert "https://zenodo.org/records/10519652/files/breastmnist.npz" in str(error.value)
    home = tmp_path / "home" / ".medmnist"
    assert list(home.iterdir()) == []
    assert sources.load(mnist(), "train").labels.tolist() == [0, 1, 0, 1]
    assert [path.name for path in home.iterdir()] == ["breastmnist.npz"]
    sources.load(mnist(), "test")
    assert asked == 2 * [(asked[0][0], "750601b1f35ba3300ea97c75c52ff8f6")]


def test_planning_downloads_nothing_and_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from benchmark.data import catalog, identity;"
        "print(len(set(identity.identities(catalog.load('medmnist12', Path()))))); print(*sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    count, loaded = done.stdout.splitlines()
    assert count == "12" and not {"torch", "medmnist"} & set(loaded.split())
    assert not (tmp_path / "home").exists()


def test_without_the_package_a_file_is_read_and_a_missing_one_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(medmnist.importlib.util, "find_spec", lambda name: None)
    message = refused(mnist())
    assert message.startswith(WHERE) and 'pip install "mbil-bench[medmnist]"' in message
    small(tmp_path / "breastmnist.npz")
    assert (
        sources.identity(mnist(places=(tmp_path,))) and len(sources.load(mnist(places=(tmp_path,)), "val").labels) == 2
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"flag": "brestmnist"}, ("unknown flag 'brestmnist'", "did you mean 'breastmnist'?")),
        ({"flag": None}, ("unknown flag",)),
        ({"size": 32}, (".size", "28, 64, 128, 224", "32")),
        ({"size": True}, (".size",)),
        ({"multi_label": "any"}, (".multi_label", "one label an image")),
        ({"flag": "chestmnist", "multi_label": "all"}, ("several labels",)),
    ],
)
def test_wrong_options_of_a_set(options: dict[str, Any], says: tuple[str, ...]) -> None:
    message = refused(mnist(**{"flag": "breastmnist"} | options))
    assert message.startswith(WHERE) and all(part in message for part in says), message


def test_the_cards_say_what_the_package_says() -> None:
    cards = {name for name in catalog.names("cards") if name.startswith("medmnist_")}
    assert cards == {f"medmnist_{flag}" for flag in medmnist.FLAGS}
    for source in catalog.load("medmnist12", None).sources:
        flag, info = source.options["flag"], medmnist._info(source)
        card = yaml.safe_load((catalog.root() / "cards" / f"medmnist_{flag}.yaml").read_text())
        names = [name for _, name in sorted(info["label"].items(), key=lambda item: int(item[0]))]
        assert (flag in OWN_NAMES) != (list(source.classes) == names)
        assert (flag == "chestmnist") == (info["task"] == "multi-label, binary-class")
        assert len(source.classes) == (2 if flag == "chestmnist" else len(names))
        assert card["md5"] == info["MD5"] and card["licence"].startswith(info["license"])
        assert "/".join(f"{n:,}" for n in info["n_samples"].values()) in card["preparation"]


# The shipped streams on small files of their layouts


def test_medmnist12_reads_the_official_layout(tmp_path: Path) -> None:
    for source in catalog.load("medmnist12", None).sources:
        flag = source.options["flag"]
        shape = (28, 28, 3) if medmnist._info(source)["n_channels"] == 3 else (28, 28)
        small(tmp_path / f"{flag}.npz", len(source.classes), shape, 14 if flag == "chestmnist" else 0)
    for source in catalog.load("medmnist12", tmp_path).sources:
        made = module.cached(source, sources.identity(source), 8)["train"]
        assert made.images.shape == (2 * len(source.classes), 3, 8, 8)
        assert set(made.labels) == set(range(len(source.classes)))


class H5:
    """What the conversion in the card of PCam uses of h5py, on .npy files."""

    def __init__(self, name: str, mode: str) -> None:
        self.content = np.load(name.replace(".h5", ".npy"))

    def __getitem__(self, key: str) -> NDArray[np.uint8]:
        return self.content


def pcam(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small .h5 files laid out by the code in the card."""
    for s, split in enumerate(("train", "valid", "test")):
        labels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1) % 2
        np.save(root / f"camelyonpatch_level_2_split_{split}_x.npy", pixels(s, (6, 96, 96, 3)))
        np.save(root / f"camelyonpatch_level_2_split_{split}_y.npy", labels)
    card = yaml.safe_load((catalog.root() / "cards" / "pcam.yaml").read_text())
    code = "\n".join(line[2:] for line in card["preparation"].splitlines() if line.startswith("  "))
    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=H5))  # type: ignore[arg-type]
    monkeypatch.chdir(root)
    exec(code, {})


@pytest.fixture
def mbiil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few images of every set of mbiil_cls, as the cards lay them out."""
    root = tmp_path / "data"
    labels = ("non-neoplastic", "benign", "malignant")
    rows = [
        {"md5hash": hashlib.md5(bytes([i])).hexdigest(), "fitzpatrick_scale": i % 6, "fitzpatrick_centaur": -1,
         "label": "psoriasis", "nine_partition_label": "inflammatory", "three_partition_label": labels[i % 3],
         "qc": None, "url": "https://example.org/a,b.jpg", "url_alphanum": "httpsexampleorgabjpg.jpg"}
        for i in range(30)
    ]  # fmt: skip
    for i, row in enumerate(rows):
        save(root / "fitzpatrick17k" / "images" / f"{row['md5hash']}.jpg", pixels(i, (40, 30, 3)))
    pd.DataFrame(rows).to_csv(root / "fitzpatrick17k" / "fitzpatrick17k.csv", index=False)
    pcam(root, monkeypatch)
    for s, (split, n) in enumerate({"train": 20, "val": 8, "test": 5}.items()):
        for c, name in enumerate(("NORMAL", "PNEUMONIA")):
            for i in range(n):
                shape = (30 + i, 44) if i % 2 else (51, 40 + i, 3)
                save(
                    root / "chest_xray" / split / name / f"person{i}_{name}_{s}.jpeg",
                    pixels(100 * s + 10 * c + i, shape),
                )
    codes = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    rows = [
        {"lesion_id": f"HAM_{i // 2:07}", "image_id": f"ISIC_{i:07}", "dx": codes[i // 2 % 7], "dx_type": "histo",
         "age": None if i % 5 else 60.0, "sex": "female", "localization": "back"}
        for i in range(140)
    ]  # fmt: skip
    for i, row in enumerate(rows):
        part = root / "ham10000" / f"HAM10000_images_part_{1 + i // 70}"
        save(part / f"{row['image_id']}.jpg", pixels(i, (45, 60, 3)))
    pd.DataFrame(rows).to_csv(root / "ham10000" / "HAM10000_metadata.csv", index=False)
    return root


def test_mbiil_cls_reads_the_layouts_of_its_cards(mbiil: Path) -> None:
    recipe = catalog.load("mbiil_cls", mbiil)
    assert [task.modality for task in recipe.stream] == ["dermatology", "pathology", "radiology", "dermatology"]
    counts = {}
    for task, source in zip(recipe.stream, recipe.sources, strict=True):
        cached = module.cached(source, sources.identity(source), 16)
        counts[task.name] = [len(cached[split].labels) for split in files.SPLITS]
        assert all(made.images.shape[1:] == (3, 16, 16) for made in cached.values())
        assert all(set(cached[split].labels) == set(range(len(task.labels))) for split in ("train", "test"))
    assert counts == {
        "fitzpatrick17k": [21, 3, 6],
        "pcam": [6, 6, 6],
        "chest_xray_pneumonia": [36, 4, 10],  # the official validation set is not read
        "ham10000": [98, 14, 28],
    }
    listed = files.listed(recipe.sources[3])
    groups = [{sample.group for sample in listed[split]} for split in files.SPLITS]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    images = np.stack([files.decoded(sample.path) for sample in files.listed(recipe.sources[1])["val"]])
    assert np.array_equal(images, pixels(1, (6, 96, 96, 3))[[0, 2, 4, 1, 3, 5]])


def test_data_that_is_missing_is_said_in_one_line(mbiil: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def plan(expected: int) -> str:
        code = cli.main(["plan", "--method", "ncm", "--stream", "mbiil_cls", "--data", str(mbiil), "--results", "r"])
        said = "".join(capsys.readouterr())
        assert code == expected and (code == 0 or (said.startswith("error: ") and said.count("\n") == 1)), said
        return said

    assert "ncm on mbiil_cls: 4 tasks, 14 classes" in plan(0)
    (mbiil / "ham10000" / "HAM10000_images_part_2" / "ISIC_0000070.jpg").unlink()
    assert "HAM10000_metadata.csv: row 71: image not found" in plan(2)
    shutil.rmtree(mbiil / "chest_xray")
    said = plan(2)
    assert f"tasks[2].path: folder not found: {mbiil / 'chest_xray'}" in said and "DATA=dir" in said
    (mbiil / "fitzpatrick17k" / "fitzpatrick17k.csv").unlink()
    assert "tasks[0].path: file not found" in plan(2)
