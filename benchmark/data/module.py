"""The samples of one task, ready for a backbone: decoded and resized once into a uint8 cache, served as batches.

Nothing is decoded per epoch and no worker process is started: what fits is put on the device once and a batch is an
index selection there; what does not fit is read from the memory-mapped cache. Both give the same batch.

Legend: N samples, B batch, H, W pixels.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmark.data import sources
from benchmark.data.catalog import Source
from benchmark.data.files import Images, cache_folder
from benchmark.stream import Task

CACHE_VERSION = 1
PASS_BATCH = 256  # samples per batch where nothing is learned


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


def limited(labels: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Indices of the first ``limit`` samples, the classes in turn, in ascending order."""
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    return np.sort(np.lexsort((labels, turn))[:limit])


def cached(source: Source, identity: str, size: int) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Every split's (images (N, 3, size, size) memory-mapped, labels (N,)), made on first use."""
    folder = cache_folder() / f"{identity[:24]}-{size}-v{CACHE_VERSION}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
        try:
            for split in sources.SPLITS:
                loaded = sources.load(source, split)
                shape = (len(loaded.images), 3, size, size)
                resized(loaded.images, size, open_memmap(building / f"{split}_images.npy", "w+", np.uint8, shape))
                np.save(building / f"{split}_labels.npy", loaded.labels)
            with suppress(OSError):  # another process was faster
                building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    splits = {}
    for split in sources.SPLITS:
        labels = np.load(folder / f"{split}_labels.npy", allow_pickle=False)
        sources.check_labels(source, split, labels)
        splits[split] = np.load(folder / f"{split}_images.npy", mmap_mode="r", allow_pickle=False), labels
    return splits


class Batches:
    """A data set as dicts of tensors, an index selection each.

    Args:
        parts: (images (N, 3, H, W) uint8, labels (N,), task index) of every task in it, one but for joint training.
        order: None for the stored order, else a function that gives this epoch's sample indices.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Tensor, Tensor, int]],
        batch_size: int,
        device: torch.device,
        order: Callable[[], Tensor] | None = None,
        length: int | None = None,
    ) -> None:
        self.images = parts[0][0] if len(parts) == 1 else torch.cat([images for images, _, _ in parts])
        self.labels = torch.cat([labels for _, labels, _ in parts]).to(device)
        self.tasks = torch.cat([torch.full_like(labels, task) for _, labels, task in parts]).to(device)
        self.batch_size, self.device, self.order = batch_size, device, order
        self.samples = len(self.labels) if length is None else length

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.arange(self.samples) if self.order is None else self.order()
        for chosen in order.split(self.batch_size):
            here = chosen.to(self.device)
            images = self.images[chosen.to(self.images.device)].to(self.device, non_blocking=True)
            yield {"image": images, "label": self.labels[here], "task": self.tasks[here], "index": here}


def fits(images: int, device: torch.device) -> bool:
    """Whether so many bytes of images may stay on the device: a quarter of what is free there."""
    return device.type == "cuda" and images < torch.cuda.mem_get_info(device)[0] / 4


@dataclass(frozen=True)
class TaskData:
    """One task's splits as tensors, labels as global ids."""

    task: Task
    splits: dict[str, tuple[Tensor, Tensor]]

    def batches(self, split: str, device: torch.device) -> Batches:
        """The split un-augmented in stored order."""
        images, labels = self.splits[split]
        return Batches([(images, labels, self.task.index)], PASS_BATCH, device)


def training_batches(
    tasks: Sequence[TaskData], batch_size: int, device: torch.device, seed: Callable[[], int], balanced: bool = False
) -> Batches:
    """The training sets of some tasks shuffled together; ``seed`` gives the epoch's seed when an epoch begins."""
    parts = [(*data.splits["train"], data.task.index) for data in tasks]
    counts = [len(labels) for _, labels, _ in parts]

    def order() -> Tensor:
        generator = torch.Generator().manual_seed(seed())
        if not balanced:
            return torch.randperm(sum(counts), generator=generator)
        largest, drawn, first = max(counts), [], 0
        for count in counts:
            rounds = [torch.randperm(count, generator=generator) for _ in range(-(-largest // count))]
            drawn.append(first + torch.cat(rounds)[:largest])
            first += count
        mixed = torch.cat(drawn)
        return mixed[torch.randperm(len(mixed), generator=generator)]

    return Batches(parts, batch_size, device, order, max(counts) * len(counts) if balanced else sum(counts))


def task_data(
    task: Task, source: Source, identity: str, size: int, limit: int | None, device: torch.device
) -> TaskData:
    """Read a task's samples (through the cache), ready for a backbone of this image size."""
    ids = np.array([label.id for label in task.labels])
    splits = {}
    for split, (images, labels) in cached(source, identity, size).items():
        keep = limited(labels, limit)
        pixels = torch.from_numpy(np.array(images[keep])) if limit is not None else _mapped(images)
        if fits(pixels.numel(), device):
            pixels = pixels.to(device)
        splits[split] = pixels, torch.from_numpy(ids[labels[keep]])
    return TaskData(task, splits)


def _mapped(images: NDArray[np.uint8]) -> Tensor:
    """A tensor over a read-only memory map: torch warns that it cannot write there, and nothing here does."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(images)
