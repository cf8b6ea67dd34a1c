"""A cache and a home of its own for every test of data, and the folders of images that several of them read."""

from pathlib import Path

import pytest
import yaml

from benchmark.data import catalog
from benchmark.data.task_keys import SOURCES
from tests.source_files import pixels, save


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MBIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "cache"


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    """The layout of Chest X-Ray Pneumonia: images of several sizes and sorts, and what does not belong there."""
    root = tmp_path / "chest_xray"
    shapes = ((20, 14), (9, 11, 3), (8, 8), (31, 8, 3))
    for s, split in enumerate(("train", "val", "test")):
        for c, name in enumerate(("NORMAL", "PNEUMONIA")):
            for i in range(4 - s):
                save(root / split / name / f"{split}-{name}-{i}.png", pixels(100 * s + 10 * c + i, shapes[i]))
    save(root / "train" / "NORMAL" / ".hidden.png", pixels(0))
    save(root / "train" / "NORMAL" / ".hidden" / "a.png", pixels(0))
    save(root / "train" / "OTHER" / "a.png", pixels(0))
    (root / "train" / "NORMAL" / "Thumbs.db").write_bytes(b"no image")
    (root / "val" / "NORMAL" / "notes.txt").write_text("no image")
    return root


@pytest.fixture
def classed(tmp_path: Path) -> Path:
    """Class folders without splits, 20 and 10 images."""
    for c, (name, count) in enumerate((("NORMAL", 20), ("PNEUMONIA", 10))):
        for i in range(count):
            save(tmp_path / "classed" / name / f"{name}-{i}.png", pixels(100 * c + i))
    return tmp_path / "classed"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder in which every file that a card names is there (empty: the catalog does not read them)."""
    folder = tmp_path / "images"
    folder.mkdir()
    for card in catalog.names("cards"):
        content = yaml.safe_load((catalog.root() / "cards" / f"{card}.yaml").read_text())
        for key, kind in SOURCES[content["source"]].paths.items():
            place = folder / content[key]
            (place if kind == "folder" else place.parent).mkdir(parents=True, exist_ok=True)
            if kind == "file":
                place.touch()
    return folder


@pytest.fixture
def twenty(tmp_path: Path) -> Path:
    """The images that QUESTIONS names."""
    for i in range(20):
        save(tmp_path / "t" / f"{i}.png", pixels(i, (9, 8, 3)))
    return tmp_path / "t"
