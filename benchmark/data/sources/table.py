"""Images that lie in files: a folder of class folders, or a table with a row for each image or each image and text.

What is listed is a path and a label for each sample of each split; images are decoded one at a time, when the cache is
made, so memory holds one of them. The identity of the samples is that of their contents and labels, in order: the
folder may move, its files may not change. Contents are hashed once and remembered in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data import tables
from benchmark.data.catalog import Source
from benchmark.data.pairs import components, numbered
from benchmark.data.tables import told
from benchmark.errors import UserError, unknown

SPLITS = ("train", "val", "test")
FRACTIONS = {"val": 0.1, "test": 0.2}  # of the images of each class, where a split is drawn
COLUMNS = ("image", "label", "split", "group", "text")
NEEDED = {"classification": ("image", "label"), "fusion": ("image", "label", "text"), "retrieval": ("image", "text")}


@dataclass(frozen=True)
class Sample:
    """``group`` is what must not be torn apart when splits are drawn: a patient, or the image alone."""

    path: Path
    label: int
    group: str
    text: str = ""


class Images:
    """The images of some files, decoded as they are asked for: uint8 (H, W) grey or (H, W, 3), each of its own size."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return map(decoded, self.paths)


def decoded(path: Path) -> NDArray[np.uint8]:
    """An image as 8 bits, grey or colour: of 16 bits the upper eight, palettes looked up, transparency dropped.

    Raises:
        UserError: the file is no image, is damaged, or has pixels that no rule turns into 8 bits.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode in ("L", "RGB"):
                return np.asarray(image)
            if image.mode.startswith("I"):
                pixels = np.asarray(image)
                if pixels.min() < 0 or pixels.max() > 65535:
                    raise ValueError("pixels of more than 16 bits; save it with 8 or 16")
                return (pixels >> 8).astype(np.uint8)
            if image.mode == "F":
                raise ValueError("floating-point pixels; save it with 8 or 16 bits")
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # the decoders of PIL raise anything
        raise UserError(f"{path}: not readable as an image: {' '.join(str(error).split())}") from None


def listed(source: Source) -> dict[str, list[Sample]]:
    """Every split's samples, in order; splits that the source does not have are drawn.

    Raises:
        UserError: an option is wrong, a folder, file, column or class is missing, a split is empty.
    """
    splits = LISTERS[source.kind](source)
    for split in SPLITS:
        if not splits[split]:
            raise UserError(f"{source.options['path']}: {split}: no images in this split")
    return splits


def paired(samples: Sequence[Sample], kind: str) -> tuple[list[Path], list[int], tuple[str, ...], NDArray[np.int64]]:
    """(paths, labels, texts, pairs): every file and every text once, and (P, 2) which of them each sample names."""
    image_places, image_P = numbered([sample.path for sample in samples])
    text_places, text_P = numbered([sample.text for sample in samples])
    labels = components(image_P, text_P).tolist() if kind == "retrieval" else [sample.label for sample in samples]
    texts = tuple(samples[place].text for place in text_places)
    return [samples[place].path for place in image_places], labels, texts, np.stack([image_P, text_P], axis=1)


def identity(source: Source) -> str:
    """sha256 over the content and label of every sample of every split, in order; texts and pairs where they are."""
    splits = listed(source)
    if source.task_kind != "classification":
        parts = {split: paired(splits[split], source.task_kind) for split in SPLITS}
        contents = iter(digests(source.options["path"], [path for split in SPLITS for path in parts[split][0]]))
        content = {
            split: [[next(contents) for _ in paths], labels, texts, pairs.tolist()]
            for split, (paths, labels, texts, pairs) in parts.items()
        }
        return hashlib.sha256(json.dumps([source.task_kind, content]).encode()).hexdigest()
    paths = [sample.path for split in SPLITS for sample in splits[split]]
    contents = iter(digests(source.options["path"], paths))
    described = {split: [(next(contents), sample.label) for sample in splits[split]] for split in SPLITS}
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _folder(source: Source) -> dict[str, list[Sample]]:
    """``<split>/<class>/<images>``, or ``<class>/<images>``: then the splits are drawn."""
    where, root = source.where, Path(source.options["path"])
    names = [str(name) for name in _one_for_each_class(source, "folders") or source.classes]
    given = _mapping(source, "splits", SPLITS)
    if given and "train" not in given:
        raise UserError(f"{where}.splits: expected the folder of train, and of val and test if there are any")
    tops = {split: root / str(given.get(split, split)) for split in (given or SPLITS)}
    for split, top in tops.items():
        if given and not top.is_dir():
            raise UserError(f"{where}.splits.{split}: folder not found: {top}")
    if not tops["train"].is_dir():
        return _drawn(source, _in_class_folders(source, root, root, names), SPLITS)
    splits = {
        split: _in_class_folders(source, top, root, names, every=split == "train")
        for split, top in tops.items()
        if top.is_dir()
    }
    return splits | _drawn(source, splits["train"], [split for split in SPLITS if split not in splits])


def _in_class_folders(source: Source, top: Path, root: Path, names: list[str], every: bool = True) -> list[Sample]:
    """Class by class the images below the class's folder, by name; hidden files and other files are passed over."""
    from PIL import Image

    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    samples = []
    for label, name in enumerate(names):
        folder = top / name
        if not folder.is_dir() and every:
            there = [path.name for path in top.iterdir() if path.is_dir() and not path.name.startswith(".")]
            raise unknown("class folder", name, there, f"{source.where}: {top}")
        found: list[str] = []
        for inside, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            relative = Path(inside).relative_to(root).as_posix()
            images = [file for file in files if os.path.splitext(file)[1].lower() in suffixes]
            found += [f"{relative}/{file}" for file in images if not file.startswith(".")]
        if not found and every:
            raise UserError(f"{folder}: no images")
        samples += [Sample(root / relative, label, relative) for relative in sorted(found)]
    return samples


def _table(source: Source) -> dict[str, list[Sample]]:
    """A sample for each row: its file, its label, its text, and if there are such columns its split and its group."""
    where, path = source.where, Path(source.options["path"])
    columns = _mapping(source, "columns", COLUMNS)
    for needed in NEEDED[source.task_kind]:
        if needed not in columns:
            raise UserError(f"{where}.columns: the column of {needed!r} is missing: {needed}: name in the table")
    for unused in ("label",) if source.task_kind == "retrieval" else ():
        if unused in columns:
            raise UserError(f"{where}.columns.{unused}: a retrieval task has none")
    numbers, cells = tables.cells(path, columns, source.options.get("rows", {}), where)
    labels = _labels(source, path, columns, numbers, cells)
    paths = _found(source, path, numbers, cells["image"])
    texts = [""] * len(numbers) if source.task_kind == "classification" else cells["text"]
    for number, text in zip(numbers, texts, strict=True):
        if source.task_kind != "classification" and not text:
            raise UserError(f"{path}: row {number}: column {columns['text']!r}: the text is empty")
    groups = [
        f"group:{group}" if group else f"image:{image}"
        for image, group in zip(cells["image"], cells.get("group", [""] * len(numbers)), strict=True)
    ]
    if source.task_kind == "retrieval":
        groups = _joined(groups, cells["image"], texts)
    samples = [Sample(*row) for row in zip(paths, labels, groups, texts, strict=True)]
    given = _mapping(source, "splits", SPLITS)
    if "split" not in columns:
        if given:
            raise UserError(f"{where}.splits: there is no columns.split that these values could stand in")
        return _drawn(source, samples, SPLITS)
    split_of = {told(value): split for split, value in (given or {split: split for split in SPLITS}).items()}
    splits: dict[str, list[Sample]] = {}
    for number, split, sample in zip(numbers, cells["split"], samples, strict=True):
        if split not in split_of:
            raise unknown("split", split, split_of, f"{path}: row {number}: column {columns['split']!r}")
        splits.setdefault(split_of[split], []).append(sample)
    if "train" not in splits:
        raise UserError(f"{path}: train: no images in this split")
    return splits | _drawn(source, splits["train"], [split for split in SPLITS if split not in splits])


def _labels(
    source: Source, path: Path, columns: Mapping[str, str], numbers: list[int], cells: Mapping[str, list[str]]
) -> list[int]:
    """The class of every row; of retrieval 0, for splits are then drawn from all rows alike."""
    if source.task_kind == "retrieval":
        if "values" in source.options:
            raise UserError(f"{source.where}.values: a retrieval task has no classes")
        return [0] * len(numbers)
    values = [told(value) for value in _one_for_each_class(source, "values") or source.classes]
    numbered = {} if "values" in source.options else {str(i): i for i in range(len(values))}
    labels = numbered | {value: i for i, value in enumerate(values)}
    for number, label in zip(numbers, cells["label"], strict=True):
        if label not in labels:
            raise unknown("label", label, labels, f"{path}: row {number}: column {columns['label']!r}")
    return [labels[label] for label in cells["label"]]


def _joined(groups: list[str], images: list[str], texts: list[str]) -> list[str]:
    """What shares a group, an image or a text is one group, with the first of their names."""
    numbers = components(groups, images, texts).tolist()
    first: dict[int, str] = {}
    for group, number in zip(groups, numbers, strict=True):
        first[number] = min(group, first.get(number, group))
    return [first[number] for number in numbers]


def _found(source: Source, table: Path, numbers: list[int], names: list[str]) -> list[Path]:
    """The files of a table's images, looked for in ``images`` (one folder or several) beside the table."""
    given = source.options.get("images", ".")
    given = given if isinstance(given, list) else [given]
    suffix = source.options.get("suffix", "")
    if not given or not all(isinstance(folder, str) for folder in given):
        raise UserError(f"{source.where}.images: expected a folder or a list of folders, got {given!r}")
    if not isinstance(suffix, str):
        raise UserError(f"{source.where}.suffix: expected text such as '.jpg', got {suffix!r}")
    folders = [table.parent / folder for folder in given]
    paths: list[Path] = []
    missing: list[tuple[int, Path]] = []
    for row, name in zip(numbers, names, strict=True):
        candidates = [folder / (name + suffix) for folder in folders]
        path = next((path for path in candidates if name and path.is_file()), None)
        if path is None:
            missing.append((row, candidates[0]))
        else:
            paths.append(path)
    if missing:
        row, path = missing[0]
        more = f" ({len(missing)} of {len(names)} images are missing)" if len(missing) > 1 else ""
        raise UserError(f"{table}: row {row}: image not found: {path}{more}")
    return paths


def _drawn(source: Source, samples: list[Sample], wanted: Sequence[str]) -> dict[str, list[Sample]]:
    """``wanted`` of the splits out of some samples, and train as what is left; nothing if nothing is wanted.

    Groups stay whole. Those of one class (of their first image) stand in the order of sha256(seed:group), the first
    for train, the next ones for val and test until these have their share: a draw that is the same on every machine,
    wherever the images lie and whatever other classes there are.
    """
    fractions = _mapping(source, "fractions", ("val", "test"))
    for split, share in fractions.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
            raise UserError(f"{source.where}.fractions.{split}: expected a number between 0 and 1, got {share!r}")
        if split not in wanted:
            raise UserError(f"{source.where}.fractions.{split}: the split is there, nothing is to be drawn")
    fractions = {split: share for split, share in (FRACTIONS | fractions).items() if split in wanted}
    if sum(fractions.values()) >= 1:
        raise UserError(f"{source.where}.fractions: nothing is left for train")
    seed = source.options.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError(f"{source.where}.seed: expected a whole number, got {seed!r}")
    if not fractions:
        return {}
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.group, []).append(i)
    classes: dict[int, list[list[int]]] = {}
    for group in sorted(groups, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest()):
        classes.setdefault(samples[groups[group][0]].label, []).append(groups[group])
    split_of = [""] * len(samples)
    for members_of in classes.values():
        count = sum(map(len, members_of))
        left = {"train": 1} | {split: round(count * share) for split, share in fractions.items()}
        for members in members_of:
            split = next((split for split in left if left[split] > 0), "train")
            left[split] -= len(members)
            for i in members:
                split_of[i] = split
    return {
        split: [sample for sample, of in zip(samples, split_of, strict=True) if of == split]
        for split in ("train", *fractions)
    }


def _mapping(source: Source, key: str, valid: Sequence[str]) -> dict[str, Any]:
    value = source.options.get(key, {})
    if not isinstance(value, Mapping):
        raise UserError(f"{source.where}.{key}: expected keys and values, got {value!r}")
    for inner in value:
        if inner not in valid:
            raise unknown("key", inner, valid, f"{source.where}.{key}")
    if key != "fractions":
        texts = [told(text) for text in value.values() if isinstance(text, (str, int)) and not isinstance(text, bool)]
        if len(set(texts)) < len(value):
            raise UserError(f"{source.where}.{key}: expected different names, got {dict(value)!r}")
    return dict(value)


def _one_for_each_class(source: Source, key: str) -> list[Any]:
    """An optional list in the order of the classes."""
    value = source.options.get(key, [])
    right = isinstance(value, list) and all(isinstance(x, (str, int)) and not isinstance(x, bool) for x in value)
    if key in source.options and (not right or not len({told(x) for x in value}) == len(value) == len(source.classes)):
        raise UserError(f"{source.where}.{key}: expected {len(source.classes)} different names, one for each class")
    return value


LISTERS = {"folder": _folder, "table": _table}


# Contents, hashed once


def cache_folder() -> Path:
    """Where decoded images and the hashes of files are kept: $MBIL_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MBIL_CACHE") or Path(base) / "mbil-bench")


def digests(root: Path, paths: Sequence[Path], algorithm: str = "sha256") -> list[str]:
    """The hash of every file's content, read again only where size or times differ from what is remembered of it."""
    name = hashlib.sha256(f"{algorithm}:{Path(root).resolve()}".encode()).hexdigest()[:24]
    memory = cache_folder() / "digests" / f"{name}.json"
    known: dict[str, list[Any]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(memory.read_text(encoding="utf-8"))

    def hashed(path: str) -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()

    begun, names = time.time_ns(), [str(path) for path in paths]
    try:
        states = [[stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for stat in map(os.stat, names)]
        new = [name for name, state in zip(names, states, strict=True) if known.get(name, [None])[:-1] != state]
        with ThreadPoolExecutor(8) as pool:
            read = dict(zip(new, pool.map(hashed, new), strict=True))
    except OSError as error:
        raise UserError(f"{error.filename or root}: not readable: {error.strerror or error}") from None
    told = [read[name] if name in read else known[name][-1] for name in names]
    # a file changed just now may change again within one tick of its clock: not remembered
    settled = {
        name: [*state, digest]
        for name, state, digest in zip(names, states, told, strict=True)
        if begun - max(state[1:]) > 2e9
    }
    if settled != known:
        with suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(dir=memory.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(settled, file)
            os.replace(draft, memory)
    return told
