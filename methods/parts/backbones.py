"""The frozen CLIP under every method: loaded by open_clip, its towers and its preprocessing behind a few names."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from benchmark.stream import Framing, Label
from methods.parts.towers import (
    PLACES,
    BesideMLP,
    Block,
    EditTokens,
    OpenClipImageTower,
    TextTower,
    TimmImageTower,
    Tower,
)

__all__ = ["PLACES", "WEIGHTS", "Backbone", "BesideMLP", "Block", "EditTokens", "TextTower", "Tower", "load", "opened"]

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
AT_ONCE = 256  # texts that are read together
SHIPPED = {  # sha256 of the files of phantom-clip
    "open_clip_config.json": "fb65d6e409115adc68b132ae28120e5ec8784af46a0b2379ff405ad53533cf62",
    "open_clip_model.safetensors": "b57a7056c7305b7d550971eb34011957f138a9316f7c72c1a2fe1f997eb6036f",
}


class Backbone(nn.Module):
    """A frozen CLIP: an image tower, a text encoder, its tokenizer and its preprocessing.

    ``image`` and ``text`` are public: a method may run them itself, hang something on their seam, or train a part of
    them that it names in ``trainable_parameters``.

    Attributes:
        image: the :class:`Tower` of images.
        text: a :class:`TextTower`, or the model's own text encoder where that is no open_clip transformer (BERT).
        frozen_text: what reads class prompts: the text encoder, or its frozen copy after :meth:`with_text`.
        image_size: pixels of a side; ``framing``: how images are fitted to it.
        mean, std: (3, 1, 1), of images in [0, 1].
    """

    mean: Tensor
    std: Tensor
    speaks = False  # it knows images from texts, and writes none

    def __init__(self, model: Any, tokenizer: Callable[[Sequence[str]], Tensor], name: str) -> None:
        super().__init__()
        visual, text = model.visual, getattr(model, "text", model)
        if isinstance(visual, VisionTransformer):
            self.image: Tower = OpenClipImageTower(visual)
        elif isinstance(visual, TimmModel) and isinstance(visual.trunk, TimmVisionTransformer):
            self.image = TimmImageTower(visual)
        else:
            kind = type(getattr(visual, "trunk", visual)).__name__
            raise ValueError(f"backbone {name!r}: vision tower {kind} is no vision transformer")
        self.text: nn.Module = TextTower(text) if hasattr(text, "token_embedding") else text
        self.frozen_text = self.text
        self.logit_scale: nn.Parameter = model.logit_scale
        self.tokenizer, self.name = tokenizer, name
        size = visual.image_size
        self.image_size: int = size[0] if isinstance(size, (tuple, list)) else size
        preprocess = open_clip.get_model_preprocess_cfg(model)
        told = {"mode": "resize_mode", "interpolation": "interpolation", "fill": "fill_color"}
        self.framing = Framing(**{ours: preprocess[name] for ours, name in told.items() if name in preprocess})
        self.register_buffer("mean", torch.tensor(preprocess["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess["std"]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()
        self._features: dict[tuple[str, ...], Tensor] = {}

    def with_text(self) -> Backbone:
        """Prepared for tasks whose input is text as well: both towers are adapted, class prompts are not."""
        if isinstance(self.text, TextTower):
            self.frozen_text = copy.deepcopy(self.text)
        return self

    @property
    def adapted(self) -> nn.Module:
        """What LoRA adapts: the image tower, or both (all of the backbone) after :meth:`with_text`.

        A text encoder that is no open_clip transformer stays frozen.
        """
        return self.image if self.frozen_text is self.text else self

    @property
    def width(self) -> int:
        return self.image.blocks[0].norm1.normalized_shape[0]

    @property
    def depth(self) -> int:
        """Blocks of the image tower."""
        return len(self.image.blocks)

    @property
    def bound(self) -> Tensor:
        """No logit is further from 0."""
        return self.logit_scale.exp()

    @property
    def embedding(self) -> int:
        """E, the width of what both towers give."""
        return self.class_features([Label(-1, "", ("",))]).shape[1]

    @torch.no_grad()
    def described(self, texts: Sequence[str]) -> Tensor:
        """(n, E) unit features of texts, from the frozen text encoder."""
        device = self.logit_scale.device
        with torch.autocast(device.type, enabled=False):
            parts = self.tokenizer(list(texts)).to(device).split(AT_ONCE)
            return F.normalize(torch.cat([self.frozen_text(part) for part in parts]).float(), dim=-1)

    @torch.no_grad()
    def class_features(self, labels: Sequence[Label]) -> Tensor:
        """(C, E) unit text features: each label's prompts encoded, normalised, averaged, normalised again.

        Computed once per label: the text encoder is frozen.
        """
        device = self.logit_scale.device
        for label in labels:
            known = self._features.get(label.prompts)
            if known is None or known.device != device:
                self._features[label.prompts] = F.normalize(self.described(label.prompts).mean(dim=0), dim=-1)
        return torch.stack([self._features[label.prompts] for label in labels])

    def logits(self, image_BE: Tensor, text_CE: Tensor) -> Tensor:
        """(B, C): scale times the cosine of image and text features, in the texts' precision even under autocast."""
        with torch.autocast(image_BE.device.type, enabled=False):
            return self.logit_scale.exp() * F.normalize(image_BE.to(text_CE.dtype), dim=-1) @ text_CE.T

    def soft(self, features: Tensor, batch: dict[str, Tensor], labels: Sequence[Label]) -> tuple[Tensor, Tensor]:
        """(B, C) logits over labels, in which two models are compared, and (B,) what each row counts."""
        return self.logits(features, self.class_features(labels)), features.new_full(
            (len(features),), 1 / len(features)
        )


def load(name: str, pretrained: str | None = None) -> Backbone:
    """A backbone by name: ``phantom-clip``, ``ViT-B-16/openai``, ``hf-hub:...``, ``local-dir:...``, or an
    architecture with ``pretrained`` = a tag or the path of a weights file.

    Raises:
        ValueError: the architecture is unknown or not a vision transformer, or its weights cannot be had.
    """
    _, model, tokenizer = opened(name, pretrained)
    return Backbone(model, tokenizer, name)


def opened(name: str, pretrained: str | None = None) -> tuple[str, Any, Callable[[Sequence[str]], Tensor]]:
    """The name in open_clip of a backbone as :func:`load` takes it, open_clip's model, and its tokenizer.

    Of weights only tensors are read (safetensors, or pickles without code), and what a folder or a hub has of Python is
    not run.

    Raises:
        ValueError: the architecture is unknown, or its weights cannot be had or are not those that were shipped.
    """
    if name == "phantom-clip":
        _check_shipped(WEIGHTS / name)
        known: str = f"local-dir:{WEIGHTS / name}"
    elif pretrained is None and ":" not in name and name.count("/") == 1:
        known, pretrained = name.split("/")
    else:
        known = name
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        text = (open_clip.get_model_config(known) or {}).get("text_cfg", {})
        with _no_code_of_hubs(bool(text.get("hf_model_name") or text.get("hf_tokenizer_name"))):
            model: Any = open_clip.create_model(
                known, pretrained=pretrained, pretrained_text=False, require_pretrained=True, weights_only=True
            )
            trust = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}  # over what a config says
            tokenizer = open_clip.get_tokenizer(known, **trust)
    except Exception as error:  # open_clip raises many kinds: unknown names, missing files, no network
        told = " ".join(str(error).split())[:300]
        told = "comes with Python of its own, which is not run" if "trust_remote_code" in told else told
        raise ValueError(f"backbone {name!r}: {told}") from error
    finally:
        logging.disable(previous)
    return known, model, tokenizer


def _check_shipped(folder: Path) -> None:
    for file, digest in SHIPPED.items():
        path = folder / file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ValueError(f"{path}: not the weights that this suite ships; get the file again (git checkout)")


@contextmanager
def _no_code_of_hubs(asked: bool) -> Iterator[None]:
    """Inside, transformers refuses a model that comes with Python of its own; else it asks on the terminal."""
    if not asked:
        yield
        return
    from transformers import dynamic_module_utils

    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # seconds to answer
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before
