"""The report's tables that set methods beside each other: in pairs, with inputs missing, over streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from benchmark.compare import stats
from benchmark.compare.rows import LeaderboardRow, PairRow
from benchmark.compare.tables import percent
from benchmark.record.schema import PROTOCOLS
from benchmark.record.summary import MISSING_RATES
from benchmark.report import findings
from benchmark.report.details import MethodView
from benchmark.report.views import StreamView
from benchmark.report.wording import p_value


@dataclass(frozen=True)
class Span:
    """From the lowest to the highest bound of a stream's intervals."""

    low: float
    high: float

    def place(self, value: float) -> str:
        """Where a value stands between the two, in per cent."""
        return f"{100 * (value - self.low) / ((self.high - self.low) or 1.0):.1f}%"


@dataclass(frozen=True)
class Scales:
    """What a full bar stands for, the same for all methods of a stream so that they can be compared."""

    steps: float
    modality: float


@dataclass(frozen=True)
class PairCell:
    """One method minus another. ``share``: of the stream's largest difference; ``told``: whether they can be told
    apart."""

    difference: float
    share: float
    title: str
    told: bool


@dataclass(frozen=True)
class PairPanel:
    """The methods of a protocol and a square of their differences, None where two of them share no cell."""

    protocol: str
    names: list[str]
    cells: list[list[PairCell | None]]


@dataclass(frozen=True)
class MissingLine:
    """A method where inputs are missing: scores by input and rate, complete ones first; ``drops`` by input."""

    method: str
    settings: str
    scores: list[float | None]
    drops: list[float | None]
    dominance: float | None


@dataclass(frozen=True)
class MissingPanel:
    """Every method that was asked without the ``inputs``, by protocol; ``headings`` of the scores."""

    inputs: tuple[str, ...]
    headings: list[str]
    lines: dict[str, list[MissingLine]]


@dataclass(frozen=True)
class Placed:
    """A last score, None where a stream was not run, and its place between the stream's worst and best."""

    value: float | None
    share: float


@dataclass(frozen=True)
class AcrossLine:
    """A method over streams, a cell a stream."""

    method: str
    group: str
    cells: list[Placed]


def span(rows: Sequence[LeaderboardRow]) -> Span:
    ends = chain.from_iterable((row.last_acc_ci_low, row.last_acc_ci_high) for row in rows)
    bounds = [bound for bound in ends if bound is not None]
    return Span(min(bounds, default=0.0), max(bounds, default=1.0))


def scales(methods: Sequence[MethodView]) -> Scales:
    steps = [abs(value or 0.0) for method in methods for pair in method.steps.values() for value in pair]
    modal = [
        abs(value or 0.0)
        for method in methods
        for each in method.modalities
        for numbers in (each.forgetting, each.bwt, each.fwt)
        for value in numbers.values()
    ]
    return Scales(max(steps, default=0.0), max(modal, default=0.0))


def pairs(view: StreamView, rows: Sequence[PairRow]) -> tuple[list[PairPanel], str]:
    """A panel for each protocol; or why there is none. ``rows``: the stream's, of ``comparisons.pairs``."""
    if not rows:
        why = "Whether two methods differ on the same samples cannot be said here: "
        if any(run.hits for run in view.runs):
            return [], f"{why}no two of the records that keep each sample's answer share a seed and an order."
        return [], f"{why}these records were made before each sample's answer was kept; new runs will have it."
    top = max(abs(row.difference) for row in rows) or 1.0
    order = dict.fromkeys(row.method for row in findings.defaults(view.rows))
    found = []
    for protocol in PROTOCOLS:
        cells = {}
        for row in (row for row in rows if row.protocol == protocol):
            cells[row.method_a, row.method_b] = _pair(row, 1, top)
            cells[row.method_b, row.method_a] = _pair(row, -1, top)
        names = [name for name in order if any(name in pair for pair in cells)]
        square = [[cells.get((one, other)) for other in names] for one in names]
        found.append(PairPanel(protocol, names, square))
    return found, ""


def _pair(row: PairRow, sign: int, top: float) -> PairCell:
    low, high = sorted((sign * row.ci_low, sign * row.ci_high))
    one, other = (row.method_a, row.method_b)[::sign]
    title = f"{one} minus {other}: {percent(sign * row.difference)} points, 95 % {percent(low)} to {percent(high)}, "
    title += f"p {p_value(row.p)}, after Holm {p_value(row.p_holm)}"
    title += f"; {row.n_cells} cells, {row.n_samples} samples"
    return PairCell(sign * row.difference, abs(row.difference) / top, title, row.p_holm < 0.05)


def missing(view: StreamView) -> MissingPanel | None:
    """What the final models do without an input; None where that was not asked."""
    inputs = view.kind.withheld
    cells = [("none", 0.0), *((what, rate) for what in (*inputs, "both") for rate in MISSING_RATES)]
    lines: dict[str, list[MissingLine]] = {protocol: [] for protocol in PROTOCOLS}
    for method in view.methods:
        for protocol, scores in (method.missing or {}).items():
            row = method.rows[protocol]
            lines[protocol].append(
                MissingLine(
                    method=method.method,
                    settings=method.settings,
                    scores=[scores[cell] for cell in cells],
                    drops=[row.value(f"{name}_drop_mean") for name in inputs],
                    dominance=row.value("dominance_mean"),
                )
            )
    return MissingPanel(inputs, [*inputs, " or ".join(inputs)], lines) if any(lines.values()) else None


def across(views: Sequence[StreamView], protocol: str) -> list[AcrossLine]:
    """The default row of every method, the strongest of those on most streams first."""
    found: dict[str, dict[str, float]] = {}
    groups: dict[str, str] = {}
    for view in views:
        for row in findings.defaults(view.rows):
            if row.protocol == protocol and row.last_acc_mean is not None:
                found.setdefault(row.method, {})[view.name] = row.last_acc_mean
                groups[row.method] = row.group
    columns = {view.name: [cells[view.name] for cells in found.values() if view.name in cells] for view in views}

    def placed(name: str, value: float | None) -> Placed:
        if value is None:
            return Placed(None, 0.0)
        low, high = min(columns[name]), max(columns[name])
        return Placed(value, (value - low) / (high - low) if high > low else 0.5)

    def order(line: AcrossLine) -> tuple[int, float, str]:
        known = [cell.share for cell in line.cells if cell.value is not None]
        return -len(known), -stats.mean(known) if known else 0.0, line.method  # type: ignore[operator]

    lines = (
        AcrossLine(method, groups[method], [placed(view.name, cells.get(view.name)) for view in views])
        for method, cells in found.items()
    )
    return sorted(lines, key=order)
