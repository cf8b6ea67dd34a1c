"""Runs in copies of a process that has imported everything, so that a cell begins in a moment and not in ten seconds.

For each slot a *worker* (``python -m benchmark worker``) imports what a run needs and computes nothing. For each cell
it forks: the copy is a process with memory and generators of its own, that does what ``python -m benchmark run`` does.
The worker is told on its standard input, a line of JSON a cell, and answers on its standard output.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from benchmark.running.processes import PARENT
from benchmark.sweep import engines
from benchmark.sweep.engines import PATIENCE, POLL, Arguments

COLD, WORKER = ((sys.executable, "-m", "benchmark", verb) for verb in ("run", "worker"))
TICK = 0.02  # seconds between a worker's looks at its cell
IMPORTED = (
    "torch", "lightning", "peft", "open_clip", "torchmetrics", "jsonargparse", "benchmark.compare.leaderboard",
    "benchmark.compare.tables", "benchmark.config.arguments", "benchmark.data.phantom", "benchmark.data.sources",
    "benchmark.running.answers", "benchmark.running.execute", "benchmark.running.load", "benchmark.running.loop",
    "methods.parts",
)  # fmt: skip


def possible() -> bool:
    """Whether a process may be copied here, and cells are runs of this suite."""
    return sys.platform == "linux" and engines.COMMAND == COLD


class Worker:
    """The worker of a slot, started when it is first needed and whenever it is gone; used by one thread.

    Args:
        env: of its cells, besides the process's own.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.process: subprocess.Popen[bytes] | None = None
        self.cell: int | None = None  # the process of the cell that is under way
        self.heard = b""

    def run(self, argv: Arguments, stop: threading.Event) -> tuple[int, str]:
        """As :func:`benchmark.sweep.engines.run_cell`; a cell whose worker is killed is tried again, and continues."""
        for _ in range(3):
            answer = self._asked(argv, stop)
            if answer is not None:
                return answer
        return engines.run_cell(argv, self.env, stop=stop)

    def _asked(self, argv: Arguments, stop: threading.Event) -> tuple[int, str] | None:
        """What the worker answers; None if it ends before it does."""
        try:
            self._tell({"argv": list(argv)})
            stopping = False
            while True:
                answer = self._answer(POLL)
                if answer is not None and "code" in answer:
                    self.cell = None
                    return answer["code"], answer["line"]
                if answer is not None:
                    self.cell = answer["cell"]
                if stop.is_set() and self.cell is None:
                    self.close()
                    return -signal.SIGTERM, engines.last_word(-signal.SIGTERM, "")
                if stop.is_set() and not stopping:
                    stopping = True
                    self._tell({"stop": True})
        except (BrokenPipeError, EOFError):
            self.close()
            return None

    def _tell(self, what: Mapping[str, Any]) -> None:
        if self.process is None:
            self.process = subprocess.Popen(
                WORKER, env=engines.environment(self.env), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, start_new_session=True, bufsize=0,
            )  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")

    def _answer(self, seconds: float) -> Any:
        """The next line, None if none comes in time."""
        assert self.process is not None and self.process.stdout is not None
        if b"\n" not in self.heard and select.select([self.process.stdout], [], [], seconds)[0]:
            more = self.process.stdout.read(65536)
            if not more:
                raise EOFError
            self.heard += more
        line, end, rest = self.heard.partition(b"\n")
        if not end:
            return None
        self.heard = rest
        return json.loads(line)

    def close(self) -> None:
        """End the worker, and its cell; both are gone then."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        if self.cell is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.cell, signal.SIGKILL)
            ends = time.monotonic() + PATIENCE
            while time.monotonic() < ends and Path(f"/proc/{self.cell}").exists():
                time.sleep(TICK)
        self.process, self.cell, self.heard = None, None, b""


# The worker


def serve(main: Callable[[Sequence[str]], int]) -> int:
    """Run cells that are told on standard input until it ends; in the copy that is a cell: run it.

    Args:
        main: the command line.
    """
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing that an import prints is an answer
    os.environ[PARENT] = str(os.getpid())
    for name in IMPORTED:
        module = import_module(name)
        for inner in iter_modules(getattr(module, "__path__", ()), name + ".") if name.count(".") else ():
            import_module(inner.name)
    sources = _sources()
    gc.collect()
    gc.freeze()  # what is there is looked at in no copy, and stays shared
    orders = Orders()
    while (order := orders.next(None)) is not None:
        if "argv" not in order:
            continue
        if _sources() != sources or not _may_fork():
            return 0  # a record names the code on disk: the next worker imports that
        output = tempfile.TemporaryFile()  # noqa: SIM115
        cell = os.fork()
        if cell == 0:
            atexit.register(gc.unfreeze)  # the interpreter takes everything apart at its end
            os.setsid()
            os.close(answers)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number in (1, 2):
                os.dup2(output.fileno(), number)
            return main(["run", *order["argv"]])
        _say(answers, {"cell": cell})
        code = _attended(cell, orders)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
        output.close()
        _say(answers, {"code": code, "line": engines.last_word(code, text)})
    return 0


class Orders:
    """Lines of JSON from standard input, as they come."""

    def __init__(self) -> None:
        self.read, self.ended = b"", False

    def next(self, seconds: float | None) -> Any:
        """The next one; None if none comes in time, or none will."""
        ends = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self.read and not self.ended:
            left = None if ends is None else max(0.0, ends - time.monotonic())
            if not select.select([0], [], [], left)[0]:
                return None
            more = os.read(0, 65536)
            self.read, self.ended = self.read + more, not more
        line, end, rest = self.read.partition(b"\n")
        self.read = rest if end else self.read
        return json.loads(line) if end else None


def _attended(cell: int, orders: Orders) -> int:
    """The exit code of the cell, which is ended when told to; at once when whoever tells is gone."""
    asked: float | None = None
    while True:
        done, status = os.waitpid(cell, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        order = orders.next(TICK)
        if orders.ended:
            os.killpg(cell, signal.SIGKILL)
            time.sleep(TICK)
        elif order is not None and asked is None:
            asked = time.monotonic()
            os.kill(cell, signal.SIGTERM)
        elif asked is not None and time.monotonic() - asked > PATIENCE:
            os.killpg(cell, signal.SIGKILL)


def _may_fork() -> bool:
    """Neither other threads nor CUDA survive in a copy."""
    torch: Any = sys.modules.get("torch")
    return threading.active_count() == 1 and not (torch is not None and torch.cuda.is_initialized())


def _sources() -> dict[str, tuple[int, int]]:
    """When each file of this suite that is imported was written, and its size."""
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.split(".")[0] in ("benchmark", "methods") and file:
            with contextlib.suppress(OSError):
                status = os.stat(file)
                found[file] = status.st_mtime_ns, status.st_size
    return found


def _say(answers: int, what: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # who asked is gone: the orders end
        os.write(answers, json.dumps(what).encode() + b"\n")
