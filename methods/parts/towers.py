"""The transformers of a CLIP, attention unfused, with one seam for whatever a method hangs on them.

A :class:`Tower` runs its transformer blocks itself, so prompts, prefixes, adapters beside the MLP and observers need no
patch of a block. Attention's fused ``in_proj`` is split on load into ``q, k, v, out`` linear layers, which PEFT's plain
``lora.Linear`` adapts correctly; outputs agree with open_clip's to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import Attention as TimmAttention
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from methods.parts.lean_layers import SideBySide

PLACES = ("q", "k", "v", "out", "fc1", "fc2")

EditTokens = Callable[[int, Tensor], Tensor]
Prefix = Callable[[int], tuple[Tensor, Tensor] | None]
BesideMLP = Callable[[int, Tensor], Tensor | None]
Observe = Callable[[int, Tensor], None]


class Block(nn.Module):
    """A pre-norm transformer block with the six linear layers named as in :data:`PLACES`."""

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    out: nn.Linear
    fc1: nn.Linear
    fc2: nn.Linear
    act: nn.Module
    norm1: nn.Module
    norm2: nn.Module
    scale1: nn.Module
    scale2: nn.Module

    def __init__(self, heads: int, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.heads, self._side_by_side = heads, SideBySide()
        for name, part in parts.items():
            self.add_module(name, part)

    def attend(self, x_BND: Tensor, mask: Tensor | None, prefix: tuple[Tensor, Tensor] | None) -> Tensor:
        """Self-attention; ``prefix`` = (keys, values), each (B or 1, length, D), stand in front of the tokens' own."""
        layers = (self.q, self.k, self.v)
        q, k, v = self._side_by_side(layers, x_BND) or (layer(x_BND) for layer in layers)
        if prefix is not None:
            k = torch.cat([prefix[0].expand(len(k), -1, -1), k], dim=1)
            v = torch.cat([prefix[1].expand(len(v), -1, -1), v], dim=1)
            mask = None if mask is None else F.pad(mask, (prefix[0].shape[1], 0))  # every token sees the prefix
        q, k, v = (t.view(*t.shape[:2], self.heads, -1).transpose(1, 2) for t in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))

    def mlp(self, x_BND: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x_BND)))


class Tower(nn.Module):
    """Embeds its input, runs its blocks, pools. Subclasses give ``embed`` and ``pool`` for one architecture."""

    blocks: Any
    rest: Any

    def embed(self, inputs: Tensor) -> Tensor:
        """Images or token ids -> (B, N, D)."""
        raise NotImplementedError

    def pool(self, x_BND: Tensor, inputs: Tensor) -> Tensor:
        """Tokens after the last block -> (B, E), not normalised."""
        raise NotImplementedError

    def mask(self, tokens: int) -> Tensor | None:
        """Additive attention mask (N, N), None for full attention."""
        return None

    def forward(
        self,
        inputs: Tensor,
        edit_tokens: EditTokens | None = None,
        prefix: Prefix | None = None,
        beside_mlp: BesideMLP | None = None,
        observe: Observe | None = None,
    ) -> Tensor:
        """(B, 3, H, W) images or (B, N) token ids -> (B, E) features, not normalised.

        Args:
            edit_tokens: ``fn(layer, x_BND) -> x_BND`` on the input of a block (prompts).
            prefix: ``fn(layer) -> (keys, values)`` put in front of a block's own (prefix tuning), None for none.
            beside_mlp: ``fn(layer, h_BND) -> delta_BND`` added to the MLP's output, h its input before the norm.
            observe: ``fn(layer, x_BND)`` sees the input of a block's attention, after the norm.
        """
        x = self.embed(inputs)
        for layer in range(len(self.blocks)):
            if edit_tokens is not None:
                x = edit_tokens(layer, x)
            h = self.attended(layer, x, prefix, observe)
            x = self.transformed(layer, h)
            if beside_mlp is not None and (delta := beside_mlp(layer, h)) is not None:
                x = x + delta
        return self.pool(x, inputs)

    def attended(
        self, layer: int, x_BND: Tensor, prefix: Prefix | None = None, observe: Observe | None = None
    ) -> Tensor:
        """The first half of a block: x plus what attention adds, (B, N, D)."""
        block = self.blocks[layer]
        normed = block.norm1(x_BND)
        if observe is not None:
            observe(layer, normed)
        mask = self.mask(x_BND.shape[1])
        return x_BND + block.scale1(block.attend(normed, mask, prefix(layer) if prefix is not None else None))

    def transformed(self, layer: int, h_BND: Tensor) -> Tensor:
        """The second half of a block: h plus what the MLP adds, (B, N, D)."""
        block = self.blocks[layer]
        return h_BND + block.scale2(block.mlp(block.norm2(h_BND)))


class OpenClipImageTower(Tower):
    """open_clip's own vision transformer."""

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_from_open_clip(block) for block in visual.transformer.resblocks)
        visual.transformer.resblocks = nn.ModuleList()
        self.rest = visual

    def embed(self, inputs: Tensor) -> Tensor:
        return self.rest._embeds(inputs)

    def pool(self, x_BND: Tensor, inputs: Tensor) -> Tensor:
        pooled, _ = self.rest._pool(x_BND)
        return pooled if self.rest.proj is None else pooled @ self.rest.proj


class TimmImageTower(Tower):
    """A timm vision transformer inside an open_clip model (BiomedCLIP's, for one)."""

    def __init__(self, visual: TimmModel) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_from_timm(block) for block in visual.trunk.blocks)
        visual.trunk.blocks = nn.Sequential()
        self.rest = visual

    def embed(self, inputs: Tensor) -> Tensor:
        trunk = self.rest.trunk
        return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(inputs))))

    def pool(self, x_BND: Tensor, inputs: Tensor) -> Tensor:
        trunk = self.rest.trunk
        return self.rest.head(trunk.forward_head(trunk.norm(x_BND)))


class TextTower(Tower):
    """open_clip's own text transformer; a CLIP keeps its parts itself, a CustomTextCLIP in ``.text``."""

    causal: Tensor | None

    def __init__(self, text: Any) -> None:
        super().__init__()
        if getattr(text, "cls_emb", None) is not None or getattr(text, "use_pad_mask", False):
            raise ValueError("text towers with a class token or a padding mask (CoCa) are not supported")
        self.blocks = nn.ModuleList(_from_open_clip(block) for block in text.transformer.resblocks)
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection
        self.pool_type = getattr(text, "text_pool_type", None) or text.pool_type
        self.eos_id = getattr(text, "text_eos_id", getattr(text, "eos_id", None))
        self.register_buffer("causal", text.attn_mask, persistent=False)

    def embed(self, inputs: Tensor) -> Tensor:
        return self.token_embedding(inputs) + self.positional_embedding[: inputs.shape[1]]

    def mask(self, tokens: int) -> Tensor | None:
        return None if self.causal is None else self.causal[:tokens, :tokens]

    def ends(self, tokens_BN: Tensor) -> Tensor:
        """(B,) the position that is pooled: in a causal tower the one that has seen the whole text."""
        if self.pool_type == "argmax":
            return tokens_BN.argmax(dim=1)
        if self.pool_type == "eos":
            return tokens_BN.eq(self.eos_id).int().argmax(dim=1)  # type: ignore[arg-type]
        return torch.full_like(tokens_BN[:, 0], tokens_BN.shape[1] - 1)

    def pool(self, x_BND: Tensor, inputs: Tensor) -> Tensor:
        pooled = open_clip.transformer.text_global_pool(self.ln_final(x_BND), inputs, self.pool_type, self.eos_id)
        if self.text_projection is None:
            return pooled
        return self.text_projection(pooled) if callable(self.text_projection) else pooled @ self.text_projection


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def _split(weight: Tensor, bias: Tensor | None) -> dict[str, nn.Linear]:
    """A fused (3 D, D) projection as three layers."""
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    return {name: _linear(w, b) for name, w, b in zip("qkv", weight.chunk(3), biases, strict=True)}


def _from_open_clip(block: Any) -> Block:
    if not isinstance(block, open_clip.transformer.ResidualAttentionBlock):
        raise ValueError(f"blocks of type {type(block).__name__} are not supported")
    attn, mlp = block.attn, block.mlp
    parts = {"norm1": block.ln_1, "out": attn.out_proj, "scale1": block.ls_1, "norm2": block.ln_2, "scale2": block.ls_2}
    parts |= _split(attn.in_proj_weight, attn.in_proj_bias)
    return Block(attn.num_heads, parts | {"fc1": mlp.c_fc, "act": mlp.gelu, "fc2": mlp.c_proj})


def _from_timm(block: Any) -> Block:
    if not isinstance(block, TimmBlock) or type(block.attn) is not TimmAttention:
        raise ValueError(f"vision blocks of type {type(block).__name__} are not supported")
    attn, mlp = block.attn, block.mlp
    special = (attn.q_norm, attn.k_norm, attn.norm, mlp.norm)
    if attn.gate is not None or not all(isinstance(part, nn.Identity) for part in special):
        raise ValueError("vision towers with normalised or gated attention are not supported")
    parts: dict[str, Any] = {"norm1": block.norm1, "scale1": block.ls1, "norm2": block.norm2, "scale2": block.ls2}
    parts |= {"out": attn.proj} | _split(attn.qkv.weight, attn.qkv.bias)
    return Block(attn.num_heads, parts | {"fc1": mlp.fc1, "act": mlp.act, "fc2": mlp.fc2})
