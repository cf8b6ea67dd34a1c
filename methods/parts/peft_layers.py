"""PEFT's LoRA layers under a pool of experts: all that reads or sets what PEFT keeps to itself (as of peft 0.21.2).

PEFT's public calls do not serve here: ``inject_adapter_in_model`` makes the new adapter the active one in every layer
of the model, another pool's too; ``set_adapter`` makes whatever it names trainable; ``enable_adapters`` does both. What
acts and what takes gradients are two questions, so ``_active_adapter``, ``_disable_adapters`` and ``scaling`` are set
directly. Of a layer this relies on ``base_layer``, ``lora_A``, ``lora_B`` and ``lora_dropout`` (by adapter), and on a
forward that adds ``lora_B(lora_A(dropout(x))) * scaling`` of each active adapter.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from methods.parts.lean_layers import LeanLinear

DECODER = {  # what the places of a block are called in a language model, which has one layer more
    "q": (r"self_attn\.q_proj",), "k": (r"self_attn\.k_proj",), "v": (r"self_attn\.v_proj",),
    "out": (r"self_attn\.o_proj",), "fc1": (r"mlp\.gate_proj", r"mlp\.up_proj"), "fc2": (r"mlp\.down_proj",),
}  # fmt: skip
Layers = Sequence[Any]  # of LoraLinear
Scaling = float | Tensor


def is_factor(name: str) -> bool:
    """Whether a parameter of this full name is a factor of an adapter."""
    return ".lora_" in name


def pattern(model: nn.Module, places: Sequence[str], blocks: Iterable[int] | None = None) -> str:
    """A regular expression of the full names of the layers at these places of these blocks, all by default.

    Of a vision-language model they are the decoder's: its vision tower has layers of the same names.
    """
    which = r"\d+" if blocks is None else "|".join(str(block) for block in blocks)
    if not hasattr(model, "get_decoder"):
        return rf"((image|text)\.)?blocks\.({which})\.({'|'.join(places)})"
    language: Any = model
    decoder = language.get_decoder()
    (path,) = (name for name, module in model.named_modules() if module is decoder)
    layers = "|".join(name for place in places for name in DECODER[place])
    return rf"{re.escape(path)}\.layers\.({which})\.({layers})"


def stored_names(path: str) -> tuple[str, str]:
    """Those of A and B of the layer at ``path`` in a file of PEFT."""
    return f"base_model.model.{path}.lora_A.weight", f"base_model.model.{path}.lora_B.weight"


def dropouts(model: nn.Module) -> list[nn.Module]:
    """The dropout of every adapter's input."""
    return [drop for layer in model.modules() if isinstance(layer, LoraLinear) for drop in layer.lora_dropout.values()]


def inject(model: nn.Module, config: LoraConfig, name: str) -> None:
    """A new adapter in the layers that ``config`` targets; what acts in any layer stays as it is."""
    active = [(layer, layer._active_adapter) for layer in model.modules() if isinstance(layer, LoraLinear)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*peft_config.*")  # several adapters are the point here
        config._register_custom_module({nn.Linear: LeanLinear})
        inject_adapter_in_model(config, model, adapter_name=name)
    for layer in targets(model, config).values():
        layer.eval()  # as all of the model is
    for layer, names in active:
        layer._active_adapter = names


def targets(model: nn.Module, config: LoraConfig) -> dict[str, Any]:
    """The adapted layers that ``config`` targets, by path."""
    own = re.compile(str(config.target_modules)).fullmatch
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, LoraLinear) and own(path)}


def weight(layer: Any) -> nn.Parameter:
    """(D_out, D_in) the weight under the adapters."""
    return layer.base_layer.weight


def factors(layers: Layers, name: str) -> tuple[list[Tensor], list[Tensor]]:
    """(As, Bs) of an adapter, layer by layer: (r, D_in) and (D_out, r)."""
    return [layer.lora_A[name].weight for layer in layers], [layer.lora_B[name].weight for layer in layers]


def renew(layers: Layers, name: str) -> None:
    """The adapter's factors as PEFT draws those of a new one."""
    for layer in layers:
        layer.reset_lora_parameters(name, init_lora_weights=True)


def without_dropout(layers: Layers, name: str) -> None:
    """The adapter's input is never dropped from now on."""
    for layer in layers:
        layer.lora_dropout[name] = nn.Identity()


def show(layers: Layers, names: Sequence[str]) -> None:
    """These adapters act, at the scaling that they have."""
    for layer in layers:
        layer._disable_adapters = not names
        if names:
            layer._active_adapter = list(names)


def freeze(layers: Layers) -> None:
    """No adapter takes gradients."""
    for layer in layers:
        layer.lora_A.requires_grad_(False)
        layer.lora_B.requires_grad_(False)


@contextmanager
def scaled(layers: Layers, scalings: Mapping[str, Sequence[Scaling]]) -> Iterator[None]:
    """Inside: these adapters act, each with a scaling per layer; what takes gradients does not change."""
    before = [(layer._disable_adapters, layer._active_adapter, dict(layer.scaling)) for layer in layers]
    try:
        show(layers, list(scalings))
        for i, layer in enumerate(layers):
            layer.scaling.update({name: scaling[i] for name, scaling in scalings.items()})
        yield
    finally:
        for layer, (disabled, active, scaling) in zip(layers, before, strict=True):
            layer._disable_adapters, layer._active_adapter = disabled, active
            layer.scaling.update(scaling)


@contextmanager
def computed(layers: Layers, forward: Callable[[int, Tensor, Tensor, Tensor | None], Tensor]) -> Iterator[None]:
    """Inside: the i-th layer's output is ``forward(i, x, W, b)``, W and b those under the adapters."""

    def bound(i: int, layer: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: forward(i, x, layer.base_layer.weight, layer.base_layer.bias)

    before = [{"forward": layer.forward} if "forward" in vars(layer) else {} for layer in layers]
    try:
        for i, layer in enumerate(layers):
            layer.forward = bound(i, layer)  # on the object: its class's own comes back when it is gone
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            vars(layer).pop("forward", None)
            vars(layer).update(own)
