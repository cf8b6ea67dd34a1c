"""Losses on how samples and modalities stand to each other: alignment, preservation of relations, distillation.

Odd axes: M modalities, P pairs of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def align(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """L_align, a scalar: supervised contrast between modalities.

    Args:
        features: (M, B, E) unit features, M >= 2. labels: (B,).
    """
    log_MMBB = (torch.einsum("mie,nje->mnij", features, features) / temperature).log_softmax(dim=-1)
    positives_BB = (labels[:, None] == labels).to(features.dtype)
    loss_MMB = -(log_MMBB * positives_BB).sum(dim=-1) / positives_BB.sum(dim=-1)
    modalities = len(features)
    others_MM = 1 - torch.eye(modalities, dtype=features.dtype, device=features.device)
    return (loss_MMB.mean(dim=-1) * others_MM).sum() / (modalities * (modalities - 1))


def relations(features: Tensor, temperature: float) -> Tensor:
    """(M (M + 1) / 2, B, B) relations R^mn, rows sum to 1; pairs (0, 0), (0, 1), ..., (1, 1), ...; no sample to itself.

    Args:
        features: (M, B, E) unit features.
    """
    first_P, second_P = torch.triu_indices(len(features), len(features), device=features.device)
    logits_PBB = features[first_P] @ features[second_P].mT / temperature
    itself_BB = torch.eye(features.shape[1], dtype=torch.bool, device=features.device)
    itself_PBB = (first_P == second_P)[:, None, None] & itself_BB
    # the lowest number, not -inf: a batch of one sample has no other
    return logits_PBB.masked_fill(itself_PBB, torch.finfo(logits_PBB.dtype).min).softmax(-1).masked_fill(itself_PBB, 0)


def preserve(old: Tensor, new: Tensor) -> Tensor:
    """L_pres, a scalar: the mean KL(old || new) over the rows of two :func:`relations`; old is a constant."""
    old, tiny = old.detach(), torch.finfo(new.dtype).tiny
    return (old * (old.clamp_min(tiny).log() - new.clamp_min(tiny).log())).sum(dim=-1).mean()


def distil(new: Tensor, old: Tensor, temperature: float) -> Tensor:
    """L_dist, a scalar: T^2 mean KL of softmax(old / T) to softmax(new / T) over the first classes of new.

    Args:
        new: (B, C) logits, C >= C_old. old: (B, C_old).
    """
    log_new, log_old = ((x / temperature).log_softmax(dim=-1) for x in (new[:, : old.shape[1]], old.detach()))
    return temperature**2 * F.kl_div(log_new, log_old, reduction="batchmean", log_target=True)
