"""``source: cifar100``: some classes of CIFAR-100, read by torchvision, which compares the checksums and downloads it.

The set has no validation split: the first images of each class in the file's order are taken out of train for it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.catalog import Source
from benchmark.data.sources.split import Split
from benchmark.errors import UserError, unknown

FOLDER = "cifar-100-python"
ARCHIVE = f"{FOLDER}.tar.gz"
MD5 = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}  # as torchvision has it
VAL = 10  # images of each class


def load(source: Source, split: str) -> Split:
    """The images of the task's classes in the file's order, labels in the order of ``classes``."""
    images, fine, names = _read(source, split == "test")
    labels = np.full(len(fine), -1)
    for place, name in enumerate(source.classes):
        if name.replace(" ", "_") not in names:
            raise unknown("class of CIFAR-100", name, [each.replace("_", " ") for each in names], source.where)
        labels[fine == names.index(name.replace(" ", "_"))] = place
    rows = np.flatnonzero(labels >= 0)
    if split != "test":
        first = np.concatenate([np.flatnonzero(labels == place)[:VAL] for place in range(len(source.classes))])
        rows = np.sort(first) if split == "val" else np.setdiff1d(rows, first)
    return Split(images[rows], labels[rows].astype(np.int64))


def identity(source: Source) -> str:
    """sha256 of the files' official checksums and the classes; nothing is read or downloaded."""
    return hashlib.sha256(f"cifar100 {MD5} {VAL} {source.classes}".encode()).hexdigest()


def missing(source: Source) -> str:
    """The archive, if the set is not on this machine."""
    return "" if _root(source) else ARCHIVE


def home() -> Path:
    """Where it is downloaded to."""
    return Path.home() / ".cache" / "torchvision"


def _root(source: Source) -> Path | None:
    """The folder that holds the set: that of the data, the stream file's, or where it is downloaded to."""
    places = [Path(folder) for folder in (*source.options.get("places", ()), home())]
    return next((place for place in places if (place / FOLDER / "train").is_file()), None)


def _read(source: Source, test: bool) -> tuple[Any, Any, list[str]]:
    root = _root(source)
    try:
        return _arrays(root or home(), test, download=root is None)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source.where}: {ARCHIVE}: {reason}: get https://www.cs.toronto.edu/~kriz/{ARCHIVE} and "
                        "unpack it in the data folder") from None  # fmt: skip


@lru_cache(maxsize=2)
def _arrays(root: Path, test: bool, download: bool) -> tuple[Any, Any, list[str]]:
    """Images uint8 (N, 32, 32, 3), fine labels (N,), and their names."""
    from torchvision.datasets import CIFAR100

    root.mkdir(parents=True, exist_ok=True)
    held: Any = CIFAR100(root, train=not test, download=download)
    return held.data, np.array(held.targets), list(held.classes)
