"""``source: npz``: a file in the MedMNIST layout, ``{split}_images`` uint8 and ``{split}_labels`` integers."""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

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
                found[split] = int(_header(file)[0][0])
    return found


def read(source: Source, path: Path, split: str, any_of: bool = False) -> Split:
    """A split of a file: images (N, H, W) or (N, H, W, 3), labels (N,) or (N, 1).

    Args:
        any_of: labels (N, several) of 0 and 1 become one: whether there is any.

    Raises:
        UserError: the file is no npz, an array is missing or of another shape or type, a label is outside the classes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            images, labels = (_array(archive, f"{split}_{what}", path) for what in ("images", "labels"))
    except UserError:
        raise
    except Exception as error:  # the readers of zip and numpy raise anything
        raise UserError(f"{path}: not readable as npz: {' '.join(str(error).split())}") from None
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


def _array(archive: zipfile.ZipFile, key: str, path: Path) -> NDArray[Any]:
    """An array of an archive, read if its header, the archive's table and the machine's memory agree on its size."""
    members = [member.filename.removesuffix(".npy") for member in archive.infolist()]
    if key not in members:
        raise unknown("array", key, members, f"{path}: missing array")
    if members.count(key) > 1:
        raise UserError(f"{path}: {key}: stands twice in the archive")
    member = next(each for each in archive.infolist() if each.filename.removesuffix(".npy") == key)
    with archive.open(member) as file:
        shape, dtype = _header(file)
        size = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and (min(shape, default=0) < 0 or member.file_size - file.tell() != size):
            raise ValueError(f"{key}: {shape} of {dtype} does not fit the {member.file_size} bytes in the archive")
    if size > machine_memory():
        raise UserError(f"{path}: {key}: {shape} are {size / 2**30:,.0f} GiB, more than this machine's memory")
    with archive.open(member) as file:
        return npy.read_array(file, allow_pickle=False)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the array in a ``.npy`` file, which is then at the array's first byte."""
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def machine_memory() -> int:
    """Bytes of the machine's memory, or of the part of it that its container may use."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # ValueError: max
        return min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return whole
