"""Prompts as tokens of a tower: put behind the first token, added in later layers, with room made for them in a text.

Odd axes: P prompts, L layers with prompts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.parts.backbones import Backbone, EditTokens, TextTower, Tower


class PromptedTowers:
    """Both towers of a CLIP with prompts as tokens: V in images, T in texts, (L, P, D) each, None for none.

    Args:
        prompts: P. depth: in how many layers they act.

    Raises:
        ValueError: the text encoder takes no tokens, or its context has no room.
    """

    def __init__(self, backbone: Backbone, prompts: int, depth: int) -> None:
        if not isinstance(backbone.text, TextTower):
            kind = type(backbone.text).__name__
            raise ValueError(f"backbone {backbone.name!r} has a text encoder, {kind}, that takes no prompts")
        context = len(backbone.text.positional_embedding)
        if prompts + 3 > context:
            raise ValueError(f"{prompts} prompts leave no room for words in a context of {context} tokens")
        self.prompts, self.depth = prompts, depth
        self.tower_of_images, self.tower_of_texts = backbone.image, backbone.text
        self.dummy = int(backbone.tokenizer(["X X X"])[0, 1])
        self.widths: tuple[int, int] = backbone.width, backbone.text.positional_embedding.shape[1]

    def with_room(self, tokens_BN: Tensor) -> Tensor:
        return with_room(tokens_BN, self.tower_of_texts, self.dummy, self.prompts)

    def image(self, images_BCHW: Tensor, visual_LPD: Tensor | None = None) -> Tensor:
        """(B, E) features; the first layer's prompts pass the norm that the embedding ends with."""
        tower = self.tower_of_images
        if visual_LPD is None:
            return tower(images_BCHW)
        first_PD = norm_before(tower)(visual_LPD[0])
        return tower(images_BCHW, edit_tokens=prompted(first_PD, visual_LPD, self.depth, insert=True))

    def text(self, tokens_BN: Tensor, textual_LPD: Tensor | None = None) -> Tensor:
        """(B, E) features of texts that have room for the prompts, at whose places these stand."""
        tower = self.tower_of_texts
        if textual_LPD is None:
            return tower(tokens_BN)
        first_PD = textual_LPD[0] + tower.positional_embedding[1 : 1 + self.prompts]
        return tower(tokens_BN, edit_tokens=prompted(first_PD, textual_LPD, self.depth, insert=False))


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
