"""Where the runs of a grid are computed: on this machine, on a Slurm cluster, on a Ray cluster. One thin adapter each.

A run is a process of its own, ``python -m benchmark run ... --quiet`` (here a copy of one that has imported all that
takes: ``warm``): it has its own peak memory, and nothing leaks
from one to the next. It dies with the process that started it (``MBIL_PARENT``), so that no two on a machine ever write
one run folder; jobs that a killed sweep left in Slurm's queue are to be cancelled before it is started again.
An engine is a generator: it yields an ``Outcome`` whenever a run ends, and closing it stops those that are on their
way. submitit and ray are optional and imported when asked for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmark.running.processes import PARENT

Arguments = Sequence[str]  # of one ``run``

COMMAND = (sys.executable, "-m", "benchmark", "run")
POLL = 0.5  # seconds between looks at whether to stop
PATIENCE = 15.0  # seconds that a cell has to end by itself
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Outcome(NamedTuple):
    """How a cell ended: its place among the cells, the exit code, the last line it printed."""

    place: int
    code: int
    line: str


def run_cell(
    argv: Arguments, env: Mapping[str, str], cwd: str | None = None, stop: threading.Event | None = None
) -> tuple[int, str]:
    """Run ``python -m benchmark run`` with these arguments to its end, in this environment besides the process's own.

    Every engine calls this, wherever the cell is to run.

    Args:
        stop: when it is set the cell is ended; what it has finished is on disk.

    Returns:
        The exit code and the last line of output, of errors too; for a process killed by a signal which one.
    """
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    # a session of its own: Ctrl-C reaches the sweep alone, which then ends its cells
    process = subprocess.Popen([*COMMAND, *argv], cwd=cwd, env=environment(env), start_new_session=True, **options)
    asked: float | None = None  # when it was asked to end
    try:
        while True:
            try:
                output = process.communicate(timeout=POLL)[0].decode("utf-8", "replace")
                break
            except subprocess.TimeoutExpired:
                if stop is not None and stop.is_set() and asked is None:
                    asked = time.monotonic()
                    process.terminate()
                elif asked is not None and time.monotonic() - asked > PATIENCE:
                    process.kill()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode, last_word(process.returncode, output)


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """This process's, and what a cell's adds: nothing that it prints is kept back, and so read after its last word."""
    return {**os.environ, **env, PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}


def last_word(code: int, output: str) -> str:
    """The last line of a process's output; of one killed by a signal which one."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {code}"


def threads(count: int) -> dict[str, str]:
    """The environment in which a process computes with so many threads."""
    return dict.fromkeys(THREADS, str(count))


def last_line(error: Exception) -> str:
    """Of an error's message; its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
