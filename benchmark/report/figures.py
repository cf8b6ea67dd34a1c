"""The report's figures: matplotlib without pyplot, one function a kind of figure, the same bytes every time.

``render`` draws a figure once and returns it as SVG and as PNG; ``inline`` makes of the SVG what stands in the page,
where ink, grid and group colours are the page's own, so that they follow its light or dark theme. Fractions come in,
per cent is drawn.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmark.report.labels import INK, MUTED, Mark, apart, name_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID, PAPER = "#dfe3e8", "#fefefe"
# Okabe and Ito's colours that tell groups apart for colour-blind readers too; every group has its own marker as well.
GROUP = {
    "plain": ("#0072b2", "o"),
    "needs identity": ("#cc79a7", "s"),
    "keeps images": ("#009e73", "^"),
    "needs length": ("#e69f00", "D"),
    "joint": ("#d55e00", "X"),
}
OTHER = ("#6a737c", "o")
THEMED = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--paper)"}
THEMED |= {colour: f"var(--{name.replace(' ', '-')})" for name, (colour, _) in GROUP.items()}
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9.5, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.7, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "svg.fonttype": "none",
    "figure.dpi": 72.0, "axes.unicode_minus": True, "text.parse_math": False,
}  # fmt: skip
SIZE = (5.4, 3.7)


def render(name: str, draw: Callable[..., Figure], *arguments: Any, **options: Any) -> tuple[str, bytes]:
    """The figure that ``draw`` makes, as SVG (transparent) and as PNG (white, 200 dots an inch)."""
    import matplotlib

    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):  # type: ignore[arg-type]
        figure = draw(*arguments, **options)
        vector, pixels = io.StringIO(), io.BytesIO()
        figure.savefig(vector, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(pixels, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return vector.getvalue(), pixels.getvalue()


def shown_alone(draw: Callable[..., Figure], *arguments: Any) -> Figure:
    """The figure that ``draw`` makes, on white, which a notebook shows by itself."""
    import matplotlib

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = draw(*arguments)
    figure.set_facecolor("white")
    vars(figure)["_repr_png_"] = partial(_png, figure)  # where pyplot is not imported IPython knows no figures
    return figure


def _png(figure: Figure) -> bytes:
    pixels = io.BytesIO()
    figure.savefig(pixels, format="png", dpi=150)
    return pixels.getvalue()


def inline(svg: str, label: str) -> str:
    """``svg`` as an element of a page, described by ``label``, in the page's font and colours."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.S)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r'<g id="about-([^"]*)">', lambda found: f"<g><title>{found[1]}</title>", body)
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    body = re.sub(r"font: (?:(bold|\d{3}) )?([\d.]+)px [^;\"]*", _font, body)
    for colour, themed in THEMED.items():
        body = body.replace(colour, themed)
    box = re.search(r'viewBox="([^"]+)"', body)
    assert box is not None
    start = f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(label)}">'
    body = re.sub(r"^<svg[^>]*>", start, body).replace("xlink:href", "href")
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"(\d+\.\d\d)\d+", r"\1", body)).strip()


def _font(found: re.Match[str]) -> str:
    return f"font-size:{found[2]}px" + (f";font-weight:{found[1]}" if found[1] else "")


# The kinds of figures


def scatter(
    marks: Sequence[Mark], x: str, y: str, *, log: bool = False, levels: Sequence[Mark] = (), top: float | None = None
) -> Figure:
    """Methods as points with their names beside them; ``levels`` are dotted lines at their y. y in per cent, x too
    unless ``log``: then x is drawn as it is on a logarithmic axis. ``top`` bounds the y axis."""
    figure, axes = blank_figure()
    scale = 1 if log else 100
    xs, ys = [scale * mark.x for mark in marks], [100 * mark.y for mark in marks]
    if log:
        axes.set_xscale("log", subs=(2, 5))
        for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            ticks(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        axes.tick_params(axis="x", which="minor", labelsize=8.5, length=2)
    axes.set_xlim(*_room(xs, log))
    low, high = _room([*ys, *(100 * level.y for level in levels)], False)
    axes.set_ylim(low, high if top is None else 100 * top + 0.11 * (high - low))
    for level in levels:
        axes.axhline(100 * level.y, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.annotate(f"{level.name}: trains nothing", (1, 100 * level.y), (0, 3), xycoords=axes.get_yaxis_transform(),
                      textcoords="offset points", ha="right", fontsize=8, color=MUTED)  # fmt: skip
    for mark, horizontal, vertical in zip(marks, xs, ys, strict=True):
        colour, marker = GROUP.get(mark.group, OTHER)
        told = f"{mark.name} ({mark.group}): {x} {horizontal:,.1f}, {y} {vertical:.1f}"
        axes.plot([horizontal], [vertical], marker, color=colour, markersize=6.5, markeredgecolor=PAPER,
                  markeredgewidth=0.8, gid=f"about-{told}", zorder=3, clip_on=False)  # fmt: skip
    name_points(figure, axes, xs, ys, marks, [100 * level.y for level in levels])
    axes.set_xlabel(x if log else f"{x}, %")
    axes.set_ylabel(f"{y}, %")
    _legend(axes, [mark.group for mark in marks])
    return figure


def curves(lines: Mapping[str, tuple[str, Sequence[float]]], named: Sequence[str], y: str) -> Figure:
    """``{method: (group, value after 1, 2 .. T tasks)}`` over the number of tasks learned; NaN leaves a gap.

    The methods ``named`` are drawn in their group's colour with their name at the end, the others thin behind them.
    """
    longest = max((len(name) for name in named if name in lines), default=0)
    figure, axes = blank_figure(right=1 - (5.4 * longest + 38) / (72 * SIZE[0]))  # 5.4: width of a letter in points
    ends: list[tuple[float, str, str]] = []
    for name, (group, values) in sorted(lines.items(), key=lambda item: item[0] in named):
        colour, marker = GROUP.get(group, OTHER)
        shown = [100 * value for value in values]
        told = f"{name} ({group}): {shown[0]:.1f} after the first task, {shown[-1]:.1f} after the last"
        look: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "alpha": 0.45}
        if name in named:
            look = {"color": colour, "linewidth": 1.9, "marker": marker, "markersize": 4, "zorder": 3, "clip_on": False}
        axes.plot(range(1, len(shown) + 1), shown, gid=f"about-{told}", solid_capstyle="round", **look)
        if name in named and shown[-1] == shown[-1]:
            ends.append((shown[-1], name, colour))
    count = max(len(values) for _, values in lines.values())
    axes.set_xlim(1, max(count, 2))
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(1, count + 1, 1 + count // 12))
    for (wanted, name, colour), place in zip(sorted(ends), apart(axes, sorted(ends)), strict=True):
        beside = 1 + 1.03 * (max(count, 2) - 1)
        axes.plot([count, beside], [wanted, place], color=colour, linewidth=0.8, clip_on=False)
        axes.annotate(f"{name} {wanted:.0f}", (beside, place), (2, 0), textcoords="offset points", va="center",
                      fontsize=8.5, annotation_clip=False)  # fmt: skip
    axes.set_xlabel("tasks learned")
    axes.set_ylabel(f"{y}, %")
    return figure


def dumbbells(rows: Sequence[tuple[str, str, float, float]], left: str, right: str, x: str) -> Figure:
    """(method, group, first, second) a line, first a filled and second an open point, joined; per cent from 0."""
    figure, axes = blank_figure(height=1.15 + 0.2 * len(rows), left=0.28, bottom_inches=0.62)
    for place, (name, group, first, second) in enumerate(reversed(rows)):
        colour, _ = GROUP.get(group, OTHER)
        told = f"{name}: {left} {100 * first:.2f}, {right} {100 * second:.2f}"
        axes.plot([100 * first, 100 * second], [place] * 2, color=colour, linewidth=1.4, alpha=0.5, gid=f"about-{told}")
        axes.plot([100 * second], [place], "o", markersize=6, color=PAPER, markeredgecolor=colour, markeredgewidth=1.4)
        axes.plot([100 * first], [place], "o", markersize=6, color=colour)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(x)
    for colour, name in ((MUTED, left), (PAPER, right)):
        axes.plot([], [], "o", markersize=6, label=name, color=colour, markeredgecolor=MUTED)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, fontsize=8.5, handletextpad=0.2)
    return figure


def heat(values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], x: str) -> Figure:
    """A table of fractions as shaded cells with their per cent inside, the first row on top; NaN is left empty."""
    import numpy as np

    shown = 100 * np.array(values, dtype=float)
    low, high = min(0.0, float(np.nanmin(shown))), max(1.0, float(np.nanmax(shown)))
    beside, below = (0.3 + 0.078 * max(map(len, names)) for names in (rows, columns))
    width, height = beside + 0.15 + 0.46 * len(columns), 0.62 * below + 0.75 + 0.22 * len(rows)
    width = max(width, 0.2 + 0.08 * len(x))
    figure, axes = blank_figure(width, height, left=beside / width, bottom_inches=0.62 * below + 0.35)
    cells = np.ma.masked_invalid(shown[::-1])
    axes.pcolormesh(cells, cmap="Blues", vmin=low, vmax=high, edgecolors="white", linewidth=1)
    for (row, column), value in np.ndenumerate(shown[::-1]):
        if value == value:
            dark = value - low > 0.6 * (high - low)
            axes.text(column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=7.5,
                      color="white" if dark else INK)  # fmt: skip
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(rows)) + 0.5, list(rows)[::-1])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.text(0.5, 0.1 / height, x, ha="center", va="bottom")
    return figure


def score_matrix(matrix: Sequence[Sequence[float]], tasks: Sequence[str], protocol: str, x: str) -> Figure:
    """The (T+1) x T matrix of a run by :func:`heat`; hidden, nothing is asked before the first task."""
    first = int(protocol == "hidden")
    return heat(matrix[first:], ["before", *tasks][first:], tasks, x)


def critical_difference(ranks: Mapping[str, float], difference: float, cliques: Sequence[Sequence[str]]) -> Figure:
    """Demšar's diagram: methods on an axis of average ranks (1, the best, on the left), bars join ``cliques``, the
    groups that the Nemenyi test does not tell apart, and the critical difference stands above the axis."""
    order = sorted(ranks, key=lambda name: (ranks[name], name))
    half, top = (len(order) + 1) // 2, 1.2 + 0.45 * len(cliques)
    width, beside = 6.4, (5.4 * max(map(len, order)) + 36) / 72  # inches on either side for names and ranks
    height = 0.85 + 0.2 * (top + half)
    figure, axes = blank_figure(width, height, left=beside / width, right=1 - beside / width, bottom_inches=0.05)
    axes.set_xlim(0.6, len(order) + 0.4)
    axes.set_ylim(top + half, -2.6)
    axes.axis("off")
    axes.plot([1, len(order)], [0, 0], color=INK, linewidth=1)
    for rank in range(1, len(order) + 1):
        axes.plot([rank] * 2, [0, -0.25], color=INK, linewidth=1)
        axes.text(rank, -0.4, str(rank), ha="center", va="bottom", fontsize=8.5)
    axes.plot([1, 1 + difference], [-1.8] * 2, color=INK, linewidth=1.5, clip_on=False)
    axes.text(1, -2, f"critical difference {difference:.2f}", ha="left", va="bottom", fontsize=8.5)
    for place, name in enumerate(order):
        first = place < half
        depth = top + (place if first else len(order) - 1 - place)
        edge = 0.6 if first else len(order) + 0.4
        axes.plot([ranks[name], ranks[name], edge], [0, depth, depth], color=MUTED, linewidth=0.8)
        axes.plot([ranks[name]], [0], "o", color=INK, markersize=4)
        text = f"{name}  {ranks[name]:.2f}" if first else f"{ranks[name]:.2f}  {name}"
        axes.annotate(text, (edge, depth), (-4 if first else 4, 0), textcoords="offset points",
                      ha="right" if first else "left", va="center", fontsize=8.5, annotation_clip=False)  # fmt: skip
    for place, clique in enumerate(cliques):
        ends = [ranks[name] for name in clique]
        bar = [min(ends) - 0.05, max(ends) + 0.05]
        axes.plot(bar, [0.5 + 0.45 * place] * 2, color=GROUP["plain"][0], linewidth=3.5)
    return figure


# Their parts


def blank_figure(
    width: float = SIZE[0], height: float = SIZE[1], left: float = 0.115, right: float = 0.985,
    bottom_inches: float = 0.52,
) -> tuple[Figure, Axes]:  # fmt: skip
    """A figure of one pair of axes with fixed margins, so that points have their place before anything is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=left, right=right, bottom=bottom_inches / height, top=1 - 0.32 / height)
    return figure, figure.add_subplot()


def _room(values: Sequence[float], log: bool) -> tuple[float, float]:
    """Limits with a margin around the values."""
    low, high = min(values), max(values)
    if log:
        return low / 1.7, high * 1.7
    margin = 0.09 * (high - low) or 1.0
    return low - margin, high + margin


def _legend(axes: Axes, groups: Sequence[str]) -> None:
    for group, (colour, marker) in GROUP.items():
        if group in groups:
            axes.plot([], [], marker, color=colour, markersize=6, label=group)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=5, frameon=False, fontsize=8.5, handletextpad=0.1,
                columnspacing=1.2, borderpad=0)  # fmt: skip
