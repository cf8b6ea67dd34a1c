"""A task's images, decoded and resized once into a uint8 cache, and never per epoch. No torch.

Legend: N images, H, W pixels.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image

from benchmark import kinds
from benchmark.data import sources
from benchmark.data.catalog import Source
from benchmark.data.sources.contents import cache_folder
from benchmark.data.sources.images import Images
from benchmark.data.sources.split import SPLITS, Split, check_labels

CACHE_VERSION = 1


def resized(images: NDArray[np.uint8] | Images, size: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """(N, H, W) or (N, H, W, 3), or N images of any sizes -> (N, 3, size, size), written into ``out`` if it is given.

    The shorter side is scaled to ``size`` (bicubic) and the centre cut out.
    """
    out = np.empty((len(images), 3, size, size), np.uint8) if out is None else out
    for i, image in enumerate(images):
        height, width = image.shape[:2]
        scale = size / min(height, width)
        full = (max(size, round(width * scale)), max(size, round(height * scale)))
        left, top = (full[0] - size) // 2, (full[1] - size) // 2
        if (width, height) != full:
            image = np.asarray(Image.fromarray(image).resize(full, Image.Resampling.BICUBIC))
        image = image[top : top + size, left : left + size]
        out[i] = image if image.ndim == 2 else image.transpose(2, 0, 1)
    return out


def place(identity: str, size: int) -> Path:
    """The folder of a task's images at a size, once they are made."""
    return cache_folder() / f"{identity[:24]}-{size}-v{CACHE_VERSION}"


def cached(source: Source, identity: str, size: int) -> dict[str, Split]:
    """Every split with its images as (N, 3, size, size), memory-mapped, made on first use."""
    folder = place(identity, size)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
        try:
            for split in SPLITS:
                _write(building, split, sources.load(source, split), size)
            with suppress(OSError):  # another process was faster
                building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    splits = {split: _read(folder, split, kinds.of(source.task_kind).reads_text) for split in SPLITS}
    for split, found in splits.items():
        check_labels(source, split, found.labels)
    return splits


def _write(folder: Path, split: str, loaded: Split, size: int) -> None:
    shape = (len(loaded.images), 3, size, size)
    resized(loaded.images, size, open_memmap(folder / f"{split}_images.npy", "w+", np.uint8, shape))
    np.save(folder / f"{split}_labels.npy", loaded.labels)
    if loaded.pairs is not None:
        np.save(folder / f"{split}_pairs.npy", loaded.pairs)
        (folder / f"{split}_texts.json").write_text(json.dumps(loaded.texts), encoding="utf-8")


def _read(folder: Path, split: str, with_texts: bool) -> Split:
    images = np.load(folder / f"{split}_images.npy", mmap_mode="r", allow_pickle=False)
    labels = np.load(folder / f"{split}_labels.npy", allow_pickle=False)
    if not with_texts:
        return Split(images, labels)
    texts = json.loads((folder / f"{split}_texts.json").read_text(encoding="utf-8"))
    return Split(images, labels, tuple(texts), np.load(folder / f"{split}_pairs.npy", allow_pickle=False))
