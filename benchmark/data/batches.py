"""The samples of one task, ready for a backbone, served as batches.

No worker process is started: where all of a run fits it is put on the device once and a batch is an index selection
there; what does not fit is read from the memory-mapped cache. Both give the same batch.

Legend: P samples, N images, M texts, B batch, H, W pixels, L tokens of a text.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import kinds
from benchmark.data import sources
from benchmark.data.cache import cached
from benchmark.data.catalog import Source
from benchmark.data.sources.split import Split
from benchmark.stream import Share, Task

PASS_BATCH = 256  # samples per batch where nothing is learned


@dataclass(frozen=True)
class Subgrouping:
    """How a column of a table divides samples: ``numbers`` (P,) are places in ``values``, which are in order."""

    values: tuple[str, ...]
    numbers: NDArray[np.int64]

    @classmethod
    def by(cls, cells: NDArray[np.str_]) -> Subgrouping:
        """By the text (P,) that stands there for each sample."""
        values, numbers = np.unique(cells, return_inverse=True)
        return cls(tuple(values.tolist()), numbers)

    def of(self, samples: NDArray[np.int64]) -> Subgrouping:
        """Of some of the samples, or of some several times."""
        return replace(self, numbers=self.numbers[samples])


@dataclass(frozen=True)
class Samples:
    """One split as tensors: ``labels`` (P,) global ids of the samples.

    ``images`` uint8 (N, 3, H, W) and ``texts`` int64 tokens (M, L) are None where a task has none or they are withheld;
    ``pairs`` (P, 2) are the image and the text of every sample, None where sample i is image i. ``groups`` (P,) number
    what belongs together (a patient), None where each sample stands for itself. ``subgroups``: the columns of a table
    by which scores are told apart (site, sex).
    """

    images: Tensor | None
    labels: Tensor
    texts: Tensor | None = None
    pairs: Tensor | None = None
    groups: NDArray[np.int64] | None = None
    subgroups: Mapping[str, Subgrouping] = field(default_factory=dict)

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


class Rows:
    """Some tensors one behind the other, of which rows are taken: nothing is copied but those.

    What is on a device other than the CPU is put together there, so that taking rows is one step.
    """

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = parts if parts[0].device.type == "cpu" or len(parts) == 1 else [torch.cat(list(parts))]
        self.ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)

    def take(self, rows: Tensor, device: torch.device) -> Tensor:
        """These rows (B,), on the device."""
        if len(self.parts) == 1:
            (whole,) = self.parts
            return whole[rows.to(whole.device)].to(device, non_blocking=True)
        part_B = torch.searchsorted(self.ends, rows, right=True)
        taken = self.parts[0].new_empty(len(rows), *self.parts[0].shape[1:])
        for place in part_B.unique().tolist():
            part, here_B = self.parts[place], part_B == place
            taken[here_B] = part[rows[here_B] - (self.ends[place] - len(part))]
        return taken.to(device, non_blocking=True)


class Batches:
    """A data set as dicts of tensors, an index selection each.

    Args:
        parts: the samples of every task in it and the task's index; one but for joint training.
        order: None for the stored order, else a function that gives this epoch's sample indices, as many as samples.
        part: (rank, world): which part of each batch is this process's; all of it by default.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Samples, int]],
        batch_size: int,
        device: torch.device,
        order: Callable[[], Tensor] | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.parts = [samples for samples, _ in parts]
        self.labels = torch.cat([samples.labels for samples in self.parts]).to(device)
        self.tasks = torch.cat([torch.full((len(samples),), task) for samples, task in parts]).to(device)
        self.batch_size, self.device, self.order, self.part = batch_size, device, order, part
        self.samples = len(self.labels)
        self.inputs = [(name, *found) for name in ("image", "text") if (found := self._stored(name)) is not None]

    def _stored(self, inputs: str) -> tuple[Rows, Tensor] | None:
        """All images, or texts, and the row of every sample; None where there are none."""
        stored = [part.images if inputs == "image" else part.texts for part in self.parts]
        there = [values for values in stored if values is not None]
        if not there:
            return None
        starts = np.cumsum([0, *(len(values) for values in there)]).tolist()
        rows = [part.rows(inputs) + start for part, start in zip(self.parts, starts, strict=False)]
        return Rows(there), torch.cat(rows)

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def share(self, batch: int) -> Share | None:
        """What this process holds of a batch, by number; None if it holds all of it."""
        size = min(self.batch_size, self.samples - batch * self.batch_size)
        return None if self.part[1] == 1 else Share.of(size, *self.part)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.arange(self.samples) if self.order is None else self.order()
        for number, chosen in enumerate(order.split(self.batch_size)):
            share = self.share(number)
            chosen = chosen if share is None else chosen[share.start : share.stop]
            batch = {name: values.take(rows[chosen], self.device) for name, values, rows in self.inputs}
            here = chosen.to(self.device)
            yield batch | {"label": self.labels[here], "task": self.tasks[here], "index": here}


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

    ``balanced``: every task is drawn equally often, to within a sample, in an epoch that is no longer for it: of a
    small task every sample comes several times, of a large one a part that differs from epoch to epoch.

    Processes that learn together shuffle alike and take their ``part`` (rank, world) of every batch.
    """
    parts = [(data.splits["train"], data.task.index) for data in tasks]
    counts = [len(samples) for samples, _ in parts]
    length = sum(counts)

    def order() -> Tensor:
        generator = torch.Generator().manual_seed(seed())
        if not balanced:
            return torch.randperm(length, generator=generator)
        drawn, first = [], 0
        for place, count in enumerate(counts):
            share = (length + place) // len(counts)
            rounds = [torch.randperm(count, generator=generator) for _ in range(-(-share // count))]
            drawn.append(first + torch.cat(rounds)[:share])
            first += count
        mixed = torch.cat(drawn)
        return mixed[torch.randperm(len(mixed), generator=generator)]

    return Batches(parts, batch_size, device, order, part)


def task_data(
    task: Task,
    source: Source,
    identity: str,
    size: int,
    limit: int | None,
    tokenize: Callable[[Sequence[str]], Tensor] | None = None,
    inputs: str = "both",
) -> TaskData:
    """Read a task's samples (through the cache), ready for a backbone of this image size and tokenizer."""
    splits, groups, subgroups = {}, sources.groups(source), sources.subgroups(source)
    for split, found in cached(source, identity, size).items():
        chosen = limited(found.labels, limit)
        labels = found.labels[chosen]
        if kinds.of(task.kind).labelled:
            labels = np.array([label.id for label in task.labels])[labels]
        pairs, rows, texts = None, chosen, None
        if found.pairs is not None:
            assert tokenize is not None, "a task with texts needs the backbone's tokenizer"
            rows, image_P = np.unique(found.pairs[chosen, 0], return_inverse=True)
            text_rows, text_P = np.unique(found.pairs[chosen, 1], return_inverse=True)
            texts = tokenize([found.texts[row] for row in text_rows])
            pairs = torch.from_numpy(np.stack([image_P, text_P], axis=1))
        own = groups[split][chosen] if split in groups else None
        named = {name: Subgrouping.by(cells[chosen]) for name, cells in subgroups.get(split, {}).items()}
        samples = Samples(_pixels(found, rows), torch.from_numpy(labels), texts, pairs, own, named)
        splits[split] = samples.only(inputs)
    return TaskData(task, splits)


def limited(labels: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Indices of the first ``limit`` samples, the classes in turn, in ascending order."""
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    return np.sort(np.lexsort((labels, turn))[:limit])


def _pixels(found: Split, rows: NDArray[np.int64]) -> Tensor:
    """These images of a cached split: in memory, or mapped if they are all."""
    images = found.images
    assert isinstance(images, np.ndarray), "images that come from the cache are arrays"
    if len(rows) < len(images):
        return torch.from_numpy(images[rows])
    with warnings.catch_warnings():  # torch warns that a memory map cannot be written to, and nothing here does
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(images)


def placed(tasks: Sequence[TaskData], splits: Collection[str], device: torch.device) -> list[TaskData]:
    """The tasks with these splits on the device: all their texts, and all their images or none.

    One decision for a run, since joint training takes its batches from all tasks; a split that it does not use takes
    no room.
    """
    used = [task.splits[split] for task in tasks for split in splits]
    there = fits(sum(samples.images.numel() for samples in used if samples.images is not None), device)

    def moved(samples: Samples) -> Samples:
        images = samples.images.to(device) if samples.images is not None and there else samples.images
        return replace(samples, images=images, texts=None if samples.texts is None else samples.texts.to(device))

    return [
        replace(task, splits={name: moved(own) if name in splits else own for name, own in task.splits.items()})
        for task in tasks
    ]


def fits(images: int, device: torch.device) -> bool:
    """Whether so many bytes of images may stay on the device: a quarter of what is free there."""
    return device.type == "cuda" and images < torch.cuda.mem_get_info(device)[0] / 4
