"""Samples whose images lie in files, as class folders, tables and conversations list them: a path and a label for each.

The identity of the samples is that of their contents and labels, in order: the folder may move, its files may not
change. Legend: P samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import isfile, normpath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import kinds
from benchmark.data.catalog import Source
from benchmark.data.sources.contents import digests
from benchmark.data.sources.images import Images
from benchmark.data.sources.pairs import components, numbered
from benchmark.data.sources.split import SPLITS, Split
from benchmark.errors import UserError


@dataclass(frozen=True)
class Sample:
    """``group`` is what must not be torn apart when splits are drawn: a patient, or the image alone.

    ``subgroups`` are what its scores are told apart by: neither of these is content. Of generation tasks ``text`` is
    the instruction.
    """

    path: Path
    label: int
    group: str
    text: str = ""
    subgroups: tuple[str, ...] = ()
    answer: str = ""
    closed: bool = False


Listed = Mapping[str, Sequence[Sample]]


def none_empty(source: Source, listed: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
    """The samples of every split, refused where a split has none.

    A generation task needs no validation split: where a single image leaves nothing to draw, it is the training split
    once more, which is told of as data that stand twice.
    """
    if kinds.of(source.task_kind).speaks and not listed["val"]:
        listed = listed | {"val": listed["train"]}
    for split in SPLITS:
        if not listed[split]:
            raise UserError(f"{home(source)}: {split}: no images in this split")
    return listed


def home(source: Source) -> Path:
    """The file or folder that a source's images belong to."""
    return Path(source.options["images" if source.kind == "llava" else "path"])


def image_files(
    places: Sequence[str], candidates: Sequence[Sequence[Path]], folders: Sequence[Path], inside: str
) -> list[Path]:
    """The first file that is there of the candidates of every sample.

    Args:
        places: where each sample stands, for messages.
        folders: what the files have to lie below, ``inside`` in words.

    Raises:
        UserError: an image is not there or lies elsewhere.
    """
    tops = [Path(normpath(folder.absolute())) for folder in folders]
    begin = tuple(map(str, folders))
    there: dict[Path, bool] = {}

    def is_there(file: Path, place: str) -> bool:
        if file not in there:
            suspect = ".." in str(file) or not str(file).startswith(begin)
            if suspect and not any(Path(normpath(file.absolute())).is_relative_to(top) for top in tops):
                raise UserError(f"{place}: the image is outside of {inside}: {file}")
            there[file] = isfile(file)
        return there[file]

    found: list[Path] = []
    missing: list[tuple[str, Path]] = []
    for place, files in zip(places, candidates, strict=True):
        right = [file for file in files if is_there(file, place)]
        found += right[:1]
        missing += [] if right else [(place, files[0])]
    if missing:
        place, path = missing[0]
        more = f" ({len(missing)} of {len(places)} images are missing)" if len(missing) > 1 else ""
        raise UserError(f"{place}: image not found: {path}{more}")
    return found


def group_numbers(listed: Listed) -> dict[str, NDArray[np.int64]]:
    """The number of every sample's group by split, without the splits where each sample is a group of its own."""
    numbers = {split: numbered([sample.group for sample in samples])[1] for split, samples in listed.items()}
    return {split: number_P for split, number_P in numbers.items() if number_P.max() + 1 < len(number_P)}


def as_split(source: Source, samples: Sequence[Sample]) -> Split:
    """Images that are decoded when they are asked for; where they have texts, every file and text is there once."""
    kind, paths = kinds.of(source.task_kind), [sample.path for sample in samples]
    labels = np.array([sample.label for sample in samples], np.int64)
    if not kind.reads_text and not kind.speaks:
        return Split(Images(paths), labels)
    written = [sample.text for sample in samples] + [sample.answer for sample in samples if kind.speaks]
    image_places, image_P = numbered(paths)
    text_places, rows = numbered(written)
    images, texts = Images([paths[place] for place in image_places]), tuple(written[place] for place in text_places)
    pairs = np.stack([image_P, *rows.reshape(-1, len(samples))], axis=1)
    if kind.speaks:
        closed = np.array([sample.closed for sample in samples])
        return Split(images, numbered(pairs[:, 2].tolist())[1], texts, pairs, closed)
    return Split(images, labels if kind.labelled else components(image_P, rows), texts, pairs)


def content_identity(source: Source, listed: Listed) -> str:
    """sha256 over the content and label of every sample of every split, in order; texts and pairs where they are."""
    parts = {split: as_split(source, listed[split]) for split in SPLITS}
    paths = {split: part.images.paths for split, part in parts.items() if isinstance(part.images, Images)}
    contents = iter(digests(home(source), [path for split in SPLITS for path in paths[split]]))
    content: dict[str, list[Any]] = {}
    for split, part in parts.items():
        found, labels = [next(contents) for _ in paths[split]], part.labels.tolist()
        if part.pairs is None:
            content[split] = [*zip(found, labels, strict=True)]
        else:
            told = [] if part.closed is None else [part.closed.tolist()]
            content[split] = [found, labels, part.texts, part.pairs.tolist(), *told]
    kind = kinds.of(source.task_kind)
    described = [source.task_kind, content] if kind.reads_text or kind.speaks else content
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()
