"""Sets of MedMNIST: found, downloaded, identified without a download, and as the cards describe them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from benchmark.data import catalog, sources
from benchmark.data.cache import cached
from benchmark.data.catalog import Source
from benchmark.data.sources import medmnist
from benchmark.errors import UserError
from tests.source_files import CLASSES, WHERE, pixels, refused

OWN_NAMES = ("retinamnist", "chestmnist")  # officially digits; officially several labels an image


def mnist(flag: str = "breastmnist", places: tuple[Path, ...] = (), **options: Any) -> Source:
    return Source(WHERE, "medmnist", CLASSES, {"flag": flag, "places": places, **options})


def small(path: Path, classes: int = 2, shape: tuple[int, ...] = (28, 28), several: int = 0) -> Path:
    """A file of the official layout: labels uint8 (N, 1), or (N, ``several``) of 0 and 1, none in every other row."""
    arrays: dict[str, NDArray[Any]] = {}
    for s, (split, n) in enumerate({"train": 2 * classes, "val": classes, "test": classes}.items()):
        labels = np.arange(n, dtype=np.uint8)[:, None] % classes
        if several:
            labels = labels * (np.arange(several) % 3 != n % 3).astype(np.uint8)
        arrays |= {f"{split}_images": pixels(s, (n, *shape)), f"{split}_labels": labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(("size", "name"), [(None, "breastmnist"), (28, "breastmnist"), (64, "breastmnist_64")])
def test_a_set_that_is_there_is_read_by_its_official_name(size: int | None, name: str, tmp_path: Path) -> None:
    options = {} if size is None else {"size": size}
    edge = size or 28
    for place in ("home/.medmnist", "beside", "data"):  # the last is preferred once it is there
        path = small(tmp_path / place / f"{name}.npz", shape=(edge, edge))
        source = mnist(places=(tmp_path / "data", tmp_path / "beside"), **options)
        assert medmnist.found(source) == medmnist.obtained(source) == path
    for split, n in {"train": 4, "val": 2, "test": 2}.items():
        loaded = sources.load(source, split)
        with np.load(path) as arrays:
            assert np.array_equal(np.asarray(loaded.images), arrays[f"{split}_images"])
        assert loaded.labels.tolist() == [i % 2 for i in range(n)]


def test_chestmnist_becomes_any_finding_or_none(tmp_path: Path) -> None:
    small(tmp_path / "chestmnist.npz", several=14)
    source = mnist("chestmnist", (tmp_path,), multi_label="any")
    assert sources.load(source, "train").labels.tolist() == [0, 1, 0, 1]
    assert "several labels an image; multi_label: any" in refused(mnist("chestmnist", (tmp_path,)))


def test_the_identity_is_the_official_one_before_and_after_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path / "data" / "pathmnist_64.npz")
    official = {"MD5_64": hashlib.md5(path.read_bytes()).hexdigest()}
    monkeypatch.setattr(medmnist, "_table", lambda _: {"pathmnist": official})
    told = {sources.identity(mnist("pathmnist", places, size=64)) for places in ((), (tmp_path / "data",))}
    assert len(told) == 1 and not (tmp_path / "home").exists()
    small(path, shape=(32, 32))
    assert sources.identity(mnist("pathmnist", (tmp_path / "data",), size=64)) not in told


def test_a_download_is_the_packages_and_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets.utils

    asked = []

    def download_url(url: str, root: str, filename: str, md5: str) -> None:
        asked.append((url, md5))
        small(Path(root) / filename)
        if len(asked) == 1:
            raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download_url)
    with pytest.raises(UserError) as error:
        sources.load(mnist(), "train")
    assert "\n" not in str(error.value) and "breastmnist.npz could not be downloaded" in str(error.value)
    assert "https://zenodo.org/records/10519652/files/breastmnist.npz" in str(error.value)
    home = tmp_path / "home" / ".medmnist"
    assert list(home.iterdir()) == []
    assert sources.load(mnist(), "train").labels.tolist() == [0, 1, 0, 1]
    assert [path.name for path in home.iterdir()] == ["breastmnist.npz"]
    sources.load(mnist(), "test")
    assert asked == 2 * [(asked[0][0], "750601b1f35ba3300ea97c75c52ff8f6")]


def test_planning_downloads_nothing_and_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from benchmark.data import catalog, identity;"
        "print(len(set(identity.identities(catalog.load('medmnist12', Path()))))); print(*sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    count, loaded = done.stdout.splitlines()
    assert count == "12" and not {"torch", "medmnist"} & set(loaded.split())
    assert not (tmp_path / "home").exists()


def test_without_the_package_a_file_is_read_and_a_missing_one_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(medmnist.importlib.util, "find_spec", lambda name: None)
    message = refused(mnist())
    assert message.startswith(WHERE) and 'pip install "mbil-bench[medmnist]"' in message
    small(tmp_path / "breastmnist.npz")
    assert (
        sources.identity(mnist(places=(tmp_path,))) and len(sources.load(mnist(places=(tmp_path,)), "val").labels) == 2
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"flag": "brestmnist"}, ("unknown flag 'brestmnist'", "did you mean 'breastmnist'?")),
        ({"flag": None}, ("unknown flag",)),
        ({"size": 32}, (".size", "28, 64, 128, 224", "32")),
        ({"size": True}, (".size",)),
        ({"multi_label": "any"}, (".multi_label", "one label an image")),
        ({"flag": "chestmnist", "multi_label": "all"}, ("several labels",)),
    ],
)
def test_wrong_options_of_a_set(options: dict[str, Any], says: tuple[str, ...]) -> None:
    message = refused(mnist(**{"flag": "breastmnist"} | options))
    assert message.startswith(WHERE) and all(part in message for part in says), message


def test_the_cards_say_what_the_package_says() -> None:
    cards = {name for name in catalog.names("cards") if name.startswith("medmnist_")}
    assert cards == {f"medmnist_{flag}" for flag in medmnist.FLAGS}
    for source in catalog.load("medmnist12", None).sources:
        flag, info = source.options["flag"], medmnist._info(source)
        card = yaml.safe_load((catalog.root() / "cards" / f"medmnist_{flag}.yaml").read_text())
        names = [name for _, name in sorted(info["label"].items(), key=lambda item: int(item[0]))]
        assert (flag in OWN_NAMES) != (list(source.classes) == names)
        assert (flag == "chestmnist") == (info["task"] == "multi-label, binary-class")
        assert len(source.classes) == (2 if flag == "chestmnist" else len(names))
        assert card["md5"] == info["MD5"] and card["licence"].startswith(info["license"])
        assert "/".join(f"{n:,}" for n in info["n_samples"].values()) in card["preparation"]


def test_medmnist12_reads_the_official_layout(tmp_path: Path) -> None:
    for source in catalog.load("medmnist12", None).sources:
        flag = source.options["flag"]
        shape = (28, 28, 3) if medmnist._info(source)["n_channels"] == 3 else (28, 28)
        small(tmp_path / f"{flag}.npz", len(source.classes), shape, 14 if flag == "chestmnist" else 0)
    for source in catalog.load("medmnist12", tmp_path).sources:
        made = cached(source, sources.identity(source), 8)["train"]
        assert made.images.shape == (2 * len(source.classes), 3, 8, 8)
        assert set(made.labels) == set(range(len(source.classes)))
