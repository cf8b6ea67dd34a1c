"""LPI's prompts: low-rank factors that compose them, and the interaction of the two modalities' prompts.

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
