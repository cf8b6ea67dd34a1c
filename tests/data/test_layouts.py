"""The shipped streams of real data on small files of the layouts that their cards describe."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray

from benchmark import cli
from benchmark.data import catalog, sources
from benchmark.data.cache import cached
from benchmark.data.catalog import Source
from benchmark.data.sources.images import decoded
from tests.source_files import WHERE, YES_NO, listed, pixels, save


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
        made = cached(source, sources.identity(source), 16)
        counts[task.name] = [len(made[split].labels) for split in sources.SPLITS]
        assert all(found.images.shape[1:] == (3, 16, 16) for found in made.values())
        assert all(set(made[split].labels) == set(range(len(task.labels))) for split in ("train", "test"))
    assert counts == {
        "fitzpatrick17k": [21, 3, 6],
        "pcam": [6, 6, 6],
        "chest_xray_pneumonia": [36, 4, 10],  # the official validation set is not read
        "ham10000": [98, 14, 28],
    }
    samples = listed(recipe.sources[3])
    groups = [{sample.group for sample in samples[split]} for split in sources.SPLITS]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    images = np.stack([decoded(sample.path) for sample in listed(recipe.sources[1])["val"]])
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


def vqa(root: Path, name: str, **more: list[str]) -> None:
    rows = []
    for i in range(30):
        save(root / name / "images" / f"{i // 3}.png", pixels(i, (9, 8, 3)))
        split = ("train", "train", "val", "test", "test")[i // 3 % 5]
        row = {"image": f"images/{i // 3}.png", "question": f"is it {i % 4}?", "answer": YES_NO[i % 2], "split": split}
        rows.append(row | {key: values[i % len(values)] for key, values in more.items()})
    with open(root / name / "closed.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_mbiil_vqa_reads_the_tables_of_its_cards(tmp_path: Path) -> None:
    vqa(tmp_path, "pathvqa")
    vqa(tmp_path, "vqa_radiology", source=["slake", "vqa_rad"])
    recipe = catalog.load("mbiil_vqa", tmp_path)
    assert recipe.stream.kinds == ("fusion",) and [task.modality for task in recipe.stream] == [
        "pathology",
        "radiology",
    ]
    assert [[label.name for label in task.labels] for task in recipe.stream] == [["no", "yes"]] * 2
    for source in recipe.sources:
        split = cached(source, sources.identity(source), 8)["train"]
        assert split.images.shape == (4, 3, 8, 8) and len(split.labels) == 12 and set(split.labels) == {0, 1}
    slake = {**recipe.sources[1].options, "rows": {"source": "slake"}}
    assert len(sources.load(Source(WHERE, "table", YES_NO, slake, "fusion"), "train").labels) == 6


def test_mbiil_reports_reads_the_tables_of_its_cards(tmp_path: Path) -> None:
    reports = [
        {"image": f"CXR{i}_IM-0001-{v}", "findings": f"lungs {i}", "study": i} for i in range(20) for v in (1, 2)
    ]
    slides = [
        {"image": f"slides/{i}.png", "diagnosis": f"diagnosis {i % 15}", "split": "train" if i < 20 else "test"}
        for i in range(30)
    ]
    for row in reports:
        save(tmp_path / "iu_xray" / "images" / f"{row['image']}.png", pixels(1, (9, 8, 3)))
    for row in slides:
        save(tmp_path / "wsi_dx" / str(row["image"]), pixels(2, (9, 8, 3)))
    pd.DataFrame(reports).to_csv(tmp_path / "iu_xray" / "reports.csv", index=False)
    pd.DataFrame(slides).to_csv(tmp_path / "wsi_dx" / "reports.csv", index=False)
    recipe = catalog.load("mbiil_reports", tmp_path)
    assert recipe.stream.kinds == ("retrieval",) and [task.labels for task in recipe.stream] == [(), ()]
    for source, counts in zip(recipe.sources, ([18, 2, 10], [28, 4, 8]), strict=True):
        loaded = [sources.load(source, split) for split in sources.SPLITS]
        assert [len(split.labels) for split in loaded] == counts
    test = sources.load(recipe.sources[1], "test")
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and len(test.texts) == 4 and len(test.images) == 8


def test_covid_notes3_reads_one_table_three_times(tmp_path: Path) -> None:
    views = ("PA", "AP", "AP Supine", "L", "Axial", "AP semi erect", "Coronal")
    lines = []
    for i in range(84):
        save(tmp_path / "covid_cxr_notes" / "images" / f"{i}.png", pixels(i, (9, 8, 3)))
        split = ("train", "train", "val", "test")[i // 7 % 4]
        row = {"image": f"images/{i}.png", "text": f"note {i // 2}", "view": views[i % 7], "patient": str(i // 7)}
        lines.append(json.dumps(row | {"split": split, "license": None}))
    (tmp_path / "covid_cxr_notes" / "pairs.jsonl").write_text("\n".join(lines))
    recipe = catalog.load("covid_notes3", tmp_path)
    counts = [len(sources.load(source, "train").labels) for source in recipe.sources]
    assert counts == [6, 18, 18] and len({sources.identity(source) for source in recipe.sources}) == 3
