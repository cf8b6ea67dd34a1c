"""LwF: one LoRA that keeps answering the earlier classes on the new images as it did before.

Li and Hoiem, *Learning without Forgetting*, TPAMI 2018. A frozen copy of the LoRA as it was before the task gives soft
targets over the prompts of all earlier classes; no old image is kept.

KD = - mean over the batch of sum_c softmax(old / T)_c log softmax(new / T)_c         c over the earlier classes, no T^2
L  = CE over the task's labels + strength KD

The published codes warm up a new classifier head first; with CLIP's text features there is none. One more forward pass
a step. Answers in words have no earlier classes: there c runs over the vocabulary, of every token of the new answers,
averaged over a sample's tokens and then over samples.

    make bench METHOD=lwf                               # last accuracy 53.8 given, 29.0 hidden
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from benchmark.stream import Task
from methods.base import Batch
from methods.parts.checks import above, at_least
from methods.sequential_lora import SequentialLora

PRESETS = {
    "libcontinual": {
        "optimizer": "sgd",
        "lr": 0.1,
        "schedule": "constant",
        "method": {"strength": 3.0, "temperature": 2.0},
    }
}


def distillation(new: Tensor, old: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """Scalar cross-entropy of softmax(new / T) against softmax(old / T), logits (B, C); no factor T^2.

    The mean over B, or with ``weights`` (B,) that sum to 1 the weighted one.
    """
    each_B = -((old / temperature).softmax(dim=-1) * (new / temperature).log_softmax(dim=-1)).sum(dim=-1)
    return each_B.mean() if weights is None else each_B @ weights


class LwF(SequentialLora):
    """Sequential LoRA distilled from its previous self.

    Args:
        strength: weight of the distillation.
        temperature: T of the soft targets.
        lora: arguments of :class:`~methods.sequential_lora.SequentialLora`.
    """

    kinds = ("classification", "generation")
    search = {"strength": (0.75, 12.0), "temperature": (0.5, 8.0)}

    def __init__(self, strength: float = 3.0, temperature: float = 2.0, **lora: Any) -> None:
        super().__init__(**lora)
        at_least(0, strength=strength)
        above(0, temperature=temperature)
        self.strength, self.temperature = strength, temperature

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        if "teacher" not in self.experts.names:
            self.experts.add("teacher")
            self.experts.without_dropout("teacher")  # what it answered before is not drawn anew

    def loss(self, batch: Batch) -> Tensor:
        if len(self.tasks) == 1:
            return super().loss(batch)
        known = {label for task in self.tasks[:-1] for label in task.labels}
        earlier = sorted(known, key=lambda label: label.id)
        shown = batch | {"image": self.views(batch["image"], self.training, batch.get("task"))}  # the same to both
        with torch.no_grad(), self.experts.mix({"teacher": 1.0}):
            old, weights = self.backbone.soft(self.outputs(shown), shown, earlier)
        outputs = self.outputs(shown)
        new, _ = self.backbone.soft(outputs, shown, earlier)
        return self.graded(outputs, shown) + self.strength * distillation(new, old, self.temperature, weights)

    @torch.no_grad()
    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        for old, new in zip(self.experts.parameters("teacher"), self.experts.parameters("shared"), strict=True):
            old.copy_(new)
