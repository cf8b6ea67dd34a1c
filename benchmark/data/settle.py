"""What a generation task leaves to its samples: the metric and the legal answers that no file names. No torch."""

from __future__ import annotations

from dataclasses import replace

from benchmark import kinds
from benchmark.data import sources
from benchmark.data.catalog import Recipe, Source
from benchmark.stream import Task


def settled(recipe: Recipe) -> Recipe:
    """The stream with the metric and the answers of every generation task; what its file names stays.

    The metric is exact match where every test question is closed, else F1. The legal answers are the different training
    answers of closed questions, as they are written and in order; none where no question is closed.

    What is asked and answered is read of every such task, so that what is wrong with it is told before a run.

    Raises:
        UserError: samples cannot be read.
    """
    pairs = zip(recipe.stream, recipe.sources, strict=True)
    tasks = tuple(_settled(task, source) if kinds.of(task.kind).speaks else task for task, source in pairs)
    return replace(recipe, stream=replace(recipe.stream, tasks=tasks))


def _settled(task: Task, source: Source) -> Task:
    told = sources.dialogue(source)
    exact, f1 = kinds.of(task.kind).primaries
    metric = exact if all(closed for *_, closed in told["test"]) else f1
    answers = tuple(sorted({answer for _, answer, closed in told["train"] if closed}))
    return replace(task, metric=task.metric or metric, answers=task.answers or answers)
