"""DER++: replay of images together with the logits that the model once gave them.

Buzzega et al., *Dark Experience for General Continual Learning: a Strong, Simple Baseline*, NeurIPS 2020,
arXiv 2004.07211.

L = CE(batch) + alpha mean (h(x') - z')^2 + beta CE(x'', y'')        (x', z') and (x'', y'') two draws from the buffer

z' are the logits over all classes known when x' was stored, of the image as it is (the paper stores what the training
step saw); here that is its task's end. Later classes are left out of the square.
Every cross-entropy is over the labels of all tasks so far (``--method.candidates own``: over those of the sample's own
task); the square is over all labels that z' has, whichever the candidates. The reservoir is that of ``er``; one forward
pass for batch and draws together. It holds images of patients.

    make bench METHOD=der                               # last accuracy 56.3 given, 37.3 hidden
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.stream import Task
from methods.base import CANDIDATES, Batch
from methods.er import recall, remember
from methods.parts.checks import at_least, one_of
from methods.sequential_lora import SequentialLora

PRESETS = {
    "mammoth": {
        "optimizer": "sgd",
        "lr": 0.03,
        "schedule": "constant",
        "method": {"alpha": 0.3, "beta": 0.5, "buffer_size": 500},
    }
}


class DER(SequentialLora):
    """Sequential LoRA with replay of images, labels and logits (DER++; ``beta`` 0 is DER).

    Args:
        alpha: weight of the squared difference to the stored logits.
        beta: weight of the cross-entropy on replayed labels.
        buffer_size: images kept in all.
        candidates: labels that the cross-entropy of a sample runs over: own (its task's) or seen (of all tasks begun).
        lora: arguments of :class:`~methods.sequential_lora.SequentialLora`.
    """

    version = 2  # 1 had the candidates "own"
    keeps_images = True
    ddp = False  # every process would draw its own replay
    kinds = ("classification",)
    search = {"alpha": (0.075, 1.2), "beta": (0.125, 2.0)}

    def __init__(
        self, alpha: float = 0.3, beta: float = 0.5, buffer_size: int = 500, candidates: str = "seen", **lora: Any
    ) -> None:
        super().__init__(**lora)
        at_least(0, alpha=alpha, beta=beta)
        at_least(1, buffer_size=buffer_size)
        one_of(CANDIDATES, candidates=candidates)
        self.alpha, self.beta, self.buffer_size, self.candidates = alpha, beta, buffer_size, candidates

    def loss(self, batch: Batch) -> Tensor:
        count = len(batch["label"])
        dark, labelled = recall(self.memory, count), recall(self.memory, count)
        if not dark:
            return super().loss(batch)
        together = {name: torch.cat([part[name] for part in (batch, dark, labelled)]) for name in ("image", "task")}
        new_BE, dark_BE, labelled_BE = self.embed_image(together).chunk(3)
        loss = self.cross_entropy(new_BE, batch) + self.beta * self.cross_entropy(labelled_BE, labelled)
        return loss + self.alpha * self._squares(dark_BE, dark["logits"])

    def _squares(self, image_BE: Tensor, stored_BL: Tensor) -> Tensor:
        """Mean squared difference to the logits stored; a label with an infinite one was not known yet."""
        known_BL = stored_BL.isfinite()
        logits_BL = self.backbone.logits(image_BE, self._texts(stored_BL.shape[1])).float()
        return torch.where(known_BL, logits_BL - stored_BL, 0.0).square().sum() / known_BL.sum()

    def _texts(self, count: int) -> Tensor:
        """(count, E) texts of the first labels seen, in order of appearance: the columns of the stored logits."""
        labels = dict.fromkeys(label for task in self.tasks for label in task.labels)
        return self.backbone.class_features(list(labels)[:count])

    @torch.no_grad()
    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        labels = len({label for seen in self.tasks for label in seen.labels})
        if "buffer_logits" in self.memory:
            stored = self.memory["buffer_logits"]
            self.memory["buffer_logits"] = F.pad(stored, (0, labels - stored.shape[1]), value=torch.inf)
        for batch in loader:
            logits_BL = self.backbone.logits(self.embed_image(batch), self._texts(labels))
            kept = {name: batch[name] for name in ("image", "label", "task")}
            remember(self.memory, self.buffer_size, kept | {"logits": logits_BL.float()})
