"""One run as a picture: its score matrix with the identity told and hidden, as shaded cells. No torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from benchmark.compare.tables import spoken
from benchmark.kinds import OWN
from benchmark.record.schema import PROTOCOLS, Record
from benchmark.record.summary import floats
from benchmark.report.figures import render
from benchmark.report.labels import INK
from benchmark.report.pictures import small_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL, BESIDE, BELOW, ABOVE = 0.42, 1.35, 1.05, 0.7  # inches: a cell, the names beside and below them, the titles
TOLD = {"given": "told which task an image is of", "hidden": "not told: all labels so far"}
DOTS, COLOURS = 140, 48  # of the picture: pixels an inch


def picture(record: Record) -> bytes:
    """A PNG of a run's own metric in per cent: a row per stage, a column per task, one panel a protocol.

    Framed is a task just learned: above it stands what was known before, below it what is left.
    """
    _, pixels = render("matrix", _panels, record)
    image = Image.open(io.BytesIO(pixels)).convert("RGB")
    image = image.resize([side * DOTS // 200 for side in image.size], Image.Resampling.LANCZOS)  # of 200 an inch
    return small_png(image, COLOURS)


def _panels(record: Record) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = [task.name for task in record.stream.tasks]
    side, high = CELL * len(tasks), CELL * (len(tasks) + 1)
    wide, tall = BESIDE + 2 * side + 0.45, ABOVE + high + BELOW
    figure = Figure(figsize=(wide, tall))
    FigureCanvasAgg(figure)
    for place, protocol in enumerate(PROTOCOLS):
        left = BESIDE + place * (side + 0.3)
        axes = figure.add_axes((left / wide, BELOW / tall, side / wide, high / tall))
        _shaded(axes, [floats(row) for row in record.matrix(protocol)], tasks)
        axes.set_title(TOLD[protocol], fontsize=10, loc="left", pad=6)
        axes.set_yticks([row + 0.5 for row in range(len(tasks) + 1)], ["before any task", *tasks] if not place else [])
    measure = "own metric" if record.primary == OWN else spoken(record.primary)
    said = f"{record.method} on {record.stream.name}: {measure} of every task (column) after each one (row), per cent"
    figure.text(0.12 / wide, 1 - 0.12 / tall, said, va="top", fontsize=10, fontweight="bold")
    return figure


def _shaded(axes: Axes, rows: Sequence[Sequence[float]], tasks: Sequence[str]) -> None:
    """The first row on top; the cell of a task just learned is framed, null is left empty."""
    import numpy as np
    from matplotlib.patches import Rectangle

    shown = 100 * np.array(rows)
    axes.pcolormesh(np.ma.masked_invalid(shown), cmap="YlGnBu", vmin=0, vmax=100, edgecolors="white", linewidth=1.2)
    axes.invert_yaxis()
    for (row, column), value in np.ndenumerate(shown):
        if value == value:
            axes.text(column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=8.5,
                      color="white" if value > 55 else INK)  # fmt: skip
    for place in range(len(tasks)):
        axes.add_patch(Rectangle((place, place + 1), 1, 1, fill=False, edgecolor=INK, linewidth=1.6, clip_on=False))
    axes.set_xticks([place + 0.5 for place in range(len(tasks))], tasks, rotation=40, ha="right",
                    rotation_mode="anchor")  # fmt: skip
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
