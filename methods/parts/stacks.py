"""Factors of many layers as a few stacks: a term over all of them is then a few products, not a loop over modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor


def gather(loras: Sequence[Sequence[Tensor]], size: int = 1) -> list[tuple[Tensor, ...]]:
    """T LoRAs, each the same list of matrices, as stacks (T, n, p, q), in float32 or wider.

    Args:
        size: how many matrices in a row stay together. For 1 each group holds the stack of all matrices of one shape;
            for 2, of A_1, B_1, A_2, B_2, ..., those of A and of B of all layers of one pair of shapes.

    Returns:
        The groups in order of appearance, of ``size`` stacks each.
    """
    groups: dict[tuple[torch.Size, ...], list[int]] = defaultdict(list)
    for start in range(0, len(loras[0]), size):
        groups[tuple(matrix.shape for matrix in loras[0][start : start + size])].append(start)
    return [
        tuple(
            torch.stack([_wide(lora[start + part]) for lora in loras for start in members]).unflatten(
                0, (len(loras), len(members))
            )
            for part in range(size)
        )
        for members in groups.values()
    ]


def stack(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Matrices (p, q) of any shapes as one (n, p, q) stack per shape, in order of appearance."""
    return [X_1npq.squeeze(0) for (X_1npq,) in gather([matrices])]  # a view in the backward pass too


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()
