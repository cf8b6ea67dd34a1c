"""Which figures the report has, from which numbers, with which words beneath."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmark.compare import stats
from benchmark.compare.comparisons import Across
from benchmark.compare.tables import percent
from benchmark.record.records import PROTOCOLS
from benchmark.report import findings
from benchmark.report.figures import Mark, critical_difference, curves, dumbbells, heat, inline, render, scatter

Images = dict[str, tuple[str, bytes]]  # name: SVG, PNG
View = dict[str, Any]


def of_stream(view: View, images: Images, matrices: bool) -> tuple[dict[str, list[View]], str]:
    """The figures of a stream by section, and a sentence on what they leave out; their files go into ``images``.

    Only rows with default settings are drawn, of the backbone that most of them have; with ``matrices`` every row's
    score matrix besides, for papers only.
    """
    plain = {(row["method"], row["key"]) for row in findings.defaults(view["rows"])}
    methods = [method for method in view["methods"] if (method["method"], method["key"]) in plain]
    drawn: dict[str, list[View]] = {"balance": [], "curves": [], "steps": [], "papers": []}
    for protocol in PROTOCOLS:
        rows = [method["rows"][protocol] for method in methods]
        drawn["balance"] += _balance(view, rows, protocol, images)
        drawn["balance"] += _cost(view, rows, protocol, images)
        drawn["curves"] += _curves(view, methods, rows, protocol, images)
        drawn["steps"] += _steps(view, methods, protocol, images)
        drawn["papers"] += _forgetting(view, methods, protocol, images)
        for method in view["methods"] if matrices else ():
            _matrix(view, method, protocol, images)
    drawn["balance"].sort(key=lambda figure: "-cost-" in figure["name"])  # both protocols side by side
    said = "Default settings only. Up is better everywhere; on the left pair, right is better too."
    others = sorted(
        {row["backbone"] for row in view["rows"]} - {row["backbone"] for row in findings.defaults(view["rows"])}
    )
    return drawn, said + (f" Backbones not drawn: {', '.join(others)}." if others else "")


def _add(images: Images, name: str, label: str, caption: str, draw: Any, *arguments: Any, **options: Any) -> View:
    from markupsafe import Markup

    images[name] = render(name, draw, *arguments, **options)
    return {"name": name, "caption": caption, "svg": Markup(inline(images[name][0], label))}


def _balance(view: View, rows: Sequence[View], protocol: str, images: Images) -> list[View]:
    """Stability over plasticity; joint training learns all tasks at once and has neither."""
    known = [row for row in rows if None not in (row["learning_acc_mean"], row["forgetting_mean"])]
    marks = [Mark(row["method"], row["group"], row["learning_acc_mean"], 1 - row["forgetting_mean"])
             for row in known if row["group"] != "joint"]  # fmt: skip
    if not marks:
        return []
    best = max(marks, key=lambda mark: mark.x * mark.y)
    label = (
        f"Stability against plasticity on {view['name']}, identity {protocol}: {len(marks)} methods; "
        f"{best.name} is furthest to the upper right with {percent(best.x)} learned and {percent(best.y)} kept"
    )
    caption = (
        f"Identity {protocol}. Plasticity: score right after a task is learned; stability: 100 minus forgetting. "
        "The upper right learns well and keeps it. Joint training has no stages and is not drawn."
    )
    top = max(1.0, max(mark.y for mark in marks))
    return [_add(images, f"{view['id']}-stability-{protocol}", label, caption, scatter, marks,
                 f"plasticity ({view['measure']} when learned)", "stability", top=top)]  # fmt: skip


def _cost(view: View, rows: Sequence[View], protocol: str, images: Images) -> list[View]:
    known = [row for row in rows if row["last_acc_mean"] is not None]
    marks = [Mark(row["method"], row["group"], row["train_seconds_mean"], row["last_acc_mean"]) for row in known
             if row["trainable_params"] and row["train_seconds_mean"]]  # fmt: skip
    levels = [
        Mark(row["method"], row["group"], 0.0, row["last_acc_mean"]) for row in known if row["trainable_params"] == 0
    ]
    if not marks:
        return []
    devices = sorted({str(run["provenance"].get("device")) for run in view["runs"]})
    cheap, dear = min(marks, key=lambda mark: mark.x), max(marks, key=lambda mark: mark.x)
    label = (
        f"Final {view['measure']} against training time on {view['name']}, identity {protocol}: from {cheap.name}, "
        f"{cheap.x:,.0f} s and {percent(cheap.y)}, to {dear.name}, {dear.x:,.0f} s and {percent(dear.y)}"
    )
    caption = (
        f"Identity {protocol}. Training seconds over all tasks, logarithmic; measured on {', '.join(devices)}, "
        "with whatever else ran there."
    )
    return [_add(images, f"{view['id']}-cost-{protocol}", label, caption, scatter, marks, "training time, s",
                 f"last {view['measure']}", log=True, levels=levels)]  # fmt: skip


def _curves(
    view: View, methods: Sequence[View], rows: Sequence[View], protocol: str, images: Images
) -> list[View]:  # fmt: skip
    lines = {}
    for method in methods:
        values = [math.nan if value is None else value for value in method["curve"][protocol]]
        if not all(map(math.isnan, values)):
            lines[method["method"]] = (method["group"], values)
    if not lines:
        return []
    best_rows = [best[protocol] for _, best in findings.best_of_groups(rows)]
    named = [row["method"] for row in best_rows if row]
    known = sorted((row for row in rows if row["last_acc_mean"] is not None), key=lambda row: row["last_acc_mean"])
    named += [known[0]["method"]] if known and known[0]["method"] not in named else []
    label = (
        f"{view['measure'].capitalize()} over the tasks learned so far on {view['name']}, identity {protocol}: "
        + ", ".join(f"{name} ends at {percent(lines[name][1][-1])}" for name in named if name in lines)
    )
    caption = (
        f"Identity {protocol}. Mean over the tasks learned so far. Named: the best of each group and the lowest; the "
        "others are drawn thin, method by method below."
    )
    return [_add(images, f"{view['id']}-curves-{protocol}", label, caption, curves, lines, named, view["measure"])]


def _steps(view: View, methods: Sequence[View], protocol: str, images: Images) -> list[View]:
    pairs = [(method, *method["steps"][protocol]) for method in methods if method["group"] != "joint"]
    rows = [(method["method"], method["group"], same, other) for method, same, other in pairs
            if same is not None and other is not None]  # fmt: skip
    if not rows:
        return []
    rows.sort(key=lambda row: -row[2] - row[3])
    most = max(rows, key=lambda row: row[2] - row[3])
    label = (
        f"Points lost per step on {view['name']}, identity {protocol}, when the next task shows the same modality and "
        f"when not; the gap is largest for {most[0]}: {percent(most[2])} against {percent(most[3])}"
    )
    caption = f"Identity {protocol}. Negative: earlier tasks gain. Methods in the order of what they lose."
    return [_add(images, f"{view['id']}-steps-{protocol}", label, caption, dumbbells, rows, "same modality",
                 "another modality", "points lost per step")]  # fmt: skip


def _forgetting(view: View, methods: Sequence[View], protocol: str, images: Images) -> list[View]:
    """Methods by modalities, for papers only: the page has the same numbers method by method."""
    modalities = list(dict.fromkeys(each["name"] for method in methods for each in method["modalities"]))
    rows, names = [], []
    for method in methods:
        mine = {each["name"]: each[protocol]["forgetting"] for each in method["modalities"]}
        if any(value is not None for value in mine.values()):
            values = [mine.get(name) for name in modalities]
            rows.append([math.nan if value is None else value for value in values])
            names.append(method["method"])
    if not rows:
        return []
    name = f"{view['id']}-forgetting-{protocol}"
    images[name] = render(name, heat, rows, names, modalities, f"forgetting, points (identity {protocol})")
    return [{"name": name, "protocol": protocol}]


def _matrix(view: View, method: View, protocol: str, images: Images) -> None:
    stages = ["before", *(task["name"] for task in method["tasks"])]
    matrix = [[math.nan if value is None else value for value in row] for row in method["matrix"][protocol]]
    if protocol == PROTOCOLS[1]:  # nothing is asked before the first task
        matrix, stages = matrix[1:], stages[1:]
    if any(value == value for row in matrix for value in row):
        name = f"{view['id']}-matrix-{method['method']}-{method['key']}-{protocol}"
        tasks = [task["name"] for task in method["tasks"]]
        images[name] = render(name, heat, matrix, stages, tasks, f"{method['method']}, {view['measure']} in per cent")


def critical_differences(tables: Sequence[Across], images: Images) -> tuple[list[View], str]:
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
