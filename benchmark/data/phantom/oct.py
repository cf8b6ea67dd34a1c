"""Retinal OCT phantom: a B-scan through the fovea, vitreous above, choroid below.

Drawn: the layers of the retina as bright and dark bands between its inner surface and the pigment epithelium (the
brightest line), the foveal pit, cysts, drusen, the choroid with its vessels, shadows of retinal vessels, speckle.

- ``retinal_thickness``: distance from the inner surface to the pigment epithelium.
- ``fluid``: number and size of the dark cysts in the retina.
- ``drusen``: height and number of the bumps under the pigment epithelium.
- ``foveal_pit``: depth of the pit.
- ``curvature``: how strongly the whole retina is bowed.
- ``choroid_thickness``: depth of the textured band below the pigment epithelium.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.canvas import Array, Factor, coordinates, quantise, smooth_noise

NAME = "retinal OCT scan"

FACTORS: dict[str, Factor] = {
    "retinal_thickness": Factor("thin retina", "average retina", "thickened retina"),
    "fluid": Factor("minimal cysts", "some cysts", "abundant cysts"),
    "drusen": Factor("tiny drusen", "medium drusen", "large drusen"),
    "foveal_pit": Factor("flattened foveal pit", "shallow foveal pit", "deep foveal pit"),
    "curvature": Factor("flat contour", "gently curved contour", "steeply curved contour"),
    "choroid_thickness": Factor("thin choroid", "average choroid", "thick choroid"),
}

CYSTS, DRUSEN = 8, 5

# Height above the pigment epithelium (as a share of the retina) and brightness of the layers there.
HEIGHTS = (0.0, 0.05, 0.07, 0.11, 0.14, 0.18, 0.22, 0.42, 0.46, 0.52, 0.56, 0.66, 0.70, 0.82, 0.86, 1.0)
TONES = (0.95, 0.95, 0.45, 0.80, 0.75, 0.30, 0.27, 0.27, 0.55, 0.55, 0.32, 0.32, 0.55, 0.50, 0.80, 0.85)
LAYERS = np.interp(np.linspace(0, 1.1, 256), HEIGHTS, TONES).astype(np.float32)


def _step(value: Array, softness: float) -> Array:
    """Soft 0-to-1 step where ``value`` crosses zero."""
    return np.clip(value / softness + 0.5, 0, 1)


def render(factors: dict[str, float], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Draw one OCT scan; see the module's docstring for what the factors do."""
    factors = {name: float(value) for name, value in factors.items()}
    level, tilt, fovea = rng.uniform(0.12, 0.3), rng.uniform(-0.14, 0.14), rng.uniform(-0.15, 0.15)
    pit_width, rim, vault = rng.uniform(0.2, 0.28), rng.uniform(0.02, 0.1), rng.uniform(-0.04, 0.04)
    gain, contrast, floor = rng.uniform(0.85, 1.08), rng.uniform(0.13, 0.2), rng.uniform(0.03, 0.09)
    cysts = rng.uniform(-1, 1, (CYSTS, 4)).tolist()
    bumps = rng.uniform(-1, 1, (DRUSEN, 3)).tolist()
    vessels = rng.uniform(-1, 1, (5, 3)).tolist()
    ripple, undulation = smooth_noise(rng, size, 4), smooth_noise(rng, size, 3)[0]
    lumen = smooth_noise(rng, size, 11) + 0.6 * smooth_noise(rng, size, 15)
    patches = smooth_noise(rng, size, 7)

    y_HW, x_HW = coordinates(size)
    line = x_HW[0]

    # Curves over x: Bruch's membrane, the pigment epithelium lifted by drusen, the inner surface with the pit.
    bow = 0.42 * factors["curvature"]
    membrane = level + tilt * line - bow * (line * line - 0.45) + 0.02 * undulation
    lift = np.zeros(size, np.float32)
    for i, (place, height, width) in enumerate(bumps):
        z = (line - 1.9 * ((i + 0.5) / DRUSEN - 0.5) - 0.12 * place) / (0.1 + 0.03 * width)
        lift += (0.75 + 0.25 * height) * np.exp(-z * z)
    epithelium = membrane - (0.005 + 0.23 * factors["drusen"]) * lift
    thickness = 0.42 + 0.36 * factors["retinal_thickness"] + 0.3 * vault
    z = (line - fovea) / pit_width
    pit = np.exp(-z * z)
    share = 1 - (0.06 + 0.56 * factors["foveal_pit"]) * pit + rim * np.exp(-((np.abs(z) - 1.6) ** 2) * 2)
    surface = membrane - thickness * share * (1 - 0.1 * line * line)

    # Retina: brightness looked up by the height above the epithelium.
    reach = np.maximum(epithelium - surface, 0.05)
    height = (epithelium - y_HW) / reach + 0.02 * ripple
    squeezed = height * share**0.45 if share.min() > 0 else height
    index = np.clip(squeezed * np.float32(255 / 1.1), 0, 255).astype(np.intp)
    retina = LAYERS[index] * (0.94 + 0.1 * patches)
    top = _step(y_HW - surface, 0.04)
    image = floor + top * (retina - floor)

    # Cysts: flat dark ovals round the fovea, in the inner and outer nuclear layers.
    amount = factors["fluid"]
    wet = np.zeros((size, size), np.float32)
    for i, (place, row, wide, tall) in enumerate(cysts):
        weight = min(max(1.6 + (CYSTS - 1.6) * amount - i, 0.0), 1.0)
        if weight == 0.0:
            break
        cx = fovea + 0.75 * place
        column = min(max(int((cx + 1) / 2 * size), 0), size - 1)
        cy = float(epithelium[column]) - float(reach[column]) * (0.5 + 0.17 * row)
        ry = (0.045 + 0.1 * amount) * (1 + 0.25 * tall) * thickness / 0.6
        rx = (0.06 + 0.1 * amount) * (1 + 0.3 * wide)
        u, v = (x_HW - cx) / rx, (y_HW - cy) / ry
        wet = np.maximum(wet, weight * np.clip((1 - np.sqrt(u * u + v * v)) * (ry / 0.03) + 0.5, 0, 1))
    image += wet * _step(height - 0.12, 0.08) * _step(y_HW - surface - 0.04, 0.04) * (floor + 0.03 - image)

    # Below the epithelium: drusen material, then choroid with dark vessels, fading into the sclera.
    below = y_HW - epithelium
    deep = y_HW - membrane
    depth = 0.14 + 0.46 * factors["choroid_thickness"]
    choroid = 0.58 - 0.3 * _step(lumen - 0.15, 0.5) - 0.12 * deep / depth
    edge = _step(depth + 0.03 * ripple - deep, 0.08)
    under = np.where(deep < 0, np.float32(0.5), choroid * edge + (0.16 - 0.1 * deep) * (1 - edge))
    image += _step(below - 0.02, 0.03) * (under - image)
    bright = below / 0.03
    image += np.exp(-bright * bright) * (0.95 - image)

    # Shadows of retinal vessels, then multiplicative speckle and a noise floor.
    shade = np.ones(size, np.float32)
    for place, dark, width in vessels:
        z = (line - place) / (0.03 + 0.01 * width)
        shade -= (0.22 + 0.2 * dark) * np.exp(-z * z)
    image = np.where(y_HW > surface + 0.1, image * shade, image)
    grain = rng.normal(size=(2, size, size)).astype(np.float32)
    image *= gain * (1 + contrast * grain[0])
    return quantise(image + 0.025 * grain[1])
