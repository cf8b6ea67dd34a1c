"""The report's tables that set methods beside each other: in pairs, with inputs missing, over streams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmark.compare import comparisons, stats
from benchmark.compare.tables import percent
from benchmark.record.records import PROTOCOLS
from benchmark.report import findings
from benchmark.report.views import MISSING, View
from benchmark.report.wording import p_value


def span(rows: Sequence[View]) -> dict[str, Any]:
    """Where a value stands between the lowest and the highest bound of the stream's intervals, in per cent."""
    bounds = [
        row[f"last_acc_ci_{end}"] for row in rows for end in ("low", "high") if row[f"last_acc_ci_{end}"] is not None
    ]
    low, high = min(bounds, default=0.0), max(bounds, default=1.0)
    return {"place": lambda value: f"{100 * (value - low) / ((high - low) or 1.0):.1f}%"}


def scales(methods: Iterable[View]) -> dict[str, float]:
    """What a full bar stands for, the same for all methods of a stream so that they can be compared."""
    methods = list(methods)
    steps = [abs(value or 0.0) for each in methods for pair in each["steps"].values() for value in pair]
    modal = [abs(value or 0.0) for each in methods for one in each["modalities"] for protocol in PROTOCOLS
             for value in one[protocol].values()]  # fmt: skip
    return {"steps": max(steps, default=0.0), "modality": max(modal, default=0.0)}


def pairs(view: View) -> tuple[list, str]:
    """Per protocol the methods and a square of their differences; or why there is none."""
    rows = comparisons.pairs(view["runs"])
    if not rows:
        why = "Whether two methods differ on the same samples cannot be said here: "
        if any(run.get("hits") for run in view["runs"]):
            return [], f"{why}no two of the records that keep each sample's answer share a seed and an order."
        return [], f"{why}these records were made before each sample's answer was kept; new runs will have it."
    top = max(abs(row["difference"]) for row in rows) or 1.0
    order = dict.fromkeys(row["method"] for row in findings.defaults(view["rows"]))
    found = []
    for protocol in PROTOCOLS:
        mine = [row for row in rows if row["protocol"] == protocol]
        cells = {}
        for row in mine:
            cells[row["method_a"], row["method_b"]] = _pair(row, 1, top)
            cells[row["method_b"], row["method_a"]] = _pair(row, -1, top)
        names = [name for name in order if any(name in pair for pair in cells)]
        found.append((protocol, names, [[cells.get((one, other)) for other in names] for one in names]))
    return found, ""


def _pair(row: View, sign: int, top: float) -> View:
    low, high = sorted((sign * row["ci_low"], sign * row["ci_high"]))
    one, other = (row["method_a"], row["method_b"])[::sign]
    title = f"{one} minus {other}: {percent(sign * row['difference'])} points, 95 % {percent(low)} to {percent(high)}, "
    title += (
        f"p {p_value(row['p_bootstrap'])}, after Holm {p_value(row['p_holm'])}, McNemar {p_value(row['p_mcnemar'])}"
    )
    title += f"; {row['n_cells']} cells, {row['n_samples']} samples"
    return {"difference": sign * row["difference"], "share": abs(row["difference"]) / top, "title": title,
            "told": row["p_holm"] < 0.05}  # fmt: skip


def missing(methods: Sequence[View]) -> dict[str, list] | None:
    mine = [method for method in methods if method["missing"]]
    return {
        protocol: [(method, method["rows"][protocol], [method["missing"][protocol][cell] for cell in MISSING])
                   for method in mine]
        for protocol in PROTOCOLS
    } if mine else None  # fmt: skip


def across(views: Sequence[View], protocol: str) -> list[tuple[str, str, list[tuple[float | None, float]]]]:
    """(method, group, (mean last score, its place between the stream's worst and best) per stream)."""
    found: dict[str, dict[str, float]] = {}
    groups: dict[str, str] = {}
    for view in views:
        for row in findings.defaults(view["rows"]):
            if row["protocol"] == protocol and row["last_acc_mean"] is not None:
                found.setdefault(row["method"], {})[view["name"]] = row["last_acc_mean"]
                groups[row["method"]] = row["group"]
    columns = {
        view["name"]: [cells[view["name"]] for cells in found.values() if view["name"] in cells] for view in views
    }

    def placed(name: str, value: float | None) -> tuple[float | None, float]:
        if value is None:
            return None, 0.0
        low, high = min(columns[name]), max(columns[name])
        return value, (value - low) / (high - low) if high > low else 0.5

    lines = [(method, groups[method], [placed(view["name"], cells.get(view["name"])) for view in views])
             for method, cells in found.items()]  # fmt: skip

    def order(line: tuple[str, str, list[tuple[float | None, float]]]) -> tuple[int, float, str]:
        known = [share for value, share in line[2] if value is not None]
        return -len(known), -stats.mean(known) if known else 0.0, line[0]  # type: ignore[operator]

    return sorted(lines, key=order)
