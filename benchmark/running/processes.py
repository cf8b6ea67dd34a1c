"""Processes and their run folders: one at a time in each, and none outlives the process that started it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmark.errors import UserError

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


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other process of this machine is in the run's folder; the lock goes with the process that holds it.

    Raises:
        UserError: another process is there.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = folder.with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise UserError(f"{folder}: another process is running this; wait for it, or stop it") from None
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            break
        file.close()  # the one before has just removed it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
