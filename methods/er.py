"""ER: one LoRA that keeps training on a buffer of earlier images as well.

Experience replay with a reservoir: Chaudhry et al., *On Tiny Episodic Memories in Continual Learning*, 2019; Vitter,
*Random Sampling with a Reservoir*, ACM TOMS 1985, so that every sample of the stream is kept with equal probability.

item n (from 0) goes to slot n while n < M, then to slot j = randint(0..n) if j < M, else nowhere
L = mean cross-entropy over the task's batch and as many samples of the buffer, each over the labels of all tasks so far

``--method.candidates own`` takes each over its own task's labels, which teaches the model nothing about telling tasks
apart. In a domain stream, and in retrieval, the two are the same.

Images are kept as they are and augmented anew each time. The buffer takes in a task when it ends, sample by sample, so
a task's own images are not replayed while it is learned (mammoth fills it at every step); draws are with replacement.
Of questions it holds what a batch holds: the frozen tower's features of the image, the tokens of question and answer.
It holds images of patients while it learns: where that is not allowed this is no option, whatever its accuracy. The
finished run does not keep them (``--keep_images`` does).

    make bench METHOD=er                                # last accuracy 54.6 given, 36.6 hidden
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.stream import Task
from methods.base import CANDIDATES, Batch
from methods.parts.checks import at_least, one_of
from methods.parts.memory import Memory, one_width
from methods.sequential_lora import SequentialLora


def reservoir_slots(n: int, size: int, rng: Any, seen: int = 0) -> NDArray[np.int64]:
    """(n,) the slot of each of n items, -1 for those not kept, in a buffer of ``size`` that ``seen`` items have passed.

    Args:
        rng: ``numpy.random.RandomState`` or ``numpy.random.Generator``.
    """
    draw = rng.integers if hasattr(rng, "integers") else rng.randint
    slots = np.empty(n, dtype=np.int64)
    for item in range(n):
        slot = seen + item if seen + item < size else int(draw(0, seen + item + 1))
        slots[item] = slot if slot < size else -1
    return slots


def remember(memory: Memory, size: int, samples: dict[str, Tensor]) -> None:
    """Pass N samples, tensors (N, ...) by name, through the reservoir of ``size`` that is kept in ``memory``."""
    count = len(next(iter(samples.values())))
    seen = int(memory["buffer_seen"]) if "buffer_seen" in memory else 0
    rng = np.random.RandomState(int(torch.randint(2**31 - 1, (1,))))
    slots = reservoir_slots(count, size, rng, seen)
    last = {int(slot): item for item, slot in enumerate(slots) if slot >= 0}  # a later item overwrites an earlier one
    kept = min(size, seen + count)
    items = torch.tensor(list(last.values()), dtype=torch.long)
    places = torch.tensor(list(last), dtype=torch.long)
    for name, values in samples.items():
        known = memory.get(f"buffer_{name}", values[:0])
        rows = one_width([known, values.new_zeros(kept - len(known), *values.shape[1:]), values])
        rows[places.to(rows.device)] = rows[kept + items.to(rows.device)]
        memory[f"buffer_{name}"] = rows[:kept].clone()
    memory["buffer_seen"] = torch.tensor(seen + count)


def recall(memory: Memory, count: int) -> dict[str, Tensor]:
    """``count`` samples drawn from the buffer, with replacement; an empty dict while there is no buffer."""
    if "buffer_seen" not in memory:
        return {}
    names = [name for name in memory if name.startswith("buffer_") and name != "buffer_seen"]
    rows = memory[names[0]]
    chosen = torch.randint(len(rows), (count,), device=rows.device)
    return {name.removeprefix("buffer_"): memory[name][chosen] for name in names}


class ER(SequentialLora):
    """Sequential LoRA with replay from a reservoir of images.

    Args:
        buffer_size: M, images kept in all.
        candidates: labels that the cross-entropy of a sample runs over: own (its task's) or seen (of all tasks begun).
        lora: arguments of :class:`~methods.sequential_lora.SequentialLora`.
    """

    version = 2  # 1 had the candidates "own"
    keeps_images = True
    ddp = False  # every process would draw its own replay

    def __init__(self, buffer_size: int = 500, candidates: str = "seen", **lora: Any) -> None:
        super().__init__(**lora)
        at_least(1, buffer_size=buffer_size)
        one_of(CANDIDATES, candidates=candidates)
        self.buffer_size, self.candidates = buffer_size, candidates

    def loss(self, batch: Batch) -> Tensor:
        replayed = recall(self.memory, len(batch["label"]))
        if replayed:
            batch = {name: one_width([batch[name], values]) for name, values in replayed.items()}
        return super().loss(batch)

    @torch.no_grad()
    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        for batch in loader:
            kept = {name: values for name, values in batch.items() if name != "index"}
            remember(self.memory, self.buffer_size, kept)
