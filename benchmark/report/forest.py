"""The figure of a method against others: a difference a line with its interval, both protocols beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.compare.rows import PairRow
from benchmark.disk import write_bytes
from benchmark.record.files import write_text
from benchmark.record.schema import PROTOCOLS
from benchmark.report.figures import GROUP, blank_figure, render
from benchmark.report.labels import MUTED
from benchmark.report.wording import slug

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = {"given": (GROUP["plain"][0], "o", 0.14), "hidden": (GROUP["joint"][0], "s", -0.14)}


def write(rows: Sequence[PairRow], folder: Path, stream: str, measure: str) -> list[Path]:
    """Draw the differences of one method from others as PNG and SVG in ``folder``; returns the two files.

    Args:
        rows: ``a`` is the method in all of them.
    """
    method, name = (
        rows[0].method_a,
        "-".join(slug(part).strip("-") for part in (stream, rows[0].method_a, rows[0].key_a)),
    )
    of: dict[str, dict[str, PairRow]] = {}
    for row in rows:
        of.setdefault(row.method_b, {})[row.protocol] = row
    vector, pixels = render(name, forest, of, f"{method} minus each on {stream}, points of {measure}")
    files = [folder / f"{name}.png", folder / f"{name}.svg"]
    write_bytes(files[0], pixels)
    write_text(files[1], vector)
    return files


def forest(of: Mapping[str, Mapping[str, PairRow]], x: str) -> Figure:
    """A line for every rival: the mean difference of each protocol and its 95 % interval, in points from 0."""
    beside = min(0.5, (0.5 + 0.075 * max(map(len, of))) / 6.4)
    figure, axes = blank_figure(width=6.4, height=1.3 + 0.28 * len(of), left=beside, bottom_inches=0.62)
    for place, (_, pair) in enumerate(reversed([*of.items()])):
        for protocol, row in pair.items():
            colour, marker, above = LOOKS[protocol]
            axes.plot([100 * row.ci_low, 100 * row.ci_high], [place + above] * 2, color=colour, linewidth=1.4)
            told = row.p_holm < 0.05
            axes.plot([100 * row.difference], [place + above], marker, markersize=5, color=colour,
                      markerfacecolor=colour if told else "white")  # fmt: skip
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(of)), [*of][::-1])
    axes.set_ylim(-0.6, len(of) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{x}\nfilled: told apart, p below .05 after Holm")
    for protocol in PROTOCOLS:
        axes.plot([], [], LOOKS[protocol][1], color=LOOKS[protocol][0], markersize=5, label=f"identity {protocol}")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, fontsize=8.5, handletextpad=0.2)
    return figure
