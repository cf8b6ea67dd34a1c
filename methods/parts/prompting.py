"""Prompts as tokens of a tower: put behind the first token, added in later layers, with room made for them in a text.

Legend: B batch, N tokens, P prompts, D width, L layers with prompts, C classes, Q class prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.stream import Label
from methods.parts.backbones import Backbone, EditTokens, Tower


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


def class_prompts(backbone: Backbone, labels: Sequence[Label], dummy: int, length: int) -> tuple[Tensor, Tensor]:
    """The prompts of labels, with room, (Q, N), and what takes the mean over each label's, (C, Q); on the CPU."""
    text: Any = backbone.text
    tokens_QN = backbone.tokenizer([prompt for label in labels for prompt in label.prompts])
    tokens_QN = with_room(tokens_QN, text, dummy, length)
    if text.causal is not None:  # nothing sees what is behind the end
        tokens_QN = tokens_QN[:, : int(text.ends(tokens_QN).max()) + 1]
    counts_C = torch.tensor([len(label.prompts) for label in labels])
    return tokens_QN, torch.eye(len(labels)).div(counts_C[:, None]).repeat_interleave(counts_C, dim=1)
