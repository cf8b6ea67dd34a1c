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

(In the paper's letters A_t is B_t and B_t is A_t.) ``--method.blocks 5`` is InfLoRA-b5: branches in the first five
blocks, plain GPM. Repaired, unless ``faithful``: a first task that needs half of the directions or more stores their
complement (the released code mislabels or stops), rows of A_t for which no free direction is left are zero (released:
they lie in the protected space), and the budget's schedule is used (released: :func:`released_schedule`).

    make bench METHOD=inflora                           # last accuracy 53.4 given, 29.1 hidden
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.stream import Budget, Label, Task
from methods.base import Batch, IncrementalMethod
from methods.parts.backbones import Backbone
from methods.parts.checks import above, at_least, at_most, one_of
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
ENERGIES = ("cov_sq", "input")


def threshold(task_index: int, num_tasks: int, lamb: float, lame: float) -> float:
    """eps_t, rising from lamb towards lame; ``task_index`` from 0."""
    return lamb + (lame - lamb) * task_index / num_tasks


def released_schedule(epoch: int, epochs: int) -> float:
    """Factor of the learning rate in epoch 0..epochs-1 of the released code: 1 twice, and no end at 0."""
    return math.cos(99 * math.pi * max(epoch - 1, 0) / (200 * max(epochs - 1, 1)))


class DualGPM:
    """The memory of one layer: an orthonormal basis of the inputs to protect, or of all the others.

    Args:
        dimension: d, width of the layer's input.
        energy: how much a direction counts: ``cov_sq`` squared singular values of the covariance C (released, s^4 of
            the inputs), ``input`` singular values of C (s^2 of the inputs, as in the GPM papers).
        flip: store the complement once the protected space has more than d/2 dimensions; False: plain GPM.
        faithful: a first task with k >= d/2 directions is labelled as its complement, as released.

    Attributes:
        basis: (d, k). complement: the basis spans the complement of the protected space.
    """

    def __init__(self, dimension: int, energy: str = "cov_sq", flip: bool = True, faithful: bool = False) -> None:
        """Raises ValueError: unknown energy."""
        one_of(ENERGIES, energy=energy)
        self.dimension, self.energy, self.flip, self.faithful = dimension, energy, flip, faithful
        self.basis = torch.zeros(dimension, 0, dtype=torch.float64)
        self.complement = False
        self.first = True

    def projector(self) -> Tensor:
        """(d, d) the orthogonal projector onto the protected space."""
        stored = self.basis @ self.basis.mT
        return torch.eye(self.dimension).to(stored) - stored if self.complement else stored

    def update(self, covariance: Tensor, threshold: float) -> None:
        """Protect the share ``threshold`` of a task's energy, from the (d, d) covariance of its inputs.

        Raises:
            ValueError: ``faithful``, and the released code stops: a first task with k > d/2.
        """
        first, self.first = self.first, False
        self.basis = self.basis.to(covariance)
        if first:
            U, energies = self._spectrum(covariance, torch.eye(self.dimension).to(covariance))
            k = max(1, int((energies.cumsum(0) < threshold).sum()))
            self.basis = U[:, :k]
            if self.faithful and self.flip and 2 * k >= self.dimension:
                if 2 * k > self.dimension:
                    raise ValueError(f"a first task of {k} of {self.dimension} directions stops the released code")
                self.complement = True
                return
        elif self.complement:
            self._shrink(covariance, threshold)
        else:
            self._grow(covariance, threshold)
        if self.flip and not self.complement and 2 * self.basis.shape[1] > self.dimension:
            k = self.basis.shape[1]
            self.basis = torch.linalg.svd(self.basis, full_matrices=True)[0][:, k:]
            self.complement = True

    def _spectrum(self, covariance: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        """(U (d, d), share of the whole energy along each column) of the part (d, d) of the inputs' space."""
        if self.energy == "cov_sq":
            U, s, _ = torch.linalg.svd(part @ covariance)
            return U, s**2 / (covariance**2).sum()
        U, s, _ = torch.linalg.svd(part @ covariance @ part)
        return U, s / covariance.trace()

    def _grow(self, covariance: Tensor, threshold: float) -> None:
        stored = self.basis @ self.basis.mT
        U, energies = self._spectrum(covariance, torch.eye(self.dimension).to(stored) - stored)
        known = 1 - energies.sum()
        reached = torch.cat([known[None], known + energies.cumsum(0)])
        noise = self.dimension * torch.finfo(energies.dtype).eps  # columns of no energy may lie in the protected space
        r = int(((reached[:-1] < threshold) & (energies > (noise**2 if self.energy == "cov_sq" else noise))).sum())
        self.basis = torch.cat([self.basis, U[:, :r]], dim=1)[:, : self.dimension]

    def _shrink(self, covariance: Tensor, threshold: float) -> None:
        U, energies = self._spectrum(covariance, self.basis @ self.basis.mT)
        left = energies.sum()
        remaining = torch.cat([left[None], left - energies.cumsum(0)])
        r, k = int((remaining[:-1] >= 1 - threshold).sum()), self.basis.shape[1]
        if r:
            taken = U[:, :r]
            self.basis = torch.linalg.svd(self.basis - taken @ (taken.mT @ self.basis))[0][:, : max(0, k - r)]


def design_reduction(covariance: Tensor, memory: DualGPM, rank: int, faithful: bool = False) -> Tensor:
    """(r, d) reduction matrix A_t of a task with the (d, d) input covariance C; a fresh ``memory`` protects nothing.

    Rows for which no free direction is left are zero; ``faithful``: whatever the SVD gives there.
    """
    basis = memory.basis.to(covariance)
    inside = basis @ (basis.mT @ covariance)
    U, s, _ = torch.linalg.svd(inside if memory.complement else covariance - inside)
    rows = U[:, :rank].mT / math.sqrt(3)
    if not faithful:
        noise = max(1e-8, len(s) * torch.finfo(s.dtype).eps)
        rows = rows * (s[:rank] > noise * torch.linalg.matrix_norm(covariance, 2))[:, None]
    return nn.functional.pad(rows, (0, 0, 0, rank - len(rows)))


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
        at_most(1, lamb=lamb, lame=lame)
        at_least(0, blocks=blocks)
        one_of(ENERGIES, energy=energy)
        self.rank, self.lamb, self.lame, self.blocks, self.energy, self.faithful = (
            rank, lamb, lame, blocks, energy, faithful,
        )  # fmt: skip

    def attach(self, backbone: Backbone, budget: Budget) -> None:
        super().attach(backbone, budget)
        depth = len(backbone.image.blocks)
        self.depth = min(self.blocks, depth) if self.blocks else depth
        self.experts = Experts(backbone.image, self.rank, self.rank, ("k", "v"), blocks=range(self.depth))

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

        def observe(layer: int, x_BND: Tensor) -> None:
            if layer < self.depth:
                x_ND = x_BND.flatten(0, 1)
                sums[layer] = sums[layer] + (x_ND.mT @ x_ND).double()
                if layer == 0:
                    nonlocal tokens
                    tokens += len(x_ND)

        for batch in loader:
            self.backbone.image(self.views(batch["image"], train=False), observe=observe)
        return [total / tokens for total in sums]

    def scores(self, batch: Batch, labels: Sequence[Label], task: Task | None) -> Tensor:
        with self.experts.blend(dict.fromkeys(self.experts.names, 1.0)):
            return super().scores(batch, labels, task)

    def configure_optimizers(self) -> Any:
        if not self.faithful:
            return super().configure_optimizers()
        optimizer = self.new_optimizer()
        epochs = self.budget.epochs
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: released_schedule(epoch, epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
