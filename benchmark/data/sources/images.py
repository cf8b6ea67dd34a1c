"""Images in files, decoded one at a time, so that memory holds one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UserError


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
        UserError: the file is no image, is damaged, or has pixels that no rule turns into 8 bits.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
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
