"""A run that was made again beside its record: whether the two are the same, and if not, what differs most."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.kinds import OWN
from benchmark.record.schema import Matrix, Provenance, Record
from benchmark.record.stored import csv_texts

PARTS = (  # beside the summary
    "scores", "router_accuracy", "router_confusion", "hits", "class_recall", "class_confusion", "subgroups",
    "missing", "partition", "blind", "samples",
)  # fmt: skip


@dataclass(frozen=True)
class CellDifference:
    """A cell of a score matrix that is another number; ``stage`` is how many tasks were learned."""

    metric: str
    protocol: str
    stage: int
    task: str
    then: float | None
    now: float | None

    @property
    def gap(self) -> float:
        """How far apart they are; infinite where one of them is no number."""
        return math.inf if self.then is None or self.now is None else abs(self.then - self.now)

    def __str__(self) -> str:
        gap = "one has no number" if math.isinf(self.gap) else f"{self.gap:.6g}"
        cell = f"{self.metric} {self.protocol}, stage {self.stage}, task {self.task}"
        return f"largest difference {gap}: {cell}: {_number(self.then)} and {_number(self.now)}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6f}"


def difference(then: Record, then_at: Path, now: Record, now_at: Path) -> str | None:
    """What differs most between two records of one run in these folders; None where all that ``then`` has is the same
    to the byte. What only ``now`` has, such as a metric that came later, is no difference.
    """
    if then.stream.hash != now.stream.hash or then.permutation != now.permutation:
        return "the stream is another one: other samples, labels or order"
    cells = sorted(_cells(then, now), key=lambda cell: -cell.gap)
    if cells:
        return f"{cells[0]} ({len(cells)} cells differ)"
    for protocol, numbers in (then.summary or {}).items():
        for name, value in numbers.items():
            again = now.number(protocol, name)
            if again != value:
                return f"the summary differs: {name} {protocol}: {_number(value)} and {_number(again)}"
    for part in PARTS[1:]:
        if getattr(then, part) is not None and _plain(then, part) != _plain(now, part):
            return f"{part} differ"
    for file in sorted(then_at.glob("*.csv")):
        again_at = now_at / file.name
        if not (file.is_file() and again_at.is_file()) or again_at.read_bytes() != file.read_bytes():
            return f"{file.name} differs"
    return None


def _plain(record: Record, part: str) -> object:
    """A part of a record; hits as numbers, for the same numbers may be compressed to other bytes elsewhere."""
    if part != "hits" or record.hits is None:
        return getattr(record, part)
    return {
        protocol: {task: scores and scores.unpacked().tolist() for task, scores in kept.items()}
        for protocol, kept in record.hits.items()
    }


def _cells(then: Record, now: Record) -> Iterator[CellDifference]:
    """The cells of score matrices that are other numbers; those of each task's own metric once, by its name."""
    for metric, protocols in then.scores.items():
        if metric == OWN:
            continue
        for protocol, matrix in protocols.items():
            other: Matrix = now.scores.get(metric, {}).get(protocol, [])
            for stage, row in enumerate(matrix):
                for place, value in enumerate(row):
                    again = other[stage][place] if stage < len(other) else None
                    if again != value:
                        yield CellDifference(metric, protocol, stage, then.stream.task_names[place], value, again)


def contradiction(record: Record, folder: Path) -> str | None:
    """A CSV of a record that does not say what its ``run.json`` does; None where all do."""
    for name, text in csv_texts(record).items():
        file = folder / name
        if not file.is_file() or file.read_bytes() != text.encode():
            return f"{name} is not what run.json says"
    return None


def surroundings(then: Provenance, now: Provenance) -> list[str]:
    """What differs in versions, device with its threads, and processor; what one does not say counts as other."""
    pairs = {"device": (then.device, now.device), "processor": (then.processor, now.processor)}
    pairs["Python"] = then.python, now.python
    for name in sorted({*then.packages, *now.packages}):
        pairs[name] = then.packages.get(name), now.packages.get(name)
    return [f"{name} {a or 'not recorded'} and {b or 'not recorded'}" for name, (a, b) in pairs.items() if a != b]
