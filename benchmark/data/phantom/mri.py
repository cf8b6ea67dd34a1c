"""Brain MRI slice phantom: an axial cut at the level of the lateral ventricles.

Drawn: scalp, dark skull, fluid, folded grey cortex, white matter, deep nuclei, ventricles, the midline fissure, one
lesion, a bias field and Rician noise.

- ``lesion_size``, ``lesion_intensity``: the lesion, in either hemisphere; a thin rim shows it when it is isointense.
- ``ventricle_size``: from slits to wide ventricles.
- ``atrophy``: width of the fluid-filled sulci and of the fluid around the brain.
- ``weighting``: tissue contrast, from T1 (dark fluid, bright white matter) to T2 (bright fluid, dark white matter).
- ``midline_shift``: how far the middle of the brain is pushed away from the lesion.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom.canvas import Array, Factor, coordinates, paint, quantise, smooth_noise

NAME = "brain MRI slice"

FACTORS: dict[str, Factor] = {
    "lesion_size": Factor("small lesion", "medium-sized lesion", "large lesion"),
    "lesion_intensity": Factor("dark lesion", "isointense lesion", "bright lesion"),
    "ventricle_size": Factor("slit ventricles", "normal ventricles", "enlarged ventricles"),
    "atrophy": Factor("narrow sulci", "normal sulci", "widened sulci"),
    "weighting": Factor("T1 weighting", "intermediate weighting", "T2 weighting"),
    "midline_shift": Factor("central midline", "slight midline shift", "marked midline shift"),
}


def _disc(
    y: Array, x: Array, cy: float, cx: float, ry: float, rx: float, lean: float = 0.0, soft: float = 0.04
) -> Array:
    """Soft mask of an ellipse; ``lean`` shears it sideways."""
    v = (y - cy) / ry
    u = (x - cx - lean * (y - cy)) / rx
    return np.clip((1 - np.sqrt(u * u + v * v)) * (min(ry, rx) / soft) + 0.5, 0, 1)


def _mix(t: float, first: float, second: float) -> float:
    return first + (second - first) * t


def _ramp(t: float) -> float:
    t = min(max(t, 0.0), 1.0)
    return t * t * (3 - 2 * t)


def render(factors: dict[str, float], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Draw one MRI slice; see the module's docstring for what the factors do."""
    factors = {name: float(value) for name, value in factors.items()}
    shift_y, shift_x, roll = rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05), rng.uniform(-0.14, 0.14)
    height, width, egg = rng.uniform(0.88, 0.98), rng.uniform(0.73, 0.84), rng.uniform(-0.08, 0.08)
    side = 1.0 if rng.random() < 0.5 else -1.0
    lesion_y, lesion_x = rng.uniform(-0.3, 0.3), rng.uniform(0.43, 0.52)
    stretch, scalp, gain = rng.uniform(0.86, 1.16), rng.uniform(0.9, 1.1), rng.uniform(0.88, 1.08)
    vent_y, vent_length, horn = rng.uniform(-0.06, 0.04), rng.uniform(0.9, 1.1), rng.uniform(0.3, 0.55)
    bias_y, bias_x = rng.uniform(-0.14, 0.14, 2).tolist()
    sigma, drift = rng.uniform(0.015, 0.045), rng.uniform(-0.06, 0.06)
    folds, fine = smooth_noise(rng, size, 11), smooth_noise(rng, size, 16)
    edge, blotch = smooth_noise(rng, size, 5), smooth_noise(rng, size, 3)

    y_HW, x_HW = coordinates(size)
    cos, sin = float(np.cos(roll)), float(np.sin(roll))
    y = (cos * (y_HW - shift_y) - sin * (x_HW - shift_x)) / height
    x = (cos * (x_HW - shift_x) + sin * (y_HW - shift_y)) / (width * (1 + egg * y))
    radius = np.sqrt(y * y + x * x)

    # Tissue brightness; grey and white cross early, fluid late, so that they are never all alike.
    t = min(max(factors["weighting"] + drift, 0.0), 1.0)
    fluid, fat = _mix(_ramp((t - 0.45) / 0.25), 0.1, 0.97), _mix(t, 0.98, 0.6)
    grey, white = _mix(t, 0.48, 0.66), _mix(_ramp(t / 0.6), 0.8, 0.34)

    # Head, skull, the space around the brain.
    image = np.zeros((size, size), np.float32)
    paint(image, fat * scalp, np.clip((1 - radius) / 0.04 + 0.5, 0, 1))
    paint(image, 0.06, np.clip((0.925 - radius) / 0.04 + 0.5, 0, 1))
    paint(image, fluid, np.clip((0.855 - radius) / 0.04 + 0.5, 0, 1))

    # The midline bows away from the lesion; everything inside the brain is drawn in the bowed coordinates (y, q).
    push = 0.34 * factors["midline_shift"]
    q = x + side * push * np.exp(-2.2 * (y - 0.5 * lesion_y) ** 2) * np.clip(1 - radius * radius, 0, 1)

    atrophy = factors["atrophy"]
    brain = np.clip((0.84 - 0.09 * atrophy + 0.02 * edge - radius) / 0.04 + 0.5, 0, 1)
    crease = np.abs(folds + 0.45 * fine) + 1.6 * np.clip(0.66 - radius, 0, 1)
    sulcus = 0.23 * atrophy - 0.01
    ribbon = np.clip((sulcus + 0.24 - crease) / 0.12, 0, 1)
    ribbon = np.maximum(ribbon, np.clip((radius - 0.74 + 0.09 * atrophy) / 0.04, 0, 1))
    paint(image, white, brain)
    paint(image, grey, brain * ribbon)
    paint(image, fluid, brain * np.clip((sulcus - crease) / 0.08 + 0.35, 0, 1))
    fissure = np.abs(q) / (0.018 + 0.03 * atrophy)
    paint(image, fluid, np.clip(1.6 - fissure, 0, 1) * np.clip((np.abs(y) - 0.3) / 0.08, 0, 1) * brain, 0.9)

    # Deep nuclei, then the ventricles: a pair of arcs that lie close together in the middle and part at the horns.
    big = factors["ventricle_size"]
    thick = 0.03 + 0.14 * big
    b = np.abs(q)
    paint(image, grey, _disc(y, b, 0.12, 0.17 + thick, 0.22, 0.12, 0.3))
    paint(image, grey, _disc(y, b, -0.24, 0.17 + 1.3 * thick, 0.15, 0.08, -0.3))
    z = (y - vent_y - 0.03) / (vent_length * (0.4 + 0.14 * big))
    middle = 0.03 + 0.75 * thick + (0.05 + 0.3 * horn) * z * z
    half = thick * np.sqrt(np.clip(1.05 - z * z, 0, 1)) * (0.55 + 0.8 * np.abs(z))
    paint(image, fluid, np.clip((half - np.abs(b - middle)) / 0.04 + 0.5, 0, 1) * (np.abs(z) < 1.02))
    paint(image, fluid, _disc(y, q, 0.04, 0.0, 0.13, 0.025 + 0.03 * big))

    # Lesion with its rim.
    r = 0.06 + 0.33 * factors["lesion_size"]
    v, u = (y - lesion_y) / (r * stretch), (x - side * lesion_x) / (r / stretch)
    dist = np.sqrt(u * u + v * v) + 0.16 * edge + 0.1 * folds
    tone = 0.54 + 0.46 * float(np.tanh(4 * factors["lesion_intensity"] - 2))
    inside = np.clip((0.86 - radius) / 0.04 + 0.5, 0, 1)
    paint(image, 0.12, np.clip((1.16 - dist) * (r / 0.05) + 0.5, 0, 1) * inside, 0.8)
    paint(image, tone, np.clip((1 - dist) * (r / 0.05) + 0.5, 0, 1) * inside)

    image *= gain * (1 + bias_y * y + bias_x * x + 0.05 * blotch)
    real, imaginary = rng.normal(size=(2, size, size)).astype(np.float32) * np.float32(sigma)
    return quantise(np.sqrt((image + real) ** 2 + imaginary**2))
