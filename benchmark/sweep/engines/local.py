"""This machine dealt out in slots: one run at a time in each, on cores and GPUs that no other slot has."""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Generator, Sequence
from itertools import pairwise
from typing import NamedTuple

from benchmark.errors import UserError
from benchmark.sweep.engines import Arguments, Outcome, last_line, run_cell, threads, warm


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


def run(cells: Sequence[Arguments], places: Sequence[Slot]) -> Generator[Outcome]:
    """Run the cells in the given order, one at a time in each slot.

    They are runs from the start where they cannot be copies of a process (:mod:`warm`), and where each starts processes
    of its own, which Lightning does from the command line.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    stop = threading.Event()
    for place in range(len(cells)):
        waiting.put(place)

    def work(slot: Slot) -> None:
        worker = warm.Worker(slot.env) if slot.each == 1 and warm.possible() else None
        try:
            while not stop.is_set():
                try:
                    place = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    if hasattr(os, "sched_setaffinity"):
                        os.sched_setaffinity(0, slot.cores)  # of this thread, and of the processes it starts
                    run = worker.run(cells[place], stop) if worker else run_cell(cells[place], slot.env, stop=stop)
                    ended.put(Outcome(place, *run))
                except Exception as error:  # no process to be had: the other cells go on
                    ended.put(Outcome(place, 1, last_line(error)))
        finally:
            if worker is not None:
                worker.close()

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
