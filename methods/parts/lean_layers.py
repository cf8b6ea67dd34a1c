"""PEFT's LoRA layer in fewer operators, and the q, k, v of a block as one product where all three are adapted alike.

y = W x + b + sum_i s_i B_i A_i x. A live LoRA takes three products forward and five backward, where PEFT's own forward
casts, drops and scales in operators of their own even where that changes nothing. PEFT's forward stays the reference,
and computes on devices on which these have not been measured.

Legend: x (N, D_in), y (N, D_out), low (N, r) = x A^T; several layers lie side by side in D_out and in r.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

DEVICES = ("cpu",)  # where this has been measured


class LeanLinear(LoraLinear):
    """PEFT's ``lora.Linear``, created, named, saved and loaded by PEFT; outputs and gradients agree to rounding."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., D_in) -> (..., D_out)."""
        if not _measured(x) or args or kwargs:
            return super().forward(x, *args, **kwargs)
        base: Any = self.base_layer
        names = _acting(self)
        if len(names) == 1 and _plain(x, base.weight, [self], names[0]):
            return _adapted(x, base.weight, base.bias, [self], names[0])
        y = F.linear(x, base.weight, base.bias)
        for name in names:
            A, B = (own[name].weight for own in (self.lora_A, self.lora_B))
            y = _plus(y, F.linear(_dropped(self, name, x), A), B, self.scaling[name])  # type: ignore[arg-type]
        return y


class SideBySide:
    """Linear layers of one input and one size as one product: their frozen weights lie one behind the other in memory.

    The layers keep their parameters, which become views of that memory, so that whatever is written into them is here.
    """

    def __init__(self) -> None:
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None

    def __call__(self, layers: Sequence[Any], x: Tensor) -> Sequence[Tensor] | None:
        """The output of every layer; None where they have to be asked one by one."""
        kinds = {type(layer) for layer in layers}
        watched = any(layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer) for layer in layers)
        if not _measured(x) or watched or kinds not in ({nn.Linear}, {LeanLinear}):
            return None
        frozen = kinds == {nn.Linear}
        bases = layers if frozen else [layer.base_layer for layer in layers]
        names, *others = ([] if frozen else _acting(layer) for layer in layers)
        if not _alike(bases) or len(names) > 1 or any(other != names for other in others):
            return None
        weight, bias = self._tied(bases)
        if names and not _plain(x, weight, layers, names[0]):
            return None
        y = _adapted(x, weight, bias, layers, names[0]) if names else F.linear(x, weight, bias)
        return y.split_with_sizes([len(weight) // len(layers)] * len(layers), -1)

    def _tied(self, layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
        """Their weights, and biases, one behind the other: a move to a device and a copy take them apart."""
        self.weight = _tied(self.weight, [layer.weight for layer in layers])
        self.bias = None if layers[0].bias is None else _tied(self.bias, [layer.bias for layer in layers])
        return self.weight, self.bias


def _measured(x: Tensor) -> bool:
    """Whether the lean way is known here; not inside ``torch.func``, whose tensors have no memory of their own."""
    return x.device.type in DEVICES and not torch._C._are_functorch_transforms_active()


class _Adapted(torch.autograd.Function):
    """y = x W^T + b, and beside it s_i low_i B_i^T for every layer i, whose A_i and B_i alone are learned."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor | None, scales: list[float], *factors: Tensor) -> Tensor:
        As, Bs = factors[: len(scales)], factors[len(scales) :]
        ctx.scales, ctx.ranks, ctx.widths = scales, [len(A) for A in As], [len(B) for B in Bs]
        flat, A = x.view(-1, x.shape[-1]), _joined(As, 0)
        low = flat.mm(A.transpose(0, 1))
        y = flat.mm(W.transpose(0, 1)) if b is None else torch.addmm(b, flat, W.transpose(0, 1))
        for y_i, low_i, B, scale in zip(_parts(y, ctx.widths, 1), _parts(low, ctx.ranks, 1), Bs, scales, strict=True):
            y_i.addmm_(low_i, B.transpose(0, 1), alpha=scale)
        ctx.save_for_backward(flat, W, low, A, *Bs)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        flat, W, low, A, *Bs = ctx.saved_tensors
        shape, dy = dy.shape, dy.reshape(-1, dy.shape[-1])
        dlows, dBs = [], []
        for dy_i, low_i, B, s in zip(_parts(dy, ctx.widths, 1), _parts(low, ctx.ranks, 1), Bs, ctx.scales, strict=True):
            dlows.append(torch.addmm(low_i, dy_i, B, beta=0, alpha=s))
            dBs.append(torch.addmm(B, dy_i.transpose(0, 1), low_i, beta=0, alpha=s))
        dlow = _joined(dlows, 1)
        dA = dlow.transpose(0, 1).mm(flat)
        dx = dy.mm(W).addmm_(dlow, A).view(*shape[:-1], -1) if ctx.needs_input_grad[0] else None
        return dx, None, None, None, *_parts(dA, ctx.ranks, 0), *dBs


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), axis)


def _parts(joined: Tensor, sizes: Sequence[int], axis: int) -> Sequence[Tensor]:
    return [joined] if len(sizes) == 1 else joined.split_with_sizes(sizes, axis)


def _adapted(x: Tensor, W: Tensor, b: Tensor | None, layers: Sequence[Any], name: str) -> Tensor:
    factors = [layer.lora_A[name].weight for layer in layers] + [layer.lora_B[name].weight for layer in layers]
    scales = [layer.scaling[name] for layer in layers]
    return _Adapted.apply(x.contiguous(), W, b, scales, *factors)


def _acting(layer: LeanLinear) -> list[str]:
    """The adapters that act in a layer."""
    return [] if layer.disable_adapters else [name for name in layer.active_adapters if name in layer.lora_A]


def _plain(x: Tensor, W: Tensor, layers: Sequence[Any], name: str) -> bool:
    """Whether an adapter's part in these layers is a product of its factors and a number, all in one precision."""
    if W.requires_grad or torch.is_autocast_enabled(x.device.type):
        return False
    drops = [layer.lora_dropout[name] for layer in layers]
    if any(drop.training and not isinstance(drop, nn.Identity) for drop in drops):
        return False
    factors = [own[name].weight for layer in layers for own in (layer.lora_A, layer.lora_B)]
    same = all(factor.dtype == W.dtype == x.dtype for factor in factors)
    return same and not any(isinstance(layer.scaling[name], Tensor) for layer in layers)


def _dropped(layer: LeanLinear, name: str, x: Tensor) -> Tensor:
    drop = layer.lora_dropout[name]
    return drop(x) if drop.training else x


def _plus(y: Tensor, low: Tensor, B: Tensor, scale: float | Tensor) -> Tensor:
    """y + scale low B^T; ``scale`` may differ between samples or be learned."""
    low, scale = (low * scale, 1.0) if isinstance(scale, Tensor) else (low, scale)
    both = torch.addmm(y.reshape(-1, y.shape[-1]), low.reshape(-1, low.shape[-1]), B.T, alpha=scale)
    return both.view(y.shape)


def _alike(layers: Sequence[nn.Linear]) -> bool:
    """Whether their weights are frozen and of one shape, with a bias in all or in none."""
    shapes = {(layer.weight.shape, layer.bias is None) for layer in layers}
    return len(shapes) == 1 and not any(p.requires_grad for layer in layers for p in layer.parameters())


@torch.no_grad()
def _tied(memory: Tensor | None, parts: Sequence[Tensor]) -> Tensor:
    """One tensor of which all of these are views, in turn: what there is already, or a new one."""
    size = parts[0].numel() * parts[0].element_size()
    if memory is not None and all(part.data_ptr() == memory.data_ptr() + i * size for i, part in enumerate(parts)):
        return memory
    memory = torch.cat([part.detach() for part in parts])
    for part, view in zip(parts, memory.chunk(len(parts)), strict=True):
        part.data = view
    return memory
