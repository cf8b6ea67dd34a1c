"""Where the names in a figure stand, so that they cover nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED = "#1c2127", "#6a737d"


@dataclass(frozen=True)
class Mark:
    """A method in a figure: its name, its group, where it stands (fractions; x of a cost in its unit)."""

    name: str
    group: str
    x: float
    y: float


def apart(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> list[float]:
    """Heights for labels in ascending order, near the wanted ones and a line of text apart."""
    low, high = axes.get_ylim()
    line = 12 / (axes.bbox.height / axes.figure.dpi * 72) * (high - low)
    places: list[float] = []
    for wanted, *_ in ends:
        places.append(max(wanted, places[-1] + line if places else low))
    excess = max(0.0, places[-1] - high) if places else 0.0
    for back in range(len(places) - 1, -1, -1):  # pushed out at the top: all move down as far as they must
        limit = high if back == len(places) - 1 else places[back + 1] - line
        places[back] = min(places[back], limit) if excess else places[back]
    return places


def name_points(
    figure: Figure, axes: Axes, xs: Sequence[float], ys: Sequence[float], marks: Sequence[Mark], levels: Sequence[float]
) -> None:
    """Each name at the nearest place around its point where it covers no point, name or line; one that finds no such
    place is left out (the pointer and the table tell it)."""
    import numpy as np

    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    points_N2 = axes.transData.transform(np.column_stack([xs, ys]))
    frame = axes.bbox
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points_N2]
    for level in levels:
        height = axes.transData.transform((1.0, level))[1]
        taken.append((frame.x1 - 120, height - 1, frame.x1, height + 12))
    directions = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
    for place in sorted(range(len(marks)), key=lambda place: -ys[place]):
        mark, (x, y) = marks[place], points_N2[place].tolist()
        text = axes.text(0, 0, mark.name, fontsize=8.5)
        width = text.get_window_extent(renderer).width
        text.remove()
        for distance, (right, up) in ((d, way) for d in (7, 14, 22, 31, 41) for way in directions):
            middle = x + right * (distance + width / 2), y + up * (distance + (1 if right == 0 else -2))
            box = (middle[0] - width / 2 - 1, middle[1] - 5, middle[0] + width / 2 + 1, middle[1] + 5)
            inside = box[0] > frame.x0 and box[2] < frame.x1 and box[1] > frame.y0 and box[3] < frame.y1 + 3
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                axes.annotate(mark.name, (xs[place], ys[place]), (middle[0] - x, middle[1] - y),
                              textcoords="offset points", ha="center", va="center", fontsize=8.5)  # fmt: skip
                if distance > 7:
                    end = min(max(x, box[0]), box[2]), min(max(y, box[1] + 1), box[3] - 1)
                    leader = axes.transData.inverted().transform([(x, y), end])
                    axes.plot(*leader.T, color=MUTED, linewidth=0.5, zorder=1)
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
