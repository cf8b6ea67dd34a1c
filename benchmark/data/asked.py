"""Tasks that a vision-language backbone is asked in words: prompts and targets.

Legend: P samples, N images, M texts, S pixels of a side, L tokens of a prompt, K tokens of an answer, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import kinds
from benchmark.data.sources.split import Split
from benchmark.data.tensors import Samples
from benchmark.stream import Task


class Words(Protocol):
    """What a vision-language backbone makes of texts and images."""

    def prompts(self, texts: Sequence[str]) -> Tensor:
        """Instructions -> (M, L) tokens, -1 at the right end where there is none."""

    def targets(self, texts: Sequence[str]) -> Tensor:
        """Answers -> (M, K) tokens, their end among them, -1 at the right end where there is none."""

    def seen(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, S, S) -> (n, patches, D) features of the frozen vision tower."""


def in_words(task: Task, found: Split, chosen: NDArray[np.int64], words: Words) -> tuple[Samples, NDArray[np.int64]]:
    """Some samples of a split as they are asked, still without images, and the rows (N,) of the images they need.

    Of generation every sample has its own instruction and answer; with labels the task's instruction is asked, with the
    sample's text below it where it has one, and the label's name is the answer.
    """
    columns = [np.arange(len(found.labels))] if found.pairs is None else [*found.pairs.T]
    rows, image_P = np.unique(columns[0][chosen], return_inverse=True)
    labels, bare = torch.from_numpy(found.labels[chosen]), None
    if kinds.of(task.kind).speaks:
        asked, prompt_P = _used(found, columns[1][chosen])
        told, target_P = _used(found, columns[2][chosen])
    else:
        asked, prompt_P = [task.instruction], np.zeros(len(chosen), np.int64)
        told, target_P = [label.name for label in task.labels], found.labels[chosen]
        labels = torch.tensor([label.id for label in task.labels])[labels]
        if found.pairs is not None:
            texts, prompt_P = _used(found, columns[1][chosen])
            asked, bare = [*(f"{task.instruction}\n{text}" for text in texts), task.instruction], len(texts)
    samples = Samples(
        None, labels, pairs=torch.from_numpy(np.stack([image_P, prompt_P, target_P], axis=1)),
        prompts=words.prompts(asked), targets=words.targets(told),
        instructions=tuple(asked[row] for row in prompt_P), references=tuple(told[row] for row in target_P),
        closed=None if found.closed is None else found.closed[chosen], bare=bare,
    )  # fmt: skip
    return samples, rows


def _used(found: Split, rows_P: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """The texts that samples name, each once, and the place of every sample's."""
    rows, place_P = np.unique(rows_P, return_inverse=True)
    return [found.texts[row] for row in rows], place_P
