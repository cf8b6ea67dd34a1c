"""``source: npz``: a file in the MedMNIST layout, ``{split}_images`` uint8 and ``{split}_labels`` integers."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from benchmark.data.catalog import Source
from benchmark.data.sources.split import SPLITS, Split, check_labels
from benchmark.errors import UserError, unknown


def load(source: Source, split: str) -> Split:
    return read(source, source.options["path"], split)


def identity(source: Source) -> str:
    """sha256 of the file."""
    with open(source.options["path"], "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def counts(path: Path) -> dict[str, int]:
    """By split the number of images that the arrays' headers tell; of what is no such file nothing."""
    found: dict[str, int] = {}
    with (
        suppress(OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error),
        zipfile.ZipFile(path) as archive,
    ):
        for split in SPLITS:
            with archive.open(f"{split}_images.npy") as file:
                version = np.lib.format.read_magic(file)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                found[split] = int(header(file)[0][0])
    return found


def read(source: Source, path: Path, split: str, any_of: bool = False) -> Split:
    """A split of a file: images (N, H, W) or (N, H, W, 3), labels (N,) or (N, 1).

    Args:
        any_of: labels (N, several) of 0 and 1 become one: whether there is any.

    Raises:
        UserError: the file is no npz, an array is missing or of another shape or type, a label is outside the classes.
    """
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
    if labels.ndim == 2 and any_of:
        labels = (labels != 0).any(axis=1).astype(np.int64)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != len(images):
        raise UserError(f"{path}: {split}_labels: {labels.shape} does not fit {len(images)} images, one label each")
    if len(labels) == 0:
        raise UserError(f"{path}: {split}_images: the split is empty")
    check_labels(source, split, labels)
    return Split(images, labels.astype(np.int64))
