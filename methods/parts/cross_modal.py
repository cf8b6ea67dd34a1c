"""Adapters that join towers: mixtures of experts beside the MLP, in which one modality attends to the other.

The towers run block by block in lock step, their last blocks paired (of 4 and 2 blocks the third with the first); a
block without a partner, or a tower that runs alone, has the same adapters without attention to another one. Only the k
experts that a sample chose are computed.

Odd axes: M modalities, E experts (of features: the embedding), k chosen, r bottleneck, L blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.parts.backbones import TextTower, Tower
from methods.parts.memory import Memory
from methods.parts.mixture import Stack, gathered, noisy_top_k, per_block
from methods.parts.tower_experts import ExpertTowers

Gates = Mapping[str, list[Tensor]]  # by tower, (B, E) of every block of one forward pass
TEACHER = ("down", "down_bias", "up", "up_bias", "router")


class Mixing(NamedTuple):
    """How the experts are mixed; ``noise`` is the router's, as it acts: 0 at evaluation."""

    top_k: int
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
    z_MBkNr, deltas = [], []
    for h_BND, expert in zip(hidden, experts, strict=True):
        bias_B1kr = gathered(expert.down_bias_Eb[:, :, None], chosen_Bk).mT
        z = torch.baddbmm(bias_B1kr, h_BND, gathered(expert.down_EbD, chosen_Bk).mT)
        z_MBkNr.append(z.unflatten(-1, (chosen_Bk.shape[1], -1)).transpose(1, 2))
    for m, (expert, z_BkNr) in enumerate(zip(experts, z_MBkNr, strict=True)):
        mixed = z_BkNr
        if attend and len(hidden) > 1:
            others_BkNr = torch.cat([z for o, z in enumerate(z_MBkNr) if o != m], dim=2)
            mixed = mixed + F.scaled_dot_product_attention(z_BkNr, others_BkNr, others_BkNr, _mask(z_MBkNr, masks, m))
        weighted_BNkr = (mixed.relu() * gates_Bk[:, :, None, None]).transpose(1, 2).flatten(2)
        bias_B1D = (gates_BE @ expert.up_bias_ED)[:, None]
        deltas.append(expert.scale * torch.baddbmm(bias_B1D, weighted_BNkr, gathered(expert.up_EDb.mT, chosen_Bk)))
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


class Joined(NamedTuple):
    """A tower that takes part in a forward pass, its input and its adapters."""

    tower: Tower
    given: Tensor  # normalised images or token ids
    experts: Sequence[Stack]  # of each block
    router_LDE: Tensor  # the tower's share


def in_step(joined: Sequence[Joined], mixing: Mixing, seen: Sequence[list[Tensor]] | None = None) -> list[Tensor]:
    """Features (B, E) of each tower, all run block by block, the last blocks paired.

    Args:
        seen: takes the gates (B, E) of every block, a list per tower.
    """
    x, tokens, masks = [], [], []
    for tower, given, _, _ in joined:
        x.append(tower.embed(given))
        ends_B = tower.ends(given) if isinstance(tower, TextTower) else None
        tokens.append(0 if ends_B is None else ends_B)
        positions_N = torch.arange(x[-1].shape[1], device=given.device)
        masks.append(None if ends_B is None else positions_N <= ends_B[:, None])
    routers_DE = [part.router_LDE.unbind(0) for part in joined]
    depth = max(len(part.experts) for part in joined)
    for step in range(depth):
        layers = {m: step - depth + len(part.experts) for m, part in enumerate(joined)}
        acting = [m for m, layer in layers.items() if layer >= 0]
        h = [joined[m].tower.attended(layers[m], x[m]) for m in acting]
        read = h
        if mixing.normed:
            read = [joined[m].tower.blocks[layers[m]].norm2(h_BND) for m, h_BND in zip(acting, h, strict=True)]
        routers = [routers_DE[m][layers[m]] for m in acting]
        eps_BE = None
        if mixing.noise:
            eps_BE = mixing.noise * torch.randn(len(h[0]), routers[0].shape[1], device=h[0].device)
        deltas, gates_BE = cross_adapter(
            read,
            [joined[m].experts[layers[m]] for m in acting],
            routers,
            mixing.top_k,
            [tokens[m] for m in acting],
            mixing.attend,
            [masks[m] for m in acting],
            eps_BE,
        )
        for m, h_BND, delta_BND in zip(acting, h, deltas, strict=True):
            x[m] = joined[m].tower.transformed(layers[m], h_BND) + delta_BND
            if seen is not None:
                seen[m].append(gates_BE)
    return [part.tower.pool(x[m], part.given) for m, part in enumerate(joined)]


class JoinedTowers(ExpertTowers):
    """The adapters of both towers, one router a tower for each route, and a copy of them as a teacher in memory."""

    def encode(
        self,
        towers: Mapping[str, tuple[Tower, Tensor]],
        route: int | None,
        memory: Memory,
        mixing: Mixing,
        together: bool,
        seen: Gates | None = None,
    ) -> dict[str, Tensor]:
        """Features (B, E) by tower, all in step or each by itself.

        Args:
            towers: each with its input. route: whose router acts; None: the teacher's, with the teacher's experts.
        """
        features: dict[str, Tensor] = {}
        for names in [list(towers)] if together else [[name] for name in towers]:
            joined = [self.joined(name, *towers[name], route, memory) for name in names]
            gates = None if seen is None else [seen[name] for name in names]
            features |= zip(names, in_step(joined, mixing, gates), strict=True)
        return features

    def joined(self, name: str, tower: Tower, given: Tensor, route: int | None, memory: Memory) -> Joined:
        own = self[name]
        if route is None:
            *stacks, router_LDE = (memory[f"teacher_{name}_{part}"] for part in TEACHER)
            return Joined(tower, given, per_block(stacks, own.scale), router_LDE)
        return Joined(tower, given, own.blocks(memory[f"frozen_{name}"]), own.routers[route])

    def keep_teacher(self, memory: Memory) -> None:
        """Keep the experts and the last routers as they are now."""
        for name in self:
            for part, stack in zip(TEACHER, (*self[name].stacks(), self[name].routers[-1]), strict=True):
                memory[f"teacher_{name}_{part}"] = stack


def freeze(influence_LE: Tensor, frozen_LE: Tensor, top: int, keep: int) -> Tensor:
    """(L, E) frozen experts once the ``top`` most influential of each block are, as long as ``keep`` stay free."""
    order_LE = influence_LE.argsort(dim=-1, descending=True, stable=True)
    wanted_LE = torch.arange(order_LE.shape[1], device=order_LE.device) < top
    wanted_LE = wanted_LE & ~frozen_LE.gather(-1, order_LE)
    room_L1 = order_LE.shape[1] - keep - frozen_LE.sum(dim=-1, keepdim=True)
    wanted_LE = wanted_LE & (wanted_LE.cumsum(dim=-1) <= room_L1)
    return frozen_LE | torch.zeros_like(frozen_LE).scatter(-1, order_LE, wanted_LE)
