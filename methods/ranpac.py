"""RanPAC: random features of a model adapted once, and a ridge regression that takes in one task after another.

McDonnell et al., *RanPAC: Random Projections and Pre-trained Models for Continual Learning*, NeurIPS 2023,
arXiv 2307.02251. Phase 1 adapts the model to the first task, here with LoRA under the common budget, and freezes it.
Phase 2 never trains: sums over all tasks give the head that a regression on all their samples at once would.

h = relu(z W),  W ~ N(0, 1) of (E, M) once;  G = sum h h^T,  Q = sum h y^T with y one-hot over the classes so far
head = (G + lambda I)^-1 Q;  score of class c = h . head_c
lambda of 10^-8 .. 10^8 with the least squared error on a fifth of the current task's samples, fitted to the others

As in the paper the choice of lambda rests on the last task alone; here the fifth is drawn at random, not the loader's
last. Before any of the labels asked for is learned they are scored by their texts, as in zero-shot. M = 10000 in the
paper. G, Q and the solution are in float64, so that hundreds of tasks add up to what one regression on all would be and
a small lambda does not drown in rounding; h and the head that answers are in float32, as the features they are made of.

    make bench METHOD=ranpac                            # last accuracy 70.5 given, 50.0 hidden
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.stream import Label, Task
from methods.base import Batch
from methods.parts.checks import at_least
from methods.parts.features import random_features
from methods.sequential_lora import SequentialLora

PRESETS = {
    "official": {
        "epochs": 20,
        "batch_size": 48,
        "optimizer": "sgd",
        "lr": 0.01,
        "weight_decay": 5e-4,
        "method": {"features": 10000},
    },
    "clip": {"method": {"features": 10000, "adapt_first": False}},
}
RIDGES = tuple(10.0**power for power in range(-8, 9))


def ridge_head(G: Tensor, Q: Tensor, ridge: float) -> Tensor:
    """(C, M) rows of the head: ((G + ridge I)^-1 Q)^T, from G (M, M) and Q (M, C)."""
    return torch.linalg.solve(G + ridge * torch.eye(len(G), dtype=G.dtype, device=G.device), Q).mT


def choose_ridge(H: Tensor, Y: Tensor, ridges: Sequence[float] = RIDGES) -> float:
    """The ridge of the head fitted to the first 80 % of H (N, M), Y (N, C) with the least squared error on the rest."""
    cut = int(0.8 * len(H))
    S, V = torch.linalg.eigh(H[:cut].mT @ H[:cut])  # one decomposition serves every ridge
    rotated, projected = V.mT @ (H[:cut].mT @ Y[:cut]), H[cut:] @ V
    errors = [F.mse_loss(projected @ (rotated / (S.clamp_min(0) + ridge)[:, None]), Y[cut:]) for ridge in ridges]
    return ridges[int(torch.stack(errors).argmin())]


class RanPAC(SequentialLora):
    """Ridge regression on random features of CLIP with a LoRA of the first task.

    Args:
        features: M, random features.
        adapt_first: train the LoRA on the first task; False: phase 2 only, on the frozen model.
        lora: arguments of :class:`~methods.sequential_lora.SequentialLora`.
    """

    kinds = ("classification",)
    version = 2  # 1: G and Q rounded to float32 after every task

    def __init__(self, features: int = 1000, adapt_first: bool = True, **lora: Any) -> None:
        super().__init__(**lora)
        at_least(1, features=features)
        self.features, self.adapt_first = features, adapt_first

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        if "projection" not in self.memory:
            width = self.backbone.class_features(task.labels).shape[1]
            self.memory["projection"] = torch.randn(width, self.features)

    def trainable_parameters(self) -> list[nn.Parameter]:
        return super().trainable_parameters() if self.adapt_first and len(self.tasks) == 1 else []

    @torch.no_grad()
    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        """Add the task to G and Q, and solve for the head."""
        memory = self.memory
        pairs = [(self._features(batch), batch["label"]) for batch in loader]
        H, labels = torch.cat([h for h, _ in pairs]).double(), torch.cat([y for _, y in pairs])
        known = memory["classes"] if "classes" in memory else labels.new_zeros(0)
        new = [label.id for label in task.labels if label.id not in known.tolist()]
        classes = torch.cat([known, torch.tensor(new, dtype=torch.long, device=labels.device)])
        Y = (labels[:, None] == classes).double()
        G, Q = H.mT @ H, H.mT @ Y
        if "G" in memory:
            G, Q = G + memory["G"], Q + F.pad(memory["Q"], (0, len(new)))
        shuffled = torch.randperm(len(H)).to(H.device)
        ridge = choose_ridge(H[shuffled], Y[shuffled])
        memory["classes"], memory["G"], memory["Q"] = classes, G, Q
        memory["head"], memory["ridge"] = ridge_head(G, Q, ridge).float(), torch.tensor(ridge)

    def _features(self, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return random_features(self.embed_image(batch).float(), self.memory["projection"])

    def scores(self, batch: Batch, labels: Sequence[Label], task: Task | None) -> Tensor:
        classes = self.memory["classes"].tolist() if "classes" in self.memory else []
        if not any(label.id in classes for label in labels):
            return super().scores(batch, labels, task)
        with self.experts.blend({"shared": 1.0}):
            scores_BK = F.pad(self._features(batch) @ self.memory["head"].mT, (0, 1))  # 0: regressed on no sample
            columns = [classes.index(label.id) if label.id in classes else len(classes) for label in labels]
        return scores_BK[:, columns]
