"""Runs that are disturbed at a moment, in this process or in a copy of it, which has imported all that it needs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from traceback import print_exc
from typing import Any

import pytest

from benchmark.cli import main

MOMENTS = {  # in words -> what is called then, and which call of it
    "resolving": ("benchmark.data.identity", "identities", 1),
    "decoding": ("benchmark.data.cache", "resized", 2),
    "loading": ("benchmark.running.load", "attached", 1),
    "evaluating": ("benchmark.running.answers.classification", "sample_metrics", 4),
    "preparing": ("benchmark.running.loop", "look", 1),
    "training": ("methods.base", "IncrementalMethod.training_step", 3),
    "writing a checkpoint": ("benchmark.running.fit", "EpochEnd.on_save_checkpoint", 3),
    "finishing": ("benchmark.running.state", "keep", 1),
    "making tables": ("benchmark.compare.leaderboard", "build", 1),
}


def command(results: Path, *more: str) -> list[str]:
    run = ["run", "--method", "sequential_lora", "--stream", "smoke", "--epochs", "2", "--batch_size", "8"]
    return [*run, "--device", "cpu", "--quiet", "--results", str(results), *more]


def told(*argv: str) -> tuple[int, str]:
    """Exit code and standard error of a command in this process."""
    with redirect_stderr(StringIO()) as error, redirect_stdout(StringIO()):
        return main(argv), error.getvalue()


def tables(results: Path) -> dict[str, bytes]:
    """The matrices of the one run there."""
    return {file.name: file.read_bytes() for file in results.glob("runs/*/*/*/*/*.csv")}


@contextmanager
def at(where: str, act: Callable[[], None]) -> Iterator[None]:
    """Inside, ``act`` is called at a moment."""
    module, name, call = MOMENTS[where]
    owner: Any = import_module(module)
    *outer, name = name.split(".")
    for each in outer:
        owner = getattr(owner, each)
    original, left = getattr(owner, name), [call]

    def acting(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            act()
        return original(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, acting)
        yield


def continues(results: Path, straight: dict[str, bytes], *more: str) -> None:
    """The same command comes to the same end; what it makes again it may tell."""
    code, error = told(*command(results, *more))
    assert code == 0 and all(line.startswith("warning: ") for line in error.splitlines()), error
    assert tables(results) == straight


class Process:
    """A copy of this process that does ``run`` and ends with what it returns; its standard error is in ``error``."""

    def __init__(self, run: Callable[[Callable[[], None]], int], error: Path) -> None:
        self.error = error
        read, write = os.pipe()
        self.number = os.fork()
        if self.number:
            os.close(write)
            self.reached = read
            return
        code = 99
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)  # what a script starts with & is deaf to it
            with error.open("w") as file, redirect_stderr(file), redirect_stdout(StringIO()):
                try:
                    code = run(lambda: (os.write(write, b"."), time.sleep(0.3))[1])
                except BaseException:
                    print_exc()
        finally:
            os._exit(code)

    def end(self, *numbers: int, seconds: float = 10.0) -> int:
        """Send signals at the moment; the exit code. The process is gone within ``seconds``."""
        assert os.read(self.reached, 1) == b".", self.error.read_text()
        os.close(self.reached)
        for number in numbers:
            os.kill(self.number, number)
            time.sleep(0.05)  # of signals that wait together Python hears that of the smallest number first
        return self.wait(seconds)

    def wait(self, seconds: float = 60.0) -> int:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            done, status = os.waitpid(self.number, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.kill(self.number, signal.SIGKILL)
        os.waitpid(self.number, 0)
        raise AssertionError(f"still there after {seconds} s: {self.error.read_text()}")
