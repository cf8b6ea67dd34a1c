"""Fills the score matrices: every task after every stage, with the task's identity given and hidden.

``given``: candidates are the task's own labels, for every cell. ``hidden``: candidates are the labels of the tasks
learned so far, for learned tasks only. Without labels the candidates are the gallery: the task's own test items when
the identity is given, and when it is hidden those of the tasks learned so far (``seen``), of the ``task`` alone, or of
``all``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmark import kinds
from benchmark.config.run_config import RunConfig
from benchmark.data.batches import TaskData
from benchmark.record.schema import PROTOCOLS
from benchmark.running.answers import answered
from benchmark.running.answers.question import Cell, Question
from benchmark.running.hardware import autocast
from benchmark.stream import Label, Stream, Task
from methods.base import IncrementalMethod

Cells = dict[str, list[Cell | None]]  # protocol -> a cell for each task; None where the protocol defines none


class Evaluator:
    """Evaluates a method on every task's held-out split.

    A cell is computed again only if what its answers depend on has changed (``answers_from`` of every task whose items
    are shown, the candidates and, when the identity is hidden, the router of a method that has one); with ``full`` all
    of them are.

    Attributes:
        computed: how many cells were computed, not reused.
    """

    def __init__(
        self, method: IncrementalMethod, stream: Stream, data: Sequence[TaskData], config: RunConfig, precision: str,
        device: torch.device, full: bool = False,
    ) -> None:  # fmt: skip
        self.method, self.stream, self.data = method, stream, data
        self.split, self.gallery = config.split, config.gallery
        self.precision, self.device, self.full = precision, device, full or config.full_evaluation
        self.computed = 0
        self._reusable: dict[tuple[int, str], tuple[tuple[object, ...], Cell]] = {}

    def row(self, stage: int) -> Cells:
        """The cells after ``stage`` tasks; the method is left as it was, its training flags included."""
        with self._answering():
            known: dict[Any, Any] = {}
            return {
                protocol: [self._cell(stage, task, protocol, known) for task in self.stream] for protocol in PROTOCOLS
            }

    def withheld(self, inputs: str) -> Cells:
        """The last row where every sample shows its image or its text alone."""
        with self._answering():
            return {
                protocol: [
                    answered(self._question(len(self.stream), task, protocol, {}, inputs))
                    if self._defined(len(self.stream), task, protocol)
                    else None
                    for task in self.stream
                ]
                for protocol in PROTOCOLS
            }

    @contextmanager
    def _answering(self) -> Iterator[None]:
        was_training = self.method.training
        self.method.eval()
        try:
            with torch.no_grad(), autocast(self.device, self.precision):
                yield
        finally:
            self.method.train(was_training)

    def _defined(self, stage: int, task: Task, protocol: str) -> bool:
        return protocol == "given" or (task.index < stage and not self.method.requires_task_id)

    def _cell(self, stage: int, task: Task, protocol: str, known: dict[Any, Any]) -> Cell | None:
        if not self._defined(stage, task, protocol):
            return None
        question = self._question(stage, task, protocol, known)
        signature, place = self._signature(stage, question), (task.index, protocol)
        if signature is not None and not self.full and place in self._reusable:
            before, cell = self._reusable[place]
            if before == signature:
                return cell
        cell = answered(question)
        self.computed += 1
        if signature is not None:
            self._reusable[place] = signature, cell
        return cell

    def _question(self, stage: int, task: Task, protocol: str, known: dict[Any, Any], inputs: str = "both") -> Question:
        return Question(
            self.method, self.stream, self.data, self.split, self.device, stage, task, protocol == "hidden",
            self._candidates(stage, task, protocol), self._gallery(stage, task, protocol),
            self._legal(stage, task, protocol), inputs, known,
        )  # fmt: skip

    def _candidates(self, stage: int, task: Task, protocol: str) -> Sequence[Label]:
        own = protocol == "given" or self.stream.label_space == "shared"
        return task.labels if own else self.stream[:stage].labels()

    def _gallery(self, stage: int, task: Task, protocol: str) -> Sequence[Task]:
        if not kinds.of(task.kind).searches or protocol == "given" or self.gallery == "task":
            return (task,)
        return self.stream.tasks if self.gallery == "all" else self.stream[:stage].tasks

    def _legal(self, stage: int, task: Task, protocol: str) -> Sequence[str]:
        tasks = [task] if protocol == "given" else [task, *self.stream[:stage]]
        return tuple(dict.fromkeys(answer for each in tasks for answer in each.answers))

    def _signature(self, stage: int, question: Question) -> tuple[object, ...] | None:
        """What the answers of a cell depend on; None: may change any time."""
        joint, protocol = self.method.joint, "hidden" if question.hidden else "given"
        depends: tuple[object, ...] = ("joint",)
        if not joint or stage == 0:
            asked = dict.fromkeys((question.task, *question.gallery))
            depends = tuple(self.method.answers_from(task, protocol) for task in asked)
            if any(each is None for each in depends):
                return None
        mine = type(self.method)
        routed = any(getattr(mine, way) is not getattr(IncrementalMethod, way) for way in ("route", "task_scores"))
        router = stage if question.hidden and routed and not joint else None
        candidates = tuple(label.id for label in question.candidates)
        shown = tuple(other.index for other in question.gallery)
        limit = max(task.max_new_tokens for task in (question.task, *self.stream[:stage]))
        said = (question.legal, limit) if kinds.of(question.task.kind).speaks and question.hidden else ()
        return depends, candidates, router, shown, said
