"""What the report shows of one method on one stream: its matrices, and over all runs what happened task by task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from benchmark import metrics
from benchmark.compare.rows import LeaderboardRow
from benchmark.compare.tables import spoken
from benchmark.kinds import OWN
from benchmark.record.partition import Partition
from benchmark.record.parts import AnswerSample
from benchmark.record.schema import PROTOCOLS, Record, TaskEntry
from benchmark.record.summary import floats, missing_rows
from benchmark.report import modality
from benchmark.report.modality import Changes
from benchmark.report.origins import ProvenanceView, packages, provenance_view

HABITS = ("format_kept", "distinct", "truncated", "fact_f1")  # of answers in words, that are shown cell by cell

Numbers = list[float | None]  # None where a number is undefined
Steps = tuple[float | None, float | None]  # within a modality, to another one


@dataclass(frozen=True)
class ModalityView:
    """Mean forgetting, backward and forward transfer of a modality's tasks, by protocol; how many tasks it has."""

    name: str
    tasks: int
    forgetting: dict[str, float | None]
    bwt: dict[str, float | None]
    fwt: dict[str, float | None]


@dataclass(frozen=True)
class RouterView:
    """Where the final router sent the test samples.

    Attributes:
        confusion: shares, rows adding up to 1; None when the runs were recorded without it.
        right: the diagonal, which all records have.
    """

    confusion: list[Numbers] | None
    right: Numbers


@dataclass(frozen=True)
class HabitView:
    """How tasks are answered in words, beside whether rightly: one metric in ``words``, cell by cell.

    Attributes:
        columns: the places of the tasks that have it. matrix: by protocol, of these tasks alone.
    """

    words: str
    columns: list[int]
    matrix: dict[str, list[Numbers]]


@dataclass(frozen=True)
class MethodView:
    """One (method, key). All that is by protocol has it as the outer key.

    Attributes:
        rows: of the leaderboard.
        tasks: in the order of the runs that the matrices are of.
        alike: (seed, order) of the runs of the lowest order, which the matrices are means of.
        forgotten: of every task but the last.
        curve: the mean over the tasks learned so far, over all runs.
        router: None for a method that never routed.
        missing: (what is missing, at which rate) -> the final model's mean score; None where it was not measured.
        packages: what the runs were made with, without doubles.
        own: each task's own metric in words, in the order of ``tasks``; empty where all have the same.
        samples: task -> questions of made data, with the answers of the first run.
        blind: of every task what is reached by guessing from the question alone; empty where that was asked of none.
        habits: of tasks that are answered in words.
        groups: the tasks that the method put together, in the first run; empty for a method that forms none.
        agreements: of these groups with the modalities, of every run.
    """

    method: str
    key: str
    settings: str
    group: str
    backbone: str
    stale: bool
    rows: dict[str, LeaderboardRow]
    tasks: list[TaskEntry]
    alike: list[tuple[int, int]]
    matrix: dict[str, list[Numbers]]
    forgotten: dict[str, Numbers]
    curve: dict[str, Numbers]
    modalities: list[ModalityView]
    steps: dict[str, Steps]
    router: RouterView | None
    missing: dict[str, dict[tuple[str, float], float | None]] | None
    provenance: list[ProvenanceView]
    packages: list[str]
    own: list[str]
    samples: dict[str, list[AnswerSample]]
    blind: Numbers
    habits: list[HabitView]
    groups: list[list[TaskEntry]]
    agreements: list[float]


def method_view(runs: Sequence[Record], rows: dict[str, LeaderboardRow]) -> MethodView:
    """The view of one (method, key).

    Args:
        runs: sorted by order and seed.
        rows: its leaderboard rows by protocol.
    """
    alike = [run for run in runs if run.order == runs[0].order]
    row = rows[PROTOCOLS[0]]
    return MethodView(
        method=row.method,
        key=row.key,
        settings=row.settings,
        group=row.group,
        backbone=row.backbone,
        stale=row.stale,
        rows=rows,
        tasks=runs[0].stream.tasks,
        alike=[(run.seed, run.order) for run in alike],
        matrix={protocol: _mean_matrix(_matrices(alike, protocol)) for protocol in PROTOCOLS},
        forgotten={
            protocol: _mean_rows([metrics.forgetting_per_task(each).tolist() for each in _matrices(alike, protocol)])
            for protocol in PROTOCOLS
        },
        curve={
            protocol: _mean_rows([modality.learned_so_far(each) for each in _matrices(runs, protocol)])
            for protocol in PROTOCOLS
        },
        modalities=_modalities(runs),
        steps={protocol: _steps(runs, protocol) for protocol in PROTOCOLS},
        router=_router(alike),
        missing=_missing(runs),
        provenance=[provenance_view(run) for run in runs],
        packages=sorted({packages(run) for run in runs}),
        own=list(map(spoken, runs[0].stream.measures)) if runs[0].primary == OWN else [],
        samples=runs[0].samples or {},
        blind=[runs[0].blind.get(task) for task in runs[0].stream.task_names] if runs[0].blind else [],
        habits=list(_habits(alike)),
        groups=_groups(runs[0].stream.tasks, runs[0].partition),
        agreements=[run.partition.agreement for run in runs if run.partition is not None],
    )


def _groups(tasks: Sequence[TaskEntry], partition: Partition | None) -> list[list[TaskEntry]]:
    numbers = partition.groups if partition is not None else []
    return [
        [task for task, own in zip(tasks, numbers, strict=True) if own == number] for number in dict.fromkeys(numbers)
    ]


def _habits(alike: Sequence[Record]) -> Iterator[HabitView]:
    """Of runs of one order the metrics of :data:`HABITS` that some task has."""
    speaking = [place for place, kind in enumerate(alike[0].stream.kinds) if kind.speaks]
    for metric in HABITS if speaking else ():
        each = {protocol: [run.scores[metric][protocol] for run in alike] for protocol in PROTOCOLS}
        columns = [place for place in speaking if any(row[place] is not None for row in each[PROTOCOLS[0]][0])]
        matrix = {
            protocol: _mean_matrix([[floats([row[place] for place in columns]) for row in rows] for rows in matrices])
            for protocol, matrices in each.items()
        }
        if columns:
            yield HabitView(spoken(metric), columns, matrix)


def _matrices(runs: Iterable[Record], protocol: str) -> list[list[list[float]]]:
    """The primary metric's matrix of every run, null as NaN."""
    return [[floats(row) for row in run.matrix(protocol)] for run in runs]


def _mean_matrix(matrices: Sequence[Sequence[Sequence[float]]]) -> list[Numbers]:
    return [_mean_rows(rows) for rows in zip(*matrices, strict=True)]


def _mean_rows(rows: Sequence[Sequence[float]]) -> Numbers:
    """The mean of each place over rows of one length; None where one of them is NaN."""
    return [average(values) for values in zip(*rows, strict=True)]


def average(values: Iterable[float]) -> float | None:
    """The mean; None for no value and where one is NaN."""
    known = list(values)
    return fmean(known) if known and not any(map(math.isnan, known)) else None


def _modalities(runs: Sequence[Record]) -> list[ModalityView]:
    """Means over the tasks of every run that have the number."""
    pooled: dict[str, dict[str, list[Changes]]] = {}
    for run in runs:
        for protocol in PROTOCOLS:
            for name, changes in modality.per_modality(_matrices([run], protocol)[0], _shown(run)).items():
                pooled.setdefault(name, {each: [] for each in PROTOCOLS})[protocol].append(changes)

    def mean(name: str, number: Callable[[Changes], list[float]]) -> dict[str, float | None]:
        return {
            protocol: average(chain.from_iterable(map(number, changes))) for protocol, changes in pooled[name].items()
        }

    return [
        ModalityView(
            name=name,
            tasks=_shown(runs[0]).count(name),
            forgetting=mean(name, lambda changes: changes.forgetting),
            bwt=mean(name, lambda changes: changes.bwt),
            fwt=dict.fromkeys(PROTOCOLS) if runs[0].group == "joint" else mean(name, lambda changes: changes.fwt),
        )
        for name in pooled
    ]


def _shown(run: Record) -> list[str]:
    """The modality of every task, in the order of the run."""
    return [task.modality for task in run.stream.tasks]


def _steps(runs: Sequence[Record], protocol: str) -> Steps:
    """Intra- and inter-modality forgetting per step (``modality.step_drops``), the mean over runs."""
    drops = [
        modality.step_drops(matrix, _shown(run)) for run, matrix in zip(runs, _matrices(runs, protocol), strict=True)
    ]
    return average(same for same, _ in drops), average(other for _, other in drops)


def _router(runs: Sequence[Record]) -> RouterView | None:
    last = [run.router_accuracy[-1] if run.router_accuracy else [] for run in runs]
    if not all(any(cell is not None for cell in row) for row in last):
        return None
    counted = [run.router_confusion for run in runs if run.router_confusion]
    confusion = None
    if len(counted) == len(runs):
        summed = [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*counted, strict=True)]
        confusion = [[cell / sum(row) if sum(row) else None for cell in row] for row in summed]
    return RouterView(confusion, _mean_rows([floats(row) for row in last]))


def _missing(runs: Sequence[Record]) -> dict[str, dict[tuple[str, float], float | None]] | None:
    if any(run.missing is None for run in runs):
        return None
    found: dict[str, dict[tuple[str, float], list[float]]] = {protocol: {} for protocol in PROTOCOLS}
    for run in runs:
        for protocol, what, rate, *_, mean in missing_rows(run):
            found[protocol].setdefault((what, float(rate)), []).append(float(mean) if mean else math.nan)
    return {protocol: {cell: average(values) for cell, values in cells.items()} for protocol, cells in found.items()}
