"""Adapters that join towers: mixtures of experts beside the MLP, in which one modality attends to the other.

The towers run block by block in lock step, their last blocks paired (of 4 and 2 blocks the third with the first); a
block without a partner, or a tower that runs alone, has the same adapters without attention to another one. The
experts of a tower are stacked over blocks and experts, and only the k that a sample chose are computed.

Legend: M modalities, N tokens, B batch, D width, E experts (of features: the embedding), k chosen, r bottleneck,
L blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.parts.backbones import TextTower, Tower
from methods.parts.mixture import Stack, like, noisy_top_k


class Factors(NamedTuple):
    """All that the adapters of a tower are made of, stacked over blocks; ``router`` takes the tower's own token."""

    down: Tensor  # (L, E, r, D)
    down_bias: Tensor  # (L, E, r)
    up: Tensor  # (L, E, D, r)
    up_bias: Tensor  # (L, E, D)
    router: Tensor  # (L, D, E)


class Mixing(NamedTuple):
    """How the experts are mixed; ``noise`` is the router's, as it acts: 0 at evaluation."""

    top_k: int
    scale: float
    attend: bool  # C
    normed: bool  # experts and router read what the MLP reads
    noise: float


def cross_adapter(
    hidden: Sequence[Tensor],
    experts: Sequence[Stack],
    routers: Sequence[Tensor],
    k: int,
    tokens: Sequence[int | Tensor] | None = None,
    attend: bool = True,
    masks: Sequence[Tensor | None] | None = None,
    eps: Tensor | None = None,
) -> tuple[list[Tensor], Tensor]:
    """What stands beside the MLPs of one block of M modalities: (deltas (B, N_m, D_m) each, gates (B, E)).

    Args:
        hidden: X_m (B, N_m, D_m). experts: of each modality, with one r. routers: (D_m, E), the rows of R one above
            the other; a modality that is not there counts as a zero vector.
        tokens: which token of each modality routes, one for all or (B,); the first by default.
        attend: False removes C_m.
        masks: (B, N_m) bool, the tokens that others may attend to; None for all.
        eps: (B, E) added to the router's logits; None: no noise.
    """
    logits_BE = _logits(hidden, routers, tokens or [0] * len(hidden))
    gates_BE, _ = noisy_top_k(logits_BE if eps is None else logits_BE + eps, logits_BE, k)
    gates_Bk, chosen_Bk = gates_BE.topk(min(k, gates_BE.shape[-1]), dim=-1)

    def gathered(rows: Tensor) -> Tensor:
        """(E, p, q) -> (B, k p, q). An embedding's backward adds rows up fast and, on a GPU, in a fixed order."""
        return F.embedding(chosen_Bk, rows.flatten(1)).unflatten(-1, rows.shape[1:]).flatten(1, 2)

    z_MBkNr, deltas = [], []
    for h_BND, expert in zip(hidden, experts, strict=True):
        z = torch.baddbmm(gathered(expert.down_bias_Eb[:, :, None]).mT, h_BND, gathered(expert.down_EbD).mT)
        z_MBkNr.append(z.unflatten(-1, (chosen_Bk.shape[1], -1)).transpose(1, 2))
    for m, (expert, z_BkNr) in enumerate(zip(experts, z_MBkNr, strict=True)):
        mixed = z_BkNr
        if attend and len(hidden) > 1:
            others_BkNr = torch.cat([z for o, z in enumerate(z_MBkNr) if o != m], dim=2)
            mixed = mixed + F.scaled_dot_product_attention(z_BkNr, others_BkNr, others_BkNr, _mask(z_MBkNr, masks, m))
        weighted_BNkr = (mixed.relu() * gates_Bk[:, :, None, None]).transpose(1, 2).flatten(2)
        bias_B1D = (gates_BE @ expert.up_bias_ED)[:, None]
        deltas.append(expert.scale * torch.baddbmm(bias_B1D, weighted_BNkr, gathered(expert.up_EDb.mT)))
    return deltas, gates_BE


def _logits(hidden: Sequence[Tensor], routers: Sequence[Tensor], tokens: Sequence[int | Tensor]) -> Tensor:
    """(B, E) logits of the concatenated routing tokens, in the router's precision."""
    with torch.autocast(hidden[0].device.type, enabled=False):
        rows = torch.arange(len(hidden[0]), device=hidden[0].device)
        chosen = [h[:, at] if isinstance(at, int) else h[rows, at] for h, at in zip(hidden, tokens, strict=True)]
        parts = [c.to(router.dtype) @ router for c, router in zip(chosen, routers, strict=True)]
        return torch.stack(parts).sum(dim=0)


def _mask(z_MBkNr: Sequence[Tensor], masks: Sequence[Tensor | None] | None, m: int) -> Tensor | None:
    """(B, 1, 1, rows of the others) bool, None if all may be attended to."""
    if masks is None or all(mask is None for o, mask in enumerate(masks) if o != m):
        return None
    rows = []
    for o, (z, mask) in enumerate(zip(z_MBkNr, masks, strict=True)):
        if o != m:
            rows.append(torch.ones(len(z), z.shape[2], dtype=torch.bool, device=z.device) if mask is None else mask)
    return torch.cat(rows, dim=1)[:, None, None]


class TowerAdapters(nn.Module):
    """The experts of all blocks of one tower, zero at first, and the tower's share of every router."""

    def __init__(self, tower: Tower, experts: int, bottleneck: int) -> None:
        super().__init__()
        layers, width = len(tower.blocks), tower.blocks[0].norm1.normalized_shape[0]
        bound = 1 / math.sqrt(width)
        self.down = nn.Parameter(torch.empty(layers, experts, bottleneck, width).uniform_(-bound, bound))
        self.down_bias = nn.Parameter(torch.zeros(layers, experts, bottleneck))
        self.up = nn.Parameter(torch.zeros(layers, experts, width, bottleneck))
        self.up_bias = nn.Parameter(torch.zeros(layers, experts, width))
        self.routers = nn.ParameterList()

    def add_router(self) -> None:
        """A router of zeros; the earlier ones are done."""
        self.routers.requires_grad_(False)
        layers, experts, _, width = self.down.shape
        self.routers.append(nn.Parameter(torch.zeros(layers, width, experts, device=self.down.device)))

    def stacks(self) -> list[nn.Parameter]:
        return [self.down, self.down_bias, self.up, self.up_bias]

    def factors(self, route: int, frozen_LE: Tensor) -> Factors:
        """Live factors under one router; the gradient of a frozen expert is exactly zero."""
        stacks: list[Tensor] = list(self.stacks())
        if torch.is_grad_enabled():
            stacks = [torch.where(like(frozen_LE, stack), stack.detach(), stack) for stack in stacks]
        return Factors._make([*stacks, self.routers[route]])


def in_step(
    towers: Sequence[Tower],
    inputs: Sequence[Tensor],
    factors: Sequence[Factors],
    mixing: Mixing,
    seen: Sequence[list[Tensor]] | None = None,
) -> list[Tensor]:
    """Features (B, E) of each tower, all run block by block, the last blocks paired.

    Args:
        inputs: normalised images or token ids. seen: takes the gates (B, E) of every block, a list per tower.
    """
    x, tokens, masks = [], [], []
    for tower, given in zip(towers, inputs, strict=True):
        x.append(tower.embed(given))
        ends_B = tower.ends(given) if isinstance(tower, TextTower) else None
        tokens.append(0 if ends_B is None else ends_B)
        positions_N = torch.arange(x[-1].shape[1], device=given.device)
        masks.append(None if ends_B is None else positions_N <= ends_B[:, None])
    blocks = [list(map(Factors._make, zip(*(part.unbind(0) for part in own), strict=True))) for own in factors]
    depth = max(len(tower.blocks) for tower in towers)
    for step in range(depth):
        acting = [m for m, tower in enumerate(towers) if step >= depth - len(tower.blocks)]
        layers = {m: step - depth + len(towers[m].blocks) for m in acting}
        here = [blocks[m][layers[m]] for m in acting]
        h = [towers[m].attended(layers[m], x[m]) for m in acting]
        eps_BE = None
        if mixing.noise:
            eps_BE = mixing.noise * torch.randn(len(h[0]), here[0].router.shape[1], device=h[0].device)
        deltas, gates_BE = cross_adapter(
            [towers[m].blocks[layers[m]].norm2(h_BND) for m, h_BND in zip(acting, h, strict=True)]
            if mixing.normed
            else h,
            [Stack(*block[:4], scale=mixing.scale) for block in here],
            [block.router for block in here],
            mixing.top_k,
            [tokens[m] for m in acting],
            mixing.attend,
            [masks[m] for m in acting],
            eps_BE,
        )
        for m, h_BND, delta_BND in zip(acting, h, deltas, strict=True):
            x[m] = towers[m].transformed(layers[m], h_BND) + delta_BND
            if seen is not None:
                seen[m].append(gates_BE)
    return [tower.pool(x[m], inputs[m]) for m, tower in enumerate(towers)]


def freeze(influence_LE: Tensor, frozen_LE: Tensor, top: int, keep: int) -> Tensor:
    """(L, E) frozen experts once the ``top`` most influential of each block are, as long as ``keep`` stay free."""
    order_LE = influence_LE.argsort(dim=-1, descending=True, stable=True)
    wanted_LE = torch.arange(order_LE.shape[1], device=order_LE.device) < top
    wanted_LE = wanted_LE & ~frozen_LE.gather(-1, order_LE)
    room_L1 = order_LE.shape[1] - keep - frozen_LE.sum(dim=-1, keepdim=True)
    wanted_LE = wanted_LE & (wanted_LE.cumsum(dim=-1) <= room_L1)
    return frozen_LE | torch.zeros_like(frozen_LE).scatter(-1, order_LE, wanted_LE)
