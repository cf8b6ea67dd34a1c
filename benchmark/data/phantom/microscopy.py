"""Microscopy: a stained blood smear under oil immersion.

Salmon red cells with a pale centre on a light ground (overlapping cells absorb twice), one white cell with a violet
nucleus in pale lilac cytoplasm, and small violet platelets.

- cell_size: the radius of the red cells
- elongation: from round to elliptic red cells
- central_pallor: how pale and wide the centre of a red cell is
- cell_number: how many red cells are in the field
- nuclear_lobes: the white cell's nucleus, from one round mass to four lobes that lie apart
- platelets: how many platelets lie between the cells

Nuisance: places and tilts of cells, stain strength, tint of the ground, size of the white cell, shading and noise.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.canvas import Array, Factor, coordinates, quantise, smooth_noise

NAME = "blood smear micrograph"
FACTORS: dict[str, Factor] = {
    "cell_size": Factor("small red cells", "medium-sized red cells", "large red cells"),
    "elongation": Factor("round red cells", "oval red cells", "elongated red cells"),
    "central_pallor": Factor("dense red cells", "normal central pallor", "marked central pallor"),
    "cell_number": Factor("few red cells", "moderate red cells", "crowded red cells"),
    "nuclear_lobes": Factor("round white-cell nucleus", "indented white-cell nucleus", "lobed white-cell nucleus"),
    "platelets": Factor("scarce platelets", "some platelets", "abundant platelets"),
}

_CELLS = 44
_PLATELETS = 26
_LOBES = 4
_RED = np.array([0.10, 0.46, 0.42], np.float32)
_VIOLET = np.array([1.15, 1.50, 0.52], np.float32)
_LILAC = np.array([0.20, 0.26, 0.08], np.float32)


def _windows(size: int, cy: Array, cx: Array, reach: float) -> tuple[int, NDArray[np.intp], Array, Array]:
    """(margin, index_NKK into the flat padded image, dy_NKK, dx_NKK) of small windows around N centres."""
    half = math.ceil(reach * size / 2) + 1
    margin = 2 * half + 2
    py, px = (cy + 1) * (size / 2) - 0.5, (cx + 1) * (size / 2) - 0.5
    row = np.clip(np.rint(py), -half, size + half).astype(np.intp)
    column = np.clip(np.rint(px), -half, size + half).astype(np.intp)
    offset = np.arange(-half, half + 1)
    row_NK, column_NK = row[:, None] + offset, column[:, None] + offset
    dy = ((row_NK - py[:, None]) * (2 / size)).astype(np.float32)
    dx = ((column_NK - px[:, None]) * (2 / size)).astype(np.float32)
    index = (row_NK + margin)[:, :, None] * (size + 2 * margin) + (column_NK + margin)[:, None, :]
    return margin, index, dy[:, :, None], dx[:, None, :]


def _sum(size: int, margin: int, index: NDArray[np.intp], value: Array) -> Array:
    """(H, W) sum of the windows' values."""
    side = size + 2 * margin
    padded = np.bincount(index.ravel(), value.ravel(), side * side).reshape(side, side)
    return padded[margin : margin + size, margin : margin + size].astype(np.float32)


def render(factors: dict[str, float], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    y, x = coordinates(size)
    pixel = 2 / size

    # The white cell: cytoplasm, and a nucleus of four round lobes which move apart.
    wy, wx = rng.uniform(-0.5, 0.5, 2)
    white = rng.uniform(0.33, 0.40)
    wobble = 0.06 * smooth_noise(rng, size, 5)
    dy, dx = y - np.float32(wy), x - np.float32(wx)
    soft = max(0.04, pixel)
    cytoplasm = np.clip((white - np.sqrt(dy * dy + dx * dx) + wobble) / soft + 0.5, 0, 1)
    lobes = factors["nuclear_lobes"] ** 0.75
    angle = rng.uniform(0, 6.3) + np.array([0, 1.5, 3.0, 4.5]) + rng.uniform(-0.25, 0.25, _LOBES)
    apart = white * 0.64 * lobes * rng.uniform(0.9, 1.1, _LOBES)
    lobe_radius = white * (0.64 - 0.34 * lobes) * rng.uniform(0.92, 1.08, _LOBES)
    ly = (apart * np.sin(angle)).astype(np.float32)[:, None, None]
    lx = (apart * np.cos(angle)).astype(np.float32)[:, None, None]
    inside = lobe_radius.astype(np.float32)[:, None, None] - np.sqrt((dy - ly) ** 2 + (dx - lx) ** 2)
    nucleus = np.clip((inside.max(axis=0) + 0.3 * wobble) / soft + 0.5, 0, 1)
    nucleus *= 0.85 + 0.15 * smooth_noise(rng, size, 12)

    # Red cells: the first ones of a fixed, evenly spread sequence of places; none where the white cell is.
    step, start, jitter = np.arange(_CELLS), rng.random(2), rng.uniform(-0.10, 0.10, (2, _CELLS))
    cy = ((start[0] + step * 0.7548777) % 1) * 2.3 - 1.15 + jitter[0]
    cx = ((start[1] + step * 0.5698403) % 1) * 2.3 - 1.15 + jitter[1]
    radius = (0.12 + 0.10 * factors["cell_size"]) * rng.uniform(0.92, 1.08, _CELLS)
    elongation = factors["elongation"] ** 2 * (3 - 2 * factors["elongation"])  # changes fastest half-way
    stretch = np.sqrt(1.02 + 1.9 * elongation * rng.uniform(0.85, 1.15, _CELLS))
    turn, hue = rng.uniform(0, math.pi, _CELLS), rng.uniform(0.85, 1.15, _CELLS)
    seen = np.clip(7 + (_CELLS - 7) * factors["cell_number"] - step, 0, 1)
    seen *= np.clip((np.hypot(cy - wy, cx - wx) - white - 0.6 * radius) / 0.05, 0, 1)
    keep = seen > 0
    cy, cx, radius, stretch, turn, dye = (
        k[keep].astype(np.float32) for k in (cy, cx, radius, stretch, turn, hue * seen)
    )
    margin, index, dy, dx = _windows(size, cy, cx, 0.40)
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    u = (cos * dx + sin * dy) / (radius * stretch)[:, None, None]
    v = (cos * dy - sin * dx) / (radius / stretch)[:, None, None]
    rho = np.sqrt(u * u + v * v)
    pallor = factors["central_pallor"]
    centre = np.clip((0.42 + 0.35 * pallor - rho) * 2.2, 0, 1) * np.float32(0.1 + 0.8 * pallor)
    mask = np.clip((1 - rho) * (radius / soft)[:, None, None] + 0.5, 0, 1) * (1 - centre)
    red = _sum(size, margin, index, mask * dye[:, None, None])
    red *= (1 - 0.9 * cytoplasm) * rng.uniform(0.8, 1.2)

    # Platelets: small violet grains.
    py, px = rng.uniform(-1, 1, (2, _PLATELETS)).astype(np.float32)
    grain = rng.uniform(0.038, 0.058, _PLATELETS).astype(np.float32)
    count = _PLATELETS * factors["platelets"] * rng.uniform(0.85, 1.0)
    dye = (np.clip(count - np.arange(_PLATELETS), 0, 1) * rng.uniform(0.5, 0.8, _PLATELETS)).astype(np.float32)
    margin, index, dy, dx = _windows(size, py, px, 0.11)
    rho2 = (dy * dy + dx * dx) / (grain * grain)[:, None, None]
    violet = _sum(size, margin, index, np.exp(-rho2 * rho2 * 0.7) * dye[:, None, None])
    violet += (nucleus - violet) * cytoplasm

    # Light: tinted ground, shading, absorption, noise.
    ground = rng.uniform(0.9, 0.98) * np.array([0.98, 0.96, 0.95]) * rng.uniform(0.97, 1.03, 3)
    slope = rng.uniform(-0.06, 0.06, 2)
    light = (1 + slope[0] * y + slope[1] * x + 0.015 * smooth_noise(rng, size, 4)).astype(np.float32)
    absorbed = red.astype(np.float32)[..., None] * _RED
    absorbed += (violet * rng.uniform(0.85, 1.15)).astype(np.float32)[..., None] * _VIOLET
    absorbed += cytoplasm.astype(np.float32)[..., None] * _LILAC
    image = np.exp(-absorbed) * (light[..., None] * ground.astype(np.float32))
    image += rng.normal(0, 0.012, (size, size, 1)).astype(np.float32)
    return quantise(image)
