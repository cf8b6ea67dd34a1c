"""CIFAR-100 as torchvision reads it, from made files of its layout."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR100

from benchmark.data import sources
from benchmark.data.catalog import Source
from benchmark.data.sources import cifar
from benchmark.errors import UserError

NAMES = ("apple", "aquarium_fish", "baby", "bear")
EACH = {"train": 14, "test": 3}  # images of a class


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data with a small set under torchvision's checks."""
    folder = tmp_path / cifar.FOLDER
    folder.mkdir()
    content: dict[str, dict[str, object]] = {"meta": {"fine_label_names": list(NAMES)}}
    for number, (split, count) in enumerate(EACH.items()):
        labels = np.random.default_rng(number).permutation(np.arange(len(NAMES) * count) % len(NAMES))
        images = np.random.default_rng(number + 5).integers(0, 256, (len(labels), 3072), np.uint8)
        content[split] = {"data": images, "fine_labels": labels.tolist()}
    told = {}
    for name, held in content.items():
        (folder / name).write_bytes(pickle.dumps(held))
        told[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", told["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", told["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": told["meta"]})
    cifar._arrays.cache_clear()
    return tmp_path


def source(folder: Path, *classes: str) -> Source:
    return Source("s.yaml: tasks[0]", "cifar100", classes, {"places": (folder,)})


def test_classes_are_chosen_by_name_in_the_order_of_the_task(made: Path) -> None:
    task = source(made, "bear", "aquarium fish")
    held = CIFAR100(made, train=True)
    found = {split: sources.load(task, split) for split in ("train", "val", "test")}
    assert {split: np.bincount(each.labels).tolist() for split, each in found.items()} == {
        "train": [4, 4], "val": [10, 10], "test": [3, 3]
    }  # fmt: skip
    fine = np.array(held.targets)
    for place, label in enumerate((3, 1)):
        own = held.data[fine == label]
        for split, expected in (("val", own[:10]), ("train", own[10:])):
            assert np.array_equal(np.asarray(found[split].images)[found[split].labels == place], expected)
    turned = source(made, "aquarium fish", "bear")
    assert sources.downloads(task) == "" and sources.identity(task) != sources.identity(turned)


def test_the_identity_is_that_of_the_official_files() -> None:
    assert {"train": CIFAR100.train_list[0][1], "test": CIFAR100.test_list[0][1]} == cifar.MD5


def test_what_is_wrong_is_one_line(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"unknown class of CIFAR-100 'bears' .did you mean 'bear'"):
        sources.load(source(made, "bears", "baby"), "test")
    (made / cifar.FOLDER / "test").write_bytes(b"damaged")
    cifar._arrays.cache_clear()
    with pytest.raises(UserError, match=r"corrupted.*get https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"):
        sources.load(source(made, "bear", "baby"), "test")
    monkeypatch.setattr(cifar, "home", lambda: tmp_path / "nowhere")
    assert sources.downloads(source(tmp_path / "elsewhere", "bear", "baby")) == cifar.ARCHIVE
