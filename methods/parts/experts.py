"""The pool of LoRA experts on a tower, on PEFT: add, activate, blend, save.

An expert is one (A, B) per adapted linear layer, D = s B A with s = alpha / rank. Experts that are only read are
*folded*: W = W0 + sum_i w_i s B_i A_i, always from the pristine W0, so a step costs the same at task 20 as at task 2,
inference costs the frozen backbone, and W0 comes back to the bit. The one being trained stays *live*: PEFT computes it
apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save
from torch import Tensor, nn

from methods.parts import peft_layers
from methods.parts.checks import above, at_least, below_one, one_of
from methods.parts.towers import PLACES

Blend = dict[str, float | tuple[float, ...]]  # weight of every expert that acts: one, or one per adapted layer


def lora_forward(
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    As: Sequence[Tensor],
    Bs: Sequence[Tensor],
    scale: float,
    mask: Sequence[bool],
) -> Tensor:
    """y = x W^T + b + scale * sum over i with mask_i of (x A_i^T) B_i^T  (the multi-task layer of MSLoRA-CR).

    Args:
        x: (..., D_in). W: (D_out, D_in). b: (D_out,) or None. As: (r, D_in) each. Bs: (D_out, r) each.
    """
    y = nn.functional.linear(x, W, b)
    for A, B, active in zip(As, Bs, mask, strict=True):
        if active:
            y = y + scale * (x @ A.T @ B.T)
    return y


class Experts:
    """LoRA experts by name on a tower, or on both: their parameters live there and follow device and checkpoint."""

    def __init__(
        self, tower: nn.Module, rank: int, alpha: float, places: Sequence[str] = PLACES, dropout: float = 0.0,
        blocks: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """``places`` in ``blocks`` (all by default) are adapted; two pools on one tower must not share a layer.

        ``tower`` is a :class:`~methods.parts.towers.Tower`, or a backbone, whose two towers are then adapted, or a
        vision-language model, of which the decoder is.

        Raises:
            ValueError: a rank below 1, or a place that is none of :data:`~methods.parts.towers.PLACES`.
        """
        at_least(1, rank=rank)
        above(0, lora_alpha=alpha)
        below_one(dropout=dropout)
        for place in places or ("",):
            one_of(PLACES, placement=place)
        self.tower, self.rank, self.scale = tower, rank, alpha / rank
        self.names: list[str] = []
        self.live: str | None = None
        self.folded: Blend = {}
        self.dense: Sequence[Tensor] = ()  # of every layer, an update that is no sum of experts
        self.config = LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            lora_dropout=dropout,
            bias="none",
            target_modules=peft_layers.pattern(tower, places, blocks),
        )
        self.layers: list[Any] = []  # of PEFT's lora.Linear
        self.paths: list[str] = []  # below the tower
        self._pristine: list[Tensor] = []

    def add(self, name: str) -> None:
        """A fresh expert, A ~ U(-1/sqrt(D_in), 1/sqrt(D_in)), B = 0, frozen until it is activated.

        Raises:
            ValueError: there is an expert of this name.
        """
        if name in self.names:
            raise ValueError(f"expert {name!r} is there already")
        state = self.folded, self.live, self.dense
        self._show({}, None)
        peft_layers.inject(self.tower, self.config, name)
        if not self.names:
            found = peft_layers.targets(self.tower, self.config)
            self.paths, self.layers = list(found), list(found.values())
            self._pristine = [peft_layers.weight(layer).detach().clone() for layer in self.layers]
        self.names.append(name)
        self.activate(None)  # PEFT makes a new adapter act and take gradients
        self._show(*state)

    def renew(self, name: str) -> None:
        """The factors of an expert that is not folded drawn again, as those of a fresh one."""
        peft_layers.renew(self.layers, name)

    def factors(self, name: str) -> tuple[list[Tensor], list[Tensor]]:
        """(As, Bs) of an expert, layer by layer: (r, D_in) and (D_out, r)."""
        return peft_layers.factors(self.layers, name)

    def parameters(self, name: str) -> list[nn.Parameter]:
        As, Bs = self.factors(name)
        return [*As, *Bs]  # type: ignore[list-item]

    @contextmanager
    def blend(self, weights: Blend, live: str | None = None) -> Iterator[None]:
        """Inside: the named experts are folded into the weights, and ``live`` is computed apart and takes gradients.

        Must not be entered or left while a graph through the tower is alive. What was in force before comes back.
        """
        self._known((*weights, live) if live else weights)
        if any(isinstance(w, tuple) and len(w) != len(self.layers) for w in weights.values()):
            raise ValueError(f"a weight per layer: need {len(self.layers)} of them")
        with self._shown(dict(weights), live):
            yield

    @contextmanager
    def fold_dense(self, deltas: Sequence[Tensor]) -> Iterator[None]:
        """Inside: the weight of layer i is W0 + deltas[i], (D_out, D_in), and no expert acts.

        For an update that is no weighted sum of experts; entered, left and nested as :meth:`blend`.
        """
        shapes = [peft_layers.weight(layer).shape for layer in self.layers]
        if [delta.shape for delta in deltas] != shapes:
            raise ValueError(f"a delta per layer, of its weight's shape: need {len(shapes)} of them")
        with self._shown({}, None, deltas):
            yield

    @contextmanager
    def _shown(self, weights: Blend, live: str | None, dense: Sequence[Tensor] = ()) -> Iterator[None]:
        before = self.folded, self.live, self.dense
        self._show(weights, live, dense)
        try:
            yield
        finally:
            self._show(*before)

    @contextmanager
    def mix(self, weights: Mapping[str, float | Tensor | Sequence[Tensor]]) -> Iterator[None]:
        """Inside: the named experts are computed apart, each times its weight, and gradients flow to the weights.

        For weights that are learned or differ between samples, where :meth:`blend` folds constants. Which experts take
        gradients does not change; what is folded stays folded. May be left while a graph is alive.

        Args:
            weights: for each name a number, (B, 1, 1) for one weight per sample, or a sequence of either per layer.
        """
        self._known(weights)
        scalings = {}
        for name, weight in weights.items():
            each = [weight] * len(self.layers) if isinstance(weight, float | Tensor) else weight
            scalings[name] = [self.scale * w for w in each]
        with peft_layers.scaled(self.layers, scalings):
            yield

    @contextmanager
    def computed(self, forward: Callable[[int, Tensor, Tensor, Tensor | None], Tensor]) -> Iterator[None]:
        """Inside: the output of every adapted layer is ``forward(i, x, W, b)``, whichever experts are named.

        For a method whose layer is no weighted sum of LoRAs, or that computes the same sum in fewer steps. May be left
        while a graph is alive.

        Args:
            forward: i the number of the layer, as in :meth:`factors`; x (..., D_in) its input; W (D_out, D_in) and b
                (D_out,) or None the weights under the experts, what is folded included.
        """
        with peft_layers.computed(self.layers, forward):
            yield

    @contextmanager
    def apart(self, name: str, samples: int) -> Iterator[list[Tensor]]:
        """Inside this expert alone acts, as a copy for every sample; gives these, in the order of :meth:`parameters`.

        (samples, r, D_in) and (samples, D_out, r): the gradient of a sum of losses, one a sample, with respect to them
        is the gradient of each sample's own loss. The rows of every layer's input (samples, N, D_in) are the samples.
        """
        As, Bs = ([factor.detach().expand(samples, -1, -1).requires_grad_() for factor in side]
                  for side in self.factors(name))  # fmt: skip

        def forward(i: int, x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
            return nn.functional.linear(x, W, b) + self.scale * (x @ As[i].mT @ Bs[i].mT)

        with self.blend({}), self.computed(forward):
            yield [*As, *Bs]

    def _known(self, names: Iterable[str]) -> list[str]:
        """The names, if there is an expert of each."""
        names = list(names)
        if unknown := set(names) - set(self.names):
            raise ValueError(f"no expert {', '.join(sorted(unknown))}: there are {', '.join(self.names)}")
        return names

    @torch.no_grad()
    def _show(self, weights: Blend, live: str | None, dense: Sequence[Tensor] = ()) -> None:
        if weights != self.folded or dense is not self.dense:
            factors = {name: self.factors(name) for name in weights}
            for i, layer in enumerate(self.layers):
                W = peft_layers.weight(layer)
                pristine = self._pristine[i].to(W.device)
                W.copy_(pristine)
                if weights:
                    A = torch.cat([factors[name][0][i] for name in weights])
                    scales = {name: self.scale * (w[i] if isinstance(w, tuple) else w) for name, w in weights.items()}
                    B = torch.cat([factors[name][1][i] * scale for name, scale in scales.items()], dim=1)
                    with torch.autocast(A.device.type, enabled=False):
                        W.add_(B @ A)
                if dense:
                    W.add_(dense[i])
                self._pristine[i] = pristine
            self.folded, self.dense = weights, dense
        if live != self.live:
            self.activate(live)

    def activate(self, name: str | None) -> None:
        """Compute this expert apart and let it alone take gradients; None: no expert apart."""
        peft_layers.show(self.layers, [] if name is None else [name])
        peft_layers.freeze(self.layers)
        self.live = name
        if name is not None:
            for parameter in self.parameters(name):
                parameter.requires_grad_(True)

    def without_dropout(self, name: str) -> None:
        """This expert's input is never dropped, also while another one is trained with dropout."""
        peft_layers.without_dropout(self.layers, name)

    def _tensors(self, name: str) -> dict[str, Tensor]:
        """An expert's factors under the names that PEFT gives them in a file."""
        tensors: dict[str, Tensor] = {}
        for path, A, B in zip(peft_layers.targets(self.tower, self.config), *self.factors(name), strict=True):
            tensors |= dict(zip(peft_layers.stored_names(path), (A.detach(), B.detach()), strict=True))
        return tensors

    def stored(self, name: str) -> dict[str, bytes]:
        """The expert's files in PEFT's format: ``PeftModel.from_pretrained(tower, folder)`` loads a folder of them."""
        factors = {key: value.cpu().contiguous() for key, value in self._tensors(name).items()}
        config = {key: sorted(v) if isinstance(v, set) else v for key, v in self.config.to_dict().items()}
        described = json.dumps(config, indent=1, sort_keys=True, default=str) + "\n"
        return {"adapter_model.safetensors": save(factors), "adapter_config.json": described.encode()}

    def save(self, name: str, folder: Path) -> None:
        """Write these files into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for file, data in self.stored(name).items():
            (folder / file).write_bytes(data)

    @torch.no_grad()
    def load(self, name: str, folder: Path) -> None:
        """Read factors written by :meth:`save` (or by PEFT) into an expert of this pool that is not folded."""
        if name in self.folded:
            raise ValueError(f"expert {name!r} is folded into the weights: load it outside")
        theirs = json.loads((folder / "adapter_config.json").read_text())
        if (theirs["r"], theirs["lora_alpha"]) != (self.config.r, self.config.lora_alpha):
            raise ValueError(f"{folder}: rank {theirs['r']}, alpha {theirs['lora_alpha']} are not this pool's")
        stored = load_file(folder / "adapter_model.safetensors")
        for key, factor in self._tensors(name).items():
            factor.copy_(stored[key])
