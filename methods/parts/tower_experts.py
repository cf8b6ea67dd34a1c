"""The adapter experts of whole towers, stacked over blocks and experts, some of them frozen, and their routers.

Which experts are frozen stands in the method's memory, ``frozen_image`` and ``frozen_text``, (L, E) bool each. Frozen
and free ones are rows of one parameter, so a frozen one is kept by two means: its gradient is exactly zero, and where
weight decay moves it all the same, it is put back after every step.

Odd axes: E experts, b bottleneck, L blocks.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from methods.parts.backbones import Tower
from methods.parts.memory import Memory
from methods.parts.mixture import Stack, per_block


class TowerExperts(nn.Module):
    """The experts of all blocks of one tower, silent at first, and the routers of every task."""

    def __init__(self, tower: Tower, experts: int, bottleneck: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        layers, width = len(tower.blocks), tower.blocks[0].norm1.normalized_shape[0]
        bound = 1 / math.sqrt(width)  # Kaiming with a = sqrt 5
        self.down = nn.Parameter(torch.empty(layers, experts, bottleneck, width).uniform_(-bound, bound))
        self.down_bias = nn.Parameter(torch.zeros(layers, experts, bottleneck))
        self.up = nn.Parameter(torch.zeros(layers, experts, width, bottleneck))
        self.up_bias = nn.Parameter(torch.zeros(layers, experts, width))
        self.routers, self.noises = nn.ParameterList(), nn.ParameterList()
        self.scale, self.dropout = scale, dropout

    def add_router(self, noise: bool = False) -> None:
        """A router of zeros (L, D, E) for the next task, and its noise if asked for; the earlier ones are done."""
        layers, experts, _, width = self.down.shape
        for part in (self.routers, self.noises) if noise else (self.routers,):
            part.requires_grad_(False)
            part.append(nn.Parameter(torch.zeros(layers, width, experts, device=self.down.device)))

    def stacks(self) -> list[nn.Parameter]:
        return [self.down, self.down_bias, self.up, self.up_bias]

    def blocks(self, frozen_LE: Tensor) -> list[Stack]:
        """The live experts of each block: frozen ones without gradient, dropout in training mode."""
        stacks = [without_gradient(stack, frozen_LE) for stack in self.stacks()]
        return per_block(stacks, self.scale, self.dropout if self.training else 0.0)


class ExpertTowers(nn.ModuleDict):
    """:class:`TowerExperts` by the name of their tower, ``image`` and ``text``."""

    def __getitem__(self, name: str) -> TowerExperts:
        return cast(TowerExperts, super().__getitem__(name))

    def grow(self, name: str, experts: TowerExperts, memory: Memory) -> None:
        """Take in the experts of a tower, none of them frozen."""
        self[name] = experts.train(self.training)
        memory[f"frozen_{name}"] = torch.zeros(experts.up_bias.shape[:2], dtype=torch.bool, device=experts.up.device)

    def trainable(self) -> list[nn.Parameter]:
        """All experts (the gradient of a frozen one is zero) and the last router of each tower."""
        towers = [self[name] for name in self]
        return [p for tower in towers for p in (*tower.stacks(), *tower.routers[-1:], *tower.noises[-1:])]

    def put_back_after(self, optimizer: torch.optim.Optimizer, memory: Memory) -> None:
        """Against weight decay: after every step the frozen experts are what they are now."""
        kept = [
            (stack, like(memory[f"frozen_{name}"], stack), stack.detach().clone())
            for name in self
            for stack in self[name].stacks()
        ]

        @torch.no_grad()
        def put_back(*_: object) -> None:
            for stack, mask, before in kept:
                stack.copy_(torch.where(mask, before, stack))

        optimizer.register_step_post_hook(put_back)


def without_gradient(stack: Tensor, frozen_LE: Tensor) -> Tensor:
    """The stack (L, E, ...) itself, whose gradient is exactly zero where an expert is frozen."""
    view = stack.view_as(stack)
    if view.requires_grad:
        view.register_hook(lambda grad: grad.masked_fill(like(frozen_LE, grad), 0))
    return view


def like(mask_LE: Tensor, stack: Tensor) -> Tensor:
    """The mask with as many dimensions as the stack."""
    return mask_LE.view(*mask_LE.shape, *[1] * (stack.dim() - 2))
