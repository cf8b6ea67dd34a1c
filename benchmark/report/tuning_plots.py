"""The figures of ``tuning.md``: score against learning rate, and what the first k trials would have found."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from benchmark.report.labels import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 5  # panels beside each other
LINE, CHOSEN = "#0072b2", "#d55e00"

Point = tuple[float, float, bool]  # learning rate, score, whether it was chosen


def rates(methods: Mapping[str, tuple[Sequence[Point], float | None]]) -> Figure:
    """A panel a method: the score of every trial against its rate; the default's is a line, the chosen one is full.

    All panels span the same number of points, each around its own scores: what is flat is flat beside the others.

    Args:
        methods: name -> its trials, and the score of the default.
    """
    figure, panels = _grid(methods, "learning rate", "score (%)")
    shown = [[100 * score for _, score, _ in trials] + ([] if default is None else [100 * default])
             for trials, default in methods.values()]  # fmt: skip
    span = 1.15 * max(max(scores) - min(scores) for scores in shown) or 1.0
    for axes, scores, (trials, default) in zip(panels, shown, methods.values(), strict=True):
        axes.set_xscale("log")
        axes.set_xticks([1e-3, 1e-2], ["0.001", "0.01"])
        axes.set_xlim(4e-4, 2.5e-2)
        middle = (max(scores) + min(scores)) / 2
        axes.set_ylim(middle - span / 2, middle + span / 2)
        if default is not None:
            axes.axhline(100 * default, color=MUTED, linewidth=0.8, linestyle="--")
        for rate, score, chosen in trials:
            axes.plot([rate], [100 * score], "o", markersize=5, markeredgecolor=CHOSEN if chosen else LINE,
                      markerfacecolor=CHOSEN if chosen else "none")  # fmt: skip
    return figure


def best_of(methods: Mapping[str, Sequence[float]]) -> Figure:
    """A panel a method: what the best of its first k trials gains over the default (k = 1), all on one scale."""
    figure, panels = _grid(methods, "trials", "gain (points)")
    most = max(scores[-1] - scores[0] for scores in methods.values()) or 0.01
    for axes, scores in zip(panels, methods.values(), strict=True):
        ks = range(1, len(scores) + 1)
        axes.step(ks, [100 * (score - scores[0]) for score in scores], where="post", color=LINE, linewidth=1.4)
        axes.set_xticks([k for k in ks if k % 4 == 1])
        axes.set_ylim(-5 * most, 108 * most)
    return figure


def _grid(names: Collection[str], across: str, up: str) -> tuple[Figure, list[Axes]]:
    """A panel for each of the names, and what their axes mean, said once."""
    from matplotlib.figure import Figure

    columns = min(ACROSS, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(1.9 * columns, 1.6 * lines + 0.3), layout="constrained")
    figure.supxlabel(across, fontsize=9, color=INK)
    figure.supylabel(up, fontsize=9, color=INK)
    panels = [figure.add_subplot(lines, columns, place + 1) for place in range(len(names))]
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(name, fontsize=9, color=INK)
    return figure, panels
