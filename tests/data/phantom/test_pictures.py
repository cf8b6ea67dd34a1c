"""Phantoms: pure functions of (factors, seed, size), the same everywhere, with every factor visible and told.

The stored thumbnails pin the pictures of one generator version. After raising ``phantom.VERSION``, make them anew with

    python -m tests.data.phantom.test_pictures
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmark.data import catalog, phantom, sources

THUMBNAILS = Path(__file__).resolve().parents[2] / "thumbnails" / "phantoms.npz"
PINNED = [
    0.3346621446379968,
    0.5067376675891622,
    0.08472766556051421,
    0.9885150829598621,
    0.10695333923948454,
    0.934201053495547,
]  # fmt: skip
ANEW = "python -m tests.data.phantom.test_pictures"
RARE = 0.01  # of a thumbnail's values may differ by one grey level
every_generator = pytest.mark.parametrize("name", phantom.GENERATORS)


def thumbnails() -> dict[str, NDArray[np.uint8]]:
    """Generator -> (4, 64, 64, 3): four fixed settings of the factors (in the order of their names) and seeds."""
    settings = [(0.1, 0.9, 0.3, 0.7, 0.5, 0.2), (0.9, 0.1, 0.7, 0.2, 0.5, 0.8), (0.5,) * 6, (0.95, 0.95, 0.05) * 2]
    made = {}
    for name in phantom.GENERATORS:
        module = phantom.generator(name)
        drawn = [
            module.render(dict(zip(sorted(module.FACTORS), values, strict=True)), np.random.default_rng([2024, k]), 64)
            for k, values in enumerate(settings)
        ]
        made[name] = np.stack(drawn)
    return made


def assert_same_pictures(made: dict[str, NDArray[np.uint8]]) -> None:
    with np.load(THUMBNAILS, allow_pickle=False) as stored:
        assert set(stored.files) == {"version", *phantom.GENERATORS} == {"version", *made}
        for name in phantom.GENERATORS:
            assert made[name].shape == stored[name].shape == (4, 64, 64, 3)
            difference = np.abs(made[name].astype(int) - stored[name].astype(int)).reshape(4, -1)
            assert difference.max() <= 1, name
            assert (difference > 0).mean(axis=1).max() < RARE, name


def middle(name: str, **changes: float) -> dict[str, float]:
    return {factor: 0.5 for factor in phantom.generator(name).FACTORS} | changes


def render(name: str, seed: int, size: int = 64, **changes: float) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    image: NDArray[np.uint8] = phantom.generator(name).render(middle(name, **changes), rng, size)
    return image


def test_the_pictures_are_those_of_the_stored_version() -> None:
    with np.load(THUMBNAILS, allow_pickle=False) as stored:
        assert int(stored["version"]) == phantom.VERSION, f"make them anew: {ANEW}"
    assert_same_pictures(thumbnails() | {"version": np.array(phantom.VERSION)})


def test_the_pictures_are_the_same_on_a_plain_processor(tmp_path: Path) -> None:
    """numpy's kernels for newer instructions switched off, BLAS told of an old processor."""
    dispatched = np._core._multiarray_umath.__cpu_dispatch__
    features = [name for name in dispatched if np._core._multiarray_umath.__cpu_features__.get(name)]
    plain = {"NPY_DISABLE_CPU_FEATURES": " ".join(features), "OPENBLAS_CORETYPE": "Nehalem"}
    command = [sys.executable, "-m", "tests.data.phantom.test_pictures", str(tmp_path / "plain.npz")]
    subprocess.run(
        command, env=os.environ | plain, cwd=Path(__file__).resolve().parents[3], check=True, capture_output=True
    )
    with np.load(tmp_path / "plain.npz") as made:
        assert_same_pictures({name: made[name] for name in made.files})


@every_generator
@pytest.mark.parametrize("size", [32, 64, 224])
def test_an_image_is_uint8_colour_of_the_size_asked_for(name: str, size: int) -> None:
    image = render(name, 0, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert image.std() > 10 and len(np.unique(image)) > 32
    colourful = np.ptp(image.astype(int), axis=2).max() > 30
    assert colourful == (name in ("dermoscopy", "fundus", "histopathology", "microscopy"))


@every_generator
def test_same_seed_same_bytes_other_seed_other_image(name: str) -> None:
    assert render(name, 3).tobytes() == render(name, 3).tobytes()
    images = np.stack([render(name, seed) for seed in range(8)]).astype(int)
    for i in range(8):
        for j in range(i):
            assert (np.abs(images[i] - images[j]).max(axis=2) >= 8).mean() > 0.02, (i, j)


@every_generator
def test_every_factor_is_visible(name: str) -> None:
    """From 0.1 to 0.9 with all else fixed, at least 1 % of the pixels change by 16 grey levels or more."""
    factors = sorted(phantom.generator(name).FACTORS)
    assert len(factors) == 6
    for factor in factors:
        for seed in (0, 1):
            low, high = (render(name, seed, **{factor: value}).astype(int) for value in (0.1, 0.9))
            assert (np.abs(low - high).max(axis=2) >= 16).mean() >= 0.01, (factor, seed)


@every_generator
def test_extreme_factors_are_drawn_too(name: str) -> None:
    factors = sorted(phantom.generator(name).FACTORS)
    for value in (0.0, 1.0):
        image = phantom.generator(name).render(dict.fromkeys(factors, value), np.random.default_rng(0), 64)
        assert image.shape == (64, 64, 3) and image.std() > 10


@every_generator
def test_image_i_does_not_depend_on_how_many_are_drawn(name: str) -> None:
    factor = sorted(phantom.generator(name).FACTORS)[0]
    regions = [{factor: (0.05, 0.4)}, {factor: (0.6, 0.95)}, {}]
    few, few_labels = phantom.render_split(name, regions, 4, (1, 2, 0), 32)
    many, many_labels = phantom.render_split(name, regions, 7, (1, 2, 0), 32)
    assert np.array_equal(few, many[:4])
    assert few_labels.tolist() == [0, 1, 2, 0] and many_labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    other, _ = phantom.render_split(name, regions, 4, (1, 2, 1), 32)
    assert all(not np.array_equal(a, b) for a, b in zip(few, other, strict=True))


@given(st.integers(0, 2**32), st.floats(0, 0.5), st.floats(0.5, 1))
def test_factors_are_drawn_inside_the_region(seed: int, low: float, high: float) -> None:
    names = ["a", "b", "c"]
    factors = phantom.draw_factors({"b": (low, high)}, names, np.random.default_rng(seed))
    free = phantom.draw_factors({}, names, np.random.default_rng(seed))
    assert phantom.inside(factors, {"b": (low, high)}) and list(factors) == names
    assert (factors["a"], factors["c"]) == (free["a"], free["c"])
    assert all(0 <= value < 1 for value in free.values())


def test_the_draw_of_a_stream_is_pinned() -> None:
    """What the first image of phantom8 is drawn from: a change here changes every made stream."""
    first = catalog.load("phantom8", Path()).sources[0].options
    assert (first["generator"], first["seed"]) == ("histopathology", 800)
    names = sorted(phantom.generator("histopathology").FACTORS)
    drawn = phantom.draw_factors(first["regions"][0], names, np.random.default_rng([1, 800, 0, 0]))
    assert list(drawn.values()) == pytest.approx(PINNED, abs=1e-12)
    rng = np.random.default_rng([1, 800, 0, 0])
    phantom.draw_factors({}, names, rng)
    image = phantom.generator("histopathology").render(drawn, rng, 64)
    assert np.array_equal(sources.load(catalog.load("phantom8", Path()).sources[0], "train").images[0], image)


def test_inside_includes_the_bounds_and_needs_all_factors() -> None:
    region = {"a": (0.2, 0.4), "b": (0.6, 0.9)}
    assert phantom.inside({"a": 0.2, "b": 0.9, "c": 0.0}, region)
    assert not phantom.inside({"a": 0.2, "b": 0.5, "c": 0.0}, region)
    assert phantom.inside({"a": 0.0}, {})


@every_generator
def test_a_caption_names_the_modality_and_what_is_drawn(name: str) -> None:
    module = phantom.generator(name)
    phrases = [p for factor in module.FACTORS.values() for p in (factor.low, factor.middle, factor.high)]
    assert len(set(phrases)) == 18
    for value, which in ((0.0, "low"), (0.39, "low"), (0.4, "middle"), (0.6, "middle"), (0.61, "high"), (1.0, "high")):
        caption = phantom.caption(name, dict.fromkeys(module.FACTORS, value))
        told = [getattr(factor, which) for factor in module.FACTORS.values()]
        assert module.NAME in caption and all(phrase in caption for phrase in told)
        assert caption.startswith(("a ", "an "))


def test_captions_in_full() -> None:
    factors = middle("mri", ventricle_size=0.9, lesion_size=0.1, lesion_intensity=0.7)
    assert phantom.caption("mri", factors, ["ventricle_size"]) == "a brain MRI slice with enlarged ventricles"
    two = "a brain MRI slice with enlarged ventricles and small lesion"
    assert phantom.caption("mri", factors, ["ventricle_size", "lesion_size"]) == two
    three = "a brain MRI slice with bright lesion, small lesion and enlarged ventricles"
    assert phantom.caption("mri", factors, ["lesion_intensity", "lesion_size", "ventricle_size"]) == three
    for name, start in (("histopathology", "an H&E"), ("ct", "an abdominal CT slice"), ("xray", "a chest x-ray")):
        assert phantom.caption(name, middle(name)).startswith(start)


@pytest.mark.slow
@every_generator
def test_at_least_500_images_a_second_on_one_core(name: str) -> None:
    phantom.render_split(name, [{}], 20, (0,))
    rates = []
    for repeat in range(3):
        begun = time.process_time()
        phantom.render_split(name, [{}], 200, (1, repeat))
        rates.append(200 / (time.process_time() - begun))
    assert max(rates) >= 500, rates


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else THUMBNAILS
    np.savez_compressed(target, version=np.array(phantom.VERSION), **thumbnails())
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")
