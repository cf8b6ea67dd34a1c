"""What is in a stream's data, counted: images, classes, groups and sizes of every split, and what leaks. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmark import kinds
from benchmark.data import catalog, sources
from benchmark.data.catalog import Source
from benchmark.data.sources.images import Images
from benchmark.data.sources.split import SPLITS, Split
from benchmark.data.yaml_files import read
from benchmark.errors import UserError, one_line
from benchmark.stream import Task


@dataclass(frozen=True)
class SplitFacts:
    """One split: samples and images in it, of each class how many samples, groups, pixels of the images.

    ``classes`` is empty without labels; ``groups`` None where each sample stands for itself; ``sizes``: the least and
    the largest (width, height) of its images.
    """

    name: str
    samples: int
    images: int
    classes: tuple[int, ...]
    groups: int | None
    sizes: tuple[tuple[int, int], tuple[int, int]]

    @property
    def pixels(self) -> str:
        """``64 x 64``, or from the least to the largest."""
        low, high = (f"{width} x {height}" for width, height in self.sizes)
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class TaskFacts:
    """One task: its splits, groups that stand in two of them, and in words what its reader passes over."""

    task: Task
    splits: tuple[SplitFacts, ...]
    shared_groups: int
    passed_over: str

    @property
    def absent(self) -> list[str]:
        """Classes without a sample, each with the split that lacks it."""
        return [
            f"{label.name} in {split.name}"
            for split in self.splits
            for label, count in zip(self.task.labels, split.classes, strict=bool(split.classes))
            if not count
        ]


def surveyed(task: Task, source: Source) -> TaskFacts:
    """Read a task's samples and count them; files of images are opened for their size, and not decoded.

    Raises:
        UserError: they cannot be read.
    """
    groups, found = sources.groups(source), []
    for split in SPLITS:
        loaded = sources.load(source, split)
        classes = np.bincount(loaded.labels, minlength=len(task.labels)).tolist() if task.labels else ()
        classes = classes if kinds.of(task.kind).labelled else ()
        number = len(np.unique(groups[split])) if split in groups else None
        found.append(SplitFacts(split, len(loaded.labels), len(loaded.images), tuple(classes), number, _sizes(loaded)))
    return TaskFacts(task, tuple(found), _shared(source), sources.passed_over(source))


def _sizes(loaded: Split) -> tuple[tuple[int, int], tuple[int, int]]:
    if isinstance(loaded.images, Images):
        seen = []
        for path in loaded.images.paths:
            try:
                with Image.open(path) as image:
                    seen.append(image.size)
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                raise UserError(f"{path}: not readable as an image: {one_line(str(error))}") from None
    else:
        shapes = (
            [image.shape for image in loaded.images] if isinstance(loaded.images, list) else [loaded.images.shape[1:]]
        )
        seen = [(width, height) for height, width, *_ in shapes]
    area = sorted(seen, key=lambda size: (size[0] * size[1], size))
    return area[0], area[-1]


def _shared(source: Source) -> int:
    """How many groups, as the files name them, stand in more than one split."""
    if source.kind not in sources.LISTING:
        return 0
    listed = sources.LISTING[source.kind].listed(source)
    counted = Counter(group for split in listed.values() for group in {sample.group for sample in split})
    return sum(count > 1 for count in counted.values())


# ---- what is there


@dataclass(frozen=True)
class Readiness:
    """Whether a task's samples are on this machine; if not ``lacking`` says why, ``obtain`` where they are had."""

    task: str
    lacking: str = ""
    obtain: str = ""


def readiness(name: str, data: Path) -> list[Readiness]:
    """Of every task of a stream whether its samples are there; nothing is read or downloaded.

    Raises:
        UserError: the stream's file is wrong.
    """
    described = catalog.load(name, None)
    items = read(described.file)["tasks"]
    return [
        _ready(item, task.name, f"{described.file}: tasks[{task.index}]", data, described.file.parent)
        for item, task in zip(items, described.stream, strict=True)
    ]


def _ready(item: dict[str, object], task: str, where: str, data: Path, beside: Path) -> Readiness:
    card = read(catalog.root() / "cards" / f"{item['card']}.yaml") if "card" in item else {}
    told, homepage = " ".join(str(card.get("obtain") or "").split()), str(card.get("homepage") or "")
    obtain = told if not homepage or homepage in told else f"{told} [homepage: {homepage}]".strip()
    try:
        wanted = sources.downloads(catalog.source_of(item, where, data, beside))
    except UserError as error:
        return Readiness(task, str(error).removeprefix(f"{where}.").partition(" (give the folder")[0], obtain)
    return Readiness(task, f"{wanted} is not here yet", obtain) if wanted else Readiness(task)


def lines(found: Sequence[TaskFacts]) -> Iterator[str]:
    """The facts of tasks in lines of text: a block a task, a line a split."""
    for facts in found:
        task = facts.task
        yield f"{task.name}  ({task.modality}, {task.kind})"
        for split in facts.splits:
            groups = "" if split.groups is None else f", {split.groups:,} groups"
            apart = "" if split.images == split.samples else f", {split.samples:,} samples"
            yield f"  {split.name:<5} {split.images:,} images{apart}{groups}, {split.pixels}"
            counts = [f"{label.name} {count:,}" for label, count in zip(task.labels, split.classes, strict=False)]
            if counts:
                yield f"        {'; '.join(counts)}"
        if facts.absent:
            yield f"  no sample of {'; '.join(facts.absent)}"
        if facts.shared_groups:
            yield f"  {facts.shared_groups:,} groups stand in more than one split"
        if facts.passed_over:
            yield f"  passed over: {facts.passed_over}"
