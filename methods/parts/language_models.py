"""Vision-language models by name, as transformers keeps them: safetensors only, and no Python of theirs is run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from methods.parts.language import LanguageBackbone

FOLDER = Path(__file__).resolve().parents[1] / "weights"
DRAWN = "tiny-llava"  # of which only the layout is shipped: its weights are drawn
HUB, LOCAL = "hf:", "local-dir:"
SIDE = 448  # pixels of models that take images of any size
SMALL = 10**9  # parameters below which weights are float32, whatever their file holds


def load(name: str) -> LanguageBackbone:
    """A frozen vision-language model: ``tiny-llava``, ``hf:owner/name`` or ``local-dir:FOLDER``.

    Raises:
        ValueError: there is none of this name, it cannot be had, or it is no image-text-to-text model whose processor
            has a chat template.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    where = str(FOLDER / DRAWN) if name == DRAWN else name.removeprefix(LOCAL).removeprefix(HUB)
    try:
        with _quiet():
            config: Any = AutoConfig.from_pretrained(where, trust_remote_code=False)
            processor = AutoProcessor.from_pretrained(where, trust_remote_code=False)
            if name == DRAWN:
                model: Any = AutoModelForImageTextToText.from_config(config)
            else:
                model = AutoModelForImageTextToText.from_pretrained(
                    where, trust_remote_code=False, use_safetensors=True, dtype="auto"
                )
        if sum(parameter.numel() for parameter in model.parameters()) < SMALL:
            model = model.float()
        size = getattr(config.vision_config, "image_size", None) or SIDE
        return LanguageBackbone(model, processor, size if isinstance(size, int) else max(size), name)
    except Exception as error:  # transformers raises many kinds: unknown names, missing files, no network
        told = " ".join(str(error).split())[:300]
        told = "comes with Python of its own, which is not run" if "trust_remote_code" in told else told
        raise ValueError(f"backbone {name!r}: {told}") from error


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
