"""How fast methods learn and answer here, at the first and at the last task of a stream.

A method's first and last task are timed in turn, step by step, so that whatever else the machine does meets both; the
median ratio of such pairs is what adding tasks costs. Earlier tasks are begun and ended but not trained, which changes
no cost.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, zip_longest
from statistics import median
from typing import Any

import torch
from rich import box
from rich.table import Table

from benchmark.config.resolve import Plan
from benchmark.data.batches import TaskData
from benchmark.record.files import csv_text
from benchmark.running.evaluate import Evaluator
from benchmark.running.fit import look
from benchmark.running.floors import Held
from benchmark.running.hardware import Hardware
from benchmark.running.load import loaded
from benchmark.running.operators import counted
from benchmark.running.seeds import seeded
from benchmark.running.timing import WARM_UP, alone, stepping
from methods.base import IncrementalMethod

STEPS = 30
REFERENCE = "sequential_lora"
COLUMNS = ("quantity", "unit", "method", "stream", "value", "floor", "ratio", "lowest", "highest", "device")
QUANTITIES = (  # of a method: what, in which unit, which field of :class:`Speed`
    ("learned at the first task", "images/s", "first"), ("learned at the last task", "images/s", "last"),
    ("answered", "images/s", "answered"), ("computing operators a step", "", "computing"),
    ("dispatched operators a step", "", "dispatched"),
)  # fmt: skip


@dataclass(frozen=True)
class Speed:
    """Images a second: learned at the first and at the last task, None where nothing is trained; answered after the
    last task, the identity given and hidden, no cell reused. ``kept``: the speed at the last task over that at the
    first. ``computing`` and ``dispatched``: operators of a step at the last task.
    """

    method: str
    stream: str
    first: float | None
    last: float | None
    kept: float | None
    answered: float
    computing: int | None = None
    dispatched: int | None = None


def speed_of(plan: Plan, cls: Any) -> Speed:
    """Time a method; nothing is written below the results.

    Raises:
        UserError: anything wrong with the method's arguments or the samples.
    """
    device = alone(plan)
    with ExitStack() as learning, seeded(plan.config.seed, "speed"):
        ends = [_ready(plan, cls, device, whole, learning) for whole in (False, True)]
        learned = _in_turn(*(_rates(method, data[-1], plan, device) for method, data in ends))
        method, data = ends[-1]
        steps = _rates(method, data[-1], plan, device)
        operators = counted(lambda: next(steps)) if method.trainable_parameters() else (None, None)
        look(method, method.end_task, data[-1], device)
    return Speed(plan.card.name, plan.stream_folder, *learned, _answered(plan, method, data, device), *operators)


def _ready(
    plan: Plan, cls: Any, device: torch.device, whole: bool, learning: ExitStack
) -> tuple[IncrementalMethod, list[TaskData]]:
    """A method about to train the stream's first task, or its last (``whole``), and the tasks up to there."""
    method, data = loaded(plan, cls, device)
    data = data if whole else data[:1]
    for each in data[:-1]:
        method.begin_task(each.task)
        method.to(device)
        with method.learning():
            look(method, method.prepare_task, each, device)
            look(method, method.end_task, each, device)
    method.begin_task(data[-1].task)
    method.to(device)
    learning.enter_context(method.learning())
    look(method, method.prepare_task, data[-1], device)
    return method, data


def _rates(method: IncrementalMethod, data: TaskData, plan: Plan, device: torch.device) -> Iterator[float]:
    """Images a second of each training step, without end; none of a method that has nothing to train."""
    if method.trainable_parameters():
        for seconds, images in stepping(method, data, plan, device):
            yield images / seconds


def _in_turn(first: Iterator[float], last: Iterator[float]) -> tuple[float | None, float | None, float | None]:
    """The median of both, drawn from in turn after some to warm up, and that of last over first in a turn."""
    turns = list(islice(zip_longest(first, last), WARM_UP + STEPS))[WARM_UP:]
    ratios = [b / a if a and b else None for a, b in turns]
    return _median(a for a, _ in turns), _median(b for _, b in turns), _median(ratios)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _answered(plan: Plan, method: IncrementalMethod, data: list[TaskData], device: torch.device) -> float:
    """Images a second; the text features of the classes are known by then."""
    evaluator = Evaluator(method, plan.stream, data, plan.config, plan.precision, device, full=True)
    evaluator.row(len(data))
    started = time.perf_counter()
    row = evaluator.row(len(data))
    seconds = time.perf_counter() - started
    sizes = [len(each.splits[plan.config.split]) for each in data]
    images = sum(size for cells in row.values() for size, cell in zip(sizes, cells, strict=True) if cell)
    return images / seconds


def table(found: Sequence[Speed]) -> Table:
    """Samples a second, and how they compare with the reference's on the same stream."""
    here = Hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu")).name
    title = f"samples a second, {here}; relative: to {REFERENCE}, without it to the first method"
    result = _table(title, "first task", "last task", "last / first", "relative", "answered", "relative")
    for each in found:
        reference = reference_of(each, found)
        result.add_row(
            each.method, each.stream, *(f"{rate:,.0f}" if rate else "-" for rate in (each.first, each.last)),
            f"{each.kept:.2f}" if each.kept else "-", _ratio(each.last, reference.last),
            f"{each.answered:,.0f}", _ratio(each.answered, reference.answered),
        )  # fmt: skip
    return result


def _table(title: str, *numbers: str) -> Table:
    """Of methods and streams, whose names stay whole; where there is no room headings of numbers are folded."""
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("method", "stream"):
        result.add_column(name, no_wrap=True)
    for name in numbers:
        result.add_column(name, justify="right", overflow="fold")
    return result


def operators_table(found: Sequence[Speed]) -> Table:
    """Operators a step at the last task, and how many more than the reference's."""
    title = "operators of a training step at the last task"
    result = _table(title, "computing", "relative", "dispatched", "relative")
    for each in found:
        reference = reference_of(each, found)
        computing = f"{each.computing or '-'}", _ratio(each.computing, reference.computing)
        dispatched = f"{each.dispatched or '-'}", _ratio(each.dispatched, reference.dispatched)
        result.add_row(each.method, each.stream, *computing, *dispatched)
    return result


def csv_of(found: Sequence[Speed], held: Sequence[Held], device: str) -> str:
    """A line for each number, with its floor: of methods the reference's. ``ratio``: 1 at the floor, more is dearer."""
    rows: list[list[object]] = []
    for each in found:
        reference = reference_of(each, found)
        for quantity, unit, name in QUANTITIES:
            value, floor = getattr(each, name), getattr(reference, name)
            if value and floor:
                ratio = floor / value if unit == "images/s" else value / floor
                cells = (f"{number:.3f}" for number in (value, floor, *[ratio] * 3))
                rows.append([quantity, unit, each.method, each.stream, *cells, device])
    for least in held:
        numbers = (least.value, least.floor, least.ratio, min(least.ratios), max(least.ratios))
        cells = (f"{number:.3f}" for number in numbers)
        rows.append([least.quantity, least.unit, REFERENCE, least.stream, *cells, device])
    return csv_text(COLUMNS, rows)


def reference_of(each: Speed, found: Sequence[Speed]) -> Speed:
    """What a method is compared with: the reference on its stream, or the first method there."""
    alike = [other for other in found if other.stream == each.stream]
    return next((other for other in alike if other.method == REFERENCE), alike[0])


def _ratio(value: float | None, other: float | None) -> str:
    return f"{value / other:.2f}" if value and other else "-"
