"""The layer of MoE-Adapters: adapter experts beside the MLP of every block of a tower, mixed by noisy top-k routers.

The experts of a block are stacked, so a step has few operations however many experts there are, and the weights of the
k experts that a sample chose are gathered: the others are not computed.

Odd axes: E experts, k chosen, b bottleneck, L blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.parts.backbones import BesideMLP

Seen = list[tuple[Tensor, Tensor]]  # (gates, load) of every block of one forward pass


def noisy_top_k(clean_logits: Tensor, noise_std: Tensor, k: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(gates (B, E), load (E,)): softmax over the k largest logits of each sample, zero elsewhere.

    Args:
        clean_logits: (B, E). noise_std: (B, E), read only with noise. noise: (B, E) draws of N(0, 1); None: evaluation.

    The load is how many samples an expert gets: counts without noise or with k = E, else the smooth estimate of Shazeer
    et al., the sum over samples of the probability that another draw of an expert's noise has it among the k largest.
    """
    logits = clean_logits if noise is None else clean_logits + noise * noise_std
    experts = logits.shape[-1]
    top, chosen = logits.topk(min(k + 1, experts), dim=-1)
    gates = torch.zeros_like(logits).scatter(-1, chosen[..., :k], top[..., :k].softmax(dim=-1))
    if noise is None or k >= experts:
        return gates, (gates > 0).sum(dim=0)
    inside = logits > top[..., k:]
    bar = torch.where(inside, top[..., k:], top[..., k - 1 : k])
    return gates, torch.special.ndtr((clean_logits - bar) / noise_std).sum(dim=0)


def _cv2(values: Tensor) -> Tensor:
    """Squared coefficient of variation over the last dimension; 0 for a single expert."""
    if values.shape[-1] == 1:
        return torch.zeros_like(values[..., 0])
    return values.var(dim=-1) / (values.mean(dim=-1) ** 2 + 1e-10)


def balance_loss(gates: Tensor, load: Tensor) -> Tensor:
    """0.01 (cv2(importance) + cv2(load)): (...) for gates (..., B, E) and load (..., E)."""
    return 0.01 * (_cv2(gates.sum(dim=-2)) + _cv2(load.to(gates.dtype)))


class AdapterExpert(nn.Module):
    """scale (W_up ReLU(W_down x + b_down) + b_up), a (..., D) -> (..., D); zero at first; dropout in the middle."""

    def __init__(self, width: int, bottleneck: int = 64, scale: float = 0.1, dropout: float = 0.1) -> None:
        super().__init__()
        self.down_proj, self.up_proj = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        self.scale, self.dropout = scale, dropout
        for weights in (self.down_proj.bias, self.up_proj.weight, self.up_proj.bias):
            nn.init.zeros_(weights)

    def forward(self, x: Tensor, add_residual: bool = False) -> Tensor:
        hidden = F.dropout(self.down_proj(x).relu(), self.dropout, self.training)
        y = self.scale * self.up_proj(hidden)
        return x + y if add_residual else y


class Stack(NamedTuple):
    """The experts of a block, stacked."""

    down_EbD: Tensor
    down_bias_Eb: Tensor
    up_EDb: Tensor
    up_bias_ED: Tensor
    scale: float = 0.1
    dropout: float = 0.0  # as it acts: 0 at evaluation


def stacked(experts: Sequence[AdapterExpert]) -> Stack:
    """Experts of one scale and dropout as one stack; gradients reach them."""
    pairs = [(expert.down_proj, expert.up_proj) for expert in experts]
    first = experts[0]
    return Stack(
        torch.stack([down.weight for down, _ in pairs]),
        torch.stack([down.bias for down, _ in pairs]),
        torch.stack([up.weight for _, up in pairs]),
        torch.stack([up.bias for _, up in pairs]),
        first.scale,
        first.dropout if first.training else 0.0,
    )


def per_block(stacks: Iterable[Tensor], scale: float, dropout: float = 0.0) -> list[Stack]:
    """The experts of each block, from the four stacks of all blocks, (L, E, ...) each."""
    blocks = zip(*(stack.unbind(0) for stack in stacks), strict=True)
    return [Stack._make([*block, scale, dropout]) for block in blocks]


def gathered(rows: Tensor, chosen_Bk: Tensor) -> Tensor:
    """(E, p, q) -> (B, k p, q). An embedding's backward adds rows up fast and, on a GPU, in a fixed order."""
    return F.embedding(chosen_Bk, rows.flatten(1)).unflatten(-1, rows.shape[1:]).flatten(1, 2)


def moe_block(
    h: Tensor,
    experts: Stack | Sequence[AdapterExpert],
    router: Tensor,
    w_noise: Tensor,
    k: int,
    eps: Tensor | None = None,
    token: int | Tensor = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """What stands beside a block's MLP: (sum_e g_e expert_e(h) (N, B, D), gates (B, E), load (E,)).

    Args:
        h: (N, B, D) after attention, before the second norm. router, w_noise: (D, E).
        eps: (B, E) router noise; None: evaluation. token: which token routes, one for all or (B,).

    Only the k chosen experts of each sample are computed: their weights are gathered, (B, k b, D).
    """
    stack = experts if isinstance(experts, Stack) else stacked(experts)
    c_BD = h[token] if isinstance(token, int) else h[token, torch.arange(h.shape[1], device=h.device)]
    with torch.autocast(h.device.type, enabled=False):
        c_BD = c_BD.to(router.dtype)
        clean_BE = c_BD @ router
        std_BE = clean_BE if eps is None else F.softplus(c_BD @ w_noise) + 0.01  # read only with noise
        gates_BE, load_E = noisy_top_k(clean_BE, std_BE, k, eps)
    gates_Bk, chosen_Bk = gates_BE.topk(min(k, gates_BE.shape[-1]), dim=-1)
    h_BND = h.transpose(0, 1)
    bias_B1kb = gathered(stack.down_bias_Eb[:, :, None], chosen_Bk).mT
    hidden_BNkb = torch.baddbmm(bias_B1kb, h_BND, gathered(stack.down_EbD, chosen_Bk).mT)
    hidden_BNkb = F.dropout(hidden_BNkb.relu(), stack.dropout, stack.dropout > 0)
    weights_B1kb = gates_Bk.repeat_interleave(stack.down_EbD.shape[1], dim=1)[:, None]
    bias_B1D = (gates_BE @ stack.up_bias_ED)[:, None]
    out_BND = torch.baddbmm(bias_B1D, hidden_BNkb * weights_B1kb, gathered(stack.up_EDb.mT, chosen_Bk))
    return (stack.scale * out_BND).transpose(0, 1), gates_BE, load_E


def favourites(counts: Tensor, frozen: Tensor, top: int) -> Tensor:
    """(..., E) frozen experts once the ``top`` most often chosen are among them; counts: (..., E)."""
    return frozen.scatter(-1, counts.topk(min(top, counts.shape[-1]), dim=-1).indices, True)


def frozen_share(seen: Seen, frozen_LE: Tensor) -> Tensor:
    """The share of the gate mass that frozen experts hold, a scalar, over the blocks of any number of passes."""
    mass_LE = torch.stack([gates.sum(dim=0) for gates, _ in seen]).unflatten(0, (-1, len(frozen_LE))).sum(0)
    return (mass_LE * frozen_LE).sum() / mass_LE.sum()


def mixture_beside(
    experts: Sequence[Stack],
    routers_LDE: Tensor,
    noises_LDE: Tensor | None,
    k: int,
    token: int | Tensor = 0,
    seen: Seen | None = None,
) -> BesideMLP:
    """The hook for one forward pass of a tower, :func:`moe_block` beside the MLP of every block.

    Args:
        noises_LDE: None for no router noise. token: which token routes. seen: takes the gates and load of every block.
    """
    routers = routers_LDE.unbind(0)
    noises = routers if noises_LDE is None else noises_LDE.unbind(0)  # read only with noise

    def beside_mlp(layer: int, h_BND: Tensor) -> Tensor:
        router_DE, eps_BE = routers[layer], None
        if noises_LDE is not None:
            eps_BE = torch.randn(len(h_BND), router_DE.shape[1], device=h_BND.device, dtype=router_DE.dtype)
        h_NBD = h_BND.transpose(0, 1)
        out_NBD, gates_BE, load_E = moe_block(h_NBD, experts[layer], router_DE, noises[layer], k, eps_BE, token)
        if seen is not None:
            seen.append((gates_BE, load_E))
        return out_NBD.transpose(0, 1)

    return beside_mlp
