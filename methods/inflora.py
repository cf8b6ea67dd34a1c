"""InfLoRA: LoRA branches whose input space is chosen not to interfere with earlier tasks.

Liang and Li, *InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning*, CVPR 2024, arXiv 2404.00228.
Before a task is learned its branch's reduction matrix A_t is set, once, to the main directions of the task's inputs
within the space that is free of the earlier tasks' inputs; only B_t is trained. The space of earlier inputs is kept by
DualGPM, as a basis of the space itself or, when that is smaller, of its complement.

k = W_k x + sum_{i<=t} B_i^k A_i x,  v likewise (one A_i for both);  all branches act, no task id;  L = CE
C   = 1/N sum x x^T over all tokens x at the input of an attention layer;  P = F F^T, F the stored basis
A_t = (first r left singular vectors of M)^T / sqrt 3,  M = C - P C, or P C when F spans the complement
eps = lamb + (lame - lamb) t / T: the share of a task's energy that is protected, t from 0

With ``energy=cov_sq`` as released a few directions carry most of the energy and little is protected (one of 128 in each
layer of phantom-clip after the first task of phantom8, 13 to 21 with ``energy=input``, the measure of the GPM papers).

On a vision-language model x are the inputs of the decoder's keys and values, of the tokens of images, questions and
answers alike.

(In the paper's letters A_t is B_t and B_t is A_t.) ``--method.blocks 5`` is InfLoRA-b5: branches in the first five
blocks, plain GPM. Repaired, unless ``faithful``: a first task that needs half of the directions or more stores their
complement (the released code mislabels or stops), rows of A_t for which no free direction is left are zero (released:
they lie in the protected space), and the budget's schedule is used (released: :func:`released_schedule`).

    make bench METHOD=inflora                           # last accuracy 53.4 given, 29.1 hidden
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.stream import Budget, Task
from methods.base import Batch, IncrementalMethod
from methods.parts.backbones import Backbone
from methods.parts.checks import above, at_least, one_of, within
from methods.parts.dual_gpm import ENERGIES, DualGPM, design_reduction
from methods.parts.experts import Experts

PRESETS = {
    "official": {
        "epochs": 50,
        "batch_size": 128,
        "optimizer": "adam",
        "lr": 5e-4,
        "method": {"rank": 10, "lamb": 0.98, "faithful": True},
    },
    "b5": {
        "epochs": 50,
        "batch_size": 128,
        "optimizer": "adam",
        "lr": 5e-4,
        "method": {"rank": 10, "lamb": 0.99, "blocks": 5, "faithful": True},
    },
}


def threshold(task_index: int, num_tasks: int, lamb: float, lame: float) -> float:
    """eps_t, rising from lamb towards lame; ``task_index`` from 0."""
    return lamb + (lame - lamb) * task_index / num_tasks


def released_schedule(epoch: int, epochs: int) -> float:
    """Factor of the learning rate in epoch 0..epochs-1 of the released code: 1 twice, and no end at 0."""
    return math.cos(99 * math.pi * max(epoch - 1, 0) / (200 * max(epochs - 1, 1)))


class InfLoRA(IncrementalMethod):
    """LoRA branches on keys and values, summed, each confined to what earlier tasks do not use.

    Args:
        rank: r of every branch; its scale is 1.
        lamb: share of a task's energy to protect at the first task.
        lame: the same where the stream would end.
        blocks: branches in the first so many blocks only, with plain GPM (5: InfLoRA-b5); 0: all blocks, DualGPM.
        energy: cov_sq (released) or input.
        faithful: the released behaviour where it is repaired here, its schedule included.
    """

    needs_length = True
    kinds = ("classification", "generation")
    search = {"lamb": (0.8, 0.9875)}  # 1 - lamb by four

    def __init__(
        self,
        rank: int = 8,
        lamb: float = 0.95,
        lame: float = 1.0,
        blocks: int = 0,
        energy: str = "cov_sq",
        faithful: bool = False,
    ) -> None:
        super().__init__()
        above(0, lamb=lamb, lame=lame)
        within(0, 1, lamb=lamb, lame=lame)
        at_least(0, blocks=blocks)
        one_of(ENERGIES, energy=energy)
        self.rank, self.lamb, self.lame, self.blocks, self.energy, self.faithful = (
            rank, lamb, lame, blocks, energy, faithful,
        )  # fmt: skip

    def attach(self, backbone: Backbone, budget: Budget) -> None:
        super().attach(backbone, budget)
        self.depth = min(self.blocks, backbone.depth) if self.blocks else backbone.depth
        self.experts = Experts(backbone.adapted, self.rank, self.rank, ("k", "v"), blocks=range(self.depth))

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self.experts.add(f"task{task.index}")

    @contextmanager
    def learning(self) -> Iterator[None]:
        """The earlier branches folded, the new one live; of it only B takes gradients."""
        *earlier, live = self.experts.names
        with self.experts.blend(dict.fromkeys(earlier, 1.0), live=live):
            for A in self.experts.factors(live)[0]:
                A.requires_grad_(False)
            yield

    def trainable_parameters(self) -> list[nn.Parameter]:
        return list(self.experts.factors(self.experts.names[-1])[1]) if self.experts.names else []  # type: ignore[arg-type]

    @torch.no_grad()
    def prepare_task(self, task: Task, loader: Iterable[Batch]) -> None:
        """A_t of every layer from its inputs under the model so far."""
        As = iter(self.experts.factors(self.experts.names[-1])[0])
        for layer, covariance in enumerate(self._covariances(loader)):
            A_t = design_reduction(covariance, self._gpm(layer), self.rank, self.faithful)
            for A in (next(As), next(As)):  # of k and of v
                A.copy_(A_t)

    @torch.no_grad()
    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        for layer, covariance in enumerate(self._covariances(loader)):
            gpm = self._gpm(layer)
            gpm.update(covariance, threshold(task.index, task.of, self.lamb, self.lame))
            self.memory[f"basis_{layer}"] = gpm.basis
            self.memory[f"complement_{layer}"] = torch.tensor(gpm.complement)

    def _gpm(self, layer: int) -> DualGPM:
        gpm = DualGPM(self.backbone.width, self.energy, flip=not self.blocks, faithful=self.faithful)
        if f"basis_{layer}" in self.memory:
            gpm.basis, gpm.first = self.memory[f"basis_{layer}"], False
            gpm.complement = bool(self.memory[f"complement_{layer}"])
        return gpm

    def _covariances(self, loader: Iterable[Batch]) -> list[Tensor]:
        """C of the inputs of every adapted attention layer: uncentred, over all tokens, the class token included."""
        sums = [
            torch.zeros(self.backbone.width, self.backbone.width, dtype=torch.float64, device=self.device)
        ] * self.depth
        tokens = 0

        def observe(layer: int, x: Tensor) -> None:
            if layer < self.depth:
                x_ND = x.flatten(0, -2)
                sums[layer] = sums[layer] + (x_ND.mT @ x_ND).double()
                if layer == 0:
                    nonlocal tokens
                    tokens += len(x_ND)

        for batch in loader:
            self.watch(batch, observe)
        return [total / tokens for total in sums]

    def acting(self, task: Task | None) -> AbstractContextManager[None]:
        return self.experts.blend(dict.fromkeys(self.experts.names, 1.0))

    def configure_optimizers(self) -> Any:
        if not self.faithful:
            return super().configure_optimizers()
        optimizer = self.new_optimizer()
        epochs = self.budget.epochs
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: released_schedule(epoch, epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
