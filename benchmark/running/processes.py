"""The processes of a run: none outlives the one that started it, and one of those that learn together leads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PARENT = "MBIL_PARENT"  # in the environment of a process that must end with this one
LEADER = "MBIL_LEADER"  # and of one that learns along with the process that started it
RANKS = (
    "LOCAL_RANK", "RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
)  # fmt: skip  # by which Lightning takes a process for one that others have started beside this one


def follow_parent() -> None:
    """End this process when the one that :data:`PARENT` names is gone, killed included; nothing without it.

    A sweep that is killed, and run again, would otherwise meet the runs that it started before.
    """
    parent = os.environ.get(PARENT)
    if parent:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def rank_here() -> int:
    """Which of the processes that learn together this is; Lightning starts those above 0 with the same command.

    A rank that was left in the environment by anything but a run of this suite (torchrun, a scheduler) counts for
    nothing: a run that took it for its own would do nothing, and say so to nobody.
    """
    follows = LEADER in os.environ and os.environ[LEADER] == os.environ.get(PARENT)
    return int(os.environ.get("LOCAL_RANK", "0")) if follows else 0


@contextmanager
def on_its_own(devices: int) -> Iterator[None]:
    """Inside, Lightning does not take the run for one of a job's tasks, and would not queue a Slurm job again.

    With several ``devices`` the processes that Lightning starts inside end with this one. Outside, the environment is
    as it was: it is also that of whoever calls a run from a program of their own.
    """
    before = {name: value for name, value in os.environ.items() if _told_by_others(name)}
    _forget()
    if devices > 1:
        os.environ[PARENT] = os.environ[LEADER] = str(os.getpid())
    try:
        yield
    finally:
        _forget()
        os.environ.update(before)


def _told_by_others(name: str) -> bool:
    return name in (PARENT, LEADER, *RANKS) or name.startswith("SLURM_")


def _forget() -> None:
    for name in [name for name in os.environ if _told_by_others(name)]:
        del os.environ[name]
