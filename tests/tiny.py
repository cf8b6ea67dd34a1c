"""Small random models, tasks and batches for tests."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from benchmark.stream import Label, Task
from methods.parts.backbones import Backbone

EMBED, WIDTH, LAYERS, HEADS, SIZE, CONTEXT, VOCABULARY = 24, 32, 2, 4, 32, 12, 50
VISION = {"image_size": SIZE, "patch_size": 8, "width": WIDTH, "head_width": WIDTH // HEADS, "layers": LAYERS}
TEXT = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)


def tokenize(texts: Sequence[str]) -> Tensor:
    """A word is a number by its checksum; the end is the largest id, zeros fill up."""
    tokens = torch.zeros(len(texts), CONTEXT, dtype=torch.long)
    for row, text in enumerate(texts):
        ids = [1 + zlib.crc32(word.encode()) % (VOCABULARY - 2) for word in text.split()][: CONTEXT - 1]
        tokens[row, : len(ids) + 1] = torch.tensor([*ids, VOCABULARY - 1])
    return tokens


@torch.no_grad()
def shake_all(parameters: Iterable[Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def shake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter away from its initial value: biases and layer scales too must be carried over rightly."""
    shake_all(model.parameters(), seed)
    return model.eval()


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """The same initial weights every time; the generator outside is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def prepared(model: nn.Module, seed: int = 0) -> nn.Module:
    model.visual.preprocess_cfg = vars(PreprocessCfg(size=SIZE, mean=MEAN, std=STD))
    model.visual.image_mean, model.visual.image_std = MEAN, STD
    return shake(model, seed)


def clip(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **other: Any) -> nn.Module:
    with seeded():
        return prepared(CLIP(EMBED, VISION | (vision or {}), TEXT | (text or {}), **other))


def custom_clip(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **other: Any) -> nn.Module:
    with seeded():
        return prepared(CustomTextCLIP(EMBED, VISION | (vision or {}), TEXT | (text or {}), **other))


def backbone() -> Backbone:
    return Backbone(clip(), tokenize, "tiny")


def label(id: int, *prompts: str) -> Label:
    return Label(id, f"class {id}", prompts or (f"an image of class {id} .", f"class {id}"))


def task(index: int, ids: Sequence[int], modality: str = "radiology", of: int = 20) -> Task:
    return Task(index, f"task{index}", modality, "classification", tuple(label(i) for i in ids), of)


def images(count: int, seed: int = 0) -> Tensor:
    """uint8 (count, 3, SIZE, SIZE)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)


Class = TypeVar("Class", bound=type)


def given(cls: Class, **arguments: object) -> Class:
    """The class with other defaults, for tests that take a method by its class."""

    def __init__(self: Any, **others: object) -> None:
        cls.__init__(self, **arguments | others)

    return type(cls)(cls.__name__, (cls,), {"__init__": __init__, "__module__": cls.__module__})
