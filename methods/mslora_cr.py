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
The paper adapts the language model of LLaVA-Med, as streams of questions do here (``phantom_mbiil8``).

    make bench METHOD=mslora_cr                         # last accuracy 62.7 given, 43.4 hidden
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.stream import Task
from methods.independent_lora import IndependentLora
from methods.parts.checks import one_of
from methods.parts.experts import Blend, Experts
from methods.parts.stacks import gather, stack

PRESETS = {"official": {"epochs": 3, "batch_size": 16, "lr": 2e-4, "method": {"rank": 64, "lora_alpha": 64.0}}}
Stacks = list[tuple[Tensor, ...]]
Factors = tuple[list[Tensor], list[Tensor]]  # A and B of every layer
SIMILARITIES = ("exp_fro", "exp_rel", "cos_delta", "margin")


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
    _check(current, other, kind)
    return similarities(stacks([current], kind), stacks([other], kind), kind).mean()


def _check(current: Sequence[Tensor], other: Sequence[Tensor], kind: str) -> None:
    one_of(SIMILARITIES, similarity=kind)
    if not current or [matrix.shape for matrix in current] != [matrix.shape for matrix in other]:
        raise ValueError("the LoRAs compared must have the same number of matrices, pairwise of one shape")


def stacks(loras: Sequence[Sequence[Tensor]], kind: str) -> Stacks:
    """T LoRAs as :func:`similarities` reads them; of ``cos_delta`` A and B of a layer stay together."""
    return gather(loras, 2 if kind == "cos_delta" else 1)


def similarities(current: Stacks, others: Stacks, kind: str) -> Tensor:
    """(T, n) of one LoRA and T others at once: the terms whose mean over n is :func:`lora_similarity` of each."""
    values = []
    for own, theirs in zip(current, others, strict=True):
        theirs = tuple(matrices.detach() for matrices in theirs)
        values.append(_cosine(*own, *theirs) if kind == "cos_delta" else _closeness(kind, *own, *theirs))
    return torch.cat(values, dim=1)


def _frobenius(x: Tensor) -> Tensor:
    """Frobenius norms of (..., p, q) matrices; the gradient at a zero matrix is zero."""
    return torch.linalg.vector_norm(x, dim=(-2, -1))


def _closeness(kind: str, X: Tensor, X2: Tensor) -> Tensor:
    """(T, n) from the distances of (1, n, p, q) and (T, n, p, q)."""
    distance = _frobenius(X - X2)
    if kind != "exp_fro":
        scale = (_frobenius(X) ** 2 + _frobenius(X2) ** 2).sqrt().detach()
        distance = distance / scale.clamp_min(torch.finfo(X.dtype).tiny)
    return 1 - distance if kind == "margin" else torch.exp(-distance)


def _cosine(A: Tensor, B: Tensor, A2: Tensor, B2: Tensor) -> Tensor:
    """(T, n) cos(B A, B' A') through r x r products: <B A, B' A'> = sum((B^T B') * (A A'^T))."""
    inner = ((B.mT @ B2) * (A @ A2.mT)).sum((-2, -1))
    own = ((B.mT @ B) * (A @ A.mT)).sum((-2, -1))
    others = ((B2.mT @ B2) * (A2 @ A2.mT)).sum((-2, -1))
    safe = (own > 0) & (others > 0)
    scale = torch.where(safe, own, 1).rsqrt() * torch.where(safe, others, 1).rsqrt()
    return torch.where(safe, inner * scale, 0.0)


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
    if not previous:
        return current[0].new_zeros(())
    for other in previous:
        _check(current, other, kind)
    similarity_Tn = similarities(stacks([current], kind), stacks(previous, kind), kind)
    return _contrast(similarity_Tn, same_modality, kind, margin)


def _contrast(similarity_Tn: Tensor, same_modality: Sequence[bool] | Tensor, kind: str, margin: float = 1.0) -> Tensor:
    same_T1 = torch.as_tensor(same_modality, dtype=torch.bool, device=similarity_Tn.device)[:, None]
    if kind == "margin":
        distance_Tn = 1 - similarity_Tn
        terms_Tn = torch.where(same_T1, distance_Tn**2, (margin - distance_Tn).clamp_min(0) ** 2)
    else:
        terms_Tn = torch.where(same_T1, 1 - similarity_Tn, similarity_Tn)
    return terms_Tn.mean(dim=1).sum()


def orthogonality_penalty(As: Sequence[Tensor], Bs: Sequence[Tensor]) -> Tensor:
    """R: mean over all pairs (every layer of every task) of ||A A^T - I_r||_F^2 + ||B^T B - I_r||_F^2."""
    return _far_from_orthogonal(stack(As), stack(Bs)) / len(As)


def _far_from_orthogonal(As: Sequence[Tensor], Bs: Sequence[Tensor]) -> Tensor:
    """The sum behind R, of stacks (..., r, D_in) and (..., D_out, r)."""
    identity = torch.eye(As[0].shape[-2], dtype=As[0].dtype, device=As[0].device)
    products = [A @ A.mT for A in As] + [B.mT @ B for B in Bs]
    return torch.stack([((product - identity) ** 2).sum() for product in products]).sum()


class MSLoRACR(IndependentLora):
    """One LoRA per task, attracted within a modality and repelled between modalities.

    Args:
        alpha: weight of the contrastive term CR.
        beta: weight of the orthogonality term R.
        similarity: exp_fro (released), exp_rel, cos_delta or margin.
        lora: arguments of :class:`~methods.independent_lora.IndependentLora`.
    """

    search = {"alpha": (0.025, 0.4), "beta": (0.0025, 0.04)}

    def __init__(self, alpha: float = 0.1, beta: float = 0.01, similarity: str = "exp_fro", **lora: Any) -> None:
        super().__init__(**lora)
        self.alpha, self.beta, self.similarity = alpha, beta, similarity
        self.regulariser = Regulariser(alpha, beta, similarity)

    def ingredients(self, task: Task) -> Blend:
        return dict.fromkeys(self.experts.names[: task.index + 1], 1.0)

    def learning(self) -> AbstractContextManager[None]:
        self.regulariser.forget()
        return super().learning()

    def penalty(self) -> Tensor:
        """alpha CR + beta R in float32; 0 for the first task."""
        return self.regulariser(self.experts, self.tasks) if len(self.tasks) > 1 else super().penalty()


class Regulariser:
    """alpha CR + beta R of the newest expert against the earlier ones, in float32.

    What stays while a task is learned is gathered at its first step, not at every one.
    """

    def __init__(self, alpha: float, beta: float, similarity: str) -> None:
        """Raises ValueError: unknown similarity."""
        one_of(SIMILARITIES, similarity=similarity)
        self.alpha, self.beta, self.similarity = alpha, beta, similarity
        self._frozen: Frozen | None = None

    def forget(self) -> None:
        """Another task is about to be learned."""
        self._frozen = None

    def __call__(self, experts: Experts, tasks: Sequence[Task]) -> Tensor:
        frozen = self._frozen = self._frozen or self._freeze(experts, tasks)
        with torch.autocast(frozen.current[0][0].device.type, enabled=False):
            current, As, Bs = self._stacked([frozen.current])
            similarity_Tn = similarities(current, frozen.previous, self.similarity)
            cr = _contrast(similarity_Tn, frozen.same_modality, self.similarity)
            r = (_far_from_orthogonal(As, Bs) / len(frozen.current[0]) + frozen.orthogonality) / len(tasks)
            return self.alpha * cr + self.beta * r

    def _stacked(self, loras: Sequence[Factors]) -> tuple[Stacks, list[Tensor], list[Tensor]]:
        """T LoRAs as :func:`similarities` reads them, and their A and their B: the same stacks, (T, n, p, q) each."""
        if self.similarity == "cos_delta":
            pairs = stacks([_alternate(As, Bs) for As, Bs in loras], self.similarity)
            return pairs, [A for A, _ in pairs], [B for _, B in pairs]
        As, Bs = gather([As for As, _ in loras]), gather([Bs for _, Bs in loras])
        return As + Bs, [A for (A,) in As], [B for (B,) in Bs]

    @torch.no_grad()
    def _freeze(self, experts: Experts, tasks: Sequence[Task]) -> Frozen:
        *earlier, current = (experts.factors(name) for name in experts.names)
        same, device = [task.modality == tasks[-1].modality for task in tasks[:-1]], current[0][0].device
        with torch.autocast(device.type, enabled=False):
            return Frozen(
                current,
                self._stacked(earlier)[0],
                torch.tensor(same, device=device),
                torch.stack([orthogonality_penalty(As, Bs) for As, Bs in earlier]).sum(),
            )


@dataclass(frozen=True)
class Frozen:
    """What stays while a task is learned: gathered once, not at every step."""

    current: Factors  # the parameters that are trained
    previous: Stacks  # of all earlier experts
    same_modality: Tensor  # (T,) bool
    orthogonality: Tensor  # sum over earlier tasks of their R


def _alternate(As: Sequence[Tensor], Bs: Sequence[Tensor]) -> list[Tensor]:
    """A_1, B_1, A_2, B_2, ..."""
    return [matrix for pair in zip(As, Bs, strict=True) for matrix in pair]
