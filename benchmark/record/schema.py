"""What a record is: the content of ``run.json``, typed. Nothing else in the suite knows its keys.

:func:`benchmark.record.soundness.sound` reads and checks every schema there was, ``to_json`` gives the keys in order.
Of an unfinished run only its identity is certain, the rest has defaults. Values are frozen: what changes is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, Any, Literal

from msgspec import Meta

from benchmark import kinds
from benchmark.kinds import Kind
from benchmark.record.partition import Partition
from benchmark.record.parts import (
    MOST_SHOWN,
    PROTOCOLS,
    AnswerSample,
    ClassConfusion,
    Configuration,
    Costs,
    Count,
    Divergence,
    Hex,
    Label,
    LeftFile,
    Name,
    Provenance,
    Repeats,
    SampleGroups,
    SampleScores,
    Sha256,
    Share,
    SubgroupScore,
    Text,
)
from benchmark.stream import Stream, Task

SCHEMA = 1
OWN_MARK = " (own)"  # behind a method's name, in every table, figure and sentence

Row = list[Share | None]  # a number for each task; None where the protocol defines no cell or the method has no answer
Matrix = list[Row]  # (T+1, T): row 0 before any training


@dataclass(frozen=True)
class TaskEntry:
    """A task as the record names it.

    Attributes:
        kind: where the stream's tasks are of several, else empty: the stream's.
        metric: the task's own primary metric where that is not the first of its kind.
    """

    name: Name
    modality: Text = ""
    labels: list[Label] = field(default_factory=list)
    kind: str = ""
    metric: str = ""

    @classmethod
    def of(cls, task: Task, stream: Stream) -> TaskEntry:
        """A task of a stream, which says of it what the stream's own entry does not."""
        kind = task.kind if len(stream.kinds) > 1 else ""
        metric = task.metric if task.metric != kinds.of(task.kind).primary else ""
        return cls(task.name, task.modality, [label.name for label in task.labels], kind, metric)


@dataclass(frozen=True)
class StreamEntry:
    """The stream in the order of the run; ``folder`` is its name, with the start of the hash where names clash.

    ``kind`` is that of all tasks, or ``kinds.MIXED``, and then each task names its own. What is not ``ranked`` is a
    stream to choose settings on.
    """

    name: Name
    folder: Annotated[str, Meta(max_length=210)]
    tasks: Annotated[list[TaskEntry], Meta(min_length=1)]
    version: Annotated[int, Meta(ge=-(2**53), le=2**53)] = 1
    hash: Hex = ""
    kind: str = "classification"
    label_space: Annotated[str, Meta(pattern=r"^(own|shared)\Z")] = "own"
    ranked: bool = True

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    @property
    def kinds(self) -> list[Kind]:
        """Of each task."""
        return [kinds.of(task.kind or self.kind) for task in self.tasks]

    @property
    def measures(self) -> list[str]:
        """Each task's own primary metric."""
        return [task.metric or kind.primary for task, kind in zip(self.tasks, self.kinds, strict=True)]

    @property
    def primary(self) -> str:
        """The primary metric that all tasks share, else ``primary``: in each column that of its task."""
        return self.measures[0] if len(set(self.measures)) == 1 else kinds.OWN


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        primary: the metric of all tasks, or ``primary`` where they do not share one.
        scores: metric -> protocol -> matrix; a metric that a task does not have is null in its column. ``primary`` has
            in each column the task's own metric; old records lack it.
        router_accuracy: the share of samples that the router sent to their own task, a matrix; None in old records.
        router_confusion: (T, T) how many test samples of each task the final router sent to each task.
        summary: protocol -> name -> number, None where it is undefined; None until the run is complete.
        hits: protocol -> task -> the final model's score of each sample, None without an answer; None in records made
            before they were kept. Old retrieval records have R@1 there.
        groups: task -> which of these samples belong together; without the tasks where each stands for itself.
        class_recall: protocol -> task -> the final model's recall of each of its labels, None where a label has no test
            sample or the method no answer; of tasks with labels.
        class_confusion: task -> how its classes are taken for one another; of tasks with labels.
        subgroups: protocol -> task -> column of its table -> value -> the final model's score of the samples with it;
            of tasks that name such columns.
        diverged: where the run stopped, if a loss, a parameter or a score was not finite.
        missing: withheld input -> protocol -> the final model's row without it; of fusion.
        repeats: task -> what stands twice in its data; of tasks with such, None where nothing does or in old records.
        partition: which tasks the method put together; of methods that form groups of tasks.
        blind: task -> the primary metric of answers that are guessed without any image; of tasks of questions.
        samples: task -> some questions with their answers; of tasks of questions of made data alone.
        files: what a complete run left beside its record where it was made: name -> sha256; None in old records.
        own: whether it was read as one of the user's own, beside stored ones; no part of what is written.
        stages: rows of the matrices that are filled.
    """

    schema: int
    key: Annotated[str, Meta(pattern=r"^[0-9a-f]{1,64}\Z")]
    method: Name
    stream: StreamEntry
    seed: Count
    order: Count
    status: Literal["running", "complete"]
    group: Annotated[str, Meta(pattern=r"^[a-z][a-z ]{0,40}\Z")] = "plain"
    config: Configuration = field(default_factory=Configuration)
    settings: Text = ""
    backbone: Text = ""
    permutation: list[Count] = field(default_factory=list)
    limit: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    split: Annotated[str, Meta(pattern=r"^(test|val)\Z")] = "test"
    stages: Count = 0
    primary: str = "accuracy"
    scores: dict[str, dict[str, Matrix]] = field(default_factory=dict)
    router_accuracy: Matrix | None = None
    summary: dict[str, dict[str, float | None]] | None = None
    cost: Costs = field(default_factory=Costs)
    provenance: Provenance = field(default_factory=Provenance)
    router_confusion: list[list[Count]] | None = None
    hits: dict[str, dict[str, SampleScores | None]] | None = None
    groups: dict[str, SampleGroups] | None = None
    class_recall: dict[str, dict[str, Row]] | None = None
    class_confusion: dict[str, ClassConfusion] | None = None
    subgroups: dict[str, dict[str, dict[str, dict[str, SubgroupScore]]]] | None = None
    missing: dict[str, dict[str, Row]] | None = None
    repeats: dict[str, Repeats] | None = None
    partition: Partition | None = None
    blind: dict[str, Share | None] | None = None
    samples: dict[str, Annotated[list[AnswerSample], Meta(max_length=MOST_SHOWN)]] | None = None
    diverged: Divergence | None = None
    files: dict[LeftFile, Sha256] | None = None
    own: bool = field(default=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The keys in the order of ``run.json``; parts that a run does not have are left out."""
        value = asdict(self)
        last = [name for name in LAST if value[name] is not None]
        ordered = {name: value[name] for name in (*ORDER, *last)}
        for part, names in LATER.items():
            for name, default in names.items():
                if ordered[part][name] == default:
                    del ordered[part][name]
        tasks = ordered["stream"].pop("tasks")
        ordered["stream"]["tasks"] = [
            {k: v for k, v in task.items() if v or k not in ("kind", "metric")} for task in tasks
        ]
        for kept in (ordered.get("hits") or {}).values():
            for task, scores in kept.items():
                kept[task] = {name: part for name, part in scores.items() if part} if scores is not None else None
        return ordered

    @property
    def complete(self) -> bool:
        return self.status == "complete"

    @property
    def ranked(self) -> bool:
        """Whether it may enter a leaderboard."""
        return self.complete and self.split == "test" and self.limit is None and self.stream.ranked

    @property
    def named(self) -> str:
        """The method as every table names it: marked where the run is one of the user's own beside stored ones."""
        return f"{self.method}{OWN_MARK}" if self.own else self.method

    @property
    def kind(self) -> Kind:
        return kinds.joined(kind.name for kind in self.stream.kinds)

    @property
    def place(self) -> tuple[str, str, str, int, int]:
        """What tells one run from all others, and in which order runs are listed."""
        return self.stream.folder, self.method, self.key, self.seed, self.order

    @property
    def finished(self) -> datetime:
        """When a complete run ended; a time without a zone is taken as UTC."""
        when = datetime.fromisoformat(str(self.provenance.finished))
        return when if when.tzinfo else when.replace(tzinfo=UTC)

    def matrix(self, protocol: str) -> Matrix:
        """Of the primary metric."""
        return self.scores[self.primary][protocol]

    def number(self, protocol: str, name: str) -> float | None:
        """A number of the summary of a complete run; None where it is undefined or was not measured.

        A ratio of numbers of which one is not above 0 is undefined, though it stands in the summary.
        """
        assert self.summary is not None, "an unfinished run has no summary"
        known = self.summary[protocol]
        _, parts = self.kind.of_numbers.get(name, ("", ()))
        return None if any((known.get(part) or 0) <= 0 for part in parts) else known.get(name)

    def measured(self, name: str) -> bool:
        """Whether the summary of a complete run has this number, undefined or not."""
        return any(name in numbers for numbers in (self.summary or {}).values())

    def with_row(self, stage: int, rows: Mapping[str, Mapping[str, Row]], router: Row) -> Record:
        """With one row more: metric -> protocol -> row; the rows above it are known."""
        scores = {
            metric: {protocol: _put(matrix, stage, rows[metric][protocol]) for protocol, matrix in protocols.items()}
            for metric, protocols in self.scores.items()
        }
        router_accuracy = _put(self.router_accuracy or [], stage, router)
        return replace(self, scores=scores, router_accuracy=router_accuracy, stages=stage + 1)


LAST = (  # where a run has them
    "router_confusion", "hits", "groups", "class_recall", "class_confusion", "subgroups", "missing", "repeats",
    "partition", "blind", "samples", "diverged", "files",
)  # fmt: skip
ORDER = (
    "schema", "key", "method", "group", "stream", "config", "settings", "backbone", "seed", "order", "permutation",
    "limit", "split", "status", "stages", "primary", "scores", "router_accuracy", "summary", "cost", "provenance",
)  # fmt: skip

LATER: dict[str, dict[str, Any]] = {  # than the first records: left out where they say nothing
    "stream": {"ranked": True},
    "config": {"inputs": "both", "gallery": "seen", "over": "samples", "weights": "", "versions": {}},
    "provenance": {"processor": None, "bleu": None, "verified": None},
}


def blank(tasks: int) -> Matrix:
    """A matrix of nulls."""
    return [[None] * tasks for _ in range(tasks + 1)]


def unmeasured(stream: StreamEntry) -> dict[str, Any]:
    """The fields that a run fills, before it has begun: matrices of nulls, costs of no task."""
    tasks, metrics = len(stream.tasks), dict.fromkeys(chain([kinds.OWN], *(kind.metrics for kind in stream.kinds)))
    return {
        "status": "running",
        "primary": stream.primary,
        "scores": {metric: {protocol: blank(tasks) for protocol in PROTOCOLS} for metric in metrics},
        "router_accuracy": blank(tasks),
    }


def _put(matrix: Matrix, stage: int, row: Row) -> Matrix:
    return [*matrix[:stage], list(row), *matrix[stage + 1 :]]
