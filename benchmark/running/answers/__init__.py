"""How each kind of task is asked and graded: a module for every kind, of its name, with ``answered(question)``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from benchmark.running.answers.question import Cell, Question


def answered(question: Question) -> Cell:
    """A method's answers on one task's held-out samples, graded."""
    answer: Callable[[Question], Cell] = import_module(f"{__name__}.{question.task.kind}").answered
    return answer(question)
