"""The figures of ``tuning.md``: score against learning rate, and what the first k trials would have found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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

    Args:
        methods: name -> its trials, and the score of the default.
    """
    figure, panels = _grid(len(methods))
    for axes, (name, (trials, default)) in zip(panels, methods.items(), strict=True):
        axes.set_title(name, fontsize=9, color=INK)
        axes.set_xscale("log")
        axes.set_xticks([1e-3, 1e-2], ["0.001", "0.01"])
        axes.set_xlim(4e-4, 2.5e-2)
        if default is not None:
            axes.axhline(100 * default, color=MUTED, linewidth=0.8, linestyle="--")
        for rate, score, chosen in trials:
            axes.plot([rate], [100 * score], "o", markersize=5, markeredgecolor=CHOSEN if chosen else LINE,
                      markerfacecolor=CHOSEN if chosen else "none")  # fmt: skip
    return figure


def best_of(methods: Mapping[str, Sequence[float]]) -> Figure:
    """A panel a method: the best score among its first k trials, k from 1 on."""
    figure, panels = _grid(len(methods))
    for axes, (name, scores) in zip(panels, methods.items(), strict=True):
        axes.set_title(name, fontsize=9, color=INK)
        ks = range(1, len(scores) + 1)
        axes.step(ks, [100 * score for score in scores], where="post", color=LINE, linewidth=1.4)
        axes.set_xticks([k for k in ks if k % 4 == 1])
    return figure


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = min(ACROSS, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(1.9 * columns, 1.6 * lines), layout="constrained")
    panels = [figure.add_subplot(lines, columns, place + 1) for place in range(count)]
    return figure, panels
