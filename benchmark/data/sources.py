"""One function per kind of source: a task's samples as arrays.

A source function takes a :class:`~benchmark.data.catalog.Source` and a split and returns a :class:`Split`;
``identity`` says what the samples are without decoding them. Legend: N samples, H, W pixels.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data import files, medmnist, phantom
from benchmark.data.catalog import Source
from benchmark.data.files import SPLITS, Images
from benchmark.errors import UserError, unknown

PHANTOM_SIZES = {"train": 512, "val": 64, "test": 256}


@dataclass(frozen=True)
class Split:
    """``images`` uint8 (N, H, W) grey or (N, H, W, 3), or N in files; ``labels`` int64 (N,) in 0..classes-1."""

    images: NDArray[np.uint8] | Images
    labels: NDArray[np.int64]


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
    if labels.min() < 0 or labels.max() >= len(source.classes):
        raise UserError(
            f"{source.options.get('path', source.where)}: {split}_labels: labels {labels.min()}..{labels.max()} but "
            f"{source.where}.classes lists {len(source.classes)} classes (0..{len(source.classes) - 1})"
        )


def made(source: Source, split: str) -> Split:
    """A phantom task: the classes are regions of a generator's factors (``seed`` and split make the draw)."""
    options = _phantom_options(source)
    seed = (phantom.VERSION, options["seed"], SPLITS.index(split))
    return Split(*phantom.render_split(options["generator"], options["regions"], options["sizes"][split], seed))


def _phantom_options(source: Source) -> dict[str, Any]:
    where, options = source.where, dict(source.options)
    if options.get("generator") not in phantom.GENERATORS:
        raise unknown("generator", options.get("generator"), phantom.GENERATORS, where)
    seed = options.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UserError(f"{where}.seed: expected a whole number from 0, got {seed!r}")
    regions = options.get("regions")
    if not isinstance(regions, list) or len(regions) != len(source.classes):
        raise UserError(f"{where}.regions: expected one region for each of the {len(source.classes)} classes")
    factors = phantom.generator(options["generator"]).FACTORS
    for i, region in enumerate(regions):
        if not isinstance(region, dict):
            raise UserError(f"{where}.regions[{i}]: expected factor: [low, high], got {region!r}")
        for factor, bounds in region.items():
            if factor not in factors:
                raise unknown("factor", factor, factors, f"{where}.regions[{i}]")
            numbers = isinstance(bounds, list) and [x for x in bounds if isinstance(x, (int, float))]
            if not numbers or len(numbers) != 2 or len(bounds) != 2 or not 0 <= numbers[0] < numbers[1] <= 1:
                raise UserError(f"{where}.regions[{i}].{factor}: expected [low, high] within [0, 1], got {bounds!r}")
    sizes = options.get("sizes", {})
    if not isinstance(sizes, dict):
        raise UserError(f"{where}.sizes: expected split: number of images, got {sizes!r}")
    sizes = PHANTOM_SIZES | sizes
    for split, size in sizes.items():
        if split not in SPLITS:
            raise unknown("split", split, SPLITS, f"{where}.sizes")
        if not isinstance(size, int) or isinstance(size, bool) or size < len(regions):
            raise UserError(f"{where}.sizes.{split}: expected a whole number of at least {len(regions)}, got {size!r}")
    return options | {"sizes": sizes}


KINDS: dict[str, Callable[[Source, str], Split]] = {
    "npz": npz, "medmnist": a_medmnist, "folder": in_files, "table": in_files, "phantom": made,
}  # fmt: skip


def load(source: Source, split: str) -> Split:
    return KINDS[source.kind](source, split)


def identity(source: Source) -> str:
    """sha256 of what the samples are: the content of files, or a phantom's version, parameters and seed."""
    if source.kind == "medmnist":
        return medmnist.identity(source)
    if source.kind in files.LISTERS:
        return files.identity(source)
    if source.kind == "phantom":
        described = json.dumps([phantom.VERSION, phantom.SIZE, _phantom_options(source)], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()
    with open(source.options["path"], "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
