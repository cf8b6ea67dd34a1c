"""Images in files, decoded one at a time, so that memory holds one of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.data.places import regular
from benchmark.errors import UserError

MOST_PIXELS = 90_000_000
LONGEST = 1000  # times the shorter side: more is no picture, and its shorter side is what is scaled
PROGRAMS = ("EPS", "WMF")  # formats that a program outside draws


class Images:
    """The images of some files, decoded as they are asked for: uint8 (H, W) grey or (H, W, 3), each of its own size."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return map(decoded, self.paths)


def decoded(path: Path) -> NDArray[np.uint8]:
    """An image as 8 bits, grey or colour: of 16 bits the upper eight, palettes looked up, transparency dropped.

    Raises:
        UserError: the file is no image, is damaged or too large, or has pixels that no rule turns into 8 bits.
    """
    from PIL import Image

    regular(path, str(path))
    Image.init()
    try:
        with warnings.catch_warnings():  # large images are refused here
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=[name for name in Image.OPEN if name not in PROGRAMS])
        with opened as image:
            short, long = sorted(image.size)
            if short * long > MOST_PIXELS:
                raise ValueError(f"{short * long:,} pixels, at most {MOST_PIXELS:,}")
            if long > LONGEST * short:
                raise ValueError(f"{image.width} x {image.height}: one side is more than {LONGEST} times the other")
            if image.mode in ("L", "RGB"):
                return np.asarray(image)
            if image.mode.startswith("I"):
                pixels = np.asarray(image)
                if pixels.min() < 0 or pixels.max() > 65535:
                    raise ValueError("pixels of more than 16 bits; save it with 8 or 16")
                return (pixels >> 8).astype(np.uint8)
            if image.mode == "F":
                raise ValueError("floating-point pixels; save it with 8 or 16 bits")
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # the decoders of PIL raise anything
        raise UserError(f"{path}: not readable as an image: {' '.join(str(error).split())}") from None
