"""O-LoRA: a new LoRA per task in a subspace orthogonal to those of the earlier ones; all of them act.

Wang et al., *Orthogonal Subspace Learning for Language Model Continual Learning*, Findings of EMNLP 2023,
arXiv 2310.14152.

y = W x + b + s sum_{i<=t} B_i A_i x;   only (A_t, B_t) are trained, no task id needed
L = CE + lam1 sum over layers of sum_ij |A_old A_t^T|_ij + lam2 sum (||A_t||_F + ||B_t||_F)
A_old (r (t - 1), d): the rows of all earlier A

As in the released code absolute values and sums, where the paper writes squares: the term grows with r^2, t and the
number of layers.

    make bench METHOD=olora                             # last accuracy 55.2 given, 31.5 hidden
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from benchmark.stream import Task
from methods.parts.checks import at_least
from methods.parts.stacks import stack
from methods.sequential_lora import SequentialLora

PRESETS = {
    "official": {
        "epochs": 1,
        "optimizer": "adamw",
        "lr": 1e-3,
        "schedule": "constant",
        "method": {"rank": 8, "lora_alpha": 32.0, "lam1": 0.5, "placement": "q,v", "dropout": 0.1},
    }
}


def overlap_penalty(A_old: Tensor, A_new: Tensor) -> Tensor:
    """sum_ij |A_old A_new^T|_ij, over layers too: (r_sum, d) and (r, d), or (layers, r_sum, d) and (layers, r, d)."""
    return (A_old @ A_new.mT).abs().sum()


class OLora(SequentialLora):
    """The sum of one LoRA per task, each kept off the earlier ones' input directions.

    Args:
        lam1: weight of the overlap with earlier tasks.
        lam2: weight of the norms of the new factors.
        lora: arguments of :class:`~methods.sequential_lora.SequentialLora`, of every task's LoRA.
    """

    kinds = ("classification", "generation")
    search = {"lam1": (0.125, 2.0)}

    def __init__(self, lam1: float = 0.5, lam2: float = 0.0, **lora: Any) -> None:
        super().__init__(**lora)
        at_least(0, lam1=lam1, lam2=lam2)
        self.lam1, self.lam2 = lam1, lam2
        self._earlier: list[Tensor] | None = None

    def expert(self, task: Task) -> str:
        return f"task{task.index}"

    def learning(self) -> AbstractContextManager[None]:
        """The earlier experts folded, the new one live."""
        *earlier, live = self.experts.names
        self._earlier = None
        return self.experts.blend(dict.fromkeys(earlier, 1.0), live=live)

    def penalty(self) -> Tensor:
        """lam1 and lam2 terms in float32."""
        As, Bs = self.experts.factors(self.experts.names[-1])
        total = super().penalty()
        with torch.autocast(self.device.type, enabled=False):
            if len(self.tasks) > 1:
                if self._earlier is None:
                    self._earlier = self._gather()
                overlaps = [overlap_penalty(*pair) for pair in zip(self._earlier, stack(As), strict=True)]
                total = total + self.lam1 * torch.stack(overlaps).sum()
            if self.lam2:
                total = total + self.lam2 * torch.stack([factor.norm() for factor in (*As, *Bs)]).sum()
        return total

    @torch.no_grad()
    def _gather(self) -> list[Tensor]:
        """A_old as one (layers, r_sum, d) per width d: the same at every step of a task."""
        tasks = [stack(self.experts.factors(name)[0]) for name in self.experts.names[:-1]]
        return [torch.cat(same, dim=1) for same in zip(*tasks, strict=True)]

    def acting(self, task: Task | None) -> AbstractContextManager[None]:
        return self.experts.blend(dict.fromkeys(self.experts.names, 1.0))
