"""Files on disk that sources read, the sources that name them, and how a refusal is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from benchmark.data import sources
from benchmark.data.catalog import Source
from benchmark.data.sources import class_folders, table
from benchmark.data.sources.in_files import Sample
from benchmark.errors import UserError

WHERE = "s.yaml: tasks[0]"
CLASSES = ("normal lungs", "pneumonia")
YES_NO = ("no", "yes")
QUESTION = {"image": "file", "text": "question", "label": "answer", "split": "part"}
QUESTIONS = [
    {"file": f"{i // 2}.png", "question": f"question {i % 5}", "answer": YES_NO[i % 2], "kind": "ABC"[i % 3],
     "part": ("train", "train", "train", "val", "test")[i // 4 % 5], "number": i % 4}
    for i in range(40)
]  # fmt: skip
COUNTS = {"train": 6, "val": 3, "test": 4}  # of ``arrays``


def refused(source: Source) -> str:
    """What is said, in one line, where the identity of a source is asked for."""
    with pytest.raises(UserError) as error:
        sources.identity(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def pixels(seed: int, shape: tuple[int, ...] = (9, 11, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path: Path, image: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def in_folders(path: Path, classes: tuple[str, ...] = ("NORMAL", "PNEUMONIA"), **options: Any) -> Source:
    return Source(WHERE, "folder", CLASSES, {"path": path, "folders": list(classes), **options})


def in_table(path: Path, **options: Any) -> Source:
    options = {"columns": {"image": "file", "label": "finding"}} | options
    return Source(WHERE, "table", CLASSES, {"path": path, **options})


def fusion(path: Path, **options: Any) -> Source:
    return Source(WHERE, "table", YES_NO, {"path": path, "columns": QUESTION} | options, "fusion")


def retrieval(path: Path, **options: Any) -> Source:
    columns = {key: QUESTION[key] for key in ("image", "text", "split")}
    return Source(WHERE, "table", (), {"path": path, "columns": columns} | options, "retrieval")


def rows_of(split: sources.Split) -> list[tuple[bytes, str]]:
    """The image and the text of every sample."""
    assert split.pairs is not None
    images = [np.asarray(image).tobytes() for image in split.images]
    return [(images[i], split.texts[t]) for i, t in split.pairs.tolist()]


def listed(source: Source) -> dict[str, list[Sample]]:
    return {"folder": class_folders, "table": table}[source.kind].listed(source)


def names(source: Source) -> dict[str, list[tuple[str, int]]]:
    """The file's name and the label of every sample of every split."""
    found = listed(source)
    return {split: [(sample.path.name, sample.label) for sample in found[split]] for split in sources.SPLITS}


def written(where: Path, rows: Any, kind: str = "csv") -> Path:
    """``where/table.<kind>`` with these rows."""
    path, frame = where / f"table.{kind}", pd.DataFrame(rows)
    if kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return path


def arrays(shape: tuple[int, ...] = (9, 11), column: bool = True) -> dict[str, NDArray[Any]]:
    """Three splits of random images and labels 0, 1, 2 in turn."""
    rng = np.random.default_rng(0)
    made: dict[str, NDArray[Any]] = {}
    for split, n in COUNTS.items():
        made[f"{split}_images"] = rng.integers(0, 256, (n, *shape), np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 3
        made[f"{split}_labels"] = labels[:, None] if column else labels
    return made


def saved(folder: Path, content: dict[str, NDArray[Any]], name: str = "set.npz") -> Path:
    np.savez(folder / name, **content)
    return folder / name


def npz_source(path: Path, classes: tuple[str, ...] = ("a", "b", "c")) -> Source:
    return Source(WHERE, "npz", classes, {"path": path})


def stream_file(folder: Path, content: Any) -> str:
    """``folder/stream.yaml`` with this content, text or what YAML makes of it."""
    file = folder / "stream.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(file)
