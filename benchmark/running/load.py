"""A method on its backbone, and the samples of its tasks: what a run has before its loop begins."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch

from benchmark.config import space
from benchmark.config.families import speaks
from benchmark.config.resolve import Plan
from benchmark.config.run_config import RunConfig
from benchmark.data.batches import TaskData, placed, task_data
from benchmark.data.seen_once import seen
from benchmark.errors import RunFailed, UserError
from benchmark.kinds import Kind
from benchmark.record.parts import Configuration
from benchmark.running import mistakes
from benchmark.running.seeds import seeded
from benchmark.stream import Budget
from methods.base import IncrementalMethod
from methods.parts import backbones, language_models


def loaded(plan: Plan, cls: Any, device: torch.device) -> tuple[IncrementalMethod, list[TaskData]]:
    """The method on its backbone, on the device, and the samples of every task in the run's order.

    Raises:
        UserError: the method or the backbone refuses its arguments, a disk has no room for the images or for the run,
            or samples cannot be read.
    """
    quiet()
    config = plan.config
    try:
        with seeded(config.seed, "method"):
            method = attached(cls, config, plan.kind, plan.budget, config.seed)
    except ValueError as error:
        raise UserError(str(error)) from None
    method.to(device)
    size, words = method.backbone.image_size, method.language if method.backbone.speaks else None
    tokenize = None if words is not None else method.backbone.tokenizer
    framing = method.backbone.framing
    space.check(plan, size, framing)
    data = [
        task_data(task, source, samples, size, config.limit, tokenize, config.inputs, words, framing)
        for task, source, samples in zip(plan.stream, plan.sources, plan.samples, strict=True)
    ]
    used = {"train", config.split}
    return method, placed(data if words is None else seen(data, used, words), used, device)


def attached(cls: Any, config: RunConfig | Configuration, kind: Kind, budget: Budget, seed: int) -> IncrementalMethod:
    """A new method on its backbone, which is ready for what tasks of the kind hold.

    Args:
        seed: of the run; what a layout without weights is drawn from.

    Raises:
        ValueError: the method or the backbone refuses its arguments.
    """
    method = built(cls, **config.method_args)
    if speaks(config.backbone):
        with seeded(seed, "backbone"):
            language: Any = language_models.load(config.backbone)
        language.over = config.over
        method.attach(language, budget)
    else:
        frozen = backbones.load(config.backbone, config.pretrained)
        method.attach(frozen.with_text() if kind.reads_text else frozen, budget)
    return method


def built(cls: Any, **arguments: Any) -> IncrementalMethod:
    """A method of a class, not attached to any backbone yet.

    Raises:
        ValueError: it refuses its arguments. RunFailed: it breaks the contract.
    """
    mistakes.check_class(cls)
    try:
        with mistakes.told(cls, f"{cls.__name__}.__init__"):
            method: IncrementalMethod = cls(**arguments)
    except RunFailed as failed:
        if isinstance(failed.__cause__, ValueError):
            raise failed.__cause__ from None
        raise
    mistakes.check_built(method)
    return method


def quiet() -> None:
    """Lightning's notices about what this suite does on purpose (no workers, no logger) are not for its users."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*(LeafSpec|lr_scheduler.step|pin_memory|TF32|litlogger).*")
