"""One function per kind of source: a task's samples as arrays.

A source function takes a :class:`~benchmark.data.catalog.Source` and a split and returns a :class:`Split`;
``identity`` says what the samples are without decoding them. Legend: N samples, H, W pixels.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data import files, function, medmnist, phantoms
from benchmark.data.catalog import Source
from benchmark.data.files import Images
from benchmark.errors import UserError, unknown

SPLITS = files.SPLITS


@dataclass(frozen=True)
class Split:
    """The samples of one split.

    Args:
        images: uint8 (N, H, W) grey or (N, H, W, 3), or N in files.
        labels: int64, one for each sample, in 0..classes-1; of retrieval the number of what belongs together.
        texts: M different texts, none in classification.
        pairs: (P, 2) image row and text row of every sample; None: sample i is image i.
    """

    images: NDArray[np.uint8] | Images
    labels: NDArray[np.int64]
    texts: tuple[str, ...] = ()
    pairs: NDArray[np.int64] | None = None


def npz(source: Source, split: str) -> Split:
    """A file in the MedMNIST layout: ``{split}_images`` uint8, ``{split}_labels`` (N,) or (N, 1) integers.

    Raises:
        UserError: the file is no npz, an array is missing or of another shape or type, a label is outside the classes.
    """
    return _arrays(source, source.options["path"], split)


def a_medmnist(source: Source, split: str) -> Split:
    """A set of MedMNIST by its flag, downloaded if it is not there."""
    return _arrays(source, medmnist.obtained(source), split)


def in_files(source: Source, split: str) -> Split:
    """Images in class folders or named by a table, decoded when they are asked for."""
    samples = files.listed(source)[split]
    if source.task_kind != "classification":
        paths, labels, texts, pairs = files.paired(samples, source.task_kind)
        return Split(Images(paths), np.array(labels, np.int64), texts, pairs)
    return Split(Images([sample.path for sample in samples]), np.array([sample.label for sample in samples], np.int64))


def _arrays(source: Source, path: Path, split: str) -> Split:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("one array, not an archive of named arrays")
        with archive as arrays:
            for key in (f"{split}_images", f"{split}_labels"):
                if key not in arrays.files:
                    raise unknown("array", key, arrays.files, f"{path}: missing array")
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not readable as npz: {error}") from None
    if images.dtype != np.uint8:
        raise UserError(f"{path}: {split}_images: expected uint8, got {images.dtype}")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3) or 0 in images.shape[1:]:
        raise UserError(f"{path}: {split}_images: expected (N, H, W) or (N, H, W, 3), got {images.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{path}: {split}_labels: expected integers, got {labels.dtype}")
    if labels.ndim == 2 and source.options.get("multi_label") == "any":
        labels = (labels != 0).any(axis=1).astype(np.int64)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != len(images):
        raise UserError(f"{path}: {split}_labels: {labels.shape} does not fit {len(images)} images, one label each")
    if len(labels) == 0:
        raise UserError(f"{path}: {split}_images: the split is empty")
    check_labels(source, split, labels)
    return Split(images, labels.astype(np.int64))


def check_labels(source: Source, split: str, labels: NDArray[Any]) -> None:
    """Refuse labels outside the classes: asked of cached samples too, for a cache may be older than the stream file."""
    if source.task_kind == "retrieval":  # its labels number what belongs together
        return
    if labels.min() < 0 or labels.max() >= len(source.classes):
        raise UserError(
            f"{source.options.get('path', source.where)}: {split}_labels: labels {labels.min()}..{labels.max()} but "
            f"{source.where}.classes lists {len(source.classes)} classes (0..{len(source.classes) - 1})"
        )


def made(source: Source, split: str) -> Split:
    """A phantom task: images drawn from regions of a generator's factors, with notes or captions where it asks."""
    return Split(*phantoms.samples(source, split))


def from_function(source: Source, split: str) -> Split:
    """What a function of the user's own returns."""
    return Split(*function.samples(source, split))


KINDS: dict[str, Callable[[Source, str], Split]] = {
    "npz": npz, "medmnist": a_medmnist, "folder": in_files, "table": in_files, "phantom": made,
    "function": from_function,
}  # fmt: skip


def load(source: Source, split: str) -> Split:
    return KINDS[source.kind](source, split)


def identity(source: Source) -> str:
    """sha256 of what the samples are: the content of files or arrays, or a phantom's version, parameters and seed."""
    if source.kind == "medmnist":
        return medmnist.identity(source)
    if source.kind in files.LISTERS:
        return files.identity(source)
    if source.kind == "phantom":
        return phantoms.identity(source)
    if source.kind == "function":
        return function.identity(source)
    with open(source.options["path"], "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
