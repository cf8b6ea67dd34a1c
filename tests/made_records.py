"""Complete records without a run, for the tests of what is made from records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import kinds
from benchmark.record.parts import AnswerSample, SampleScores, SubgroupScore
from benchmark.record.schema import (
    PROTOCOLS,
    Configuration,
    Costs,
    Matrix,
    Provenance,
    Record,
    StreamEntry,
    TaskEntry,
    blank,
)
from benchmark.record.stored import path_of, write_record
from benchmark.record.summary import summarise

TASKS = ("lung_ct", "retina_oct", "skin")
CONFIG = Configuration(
    epochs=3, batch_size=32, optimizer="adamw", lr=0.001, weight_decay=0.0, schedule="cosine", warmup=0.1,
    augment="flip", method="ewc", stream="three", backbone="phantom-clip", sampling="proportional", precision="32-true",
    method_args={"strength": 1e-05},
)  # fmt: skip


def made(
    method: str = "ewc", key: str = "0123456789ab", seed: int = 0, order: int = 0, *, quality: float = 0.0,
    tasks: tuple[str, ...] = TASKS, given: Any = None, kind: str = "classification", **changes: Any,
) -> Record:  # fmt: skip
    """A complete record, with random scores of its own unless ``given`` says them; order 1 is the reverse."""
    T = len(tasks)
    permutation = list(range(T))[:: 1 if order == 0 else -1]
    generator = np.random.default_rng([seed, order, int(key, 16), *method.encode()])
    matrix = np.array(given, float) if given is not None else np.round(generator.random((T + 1, T)) * 0.5 + quality, 4)
    scores = {name: {"given": matrix.tolist(), "hidden": seen(matrix)} for name in kinds.of(kind).metrics}
    described = [TaskEntry(tasks[place], tasks[place].split("_")[0], ["a"]) for place in permutation]
    record = Record(
        schema=1,
        key=key,
        method=method,
        stream=StreamEntry("three", "three", described, hash="ff", kind=kind),
        seed=seed,
        order=order,
        status="complete",
        config=replace(CONFIG, method=method, backbone=changes.get("backbone", CONFIG.backbone)),
        backbone="phantom-clip",
        permutation=permutation,
        stages=T + 1,
        primary=kinds.of(kind).primary,
        scores=scores,
        summary=summarise(kinds.of(kind), scores),
        cost=costs(T, seed),
        provenance=Provenance(fingerprint="aa", finished=f"2026-01-01T00:00:{seed:02d}+00:00"),
    )
    return replace(record, **changes)


def costs(tasks: int, seed: int) -> Costs:
    """What a run of so many tasks took; the same every time but for the seed."""
    of_three = ([10, 30, 20], [1, 2, 3], [100, 200, 300], [1.0, 2.0, 3.5 + seed])
    repeated = [(values * tasks)[:tasks] for values in of_three]
    return Costs(*repeated, [0.25] * (tasks + 1), [1.0] * tasks, [100.0 + seed])


def flat(method: str, key: str, *scores: float, **changes: Any) -> list[Record]:
    """Runs with seeds from 0 on, each with one score everywhere."""
    return [made(method, key, seed, given=np.full((4, 3), score), **changes) for seed, score in enumerate(scores)]


def seen(matrix: np.ndarray) -> Matrix:
    """The matrix with the identity hidden: row 0 and tasks not learned yet are null."""
    return [[score if place < stage else None for place, score in enumerate(row)]
            for stage, row in enumerate(matrix.tolist())]  # fmt: skip


def on(stream: str, record: Record) -> Record:
    """The record as one of another stream of this name."""
    return replace(record, stream=replace(record.stream, name=stream, folder=stream))


def unanswered(record: Record) -> Record:
    """The record of a method that has no answer with the identity hidden."""
    T = len(record.stream.tasks)
    scores = {metric: protocols | {"hidden": blank(T)} for metric, protocols in record.scores.items()}
    return replace(record, scores=scores, summary=summarise(record.kind, scores, record.missing))


def lacking(record: Record) -> Record:
    """A record of fusion whose final model was asked without the image and without the text."""
    last = {protocol: record.matrix(protocol)[-1] for protocol in PROTOCOLS}
    without = {name: {protocol: [(score or 0) * part for score in row] for protocol, row in last.items()}
               for name, part in (("image", 0.25), ("text", 0.5))}  # fmt: skip
    return replace(record, missing=without, summary=summarise(record.kind, record.scores, without))


def save(results: Path, *many: Record) -> Path:
    for record in many:
        write_record(path_of(results, record), record)
    return results


def archive(text: str) -> bytes:
    """What an old run left as its predictions, told from others by a text; :func:`archived` reads it."""
    buffer = BytesIO()
    np.savez(buffer, text=np.array(text))
    return buffer.getvalue()


def archived(file: Path) -> str:
    with np.load(file, allow_pickle=False) as parts:
        return str(parts["text"])


def packed(bits: Sequence[int]) -> SampleScores:
    """A task's hits as a record keeps them."""
    return SampleScores.packed(np.array(bits, bool))


def with_hits(record: Record, hits: Mapping[str, Sequence[int]]) -> Record:
    """The record with the same hits by name of the task for both protocols, and their means as its last scores."""
    kept = {protocol: {task: packed(bits) for task, bits in hits.items()} for protocol in PROTOCOLS}
    last = [float(np.mean(hits[task])) for task in record.stream.task_names]
    primary = {protocol: [*record.matrix(protocol)[:-1], last] for protocol in PROTOCOLS}
    scores = record.scores | {record.primary: primary}
    return replace(record, hits=kept, scores=scores, summary=summarise(record.kind, scores, record.missing))


def told_apart(
    record: Record, recalls: Mapping[str, list[float | None]],
    subgroups: Mapping[str, Mapping[str, Mapping[str, tuple[int, float | None]]]],
) -> Record:  # fmt: skip
    """The record with these recalls of a task's labels, without a number for those of other tasks, and these subgroups
    (task, column, value: samples, score), the same for both protocols."""
    recall = {task.name: recalls.get(task.name, [None] * len(task.labels)) for task in record.stream.tasks}
    scores = {
        task: {column: {value: SubgroupScore(*pair) for value, pair in values.items()} for column, values in of.items()}
        for task, of in subgroups.items()
    }
    return replace(record, class_recall=dict.fromkeys(PROTOCOLS, recall), subgroups=dict.fromkeys(PROTOCOLS, scores))


# Streams with answers in words: task -> its kind, its own metric where that is not the first of its kind

QUESTIONS = {"path_vqa": ("generation", ""), "ct_vqa": ("generation", ""), "ct_reports": ("generation", "f1")}
MIXED = {"skin_classes": ("classification", ""), "mri_notes": ("fusion", ""), **QUESTIONS}
ODD_ANSWER = 'No. <script>alert("x")</script> ' + "& so on " * 40


def talking(
    method: str = "ewc", key: str = "0123456789ab", seed: int = 0, order: int = 0, *,
    tasks: Mapping[str, tuple[str, str]] = MIXED, samples: int = 40, **changes: Any,
) -> Record:  # fmt: skip
    """A complete record of a stream of several kinds or metrics, with random scores that its samples bear out."""
    kind = kinds.joined(kind for kind, _ in tasks.values())
    plain = made(method, key, seed, order, tasks=tuple(tasks))
    entries = [
        replace(task, labels=["a", "b"] if kinds.of(tasks[task.name][0]).labelled else [],
                kind=tasks[task.name][0] if kind.name == kinds.MIXED else "", metric=tasks[task.name][1])
        for task in plain.stream.tasks
    ]  # fmt: skip
    name = "mixed" if kind.name == kinds.MIXED else "questions"
    stream = replace(plain.stream, name=name, folder=name, tasks=entries, kind=kind.name)
    record = replace(plain, stream=stream, primary=stream.primary)
    generator = np.random.default_rng([seed, order, 7, *method.encode()])
    hits = {}
    for task, metric in zip(stream.task_names, stream.measures, strict=True):
        drawn = generator.random(samples)
        hits[task] = SampleScores.packed(np.round(255 * drawn) / 255 if metric == "f1" else drawn < 0.6)
    last = [float(hits[task].unpacked().mean()) for task in stream.task_names]
    whole = {protocol: [*matrix[:-1], last] for protocol, matrix in plain.scores["accuracy"].items()}
    known = dict.fromkeys([kinds.OWN, *(metric for kind in stream.kinds for metric in kind.metrics)])
    scores = {metric: {p: _columns(whole[p], stream, metric) for p in PROTOCOLS} for metric in known}
    asked = [task for task in stream.task_names if tasks[task][0] == "generation"]
    shown = [("Is it round?", "no", "No.", ODD_ANSWER), ("What is\nseen?", "a mass", "", "a cyst")]
    return replace(
        record, scores=scores, summary=summarise(record.kind, scores), hits=dict.fromkeys(PROTOCOLS, hits),
        blind=dict.fromkeys(asked, 0.25), samples={task: [AnswerSample.of(*one) for one in shown] for task in asked},
        **changes,
    )  # fmt: skip


def METRICS(stream: StreamEntry) -> list[str]:
    return list(dict.fromkeys(metric for kind in stream.kinds for metric in kind.metrics))


def _columns(matrix: Matrix, stream: StreamEntry, metric: str) -> Matrix:
    """The matrix with nulls in the columns of tasks without the metric; facts are those of reports alone."""
    facts = metric.startswith("fact_")
    there = [
        metric == kinds.OWN or (metric in kind.metrics and (not facts or own == "f1"))
        for kind, own in zip(stream.kinds, stream.measures, strict=True)
    ]
    return [[cell if here else None for cell, here in zip(row, there, strict=True)] for row in matrix]
