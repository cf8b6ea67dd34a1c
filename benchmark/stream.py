"""Labels, tasks and streams: frozen values that a method may read. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

LABEL_SPACES = ("own", "shared")
INTERPOLATIONS = ("bicubic", "bilinear", "random")  # the last is of training, and bicubic here


@dataclass(frozen=True)
class Label:
    """One class. ``id`` counts over the whole stream in its listed order and stays when tasks are reordered."""

    id: int
    name: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One (modality, task) of a stream; ``of`` is the number of tasks announced.

    Attributes:
        mirror: False where samples mean something else seen in a mirror, and no augmentation may do that.
        metric: the task's own primary metric; empty: that of its kind.
        instruction: what a vision-language model is asked of every sample, where samples bring no question of their
            own; empty where they do.
        answers: of closed questions the legal answers; empty where there are none.
        max_new_tokens: how long an answer may be; 0 where none is written.
    """

    index: int
    name: str
    modality: str
    kind: str
    labels: tuple[Label, ...]
    of: int
    mirror: bool = True
    metric: str = ""
    instruction: str = ""
    answers: tuple[str, ...] = ()
    max_new_tokens: int = 0


@dataclass(frozen=True)
class Stream:
    """An ordered sequence of tasks."""

    name: str
    version: int
    label_space: str
    tasks: tuple[Task, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its tasks, each once, in alphabetical order."""
        return tuple(sorted({task.kind for task in self.tasks}))

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __getitem__(self, item: slice) -> Stream:
        """The stream cut to a slice of its tasks: ``stream[:k]`` is what has been seen after k tasks."""
        return replace(self, tasks=self.tasks[item])

    def labels(self) -> tuple[Label, ...]:
        """Every label of these tasks once, by ascending id."""
        return tuple(sorted({label for task in self.tasks for label in task.labels}, key=lambda label: label.id))

    def reordered(self, order: Sequence[int]) -> Stream:
        """The same tasks in another order: ``index`` follows the place, label ids stay.

        Raises:
            ValueError: ``order`` is no permutation of the task indices.
        """
        if sorted(order) != list(range(len(self))):
            raise ValueError(f"order {list(order)} is no permutation of 0..{len(self) - 1}")
        return replace(self, tasks=tuple(replace(self.tasks[old], index=new) for new, old in enumerate(order)))


@dataclass(frozen=True)
class Framing:
    """How a backbone has images of any shape fitted to its own square, in open_clip's words.

    Attributes:
        mode: ``shortest``: the shorter side is scaled to the square's and the centre cut out; ``longest``: the longer
            side is, and the rest filled; ``squash``: both are, whatever becomes of the proportions.
        interpolation: ``bilinear``, or else bicubic.
        fill: the grey level, 0 to 255, of what ``longest`` leaves empty.
    """

    mode: str = "shortest"
    interpolation: str = "bicubic"
    fill: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError: open_clip has no such mode or interpolation."""
        for given, known in ((self.mode, ("shortest", "longest", "squash")), (self.interpolation, INTERPOLATIONS)):
            if given not in known:
                raise ValueError(f"images are fitted {given!r}, expected one of {', '.join(known)}")


SHORTEST = Framing()


@dataclass(frozen=True)
class Share:
    """The part of a training batch that one of several processes holds: rows ``start`` to ``stop`` of ``size``.

    ``weight``: what this part's mean counts, so that the mean over processes is the mean over the batch.
    """

    start: int
    stop: int
    size: int
    weight: float

    @classmethod
    def of(cls, size: int, rank: int, world: int) -> Share:
        """The ``rank``-th of ``world`` nearly equal parts; one that would be empty is the first row with weight 0."""
        start, stop = size * rank // world, size * (rank + 1) // world
        return cls(start, stop, size, (stop - start) * world / size) if stop > start else cls(0, 1, size, 0.0)


@dataclass(frozen=True)
class Budget:
    """What every method is given alike: how long, how fast and on which views it learns a task."""

    version: ClassVar[int] = 1  # raised when the same values come to mean another training: part of every run's key
    epochs: int = 8
    batch_size: int = 32
    optimizer: str = "adamw"
    lr: float = 5e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.03
    augment: str = "flip"

    def steps(self, samples: int) -> int:
        """Training steps on a task of so many samples."""
        return -(-samples // self.batch_size) * self.epochs
