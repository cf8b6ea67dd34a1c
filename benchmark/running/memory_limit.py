"""Out of memory, on the host or on a device, said with the batch size and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmark.endings import out_of_memory
from benchmark.errors import UserError


@contextmanager
def told_when_full(where: str, batch_size: int | None, fixed: int = 0) -> Iterator[None]:
    """Inside, an error for want of memory becomes a line with a batch size to try.

    Args:
        where: the task, and what is done, in words.
        batch_size: the run's own, which may be made smaller; None: batches are of ``fixed`` samples, whatever it is.

    Raises:
        UserError: there was no memory left. What was on disk is whole.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        if batch_size is None:
            at, then = f"in batches of {fixed}, which --batch_size does not change", "take a smaller --backbone"
        elif batch_size > 1:
            at, then = f"at --batch_size {batch_size}", f"try --batch_size {batch_size // 2}"
        else:
            at, then = "at --batch_size 1", "take a smaller --backbone"
        raise UserError(f"{where}: out of memory {at}: {then}, or a device with more memory") from error
