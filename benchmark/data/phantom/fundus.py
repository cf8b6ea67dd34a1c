"""Fundus photography: the retina through the pupil, an orange disc on black.

The yellow optic disc lies to one side (left or right eye) with a pale cup in it; four pairs of vessels leave it, arch
above and below the darker macula, and branch.

- exudates: how many small yellow-white spots lie around the macula
- haemorrhages: how many dark red blots are strewn over the retina
- vessel_tortuosity: from straight to winding vessels
- vessel_width: from narrow to wide vessels
- cup_size: the cup-to-disc ratio
- pigmentation: from a pale, even fundus to a dark brown, mottled one

Nuisance: which eye, places of disc and macula, courses of vessels, exposure, vignette, choroid texture and noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.canvas import Array, Factor, coordinates, ellipse, paint, quantise, smooth_noise

NAME = "retinal fundus photograph"
FACTORS: dict[str, Factor] = {
    "exudates": Factor("no hard exudates", "few hard exudates", "many hard exudates"),
    "haemorrhages": Factor("no haemorrhages", "scattered haemorrhages", "extensive haemorrhages"),
    "vessel_tortuosity": Factor("straight vessels", "mildly tortuous vessels", "markedly tortuous vessels"),
    "vessel_width": Factor("narrow vessels", "normal-calibre vessels", "dilated vessels"),
    "cup_size": Factor("small optic cup", "medium optic cup", "enlarged optic cup"),
    "pigmentation": Factor("pale fundus", "orange fundus", "darkly pigmented fundus"),
}

_SPOTS = 30
_BLOTS = 20
_TRUNKS = 8
_FORKS = 12


def _stamp(size: int, cy: Array, cx: Array, radius: Array, strength: Array | float, reach: float) -> Array:
    """(H, W) maximum of N soft round dots, each drawn in a small window only."""
    half = math.ceil(reach * size / 2 + 0.4)
    margin = 2 * half + 2
    side = size + 2 * margin
    py, px = (cy + 1) * (size / 2) - 0.5, (cx + 1) * (size / 2) - 0.5
    offset = np.arange(-half, half + 1)
    row = np.clip(np.rint(py), -half, size + half).astype(np.intp)[:, None] + offset
    column = np.clip(np.rint(px), -half, size + half).astype(np.intp)[:, None] + offset
    dy = ((row - py[:, None]) * (2 / size)).astype(np.float32)[:, :, None]
    dx = ((column - px[:, None]) * (2 / size)).astype(np.float32)[:, None, :]
    blur = 1.3 * 2 / size  # a dot thinner than a pixel is fainter, not thinner
    wide = np.sqrt(radius * radius + (blur / 2) ** 2).astype(np.float32)
    peak = (strength * np.minimum(1, 1.2 * radius / wide)).astype(np.float32)
    gap = np.sqrt(dy * dy + dx * dx) - wide[:, None, None]
    value = np.clip(0.5 - gap / np.float32(blur), 0, 1) * peak[:, None, None]
    index = (row + margin)[:, :, None] * side + (column + margin)[:, None, :]
    padded = np.zeros(side * side, np.float32)
    np.maximum.at(padded, index.ravel(), value.ravel())
    return padded.reshape(side, side)[margin : margin + size, margin : margin + size]


def _paint(image_CHW: Array, colour: Sequence[float], mask: Array, opacity: float) -> None:
    """Blend a colour in place, channel by channel: planes are quicker to paint than pixels of three."""
    for channel, value in zip(image_CHW, colour, strict=True):
        paint(channel, float(value), mask, opacity)


def render(factors: dict[str, float], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    y, x = coordinates(size)
    eye = 1.0 if rng.random() < 0.5 else -1.0
    oy, ox = rng.uniform(-0.10, 0.10), eye * rng.uniform(0.36, 0.50)
    my, mx = oy + rng.uniform(0.0, 0.10), ox - eye * rng.uniform(0.52, 0.62)

    # Retina.
    dark = factors["pigmentation"]
    retina = np.array([0.90 - 0.36 * dark, 0.47 - 0.25 * dark, 0.26 - 0.17 * dark]) * rng.uniform(0.90, 1.10, 3)
    choroid = 1 + 0.07 * smooth_noise(rng, size, 3) + (0.03 + 0.12 * dark) * smooth_noise(rng, size, 10)
    image = choroid * retina.astype(np.float32)[:, None, None]
    macula = np.exp(-((y - np.float32(my)) ** 2 + (x - np.float32(mx)) ** 2) / np.float32(rng.uniform(0.03, 0.06)))
    image *= 1 - np.float32(rng.uniform(0.28, 0.42)) * macula

    # Optic disc and cup.
    disc, oval = rng.uniform(0.19, 0.23), rng.uniform(1.0, 1.12)
    _paint(image, (0.93, 0.62, 0.30), ellipse(size, oy, ox, disc * oval, disc, 0.0, 0.05), 0.92)
    cup = disc * (0.2 + 0.68 * factors["cup_size"]) * rng.uniform(0.94, 1.06)
    cup_mask = ellipse(size, oy, ox + 0.05 * disc * rng.uniform(-1, 1), cup * oval, cup, 0.0, 0.04)
    _paint(image, (1.0, 0.93, 0.74), cup_mask, 0.95)

    # Vessels: quadratic curves; trunks leave the disc (temporal pairs, then nasal pairs), forks leave the trunks.
    points = math.ceil(0.7 * size)
    t = (np.arange(points) + 0.5) / points
    t_fork = t[::2]  # forks are shorter and need fewer points
    up = np.array([1, -1, 1, -1, 1, -1, 1, -1.0])
    temporal = np.array([1, 1, 1, 1, 0, 0, 0, 0.0])
    vein = np.array([0, 0, 1, 1, 0, 0, 1, 1.0])
    bend = rng.uniform(-0.10, 0.10, (4, _TRUNKS))
    ax = -eye * np.where(temporal > 0, 0.06 + 0.06 * vein, -0.10 - 0.12 * vein) + bend[0]
    ay = up * np.where(temporal > 0, 0.62 - 0.08 * vein, 0.40 - 0.18 * vein) + bend[1]
    bx = -eye * np.where(temporal > 0, 1.25, -0.42 - 0.25 * vein) + bend[2]
    by = up * np.where(temporal > 0, 0.62 - 0.12 * vein, 0.85 - 0.25 * vein) + 1.5 * bend[3]
    mid, end = 2 * t * (1 - t), t * t
    ty = oy + ay[:, None] * mid + by[:, None] * end
    tx = ox + ax[:, None] * mid + bx[:, None] * end
    fork = rng.uniform(0.25, 0.7, _FORKS)
    at = (fork * points).astype(np.intp)
    trunk = np.arange(_FORKS) % _TRUNKS
    s = (at + 0.5) / points
    heading = np.arctan2(ay[trunk] * (1 - 2 * s) + by[trunk] * s, ax[trunk] * (1 - 2 * s) + bx[trunk] * s)
    heading = heading + np.where(np.arange(_FORKS) < _TRUNKS, 1, -1) * rng.uniform(0.4, 0.9, _FORKS)
    long, curl = rng.uniform(0.3, 0.6, _FORKS), rng.uniform(-0.7, 0.7, _FORKS)
    course = heading[:, None] + curl[:, None] * t_fork
    fy = ty[trunk, at][:, None] + long[:, None] * t_fork * np.sin(course)
    fx = tx[trunk, at][:, None] + long[:, None] * t_fork * np.cos(course)

    def wound(py: Array, px: Array, t: Array, height: float) -> tuple[Array, Array]:
        """The curves with a sideways wave laid on them."""
        gy, gx = np.gradient(py, axis=1), np.gradient(px, axis=1)
        pace = np.sqrt(gy * gy + gx * gx) + 1e-6
        wave = 2 * math.pi / rng.uniform(0.28, 0.38, (len(py), 1))
        phase = rng.uniform(0, 2 * math.pi, (len(py), 1))
        shift = height * np.sin(np.cumsum(pace, axis=1) * wave + phase) * np.minimum(1, 6 * t)
        return py - shift * gx / pace, px + shift * gy / pace

    tortuosity = factors["vessel_tortuosity"]
    winding = 0.10 * tortuosity * tortuosity * (3 - 2 * tortuosity)  # changes fastest half-way
    ty, tx = wound(ty, tx, t, winding)
    fy, fx = wound(fy, fx, t_fork, 0.6 * winding)
    calibre = 0.010 + 0.026 * factors["vessel_width"]
    trunk_wide = calibre * (0.85 + 0.35 * vein)[:, None] * (1.1 - 0.5 * t)
    fork_wide = 0.6 * calibre * np.broadcast_to(1.1 - 0.5 * t_fork, fy.shape)
    trunk_deep = np.broadcast_to((0.62 + 0.2 * vein)[:, None], ty.shape)
    vessel = np.maximum(
        _stamp(size, ty.ravel(), tx.ravel(), trunk_wide.ravel(), trunk_deep.ravel(), 0.075),
        _stamp(size, fy.ravel(), fx.ravel(), fork_wide.ravel(), 0.6, 0.05),
    )
    blood = np.array([0.52, 0.10, 0.08], np.float32) * (1 - 0.35 * dark)
    _paint(image, blood, vessel, 1.0)

    # Blots of blood anywhere, spots of exudate around the macula.
    py, px = rng.uniform(-0.75, 0.75, (2, _BLOTS))
    wide = rng.uniform(0.035, 0.075, _BLOTS)
    seen = np.clip(_BLOTS * factors["haemorrhages"] * rng.uniform(0.85, 1.0) - np.arange(_BLOTS), 0, 1)
    _paint(image, 0.62 * blood, _stamp(size, py, px, wide, seen, 0.09), 0.9)
    turn, far = rng.uniform(0, 2 * math.pi, _SPOTS), rng.uniform(0.12, 0.55, _SPOTS)
    wide = rng.uniform(0.016, 0.036, _SPOTS)
    seen = np.clip(_SPOTS * factors["exudates"] * rng.uniform(0.85, 1.0) - np.arange(_SPOTS), 0, 1)
    spots = _stamp(size, my + far * np.sin(turn), mx + far * np.cos(turn), wide, seen, 0.05)
    _paint(image, (1.0, 0.90, 0.50), spots, 0.95)

    # Light: exposure, vignette, uneven flash, black outside the aperture, noise.
    slope = rng.uniform(-0.12, 0.12, 2)
    distance = np.sqrt(x * x + y * y)
    light = rng.uniform(0.72, 1.18) * (1 + slope[0] * y + slope[1] * x - rng.uniform(0.1, 0.3) * distance**2)
    edge = rng.uniform(0.90, 0.98)
    light = light * np.clip((edge - distance) / max(0.02, 2 / size) + 0.5, 0.02, 1)
    image *= light.astype(np.float32)
    image += rng.normal(0, 0.012, (size, size)).astype(np.float32)
    return quantise(np.ascontiguousarray(image.transpose(1, 2, 0)))
