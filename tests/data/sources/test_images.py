"""Every sort of image is decoded to eight bits, or refused by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data import sources
from benchmark.data.cache import cached
from benchmark.data.sources.images import decoded
from benchmark.errors import UserError
from tests.source_files import in_folders, pixels


def test_every_sort_of_image_is_eight_bits_grey_or_colour(tmp_path: Path) -> None:
    grey, colour = pixels(1, (6, 5)), pixels(2, (6, 5, 3))
    Image.fromarray(grey).save(tmp_path / "grey.bmp")
    Image.fromarray(colour).save(tmp_path / "colour.tif")
    Image.fromarray(grey.astype(np.uint16) * 256 + 77).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([colour, grey])).save(tmp_path / "alpha.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.gif")
    Image.fromarray(grey > 127).save(tmp_path / "bits.png")
    expected = {
        "grey.bmp": grey,
        "colour.tif": colour,
        "deep.png": grey,
        "alpha.png": colour,
        "palette.gif": np.dstack([grey] * 3),
        "bits.png": np.dstack([(grey > 127) * np.uint8(255)] * 3),
    }
    for name, image in expected.items():
        made = decoded(tmp_path / name)
        assert made.dtype == np.uint8 and np.array_equal(made, image), name


def test_a_jpeg_is_what_pil_reads(tmp_path: Path) -> None:
    Image.fromarray(pixels(5, (40, 60, 3))).save(tmp_path / "a.jpeg")
    assert np.array_equal(decoded(tmp_path / "a.jpeg"), np.asarray(Image.open(tmp_path / "a.jpeg")))


@pytest.mark.parametrize("kind", ["text", "empty", "cut short", "float", "32 bits"])
def test_an_image_that_cannot_be_read_is_named(kind: str, chest: Path, cache: Path) -> None:
    bad = chest / "train" / "NORMAL" / "train-NORMAL-2.tif"
    if kind == "float":
        Image.fromarray(np.ones((5, 5), np.float32)).save(bad)
    elif kind == "32 bits":
        Image.fromarray(np.full((5, 5), 70_000, np.int32)).save(bad)
    elif kind == "cut short":
        Image.fromarray(pixels(1, (50, 50, 3))).save(bad)
        bad.write_bytes(bad.read_bytes()[:900])
    else:
        bad.write_bytes(b"no image at all" if kind == "text" else b"")
    with pytest.raises(UserError, match="not readable as an image") as error:
        cached(in_folders(chest), sources.identity(in_folders(chest)), 8)
    assert str(error.value).startswith(str(bad)) and "\n" not in str(error.value)
    assert list(cache.iterdir()) == []
