"""One Slurm job for each run, through submitit."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, unknown
from benchmark.record.files import write_text
from benchmark.sweep.engines import POLL, Arguments, Outcome, last_line, run_cell, threads

CLUSTERS = ("slurm", "local")


def check(options: Mapping[str, Any]) -> None:
    """Refuse options that submitit does not know, or of another type, without a cluster and before anything is due.

    Raises:
        UserError: naming the option; or submitit is not installed.
    """
    try:
        import submitit
    except ImportError:
        raise UserError('--engine slurm needs submitit: pip install "mbil-bench[slurm]"') from None
    chosen = dict(options)
    if chosen.setdefault("cluster", "slurm") not in CLUSTERS:
        raise unknown("cluster", chosen["cluster"], CLUSTERS, "--engine_args")
    del chosen["cluster"]
    executor = submitit.AutoExecutor(folder=os.devnull, cluster="debug")  # knows the options of all executors
    try:
        executor.update_parameters(**chosen)
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"--engine slurm: --engine_args: {str(error).splitlines()[0]}") from None
    if chosen.get("cpus_per_task", 1) < 1:
        raise UserError(f"--engine_args: cpus_per_task: expected at least 1, got {chosen['cpus_per_task']}")


def run(cells: Sequence[Arguments], jobs: int | None, options: Mapping[str, Any], logs: Path) -> Generator[Outcome]:
    """One Slurm job per cell, through submitit; results are expected on a file system that all nodes share.

    A job that is preempted or runs out of time is queued again by submitit and continues from its checkpoint.

    Args:
        jobs: how many of them at once.
        options: of submitit's executor (``slurm_partition``, ``timeout_min``, ``cpus_per_task``, ...); ``cluster`` is
            ``slurm``, or ``local`` to try it without one.
        logs: folder of submitit's own files, and of what the jobs print; git ignores it.
    """
    check(options)
    import submitit

    chosen: dict[str, Any] = {"name": "mbil", "cpus_per_task": 1} | dict(options)
    if jobs is not None:
        chosen["slurm_array_parallelism"] = jobs
    env, cwd = threads(chosen["cpus_per_task"]), os.getcwd()
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=chosen.pop("cluster", "slurm"))
        executor.update_parameters(**chosen)
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"--engine slurm: {' '.join(str(error).split())}") from None
    write_text(logs / ".gitignore", "*\n")
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
                    yield Outcome(place, 1, last_line(error))
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
