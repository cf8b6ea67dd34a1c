"""Histopathology: a haematoxylin and eosin section of glandular tissue.

Two dyes are laid down and light is absorbed by them (Beer-Lambert), so that the colours are those of the stain: pink
wavy stroma with purple nuclei strewn in it, and four glands with a white lumen, pink cytoplasm and a ring of nuclei.

- nuclear_density: how many nuclei lie in the stroma and in the rings
- nuclear_size: the mean radius of a nucleus
- gland_size: the radius of the glands, and with it of their lumens
- pleomorphism: how much nuclei differ in size, elongation, outline and darkness
- stain: how much haematoxylin the nuclei hold
- fibrosis: the contrast of the wavy collagen fibres in the stroma

Nuisance: places and shapes of glands, course of the fibres, eosin strength, lamp, shading and noise.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.canvas import Array, Factor, coordinates, quantise, smooth_noise

NAME = "H&E histopathology slide"
FACTORS: dict[str, Factor] = {
    "nuclear_density": Factor("sparse nuclei", "moderately dense nuclei", "crowded nuclei"),
    "nuclear_size": Factor("small nuclei", "medium-sized nuclei", "enlarged nuclei"),
    "gland_size": Factor("small glands", "medium-sized glands", "dilated glands"),
    "pleomorphism": Factor("uniform nuclei", "mild nuclear pleomorphism", "marked nuclear pleomorphism"),
    "stain": Factor("pale nuclear staining", "moderate nuclear staining", "dark nuclear staining"),
    "fibrosis": Factor("loose stroma", "mildly fibrous stroma", "densely fibrotic stroma"),
}

_GLANDS = 4
_RING = 24  # most nuclei in the ring of a gland
_STROMAL = 100  # most nuclei strewn over the stroma
_HAEMATOXYLIN = np.array([0.74, 0.92, 0.38], np.float32)
_EOSIN = np.array([0.10, 0.82, 0.36], np.float32)


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


def render(factors: dict[str, float], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    y, x = coordinates(size)
    pixel = 2 / size
    density, pleomorphism = factors["nuclear_density"], factors["pleomorphism"]

    # Glands: one near each corner of a turned square; depth_HW is how far inside a gland's border a pixel lies.
    turn, shift = rng.uniform(0, math.pi / 2), rng.uniform(-0.25, 0.25, 2)
    corner = turn + math.pi / 2 * np.arange(_GLANDS) + rng.uniform(-0.3, 0.3, _GLANDS)
    distance = rng.uniform(0.55, 0.95, _GLANDS)
    gy, gx = shift[0] + distance * np.sin(corner), shift[1] + distance * np.cos(corner)
    gr = (0.17 + 0.31 * factors["gland_size"]) * rng.uniform(0.8, 1.2, _GLANDS)
    a, b, c = rng.uniform(-0.2, 0.2, _GLANDS), rng.uniform(-0.2, 0.2, _GLANDS), rng.uniform(-0.12, 0.12, _GLANDS)
    column = (_GLANDS, 1, 1)
    dy = y - gy.astype(np.float32).reshape(column)
    dx = x - gx.astype(np.float32).reshape(column)
    d = np.sqrt(dy * dy + dx * dx) + np.float32(1e-4)
    u, v = dx / d, dy / d
    cos2, sin2 = u * u - v * v, 2 * u * v
    shape = [np.asarray(k, np.float32).reshape(column) for k in (gr, gr * a, gr * b, gr * c)]
    border = shape[0] + shape[1] * cos2 + shape[2] * sin2 + shape[3] * (u * cos2 - v * sin2)
    depth = (border - d).max(axis=0) + np.float32(0.025) * smooth_noise(rng, size, 10)
    soft = max(0.04, pixel)
    gland = np.clip(depth / soft + 0.5, 0, 1)
    lumen = np.clip((depth - 0.15) / soft + 0.5, 0, 1)

    # Stroma: wavy collagen fibres in one main direction.
    along = rng.uniform(0, math.pi)
    phase = (y * math.cos(along) - x * math.sin(along)) * rng.uniform(19, 25) + 5 * smooth_noise(rng, size, 3)
    fibre = np.sin(phase.astype(np.float32)) + smooth_noise(rng, size, 12)
    eosin = rng.uniform(0.42, 0.62) + (0.03 + 0.22 * factors["fibrosis"]) * fibre
    eosin += gland * (rng.uniform(0.5, 0.65) - eosin)
    eosin *= 1 - np.float32(0.93) * lumen
    haem = 0.07 + 0.09 * gland * (1 - lumen)

    # Nuclei: the first ones of a fixed number of places, so that a denser tissue is the same tissue with more nuclei.
    total = _GLANDS * _RING + _STROMAL
    slot = (np.arange(_RING) + rng.uniform(-0.2, 0.2, (_GLANDS, _RING))) * (2 * math.pi)
    per_gland = (6 + 13 * density) * np.sqrt(gr / 0.32)
    theta = slot / per_gland[:, None] + rng.uniform(0, 6, (_GLANDS, 1))
    ring = 1 + a[:, None] * np.cos(2 * theta) + b[:, None] * np.sin(2 * theta) + c[:, None] * np.cos(3 * theta)
    ring = gr[:, None] * ring - rng.uniform(0.03, 0.085, (_GLANDS, _RING))
    seen_ring = np.clip(per_gland[:, None] - np.arange(_RING), 0, 1)
    step = np.arange(_STROMAL)  # a low-discrepancy sequence spreads the nuclei evenly whatever their number
    start, jitter = rng.random(2), rng.uniform(-0.09, 0.09, (2, _STROMAL))
    sy = ((start[0] + step * 0.7548777) % 1) * 2.1 - 1.05 + jitter[0]
    sx = ((start[1] + step * 0.5698403) % 1) * 2.1 - 1.05 + jitter[1]
    seen_stroma = np.clip(8 + (_STROMAL - 8) * density - step, 0, 1)
    at = [np.clip(((k + 1) * (size / 2)).astype(np.intp), 0, size - 1) for k in (sy, sx)]
    seen_stroma *= np.clip(-depth[at[0], at[1]] / 0.06, 0, 1)  # none inside a gland
    cy = np.concatenate([(gy[:, None] + ring * np.sin(theta)).ravel(), sy])
    cx = np.concatenate([(gx[:, None] + ring * np.cos(theta)).ravel(), sx])
    seen = np.concatenate([seen_ring.ravel(), seen_stroma])

    g = np.clip(rng.normal(size=(4, total)), -1.7, 1.7)
    radius = (0.034 + 0.040 * factors["nuclear_size"]) * np.exp(0.5 * pleomorphism * g[0] - 0.2 * pleomorphism**2)
    stretch = np.exp(0.12 + 0.27 * pleomorphism * np.abs(g[1]))
    radius = np.minimum(radius, 0.125 / stretch)
    dye = (0.45 + 0.95 * factors["stain"]) * np.exp(0.5 * pleomorphism * g[2]) * seen
    turn_N = np.concatenate([theta.ravel(), np.full(_STROMAL, along)]) + g[3] * (0.3 + pleomorphism)
    lobe, lobe_turn = 1.3 * pleomorphism * rng.random(total), rng.uniform(0, 6, total)
    keep = seen > 0
    cy, cx, radius, stretch, dye, turn_N, lobe, lobe_turn = (
        k[keep].astype(np.float32) for k in (cy, cx, radius, stretch, dye, turn_N, lobe, lobe_turn)
    )
    margin, index, dy, dx = _windows(size, cy, cx, 0.125)
    cos, sin = np.cos(turn_N)[:, None, None], np.sin(turn_N)[:, None, None]
    u = (cos * dx + sin * dy) / (radius * stretch)[:, None, None]
    v = (cos * dy - sin * dx) / (radius / stretch)[:, None, None]
    tilt_u, tilt_v = np.cos(lobe_turn)[:, None, None], np.sin(lobe_turn)[:, None, None]
    rho = np.sqrt(u * u + v * v) + np.float32(1e-4)
    rho = rho + lobe[:, None, None] * (u * tilt_u + v * tilt_v) * (u * tilt_v - v * tilt_u) / rho
    mask = np.clip((1 - rho) * (radius / (1.2 * pixel))[:, None, None] + 0.5, 0, 1) * dye[:, None, None]
    padded = np.zeros((size + 2 * margin) ** 2, np.float32)
    np.maximum.at(padded, index.ravel(), mask.ravel())
    haem += padded.reshape(size + 2 * margin, -1)[margin : margin + size, margin : margin + size]

    # Light through the section: lamp, shading, absorption, noise.
    lamp = rng.uniform(0.9, 1.0) * rng.uniform(0.97, 1.03, 3)
    slope = rng.uniform(-0.05, 0.05, 2)
    light = (1 + slope[0] * y + slope[1] * x).astype(np.float32)
    absorbed = haem.astype(np.float32)[..., None] * _HAEMATOXYLIN + eosin.astype(np.float32)[..., None] * _EOSIN
    image = np.exp(-absorbed) * (light[..., None] * lamp.astype(np.float32))
    image += rng.normal(0, 0.012, (size, size, 1)).astype(np.float32)
    return quantise(image)
