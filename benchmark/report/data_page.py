"""One HTML page of a stream's data: what is in it, and images of every class as a backbone sees them. No torch.

Images are those of real people where the data are: the page stays where it was made, in a folder that git ignores.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark import kinds
from benchmark.data import sources
from benchmark.data.cache import resized
from benchmark.data.catalog import Recipe, Source
from benchmark.data.sources.images import Images
from benchmark.data.sources.split import Split
from benchmark.data.survey import TaskFacts
from benchmark.report.wording import environment
from benchmark.stream import Framing

SHOWN = {"train": 8, "test": 4}  # images of each class
EXACT = 64  # pixels of a side up to which images stand in the page as they are; larger ones as JPEG


@dataclass(frozen=True)
class Sheet:
    """Some samples of a class, or of a task without classes, of one split: for each an address and what it says."""

    title: str
    split: str
    samples: tuple[tuple[str, str], ...]


def page(
    recipe: Recipe, facts: Sequence[TaskFacts], twice: str, backbone: str, size: int, framing: Framing
) -> str:  # fmt: skip
    """The page as text.

    Args:
        twice: what stands twice in the data, in words. backbone: whose image ``size`` and ``framing`` these are.
    """
    sheets = [_sheets(each, source, size, framing) for each, source in zip(facts, recipe.sources, strict=True)]
    return (
        environment()
        .get_template("data.html.j2")
        .render(
            stream=recipe.stream, description=recipe.description, tasks=list(zip(facts, sheets, strict=True)),
            twice=twice, backbone=backbone, size=size, framing=framing,
        )
    )  # fmt: skip


def _sheets(facts: TaskFacts, source: Source, size: int, framing: Framing) -> list[Sheet]:
    found: list[Sheet] = []
    for split, count in SHOWN.items():
        loaded = sources.load(source, split)
        found += _of_split(facts, loaded, split, count, size, framing)
    order = {label.name: place for place, label in enumerate(facts.task.labels)}
    return sorted(found, key=lambda sheet: order.get(sheet.title, -1))


def _of_split(
    facts: TaskFacts, loaded: Split, split: str, count: int, size: int, framing: Framing
) -> Iterator[Sheet]:  # fmt: skip
    if not kinds.of(facts.task.kind).labelled:
        rows = some(np.arange(len(loaded.labels)), 3 * count)
        yield Sheet("samples", split, tuple(_shown(loaded, row, size, framing) for row in rows))
        return
    for place, label in enumerate(facts.task.labels):
        rows = some(np.flatnonzero(loaded.labels == place), count)
        yield Sheet(label.name, split, tuple(_shown(loaded, row, size, framing) for row in rows))


def some(rows: NDArray[np.int64], count: int) -> list[int]:
    """At most so many of them, from the first to the last at equal distances."""
    if len(rows) <= count:
        return [int(row) for row in rows]
    return [int(rows[place]) for place in np.linspace(0, len(rows) - 1, count).round().astype(int)]


def as_seen(loaded: Split, image: int, size: int, framing: Framing) -> NDArray[np.uint8]:
    """(size, size, 3) one image of a split as a backbone of this size and framing sees it."""
    images = loaded.images
    one = Images([images.paths[image]]) if isinstance(images, Images) else images[image : image + 1]
    return resized(one, size, framing)[0].transpose(1, 2, 0)


def _shown(loaded: Split, row: int, size: int, framing: Framing) -> tuple[str, str]:
    """The image of a sample as the model sees it, as an address, and its texts."""
    image, *texts = (row,) if loaded.pairs is None else loaded.pairs[row].tolist()
    images, pixels = loaded.images, as_seen(loaded, image, size, framing)
    written, kind = io.BytesIO(), "PNG" if size <= EXACT else "JPEG"
    Image.fromarray(pixels).save(written, kind, **({} if kind == "PNG" else {"quality": 90}))
    address = f"data:image/{kind.lower()};base64,{base64.b64encode(written.getvalue()).decode()}"
    named = images.paths[image].name if isinstance(images, Images) else f"{image}"
    said = " | ".join([named, *(loaded.texts[text] for text in texts)])
    return address, escape(said)
