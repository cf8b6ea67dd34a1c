"""One Ray task for each run, on a cluster that is there or on one that is started here."""

from __future__ import annotations

import inspect
import os
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from benchmark.errors import UserError, shown, unknown
from benchmark.sweep.engines import Arguments, Outcome, last_line, run_cell, threads

OF_A_CELL = {"num_cpus": 1, "num_gpus": 0, "max_retries": 3}


def check(options: Mapping[str, Any]) -> None:
    """Refuse options that are neither a cell's nor ``ray.init``'s, before anything is due.

    Raises:
        UserError: naming the option; or Ray is not installed.
    """
    try:
        import ray as cluster
    except ImportError:
        raise UserError('--engine ray needs ray: pip install "mbil-bench[ray]"') from None
    known = [*OF_A_CELL, *(name for name in inspect.signature(cluster.init).parameters if name != "kwargs")]
    for name, value in options.items():
        if name not in known:
            raise unknown("option of Ray", name, known, "--engine_args")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name in OF_A_CELL and not (number and value >= 0):
            raise UserError(f"--engine_args: {name}: expected a number of at least 0, got {shown(value)}")


def run(cells: Sequence[Arguments], jobs: int | None, options: Mapping[str, Any]) -> Generator[Outcome]:
    """One Ray task per cell. The cell of a worker that is lost is tried again elsewhere, and continues.

    Args:
        jobs: how many of them at once, if less than the cluster holds.
        options: ``num_cpus`` (1), ``num_gpus`` (0) and ``max_retries`` (3) of a cell; the rest goes to ``ray.init``,
            such as ``address`` of a running cluster; without it one is started here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    check(options)
    import ray as cluster

    needs: dict[str, Any] = dict(OF_A_CELL)
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
                    yield Outcome(place, 1, last_line(error))
    finally:
        for reference in running:
            cluster.cancel(reference, force=True)
        if ours:
            cluster.shutdown()
