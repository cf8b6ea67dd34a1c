"""The readers of sources, one a file: the samples of a task as arrays, and what they are without decoding them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmark.data.catalog import Source
from benchmark.data.sources import class_folders, function, medmnist, npz, phantoms, table
from benchmark.data.sources.split import SPLITS, Split, check_labels

__all__ = ["READERS", "SPLITS", "Reader", "Split", "check_labels", "counts", "groups", "identity", "load", "subgroups"]


class Reader(Protocol):
    """What the module of a reader has to have."""

    def load(self, source: Source, split: str) -> Split:
        """The samples of a split; a UserError where they cannot be read."""

    def identity(self, source: Source) -> str:
        """sha256 of what the samples are: the content of files or arrays, or a phantom's version, parameters, seed."""


READERS: dict[str, Reader] = {
    "npz": npz, "medmnist": medmnist, "folder": class_folders, "table": table, "phantom": phantoms,
    "function": function,
}  # fmt: skip


def load(source: Source, split: str) -> Split:
    return READERS[source.kind].load(source, split)


def counts(source: Source) -> dict[str, int]:
    """By split how many images there are, without decoding one; nothing where only reading them tells."""
    if source.kind in ("folder", "table"):
        listed = class_folders.listed(source) if source.kind == "folder" else table.listed(source)
        return {split: len({sample.path for sample in samples}) for split, samples in listed.items()}
    if source.kind == "phantom":
        return dict(phantoms.options(source)["sizes"])
    path = medmnist.found(source) if source.kind == "medmnist" else source.options.get("path")
    return npz.counts(path) if path else {}


def groups(source: Source) -> dict[str, NDArray[np.int64]]:
    """By split the number of every sample's group, what belongs together: a patient, images of one study.

    Only of splits where some samples share one, and only tables tell. It is no content: neither the identity of the
    samples nor the cache knows of it.
    """
    return table.groups(source) if source.kind == "table" else {}


def subgroups(source: Source) -> dict[str, dict[str, NDArray[np.str_]]]:
    """By split and column what a table says of every sample by which scores are told apart, such as its site.

    No content either.
    """
    return table.subgroups(source) if source.kind == "table" else {}


def identity(source: Source) -> str:
    return READERS[source.kind].identity(source)
