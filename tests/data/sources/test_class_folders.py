"""Class folders: layouts, what is listed, what is refused."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmark import cli
from benchmark.data import sources
from benchmark.data.catalog import Source
from tests.source_files import CLASSES, WHERE, in_folders, listed, names, pixels, refused, save


def test_split_folders_give_their_images_class_by_class(chest: Path) -> None:
    assert names(in_folders(chest)) == {
        split: [(f"{split}-{name}-{i}.png", c) for c, name in enumerate(("NORMAL", "PNEUMONIA")) for i in range(4 - s)]
        for s, split in enumerate(("train", "val", "test"))
    }
    turned = listed(in_folders(chest, ("PNEUMONIA", "NORMAL")))["test"]
    assert [(s.path.parent.name, s.label) for s in turned] == [("PNEUMONIA", 0)] * 2 + [("NORMAL", 1)] * 2


def test_the_classes_names_are_the_folders_unless_others_are_given(chest: Path) -> None:
    for name in ("NORMAL", "PNEUMONIA"):
        for split in ("train", "val", "test"):
            (chest / split / name).rename(chest / split / {"NORMAL": CLASSES[0], "PNEUMONIA": CLASSES[1]}[name])
    assert len(listed(Source(WHERE, "folder", CLASSES, {"path": chest}))["train"]) == 8


def test_splits_name_the_folders(chest: Path) -> None:
    expected = names(in_folders(chest))
    (chest / "train").rename(chest / "Training"), (chest / "test").rename(chest / "7")
    assert names(in_folders(chest, splits={"train": "Training", "val": "val", "test": 7})) == expected
    assert "folder not found" in refused(in_folders(chest, splits={"train": "Training", "val": "valid"}))
    assert "expected the folder of train" in refused(in_folders(chest, splits={"val": "val"}))


@pytest.mark.parametrize("missing", [("val",), ("test",), ("val", "test")])
def test_a_missing_split_is_drawn_from_train(missing: tuple[str, ...], classed: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    shutil.copytree(classed, root / "train")
    for split in {"val", "test"} - set(missing):
        save(root / split / "NORMAL" / "own.png", pixels(7))
    listed = names(in_folders(root))
    counts = {split: Counter(label for _, label in listed[split]) for split in sources.SPLITS}
    drawn = {"val": {0: 2, 1: 1}, "test": {0: 4, 1: 2}}
    for split in ("val", "test"):
        assert counts[split] == (drawn[split] if split in missing else {0: 1})
    assert counts["train"] == {0: 20 - sum(drawn[s][0] for s in missing), 1: 10 - sum(drawn[s][1] for s in missing)}
    everything = [name for split in ("train", *missing) for name, _ in listed[split]]
    assert sorted(everything) == sorted(path.name for path in classed.rglob("*.png"))


def test_the_identity_changes_with_one_pixel_a_label_or_a_split(chest: Path) -> None:
    told = sources.identity(in_folders(chest))
    image = chest / "test" / "NORMAL" / "test-NORMAL-0.png"
    before = np.array(Image.open(image))
    save(image, before ^ np.eye(*before.shape, dtype=np.uint8))
    changed = sources.identity(in_folders(chest))
    save(image, before)
    assert sources.identity(in_folders(chest)) == told != changed
    image.rename(chest / "test" / "NORMAL" / "renamed.png")  # the order may have changed: the samples have not
    (chest / "test" / "NORMAL" / "renamed.png").rename(image)
    assert sources.identity(in_folders(chest, ("PNEUMONIA", "NORMAL"))) not in (told, changed)
    image.rename(chest / "val" / "NORMAL" / "z.png")
    assert sources.identity(in_folders(chest)) not in (told, changed)


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


def test_an_empty_class_or_split_is_refused(chest: Path, classed: Path) -> None:
    shutil.rmtree(chest / "val" / "NORMAL")
    assert len(listed(in_folders(chest))["val"]) == 3  # a class may be absent outside train
    shutil.rmtree(chest / "val" / "PNEUMONIA")
    assert refused(in_folders(chest)) == f"{chest}: val: no images in this split"
    shutil.rmtree(chest / "train" / "PNEUMONIA")
    (chest / "train" / "PNEUMONIA").mkdir()
    assert refused(in_folders(chest)) == f"{chest / 'train' / 'PNEUMONIA'}: no images"
    for path in [*classed.rglob("*-[1-9]*.png")]:
        path.unlink()
    assert "val: no images in this split" in refused(in_folders(classed))  # one image a class: nothing to draw from


def test_folders_that_no_class_and_no_split_names_are_told(chest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sources.passed_over(in_folders(chest)) == f"{WHERE}: train/OTHER (1 images) in {chest}"
    shutil.rmtree(chest / "train" / "OTHER")
    assert sources.passed_over(in_folders(chest)) == ""
    save(chest / "train" / "COVID" / "deep" / "1.png", pixels(1))
    save(chest / "train" / "COVID" / "2.png", pixels(2))
    save(chest / "valid" / "NORMAL" / "1.png", pixels(3))  # a split's name misspelt
    (chest / "train" / "empty").mkdir()
    save(chest / "train" / ".hidden" / "1.png", pixels(4))
    told = f"{WHERE}: valid (1 images), train/COVID (2 images) in {chest}"
    assert sources.passed_over(in_folders(chest)) == told
    assert sources.passed_over(in_folders(chest, splits={"train": "train", "val": "valid", "test": "test"})) == (
        f"{WHERE}: val (6 images), train/COVID (2 images) in {chest}"
    )
    task = {"name": "t", "modality": "x-ray", "source": "folder", "path": chest.name, "template": "{}"}
    task |= {"classes": ["NORMAL", "PNEUMONIA"]}
    (chest.parent / "s.yaml").write_text(yaml.safe_dump({"name": "s", "tasks": [task]}))
    assert cli.main(["plan", "--method", "ncm", "--stream", str(chest.parent / "s.yaml")]) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "train/COVID (2 images)" in error and "no class or split that is listed" in error
