"""Phantoms: made images of nine modalities, each drawn from named factors, each with a caption that tells them.

A generator is a module of this package with ``NAME``, ``FACTORS`` and ``render``. An image is a pure function of
(factors, seed, size), so a phantom task's identity is this ``VERSION``, its parameters and its seed: raise VERSION
when a picture changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

VERSION = 1
SIZE = 64
GENERATORS = ("ct", "dermoscopy", "fundus", "histopathology", "microscopy", "mri", "oct", "ultrasound", "xray")

Region = Mapping[str, tuple[float, float]]


def generator(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name}")


def draw_factors(region: Region, names: Sequence[str], rng: np.random.Generator) -> dict[str, float]:
    """Factors uniform in [0, 1], those the region names uniform in its interval."""
    drawn = rng.random(len(names))
    bounds = [region.get(name, (0.0, 1.0)) for name in names]
    return {name: low + (high - low) * u for name, (low, high), u in zip(names, bounds, drawn.tolist(), strict=True)}


def factors_of(name: str, region: Region, seed: Sequence[int]) -> dict[str, float]:
    """What the image of this seed is drawn from, without drawing it."""
    return draw_factors(region, sorted(generator(name).FACTORS), np.random.default_rng([*seed]))


def inside(factors: Mapping[str, float], region: Region) -> bool:
    """Whether these factors lie in a region."""
    return all(low <= factors[name] <= high for name, (low, high) in region.items())


def render_split(
    name: str, regions: Sequence[Region], count: int, seed: Sequence[int], size: int = SIZE
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``count`` images (N, size, size, 3) and their classes (N,), the classes in turn.

    Image i is drawn from its own generator, seeded with (seed, i): it does not depend on how many are drawn.
    """
    module = generator(name)
    factor_names = sorted(module.FACTORS)
    labels = np.arange(count, dtype=np.int64) % len(regions)
    images = np.empty((count, size, size, 3), np.uint8)
    for i, label in enumerate(labels.tolist()):
        rng = np.random.default_rng([*seed, i])
        images[i] = module.render(draw_factors(regions[label], factor_names, rng), rng, size)
    return images, labels


def caption(name: str, factors: Mapping[str, float], mention: Sequence[str] | None = None) -> str:
    """What the image shows: ``a brain MRI slice with large ventricles and a small lesion``."""
    module = generator(name)
    phrases = [module.FACTORS[factor].phrase(factors[factor]) for factor in (mention or sorted(module.FACTORS))]
    listed = " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))
    article = "an" if module.NAME.startswith(("a", "H&E")) else "a"
    return f"{article} {module.NAME} with {listed}"
