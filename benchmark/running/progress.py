"""The one display of a run: a live bar and the growing matrix in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmark.compare import tables
from benchmark.record.schema import Record

EVERY = 10.0  # seconds between plain lines


class Display:
    """Task, epoch, step, loss, samples per second, time left, and the matrix as far as it is known.

    Args:
        console: where to print. quiet: print nothing. steps: all training steps of the run.
    """

    def __init__(self, console: Console, steps: int, quiet: bool = False) -> None:
        self.console, self.steps, self.quiet = console, steps, quiet
        self.first: tuple[int, float] | None = None  # the first step of this process, and when it was made
        self.last_line = time.perf_counter()
        self.live: Live | None = None
        if console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
            self.bar = Progress(*columns, TimeRemainingColumn(), console=console)
            self.line = self.bar.add_task("loading", total=max(1, steps))
            self.live = Live(Group(self.bar), console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> Display:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, highlight=False)

    def phase(self, text: str) -> None:
        """What is being done now, where that is no training step."""
        if self.live:
            self.bar.update(self.line, description=text)

    def step(self, where: str, step: int, loss: float | None, samples_per_second: float) -> None:
        """The run's ``step``-th training step; ``loss`` only now and then, for reading it waits for the device."""
        if self.first is None:
            self.first = step, time.perf_counter()
            if self.live:  # what an earlier process did says nothing about the speed of this one
                self.bar.reset(self.line, total=max(1, self.steps), completed=step)
        speed = "" if loss is None else f"{where}  loss {loss:.3f}  {samples_per_second:,.0f} samples/s"
        if self.live:
            self.bar.update(self.line, completed=step, description=speed or None)
        elif speed and time.perf_counter() - self.last_line > EVERY:
            self.last_line = time.perf_counter()
            self.say(f"  {speed}  step {step}/{self.steps}  {self.left(step)} left")

    def left(self, step: int) -> str:
        """Time left of the training, from the steps made so far, as ``minutes:seconds``."""
        first, started = self.first or (step, time.perf_counter())
        seconds = (time.perf_counter() - started) / max(1, step - first) * max(0, self.steps - step)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def matrix(self, record: Record) -> None:
        """A row more of the matrix is known: the table grows in a terminal, elsewhere the row is a line."""
        if self.live:
            self.live.update(Group(*tables.matrix_tables(record, "given"), self.bar))
        elif not self.quiet:
            stage = record.stages - 1
            row = record.matrix("given")[stage]
            self.say(f"  after {stage}/{len(row)}: {tables.spoken(record.primary)} given " +
                     "  ".join(map(tables.percent, row)))  # fmt: skip
