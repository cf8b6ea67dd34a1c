"""A task's images, decoded and resized once into a uint8 cache, and never per epoch. No torch.

A cache is a folder whose ``digests.json`` says what each file is; they are read through on every use, for another
image or label in them would be another result. Legend: N images, H, W pixels.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from benchmark import kinds
from benchmark.data import sources
from benchmark.data.catalog import Source
from benchmark.data.sources.contents import cache_folder
from benchmark.data.sources.images import Images
from benchmark.data.sources.split import SPLITS, Split, check_labels
from benchmark.disk import Data, digest, digesting, remove, sync, write_bytes
from benchmark.errors import warn
from benchmark.stream import SHORTEST, Framing

CACHE_VERSION = 3
MANIFEST = "digests.json"
AT_ONCE = 64  # images that are written at a time
BUILDING = ".building-"
FILTERS = {"bilinear": Image.Resampling.BILINEAR}  # everything else is bicubic, as open_clip has it
HEADER = 1024  # bytes that a header of one of these arrays has at most


class _Damaged(Exception):
    """What is wrong with a cache; nothing where there is none."""


def resized(
    images: NDArray[np.uint8] | Images | Sequence[NDArray[np.uint8]], size: int, framing: Framing = SHORTEST
) -> NDArray[np.uint8]:
    """(N, H, W) or (N, H, W, 3), or N images of any sizes -> (N, 3, size, size), as open_clip's own transform does it.

    Pixel for pixel what ``open_clip.image_transform`` gives of the images in grey or RGB before it normalises them.
    """
    out = np.empty((len(images), 3, size, size), np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(image)
        full = _full(picture.size, size, framing.mode)
        if picture.size != full:
            picture = picture.resize(full, FILTERS.get(framing.interpolation, Image.Resampling.BICUBIC))
        if min(full) < size:
            wide = Image.new(picture.mode, (max(full[0], size), max(full[1], size)), _grey(framing.fill, picture.mode))
            wide.paste(picture, ((wide.width - full[0]) // 2, (wide.height - full[1]) // 2))
            picture = wide
        left, top = (round((side - size) / 2) for side in picture.size)
        pixels = np.asarray(picture)[top : top + size, left : left + size]
        out[i] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return out


def _full(shape: tuple[int, int], size: int, mode: str) -> tuple[int, int]:
    """Width and height of an image before its centre is cut out: torchvision drops fractions, open_clip rounds."""
    if mode == "squash":
        return size, size
    width, height = shape
    if mode == "longest":
        ratio = max(shape) / size
        return max(1, round(width / ratio)), max(1, round(height / ratio))
    return (size, int(size * height / width)) if width <= height else (int(size * width / height), size)


def _grey(level: int, mode: str) -> int | tuple[int, ...]:
    return level if mode == "L" else (level,) * 3


def place(identity: str, size: int, framing: Framing = SHORTEST) -> Path:
    """The folder of a task's images at a size, once they are made."""
    fitted = "" if framing == SHORTEST else f"-{framing.mode}-{framing.interpolation}-{framing.fill}"
    return cache_folder() / f"{identity[:24]}-{size}{fitted}-v{CACHE_VERSION}"


def cached(source: Source, identity: str, size: int, framing: Framing = SHORTEST) -> dict[str, Split]:
    """Every split with its images as (N, 3, size, size), memory-mapped, made on first use.

    A damaged cache is named, and made anew; of several processes that need one, one makes it.

    Raises:
        UserError: the samples cannot be read.
        OSError: the cache cannot be written.
    """
    folder = place(identity, size, framing)
    made_of = {"identity": identity, "size": size, "framing": asdict(framing), "version": CACHE_VERSION}
    parts = _parts(source)
    _tidy(folder.parent)
    try:
        splits = _read(folder, made_of, parts)
    except _Damaged:
        with _alone(folder):
            try:
                splits = _read(folder, made_of, parts)  # another process was faster
            except _Damaged as damage:
                if str(damage):
                    warn(f"{damage}: the cache is made again")
                _make(folder, source, made_of, framing)
                splits = _read(folder, made_of, parts)
    for split, found in splits.items():
        check_labels(source, split, found.labels)
    return splits


# ---- reading


def _parts(source: Source) -> tuple[str, ...]:
    """The files of a split, as :func:`_split` takes them."""
    kind = kinds.of(source.task_kind)
    texts = ("pairs.npy", "texts.json") if kind.reads_text or kind.speaks else ()
    return ("images.npy", "labels.npy", *texts, *(("closed.npy",) if kind.speaks else ()))


def _read(folder: Path, made_of: dict[str, Any], parts: tuple[str, ...]) -> dict[str, Split]:
    """The splits, if every file is what the manifest says and the manifest is of these samples.

    What is told by the digest are the bytes that are used: those of the mapping.
    """
    if not os.path.lexists(folder):
        raise _Damaged
    told = _manifest(folder / MANIFEST)
    names = [f"{split}_{part}" for split in SPLITS for part in parts]
    files = told.pop("files", None)
    if told != made_of or not isinstance(files, dict) or sorted(files) != sorted(names):
        raise _Damaged(f"{folder / MANIFEST}: damaged (of other samples)")
    with ThreadPoolExecutor() as pool:
        data = dict(zip(names, pool.map(lambda name: _verified(folder / name, files[name]), names), strict=True))
    return {split: _split(*(data[f"{split}_{part}"] for part in parts)) for split in SPLITS}


def _manifest(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise _Damaged(f"{path}: damaged (not readable)") from None
    return told if isinstance(told, dict) else {}


def _verified(path: Path, told: str) -> NDArray[np.uint8]:
    """The bytes of a file, memory-mapped."""
    try:
        data = np.memmap(path, np.uint8, "r") if path.is_file() else None
    except (OSError, ValueError):  # an empty file cannot be mapped
        data = None
    if data is None:
        raise _Damaged(f"{path}: not there, or empty")
    if digest(data.data) != told:
        raise _Damaged(f"{path}: damaged (its digest is not the one in {MANIFEST})")
    return data


def _split(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], pairs: NDArray[np.uint8] | None = None,
    texts: NDArray[np.uint8] | None = None, closed: NDArray[np.uint8] | None = None,
) -> Split:  # fmt: skip
    rows = [None if part is None else np.array(_array(part)) for part in (pairs, closed)]
    written = () if texts is None else tuple(json.loads(texts.tobytes()))
    return Split(_array(images), np.array(_array(labels)), written, *rows)


def _array(data: NDArray[np.uint8]) -> NDArray[Any]:
    """The array that the bytes of a ``.npy`` file hold, as a view of them."""
    header = io.BytesIO(data[:HEADER].tobytes())
    assert npy.read_magic(header) == (1, 0)
    shape, _, dtype = npy.read_array_header_1_0(header)
    return data[header.tell() :].view(dtype).reshape(shape)


# ---- writing


def _make(folder: Path, source: Source, made_of: dict[str, Any], framing: Framing) -> None:
    """Build the folder aside and put it in its place, whatever is there; who has mapped that keeps it."""
    building = folder.with_name(f"{BUILDING}{folder.name}")
    remove(building)
    building.mkdir()
    try:
        files: dict[str, str] = {}
        for split in SPLITS:
            files |= _write(building, split, sources.load(source, split), made_of["size"], framing)
        write_bytes(building / MANIFEST, json.dumps(made_of | {"files": files}, indent=1).encode())
        remove(folder)
        building.rename(folder)
        sync(folder.parent)
    finally:
        remove(building)


def _write(folder: Path, split: str, loaded: Split, size: int, framing: Framing) -> dict[str, str]:
    """A split's files; returns name -> digest."""
    data = {"labels.npy": _npy(loaded.labels)}
    if loaded.pairs is not None:
        data |= {"pairs.npy": _npy(loaded.pairs), "texts.json": json.dumps(loaded.texts).encode()}
    if loaded.closed is not None:
        data |= {"closed.npy": _npy(loaded.closed)}
    for part, content in data.items():
        write_bytes(folder / f"{split}_{part}", content)
    told = {f"{split}_{part}": digest(content) for part, content in data.items()}
    path = folder / f"{split}_images.npy"
    return told | {path.name: _write_images(path, loaded.images, size, framing)}


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    npy.write_array(buffer, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
    return buffer.getvalue()


def _write_images(
    path: Path, images: NDArray[np.uint8] | Images | list[NDArray[np.uint8]], size: int, framing: Framing
) -> str:
    """Some at a time, so that memory holds few of them; written and not mapped, so that a full disk is an OSError."""
    header, content, left = io.BytesIO(), digesting(), iter(images)
    npy.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (len(images), 3, size, size)})
    part: Data = header.getvalue()
    try:
        with open(path, "wb") as file:
            while len(part):
                file.write(part)
                content.update(part)
                part = resized(list(islice(left, AT_ONCE)), size, framing).data
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # a write tells no path
        raise
    return content.hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Inside, no other process of this machine makes this cache."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock(folder.name, folder.parent))
    with lock:
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)  # still held: who has opened it sees that it has no name


def _lock(name: str, parent: Path) -> Path:
    return parent / f".{name}.lock"


def _tidy(parent: Path) -> None:
    """Remove what processes were building that are gone: a lock that is free tells."""
    names = {path.name.removeprefix(BUILDING) for path in parent.glob(f"{BUILDING}*")}
    names |= {path.name.removeprefix(".").removesuffix(".lock") for path in parent.glob(".*.lock")}
    for name in names:
        with suppress(Timeout, OSError), FileLock(_lock(name, parent), timeout=0):
            remove(parent / f"{BUILDING}{name}")
            _lock(name, parent).unlink(missing_ok=True)
