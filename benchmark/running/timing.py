"""How long a training step takes here, measured: what ``plan --measure`` says where no earlier record tells."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

import torch

from benchmark.compare.tables import clock
from benchmark.config.resolve import Plan
from benchmark.data.batches import TaskData, training_batches
from benchmark.running.fit import look
from benchmark.running.hardware import autocast, uses_cuda
from benchmark.running.load import loaded
from benchmark.running.seeds import seeded
from methods.base import Batch, IncrementalMethod

WARM_UP, STEPS = 3, 12


@dataclass(frozen=True)
class Measured:
    """Of the first task: ``step`` seconds a training step (0 for a method that never trains), ``images`` a second then;
    of the whole stream: ``steps`` it would make.
    """

    step: float
    images: float
    steps: int

    def lines(self) -> Iterator[str]:
        if not self.steps:
            yield "measured: the method never trains; what it takes is reading and answering"
            return
        yield (
            f"measured: {self.step:.4f} s a training step, {self.images:,.0f} samples/s; {self.steps:,} steps, "
            f"about {clock(self.step * self.steps)} of training (median of {STEPS} steps on the first task)"
        )


def timed(plan: Plan, cls: Any, threads: int | None = None) -> Measured:
    """Time training steps of the method on the first task of the plan's order, after some to warm up.

    The samples are read, and cached, as a run would; nothing is written below the results.

    Args:
        threads: of a run on a CPU; None for as many as a run here takes.

    Raises:
        UserError: anything wrong with the method's arguments or the samples.
    """
    device = alone(plan)
    if threads is not None:
        torch.set_num_threads(threads)
    method, data = loaded(plan, cls, device)
    method.begin_task(data[0].task)
    method.to(device)
    with method.learning():
        with seeded(plan.config.seed, "prepare"):
            look(method, method.prepare_task, data[0], device)
        if not method.trainable_parameters():
            return Measured(0.0, 0.0, 0)
        with seeded(plan.config.seed, "measure"):
            taken = list(islice(stepping(method, data[0], plan, device), WARM_UP, WARM_UP + STEPS))
    steps = sum(plan.budget.steps(len(each.splits["train"])) for each in data)
    seconds = [each for each, _ in taken]
    return Measured(median(seconds), sum(images for _, images in taken) / sum(seconds), steps)


def alone(plan: Plan) -> torch.device:
    """Where a run of this plan would compute, alone."""
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda", 0) if uses_cuda(plan.config) else torch.device("cpu")


def stepping(
    method: IncrementalMethod, data: TaskData, plan: Plan, device: torch.device
) -> Iterator[tuple[float, int]]:
    """Training steps without end: the seconds of each, and the images in it. The method has begun the task."""
    method.train()
    optimizer = method.new_optimizer()
    for batch in _endless(data, plan.config.batch_size, device):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        with autocast(device, plan.precision):
            loss = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        yield time.perf_counter() - started, len(batch["label"])


def _endless(data: TaskData, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """The task's training batches, shuffled, over and over."""
    batches = training_batches([data], batch_size, device, lambda: 0)
    while True:
        yield from batches
