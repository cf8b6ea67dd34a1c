"""Which figures the report has, from which numbers, with which words beneath."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from benchmark.compare import stats
from benchmark.compare.comparisons import Across
from benchmark.compare.rows import LeaderboardRow
from benchmark.compare.tables import percent
from benchmark.record.schema import PROTOCOLS
from benchmark.record.summary import floats
from benchmark.report import findings
from benchmark.report.details import MethodView
from benchmark.report.figures import (
    Mark,
    critical_difference,
    curves,
    dumbbells,
    heat,
    inline,
    render,
    scatter,
    score_matrix,
)
from benchmark.report.views import StreamView

if TYPE_CHECKING:
    from markupsafe import Markup

Images = dict[str, tuple[str, bytes]]  # name: SVG, PNG


@dataclass(frozen=True)
class Plate:
    """A figure in the page: the name of its files, the words beneath, its SVG."""

    name: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class PaperPlate:
    """A figure that the page only links to."""

    name: str
    protocol: str


@dataclass
class StreamPlates:
    """The figures of a stream by section, and a sentence on what they leave out."""

    said: str
    balance: list[Plate] = field(default_factory=list)
    curves: list[Plate] = field(default_factory=list)
    steps: list[Plate] = field(default_factory=list)
    papers: list[PaperPlate] = field(default_factory=list)


def of_stream(view: StreamView, images: Images, matrices: bool) -> StreamPlates:
    """The figures of a stream; their files go into ``images``.

    Rows with default settings are drawn, of the backbone that most of them have, and those of every other condition
    (:func:`findings.conditions`) in figures of their own; with ``matrices`` every row's score matrix besides, for
    papers only.
    """
    shown = findings.defaults(view.rows)
    others = sorted({row.backbone for row in view.rows} - {row.backbone for row in shown})
    changed = "" if shown and shown[0].default else "No row has default settings. "
    said = f"{changed}Up is better everywhere; on the left pair, right is better too."
    drawn = StreamPlates(said + (f" Backbones not drawn: {', '.join(others)}." if others else ""))
    for condition in findings.conditions(view.rows):
        _under(condition, view, drawn, images)
    for method in view.methods if matrices else ():
        for protocol in PROTOCOLS:
            _matrix(view, method, protocol, images)
    return drawn


def _under(condition: str, whole: StreamView, drawn: StreamPlates, images: Images) -> None:
    """The figures of the rows with these settings, which stand in names and captions where they are no defaults."""
    plain = {(row.method, row.key) for row in findings.defaults(whole.rows, condition)}
    methods = [method for method in whole.methods if (method.method, method.key) in plain]
    view = replace(whole, name=f"{whole.name}-{condition}") if condition else whole
    mine = StreamPlates("")
    dear: list[Plate] = []  # behind the others, so that both protocols stand side by side
    for protocol in PROTOCOLS:
        rows = [method.rows[protocol] for method in methods]
        mine.balance += _balance(view, rows, protocol, images)
        dear += [plate for cost in COSTS for plate in _cost(view, rows, protocol, cost, images)]
        mine.curves += _curves(view, methods, rows, protocol, images)
        mine.steps += _steps(view, methods, protocol, images)
        drawn.papers += _forgetting(view, methods, protocol, images)
    mine.balance += dear
    told = f"{condition}. " if condition else ""
    for name in ("balance", "curves", "steps"):
        getattr(drawn, name).extend(replace(plate, caption=told + plate.caption) for plate in getattr(mine, name))


def _add(images: Images, name: str, label: str, caption: str, draw: Any, *arguments: Any, **options: Any) -> Plate:
    from markupsafe import Markup

    images[name] = render(name, draw, *arguments, **options)
    return Plate(name, caption, Markup(inline(images[name][0], label)))


def _balance(view: StreamView, rows: Sequence[LeaderboardRow], protocol: str, images: Images) -> list[Plate]:
    """Stability over plasticity; joint training learns all tasks at once and has neither."""
    marks = [
        Mark(row.method, row.group, row.learning_acc_mean, 1 - row.forgetting_mean)
        for row in rows
        if row.group != "joint" and row.learning_acc_mean is not None and row.forgetting_mean is not None
    ]
    if not marks:
        return []
    best = max(marks, key=lambda mark: mark.x * mark.y)
    label = (
        f"Stability against plasticity on {view.name}, identity {protocol}: {len(marks)} methods; "
        f"{best.name} is furthest to the upper right with {percent(best.x)} learned and {percent(best.y)} kept"
    )
    caption = (
        f"Identity {protocol}. Plasticity: score right after a task is learned; stability: 100 minus forgetting. "
        "The upper right learns well and keeps it. Joint training has no stages and is not drawn."
    )
    top = max(1.0, max(mark.y for mark in marks))
    return [_add(images, f"{view.id}-stability-{protocol}", label, caption, scatter, marks,
                 f"plasticity ({view.measure} when learned)", "stability", top=top)]  # fmt: skip


COSTS = {"parameters": ("trainable_params", "trained parameters", 1.0),
         "memory": ("stored_bytes", "kept between tasks, MiB", 2.0**20)}  # fmt: skip


def _cost(view: StreamView, rows: Sequence[LeaderboardRow], protocol: str, cost: str, images: Images) -> list[Plate]:
    """The last score over what it costs, in numbers that are the same on every machine."""
    column, words, unit = COSTS[cost]
    known = [(row, row.last_acc_mean) for row in rows if row.last_acc_mean is not None]
    marks = [
        Mark(row.method, row.group, value / unit, last)
        for row, last in known
        if row.trainable_params and (value := row.value(column))
    ]
    levels = [Mark(row.method, row.group, 0.0, last) for row, last in known if row.trainable_params == 0]
    if not marks:
        return []
    cheap, dear = min(marks, key=lambda mark: mark.x), max(marks, key=lambda mark: mark.x)
    label = (
        f"Final {view.measure} against {words} on {view.name}, identity {protocol}: from {cheap.name}, "
        f"{cheap.x:,.2f} and {percent(cheap.y)}, to {dear.name}, {dear.x:,.2f} and {percent(dear.y)}"
    )
    caption = f"Identity {protocol}. {words[0].upper()}{words[1:]}, logarithmic."
    return [_add(images, f"{view.id}-{cost}-{protocol}", label, caption, scatter, marks, words,
                 f"last {view.measure}", log=True, levels=levels)]  # fmt: skip


def _curves(
    view: StreamView, methods: Sequence[MethodView], rows: Sequence[LeaderboardRow], protocol: str, images: Images
) -> list[Plate]:
    lines = {}
    for method in methods:
        values = floats(method.curve[protocol])
        if not all(map(math.isnan, values)):
            lines[method.method] = (method.group, values)
    if not lines:
        return []
    named = [row.method for _, best in findings.best_of_groups(rows) if (row := best[protocol])]
    lowest = min(((row.last_acc_mean, row.method) for row in rows if row.last_acc_mean is not None),
                 key=itemgetter(0), default=None)  # fmt: skip
    named += [lowest[1]] if lowest and lowest[1] not in named else []
    label = (
        f"{view.measure.capitalize()} over the tasks learned so far on {view.name}, identity {protocol}: "
        + ", ".join(f"{name} ends at {percent(lines[name][1][-1])}" for name in named if name in lines)
    )
    caption = (
        f"Identity {protocol}. Mean over the tasks learned so far. Named: the best of each group and the lowest; the "
        "others are drawn thin, method by method below."
    )
    return [_add(images, f"{view.id}-curves-{protocol}", label, caption, curves, lines, named, view.measure)]


def _steps(view: StreamView, methods: Sequence[MethodView], protocol: str, images: Images) -> list[Plate]:
    pairs = [(method, *method.steps[protocol]) for method in methods if method.group != "joint"]
    rows = [(method.method, method.group, same, other) for method, same, other in pairs
            if same is not None and other is not None]  # fmt: skip
    if not rows:
        return []
    rows.sort(key=lambda row: -row[2] - row[3])
    most = max(rows, key=lambda row: row[2] - row[3])
    label = (
        f"Points lost per step on {view.name}, identity {protocol}, when the next task shows the same modality and "
        f"when not; the gap is largest for {most[0]}: {percent(most[2])} against {percent(most[3])}"
    )
    caption = f"Identity {protocol}. Negative: earlier tasks gain. Methods in the order of what they lose."
    return [_add(images, f"{view.id}-steps-{protocol}", label, caption, dumbbells, rows, "same modality",
                 "another modality", "points lost per step")]  # fmt: skip


def _forgetting(view: StreamView, methods: Sequence[MethodView], protocol: str, images: Images) -> list[PaperPlate]:
    """Methods by modalities, for papers only: the page has the same numbers method by method."""
    modalities = list(dict.fromkeys(each.name for method in methods for each in method.modalities))
    rows, names = [], []
    for method in methods:
        mine = {each.name: each.forgetting[protocol] for each in method.modalities}
        if any(value is not None for value in mine.values()):
            rows.append(floats(map(mine.get, modalities)))
            names.append(method.method)
    if not rows:
        return []
    name = f"{view.id}-forgetting-{protocol}"
    images[name] = render(name, heat, rows, names, modalities, f"forgetting, points (identity {protocol})")
    return [PaperPlate(name, protocol)]


def _matrix(view: StreamView, method: MethodView, protocol: str, images: Images) -> None:
    tasks, matrix = [task.name for task in method.tasks], [floats(row) for row in method.matrix[protocol]]
    if any(value == value for row in matrix for value in row):
        name, words = f"{view.id}-matrix-{method.method}-{method.key}-{protocol}", f"{view.measure} in per cent"
        images[name] = render(name, score_matrix, matrix, tasks, protocol, f"{method.method}, {words}")


def critical_differences(tables: Sequence[Across], images: Images) -> tuple[list[Plate], str]:
    """A diagram for every class with enough streams, and a sentence on the others."""
    drawn, few = [], []
    for table in tables:
        if len(table.streams) < stats.FEWEST_BLOCKS:
            few.append(f"{table.group}, identity {table.protocol}: {len(table.streams)}")
            continue
        difference, cliques = stats.critical_difference(table.table_BM)
        ranks = dict(zip(table.methods, stats.average_ranks(table.table_BM), strict=True))
        named = [[table.methods[place] for place in clique] for clique in cliques]
        best = min(ranks, key=lambda name: (ranks[name], name))
        label = (
            f"Critical-difference diagram of the group {table.group}, identity {table.protocol}, over "
            f"{len(table.streams)} streams: {best} ranks best with {ranks[best]:.2f}; critical difference "
            f"{difference:.2f}"
        )
        caption = (
            f"{table.group}, identity {table.protocol}: average ranks over {', '.join(table.streams)} (Nemenyi, 5 %). "
            "A bar joins methods that these streams do not tell apart."
        )
        place = "-".join(f"critical-difference {table.group} {table.backbone} {table.protocol}".split())
        place = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in place)
        drawn.append(_add(images, place, label, caption, critical_difference, ranks, difference, named))
    said = f"A critical-difference diagram needs {stats.FEWEST_BLOCKS} streams."
    return drawn, f"{said} Fewer are there for {'; '.join(few)}." if few else said if not drawn else ""
