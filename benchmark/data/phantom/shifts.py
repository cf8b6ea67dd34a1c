"""Domain shifts of made images: another scanner, another stain, noise; each by a strength in [0, 1].

``scanner``: gamma, contrast, blur and a vignette, as of another camera. ``stain``: colours turned about the grey axis
in optical density (minus the logarithm of transmitted light), as of another dye; at 1 the three channels have changed
places. ``noise``: coarse blocks as of strong compression, dark grain and dark lines. A shift is a pure function of the
image, the strength and the seed; strength 0 gives the image back, bit by bit. Legend: H, W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.canvas import Array, coordinates

VERSION = 1
_STREAM = 2  # tells a shift's draws from those of the image
_BLOCK = 4


def shifted(image_HWC: NDArray[np.uint8], shift: Mapping[str, float], seed: Sequence[int]) -> NDArray[np.uint8]:
    """The image (H, W, 3) under every shift named, in the order of ``KINDS`` whatever the order they are named in."""
    for number, (kind, applied) in enumerate(KINDS.items()):
        strength = float(shift.get(kind, 0))
        if strength > 0:
            rng = np.random.default_rng([*seed, _STREAM, number])
            light = applied(image_HWC.astype(np.float32) / 255, strength, rng)
            image_HWC = np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8)
    return image_HWC


def _stain(image_HWC: Array, strength: float, rng: np.random.Generator) -> Array:
    angle = 2 * np.pi / 3 * strength * rng.uniform(0.92, 1)
    cos, rest = np.cos(angle), (1 - np.cos(angle)) / 3
    side = np.sin(angle) / np.sqrt(3)
    matrix = np.full((3, 3), rest) + cos * np.eye(3)
    matrix += side * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    density_HWC = -np.log(np.maximum(image_HWC, 1 / 255)) @ matrix.T.astype(np.float32)
    return np.exp(-density_HWC)


def _scanner(image_HWC: Array, strength: float, rng: np.random.Generator) -> Array:
    size = image_HWC.shape[0]
    y_HW, x_HW = coordinates(size)
    cy, cx = rng.uniform(-0.2, 0.2, 2)
    gamma, gain = 1 + strength * rng.uniform(0.9, 1.3), 1 - 0.45 * strength * rng.uniform(0.9, 1.1)
    image_HWC = _blurred(image_HWC, strength * size / 64)
    image_HWC = image_HWC**gamma * gain + 0.18 * strength
    falloff = np.float32(0.3 * strength) * ((y_HW - np.float32(cy)) ** 2 + (x_HW - np.float32(cx)) ** 2)
    return image_HWC * (1 - np.minimum(falloff, 1))[..., None]


def _noise(image_HWC: Array, strength: float, rng: np.random.Generator) -> Array:
    height, width = image_HWC.shape[:2]
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    padding = [(0, rows * _BLOCK - height), (0, columns * _BLOCK - width), (0, 0)]
    blocks = np.pad(image_HWC, padding, mode="edge").reshape(rows, _BLOCK, columns, _BLOCK, -1).mean(axis=(1, 3))
    blocks += (0.1 * rng.normal(size=(rows, columns, 1))).astype(np.float32)  # coarsely rounded, as in compression
    coarse = blocks.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)[:height, :width]
    image_HWC = image_HWC + np.float32(0.6 * strength) * (coarse - image_HWC)
    grain = np.abs(rng.normal(size=(height, width, 1))) + 0.4 * np.abs(rng.normal(size=(height, 1, 1)))
    return image_HWC * np.exp(-0.5 * strength * grain).astype(np.float32)


def _blurred(image_HWC: Array, sigma: float) -> Array:
    """Gaussian blur, the border repeated."""
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    weights /= weights.sum()
    for axis in (0, 1):
        padding = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(image_HWC, padding, mode="edge")
        length = image_HWC.shape[axis]
        image_HWC = sum(w * padded.take(range(k, k + length), axis) for k, w in enumerate(weights))
    return image_HWC


KINDS: dict[str, Callable[[Array, float, np.random.Generator], Array]] = {
    "stain": _stain, "scanner": _scanner, "noise": _noise,
}  # fmt: skip
