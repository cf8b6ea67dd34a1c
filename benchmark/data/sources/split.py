"""The samples of one split, as every reader gives them. Legend: N images, M texts, P samples, H, W pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import kinds
from benchmark.data.catalog import Source
from benchmark.data.sources.images import Images
from benchmark.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """The samples of one split.

    Args:
        images: uint8 (N, H, W) grey or (N, H, W, 3), or N of several sizes, in files or in a list.
        labels: int64 (P,) in 0..classes-1; of retrieval the number of what belongs together; of generation that of the
            answer, counted in order of first appearance.
        texts: M different texts, none where the kind reads none; of generation the instructions and the answers.
        pairs: (P, 2) image row and text row of every sample, of generation (P, 3) image, instruction and answer row;
            None: sample i is image i.
        closed: of generation bool (P,), whether the question of each sample is a closed one.
    """

    images: NDArray[np.uint8] | Images | list[NDArray[np.uint8]]
    labels: NDArray[np.int64]
    texts: tuple[str, ...] = ()
    pairs: NDArray[np.int64] | None = None
    closed: NDArray[np.bool_] | None = None


def check_labels(source: Source, split: str, labels: NDArray[Any]) -> None:
    """Refuse labels outside the classes: asked of cached samples too, for a cache may be older than the stream file."""
    if not kinds.of(source.task_kind).labelled:
        return
    if labels.min() < 0 or labels.max() >= len(source.classes):
        raise UserError(
            f"{source.options.get('path', source.where)}: {split}_labels: labels {labels.min()}..{labels.max()} but "
            f"{source.where}.classes lists {len(source.classes)} classes (0..{len(source.classes) - 1})"
        )
