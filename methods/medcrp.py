"""MedCRP-CL: groups of tasks found by a Chinese restaurant process over their texts, one LoRA a group, EWC inside it.

*MedCRP-CL*, ICML 2026, arXiv 2605.20297. Tasks whose texts are alike share a LoRA, which is held where it mattered to
the group's earlier tasks; tasks unlike all others get one of their own. MSLoRA-CR groups by modality, which is told;
here the text alone decides, before a task is learned.

e          = unit(mean of the unit features of the task's distinct texts, from the frozen text encoder)
group      = argmax of log P(g), log P(new):  n_g or alpha tasks weigh against how like e is to a group's mean
             (:mod:`methods.parts.restaurant`)
y          = W x + b + s B_g A_g x;                   (A_g, B_g) fresh with the group, trained on by each of its tasks
F_g        <- F_g + (F_t - F_g) / (number of its tasks),  theta*_g <- theta_g      after every task t of the group
L          = CE + strength 1/2 sum F_g (theta_g - theta*_g)^2                     where the group has had a task before

The texts are the prompts of a task's labels. A task without labels says nothing before it is learned: it joins the
last task of its modality (on made streams the names of modalities alone are so alike to a CLIP that all would be one
group, and to a small language model they are unknown words). With the identity hidden the
shared router picks a task, the task its group, and the answer is one of that task's labels.

The released code decides by the logarithm of a negative cosine, which is no number and sends the task to group 0, and
by a ratio of Gaussians that falls again near cosine 1, so that a task with a group's own text may open a new group:
repaired here, ``--method.faithful true`` restores both. It has no 1/2, takes the prompts' order from a set, and squares
the mean gradient of a batch for its Fisher, which is smaller by about the batch size; here the order does not matter
and gradients are a sample's (:mod:`methods.ewc`). ``official`` has its lambda of 5000, twice for the 1/2. What it does
not protect, an adapter and a head that a group's tasks share, is not here.

    make bench METHOD=medcrp
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.stream import Task
from methods.base import Batch
from methods.ewc import fisher_of_expert, flat, quadratic_penalty
from methods.independent_lora import IndependentLora
from methods.parts.checks import above, at_least, one_of
from methods.parts.restaurant import Assignment

PRESETS = {
    "official": {
        "epochs": 60,
        "batch_size": 16,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 8e-5,
        "schedule": "cosine",
        "method": {"rank": 8, "lora_alpha": 16.0, "placement": "q,k,v,out", "strength": 10000.0, "alpha": 5.0},
    }
}
GROUPINGS = ("crp", "modality", "none", "task")


def running_mean(mean: Tensor, new: Tensor, count: int) -> Tensor:
    """The mean of ``count`` tensors of one shape, from the mean of all but the last and the last."""
    return mean + (new - mean) / count


class MedCRP(IndependentLora):
    """One LoRA for every group of tasks with texts alike, held by the Fisher information of the group's earlier tasks.

    Args:
        grouping: crp, by the texts; modality, a group for each; none, all in one; task, each in its own.
        alpha: how readily the restaurant process opens a group.
        strength: weight of the penalty inside a group.
        faithful: the released rule of assignment where it is repaired here.
        lora: arguments of :class:`~methods.independent_lora.IndependentLora`.
    """

    search = {"alpha": (1.25, 20.0), "strength": (25.0, 400.0)}

    def __init__(
        self, grouping: str = "crp", alpha: float = 5.0, strength: float = 100.0, faithful: bool = False, **lora: Any
    ) -> None:
        super().__init__(**lora)
        one_of(GROUPINGS, grouping=grouping)
        above(0, alpha=alpha)
        at_least(0, strength=strength)
        self.grouping, self.alpha, self.strength, self.faithful = grouping, alpha, strength, faithful
        self.assignment = Assignment(alpha, faithful)
        self._groups: list[int] = []  # of every task, from the tasks alone
        self._tables: list[int] = []  # of every group of the process, the number it has here

    def partition(self) -> list[int]:
        return list(self._groups)

    def begin_task(self, task: Task) -> None:
        self._groups.append(self._group(task))
        super().begin_task(task)

    def _group(self, task: Task) -> int:
        """The number of the group that a new task is put into."""
        new = len(set(self._groups))
        if self.grouping == "none":
            return 0
        if self.grouping == "task":
            return new
        if self.grouping == "crp" and task.labels:
            table, _ = self.assignment.decide(self.text(task))
            if table == len(self._tables):
                self._tables.append(new)
            return self._tables[table]
        alike = [group for earlier, group in zip(self.tasks, self._groups, strict=True)
                 if earlier.modality == task.modality]  # fmt: skip
        return alike[-1] if alike else new

    def text(self, task: Task) -> Tensor:
        """(E,) the unit feature of what a task's labels are asked by, each prompt once."""
        prompts = sorted({prompt for label in task.labels for prompt in label.prompts})
        return F.normalize(self.backbone.described(prompts).mean(dim=0), dim=0)

    def expert(self, task: Task) -> str:
        return f"group{self._groups[task.index]}"

    def penalty(self) -> Tensor:
        """strength 1/2 sum F_g (theta_g - theta*_g)^2 in float32; 0 for a group's first task."""
        group = self._groups[-1]
        if f"fisher_{group}" not in self.memory:
            return super().penalty()
        anchor_P, fisher_P = self.memory[f"anchor_{group}"], self.memory[f"fisher_{group}"]
        with torch.autocast(self.device.type, enabled=False):
            return self.strength * quadratic_penalty(flat(self.trainable_parameters()), anchor_P, fisher_P)

    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        super().end_task(task, loader)
        if self.grouping == "task":  # nobody joins it
            return
        group = self._groups[-1]
        fisher_P = fisher_of_expert(self, self.experts, self.expert(task), task, loader)
        mean_P = self.memory.get(f"fisher_{group}", torch.zeros_like(fisher_P))
        self.memory[f"fisher_{group}"] = running_mean(mean_P, fisher_P, self._groups.count(group))
        self.memory[f"anchor_{group}"] = flat(self.trainable_parameters())

    def answers_from(self, task: Task, protocol: str) -> tuple[object, ...] | None:
        """The task's group, and how many tasks its expert has learned."""
        if protocol == "hidden":
            return None
        groups = self._groups[task.index : task.index + 1]
        return tuple((group, self._groups.count(group)) for group in groups)
