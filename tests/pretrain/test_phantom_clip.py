"""Pretraining never sees a class of a shipped stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.data import catalog, phantom
from benchmark.data.catalog import Source

SHIPPED = ("phantom8", "phantom20", "smoke")
every_generator = pytest.mark.parametrize("name", phantom.GENERATORS)


def shipped_sources() -> Iterator[Source]:
    for stream in SHIPPED:
        yield from catalog.load(stream, Path()).sources


def test_every_region_of_every_shipped_stream_is_forbidden() -> None:
    from benchmark.pretrain.forbidden import regions

    forbidden = regions()
    assert set(forbidden) == set(phantom.GENERATORS) and all(forbidden.values())
    assert sum(map(len, forbidden.values())) == 4 * (8 + 20 + 2)
    for source in shipped_sources():
        for region in source.options["regions"]:
            assert any(contains(wide, region) for wide in forbidden[source.options["generator"]])


def contains(wide: phantom.Region, region: phantom.Region) -> bool:
    """Whether a region lies in another one that reaches a margin further towards the middle."""
    from benchmark.pretrain.forbidden import MARGIN

    def reach(low: float, high: float) -> tuple[float, float]:
        return (low, high + MARGIN) if high <= 0.5 else (low - MARGIN, high)

    return wide.keys() == region.keys() and all(wide[name] == pytest.approx(reach(*region[name])) for name in region)


@every_generator
def test_pretraining_images_lie_outside_every_class_and_are_captioned(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark.pretrain import forbidden
    from benchmark.pretrain import phantom_clip as pretrain

    module, drawn = phantom.generator(name), []
    regions = forbidden.regions()[name]

    def watched(factors: dict[str, float], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
        drawn.append(dict(factors))
        return np.zeros((size, size, 3), np.uint8)

    monkeypatch.setattr(module, "render", watched)
    images, captions, told = pretrain.render_chunk(name, regions, 0)
    assert len(images) == len(captions) == len(told) == len(drawn) == pretrain.CHUNK
    expected = [[factors[f] for f in sorted(module.FACTORS)] for factors in drawn]
    assert np.allclose(told, expected)
    assert not any(phantom.inside(factors, region) for factors in drawn for region in regions)
    for factors, caption in zip(drawn, captions, strict=True):
        said = [f for f, words in module.FACTORS.items() if words.phrase(factors[f]) in caption]
        assert caption.startswith(("a ", "an ")) and len(said) >= 2
    free = [phantom.draw_factors({}, sorted(module.FACTORS), np.random.default_rng(i)) for i in range(200)]
    assert any(phantom.inside(factors, region) for factors in free for region in regions)  # else it proved nothing


def test_pretraining_draws_from_seeds_of_its_own() -> None:
    from benchmark.pretrain import phantom_clip as pretrain

    assert pretrain.SEED not in {source.options["seed"] for source in shipped_sources()}
    one, again, other = (pretrain.render_chunk("oct", [], chunk)[0] for chunk in (0, 0, 1))
    assert np.array_equal(one, again)
    assert len({image.tobytes() for image in np.concatenate([one, other])}) == 2 * pretrain.CHUNK


def test_pretraining_is_not_changed_by_these_streams() -> None:
    """The shipped backbone was trained with the regions of the three classification streams alone."""
    from benchmark.pretrain import forbidden

    expected = sum(len(s.options["regions"]) for n in ("phantom8", "phantom20", "smoke") for s in load(n))
    assert sum(map(len, forbidden.regions().values())) == expected == 120


def load(name: str) -> tuple[Source, ...]:
    return catalog.load(name, None).sources
