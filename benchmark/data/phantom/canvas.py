"""What every phantom draws with: coordinates, smooth noise, soft shapes, colours.

All functions are pure: what is random comes from the ``rng`` they are given. Coordinates run from -1 (top, left)
to 1 (bottom, right), so a generator draws the same picture at any size. Legend: H height, W width, in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Factor:
    """One named property of an image, a number in [0, 1], and what a caption says of it."""

    low: str
    middle: str
    high: str

    def phrase(self, value: float) -> str:
        return self.low if value < 0.4 else self.high if value > 0.6 else self.middle


@lru_cache(maxsize=8)
def coordinates(size: int) -> tuple[Array, Array]:
    """(y_HW, x_HW) of the pixels' centres, read-only."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    y_HW, x_HW = np.meshgrid(line, line, indexing="ij")
    y_HW.setflags(write=False)
    x_HW.setflags(write=False)
    return y_HW, x_HW


@lru_cache(maxsize=64)
def _interpolation(size: int, cells: int) -> Array:
    """(size, cells + 1) weights that interpolate ``cells`` smooth steps over ``size`` pixels."""
    position = (np.arange(size) + 0.5) / size * cells
    left = np.minimum(position.astype(int), cells - 1)
    t = position - left
    t = t * t * (3 - 2 * t)
    weights = np.zeros((size, cells + 1), np.float32)
    weights[np.arange(size), left] = 1 - t
    weights[np.arange(size), left + 1] = t
    return weights


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """(H, W) noise in about [-1, 1] whose features are 1/``cells`` of the image wide."""
    nodes = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    weights = _interpolation(size, cells)
    return weights @ nodes @ weights.T


def ellipse(
    size: int,
    cy: float,
    cx: float,
    ry: float,
    rx: float,
    angle: float = 0.0,
    softness: float = 0.03,
    wobble: Array | float = 0.0,
) -> Array:
    """(H, W) soft mask in [0, 1] of an ellipse turned by ``angle`` (radians).

    ``wobble`` (a number or (H, W)) is added to the normalised radius: smooth noise makes an irregular border.
    """
    y_HW, x_HW = coordinates(size)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dy, dx = y_HW - np.float32(cy), x_HW - np.float32(cx)
    u = (cos * dx + sin * dy) / np.float32(rx)
    v = (cos * dy - sin * dx) / np.float32(ry)
    radius = np.sqrt(u * u + v * v) + wobble
    edge = np.float32(softness / min(ry, rx))
    return np.clip((1 - radius) / edge + 0.5, 0, 1).astype(np.float32)


def paint(image_HWC: Array, colour: tuple[float, float, float] | float, mask_HW: Array, opacity: float = 1.0) -> None:
    """Blend a colour into an (H, W, 3) or (H, W) image in place where the mask is."""
    alpha = mask_HW * np.float32(opacity)
    if image_HWC.ndim == 2:
        image_HWC += alpha * (np.float32(colour) - image_HWC)
    else:
        image_HWC += alpha[..., None] * (np.asarray(colour, np.float32) - image_HWC)


def quantise(image: Array) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) floats in [0, 1] -> (H, W, 3) uint8; grey is repeated over the channels."""
    grey = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2) if grey.ndim == 2 else grey
