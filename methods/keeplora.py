"""KeepLoRA: train only in directions that the model does not use yet.

Luo et al., *KeepLoRA: Continual Learning with Residual Gradient Adaptation*, ICLR 2026. In every adapted layer a space
of input directions is kept: at first the leading ones of the weights themselves (what pre-training knows), after every
task also those that the task has come to use. A new task's A is set, once, to the leading directions of its gradient
outside of that space and frozen; B alone is trained, so what the kept directions do is not changed.

U   (d_in, k) the kept space, at first the left singular vectors of W^T with less than the share w_energy of ||W||^2
G   = mean gradient of the loss with respect to W over (a ``portion`` of) the training set, before the task is learned
R   = (I - U U^T) G^T;  A_t = its first r left singular vectors, as rows, frozen;  L = CE
y   = W x + b + s B_t A_t x;  afterwards W <- W + s B_t A_t, so all tasks act, no task id needed
U grows by the fewest leading directions of (I - U U^T) M that bring ||U U^T M||^2 to the share ``energy`` of ||M||^2:
``after=gradient``  M = G^T again, at the new weights (the release for LLaVA);
``after=features``  M = the inputs of the layer, all tokens of all samples (the release for CLIP)
``start=zero``      B_t = 0 (LLaVA);  ``start=gradient`` B_t = R^T A_t^T and W <- W - s B_t A_t (CLIP): then too the
                    model is at first what it was, and weight decay pulls it away from that

The two releases differ; their settings are the presets ``llava`` and ``clip``. Repaired in both: the SVD is exact (the
LLaVA side's is a random one without oversampling), and rows of A_t for which no free direction is left are zero
(released: they lie in the kept space). On the CLIP side, that which is kept first are input directions (released: the
SVD of W and not of W^T, which are output directions), and M stands for all inputs (released: their average over batches
at equal places, which tends to the mean token). ``faithful`` restores the last three; with ``after=features`` it needs
square weights (q, k, v, out). The LLaVA side trains the projector too, and the CLIP side has a one-cycle schedule; here
the projector is frozen and the schedule the budget's.

The weights themselves stay as they are underneath: (A_t, B_t) are kept and folded in. On a vision-language model they
are those of the decoder, and x the tokens of images, questions and answers alike.

    make bench METHOD=keeplora
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.stream import Budget, Task
from methods.base import Batch
from methods.parts import peft_layers
from methods.parts.backbones import Backbone
from methods.parts.checks import above, one_of, within
from methods.parts.experts import Blend
from methods.parts.kept_space import Averages, Covariances, grow, principal, residual_basis
from methods.sequential_lora import SequentialLora

__all__ = ["KeepLora", "grow", "principal", "residual_basis"]

PRESETS = {
    "llava": {
        "epochs": 1, "batch_size": 64, "optimizer": "adamw", "lr": 2e-4, "schedule": "cosine",
        "method": {"rank": 32, "lora_alpha": 8.0, "portion": 0.2},
    },
    "clip": {
        "epochs": 10, "batch_size": 64, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01, "schedule": "cosine",
        "method": {"rank": 16, "lora_alpha": 1.0, "placement": "q,k,v,out", "w_energy": 0.85, "text_w_energy": 0.2,
                   "after": "features", "start": "gradient"},
    },
}  # fmt: skip
ANCHOR = "start"  # the expert that is subtracted while a task is learned from B_t = R^T A_t^T


class KeepLora(SequentialLora):
    """LoRAs, summed, each confined to what neither the model nor the earlier tasks use.

    Args:
        w_energy: share of a weight's energy that is kept from the beginning.
        text_w_energy: the same in a CLIP's text tower.
        energy: share of a task's energy that is kept after it.
        after: what that is the energy of, gradient or features.
        start: of B, zero or gradient.
        portion: of the training set, at equal distances, that gradients are computed from.
        faithful: the released behaviour where it is repaired here.
        lora: arguments of :class:`~methods.sequential_lora.SequentialLora`, of every task's LoRA.
    """

    search = {"w_energy": (0.15, 0.95)}  # a share: below 1

    def __init__(
        self, w_energy: float = 0.6, text_w_energy: float = 0.6, energy: float = 0.99, after: str = "gradient",
        start: str = "zero", portion: float = 1.0, faithful: bool = False, **lora: Any,
    ) -> None:  # fmt: skip
        super().__init__(**lora)
        within(0, 1, w_energy=w_energy, text_w_energy=text_w_energy, energy=energy, portion=portion)
        above(0, portion=portion)
        one_of(("gradient", "features"), after=after)
        one_of(("zero", "gradient"), start=start)
        self.w_energy, self.text_w_energy, self.energy = w_energy, text_w_energy, energy
        self.after, self.start, self.portion, self.faithful = after, start, portion, faithful

    # ---- growing and learning -------------------------------------------------------------------------------------

    def attach(self, backbone: Backbone, budget: Budget) -> None:
        """Raises ValueError: faithful to what is only defined for square weights, and others are adapted."""
        super().attach(backbone, budget)
        own = re.compile(str(self.experts.config.target_modules)).fullmatch
        layers = [layer for path, layer in self.experts.tower.named_modules() if own(path)]
        if self._of_outputs and any(layer.in_features != layer.out_features for layer in layers):
            raise ValueError(
                f"faithful with after=features needs square weights, and placement {self.placement!r} has others: "
                "choose from q, k, v, out"
            )

    @property
    def _of_outputs(self) -> bool:
        """Whether the directions kept first are, as in the release for CLIP, of outputs."""
        return self.faithful and self.after == "features"

    def expert(self, task: Task) -> str:
        return f"task{task.index}"

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        if self.start == "gradient" and ANCHOR not in self.experts.names:
            self.experts.add(ANCHOR)

    def _tasks(self) -> Blend:
        return {self.expert(task): 1.0 for task in self.tasks}

    @contextmanager
    def learning(self) -> Iterator[None]:
        """The earlier tasks folded, the new one live; of it only B takes gradients."""
        live = self.expert(self.tasks[-1])
        folded = {name: weight for name, weight in self._tasks().items() if name != live}
        if self.start == "gradient":
            folded[ANCHOR] = -1.0
        with self.experts.blend(folded, live=live):
            self._freeze_directions()
            yield

    def _freeze_directions(self) -> None:
        for A in self.experts.factors(self.expert(self.tasks[-1]))[0]:
            A.requires_grad_(False)

    def trainable_parameters(self) -> list[nn.Parameter]:
        return list(self.experts.factors(self.expert(self.tasks[-1]))[1]) if self.tasks else []  # type: ignore[arg-type]

    @torch.no_grad()
    def prepare_task(self, task: Task, loader: Iterable[Batch]) -> None:
        """A_t, and perhaps B_t, of every layer from the task's gradient at the model so far."""
        As, Bs = self.experts.factors(self.expert(task))
        gradients = self._gradients(loader)
        with self.experts.blend({}):  # what is folded is folded anew when this is left
            for i, G in enumerate(gradients):
                self._know(i)
                A = residual_basis(G.double(), self.memory[f"kept_{i}"].mT, self.rank, self.faithful)
                As[i].copy_(A)
                if self.start == "gradient":
                    anchor_As, anchor_Bs = self.experts.factors(ANCHOR)
                    Bs[i].copy_(G.double() @ A.mT)
                    anchor_As[i].copy_(As[i])
                    anchor_Bs[i].copy_(Bs[i])
        self._freeze_directions()

    @torch.no_grad()
    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        """B_t becomes what was learned beyond its start; the kept spaces grow."""
        if self.start == "gradient":
            for B, start in zip(
                self.experts.factors(self.expert(task))[1], self.experts.factors(ANCHOR)[1], strict=True
            ):
                B.sub_(start)
                start.zero_()
        with self.experts.blend(self._tasks()):
            used = self._gradients(loader) if self.after == "gradient" else self._features(loader)
        for i, M in enumerate(used):
            self.memory[f"kept_{i}"] = grow(self.memory[f"kept_{i}"].mT, M.mT.double(), self.energy).mT

    def _know(self, layer: int) -> None:
        """What is kept of a layer's inputs, (k, D_in), from the frozen weights, unless there is more already."""
        if f"kept_{layer}" in self.memory:
            return
        W = peft_layers.weight(self.experts.layers[layer]).double()
        energy = self.text_w_energy if self.experts.paths[layer].startswith("text.") else self.w_energy
        self.memory[f"kept_{layer}"] = principal(W.mT if self._of_outputs else W, energy).mT

    # ---- looking at a task ----------------------------------------------------------------------------------------

    def _gradients(self, loader: Iterable[Batch]) -> list[Tensor]:
        """G of every adapted layer: the mean over samples, at the weights that are folded, without the live LoRA."""
        leaves = [peft_layers.weight(layer).detach().requires_grad_() for layer in self.experts.layers]
        sums, samples = [torch.zeros_like(W) for W in leaves], 0

        def forward(i: int, x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
            return F.linear(x, leaves[i], b)

        with self.experts.computed(forward):
            for batch in self._batches(loader, self.portion):
                with torch.enable_grad():
                    loss = self.loss(batch)
                for total, gradient in zip(sums, torch.autograd.grad(loss, leaves, allow_unused=True), strict=True):
                    if gradient is not None:
                        total.add_(gradient, alpha=len(batch["index"]))
                samples += len(batch["index"])
        return [total / samples for total in sums]

    def _features(self, loader: Iterable[Batch]) -> list[Tensor]:
        """(n, D_in) rows of the same directions and energies as the inputs of every adapted layer."""
        inputs = Averages() if self.faithful else Covariances()
        mask_BN: Tensor | None = None

        def forward(i: int, x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
            inputs.add(i, x, mask_BN)
            return F.linear(x, W, b)

        with self.experts.computed(forward):
            for batch in self._batches(loader):
                mask_BN = self.language.tokens(batch) if self.backbone.speaks else None
                self.outputs(batch)
        return [inputs.rows(i) for i in range(len(self.experts.layers))]

    def _batches(self, loader: Iterable[Batch], portion: float = 1.0) -> Iterator[Batch]:
        """The training set in batches as it is trained on, or int(portion n) samples of it at equal distances."""
        count = sum(len(batch["index"]) for batch in loader) if portion < 1 else 0
        chosen = max(1, int(portion * count))
        wanted_N = torch.tensor([i * (count - 1) // max(1, chosen - 1) for i in range(chosen)])
        first = 0
        for batch in loader:
            rows_B = torch.arange(len(batch["index"]))
            if portion < 1:
                rows_B = rows_B[torch.isin(rows_B + first, wanted_N)]
            first += len(batch["index"])
            for part in rows_B.split(self.budget.batch_size) if len(rows_B) else ():
                yield {name: values[part.to(values.device)] for name, values in batch.items()}

    def acting(self, task: Task | None) -> AbstractContextManager[None]:
        return self.experts.blend(self._tasks())
