"""The one display of a run: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 10.0  # seconds between plain lines


class Display:
    """Task, epoch, loss, images per second and time left.

    Args:
        console: where to print. quiet: print nothing.
        steps: all training steps of the run; ``done`` of them an earlier process has made.
    """

    def __init__(self, console: Console, steps: int, done: int = 0, quiet: bool = False) -> None:
        self.console, self.steps, self.quiet = console, steps, quiet
        self.done = self.first = done
        self.started = self.last_line = time.perf_counter()
        self.bar: Progress | None = None
        if console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
            self.bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
            self.line = self.bar.add_task("loading", total=max(1, steps), completed=done)

    def __enter__(self) -> Display:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, highlight=False)

    def phase(self, text: str) -> None:
        """What is being done now, where that is no training step."""
        if self.bar:
            self.bar.update(self.line, description=text)

    def step(self, where: str, loss: float | None, images_per_second: float) -> None:
        """One training step; ``loss`` only now and then, for reading it waits for the device."""
        self.done += 1
        if self.bar:
            if loss is not None:
                text = f"{where}  loss {loss:.3f}  {images_per_second:,.0f} images/s"
                self.bar.update(self.line, completed=self.done, description=text)
            else:
                self.bar.update(self.line, completed=self.done)
        elif loss is not None and time.perf_counter() - self.last_line > EVERY:
            self.last_line = time.perf_counter()
            self.say(f"  {where}  loss {loss:.3f}  {images_per_second:,.0f} images/s  {self.left()} left")

    def left(self) -> str:
        """Time left of the training, from the steps made so far."""
        made = self.done - self.first
        seconds = (time.perf_counter() - self.started) / max(1, made) * max(0, self.steps - self.done)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
