"""The samples of one task, ready for a backbone: decoded and resized once into a uint8 cache, served as batches.

Nothing is decoded per epoch and no worker process is started: what fits is put on the device once and a batch is an
index selection there; what does not fit is read from the memory-mapped cache. Both give the same batch.

Legend: P samples, N images, M texts, B batch, H, W pixels, L tokens of a text.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
from benchmark.data.sources import Split
from benchmark.stream import Share, Task

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


def cached(source: Source, identity: str, size: int) -> dict[str, Split]:
    """Every split with its images as (N, 3, size, size), memory-mapped, made on first use."""
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
                if loaded.pairs is not None:
                    np.save(building / f"{split}_pairs.npy", loaded.pairs)
                    (building / f"{split}_texts.json").write_text(json.dumps(loaded.texts), encoding="utf-8")
            with suppress(OSError):  # another process was faster
                building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    splits = {}
    for split in sources.SPLITS:
        images = np.load(folder / f"{split}_images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / f"{split}_labels.npy", allow_pickle=False)
        if source.task_kind != "retrieval":
            sources.check_labels(source, split, labels)
        if source.task_kind == "classification":
            splits[split] = Split(images, labels)
        else:
            texts = json.loads((folder / f"{split}_texts.json").read_text(encoding="utf-8"))
            splits[split] = Split(images, labels, texts, np.load(folder / f"{split}_pairs.npy", allow_pickle=False))
    return splits


@dataclass(frozen=True)
class Samples:
    """One split as tensors: ``labels`` (P,) global ids of the samples.

    ``images`` uint8 (N, 3, H, W) and ``texts`` int64 tokens (M, L) are None where a task has none or they are withheld;
    ``pairs`` (P, 2) are the image and the text of every sample, None where sample i is image i.
    """

    images: Tensor | None
    labels: Tensor
    texts: Tensor | None = None
    pairs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, inputs: str) -> Samples:
        """Without the texts (``image``) or without the images (``text``); ``both`` as it is."""
        images = None if inputs == "text" else self.images
        return replace(self, images=images, texts=None if inputs == "image" else self.texts)

    def rows(self, inputs: str) -> Tensor:
        """(P,) the row of every sample's image or text."""
        return torch.arange(len(self)) if self.pairs is None else self.pairs[:, int(inputs == "text")]

    def items(self, inputs: str) -> Samples:
        """The images alone, each once, or the texts: ``label`` is then its row."""
        alone = self.only(inputs)
        rows = self.images if inputs == "image" else self.texts
        assert rows is not None
        column = torch.arange(len(rows))
        return replace(alone, labels=column, pairs=torch.stack([column, column], dim=1))


def joined(parts: Sequence[Samples]) -> Samples:
    """The samples of several tasks, of one kind and with the same inputs."""
    if len(parts) == 1:
        return parts[0]
    first, pairs = torch.zeros(2, dtype=torch.long), []
    for part in parts:
        if part.pairs is not None:
            pairs.append(part.pairs + first)
            first = first + torch.tensor([0 if x is None else len(x) for x in (part.images, part.texts)])
    images = [part.images for part in parts if part.images is not None]
    texts = [part.texts for part in parts if part.texts is not None]
    labels = torch.cat([part.labels for part in parts])
    return Samples(
        torch.cat(images) if images else None,
        labels,
        torch.cat(texts) if texts else None,
        torch.cat(pairs) if pairs else None,
    )


class Batches:
    """A data set as dicts of tensors, an index selection each.

    Args:
        parts: the samples of every task in it and the task's index; one but for joint training.
        order: None for the stored order, else a function that gives this epoch's sample indices.
        length: of the order, where it is not every sample once.
        part: (rank, world): which part of each batch is this process's; all of it by default.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Samples, int]],
        batch_size: int,
        device: torch.device,
        order: Callable[[], Tensor] | None = None,
        length: int | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.data = joined([samples for samples, _ in parts])
        self.labels = self.data.labels.to(device)
        self.tasks = torch.cat([torch.full((len(samples),), task) for samples, task in parts]).to(device)
        self.batch_size, self.device, self.order, self.part = batch_size, device, order, part
        self.samples = len(self.data) if length is None else length

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def share(self, batch: int) -> Share | None:
        """What this process holds of a batch, by number; None if it holds all of it."""
        size = min(self.batch_size, self.samples - batch * self.batch_size)
        return None if self.part[1] == 1 else Share.of(size, *self.part)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.arange(self.samples) if self.order is None else self.order()
        rows = {"image": self.data.rows("image"), "text": self.data.rows("text")}
        inputs = {"image": self.data.images, "text": self.data.texts}
        for number, chosen in enumerate(order.split(self.batch_size)):
            share, batch = self.share(number), {}
            chosen = chosen if share is None else chosen[share.start : share.stop]
            for name, values in inputs.items():
                if values is not None:
                    selected = values[rows[name][chosen].to(values.device)]
                    batch[name] = selected.to(self.device, non_blocking=True)
            here = chosen.to(self.device)
            yield batch | {"label": self.labels[here], "task": self.tasks[here], "index": here}


def fits(images: int, device: torch.device) -> bool:
    """Whether so many bytes of images may stay on the device: a quarter of what is free there."""
    return device.type == "cuda" and images < torch.cuda.mem_get_info(device)[0] / 4


@dataclass(frozen=True)
class TaskData:
    """One task's splits as tensors, labels as global ids."""

    task: Task
    splits: dict[str, Samples]

    def batches(self, split: str, device: torch.device, inputs: str = "both") -> Batches:
        """The split un-augmented in stored order; ``inputs`` image or text withholds the other one."""
        return Batches([(self.splits[split].only(inputs), self.task.index)], PASS_BATCH, device)

    def items(self, split: str, device: torch.device, inputs: str) -> Batches:
        """The split's images alone, each once, or its texts: what retrieval asks with and looks for."""
        return Batches([(self.splits[split].items(inputs), self.task.index)], PASS_BATCH, device)


def training_batches(
    tasks: Sequence[TaskData], batch_size: int, device: torch.device, seed: Callable[[], int], balanced: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Batches:  # fmt: skip
    """The training sets of some tasks shuffled together; ``seed`` gives the epoch's seed when an epoch begins.

    Processes that learn together shuffle alike and take their ``part`` (rank, world) of every batch.
    """
    parts = [(data.splits["train"], data.task.index) for data in tasks]
    counts = [len(samples) for samples, _ in parts]

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

    length = max(counts) * len(counts) if balanced else sum(counts)
    return Batches(parts, batch_size, device, order, length, part)


def task_data(
    task: Task,
    source: Source,
    identity: str,
    size: int,
    limit: int | None,
    device: torch.device,
    tokenize: Callable[[Sequence[str]], Tensor] | None = None,
    inputs: str = "both",
) -> TaskData:
    """Read a task's samples (through the cache), ready for a backbone of this image size and tokenizer."""
    ids = np.array([label.id for label in task.labels])
    splits = {}
    for split, found in cached(source, identity, size).items():
        keep = limited(found.labels, limit)
        pairs, rows, texts = None, keep, None
        if found.pairs is not None:
            assert tokenize is not None, "a task with texts needs the backbone's tokenizer"
            rows, image_P = np.unique(found.pairs[keep, 0], return_inverse=True)
            text_rows, text_P = np.unique(found.pairs[keep, 1], return_inverse=True)
            texts = tokenize([found.texts[row] for row in text_rows]).to(device)
            pairs = torch.from_numpy(np.stack([image_P, text_P], axis=1))
        images = found.images
        assert isinstance(images, np.ndarray)
        pixels = _mapped(images) if len(rows) == len(images) else torch.from_numpy(np.array(images[rows]))
        if fits(pixels.numel(), device):
            pixels = pixels.to(device)
        labels = found.labels[keep] if task.kind == "retrieval" else ids[found.labels[keep]]
        splits[split] = Samples(pixels, torch.from_numpy(labels), texts, pairs).only(inputs)
    return TaskData(task, splits)


def _mapped(images: NDArray[np.uint8]) -> Tensor:
    """A tensor over a read-only memory map: torch warns that it cannot write there, and nothing here does."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(images)
