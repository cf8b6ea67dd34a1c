"""New images, which a trained method is asked about: files, or pixels in memory, each with a name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.data.sources.images import decoded
from benchmark.errors import UserError, shown

Picture = Path | NDArray[np.uint8]  # pixels of uint8 as (H, W) grey or (H, W, 3)


def below(images: Path) -> list[tuple[str, Picture]]:
    """Every image below a folder with its path in there, sorted; or the one file that is named.

    Raises:
        UserError: there is none.
    """
    if images.is_file():
        return [(images.name, images)]
    known = Image.registered_extensions()
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in known and path.is_file())
    if not paths:
        raise UserError(f"--images {images}: {'no image in this folder' if images.is_dir() else 'no such folder'}")
    return [(path.relative_to(images).as_posix(), path) for path in paths]


def of(images: Sequence[Any]) -> list[tuple[str, Picture]]:
    """Several images: files by their path, PIL images and arrays by their number.

    Raises:
        UserError: there is none, or one of another form.
    """
    if isinstance(images, np.ndarray) or not isinstance(images, Sequence) or not images:
        raise UserError(f"images: expected a folder, a file, or a list of images, got {shown(images)}")
    return [
        (os.fspath(image), Path(image)) if isinstance(image, str | os.PathLike) else (str(at), _in_memory(image, at))
        for at, image in enumerate(images)
    ]


def _in_memory(image: Any, at: int) -> NDArray[np.uint8]:
    """The pixels of an image in memory, if they need no conversion: of which there are several."""
    if isinstance(image, Image.Image):
        if image.mode not in ("L", "RGB"):
            raise UserError(f"images: number {at} has mode {image.mode}, expected L or RGB; PIL's convert changes it")
        return np.asarray(image)
    array = np.asarray(image)
    grey_or_colour = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not grey_or_colour or 0 in array.shape:
        raise UserError(f"images: expected uint8 of (H, W) or (H, W, 3), number {at} is {array.dtype} {array.shape}")
    return array


def pixels(picture: Picture) -> NDArray[np.uint8] | str:
    """The image, or why there is none."""
    if not isinstance(picture, Path):
        return picture
    try:
        return decoded(picture)
    except UserError as error:
        return str(error).removeprefix(f"{picture}: ")
