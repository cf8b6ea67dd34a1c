"""One process at a time in a run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.errors import UserError

TRIES = 1000  # of making a folder that others remove; each is a moment


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside, no other process of this machine is in ``folder``; the lock goes with the process that holds it.

    Where nothing was written, nothing is left: neither the lock's file beside the folder, nor folders made for it.

    Raises:
        UserError: another process is there, or the folder cannot be written.
    """
    lock = folder.with_name(f".{folder.name}.lock")
    made: set[Path] = set()
    try:
        held = _taken(folder, lock, made)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # still held: whoever opened this file sees that it has no name any more
            held.release()
    finally:
        for above in sorted(made, reverse=True):
            with suppress(OSError):  # not empty, or gone
                above.rmdir()


def _taken(folder: Path, lock: Path, made: set[Path]) -> FileLock:
    """The lock, held; the folders that are made for it are added to ``made``."""
    held = FileLock(lock, timeout=0)
    for left in reversed(range(TRIES)):
        made |= {above for above in lock.parents if not above.exists()}
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.acquire()
            break
        except Timeout:
            raise UserError(f"{folder}: another process is running this; wait for it, or stop it") from None
        except OSError as error:
            vanished = isinstance(error, FileNotFoundError | FileExistsError)  # one that wrote nothing has removed it
            if not vanished or left == 0:
                raise UserError(f"{lock.parent}: cannot be written ({error.strerror})") from None
    return held
