"""Dermoscopy: a pigmented lesion on skin, seen through a dermatoscope.

A brown lesion with a darker middle lies on pink to tan skin; in some pictures the dermatoscope's dark rim shows.

- asymmetry: a lobe grows out of one side, and that half of the lesion is darker than the other
- border_irregularity: from a smooth outline to a ragged, notched one
- colour_variety: patches of black, blue-grey, red and white over the brown
- lesion_size: the radius of the lesion
- hair: how many dark hairs cross the picture
- pigment_network: the contrast of the honeycomb of pigment in the lesion

Nuisance: place, tilt and ellipticity, tone of skin and of lesion, places of patches and hairs, rim, light and noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.canvas import Array, Factor, coordinates, ellipse, paint, quantise, smooth_noise

NAME = "dermoscopy image"
FACTORS: dict[str, Factor] = {
    "asymmetry": Factor("symmetric lesion", "mildly asymmetric lesion", "markedly asymmetric lesion"),
    "border_irregularity": Factor("smooth border", "slightly irregular border", "ragged border"),
    "colour_variety": Factor("uniform brown colour", "some colour variation", "multiple colours"),
    "lesion_size": Factor("small lesion", "medium-sized lesion", "large lesion"),
    "hair": Factor("no overlying hair", "some hair", "heavy hair"),
    "pigment_network": Factor("no pigment network", "faint pigment network", "prominent pigment network"),
}

_HAIRS = 9
_PATCHES = ((0.10, 0.08, 0.09), (0.33, 0.38, 0.50), (0.72, 0.26, 0.24), (0.88, 0.78, 0.74))


def _paint(image_CHW: Array, colour: Sequence[float], mask: Array, opacity: float) -> None:
    """Blend a colour in place, channel by channel: planes are quicker to paint than pixels of three."""
    for channel, value in zip(image_CHW, colour, strict=True):
        paint(channel, float(value), mask, opacity)


def _steepened(value: float) -> float:
    """Changes fastest half-way, so that low and high values look plainly different."""
    return value * value * (3 - 2 * value)


def render(factors: dict[str, float], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    y, x = coordinates(size)
    pixel = 2 / size
    asymmetry, raggedness = _steepened(factors["asymmetry"]), _steepened(factors["border_irregularity"])
    variety = factors["colour_variety"]

    # Skin.
    tan, flush = rng.random(), rng.uniform(-0.04, 0.04)
    skin = np.array([0.93 - 0.14 * tan, 0.73 - 0.17 * tan - flush, 0.65 - 0.21 * tan - flush], np.float32)
    mottle = 1 + 0.05 * smooth_noise(rng, size, 4) + 0.035 * smooth_noise(rng, size, 16)
    image = mottle * skin[:, None, None]

    # Outline: an ellipse, a lobe on one side, and noise on the radius.
    cy, cx = rng.uniform(-0.17, 0.17, 2)
    radius = (0.30 + 0.36 * factors["lesion_size"]) * rng.uniform(0.95, 1.05)
    axis, tilt = rng.uniform(1.0, 1.18), rng.uniform(0, math.pi)
    side = rng.uniform(-0.8, 0.8)  # the lobe grows to the right
    notch = smooth_noise(rng, size, 8) * 0.6 + smooth_noise(rng, size, 13) * 0.8
    wobble = notch * np.float32(0.02 + 0.85 * raggedness)
    main = radius * (1 - 0.2 * asymmetry)
    soft = 0.06
    lesion = ellipse(size, cy, cx, main * axis, main / axis, tilt, soft, wobble)
    away = radius * (0.2 + 0.8 * asymmetry)
    lobe = radius * (0.55 - 0.05 * asymmetry)
    ly, lx = cy + away * math.sin(side), cx + away * math.cos(side)
    lesion = np.maximum(lesion, ellipse(size, ly, lx, lobe, lobe, 0.0, soft, wobble))

    # Pigment: darker in the middle and, in an asymmetric lesion, in the half where the lobe is.
    tone, warm = rng.uniform(0.8, 1.2), rng.uniform(-0.04, 0.04)
    brown = np.array([0.50 + warm, 0.30, 0.19 - warm], np.float32) * np.float32(tone)
    dy, dx = y - np.float32(cy), x - np.float32(cx)
    across = np.clip((dx * math.cos(side) + dy * math.sin(side)) / radius * 2, -1, 1).astype(np.float32)
    middle = np.clip(1 - (dx * dx + dy * dy) / np.float32(1.6 * radius * radius), 0, 1)
    shade = 1.2 - 0.2 * middle + 0.10 * smooth_noise(rng, size, 5) - np.float32(0.55 * asymmetry) * across
    image *= 1 - 0.93 * lesion
    image += (0.93 * lesion * shade) * brown[:, None, None]

    # Patches of other colours, each somewhere else around the middle.
    start, gap = rng.uniform(0, 6.3), rng.uniform(-0.3, 0.3, len(_PATCHES))
    far, wide = rng.uniform(0.30, 0.62, len(_PATCHES)), rng.uniform(0.24, 0.36, len(_PATCHES))
    ragged = 0.5 * smooth_noise(rng, size, 6)
    for i, colour in enumerate(_PATCHES):
        turn = start + i * (2 * math.pi / len(_PATCHES)) + gap[i]
        py, px = cy + far[i] * radius * math.sin(turn), cx + far[i] * radius * math.cos(turn)
        extent = radius * wide[i] * (0.6 + 0.6 * variety)
        patch = ellipse(size, py, px, extent, extent * 1.3, turn, 0.14, ragged)
        _paint(image, colour, patch * lesion, 0.92 * variety)

    # Pigment network: three crossed waves leave a honeycomb of lines.
    pitch, turn = 2 * math.pi / rng.uniform(0.17, 0.22), rng.uniform(0, math.pi)
    bend = 1.8 * smooth_noise(rng, size, 5)
    waves = np.zeros((size, size), np.float32)
    for k in range(3):
        angle = turn + k * math.pi / 3
        waves += np.cos(pitch * (x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle))) + bend * (1 - k))
    mesh = np.clip(0.75 - 0.6 * waves, -0.7, 1)
    image *= 1 - np.float32(0.45 * factors["pigment_network"]) * mesh * lesion

    # Hairs: dark arcs right across the picture.
    lean = rng.uniform(0, math.pi) + rng.uniform(-0.7, 0.7, _HAIRS)
    offset, bow = rng.uniform(-0.9, 0.9, _HAIRS), rng.uniform(-0.25, 0.25, _HAIRS)
    seen = np.clip(_HAIRS * factors["hair"] * rng.uniform(0.85, 1.0) - np.arange(_HAIRS), 0, 1)
    cos, sin, offset, bow, seen = (
        k.astype(np.float32)[:, None, None] for k in (np.cos(lean), np.sin(lean), offset, bow, seen)
    )
    along = cos * x + sin * y
    gap_HW = np.abs(cos * y - sin * x - offset - bow * along * along)
    thickness = rng.uniform(0.016, 0.024)
    blur = max(pixel, 0.02)
    hair = (np.clip((thickness - gap_HW) / blur + 0.5, 0, 1) * seen).max(axis=0)
    _paint(image, (0.13, 0.09, 0.07), hair, 0.7)

    # Light: exposure, shading, the rim of the dermatoscope in some pictures, noise.
    rim, reach = rng.random(), rng.uniform(1.05, 1.3)
    distance = np.sqrt(x * x + y * y)
    light = rng.uniform(0.88, 1.08) * (1 - rng.uniform(0, 0.1) * distance * distance)
    if rim < 0.4:
        light = light * np.clip((reach - distance) / 0.08 + 0.5, 0.03, 1)
    image *= light.astype(np.float32) * rng.uniform(0.98, 1.02, (3, 1, 1)).astype(np.float32)
    image += rng.normal(0, 0.012, (size, size)).astype(np.float32)
    return quantise(np.ascontiguousarray(image.transpose(1, 2, 0)))
