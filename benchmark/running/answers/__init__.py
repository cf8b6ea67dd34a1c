"""How each kind of task is asked and graded: a module for every kind, of its name, with ``answered(question)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from numpy.typing import NDArray

from benchmark.data.batches import TaskData
from benchmark.running.answers.question import Cell, Question


def answered(question: Question) -> Cell:
    """A method's answers on one task's held-out samples, graded."""
    answer: Callable[[Question], Cell] = import_module(f"{__name__}.{question.task.kind}").answered
    return answer(question)


def judged(data: TaskData, split: str, arrays: Mapping[str, NDArray[Any]]) -> Sequence[Mapping[str, Any]]:
    """The verdict on each answer in words of a cell with these predictions: its ``exact``, ``f1``, ``format_kept``."""
    return import_module(f"{__name__}.{data.task.kind}").judged(data, split, arrays)
