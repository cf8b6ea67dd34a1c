"""The processes of a run: none outlives the one that started it, and one of those that learn together leads."""

from __future__ import annotations

import os
import threading
import time

PARENT = "MBIL_PARENT"  # in the environment of a process that must end with this one


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
    """Which of the processes that learn together this is; Lightning starts those above 0 with the same command."""
    return int(os.environ.get("LOCAL_RANK", "0"))
