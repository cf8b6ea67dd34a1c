"""The readers of sources, one a file: the samples of a task as arrays, and what they are without decoding them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmark.data.catalog import Source
from benchmark.data.sources import cifar, class_folders, function, llava, medmnist, npz, phantoms, table
from benchmark.data.sources.split import SPLITS, Split, check_labels

__all__ = [
    "LISTING", "READERS", "SPLITS", "Reader", "Split", "check_labels", "counts", "dialogue", "downloads", "facts",
    "groups", "identity", "load", "passed_over", "subgroups",
]  # fmt: skip


class Reader(Protocol):
    """What the module of a reader has to have."""

    def load(self, source: Source, split: str) -> Split:
        """The samples of a split; a UserError where they cannot be read."""

    def identity(self, source: Source) -> str:
        """sha256 of what the samples are: the content of files or arrays, or a phantom's version, parameters, seed."""


READERS: dict[str, Reader] = {
    "npz": npz, "medmnist": medmnist, "folder": class_folders, "table": table, "phantom": phantoms,
    "llava": llava, "function": function, "cifar100": cifar,
}  # fmt: skip
LISTING: dict[str, Any] = {"folder": class_folders, "table": table, "llava": llava}  # those whose images lie in files


def load(source: Source, split: str) -> Split:
    return READERS[source.kind].load(source, split)


def counts(source: Source) -> dict[str, int]:
    """By split how many images there are, without decoding one; nothing where only reading them tells."""
    if source.kind in LISTING:
        listed = LISTING[source.kind].listed(source)
        return {split: len({sample.path for sample in samples}) for split, samples in listed.items()}
    if source.kind == "phantom":
        return dict(phantoms.options(source)["sizes"])
    path = medmnist.found(source) if source.kind == "medmnist" else source.options.get("path")
    return npz.counts(path) if path else {}


def groups(source: Source) -> dict[str, NDArray[np.int64]]:
    """By split the number of every sample's group, what belongs together: a patient, images of one study, questions of
    one image.

    Only of splits where some samples share one, and of sources that tell. It is no content: neither the identity of the
    samples nor the cache knows of it.
    """
    own = getattr(READERS[source.kind], "groups", None)
    return {} if own is None else own(source)


def subgroups(source: Source) -> dict[str, dict[str, NDArray[np.str_]]]:
    """By split and column what a table says of every sample by which scores are told apart, such as its site.

    No content either.
    """
    return table.subgroups(source) if source.kind == "table" else {}


def dialogue(source: Source) -> dict[str, list[tuple[str, str, bool]]]:
    """By split the instruction and the answer of every sample of a generation task, and whether the question is closed.

    No file of an image is decoded.
    """
    if source.kind in LISTING:
        listed = LISTING[source.kind].listed(source)
        return {split: [(each.text, each.answer, each.closed) for each in listed[split]] for split in SPLITS}
    own = getattr(READERS[source.kind], "dialogue", None)
    return own(source) if own is not None else {split: _spoken(load(source, split)) for split in SPLITS}


def _spoken(loaded: Split) -> list[tuple[str, str, bool]]:
    assert loaded.pairs is not None and loaded.closed is not None, "samples of a generation task"
    rows = zip(loaded.pairs.tolist(), loaded.closed.tolist(), strict=True)
    return [(loaded.texts[asked], loaded.texts[told], closed) for (_, asked, told), closed in rows]


def passed_over(source: Source) -> str:
    """In words what lies beside a task's samples and is none of them, such as the folder of a class that is not listed;
    empty where nothing does, or nothing is known of it.
    """
    return class_folders.passed_over(source) if source.kind == "folder" else ""


def downloads(source: Source) -> str:
    """The file of a task that a run would download; empty where all that it reads is there."""
    own = getattr(READERS[source.kind], "missing", None)
    return "" if own is None else own(source)


def facts(source: Source) -> Callable[[str], dict[str, str]] | None:
    """What a text tells of the facts of a made report: factor -> level; None where nobody knows them."""
    own = getattr(READERS[source.kind], "facts", None)
    return None if own is None else own(source)


def identity(source: Source) -> str:
    return READERS[source.kind].identity(source)
