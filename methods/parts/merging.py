"""Merging the updates of several tasks, of one weight, into one update.

Task arithmetic (Ilharco et al., ICLR 2023), TIES (Yadav et al., NeurIPS 2023), DARE (Yu et al., ICML 2024), MagMax
(Marczak et al., ECCV 2024), OPCM (Tang et al., *Merging Models on the Fly Without Retraining*, 2025). Symbols as in
:mod:`methods.lora_merge`; T deltas D_t of shape (D_out, D_in), in the precision they come in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.parts.checks import one_of, within

RULES = ("task_arithmetic", "magnitude_prune", "ties", "dare_linear", "dare_ties", "magmax")
ELECTIONS = ("total", "frequency")


def merge(
    deltas: Tensor, rule: str, weights: Sequence[float], density: float, mask: Tensor | None = None,
    elect: str = "total",
) -> Tensor:  # fmt: skip
    """(D_out, D_in) what the deltas of T tasks become.

    Args:
        deltas: (T, D_out, D_in). weights: of each task, which ``magmax`` does not use.
        rule: ``task_arithmetic`` sum_t w_t D_t; ``magnitude_prune`` that of the int(density n) largest of the n entries
            of each; ``ties`` of these the mean over the tasks that have the elected sign; ``dare_linear`` and
            ``dare_ties`` the same of entries kept by chance and divided by ``density``; ``magmax`` the largest entry.
        mask: (T, D_out, D_in) what DARE keeps; without it each entry is kept with probability ``density``, drawn now.
        elect: how :func:`elect` elects.

    Raises:
        ValueError: an unknown rule or election, no delta, not one weight for each, a density outside [0, 1].
    """
    one_of(RULES, rule=rule)
    one_of(ELECTIONS, elect=elect)
    within(0, 1, density=density)
    if len(deltas) != len(weights) or not len(deltas):
        raise ValueError(f"{len(deltas)} deltas and {len(weights)} weights: need one weight for each, and at least one")
    if rule == "magmax":
        return _largest(deltas)
    if rule in ("magnitude_prune", "ties"):
        deltas = torch.stack([_pruned(delta, density) for delta in deltas])
    elif rule in ("dare_linear", "dare_ties"):
        kept = torch.rand_like(deltas) < density if mask is None else mask.bool()
        deltas = torch.where(kept, deltas / density, 0.0) if density else torch.zeros_like(deltas)
    weights_T = torch.as_tensor(weights, dtype=deltas.dtype, device=deltas.device)
    weighted = deltas * weights_T.view(-1, *[1] * (deltas.ndim - 1))
    return _of_those_that_agree(weighted, deltas, elect) if rule in ("ties", "dare_ties") else weighted.sum(dim=0)


def elect(deltas: Tensor, how: str = "total") -> Tensor:
    """(D_out, D_in) of +1 and -1: the sign of the sum of (T, D_out, D_in), or by ``frequency`` of their signs; 0: +."""
    one_of(ELECTIONS, elect=how)
    votes = deltas if how == "total" else deltas.sign()
    return torch.where(votes.sum(dim=0) >= 0, 1.0, -1.0).to(deltas)


def _of_those_that_agree(weighted: Tensor, deltas: Tensor, how: str) -> Tensor:
    """The sum of the weighted deltas whose sign is the elected one, over how many there are; a zero never agrees."""
    agree = deltas.sign() == elect(deltas, how)
    return torch.where(agree, weighted, 0.0).sum(dim=0) / agree.sum(dim=0).clamp(min=1)


def _pruned(delta: Tensor, density: float) -> Tensor:
    """Its int(density n) largest magnitudes; of equal ones the first in row order."""
    flat = delta.flatten()
    kept = flat.abs().sort(descending=True, stable=True).indices[: int(density * len(flat))]
    return torch.zeros_like(flat).index_copy(0, kept, flat[kept]).view_as(delta)


def _largest(deltas: Tensor) -> Tensor:
    """Of every entry that of largest magnitude; of equal ones the last task's."""
    best = deltas[0]
    for delta in deltas[1:]:
        best = torch.where(delta.abs() >= best.abs(), delta, best)
    return best


def opcm_step(merged: Tensor, delta: Tensor, lam: float, alpha: float) -> Tensor:
    """(D_out, D_in) N = lam M + C of OPCM, not yet divided by the next lambda.

    C is the new ``delta`` without what it has in common with the leading directions of ``merged`` = U S V^T on both
    sides: C = D - U_k U_k^T D V_k V_k^T, k as many leading singular values as have together at most the share ``alpha``
    of their sum.
    """
    U, s, Vh = torch.linalg.svd(merged, full_matrices=False)
    k = int((s.cumsum(0) / s.sum() <= alpha).sum())  # of a merged delta of zeros: none
    U, Vh = U[:, :k], Vh[:k]
    return lam * merged + delta - U @ (U.mT @ delta @ Vh.mT) @ Vh


def whole_norm(deltas: Sequence[Tensor]) -> Tensor:
    """The Frobenius norm of the deltas of all layers together, a scalar."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(delta) for delta in deltas]))


def truncated(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (k, D_in) and B (D_out, k) of the best B A of rank k = ``rank``, or less where the delta has no more sides."""
    U, s, Vh = torch.linalg.svd(delta, full_matrices=False)
    return Vh[:rank], U[:, :rank] * s[:rank]
