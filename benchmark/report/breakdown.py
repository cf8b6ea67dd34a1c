"""The report's tables that take a task's last score apart: by class, by subgroup, a column for every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.compare import per_task
from benchmark.compare.entries import by_key
from benchmark.compare.stats import mean, whole
from benchmark.record.schema import PROTOCOLS, Record
from benchmark.report import findings
from benchmark.report.views import StreamView

# from the runs of a row and the protocol: (place of the task, its name, what it is told apart by ...) -> each run's
Kept = Callable[[Sequence[Record], str], Mapping[Any, list[float | None]]]


@dataclass(frozen=True)
class BreakdownLine:
    """One class, or one subgroup, and a cell for every method; ``lines``: of its task if it is the first, else 0."""

    task: str
    lines: int
    words: list[str]
    cells: list[float | None]


@dataclass(frozen=True)
class Breakdown:
    """The methods of a protocol that kept it."""

    protocol: str
    names: list[str]
    lines: list[BreakdownLine]


def recalls(view: StreamView) -> list[Breakdown]:
    """The recall of every class; empty where no run kept it."""
    return _of(view, per_task.recalls, lambda place, label: [str(label)])


def subgroups(view: StreamView) -> list[Breakdown]:
    """The score of every subgroup: its column, its value, how many samples it has; empty where no task has some."""
    return _of(view, per_task.subgroups, lambda column, value, n: [str(column), str(value) or "not told", str(n)])


def _of(view: StreamView, kept: Kept, words: Callable[..., list[str]]) -> list[Breakdown]:
    runs_of = {(runs[0].method, runs[0].key): runs for runs in by_key(view.runs)}
    found = []
    for protocol in PROTOCOLS:
        rows = [row for row in findings.defaults(view.rows) if row.protocol == protocol]
        columns = {row.method: kept(runs_of[row.method, row.key], protocol) for row in rows}
        columns = {name: column for name, column in columns.items() if any(map(whole, column.values()))}
        places = sorted({place for column in columns.values() for place in column})
        tasks = [place[1] for place in places]
        lines = [
            BreakdownLine(
                task=place[1],
                lines=tasks.count(place[1]) if place[1] not in tasks[:at] else 0,
                words=words(*place[2:]),
                cells=[mean(column.get(place, [])) for column in columns.values()],
            )
            for at, place in enumerate(places)
        ]
        found += [Breakdown(protocol, list(columns), lines)] if lines else []
    return found
