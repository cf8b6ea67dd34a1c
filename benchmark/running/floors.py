"""What the suite adds to a run, each number beside its floor: the least that the same work takes on this machine.

A run is held against the barest loop, in turn; its batches against copying the same bytes; its start against the
imports of the libraries alone; its memory against the barest loop's. All of one method, which trains one LoRA.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmark.config import arguments, registry
from benchmark.config.resolve import Plan, resolve
from benchmark.data.batches import training_batches
from benchmark.record.folder import RunFolder
from benchmark.running import hardware
from benchmark.running.bare import BareRun
from benchmark.running.execute import new_record
from benchmark.running.load import loaded
from benchmark.running.loop import Loop, peak_memory
from benchmark.running.progress import Display

TURNS = 5
LIBRARIES = "import lightning, open_clip, peft, torch, torchmetrics"


@dataclass(frozen=True)
class Held:
    """A number and its floor, medians of turns; ``ratios`` of every turn."""

    quantity: str
    unit: str
    stream: str
    value: float
    floor: float
    ratios: tuple[float, ...]

    @classmethod
    def of(cls, quantity: str, unit: str, plan: Plan, turns: Sequence[tuple[float, float]]) -> Held:
        """From (value, floor) of every turn; a ratio is what it costs: 1 at the floor, more above."""
        values, floors = zip(*turns, strict=True)
        ratios = tuple(floor / value if unit == "images/s" else value / floor for value, floor in turns)
        return cls(quantity, unit, plan.stream_folder, median(values), median(floors), ratios)

    @property
    def ratio(self) -> float:
        return median(self.ratios)


def held(plan: Plan, argv: Sequence[str]) -> list[Held]:
    """All of them, of one run; ``argv`` is what it would be started with. Nothing is written below the results."""
    here = hardware.chosen(plan.config)
    cls = registry.load(plan.config.method)
    seconds = [(timed_run(plan, cls, here), timed_bare(plan, cls, here)) for _ in range(TURNS)]
    batches = [_loading(plan, cls, here) for _ in range(TURNS)]
    return [
        Held.of("a run over the barest loop", "s", plan, seconds),
        Held.of("training batches", "images/s", plan, batches),
        Held.of("start to the first step", "s", plan, [(_child(argv, "first"), _imports()) for _ in range(3)]),
        Held.of("peak memory", "MiB", plan, [(_child(argv, "run"), _child(argv, "bare"))]),
    ]


def timed_bare(plan: Plan, cls: Any, here: hardware.Hardware) -> float:
    """Seconds of the barest loop, of samples that are read."""
    method, data = loaded(plan, cls, here.device)
    purpose = plan.config.seed, plan.config.order
    return _seconds(BareRun(method, plan.stream, data, purpose, plan.precision, here.device).run)


def timed_run(plan: Plan, cls: Any, here: hardware.Hardware) -> float:
    """Seconds of a run's loop with its records and checkpoints, of samples that are read."""
    method, data = loaded(plan, cls, here.device)
    record, display = new_record(plan, here.name), Display(Console(), 1, quiet=True)
    with TemporaryDirectory() as temporary:
        folder = RunFolder(Path(temporary) / "run")
        folder.begin(record)
        return _seconds(Loop(method, plan.stream, data, plan.config, plan.precision, record, folder, here, display).run)


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _loading(plan: Plan, cls: Any, here: hardware.Hardware) -> tuple[float, float]:
    """Images a second of the first task's shuffled batches, and of copying its images to the device as they lie."""
    _, data = loaded(plan, cls, here.device)
    images = data[0].splits["train"].images
    assert images is not None
    batches = training_batches(data[:1], plan.config.batch_size, here.device, lambda: 0)

    def copied() -> None:
        for part in images.split(plan.config.batch_size):
            part.to(here.device, copy=True)

    for warm in (lambda: list(batches), copied):
        warm()
    return len(images) / _seconds(lambda: [None for _ in batches]), len(images) / _seconds(copied)


# Processes of their own


def _imports() -> float:
    return _seconds(lambda: subprocess.run([sys.executable, "-c", LIBRARIES], check=True))


def _child(argv: Sequence[str], what: str) -> float:
    """What a fresh process measures: seconds to its first step (``first``), or MiB at its end (``run``, ``bare``)."""
    code = f"from benchmark.running import floors; floors.measured({list(argv)!r}, {what!r})"
    started = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()[-1]
    return time.perf_counter() - started if what == "first" else float(told)


def measured(argv: Sequence[str], what: str) -> None:
    """In the process of :func:`_child`: run, and print the peak of its memory in MiB; ``first``: end at a step."""
    config, card, _ = arguments.parse("run", list(argv), with_class=True)
    here = hardware.chosen(config)
    plan = resolve(config, card, here.device.type == "cuda")
    cls = registry.load(config.method)
    if what == "first":
        cls.loss = _end  # type: ignore[method-assign]
    (timed_bare if what == "bare" else timed_run)(plan, cls, here)
    print(peak_memory(here.device))


def _end(*_: Any) -> None:
    print("stepping", flush=True)
    os._exit(0)


def table(found: Sequence[Held]) -> Table:
    """A line for each number: value, floor, their ratio, and how far the ratios of the turns lie apart."""
    result = Table(title="what a run takes, and the least that it could", title_justify="left")
    for name in ("", "here", "floor", "", "ratio", "from", "to"):
        result.add_column(name, justify="left" if not name else "right")
    for each in found:
        numbers = (each.ratio, min(each.ratios), max(each.ratios))
        result.add_row(
            each.quantity, f"{each.value:,.1f}", f"{each.floor:,.1f}", each.unit, *(f"{n:.2f}" for n in numbers)
        )
    return result
