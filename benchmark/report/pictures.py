"""Images in files: of made test samples whose answers a record shows, drawn again, for no record keeps an image; and
small PNGs."""

from __future__ import annotations

import io
from base64 import b64encode
from typing import Any

from PIL import Image

from benchmark.data import catalog, sources
from benchmark.data.sources import phantoms
from benchmark.errors import UserError
from benchmark.record.answers import shown_places
from benchmark.record.schema import Record

QUALITY = 90  # of JPEG: an image takes a third of what it takes as PNG


def addresses(record: Record) -> dict[str, list[str]]:
    """Task -> an address that holds the image, of each of its samples in the record.

    Only where the record's own checksum of the task's data is that of what is drawn here; without the tasks where the
    stream is not there, has changed since, or draws otherwise.
    """
    try:
        recipe = catalog.load(record.config.stream, None)
    except UserError:  # of a file elsewhere, or that is gone
        return {}
    there = {task.name: source for task, source in zip(recipe.stream, recipe.sources, strict=True)}
    made = {task: there[task] for task in record.samples or {} if task in there and there[task].kind == "phantom"}
    return {task: images for task, source in made.items() if (images := _of(source, task, record))}


def _of(source: catalog.Source, task: str, record: Record) -> list[str]:
    """Those of one task; empty where what is drawn here is something else."""
    scores = ((record.hits or {}).get("given") or {}).get(task)
    try:
        if sources.identity(source) != record.provenance.data.get(task) or scores is None:
            return []
        places = shown_places(scores.n)
        if phantoms.options(source)["sizes"]["test"] != scores.n or len(places) != len((record.samples or {})[task]):
            return []
        return [_address(Image.fromarray(image)) for image in phantoms.pictures(source, "test", places)]
    except UserError:
        return []


def _address(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{b64encode(data.getvalue()).decode()}"


def small_png(image: Image.Image, colours: int, **chosen: Any) -> bytes:
    """A PNG of so few colours, without dithering; ``chosen``: how they are, of Pillow's ``quantize``."""
    written = io.BytesIO()
    image.quantize(colours, dither=Image.Dither.NONE, **chosen).save(written, "PNG", optimize=True)
    return written.getvalue()
