"""Do records of one stream's folder speak of the same stream? Each may be sound and still not belong to the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from benchmark.record.schema import Record


@dataclass(frozen=True)
class Common:
    """What most complete records of a stream say; equals are decided by who stands first.

    Attributes:
        stream: its hash, label space, and in listed order the name, kind, metric and number of classes of each task.
        samples: task -> how many test samples, of the records that enter a leaderboard.
    """

    stream: tuple[object, ...]
    samples: dict[str, int]

    def contradicted(self, record: Record) -> str | None:
        """Why a complete record is not of this stream; None where it is."""
        if _stream(record) != self.stream:
            return "its tasks or its hash are not those of the other records of this stream"
        for task, n in _samples(record) if record.ranked else ():
            if self.samples.get(task, n) != n:
                return f"it is of {n} test samples of {task}, other records of this stream of {self.samples[task]}"
        return None


def common(records: Iterable[Record]) -> Common | None:
    """What most of these records say, those that are not complete aside; None where there is none."""
    complete = [record for record in records if record.complete]
    if not complete:
        return None
    ((stream, _),) = Counter(map(_stream, complete)).most_common(1)
    sizes: dict[str, Counter[int]] = {}
    for record in complete:
        if record.ranked and _stream(record) == stream:
            for task, n in _samples(record):
                sizes.setdefault(task, Counter())[n] += 1
    return Common(stream, {task: count.most_common(1)[0][0] for task, count in sizes.items()})


def _stream(record: Record) -> tuple[object, ...]:
    stream = record.stream
    told = zip(record.permutation, stream.tasks, stream.kinds, stream.measures, strict=True)
    tasks = sorted((place, task.name, kind.name, metric, len(task.labels)) for place, task, kind, metric in told)
    return stream.hash, stream.label_space, tuple(tasks)


def _samples(record: Record) -> set[tuple[str, int]]:
    kept = (record.hits or {}).values()
    return {(task, hits.n) for of in kept for task, hits in of.items() if hits is not None}
