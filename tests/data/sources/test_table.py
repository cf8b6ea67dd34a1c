"""Tables of images and labels: what is listed, identities, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmark.data import sources
from benchmark.data.cache import cached
from benchmark.data.sources import table
from tests.source_files import CLASSES, WHERE, in_folders, in_table, listed, names, pixels, refused, save, written

ROWS = [
    {"file": f"{i}.png", "finding": CLASSES[i % 3 == 0], "split": ("train", "train", "val", "test")[i % 4],
     "patient": f"p{i // 3}", "report": 'clear,\n"no" effusion', "number": int(i % 3 == 0)}
    for i in range(24)
]  # fmt: skip
KINDS = ["csv", "tsv", "jsonl", "parquet"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i in range(24):
        save(tmp_path / "t" / f"{i}.png", pixels(i))
    return tmp_path / "t"


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_lists_its_rows_in_order(kind: str, images: Path) -> None:
    columns = {"image": "file", "label": "finding", "split": "split", "group": "patient", "text": "report"}
    listed = names(in_table(written(images, ROWS, kind), columns=columns, allow_leak=True))
    assert listed == {
        split: [(row["file"], row["number"]) for row in ROWS if row["split"] == split] for split in sources.SPLITS
    }


def test_every_kind_of_table_has_the_same_identity_and_integers_do_for_classes(images: Path, tmp_path: Path) -> None:
    columns = {"image": "file", "label": "finding", "group": "patient"}
    numbers = columns | {"label": "number"}
    told = {
        sources.identity(in_table(written(images, ROWS, kind), columns=c)) for kind in KINDS for c in (columns, numbers)
    }
    turned = [row | {"number": 1 - row["number"]} for row in ROWS]
    told.add(sources.identity(in_table(written(images, turned, "csv"), columns=numbers, values=[1, 0])))
    written(images, ROWS, "csv")
    shutil.copytree(images, tmp_path / "moved")
    told.add(sources.identity(in_table(tmp_path / "moved" / "table.csv", columns=columns)))
    assert len(told) == 1
    save(tmp_path / "moved" / "3.png", pixels(3) ^ np.uint8(1))
    assert sources.identity(in_table(tmp_path / "moved" / "table.csv", columns=columns)) not in told


def test_a_table_and_a_folder_with_the_same_samples_are_the_same(chest: Path) -> None:
    rows = [
        {"file": str(sample.path.relative_to(chest)), "finding": sample.label, "split": split}
        for split, samples in listed(in_folders(chest)).items()
        for sample in samples
    ]
    columns = {"image": "file", "label": "finding", "split": "split"}
    assert sources.identity(in_table(written(chest, rows, "csv"), columns=columns)) == sources.identity(
        in_folders(chest)
    )


def test_groups_are_told_beside_what_the_samples_are(images: Path) -> None:
    """Numbers by split, where samples share a group; the identity and the cache of the samples are none the wiser."""
    columns = {"image": "file", "label": "finding", "split": "split"}
    plain = in_table(written(images, ROWS, "csv"), columns=columns)
    grouped = in_table(written(images, ROWS, "csv"), columns=columns | {"group": "patient"}, allow_leak=True)
    assert sources.groups(plain) == sources.groups(in_folders(images)) == {}
    patients = {split: [row["patient"] for row in ROWS if row["split"] == split] for split in sources.SPLITS}
    found = sources.groups(grouped)
    assert {split for split in patients if len(set(patients[split])) < len(patients[split])} == set(found) == {"train"}
    same = [[one == other for other in patients["train"]] for one in patients["train"]]
    assert (found["train"][:, None] == found["train"]).tolist() == same
    assert sources.identity(plain) == sources.identity(grouped)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_group_is_a_group_of_its_own(kind: str, images: Path) -> None:
    rows = pd.DataFrame(ROWS).assign(patient=pd.array([i // 3 if i % 3 else None for i in range(24)], "Int64"))
    columns = {"image": "file", "label": "finding", "group": "patient"}
    path = written(images, rows, kind)
    groups = {s.path.name: s.group for part in listed(in_table(path, columns=columns)).values() for s in part}
    assert groups == {f"{i}.png": f"group:{i // 3}" if i % 3 else f"image:{i}.png" for i in range(24)}


def test_values_stand_for_classes_and_images_lie_in_several_folders(tmp_path: Path) -> None:
    """The layout of HAM10000: identities without suffix, two folders, codes for the classes, lesions as groups."""
    rows = [{"lesion_id": f"L{i // 2}", "image_id": f"ISIC_{i}", "dx": ("nv", "mel")[i // 2 % 2]} for i in range(40)]
    for i in range(40):
        save(tmp_path / f"part_{i % 2 + 1}" / f"ISIC_{i}.jpg", pixels(i))
    columns = {"image": "image_id", "label": "dx", "group": "lesion_id"}
    options = {"columns": columns, "values": ["mel", "nv"], "suffix": ".jpg", "images": ["part_1", "part_2"]}
    source = in_table(written(tmp_path, rows, "csv"), **options)
    listed = names(source)
    assert {split: len(listed[split]) for split in listed} == {"train": 28, "val": 4, "test": 8}
    assert {name: label for split in listed.values() for name, label in split} == {
        f"ISIC_{i}.jpg": 1 - i // 2 % 2 for i in range(40)
    }
    assert cached(source, sources.identity(source), 8)["train"].images.shape == (28, 3, 8, 8)


def test_a_table_names_its_splits_and_one_may_be_missing(images: Path) -> None:
    columns = {"image": "file", "label": "finding", "split": "split", "group": "patient"}
    fold = {"train": 1, "val": 2, "test": 3}
    rows = [row | {"split": fold[row["split"]]} for row in ROWS]
    expected = names(in_table(written(images, ROWS, "csv"), columns=columns, allow_leak=True))
    for kind in KINDS:
        assert names(in_table(written(images, rows, kind), columns=columns, splits=fold, allow_leak=True)) == expected
    without = [row | {"split": "train" if row["split"] == "val" else row["split"]} for row in ROWS]
    source = in_table(written(images, without, "csv"), columns=columns, allow_leak=True)
    drawn = listed(source)
    assert [s.path.name for s in drawn["test"]] == [name for name, _ in expected["test"]]
    assert drawn["val"] and not {s.group for s in drawn["val"]} & {s.group for s in drawn["train"]}
    message = refused(in_table(written(images, rows, "csv"), columns=columns, splits={"train": 1, "test": 3}))
    assert "row 3: column 'split': unknown split '2'" in message


def test_subgroups_are_told_apart_and_are_no_content(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"image": "file", "label": "finding", "split": "split"}
    rows = [row | {"sex": "fm"[i % 2] if i % 5 else ""} for i, row in enumerate(ROWS)]
    for kind in KINDS:
        path = written(images, [row | {"sex": row["sex"] or None} for row in rows], kind)  # a missing cell
        source = in_table(path, columns=columns, subgroups=["sex", "patient"])
        found = sources.subgroups(source)
        for split in sources.SPLITS:
            own = [row for row in rows if row["split"] == split]
            assert list(found[split]) == ["sex", "patient"]
            assert found[split]["sex"].tolist() == [row["sex"] for row in own]
            assert found[split]["patient"].tolist() == [row["patient"] for row in own]
        plain = in_table(path, columns=columns)
        assert sources.subgroups(plain) == {} and sources.identity(plain) == sources.identity(source)
        drawn = in_table(path, columns={"image": "file", "label": "finding"})
        divided = in_table(path, columns={"image": "file", "label": "finding"}, subgroups=["sex"])
        assert names(drawn) == names(divided)  # nor do drawn splits depend on them
    monkeypatch.setattr(table, "MOST_SUBGROUPS", 7)
    assert "column 'patient' has 8 values, at most 7 are subgroups" in refused(source)


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
        ({"subgroups": ["patient", "repport"]}, ("table.csv", "column 'repport'", ".subgroups[1]", "mean 'report'?")),
        ({"subgroups": "patient"}, (WHERE, ".subgroups", "a list of different names, got 'patient'")),
        ({"subgroups": ["patient", "patient"]}, (WHERE, ".subgroups", "different names")),
        ({"subgroups": []}, (WHERE, ".subgroups", "different names")),
    ],
)
def test_wrong_options_of_a_table(options: dict[str, Any], says: tuple[str, ...], images: Path) -> None:
    message = refused(in_table(written(images, ROWS, "csv"), **options))
    assert all(part in message for part in says), message
