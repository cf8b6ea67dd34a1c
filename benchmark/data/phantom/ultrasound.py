"""Breast ultrasound phantom: a linear-probe B-mode image, the probe at the top.

Drawn: bright skin, dark fat lobules with bright septa, an echogenic gland layer, the chest wall, one mass with what
lies behind it, speckle, and loss of signal with depth.

- ``mass_size``: area of the mass.
- ``border_irregularity``: from a smooth border to lobes and spikes.
- ``echogenicity``: brightness inside the mass.
- ``posterior_effect``: the column behind the mass, from brighter than its surroundings to a black shadow.
- ``orientation``: from wider than tall to taller than wide, at an equal area.
- ``gland_density``: how much of the breast is bright gland rather than dark fat.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.canvas import Array, Factor, coordinates, paint, quantise, smooth_noise

NAME = "breast ultrasound image"

FACTORS: dict[str, Factor] = {
    "mass_size": Factor("small mass", "medium-sized mass", "large mass"),
    "border_irregularity": Factor("smooth border", "lobulated border", "spiculated border"),
    "echogenicity": Factor("anechoic interior", "hypoechoic interior", "isoechoic interior"),
    "posterior_effect": Factor("posterior enhancement", "neutral posterior echo", "posterior shadow"),
    "orientation": Factor("wider than tall", "round shape", "taller than wide"),
    "gland_density": Factor("fatty tissue", "mixed gland tissue", "dense gland tissue"),
}

ROWS, COLUMNS = 80, 44  # scatterers down and across: speckle is finer along the beam


@lru_cache(maxsize=16)
def _linear(size: int, nodes: int) -> Array:
    """(size, nodes) weights of linear interpolation between evenly spaced nodes."""
    position = (np.arange(size) + 0.5) / size * (nodes - 1)
    return np.clip(1 - np.abs(position[:, None] - np.arange(nodes)), 0, 1).astype(np.float32)


def _speckle(rng: np.random.Generator, size: int) -> Array:
    """Logarithm of the amplitude of a random wave field, mean about zero."""
    down, across = _linear(size, ROWS), _linear(size, COLUMNS)
    waves = rng.normal(size=(2, ROWS, COLUMNS)).astype(np.float32)
    real, imaginary = down @ waves[0] @ across.T, down @ waves[1] @ across.T
    return np.log(real * real + imaginary * imaginary + 0.05) * 0.5 + 0.3


def render(factors: dict[str, float], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Draw one ultrasound image; see the module's docstring for what the factors do."""
    factors = {name: float(value) for name, value in factors.items()}
    mass_y, mass_x = rng.uniform(-0.2, -0.05), rng.uniform(-0.22, 0.22)
    skin, fat_top, wall = rng.uniform(-0.93, -0.88), rng.uniform(-0.72, -0.64), rng.uniform(0.62, 0.74)
    slope, sag = rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.1)
    gain, loss, contrast = rng.uniform(-0.1, 0.08), rng.uniform(0.04, 0.14), rng.uniform(0.12, 0.17)
    phases = rng.uniform(0, 2 * np.pi, 5).tolist()
    spikes = int(rng.integers(9, 14))
    fade, roll = rng.uniform(0.5, 1.0), rng.uniform(-0.25, 0.25)
    broad, lobules = smooth_noise(rng, size, 3), smooth_noise(rng, size, 6)
    strands, patch = smooth_noise(rng, size, 10), smooth_noise(rng, size, 5)
    speckle = _speckle(rng, size)

    y_HW, x_HW = coordinates(size)
    depth = y_HW + slope * x_HW + sag * x_HW * x_HW + 0.05 * broad

    # Fat everywhere, with septa; then the gland layer, which thickens and closes with density; then the chest wall.
    density = factors["gland_density"]
    septa = np.clip(1 - np.abs(lobules + 0.3 * strands) / 0.25, 0, 1)
    tissue = 0.38 + 0.13 * septa + 0.03 * strands
    gland_top, gland_bottom = fat_top + 0.42 * (1 - density), wall - 0.5 * (1 - density)
    layer = np.clip((depth - gland_top + 0.1 * patch) / 0.1, 0, 1)
    layer = layer * np.clip((gland_bottom - depth - 0.1 * patch) / 0.1, 0, 1)
    fill = np.clip((patch + 2.2 * density - 0.9) / 0.5 + 0.5, 0, 1)
    paint(tissue, 0.66, layer * fill)
    muscle = np.clip((depth - wall) / 0.06, 0, 1)
    stripes = 0.12 * np.cos((depth + 0.1 * patch) * np.float32(40))
    tissue += muscle * (0.3 + stripes - tissue)
    line = (depth - wall) / 0.03
    tissue += 0.4 * np.exp(-line * line)

    # Mass: an ellipse whose radius is bent by lobes and, further on, by spikes.
    r = 0.12 + 0.25 * factors["mass_size"]
    aspect = float(np.exp(1.7 * (factors["orientation"] - 0.5)))
    ry, rx = r * aspect**0.5, r / aspect**0.5
    top = mass_y + 0.3 * (ry - 0.2)
    v, u = (y_HW - top) / ry, (x_HW - mass_x - roll * 0.3 * (y_HW - top)) / rx
    theta = np.arctan2(v, u)
    jag = factors["border_irregularity"]
    star = np.cos(spikes * theta + phases[1]) + 0.6 * np.cos((spikes + 4) * theta + phases[2])
    lobes = np.cos(2 * theta + phases[0]) + np.cos(3 * theta + phases[3]) + np.cos(5 * theta + phases[4])
    bend = 0.15 * jag * lobes + 0.16 * jag * jag * star
    dist = np.sqrt(u * u + v * v) * (1 + bend)
    mass = np.clip((1 - dist) * (r / (0.04 + 0.06 * jag)) + 0.5, 0, 1)
    rim = np.clip(1 - np.abs(dist - 1.0) / (0.06 / r), 0, 1)
    rays = np.clip(0.7 + 0.6 * star, 0, 1) * np.clip(1.2 - (dist - 1) * (r / 0.26), 0, 1) * (1 - mass)
    behind = np.clip((v - 0.2 * np.abs(u)) / 0.8, 0, 1) * np.clip((1.0 - np.abs(u)) / 0.3 + 0.3, 0, 1) * (1 - mass)
    behind *= np.clip(1.15 - 0.35 * fade * (y_HW - top), 0, 1)
    effect = factors["posterior_effect"] - 0.45
    tissue += mass * (0.02 + 0.27 * factors["echogenicity"] + 0.03 * strands - tissue)
    tissue += 0.42 * rim * (1 - jag) ** 2 - 1.1 * jag * rays * np.clip(tissue - 0.1, 0, 1)
    tissue -= behind * (0.34 if effect < 0 else 0.7) * effect

    # Depth, speckle (weaker where there is no echo), skin line and the gel above it.
    image = tissue + gain - loss * (y_HW + 0.3) + contrast * speckle * np.clip(tissue * 2.2, 0.15, 1)
    band = (depth - skin - 0.06) / 0.055
    image += np.exp(-band * band) * (0.85 - image)
    image *= np.clip((depth - skin + 0.06) / 0.04, 0, 1)
    return quantise(image)
