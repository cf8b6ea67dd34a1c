"""How fast methods learn and answer here, at the first and at the last task of a stream, and beside a reference.

All that is compared is timed in turn, step by step: a method's first task, its last and the reference's last. Whatever
else the machine does meets each of them, and a comparison is the median ratio of turns. Earlier tasks are begun and
ended but not trained, which changes no cost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
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

STEPS, ROWS = 30, 3  # turns: of training steps, of whole evaluations
REFERENCE = "sequential_lora"
RATE = "images/s"
COLUMNS = ("quantity", "unit", "method", "stream", "value", "floor", "ratio", "lowest", "highest", "device")
OPERATORS = "computing operators a step", "dispatched operators a step"
Beside = tuple[Plan, Any]  # a run and its method's class
Ready = tuple[IncrementalMethod, list[TaskData]]  # a method, and the tasks up to the one it trains


@dataclass(frozen=True)
class Speed:
    """Images a second. ``kept``: learned at the last task, beside the first; None where nothing is trained. ``learned``
    at the last task and ``answered`` after it, the identity given and hidden and no cell reused, and the ``operators``
    of a step at the last task, computing and dispatched: all beside the reference.
    """

    method: str
    stream: str
    kept: Held | None
    learned: Held | None
    answered: Held
    operators: tuple[Held, ...] = ()


def speed_of(plan: Plan, cls: Any, reference: Beside | None = None) -> Speed:
    """Time a method beside a reference, or beside itself; nothing is written below the results.

    Raises:
        UserError: anything wrong with the method's arguments or the samples.
    """
    device = alone(plan)
    with ExitStack() as learning, seeded(plan.config.seed, "speed"):
        first, last = (_ready((plan, cls), device, whole, learning) for whole in (False, True))
        other = _ready(reference, device, True, learning) if reference else last
        ready = [first, last, *([other] if reference else [])]
        turns = _turns(*(_rates(*each, plan, device) for each in ready), warm_up=WARM_UP, many=STEPS)
        operators = _operators(last, other, plan, device)
        for method, data in ready[1:]:
            look(method, method.end_task, data[-1], device)
    answers = _turns(*(_answering(*each, plan, device) for each in ready[1:]), warm_up=1, many=ROWS)
    answered = Held.of("answered", RATE, plan, [(turn[0], turn[-1]) for turn in answers])
    kept = _held("learned at the last task, beside the first", plan, [(turn[1], turn[0]) for turn in turns])
    learned = _held("learned at the last task", plan, [(turn[1], turn[-1]) for turn in turns])
    return Speed(plan.card.name, plan.stream_folder, kept, learned, answered, operators)


def _ready(run: Beside, device: torch.device, whole: bool, learning: ExitStack) -> Ready:
    """A method about to train the stream's first task, or its last (``whole``), and the tasks up to there."""
    method, data = loaded(*run, device)
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


def _rates(method: IncrementalMethod, data: list[TaskData], plan: Plan, device: torch.device) -> Iterator[float]:
    """Images a second of each training step on the last task, without end; none of a method with nothing to train."""
    if method.trainable_parameters():
        for seconds, images in stepping(method, data[-1], plan, device):
            yield images / seconds


def _operators(run: Ready, other: Ready, plan: Plan, device: torch.device) -> tuple[Held, ...]:
    """Of one step beside one of the reference; none where either trains nothing."""
    if not all(method.trainable_parameters() for method, _ in (run, other)):
        return ()
    steps, others = (_rates(*each, plan, device) for each in (run, other))
    counts = zip(OPERATORS, counted(lambda: next(steps)), counted(lambda: next(others)), strict=True)
    return tuple(Held.of(quantity, "", plan, [(value, floor)]) for quantity, value, floor in counts)


def _answering(method: IncrementalMethod, data: list[TaskData], plan: Plan, device: torch.device) -> Iterator[float]:
    """Images a second of each whole evaluation, without end; after one the text features of the classes are known."""
    evaluator = Evaluator(method, plan.stream, data, plan.config, plan.precision, device, full=True)
    sizes = [len(each.splits[plan.config.split]) for each in data]
    while True:
        started = time.perf_counter()
        row = evaluator.row(len(data))
        seconds = time.perf_counter() - started
        images = sum(size for cells in row.values() for size, cell in zip(sizes, cells, strict=True) if cell)
        yield images / seconds


def _turns(*rates: Iterator[float], warm_up: int, many: int) -> list[tuple[Any, ...]]:
    """So many turns, each with one of every rate, or None of one that has none; after some to warm up."""
    return list(islice(zip_longest(*rates), warm_up, warm_up + many))


def _held(quantity: str, plan: Plan, turns: Sequence[tuple[float | None, float | None]]) -> Held | None:
    """What is timed beside its floor, in the turns that have both; None without one."""
    known = [(value, floor) for value, floor in turns if value is not None and floor is not None]
    return Held.of(quantity, RATE, plan, known) if known else None


def table(found: Sequence[Speed]) -> Table:
    """Samples a second, and how they compare with the reference's in the same turns."""
    here = Hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu")).name
    title = f"samples a second, {here}; relative: to {REFERENCE}, without it to the first method"
    result = _table(title, "first task", "last task", "last / first", "relative", "answered", "relative")
    for each in found:
        kept, learned = each.kept, each.learned
        result.add_row(
            each.method, each.stream, *((f"{kept.floor:,.0f}", f"{kept.value:,.0f}") if kept else "--"),
            *(f"{1 / held.ratio:.2f}" if held else "-" for held in (kept, learned)),
            f"{each.answered.value:,.0f}", f"{1 / each.answered.ratio:.2f}",
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
        numbers = [(f"{held.value:,.0f}", f"{held.ratio:.2f}") for held in each.operators] or [("-", "-")] * 2
        result.add_row(each.method, each.stream, *chain(*numbers))
    return result


def csv_of(found: Sequence[Speed], held: Sequence[Held], device: str) -> str:
    """A line for each number, with its floor: of methods the reference's. ``ratio``: 1 at the floor, more is dearer."""
    rows: list[list[object]] = []
    for each in found:
        rows += [
            _line(one, each.method, device) for one in (each.kept, each.learned, each.answered, *each.operators) if one
        ]
    rows += [_line(least, REFERENCE, device) for least in held]
    return csv_text(COLUMNS, rows)


def _line(held: Held, method: str, device: str) -> list[object]:
    numbers = (held.value, held.floor, held.ratio, min(held.ratios), max(held.ratios))
    return [held.quantity, held.unit, method, held.stream, *(f"{number:.3f}" for number in numbers), device]
