"""The barest loop that learns and answers what a run does: the floor under the time and the memory of a run.

The same method, seeds, steps, batches and answers, so the same accuracies, and nothing beside: no Trainer, no
checkpoint, no record, no metric but the share of right answers. ``speed`` holds a run against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmark.data.batches import TaskData, training_batches
from benchmark.running.answers.question import unlabelled
from benchmark.running.fit import look
from benchmark.running.hardware import autocast
from benchmark.running.seeds import derive_seed, seeded
from benchmark.stream import Stream
from methods.base import IncrementalMethod


@dataclass(frozen=True)
class BareRun:
    """A method over a stream of classification tasks; its features do not depend on the task (``task_free``).

    Args:
        method: attached to its backbone, on the device. purpose: seed and order.
    """

    method: IncrementalMethod
    stream: Stream
    data: Sequence[TaskData]
    purpose: tuple[int, int]
    precision: str
    device: torch.device

    def run(self) -> tuple[list[list[float]], list[list[float]]]:
        """Accuracy with the identity given, (T + 1, T), and hidden, (T + 1, i) of the i tasks learned."""
        rows = [self.row(0)]
        for own in self.data:
            with seeded(*self.purpose, own.task.index, "begin"):
                self.method.begin_task(own.task)
            self.method.to(self.device)
            with self.method.learning():
                self._look(own, "prepare", self.method.prepare_task)
                self.learn(own)
                self._look(own, "end", self.method.end_task)
            rows.append(self.row(own.task.index + 1))
        return [given for given, _ in rows], [hidden for _, hidden in rows]

    def _look(self, own: TaskData, purpose: str, visit: Any) -> None:
        with seeded(*self.purpose, own.task.index, purpose):
            look(self.method, visit, own, self.device)

    def learn(self, own: TaskData) -> None:
        """All epochs of a task."""
        method, budget = self.method, self.method.budget
        optimizer = method.new_optimizer()
        schedule = method.new_schedule(optimizer, budget.steps(len(own.splits["train"])))
        purpose, epoch = (*self.purpose, own.task.index), 0
        batches = training_batches(
            [own], budget.batch_size, self.device, lambda: derive_seed(*purpose, epoch, "shuffle")
        )
        method.train()
        for epoch in range(budget.epochs):
            torch.manual_seed(derive_seed(*purpose, epoch, "steps"))
            for batch in batches:
                with autocast(self.device, self.precision):
                    loss = method.loss(batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if schedule is not None:
                    schedule.step()

    @torch.no_grad()
    def row(self, learned: int) -> tuple[list[float], list[float]]:
        """Accuracy on all tasks over their own labels, and on those learned over the labels of all of these."""
        self.method.eval()
        backbone, seen = self.method.backbone, self.stream[:learned].labels()
        given: list[float] = []
        hidden: list[float] = []
        for own in self.data:
            candidates = [own.task.labels, *([seen] if own.task.index < learned else [])]
            right = [torch.zeros((), dtype=torch.long, device=self.device) for _ in candidates]
            for batch in own.batches("test", self.device):
                with autocast(self.device, self.precision):
                    features_BE = self.method.represent(unlabelled(batch, hidden=True), None)
                    for place, labels in enumerate(candidates):
                        ids_C = torch.tensor([label.id for label in labels], device=self.device)
                        logits_BC = backbone.logits(features_BE, backbone.class_features(labels))
                        right[place] += (ids_C[logits_BC.argmax(dim=1)] == batch["label"]).sum()
            for row, count in zip((given, hidden), right, strict=False):
                row.append(count.item() / len(own.splits["test"]))
        return given, hidden
