"""MSLoRA-CR: modality-specific LoRA with contrastive regularisation.

*Contrastive Regularization over LoRA for Multimodal Biomedical Image Incremental Learning*, ACM MM 2025,
arXiv 2508.11673. One LoRA per task; LoRAs of the same modality are pulled together, of different modalities pushed
apart, and the factors are kept near orthogonal.

y      = W x + b + s sum_{i<=t} B_i A_i x                       (A_t, B_t) trained, the earlier ones frozen
sim_i  = 1/n sum over the n matrices X of (A, B, every layer) of exp(-||X_t - X_i||_F),   X_i detached
CR     = sum_{i<t} ( 1 - sim_i  if modality_i = modality_t  else  sim_i )
R      = 1/(layers t) sum over layers and tasks 1..t of ||A A^T - I||_F^2 + ||B^T B - I||_F^2
L      = CE + alpha CR + beta R         for t >= 2;   L = CE for the first task

Task t is answered with the experts 1..t: its accuracy never changes once learned, the method is about forward transfer.

    make bench METHOD=mslora_cr
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from methods.independent_lora import IndependentLora

PRESETS = {"official": {"epochs": 3, "batch_size": 16, "lr": 2e-4, "method": {"rank": 64, "lora_alpha": 64.0}}}
SIMILARITIES = ("exp_fro", "exp_rel", "cos_delta", "margin")


def stack(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Matrices (p, q) of any shapes as one (n, p, q) stack per shape, in order of appearance, in float32 or wider.

    Stacks pass through, so that what never changes is stacked once.
    """
    groups: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        groups[matrix.shape[-2:]].append(matrix if matrix.dtype == torch.float64 else matrix.float())
    return [group[0] if group[0].ndim == 3 else torch.stack(group) for group in groups.values()]


def _frobenius(x_Npq: Tensor) -> Tensor:
    """(N,) Frobenius norms; the gradient at a zero matrix is zero."""
    return torch.linalg.vector_norm(x_Npq.flatten(1), dim=1)


def lora_similarity(current: Sequence[Tensor], other: Sequence[Tensor], kind: str = "exp_fro") -> Tensor:
    """How alike two LoRAs are, a scalar: the mean over their matrices; ``other`` takes no gradient.

    Args:
        current, other: the same number of matrices, pairwise of one shape; shapes may differ between pairs. For
            ``cos_delta`` they alternate A_1, B_1, A_2, B_2, ...
        kind: ``exp_fro`` exp(-||X - X'||_F), as released (written so that it never overflows);
            ``exp_rel`` exp(-d), d = ||X - X'||_F / s, s^2 = ||X||^2 + ||X'||^2 detached: free of rank and scale;
            ``cos_delta`` cos(B A, B' A') per layer, 0 where one of them is zero: free of the factors' gauge;
            ``margin`` 1 - d.
    """
    return _similarities(current, other, kind).mean()


def _similarities(current: Sequence[Tensor], other: Sequence[Tensor], kind: str) -> Tensor:
    """(n,) similarity of every pair of matrices (of every layer for ``cos_delta``)."""
    other = [matrix.detach() for matrix in other]
    if kind == "cos_delta":
        return _delta_cosines(current[0::2], current[1::2], other[0::2], other[1::2])
    values = []
    for x, y in zip(stack(current), stack(other), strict=True):
        distance = _frobenius(x - y)
        if kind != "exp_fro":
            scale = (_frobenius(x) ** 2 + _frobenius(y) ** 2).sqrt().detach()
            distance = distance / scale.clamp_min(torch.finfo(x.dtype).tiny)
        values.append(1 - distance if kind == "margin" else torch.exp(-distance))
    return torch.cat(values)


def _delta_cosines(As: Sequence[Tensor], Bs: Sequence[Tensor], As2: Sequence[Tensor], Bs2: Sequence[Tensor]) -> Tensor:
    """(layers,) cos(B A, B' A') through r x r products: <B A, B' A'> = sum((B^T B') * (A A'^T))."""
    values = []
    groups: dict[tuple[torch.Size, torch.Size], list[int]] = defaultdict(list)
    for i, (A, B) in enumerate(zip(As, Bs, strict=True)):
        groups[A.shape, B.shape].append(i)
    for members in groups.values():
        A, B, A2, B2 = (torch.stack([part[i] for i in members]) for part in (As, Bs, As2, Bs2))
        inner = ((B.mT @ B2) * (A @ A2.mT)).sum((1, 2))
        own = ((B.mT @ B) * (A @ A.mT)).sum((1, 2))
        others = ((B2.mT @ B2) * (A2 @ A2.mT)).sum((1, 2))
        product = own * others
        safe = product > torch.finfo(A.dtype).tiny
        values.append(torch.where(safe, inner * torch.where(safe, product, 1).rsqrt(), 0.0))
    return torch.cat(values)


def contrastive_penalty(
    current: Sequence[Tensor],
    previous: Sequence[Sequence[Tensor]],
    same_modality: Sequence[bool],
    kind: str = "exp_fro",
    margin: float = 1.0,
) -> Tensor:
    """CR: sum over earlier tasks of (1 - sim) where the modality is the same, of sim where it is not.

    ``margin``: mean over matrices of d^2 where it is the same, of max(0, margin - d)^2 where it is not.

    Raises:
        ValueError: not one flag for each earlier task.
    """
    if len(previous) != len(same_modality):
        raise ValueError(f"{len(previous)} earlier tasks but {len(same_modality)} modality flags")
    total = current[0].new_zeros(())
    for other, same in zip(previous, same_modality, strict=True):
        similarity = _similarities(current, other, kind)
        if kind == "margin":
            distance = 1 - similarity
            similarity = distance**2 if same else (margin - distance).clamp_min(0) ** 2
        elif same:
            similarity = 1 - similarity
        total = total + similarity.mean()
    return total


def orthogonality_penalty(As: Sequence[Tensor], Bs: Sequence[Tensor]) -> Tensor:
    """R: mean over all pairs (every layer of every task) of ||A A^T - I_r||_F^2 + ||B^T B - I_r||_F^2."""
    total = As[0].new_zeros(())
    for A in stack(As):
        total = total + ((A @ A.mT - torch.eye(A.shape[1], dtype=A.dtype, device=A.device)) ** 2).sum()
    for B in stack(Bs):
        total = total + ((B.mT @ B - torch.eye(B.shape[2], dtype=B.dtype, device=B.device)) ** 2).sum()
    return total / len(As)


class MSLoRACR(IndependentLora):
    """One LoRA per task, attracted within a modality and repelled between modalities.

    Args:
        rank: r of every adapted layer.
        lora_alpha: the update is scaled by lora_alpha / rank.
        alpha: weight of the contrastive term CR.
        beta: weight of the orthogonality term R.
        similarity: exp_fro (released), exp_rel, cos_delta or margin.
        placement: which linear layers of a block, of q, k, v, out, fc1, fc2.
        dropout: of the LoRA's input while training.
    """

    def __init__(
        self,
        rank: int = 8,
        lora_alpha: float = 8.0,
        alpha: float = 0.1,
        beta: float = 0.01,
        similarity: str = "exp_fro",
        placement: str = "q,k,v,out,fc1,fc2",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(rank, lora_alpha, placement, dropout)
        if similarity not in SIMILARITIES:
            raise ValueError(f"similarity {similarity!r}: choose from {', '.join(SIMILARITIES)}")
        self.alpha, self.beta, self.similarity = alpha, beta, similarity
        self._earlier: tuple[list[list[Tensor]], Tensor] | None = None

    def ingredients(self, task: int) -> dict[str, float]:
        return {name: 1.0 for name in self.experts.names[: task + 1]}

    def learning(self) -> AbstractContextManager[None]:
        self._earlier = None
        return super().learning()

    def penalty(self) -> Tensor:
        """alpha CR + beta R in float32; 0 for the first task."""
        *earlier, current = self.tasks
        if not earlier:
            return super().penalty()
        flags = [task.modality == current.modality for task in earlier]
        with torch.autocast(self.device.type, enabled=False):
            if self._earlier is None:
                self._earlier = self._frozen_terms()
            previous, frozen_r = self._earlier
            As, Bs = self.experts.factors(self.experts.names[-1])
            cr = contrastive_penalty(_alternate(As, Bs), previous, flags, self.similarity)
            r = (orthogonality_penalty(As, Bs) + frozen_r) / len(self.tasks)
            return self.alpha * cr + self.beta * r

    @torch.no_grad()
    def _frozen_terms(self) -> tuple[list[list[Tensor]], Tensor]:
        """Of the earlier experts, constant while a task is learned: their matrices, stacked, and their part of R."""
        factors = [self.experts.factors(name) for name in self.experts.names[:-1]]
        matrices = [_alternate(As, Bs) for As, Bs in factors]
        if self.similarity != "cos_delta":
            matrices = [stack(group) for group in matrices]
        return matrices, torch.stack([orthogonality_penalty(As, Bs) for As, Bs in factors]).sum()


def _alternate(As: Sequence[Tensor], Bs: Sequence[Tensor]) -> list[Tensor]:
    """A_1, B_1, A_2, B_2, ..."""
    return [matrix for pair in zip(As, Bs, strict=True) for matrix in pair]
