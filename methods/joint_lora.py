"""Joint LoRA: all tasks' data shuffled together, one LoRA.

Same layer as sequential LoRA; every sample is scored over the labels of all tasks (``--method.candidates own``: over
its own task's alone, which fits the protocol with the identity given and teaches nothing about telling tasks apart).
Answers in words have no candidates, and either says the same.
The budget is the sum of all tasks' steps. ``--sampling balanced`` draws every task equally often; the default is
proportional to its size.

One LoRA of rank r is shared by T tasks (``--method.capacity task``): what it reaches bounds nothing that has r for each
of them. ``--method.capacity stream`` has rank T r, as many parameters as one LoRA per task, at the same lora_alpha: the
update is scaled by lora_alpha / (T r), without which it does not train at the common learning rate.

    make bench METHOD=joint_lora                        # last accuracy 61.7 given, 44.3 hidden
"""

from __future__ import annotations

from typing import Any

from benchmark.stream import Task
from methods.base import CANDIDATES
from methods.parts.checks import one_of
from methods.sequential_lora import SequentialLora


class JointLora(SequentialLora):
    """One LoRA trained on all tasks at once.

    Args:
        candidates: labels that the cross-entropy of a sample runs over: own (its task's) or seen (of all tasks).
        capacity: task: one LoRA of the rank given; stream: that rank times the number of tasks.
        lora: arguments of :class:`~methods.sequential_lora.SequentialLora`.
    """

    version = 2  # 1 had the candidates "own"
    joint = True
    needs_length = True

    def __init__(self, candidates: str = "seen", capacity: str = "task", **lora: Any) -> None:
        super().__init__(**lora)
        one_of(CANDIDATES, candidates=candidates)
        one_of(("task", "stream"), capacity=capacity)
        self.candidates, self.capacity = candidates, capacity

    def begin_task(self, task: Task) -> None:
        if self.capacity == "stream" and not self.tasks:
            self.experts = self.pool(task.of * self.rank)
        super().begin_task(task)
