"""Muon (Jordan, 2024) in float32: momentum whose every direction is made as long as the others.

``torch.optim.Muon`` works in bfloat16, which a CPU without it multiplies at a tenth of the speed; here matrices of a
shape are turned together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
STEPS, A, B, C = 5, 3.4445, -4.775, 2.0315  # of Newton-Schulz: a x + b x^3 + c x^5 draws singular values towards 1
RMS = 0.2  # of an update, as AdamW's: its learning rates fit (Liu et al., 2025)


class Muon(torch.optim.Optimizer):
    """For matrices alone; Nesterov's momentum, no weight decay."""

    def __init__(self, matrices: Iterable[Tensor], lr: float) -> None:
        super().__init__(matrices, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                alike[matrix.shape].append(matrix)
            for (rows, columns), matrices in alike.items():
                updates = orthogonal(torch.stack([self._momentum(matrix) for matrix in matrices]))
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.sub_(update, alpha=group["lr"] * RMS * max(rows, columns) ** 0.5)

    def _momentum(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        mean = state.setdefault("mean", torch.zeros_like(matrix))
        assert matrix.grad is not None
        mean.lerp_(matrix.grad, 1 - MOMENTUM)
        return matrix.grad.lerp(mean, MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """(M, rows, columns) with the singular vectors of these, and singular values near 1."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = A * x + (B * square + C * square @ square) @ x
    return x.mT if tall else x
