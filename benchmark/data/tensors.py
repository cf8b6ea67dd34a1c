"""Samples of one split as tensors, and rows of them.

Legend: P samples, N images, M texts, B batch, H, W pixels, L tokens of a text, K tokens of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COLUMNS = {"image": 0, "text": 1, "prompt": 1, "target": 2}  # of pairs: where the row of a sample stands
NO_TOKEN = -1  # what fills prompts and targets up, at their right end


@dataclass(frozen=True)
class Subgrouping:
    """How a column of a table divides samples: ``numbers`` (P,) are places in ``values``, which are in order."""

    values: tuple[str, ...]
    numbers: NDArray[np.int64]

    @classmethod
    def by(cls, cells: NDArray[np.str_]) -> Subgrouping:
        """By the text (P,) that stands there for each sample."""
        values, numbers = np.unique(cells, return_inverse=True)
        return cls(tuple(values.tolist()), numbers)

    def of(self, samples: NDArray[np.int64]) -> Subgrouping:
        """Of some of the samples, or of some several times."""
        return replace(self, numbers=self.numbers[samples])


@dataclass(frozen=True)
class Samples:
    """One split as tensors: ``labels`` (P,) global ids of the samples, of generation numbers of the answers.

    ``images`` uint8 (N, 3, H, W), or of a frozen tower that has seen them its features (N, patches, D), and ``texts``
    int64 tokens (M, L) are None where a task has none or they are withheld. ``pairs`` (P, 2) are the image and the text
    of every sample, None where sample i is image i. ``groups`` (P,) number what belongs together (a patient), None
    where each sample stands for itself. ``subgroups``: the columns of a table by which scores are told apart (site).

    Of a task that is asked in words ``prompts`` (M, L) and ``targets`` (M, K) are int64 tokens, -1 where there is none,
    at the right end, and ``pairs`` (P, 3) the image, the prompt and the target of every sample. ``instructions`` and
    ``references`` are the P texts; ``closed`` bool (P,) tells closed questions, None where a task has no questions.
    ``bare`` is the row of the prompt that samples have whose own text is withheld, None where they have no such text.
    """

    images: Tensor | None
    labels: Tensor
    texts: Tensor | None = None
    pairs: Tensor | None = None
    groups: NDArray[np.int64] | None = None
    subgroups: Mapping[str, Subgrouping] = field(default_factory=dict)
    prompts: Tensor | None = None
    targets: Tensor | None = None
    instructions: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    closed: NDArray[np.bool_] | None = None
    bare: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, inputs: str) -> Samples:
        """Without the texts (``image``) or without the images (``text``); ``both`` as it is.

        Who is asked in words without a text of the sample's own is asked the task's instruction alone.
        """
        images, pairs = None if inputs == "text" else self.images, self.pairs
        if inputs == "image" and self.bare is not None and pairs is not None:
            pairs = pairs.clone()
            pairs[:, COLUMNS["prompt"]] = self.bare
        return replace(self, images=images, texts=None if inputs == "image" else self.texts, pairs=pairs)

    def stored(self, inputs: str) -> Tensor | None:
        """All images, texts, prompts or targets, each once; None where there are none."""
        values: Tensor | None = getattr(self, f"{inputs}s")
        return values

    def rows(self, inputs: str) -> Tensor:
        """(P,) the row of every sample's image, text, prompt or target."""
        return torch.arange(len(self)) if self.pairs is None else self.pairs[:, COLUMNS[inputs]]

    def items(self, inputs: str) -> Samples:
        """The images alone, each once, or the texts: ``label`` is then its row."""
        alone = self.only(inputs)
        rows = self.stored(inputs)
        assert rows is not None
        column = torch.arange(len(rows))
        return replace(alone, labels=column, pairs=torch.stack([column, column], dim=1))


class Rows:
    """Some tensors one behind the other, of which rows are taken: nothing is copied but those.

    What is on a device other than the CPU is put together there, so that taking rows is one step.
    """

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = parts if parts[0].device.type == "cpu" or len(parts) == 1 else [torch.cat(list(parts))]
        self.ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)

    def take(self, rows: Tensor, device: torch.device) -> Tensor:
        """These rows (B,), on the device."""
        if len(self.parts) == 1:
            (whole,) = self.parts
            return whole[rows.to(whole.device)].to(device, non_blocking=True)
        part_B = torch.searchsorted(self.ends, rows, right=True)
        taken = self.parts[0].new_empty(len(rows), *self.parts[0].shape[1:])
        for place in part_B.unique().tolist():
            part, here_B = self.parts[place], part_B == place
            taken[here_B] = part[rows[here_B] - (self.ends[place] - len(part))]
        return taken.to(device, non_blocking=True)


def widened(parts: Sequence[Tensor]) -> list[Tensor]:
    """Tokens (M, L) of several tasks, each as wide as the widest one."""
    width = max(part.shape[1] for part in parts)
    return [torch.nn.functional.pad(part, (0, width - part.shape[1]), value=NO_TOKEN) for part in parts]
