"""Shifts of domain: deterministic, growing with their strength, nothing at zero."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.data import phantom
from benchmark.data.phantom import shifts

IMAGE = phantom.generator("histopathology").render(
    dict.fromkeys(phantom.generator("histopathology").FACTORS, 0.5), np.random.default_rng(0), 64
)


@pytest.mark.parametrize("kind", shifts.KINDS)
def test_a_shift_is_deterministic_grows_and_is_nothing_at_zero(kind: str) -> None:
    def away(strength: float) -> float:
        return float(np.abs(shifts.shifted(IMAGE, {kind: strength}, [1]).astype(int) - IMAGE).mean())

    assert np.array_equal(shifts.shifted(IMAGE, {kind: 0.0}, [1]), IMAGE)
    assert 0 < away(0.1) < away(0.4) < away(1.0) and away(1.0) > 15
    one, again, other = (shifts.shifted(IMAGE, {kind: 0.8}, [seed]) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert one.shape == IMAGE.shape and one.dtype == np.uint8
    small = IMAGE[:42, :42]  # not a multiple of the blocks of compression
    assert shifts.shifted(small, {kind: 0.8}, [1]).shape == small.shape


def test_the_order_in_which_shifts_are_named_does_not_matter() -> None:
    one = shifts.shifted(IMAGE, {"noise": 0.3, "stain": 0.6, "scanner": 0.2}, [4])
    assert np.array_equal(one, shifts.shifted(IMAGE, {"scanner": 0.2, "noise": 0.3, "stain": 0.6}, [4]))


def test_a_full_change_of_stain_moves_the_channels_on_and_keeps_grey() -> None:
    image = np.full((8, 8, 3), (200, 120, 60), np.uint8)
    turned = shifts.shifted(image, {"stain": 1.0}, [3]).astype(int)
    distances = [np.abs(turned - image[..., np.roll(range(3), k)]).max() for k in range(3)]
    assert min(distances) < 25 < sorted(distances)[1]
    grey = np.full((8, 8, 3), 90, np.uint8)
    assert np.abs(shifts.shifted(grey, {"stain": 0.7}, [3]).astype(int) - 90).max() <= 1
