"""Samples whose images lie in files, as class folders and tables list them: a path and a label for each.

The identity of the samples is that of their contents and labels, in order: the folder may move, its files may not
change. Legend: P samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    ``subgroups`` are what its scores are told apart by: neither of these is content.
    """

    path: Path
    label: int
    group: str
    text: str = ""
    subgroups: tuple[str, ...] = ()


Listed = Mapping[str, Sequence[Sample]]


def none_empty(source: Source, listed: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
    """The samples of every split, refused where a split has none."""
    for split in SPLITS:
        if not listed[split]:
            raise UserError(f"{source.options['path']}: {split}: no images in this split")
    return listed


def as_split(source: Source, samples: Sequence[Sample]) -> Split:
    """Images that are decoded when they are asked for."""
    paths, labels, texts, pairs = _stored(source, samples)
    return Split(Images(paths), np.array(labels, np.int64), texts, pairs)


def content_identity(source: Source, listed: Listed) -> str:
    """sha256 over the content and label of every sample of every split, in order; texts and pairs where they are."""
    parts = {split: _stored(source, listed[split]) for split in SPLITS}
    contents = iter(digests(source.options["path"], [path for paths, *_ in parts.values() for path in paths]))
    content: dict[str, list[Any]] = {}
    for split, (paths, labels, texts, pairs) in parts.items():
        found = [next(contents) for _ in paths]
        together = [*zip(found, labels, strict=True)] if pairs is None else [found, labels, texts, pairs.tolist()]
        content[split] = together
    described = [source.task_kind, content] if kinds.of(source.task_kind).reads_text else content
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _stored(
    source: Source, samples: Sequence[Sample]
) -> tuple[list[Path], list[int], tuple[str, ...], NDArray[np.int64] | None]:
    """(paths, labels, texts, pairs) of samples; where they have texts, every file and every text is there once."""
    labels = [sample.label for sample in samples]
    kind = kinds.of(source.task_kind)
    if not kind.reads_text:
        return [sample.path for sample in samples], labels, (), None
    image_places, image_P = numbered([sample.path for sample in samples])
    text_places, text_P = numbered([sample.text for sample in samples])
    paths, texts = [samples[place].path for place in image_places], tuple(samples[place].text for place in text_places)
    labels = labels if kind.labelled else components(image_P, text_P).tolist()
    return paths, labels, texts, np.stack([image_P, text_P], axis=1)
