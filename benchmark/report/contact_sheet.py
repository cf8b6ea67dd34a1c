"""One picture of a stream's data: a row per modality, its images class by class. No torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmark.data import sources
from benchmark.data.catalog import Recipe, Source
from benchmark.report.data_page import as_seen, some
from benchmark.report.pictures import small_png
from benchmark.stream import Framing, Task

SIDE, GAP, BESIDE, ABOVE = 64, 2, 244, 26  # pixels: of an image, between images, of the words, above the first row
COLUMNS, LINES = 8, 4  # images of a row, classes that are named
INK, MUTED, PAPER = "#1f2328", "#59636e", "#ffffff"
COLOURS = 128  # of the whole picture, which then has a third of the bytes of one in true colour


def sheet(recipe: Recipe, framing: Framing) -> bytes:
    """A PNG: of every modality the first task of the stream, with test images of its first classes and their names.

    Args:
        framing: how images that are no squares are fitted to one.

    Raises:
        UserError: samples cannot be read.
    """
    first: dict[str, tuple[Task, Source]] = {}
    for task, source in zip(recipe.stream, recipe.sources, strict=True):
        first.setdefault(task.modality, (task, source))
    high, wide = SIDE + 4 * GAP, BESIDE + COLUMNS * (SIDE + GAP) + (LINES + 2) * 2 * GAP
    canvas = Image.new("RGB", (wide, ABOVE + len(first) * high + GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    for row, (modality, (task, source)) in enumerate(first.items()):
        top, names = ABOVE + row * high, [label.name for label in task.labels]
        draw.text((12, top - 2), modality, INK, _font(13))
        said = [f"{place}  {name}" for place, name in enumerate(names[:LINES], 1)] or [task.kind]
        for line, words in enumerate(said):
            draw.text((12, top + 15 + 12 * line), _cut(draw, words), MUTED, _font(10))
        each = _images(task, source, framing)
        for place, images in enumerate(each):
            left = BESIDE + place * ((COLUMNS // len(each)) * (SIDE + GAP) + 2 * GAP)
            if row == 0 and names:
                draw.text((left, 10), f"class {place + 1}", MUTED, _font(10))
            for column, image in enumerate(images):
                canvas.paste(image, (left + column * (SIDE + GAP), top))
    return small_png(canvas, COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=2)


def _images(task: Task, source: Source, framing: Framing) -> list[list[Image.Image]]:
    """Those of a row, as many of each of the first classes; of a task without classes from first to last."""
    loaded, classes = sources.load(source, "test"), len(task.labels[:LINES])
    found = [np.flatnonzero(loaded.labels == place) for place in range(classes)] or [np.arange(len(loaded.labels))]
    chosen = [some(rows, COLUMNS // len(found)) for rows in found]
    if loaded.pairs is not None:
        chosen = [loaded.pairs[rows, 0].tolist() for rows in chosen]
    return [[Image.fromarray(as_seen(loaded, place, SIDE, framing)) for place in places] for places in chosen]


def _cut(draw: Any, name: str) -> str:
    """The name as far as it fits beside the images."""
    room = BESIDE - 14
    if draw.textlength(name, _font(10)) <= room:
        return name
    while draw.textlength(f"{name}...", _font(10)) > room:
        name = name[:-1]
    return f"{name}..."


@cache
def _font(size: int) -> Any:
    """The one that comes with matplotlib, so that it is the same everywhere."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
