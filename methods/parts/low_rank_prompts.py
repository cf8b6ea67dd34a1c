"""LPI's prompts: the factors that compose them, what the modalities give each other, and the losses that they obey.

Odd axes: L layers with prompts, P prompts, r rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def compose_prompts(shared: Tensor, tokens: Tensor, features: Tensor) -> Tensor:
    """(..., L, P, D) prompts of all layers: 1/r sum_k A[l,k] B[p,k] C[d,k].

    Args:
        shared: A (..., L, r), common to both modalities. tokens: B (..., P, r). features: C (..., D, r).
    """
    return torch.einsum("...lk,...pk,...dk->...lpd", shared, tokens, features) / shared.shape[-1]


def interact(
    visual: Tensor, textual: Tensor, factors: Mapping[str, Tensor], mix: float = 0.1, layer: int | None = None
) -> tuple[Tensor, Tensor]:
    """Both modalities' prompts with a share of each other, (visual, textual); both from the old values.

    Args:
        visual: (..., P, D_v). textual: (..., P, D_t).
        factors: ``dim_1_v2t`` a (L, r), ``dim_2_v2t`` b (D_v + 1, r), ``dim_3_v2t`` c (D_t, r), ``*_t2v`` likewise, and
            ``weight`` and ``bias`` of ``visual_norm`` and ``textual_norm``: what :class:`PromptInteraction` names so.
        layer: whose row of a acts; None: row l on the prompts of layer l, visual and textual (..., L, P, D).
    """

    def mixed(own: Tensor, other: Tensor, way: str, norm: str) -> Tensor:
        a_Lr, b_Dr, c_Dr = (factors[f"dim_{i}_{way}"] for i in (1, 2, 3))
        a_Lr = a_Lr if layer is None else a_Lr[layer]
        W = torch.einsum("...k,ik,jk->...ij", a_Lr, b_Dr, c_Dr) / a_Lr.shape[-1]
        blend = (1 - mix) * own + mix * (other @ W[..., :-1, :] + W[..., -1:, :])
        return F.layer_norm(blend, own.shape[-1:], factors[f"{norm}.weight"], factors[f"{norm}.bias"])

    return mixed(visual, textual, "t2v", "visual_norm"), mixed(textual, visual, "v2t", "textual_norm")


def alignment_loss(visual: Tensor, textual: Tensor, form: str = "released", weight: float = 0.1) -> Tensor:
    """Scalar, ``weight`` included: layer l of one modality is to match layer l of the other.

    Args:
        visual: V (L, P, D_v), or its mean over D (L, P). textual: T (L, P, D_t), or its mean (L, P).
        form: released, G = v t^T / 0.01^2; normalised, G = 100 v t^T with rows of length 1.
    """
    visual_LP, textual_LP = (x.mean(dim=-1) if x.dim() == 3 else x for x in (visual, textual))
    if form == "normalised":
        visual_LP, textual_LP = (F.normalize(x, dim=-1) / 0.1 for x in (visual_LP, textual_LP))
    else:
        visual_LP, textual_LP = visual_LP / 0.01, textual_LP / 0.01
    G_LL = visual_LP @ textual_LP.mT
    diagonal_L = torch.arange(len(G_LL), device=G_LL.device)
    return weight * (F.cross_entropy(G_LL, diagonal_L) + F.cross_entropy(G_LL.mT, diagonal_L)) / 2


def task_contrast(
    prompts: Tensor, related: Tensor, temperature: float = 0.001, form: str = "released", guard: bool = True
) -> Tensor:
    """h(X), a scalar: the prompts of related tasks are to be alike, those of unrelated ones not.

    Args:
        prompts: X (T, ...), a task's prompts a row. related: (T, T), bool or 0 and 1, a task is related to itself.
        form: released, the logistic function twice; plain, BCE(cos / temperature).
        guard: a task related to all others has no part from unrelated ones; without it the value is NaN.
    """
    unit_TD = F.normalize(prompts.flatten(1), dim=-1)
    logits_TT, related_TT = unit_TD @ unit_TD.mT / temperature, related.bool()
    if form == "released":
        logits_TT = logits_TT.sigmoid().masked_fill(torch.eye(len(unit_TD), dtype=torch.bool, device=prompts.device), 1)
    loss_TT = F.binary_cross_entropy_with_logits(logits_TT, related_TT.to(logits_TT), reduction="none")
    h_T = torch.zeros_like(logits_TT[0])
    for chosen_TT in (related_TT, ~related_TT):
        count_T = chosen_TT.sum(dim=1)
        h_T = h_T + torch.where(chosen_TT, loss_TT, 0).sum(dim=1) / (count_T.clamp_min(1) if guard else count_T)
    return h_T.mean()


class PromptFactors(nn.Module):
    """The factors of one task's prompts, named as in the official code."""

    def __init__(self, layers: int, prompts: int, rank: int, visual: int, textual: int, init: float) -> None:
        super().__init__()
        rows = {"dim_1_share": layers, "dim_2_visual": prompts, "dim_2_textual": prompts}
        for name, count in (rows | {"dim_3_visual": visual, "dim_3_textual": textual}).items():
            self.register_parameter(name, nn.Parameter(init * torch.randn(count, rank)))


class PromptInteraction(nn.Module):
    """The interaction module of one task; its own factors for each direction, the norms shared by the layers."""

    def __init__(self, layers: int, rank: int, visual: int, textual: int) -> None:
        super().__init__()
        for way, (source, target) in {"v2t": (visual, textual), "t2v": (textual, visual)}.items():
            for i, count in enumerate((layers, source + 1, target), start=1):
                bound = rank**-0.5  # Kaiming with a = sqrt 5
                self.register_parameter(
                    f"dim_{i}_{way}", nn.Parameter(torch.empty(count, rank).uniform_(-bound, bound))
                )
        self.visual_norm, self.textual_norm = nn.LayerNorm(visual), nn.LayerNorm(textual)


def composed(tasks: Iterable[nn.Module], gain: float) -> tuple[Tensor, Tensor]:
    """V and T of some tasks, (T, L, P, D) each, in one stack; the factors are ``gain`` times the parameters."""
    tables = [dict(task.named_parameters()) for task in tasks]
    f = {name: gain * torch.stack([table[name] for table in tables]) for name in tables[0]}
    visual = compose_prompts(f["dim_1_share"], f["dim_2_visual"], f["dim_3_visual"])
    return visual, compose_prompts(f["dim_1_share"], f["dim_2_textual"], f["dim_3_textual"])


def mixed_behind_the_first(visual: Tensor, textual: Tensor, interaction: nn.Module) -> tuple[Tensor, Tensor]:
    """V and T (L, P, D) each, mixed in all layers but the first."""
    visual_LPD, textual_LPD = interact(visual, textual, dict(interaction.named_parameters()))
    return torch.cat([visual[:1], visual_LPD[1:]]), torch.cat([textual[:1], textual_LPD[1:]])
