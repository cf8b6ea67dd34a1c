"""Vision-language models by name, as transformers keeps them: safetensors only, and no Python of theirs is run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from methods.parts.chat import PROBE
from methods.parts.hub import absent, within_reach
from methods.parts.language import LanguageBackbone

FOLDER = Path(__file__).resolve().parents[1] / "weights"
SHIPPED = "phantom-llava"
DRAWN = "tiny-llava"  # of which only the layout is shipped: its weights are drawn
HUB, LOCAL = "hf:", "local-dir:"
SIDE = 448  # pixels at most of models that take images of any size
AGREES = {torch.float32: 1e-3}  # how far logits may be from the model's own, of their length; else:
ROUNDED = 0.05
SMALL = 10**9  # parameters below which weights are float32, whatever their file holds


def load(name: str) -> LanguageBackbone:
    """A frozen vision-language model: ``phantom-llava``, ``tiny-llava``, ``hf:owner/name`` or ``local-dir:FOLDER``.

    Raises:
        ValueError: there is none of this name, it cannot be had, or it is no image-text-to-text model whose processor
            has a chat template.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MODELS

    where = str(FOLDER / name) if name in (SHIPPED, DRAWN) else name.removeprefix(LOCAL).removeprefix(HUB)
    there = True
    try:
        with within_reach(name.startswith(HUB)) as there, _quiet():
            config: Any = AutoConfig.from_pretrained(where, trust_remote_code=False)
            if config.model_type not in MODELS:
                raise ValueError(f"a {config.model_type!r} is no image-text-to-text model of transformers")
            processor = AutoProcessor.from_pretrained(where, trust_remote_code=False)
            if not hasattr(processor, "image_processor"):
                raise ValueError("it comes without a processor of images")
            if name == DRAWN:
                model: Any = AutoModelForImageTextToText.from_config(config)
            else:
                model = AutoModelForImageTextToText.from_pretrained(
                    where, trust_remote_code=False, use_safetensors=True, dtype="auto"
                )
        if sum(parameter.numel() for parameter in model.parameters()) < SMALL:
            model = model.float()
        backbone = LanguageBackbone(model, processor, _side(config.vision_config, processor.image_processor), name)
        _check(backbone)
        return backbone
    except Exception as error:  # transformers raises many kinds: unknown names, missing files, no network
        told = " ".join(str(error).split())
        told = "it comes with Python of its own, which is not run" if "trust_remote_code" in told else told[:300]
        told = told if there else absent(where, "local-dir:FOLDER")
        raise ValueError(f"backbone {name!r}: {told}") from error


def _side(vision: Any, images: Any) -> int:
    """Pixels of a side of its images; where it takes any size, what its processor leaves of a large one."""
    size = getattr(vision, "image_size", None)
    if size is not None:
        return size if isinstance(size, int) else max(size)
    made = images(images=[torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)], return_tensors="pt")
    return min(SIDE, max(made["image_grid_thw"][0].tolist()) * vision.patch_size) if "image_grid_thw" in made else SIDE


@torch.no_grad()
def _check(backbone: LanguageBackbone) -> None:
    """Refuse a model whose decoder says other things of an image's features than the whole model says of the image:
    some show it to deeper blocks too, or let its tokens see those behind them."""
    side, chat = backbone.image_size, backbone.chat
    image = (torch.arange(3 * side * side) % 251).to(torch.uint8).view(3, side, side)
    batch = {"image": image[None], "prompt": chat.prompts([PROBE]), "target": torch.zeros(1, 0, dtype=torch.long)}
    ours = backbone.spoken(batch | {"target_mask": batch["target"] > 0})[0, -1].float()
    own = backbone.adapted(**chat.whole(PROBE, image)).logits[0, -1].float()
    if not (ours - own).norm() <= AGREES.get(backbone.adapted.dtype, ROUNDED) * own.norm():
        raise ValueError("it shows its decoder more of an image than features among the words")


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, neither progress bars nor notices; and no question on the terminal whether code may run."""
    from transformers import dynamic_module_utils
    from transformers.utils import logging as notices

    hub = logging.getLogger("huggingface_hub")  # which tells of every try where there is no network
    before, level, bars, told = (
        dynamic_module_utils.TIME_OUT_REMOTE_CODE,
        notices.get_verbosity(),
        notices.is_progress_bar_enabled(),
        hub.level,
    )
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    notices.set_verbosity(logging.ERROR)
    notices.disable_progress_bar()
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before
        notices.set_verbosity(level)
        hub.setLevel(told)
        if bars:
            notices.enable_progress_bar()
