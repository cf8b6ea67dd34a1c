"""Where the cells of a sweep run: on this machine, on a Slurm cluster, on a Ray cluster. One thin adapter each.

A cell is a process of its own, ``python -m benchmark run ... --quiet``: it has its own peak memory, and nothing leaks
from one to the next. It dies with the process that started it (``MBIL_PARENT``), so that no two on a machine ever write
one run folder; jobs that a killed sweep left in Slurm's queue are to be cancelled before it is started again.
An engine is a generator: it yields an ``Outcome`` whenever a cell ends, and closing it stops those that run. submitit
and ray are optional and imported when asked for.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.errors import UserError
from benchmark.record import records
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
    environment = {**os.environ, **env, PARENT: str(os.getpid())}
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    # a session of its own: Ctrl-C reaches the sweep alone, which then ends its cells
    process = subprocess.Popen([*COMMAND, *argv], cwd=cwd, env=environment, start_new_session=True, **options)
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
    if process.returncode < 0:
        return process.returncode, f"killed by {signal.Signals(-process.returncode).name}"
    lines = [line for line in output.splitlines() if line.strip()]
    return process.returncode, lines[-1].strip() if lines else f"exit code {process.returncode}"


# This machine


def gpus() -> list[str]:
    """The CUDA devices that a process of this machine may use, as ``CUDA_VISIBLE_DEVICES`` names them. No torch."""
    if shutil.which("nvidia-smi") is None:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return names[: next((place for place, name in enumerate(names) if name in ("", "-1")), len(names))]
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^GPU (\d+):", told, re.MULTILINE)


def cores() -> list[int]:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class Slot(NamedTuple):
    """A place for one cell at a time: some cores that no other slot has, and GPUs where there are any."""

    cores: tuple[int, ...]
    gpu: str | None = None
    each: int = 1

    @property
    def threads(self) -> int:
        """Of each of the run's processes."""
        return max(1, len(self.cores) // self.each)

    @property
    def env(self) -> dict[str, str]:
        return threads(self.threads) | ({} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu})


def threads(count: int) -> dict[str, str]:
    """The environment in which a process computes with so many threads."""
    return dict.fromkeys(THREADS, str(count))


def slots(jobs: int | None, devices: Sequence[str], each: int = 1) -> list[Slot]:
    """This machine dealt out: one slot per GPU, without any one per core (one thread a run gives most runs an hour).

    Args:
        jobs: how many slots instead; more than there are GPUs share them in turn.
        each: devices that a run asks for.

    Raises:
        UserError: more slots than cores.
    """
    own = cores()
    groups = [",".join(devices[start : start + each]) for start in range(0, len(devices) - each + 1, each)]
    count = jobs if jobs is not None else min(len(groups), len(own)) or max(1, len(own) // each)
    if not 1 <= count <= len(own):
        raise UserError(f"--jobs {count}: expected 1 to {len(own)}, the cores that are free to use")
    first = [place * len(own) // count for place in range(count + 1)]
    dealt = [tuple(own[start:end]) for start, end in pairwise(first)]
    return [Slot(some, groups[place % len(groups)] if groups else None, each) for place, some in enumerate(dealt)]


def local(cells: Sequence[Arguments], places: Sequence[Slot]) -> Generator[Outcome]:
    """Run the cells in the given order, one at a time in each slot."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    stop = threading.Event()
    for place in range(len(cells)):
        waiting.put(place)

    def work(slot: Slot) -> None:
        while not stop.is_set():
            try:
                place = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                if hasattr(os, "sched_setaffinity"):
                    os.sched_setaffinity(0, slot.cores)  # of this thread, and of the processes it starts
                ended.put(Outcome(place, *run_cell(cells[place], slot.env, stop=stop)))
            except Exception as error:  # no process to be had: the other cells go on
                ended.put(Outcome(place, 1, _last(error)))

    workers = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in places[: len(cells)]]
    for worker in workers:
        worker.start()
    try:
        for _ in cells:
            yield ended.get()
    finally:
        stop.set()
        for worker in workers:
            worker.join()


# Clusters


def slurm(cells: Sequence[Arguments], jobs: int | None, options: Mapping[str, Any], logs: Path) -> Generator[Outcome]:
    """One Slurm job per cell, through submitit; results are expected on a file system that all nodes share.

    A job that is preempted or runs out of time is queued again by submitit and continues from its checkpoint.

    Args:
        jobs: how many of them at once.
        options: of submitit's executor (``slurm_partition``, ``timeout_min``, ``cpus_per_task``, ...); ``cluster`` is
            ``slurm``, or ``local`` to try it without one.
        logs: folder of submitit's own files, and of what the jobs print; git ignores it.
    """
    try:
        import submitit
    except ImportError:
        raise UserError('--engine slurm needs submitit: pip install "mbil-bench[slurm]"') from None
    chosen: dict[str, Any] = {"name": "mbil", "cpus_per_task": 1} | dict(options)
    if jobs is not None:
        chosen["slurm_array_parallelism"] = jobs
    env, cwd = threads(chosen["cpus_per_task"]), os.getcwd()
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=chosen.pop("cluster", "slurm"))
        executor.update_parameters(**chosen)
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"--engine slurm: {' '.join(str(error).split())}") from None
    records.write_text(logs / ".gitignore", "*\n")
    with executor.batch():
        submitted = [executor.submit(_requeued, list(argv), env, cwd) for argv in cells]
    waiting = dict(enumerate(submitted))
    try:
        while waiting:
            for place in [place for place, job in waiting.items() if job.done()]:
                job = waiting.pop(place)
                try:
                    yield Outcome(place, *job.result())
                except Exception as error:  # whatever became of the job: the other cells go on
                    yield Outcome(place, 1, _last(error))
            time.sleep(POLL)
    finally:
        for job in waiting.values():
            job.cancel()


def _requeued(argv: Arguments, env: Mapping[str, str], cwd: str) -> tuple[int, str]:
    return run_cell(argv, env, cwd)


def _again(*arguments: Any) -> Any:
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(_requeued, *arguments)


_requeued.checkpoint = _again  # type: ignore[attr-defined]  # submitit's mark of what may be queued again


def ray(cells: Sequence[Arguments], jobs: int | None, options: Mapping[str, Any]) -> Generator[Outcome]:
    """One Ray task per cell. The cell of a worker that is lost is tried again elsewhere, and continues.

    Args:
        jobs: how many of them at once, if less than the cluster holds.
        options: ``num_cpus`` (1), ``num_gpus`` (0) and ``max_retries`` (3) of a cell; the rest goes to ``ray.init``,
            such as ``address`` of a running cluster; without it one is started here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray as cluster
    except ImportError:
        raise UserError('--engine ray needs ray: pip install "mbil-bench[ray]"') from None

    needs: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0, "max_retries": 3}
    needs |= {name: value for name, value in options.items() if name in needs}
    init = {name: value for name, value in options.items() if name not in needs}
    ours = not cluster.is_initialized()
    if ours:
        own = {} if "address" in init else {"include_dashboard": False}
        try:
            cluster.init(**{"log_to_driver": False, "logging_level": "ERROR", **own, **init})
        except (ConnectionError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"--engine ray: {' '.join(str(error).split())}") from None
    try:
        task: Any = cluster.remote(**needs)(run_cell)
    except (TypeError, ValueError) as error:
        if ours:
            cluster.shutdown()
        raise UserError(f"--engine ray: {' '.join(str(error).split())}") from None
    env, cwd = threads(max(1, int(needs["num_cpus"]))), os.getcwd()
    ready = list(enumerate(cells))[::-1]
    running: dict[Any, int] = {}
    try:
        while ready or running:
            while ready and (jobs is None or len(running) < jobs):
                place, argv = ready.pop()
                running[task.remote(list(argv), env, cwd)] = place
            for reference in cluster.wait(list(running), num_returns=1, timeout=10)[0]:
                place = running.pop(reference)
                try:
                    yield Outcome(place, *cluster.get(reference))
                except cluster.exceptions.RayError as error:
                    yield Outcome(place, 1, _last(error))
    finally:
        for reference in running:
            cluster.cancel(reference, force=True)
        if ours:
            cluster.shutdown()


def _last(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
