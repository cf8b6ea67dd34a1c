"""Abdominal CT slice phantom: an axial cut through liver, spleen and kidneys, air black and bone white.

Drawn: skin and fat ring, muscle wall with ribs, liver (left in the picture), stomach, spleen, kidneys, spine,
aorta, vena cava, bowel loops with gas, the table, noise and streaks.

- ``lesion_size``, ``lesion_number``, ``lesion_density``: the round liver lesions; each has a thin dark rim, so that
  it shows even where it is as dense as the liver.
- ``body_fat``: thickness of the fat ring under the skin.
- ``liver_size``: how far the liver reaches over the midline and down.
- ``noise``: grain and streaks, from a full to a very low dose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.canvas import Array, Factor, coordinates, paint, quantise, smooth_noise

NAME = "abdominal CT slice"

FACTORS: dict[str, Factor] = {
    "lesion_size": Factor("small lesions", "medium-sized lesions", "large lesions"),
    "lesion_density": Factor("hypodense lesions", "isodense lesions", "hyperdense lesions"),
    "lesion_number": Factor("single lesion", "few lesions", "numerous lesions"),
    "body_fat": Factor("thin fat ring", "moderate fat ring", "thick fat ring"),
    "liver_size": Factor("small liver", "average liver", "enlarged liver"),
    "noise": Factor("low image noise", "moderate image noise", "high image noise"),
}

SLOTS = (
    (0.0, 0.0), (-0.62, 0.12), (0.62, -0.12), (-0.06, -0.62), (0.06, 0.62),
    (-0.46, -0.42), (0.46, 0.42), (0.42, -0.5), (-0.42, 0.52),
)  # fmt: skip
# The places (down, right) of the lesions in the unit disc, in the order in which they appear.


def _disc(
    y: Array, x: Array, cy: float, cx: float, ry: float, rx: float, wobble: Array | float = 0.0, soft: float = 0.035
) -> Array:
    """Soft mask of an upright ellipse in the body's own coordinates."""
    u, v = (x - cx) / rx, (y - cy) / ry
    radius = np.sqrt(u * u + v * v) + wobble
    return np.clip((1 - radius) * (min(ry, rx) / soft) + 0.5, 0, 1)


class _Slice:
    """The picture with the coordinates (v, u) of its cavity; small discs are drawn in windows of it."""

    def __init__(self, image: Array, v: Array, u: Array, wobble: Array, frame: tuple[float, float, Array]) -> None:
        self.image, self.v, self.u, self.wobble = image, v, u, wobble
        self.shift_y, self.shift_x, self.turn = frame

    def window(self, cy: float, cx: float, reach: float) -> tuple[slice, slice]:
        """Rows and columns of the picture that hold all within ``reach`` (in cavity units) of a place."""
        size = len(self.image)
        y = self.shift_y + float(self.turn[0, 0]) * cy + float(self.turn[0, 1]) * cx
        x = self.shift_x + float(self.turn[1, 0]) * cy + float(self.turn[1, 1]) * cx
        top, bottom = int((y - reach + 1) / 2 * size) - 1, int((y + reach + 1) / 2 * size) + 2
        left, right = int((x - reach + 1) / 2 * size) - 1, int((x + reach + 1) / 2 * size) + 2
        return slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))

    def disc(
        self, tone: float, cy: float, cx: float, ry: float, rx: float, bend: float = 0.0, opacity: float = 1
    ) -> None:
        """Paint one small upright ellipse."""
        at = self.window(cy, cx, 1.15 * max(ry, rx) + 0.03)
        mask = _disc(self.v[at], self.u[at], cy, cx, ry, rx, bend * self.wobble[at])
        paint(self.image[at], tone, mask, opacity)


def render(factors: dict[str, float], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Draw one CT slice; see the module's docstring for what the factors do."""
    factors = {name: float(value) for name, value in factors.items()}
    shift_y, shift_x, roll = rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05), rng.uniform(-0.08, 0.08)
    width, depth = rng.uniform(0.88, 0.98), rng.uniform(0.7, 0.79)
    jitter = rng.uniform(-0.03, 0.03, 16).tolist()
    enhancement, level, window = rng.uniform(-0.06, 0.1), rng.uniform(-0.05, 0.05), rng.uniform(0.9, 1.12)
    swirl, dose = rng.uniform(-0.12, 0.12), rng.uniform(0.8, 1.25)
    rib_phase, streak_angle = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5)
    lesion_jitter = rng.uniform(-0.08, 0.08, (len(SLOTS), 3)).tolist()
    gas = rng.uniform(0, 1, (4, 3)).tolist()
    wobble, lumps = 0.05 * smooth_noise(rng, size, 4), smooth_noise(rng, size, 9)
    streaks = rng.normal(size=97).astype(np.float32)

    y_HW, x_HW = coordinates(size)
    cos, sin = float(np.cos(roll)), float(np.sin(roll))
    y = (cos * (y_HW - shift_y) - sin * (x_HW - shift_x)) / depth
    x = (cos * (x_HW - shift_x) + sin * (y_HW - shift_y)) / width

    image = np.zeros((size, size), np.float32)
    table = (y_HW - 0.86 + 0.16 * x_HW * x_HW) / 0.025
    image += 0.28 * np.clip(1.5 - table * table, 0, 1)
    body = _disc(y, x, 0, 0, 1, 1, 0.4 * wobble)
    paint(image, 0.24, body)
    skin = body - _disc(y, x, 0, 0, 0.965, 0.965, 0.4 * wobble)
    image += 0.2 * skin

    # Inside the fat ring: the wall, then the cavity; its own coordinates (v, u) run from -1 to 1.
    inner = 0.95 - 0.22 * factors["body_fat"] + 0.3 * jitter[0]
    v, u = y / inner, x / inner
    paint(image, 0.52, _disc(v, u, 0, 0, 1, 1, 0.5 * wobble))
    paint(image, 0.3, _disc(v, u, -0.04, 0, 0.86, 0.9, 0.5 * wobble))
    angle = np.arctan2(v, u)
    ring = np.clip(1.3 - ((np.sqrt(u * u + v * v) - 0.93) / 0.045) ** 2, 0, 1)
    ribs = ring * np.clip(3 * np.cos(9 * angle + rib_phase) - 1.6, 0, 1) * np.clip(2 * np.abs(u) - 0.3, 0, 1)
    paint(image, 0.95, ribs)

    turn = inner * np.array([[cos * depth, sin * width], [-sin * depth, cos * width]])
    cut = _Slice(image, v, u, wobble, (shift_y, shift_x, turn))

    # Back muscles, spine with its canal and process, the great vessels.
    for side in (-1, 1):
        cut.disc(0.52, 0.68, side * 0.3, 0.24, 0.26)
        cut.disc(0.3, 0.32 + jitter[1], side * 0.47, 0.3, 0.25)
        cut.disc(0.68 + enhancement, 0.34 + jitter[1 + side], side * 0.47, 0.22, 0.155, 1.0)
        cut.disc(0.42, 0.34 + jitter[1 + side], side * 0.42, 0.09, 0.06)
    cut.disc(0.9, 0.74, 0, 0.2, 0.06)
    cut.disc(0.86, 0.45, 0, 0.17, 0.18)
    cut.disc(0.45, 0.62, 0, 0.06, 0.07)
    cut.disc(0.72 + enhancement, 0.2, 0.06 + jitter[3], 0.09, 0.085)
    cut.disc(0.62 + enhancement, 0.17, -0.17 + jitter[4], 0.075, 0.09)

    # Spleen, stomach with an air level, bowel loops with gas.
    paint(image, 0.6 + 0.5 * enhancement, _disc(v, u, 0.06 + jitter[5], 0.7, 0.34, 0.15, 2 * wobble))
    stomach = _disc(v, u, -0.36 + jitter[6], 0.42 + jitter[7], 0.28, 0.32, 2 * wobble)
    paint(image, 0.46, stomach)
    paint(image, 0.02, stomach * np.clip((-0.45 + 2 * jitter[8] - v) / 0.05, 0, 1), 0.95)
    for gy, gx, fill in gas:
        cy, cx, r = -0.42 + 0.5 * gy, -0.05 + 0.6 * gx, 0.1 + 0.05 * fill
        cut.disc(0.5, cy, cx, r, 1.2 * r)
        cut.disc(0.03, cy - 0.3 * r, cx, 0.5 * r, 0.7 * r, opacity=min(1.0, 1.6 * fill))

    # Liver: anchored at the right upper wall, growing over the midline and backwards.
    grow = factors["liver_size"]
    rx, ry = 0.34 + 0.24 * grow, 0.48 + 0.14 * grow
    cx, cy = -0.88 + rx + 0.25 * jitter[9], -0.14 + 0.05 * grow + 0.25 * jitter[10]
    taper = 0.16 * (u - cx) / rx * (1 + (v - cy) / ry)
    liver = _disc(v, u, cy, cx, ry, rx, 2 * wobble + taper) * _disc(v, u, -0.04, 0, 0.87, 0.91, 0.5 * wobble)
    paint(image, 0.57 + 0.4 * enhancement, liver)
    image += 0.035 * lumps * body

    # Lesions: one to nine, each at its own place in the liver.
    count = 1 + 8 * factors["lesion_number"]
    radius = (0.09 + 0.3 * factors["lesion_size"]) * float(np.sqrt(rx * ry))
    tone = 0.57 + 0.4 * enhancement + 0.36 * float(np.tanh(4 * factors["lesion_density"] - 2))
    for i, (sy, sx) in enumerate(SLOTS):
        weight = min(max(count - i, 0.0), 1.0)
        if weight == 0.0:
            break
        dy, dx, dr = lesion_jitter[i]
        py = cy + ry * 0.95 * (sy + swirl * sx + dy)
        px = cx + rx * 0.95 * (sx - swirl * sy + dx) - 0.04
        r = radius * (1 + 1.5 * dr)
        at = cut.window(py, px, 1.4 * r + 0.03)
        dv, du = v[at] - py, u[at] - px
        dist = np.sqrt(dv * dv + du * du) / r + wobble[at]
        soft = r / 0.04
        paint(image[at], 0.3, np.clip((1.24 - dist) * soft + 0.5, 0, 1) * liver[at], 0.6 * weight)
        paint(image[at], tone, np.clip((1 - dist) * soft + 0.5, 0, 1) * liver[at], weight)

    # Window, then grain and straight streaks, both stronger at a low dose.
    image = np.clip((image - 0.5) * window + 0.5 + level * body, 0, 1)
    sigma = 0.01 * dose * 7 ** factors["noise"]
    offset = ((y_HW + streak_angle * x_HW) * 0.65 + 1) * 48
    image += (0.35 * sigma) * streaks[np.clip(offset, 0, 96).astype(np.intp)] * body
    grain = rng.normal(size=(size, size)).astype(np.float32)
    return quantise(image + sigma * grain * (0.35 + 0.65 * body))
