"""Prompts as tokens of a tower: put behind the first token, added in later layers, with room made for them in a text.

Odd axes: P prompts, L layers with prompts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.parts.backbones import EditTokens, TextTower, Tower


def prompted(first_PD: Tensor, prompts_LPD: Tensor, depth: int, insert: bool) -> EditTokens:
    """The hook that puts ``first`` behind token 0, in between or in place, and adds the prompts of the later layers."""
    length = len(first_PD)

    def edit(layer: int, x_BND: Tensor) -> Tensor:
        if layer == 0:
            first_BPD = first_PD.to(x_BND.dtype).expand(len(x_BND), -1, -1)
            return torch.cat([x_BND[:, :1], first_BPD, x_BND[:, 1 if insert else 1 + length :]], dim=1)
        if layer < depth:
            return x_BND + F.pad(prompts_LPD[layer].to(x_BND.dtype), (0, 0, 1, x_BND.shape[1] - 1 - length))
        return x_BND

    return edit


def prompted_image(tower: Tower, images_BCHW: Tensor, prompts_LPD: Tensor, depth: int) -> Tensor:
    """(B, E) features of images; the first layer's prompts pass the norm that the embedding ends with."""
    first_PD = norm_before(tower)(prompts_LPD[0])
    return tower(images_BCHW, edit_tokens=prompted(first_PD, prompts_LPD, depth, insert=True))


def prompted_text(tower: TextTower, tokens_BN: Tensor, prompts_LPD: Tensor, depth: int) -> Tensor:
    """(B, E) features of texts that have room for the prompts, which take the place's positional embedding."""
    first_PD = prompts_LPD[0] + tower.positional_embedding[1 : 1 + prompts_LPD.shape[1]]
    return tower(tokens_BN, edit_tokens=prompted(first_PD, prompts_LPD, depth, insert=False))


def norm_before(tower: Tower) -> nn.Module:
    """What a tower's embedding ends with: a norm, token by token, that inserted prompts need as well."""
    return getattr(tower.rest, "ln_pre", None) or tower.rest.trunk.norm_pre


def with_room(tokens_BN: Tensor, tower: Any, dummy: int, length: int) -> Tensor:
    """(B, N) the texts with ``length`` dummies behind their first token; what no longer fits loses its last words."""
    end_B, room = tower.ends(tokens_BN), tokens_BN.new_full((len(tokens_BN), length), dummy)
    moved_BN = torch.cat([tokens_BN[:, :1], room, tokens_BN[:, 1:-length]], dim=1)
    lost_B = end_B + length >= tokens_BN.shape[1]
    last_B = torch.where(lost_B, tokens_BN.gather(1, end_B[:, None])[:, 0], moved_BN[:, -1])
    return torch.cat([moved_BN[:, :-1], last_B[:, None]], dim=1)
