"""The report's tables that take a task's last score apart, a column for every method: by class, by subgroup, and of
answers in words by metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from benchmark.compare import per_task
from benchmark.compare.entries import by_key
from benchmark.compare.stats import mean, whole
from benchmark.compare.tables import spoken
from benchmark.record.schema import PROTOCOLS, Record
from benchmark.report import findings
from benchmark.report.views import StreamView

# from the runs of a row and the protocol: (place of the task, its name, what it is told apart by ...) -> each run's
Kept = Callable[[Sequence[Record], str], Mapping[Any, list[float | None]]]


BLIND = "without the image"
OFTEN = 0.2  # of a class's samples, so that another answer is shown


@dataclass(frozen=True)
class BreakdownLine:
    """One class, subgroup or metric, and a cell for each column; ``lines``: of its task if it is the first, else 0."""

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


def sensitivities(view: StreamView) -> list[Breakdown]:
    """The sensitivity of every class; empty where no run kept it."""
    return _of(view, per_task.sensitivities, lambda place, label: [str(label)])


def confusions(view: StreamView) -> list[Breakdown]:
    """Which classes are answered with which others, where some method does so with a fifth of the class or more."""

    def wrong(runs: Sequence[Record], protocol: str) -> Mapping[Any, list[float | None]]:
        return {at: shares for at, shares in per_task.confusions(runs, protocol).items() if at[2] != at[4]}

    return _of(view, wrong, lambda place, label, column, said: [str(label), str(said)], least=OFTEN)


def subgroups(view: StreamView) -> list[Breakdown]:
    """The score of every subgroup: its column, its value, how many samples it has; empty where no task has some."""
    return _of(view, per_task.subgroups, lambda column, value, n: [str(column), str(value) or "not told", str(n)])


def answers(view: StreamView) -> list[Breakdown]:
    """What was measured of each task's answers in words, beside what guesses without the image reach; empty where no
    task is answered so."""
    blind: dict[str, list[float | None]] = {}
    for run in view.runs:
        for task, score in (run.blind or {}).items():
            blind.setdefault(task, []).append(score)

    def guessed(place: tuple[Any, ...]) -> list[float | None]:
        _, task, metric, _ = place
        return blind.get(task, []) if metric == 0 else []

    return _of(view, per_task.answers, lambda _, metric: [spoken(metric)], {BLIND: guessed} if blind else {})


def _of(
    view: StreamView, kept: Kept, words: Callable[..., list[str]],
    first: Mapping[str, Callable[[tuple[Any, ...]], list[float | None]]] = MappingProxyType({}),
    least: float = 0.0,
) -> list[Breakdown]:  # fmt: skip
    """``first``: columns that stand before those of the methods. ``least``: of some method, for a line to be there."""
    runs_of = {(runs[0].named, runs[0].key): runs for runs in by_key(view.runs)}
    found = []
    for protocol in PROTOCOLS:
        rows = [row for row in findings.defaults(view.rows) if row.protocol == protocol]
        columns = {row.method: kept(runs_of[row.method, row.key], protocol) for row in rows}
        columns = {name: column for name, column in columns.items() if any(map(whole, column.values()))}
        means = [(place, mean(values)) for column in columns.values() for place, values in column.items()]
        places = sorted({place for place, share in means if (share or 0.0) >= least})
        tasks = [place[1] for place in places]
        lines = [
            BreakdownLine(
                task=place[1],
                lines=tasks.count(place[1]) if place[1] not in tasks[:at] else 0,
                words=words(*place[2:]),
                cells=[
                    *(mean(values(place)) for values in first.values()),
                    *(mean(column.get(place, [])) for column in columns.values()),
                ],
            )
            for at, place in enumerate(places)
        ]
        found += [Breakdown(protocol, [*first, *columns], lines)] if lines else []
    return found
