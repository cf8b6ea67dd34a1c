"""Chest x-ray phantom: a frontal projection, bright where the body absorbs.

Drawn: neck and shoulders, two dark lungs over diaphragm domes, ribs, clavicles, spine, heart and hilar vessels.

- ``opacity_extent``: how much of the lungs is covered by opacities.
- ``opacity_texture``: the opacities go from an even haze to separate nodules.
- ``opacity_zone``: the opacities sit in the upper, middle or lower zone of the lungs.
- ``heart_size``: width of the heart's shadow.
- ``effusion``: fluid level, with a meniscus, at one lung base (either side).
- ``lung_volume``: height of the diaphragm, from high domes to low and flat ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.canvas import Array, Factor, coordinates, quantise, smooth_noise

NAME = "chest x-ray"

FACTORS: dict[str, Factor] = {
    "opacity_extent": Factor("limited opacity", "moderate opacity", "extensive opacity"),
    "opacity_texture": Factor("hazy texture", "mixed texture", "nodular texture"),
    "opacity_zone": Factor("upper zone", "mid zone", "lower zone"),
    "heart_size": Factor("small heart", "average heart", "enlarged heart"),
    "effusion": Factor("minimal pleural effusion", "small pleural effusion", "large pleural effusion"),
    "lung_volume": Factor("low lung volume", "normal lung volume", "hyperinflated lungs"),
}


def _step(value: Array, softness: float) -> Array:
    """Soft 0-to-1 step where ``value`` crosses zero."""
    return np.clip(value / softness + 0.5, 0, 1)


def _lung(y: Array, s: Array, top: float, base: float, dome: float) -> Array:
    """One lung's mask; ``s`` grows sideways from the midline, ``base`` is the level of the costophrenic angle."""
    width = 0.3 + 0.07 * y
    u = (s - 0.45 - 0.04 * y) / width
    v = (y - 0.25) / (0.25 - top)
    side = _step(1 - u * u - v * v * v * v, 0.25)
    bump = (s - 0.36) / 0.3
    return side * _step(base - dome * np.exp(-bump * bump) - y, 0.06)


def _nodules(rng: np.random.Generator, y: Array, x: Array, cells: int) -> Array:
    """Round soft dots: at most one, at a random place, in each cell of a grid with staggered columns."""
    places = rng.uniform(0.2, 0.8, (2, cells, cells)).astype(np.float32)
    radii = rng.uniform(-0.08, 0.42, (cells, cells)).astype(np.float32)
    across = np.clip((x + 1.15) * np.float32(cells / 2.3), 0, cells - 0.01)
    j = across.astype(np.intp)
    down = np.clip((y + 1.15) * np.float32(cells / 2.3) + (0.4 * j) % 1, 0, cells - 0.01).astype(np.float32)
    i = down.astype(np.intp)
    v, u = down - i - places[0, i, j], across - j - places[1, i, j]
    return np.clip((radii[i, j] - np.sqrt(v * v + u * u)) / 0.2 + 0.5, 0, 1)


def _bones(y: Array, x: Array, a: Array, spacing: float, phase: float, droop: float, base: float) -> Array:
    """Added brightness of ribs, clavicles and spine; ``a`` is the distance from the midline."""
    arch = y - droop * (a - 0.3) * (a - 0.3) + 0.12 * a
    wave = np.cos((arch / spacing + phase) * np.float32(2 * np.pi))
    cage = 0.35 + 0.65 * _step(base + 0.05 - y, 0.2)
    cage = cage * _step(0.93 + 0.1 * y - a, 0.1) * _step(a - 0.1, 0.1) * _step(y + 0.85, 0.1) * _step(0.85 - y, 0.3)
    ribs = 0.15 * np.clip(wave * 1.6 - 0.5, 0, 1) * cage
    line = (y + 0.62 + 0.24 * a - 0.1 * np.sin(5 * a)) / 0.045
    clavicles = 0.2 * np.clip(1.4 - line * line, 0, 1) * _step(a - 0.08, 0.05) * _step(0.85 - a, 0.1)
    discs = 0.8 + 0.2 * np.cos(y * np.float32(24))
    return ribs + clavicles + 0.09 * _step(0.12 - a, 0.1) * discs


def render(factors: dict[str, float], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Draw one chest x-ray; see the module's docstring for what the factors do."""
    factors = {name: float(value) for name, value in factors.items()}
    shift_y, shift_x, lean, turn = rng.uniform(-0.06, 0.06, 4).tolist()
    zoom, narrow = rng.uniform(0.94, 1.1), rng.uniform(0.94, 1.06)
    spacing, phase, droop = rng.uniform(0.17, 0.22), rng.random(), rng.uniform(0.5, 0.9)
    dome, top = rng.uniform(0.1, 0.18), rng.uniform(-0.8, -0.72)
    level_jitter, heart_jitter, zone_jitter = rng.uniform(-1, 1, 3).tolist()
    wet_side = 1.0 if rng.random() < 0.5 else -1.0
    favoured = rng.uniform(-0.35, 0.35)
    exposure, gamma, grain = rng.uniform(-0.07, 0.07), rng.uniform(0.8, 1.25), rng.uniform(0.006, 0.025)
    patches = smooth_noise(rng, size, 6) + 0.3 * smooth_noise(rng, size, 9)
    vessels, broad = smooth_noise(rng, size, 13), smooth_noise(rng, size, 3)

    y_HW, x_HW = coordinates(size)
    y = (y_HW - shift_y) * zoom
    x = (x_HW - shift_x + lean * y_HW) * (zoom * narrow)
    a = np.abs(x)

    base = 0.36 + 0.44 * factors["lung_volume"] + 0.04 * level_jitter
    dome *= 1.3 - 0.6 * factors["lung_volume"]
    lung_l = _lung(y, -x, top, base - 0.05, dome)  # the patient's right lung, left in the picture
    lung_r = _lung(y, x, top, base, dome)

    # Pleural fluid takes the air from one lung below a level that climbs at the chest wall.
    surface = base + 0.1 - 0.62 * factors["effusion"] - 0.4 * a * a + 0.03 * level_jitter
    lungs = lung_l + lung_r - _step(y - surface, 0.12) * (lung_r if wet_side > 0 else lung_l)

    # Soft tissue: shoulders and trunk, brighter below the diaphragm and towards the middle.
    body = np.maximum(_step(y + 0.86 - 0.5 * a * a, 0.1), _step(0.3 - a, 0.08)) * _step(1.04 - a, 0.1)
    image = body * (0.5 + 0.1 * np.exp(-9 * x * x) + 0.1 * _step(y - base + 0.1, 0.3) + 0.04 * broad)
    image -= 0.37 * lungs
    image -= 0.3 * _step(1 - 12 * a * a, 1.0) * _step(-0.45 - y, 0.5)  # airway and neck
    image += _bones(y, x, a, spacing, phase, droop, base)

    hilum = (a - 0.2) * (a - 0.2) * 14 + (y + 0.02) * (y + 0.02) * 5
    image += lungs * (0.16 * np.exp(-hilum) + 0.1 * np.exp(-0.4 * hilum) * vessels)

    # Heart, leaning to the patient's left, and the aortic knob.
    half = 0.17 + 0.25 * factors["heart_size"] + 0.02 * heart_jitter
    u, v = (x - 0.02 - 0.32 * half - turn) / half, (y - base + 0.34 - 0.1 * half) / (0.24 + 0.5 * half)
    u += 0.3 * v * (0.4 - v)
    heart = _step(1 - u * u - v * v, 0.3)
    knob = _step(1 - ((x - 0.1 - turn) / 0.12) ** 2 - ((y + 0.3) / 0.16) ** 2, 0.5)
    image += (0.3 * heart + 0.12 * knob * (1 - heart)) * (0.25 + 0.75 * lungs)

    # Opacities: a noise field, held to the zone, above a threshold which falls with the extent.
    height = top + 0.28 + (base - dome - top - 0.34) * factors["opacity_zone"] + 0.05 * zone_jitter
    distance = (y - height) / 0.42
    extent = factors["opacity_extent"]
    field = 0.8 * patches + favoured * np.sign(x) - distance * distance * (1.5 - 0.9 * extent)
    mask = np.clip((field - 0.05 + 1.4 * extent) / 0.4, 0, 1) * lungs
    nodular = factors["opacity_texture"]
    dots = _nodules(rng, y, x, 15)
    image += mask * (1 - 0.7 * heart) * (0.27 * (1 - nodular) + 0.55 * nodular * dots)

    image = np.clip(image * 1.05 + exposure, 0, 1) ** gamma
    return quantise(image + grain * rng.normal(size=(size, size)).astype(np.float32))
