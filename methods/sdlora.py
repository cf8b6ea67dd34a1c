"""SD-LoRA: a frozen LoRA direction per task, and magnitudes of all directions that go on learning.

Wu et al., *SD-LoRA: Scalable Decoupled Low-Rank Adaptation for Class Incremental Learning*, ICLR 2025,
arXiv 2501.13198. What a task taught is kept as a direction; how far to go along each direction, old or new, is learned
again with every task, so that the model moves along a low-loss path shared by all of them. Nothing is chosen at test
time: the sum of all directions is folded into the weights, and no task id is needed.

y = W x + b + c_t B_t A_t x + sum_{i<t} c_i B_i A_i x / (||B_i||_F ||A_i||_F)        q and v of every block, no alpha
L = CE;  trained in task t: (A_t, B_t) and c_1 .. c_t, one scalar per task for the whole network, each from 0.8 anew

As in the released code the direction of a task jumps when the next one begins, from c B A to 0.8 B A / (||B|| ||A||).
``rank_schedule`` is SD-LoRA-RR: later directions have a smaller rank (here rows of A that are zero and stay zero, so it
saves no memory). SD-LoRA-KD, which drops a direction that is a combination of earlier ones, is left out: its
coefficients differ from layer to layer, which one scalar per task cannot hold. CLIP's text features stand in for the
growing head.

    make bench METHOD=sdlora                            # last accuracy 46.5 given, 26.5 hidden
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmark.stream import Budget, Label, Task
from methods.base import Batch, IncrementalMethod
from methods.parts.backbones import Backbone
from methods.parts.experts import Experts

PRESETS = {
    "official": {
        "epochs": 20,
        "batch_size": 128,
        "optimizer": "sgd",
        "lr": 8e-3,
        "schedule": "constant",
        "method": {"rank": 10},
    },
    "rr": {
        "epochs": 20,
        "batch_size": 128,
        "optimizer": "sgd",
        "lr": 8e-3,
        "schedule": "constant",
        "method": {"rank": 10, "rank_schedule": "4:8,8:6"},
    },
}


def decomposed(
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    A: Tensor,
    B: Tensor,
    old_A: Sequence[Tensor] | Tensor,
    old_B: Sequence[Tensor] | Tensor,
    s_cur: Tensor | float,
    s_prev: Sequence[Tensor] | Tensor,
) -> Tensor:
    """y = x W^T + b + s_cur B A x + sum_i s_prev_i (B_i A_i x) / (||B_i||_F ||A_i||_F), of one linear layer.

    Args:
        x: (..., D_in). W: (D_out, D_in). b: (D_out,) or None. A: (r, D_in). B: (D_out, r), of the current task.
        old_A, old_B: of the T earlier tasks, stacked or listed (their ranks may differ); none: empty.
        s_cur: scalar or (1,). s_prev: (T,) or (T, 1).
    """
    y = nn.functional.linear(x, W, b) + s_cur * (x @ A.mT @ B.mT)
    for A_i, B_i, s_i in zip(old_A, old_B, s_prev, strict=True):
        norm = (torch.linalg.matrix_norm(A_i) * torch.linalg.matrix_norm(B_i)).clamp_min(torch.finfo(x.dtype).tiny)
        y = y + s_i / norm * (x @ A_i.mT @ B_i.mT)
    return y


class SDLora(IncrementalMethod):
    """Frozen unit directions of all tasks under learned magnitudes.

    Args:
        rank: r of every direction.
        scale_init: magnitude from which every direction starts in every task.
        rank_schedule: smaller ranks of later directions, ``4:8,8:6``: rank 8 from the fourth task on, 6 from the
            eighth; empty: the same rank always.
    """

    search = {"scale_init": (0.2, 3.2)}

    def __init__(self, rank: int = 8, scale_init: float = 0.8, rank_schedule: str = "") -> None:
        super().__init__()
        self.rank, self.scale_init, self.rank_schedule = rank, scale_init, rank_schedule
        self.schedule = parse_schedule(rank_schedule, rank)
        self.scales = nn.Parameter(torch.zeros(0))

    def attach(self, backbone: Backbone, budget: Budget) -> None:
        super().attach(backbone, budget)
        self.experts = Experts(backbone.image, self.rank, self.rank, ("q", "v"))

    @torch.no_grad()
    def begin_task(self, task: Task) -> None:
        """The last task's LoRA becomes a unit direction, a fresh LoRA begins, and so do all magnitudes.

        A direction is kept at length one, which :func:`decomposed` leaves as it is, because answers are folded: there a
        LoRA is multiplied by its magnitude alone.
        """
        super().begin_task(task)
        if self.experts.names:
            for factor in self.experts.parameters(self.experts.names[-1]):
                norm = factor.norm()
                factor.div_(torch.where(norm > 0, norm, 1))
        self.experts.add(f"task{task.index}")
        rank = [r for number, r in self.schedule if number <= len(self.tasks)][-1]
        for A in self.experts.factors(self.experts.names[-1])[0]:
            A[rank:] = 0  # with B = 0 their gradients are exactly zero for ever
        self.scales = nn.Parameter(torch.full((len(self.tasks),), self.scale_init))

    def learning(self) -> AbstractContextManager[None]:
        return self.experts.blend({}, live=self.experts.names[-1])

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [*self.experts.parameters(self.experts.names[-1]), self.scales] if self.experts.names else []

    def embed_image(self, batch: Batch) -> Tensor:
        if not self.training:
            return super().embed_image(batch)
        *earlier, (As, Bs) = (self.experts.factors(name) for name in self.experts.names)
        *s_prev, s_cur = self.scales.unbind()

        def layer(i: int, x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
            old_A, old_B = ([factors[part][i] for factors in earlier] for part in (0, 1))
            return decomposed(x, W, b, As[i], Bs[i], old_A, old_B, s_cur, s_prev)

        with self.experts.computed(layer):
            return super().embed_image(batch)

    def scores(self, batch: Batch, labels: Sequence[Label], task: Task | None) -> Tensor:
        with self.experts.blend(dict(zip(self.experts.names, self.scales.tolist(), strict=True))):
            return super().scores(batch, labels, task)


def parse_schedule(text: str, rank: int) -> list[tuple[int, int]]:
    """``4:8,8:6`` after rank 10 -> [(1, 10), (4, 8), (8, 6)]: (number of a task, counted from 1; rank from there on).

    Raises:
        ValueError: something else than rising numbers with ranks that fall from ``rank`` to 1 at the least.
    """
    parts = [part.split(":") for part in text.split(",")] if text else []
    if all(len(part) == 2 and all(item.strip().isdigit() for item in part) for part in parts):
        schedule = [(1, rank), *((int(number), int(r)) for number, r in parts)]
        if all(a[0] < b[0] and a[1] >= b[1] >= 1 for a, b in pairwise(schedule)):
            return schedule
    raise ValueError(
        f"rank_schedule {text!r}: like 4:8,8:6, task:rank with rising tasks and ranks that fall from {rank}"
    )
