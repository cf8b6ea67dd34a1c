"""Class prompts that a method's own text tower reads, with prompts or experts in it: kept for as long as these stay.

``Backbone.class_features`` is the same for the frozen text encoder.

Odd axes: Q class prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.stream import Label
from methods.parts.backbones import Backbone


class ClassPrompts(NamedTuple):
    """The prompts of some classes as a text tower takes them."""

    ids_C: Tensor  # of the labels
    tokens_QN: Tensor
    average_CQ: Tensor  # takes the mean over each label's prompts

    def averaged(self, text_QE: Tensor) -> Tensor:
        """(C, E) unit features of the classes from those of their prompts, as ``Backbone.class_features`` has them."""
        with torch.autocast(text_QE.device.type, enabled=False):
            return F.normalize(self.average_CQ @ F.normalize(text_QE.float(), dim=-1), dim=-1)


class ClassTexts:
    """The class prompts of the task that is learned, and features of classes to answer with.

    Args:
        room: ``fn(tokens_QN) -> tokens_QN`` makes room for prompts in the texts; None: they stay as they are.
    """

    def __init__(self, backbone: Backbone, room: Callable[[Tensor], Tensor] | None = None) -> None:
        self.backbone, self.room = backbone, room
        self._learned: tuple[object, ClassPrompts] | None = None
        self._features: dict[tuple[int, tuple[str, ...]], Tensor] = {}
        self._features_of: tuple[object, ...] = ()

    @property
    def device(self) -> torch.device:
        return self.backbone.logit_scale.device

    def prompts(self, labels: Sequence[Label]) -> ClassPrompts:
        """The prompts of some labels, in their order."""
        text: Any = self.backbone.text
        tokens_QN = self.backbone.tokenizer([prompt for label in labels for prompt in label.prompts])
        if self.room is not None:
            tokens_QN = self.room(tokens_QN)
        if getattr(text, "causal", None) is not None:  # nothing sees what is behind the end
            tokens_QN = tokens_QN[:, : int(text.ends(tokens_QN).max()) + 1]
        counts_C = torch.tensor([len(label.prompts) for label in labels])
        average_CQ = torch.eye(len(labels)).div(counts_C[:, None]).repeat_interleave(counts_C, dim=1)
        ids_C = torch.tensor([label.id for label in labels])
        return ClassPrompts(ids_C.to(self.device), tokens_QN.to(self.device), average_CQ.to(self.device))

    def to_learn(self, labels: Sequence[Label]) -> ClassPrompts:
        """The prompts of a task's labels by ascending id, kept until another task is learned."""
        wanted = self.device, tuple(labels)
        if self._learned is None or self._learned[0] != wanted:
            self._learned = wanted, self.prompts(sorted(labels, key=lambda label: label.id))
        return self._learned[1]

    def features(
        self,
        labels: Sequence[Label],
        index: int,
        parameters: Iterable[nn.Parameter],
        read: Callable[[ClassPrompts], Tensor],
    ) -> Tensor:
        """(C, E) unit features under the prompts or experts of task ``index``, read once for as long as they stay.

        Args:
            parameters: all that any task's features depend on. read: ``fn(prompts) -> (C, E)``.
        """
        state = self.device, *(parameter._version for parameter in parameters)
        if state != self._features_of:
            self._features, self._features_of = {}, state
        missing = [label for label in labels if (index, label.prompts) not in self._features]
        if missing:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                features_CE = read(self.prompts(missing))
            self._features |= {(index, label.prompts): row for label, row in zip(missing, features_CE, strict=True)}
        return torch.stack([self._features[index, label.prompts] for label in labels])
