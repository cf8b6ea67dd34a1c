"""Reading a record, checked by what its types do not say: which names, shapes and numbers belong together. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from benchmark import kinds
from benchmark.errors import shown
from benchmark.record.parts import MOST_SAMPLES, PROTOCOLS
from benchmark.record.schema import SCHEMA, Matrix, Record, StreamEntry

ACROSS = "overall"  # of the tables over all streams: no stream has this name
DEEPEST = 20  # lists in lists
SUMMARY = (  # of every kind
    "last_acc", "avg_acc", "aia", "forgetting", "bwt", "fwt", "transfer", "learning_acc", "worst_task",
)  # fmt: skip
LATER_NUMBERS = ("worst_task", "ece")  # of the summary, than the first records, which do not have them


def shallow(value: object, depth: int = 0) -> None:
    """Raise ValueError where lists and objects stand in each other without end, before anything is made of them."""
    if depth > DEEPEST:
        raise ValueError(f"lists and objects stand in each other more than {DEEPEST} deep")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            shallow(item, depth + 1)


def sound(value: Any) -> Record:
    """A record of any schema so far, checked.

    Raises:
        ValueError: something is missing, of another type or out of range, or the schema is newer than this code.
    """
    if not isinstance(value, dict) or not isinstance(value.get("schema"), int):
        raise ValueError("not a record, it has no 'schema'")
    if value["schema"] > SCHEMA:
        raise ValueError(f"schema {shown(value['schema'])} is newer than {SCHEMA}, the last one this version knows")
    if value["schema"] < 1:
        raise ValueError(f"schema {shown(value['schema'])} is not known")
    try:
        record = msgspec.convert(value, Record)
    except msgspec.ValidationError as error:
        said = re.sub(r" matching regex .* - at", " of another form - at", str(error))
        raise ValueError(f"not a whole record: {said}") from None
    found = next(wrong(record), None)
    if found is not None:
        raise ValueError(f"not a whole record: {found}")
    return record


def wrong(record: Record) -> Iterator[str]:
    """What would break a reader, or become a path that leads elsewhere."""
    stream = record.stream
    tasks, names = len(stream.tasks), stream.task_names
    if (unknown := _unknown(stream)) is not None:
        yield unknown
        return
    if stream.name.casefold() == ACROSS:
        yield f"stream.name {stream.name!r} is that of the tables over all streams"
    if stream.folder not in (stream.name, f"{stream.name}@{stream.hash[:6]}"):
        yield f"stream.folder {shown(stream.folder)} is neither the stream's name nor that with its hash"
    if len(set(names)) < tasks:
        yield "stream.tasks has a name twice"
    if record.config.method.replace(":", ".") not in ("", record.method):
        yield f"config.method {shown(record.config.method)} is not {record.method}"
    if record.config.backbone not in ("", record.backbone):
        yield f"config.backbone {shown(record.config.backbone)} is not {shown(record.backbone)}"
    for argument in record.config.method_args:
        if not argument.isidentifier():
            yield f"config.method_args has {shown(argument)}, which is no name of an argument"
    for metric, protocols in record.scores.items():
        if metric not in (kinds.OWN, *record.kind.metrics) or set(protocols) != set(PROTOCOLS):
            yield f"scores has {shown(metric)}, which is no metric with identity given and hidden"
    for name, matrix in _matrices(record):
        if [len(row) for row in matrix] != [tasks] * (tasks + 1):
            yield f"{name} is not {tasks + 1} x {tasks}"
            return
    yield from _of_own(record)
    if record.stages > tasks + 1:
        yield f"stages {record.stages} are more than {tasks + 1}"
    made = record.provenance
    for when in (made.started, made.finished, made.verified.finished if made.verified else None):
        if when is not None and not _is_time(when):
            yield f"provenance has {when!r}, which is no ISO 8601 time"
    yield from _of_samples(record, set(names))
    if record.partition is not None and not record.partition.fits([task.modality for task in stream.tasks]):
        yield "partition is not the groups of the tasks, numbered in order, with their agreement with the modalities"
    if record.complete:
        yield from _lacking(record, tasks)


def _unknown(stream: StreamEntry) -> str | None:
    """A kind or a metric that there is not, or that is not the task's; None where all are known."""
    if stream.kind not in (*kinds.KINDS, kinds.MIXED):
        return f"stream.kind {shown(stream.kind)} is not known"
    for task in stream.tasks:
        name = task.kind or stream.kind
        if name not in kinds.KINDS:
            return f"stream.tasks has {shown(task.kind)} as the kind of {task.name}, which is not known"
        if task.metric and task.metric not in (kinds.of(name).primaries or (kinds.of(name).primary,)):
            return f"stream.tasks has {shown(task.metric)} as the metric of {task.name}, which is no primary one"
    if stream.kind != kinds.joined(kind.name for kind in stream.kinds).name:
        return f"stream.kind {stream.kind!r} is not that of the tasks"
    return None


def _of_own(record: Record) -> Iterator[str]:
    """Where a column of ``scores.primary`` is not that of the task's own metric."""
    for protocol, matrix in record.scores.get(kinds.OWN, {}).items():
        for place, (task, metric) in enumerate(zip(record.stream.task_names, record.stream.measures, strict=True)):
            own = record.scores.get(metric, {}).get(protocol)
            if own is not None and [row[place] for row in own] != [row[place] for row in matrix]:
                yield f"scores.primary.{protocol} is not scores.{metric}.{protocol} for {task}"


def _of_samples(record: Record, names: set[str]) -> Iterator[str]:
    """What is wrong with what is kept of single samples, classes and subgroups: they are of protocols and tasks."""
    parts: dict[str, Mapping[str, Any]] = {
        "hits": record.hits or {}, "class_recall": record.class_recall or {}, "subgroups": record.subgroups or {}
    }  # fmt: skip
    for part, protocols in parts.items():
        for protocol, kept in protocols.items():
            if protocol not in PROTOCOLS or not names >= set(kept):
                yield f"{part}.{shown(protocol)} is not of a protocol and the tasks"
    speak = {name for name, kind in zip(record.stream.task_names, record.stream.kinds, strict=True) if kind.speaks}
    for part, kept in (("blind", record.blind), ("samples", record.samples)):
        if not speak >= set(kept or ()):
            yield f"{part} is not of the tasks that are answered in words"
    groups, labels = record.groups or {}, {task.name: len(task.labels) for task in record.stream.tasks}
    if not names >= set(groups):
        yield "groups is not of the tasks"
    for protocol, recalls in (record.class_recall or {}).items():
        if {task: len(row) for task, row in recalls.items()} != labels:
            yield f"class_recall.{protocol} is not a number for each label of each task"
    for task, told in (record.class_confusion or {}).items():
        if {len(told.counts), len(told.sensitivity), *map(len, told.counts)} != {labels.get(task)}:
            yield f"class_confusion.{shown(task)} is not a row and a number for each label of a task"
    for protocol, kept in (record.hits or {}).items():
        if sum(hits.n for hits in kept.values() if hits is not None) > MOST_SAMPLES:
            yield f"hits.{protocol} is of more than {MOST_SAMPLES} samples"
            return
        for task, hits in kept.items():
            if hits is not None and not hits.whole:
                yield f"hits.{protocol}.{task} is not n and the bits or levels of n samples"
            elif hits is not None and task in groups and groups[task].n != hits.n:
                yield f"groups.{task} is not of the samples of hits.{protocol}.{task}"
    if sum(numbers.n for numbers in groups.values()) > MOST_SAMPLES:
        yield f"groups is of more than {MOST_SAMPLES} samples"
        return
    for task, numbers in groups.items():
        if not numbers.whole:
            yield f"groups.{task} is not n and the numbers of n samples"


def _lacking(record: Record, tasks: int) -> Iterator[str]:
    """What a complete record must have beyond its identity."""
    for metric in (record.primary, *record.kind.metrics):
        if metric not in record.scores and metric not in LATER_NUMBERS:
            yield f"scores lacks {shown(metric)} with identity given and hidden"
    if record.primary != record.stream.primary:
        yield f"primary {shown(record.primary)} is not that of its {record.kind.name} tasks"
    for protocol in PROTOCOLS:
        known = (record.summary or {}).get(protocol, {})
        for name in (*SUMMARY, *record.kind.summary):
            if name not in known and name not in LATER_NUMBERS:
                yield f"summary.{protocol} lacks {name!r}"
    if record.stages != tasks + 1:
        yield f"stages {record.stages} of a complete run are not {tasks + 1}"
    if sorted(record.permutation) != list(range(tasks)):
        yield f"permutation {shown(record.permutation)} is not one of {tasks} tasks"
    if record.router_confusion is not None and [len(row) for row in record.router_confusion] != [tasks] * tasks:
        yield f"router_confusion is not {tasks} x {tasks}"
    for name, numbers in vars(record.cost).items():
        wanted = {"eval_seconds": tasks + 1, "peak_memory_mib": 1}.get(name, tasks)
        if len(numbers) not in (0, wanted):
            yield f"cost.{name} is not {wanted} number{'s' if wanted > 1 else ''}, or none"
    for name in record.kind.withheld if record.missing is not None else ():
        rows = (record.missing or {}).get(name, {})
        if [len(rows.get(protocol, ())) for protocol in PROTOCOLS] != [tasks] * 2:
            yield f"missing lacks {name!r} with {tasks} tasks, identity given and hidden"
    if record.missing is not None and set(record.missing) != (set(record.kind.withheld) or None):
        yield f"missing is not of what {record.kind.name} tasks may lack"
    if not record.provenance.fingerprint:
        yield "provenance lacks 'fingerprint'"
    if record.provenance.finished is None:
        yield "provenance lacks 'finished'"


def _matrices(record: Record) -> Iterator[tuple[str, Matrix]]:
    for metric, protocols in record.scores.items():
        for protocol, matrix in protocols.items():
            yield f"scores.{metric}.{protocol}", matrix
    if record.router_accuracy is not None:
        yield "router_accuracy", record.router_accuracy


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
