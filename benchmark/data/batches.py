"""The samples of one task, ready for a backbone, served as batches.

No worker process is started: where all of a run fits it is put on the device once and a batch is an index selection
there; what does not fit is read from the memory-mapped cache. Both give the same batch.

Legend: P samples, B batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import kinds
from benchmark.data import sources
from benchmark.data.asked import Words, in_words
from benchmark.data.cache import cached
from benchmark.data.catalog import Source
from benchmark.data.sources.split import Split
from benchmark.data.tensors import COLUMNS, NO_TOKEN, Rows, Samples, Subgrouping, widened
from benchmark.stream import SHORTEST, Framing, Share, Task

PASS_BATCH = 256  # samples per batch where nothing is learned


class Batches:
    """A data set as dicts of tensors, an index selection each.

    What a batch has of ``image``, ``text``, ``prompt``, ``target`` is what the samples have; beside a ``target`` stands
    its ``target_mask``, True where there is a token.

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
        self.inputs = [(name, *found) for name in COLUMNS if (found := self._stored(name)) is not None]

    def _stored(self, inputs: str) -> tuple[Rows, Tensor] | None:
        """All images, texts, prompts or targets, and the row of every sample; None where there are none."""
        there = [values for part in self.parts if (values := part.stored(inputs)) is not None]
        if not there:
            return None
        there = widened(there) if inputs in ("prompt", "target") else there
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
            if "target" in batch:
                batch["target_mask"] = batch["target"] != NO_TOKEN
            here = chosen.to(self.device)
            yield batch | {"label": self.labels[here], "task": self.tasks[here], "index": here}


@dataclass(frozen=True)
class TaskData:
    """One task's splits as tensors, labels as global ids.

    ``facts`` tells the facts of a made report's text, factor -> level; None where a task has none.
    """

    task: Task
    splits: dict[str, Samples]
    facts: Callable[[str], dict[str, str]] | None = None

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
    words: Words | None = None,
    framing: Framing = SHORTEST,
) -> TaskData:
    """Read a task's samples (through the cache), ready for a backbone of this image size, framing and tokenizer.

    With ``words`` the task is asked in words, whatever its kind, and no tokenizer is needed.
    """
    splits, groups, subgroups = {}, sources.groups(source), sources.subgroups(source)
    for split, found in cached(source, identity, size, framing).items():
        chosen = limited(found.labels, limit)
        if words is not None:
            made, rows = in_words(task, found, chosen, words)
        else:
            made, rows = _tokenized(task, found, chosen, tokenize)
        own = groups[split][chosen] if split in groups else _by_image(found, chosen)
        named = {name: Subgrouping.by(cells[chosen]) for name, cells in subgroups.get(split, {}).items()}
        splits[split] = replace(made, images=_pixels(found, rows), groups=own, subgroups=named).only(inputs)
    return TaskData(task, splits, sources.facts(source))


def _by_image(found: Split, chosen: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Of questions several of which are of one image the number of the image."""
    if found.closed is None or found.pairs is None or len(np.unique(image_P := found.pairs[chosen, 0])) == len(chosen):
        return None
    return image_P


def _tokenized(
    task: Task, found: Split, chosen: NDArray[np.int64], tokenize: Callable[[Sequence[str]], Tensor] | None
) -> tuple[Samples, NDArray[np.int64]]:
    """Some samples of a split, still without images, and the rows of the images they need."""
    labels = found.labels[chosen]
    if kinds.of(task.kind).labelled:
        labels = np.array([label.id for label in task.labels])[labels]
    if found.pairs is None:
        return Samples(None, torch.from_numpy(labels)), chosen
    assert tokenize is not None, "a task with texts needs the backbone's tokenizer"
    rows, image_P = np.unique(found.pairs[chosen, 0], return_inverse=True)
    text_rows, text_P = np.unique(found.pairs[chosen, 1], return_inverse=True)
    texts = tokenize([found.texts[row] for row in text_rows])
    return Samples(None, torch.from_numpy(labels), texts, torch.from_numpy(np.stack([image_P, text_P], axis=1))), rows


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
    """The tasks with these splits on the device: all their texts, prompts and targets, and all their images or none.

    One decision for a run, since joint training takes its batches from all tasks; a split that it does not use takes
    no room.
    """
    used = [task.splits[split] for task in tasks for split in splits]
    there = fits(sum(samples.images.nbytes for samples in used if samples.images is not None), device)

    def taken(samples: Samples) -> Samples:
        stored = {f"{name}s": values for name in COLUMNS if (values := samples.stored(name)) is not None}
        moved: Any = {name: values.to(device) for name, values in stored.items() if there or name != "images"}
        return replace(samples, **moved)

    return [
        replace(task, splits={name: taken(own) if name in splits else own for name, own in task.splits.items()})
        for task in tasks
    ]


def fits(images: int, device: torch.device) -> bool:
    """Whether so many bytes of images may stay on the device: a quarter of what is free there."""
    return device.type == "cuda" and images < torch.cuda.mem_get_info(device)[0] / 4
