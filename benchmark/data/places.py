"""Files and folders that a user names: looked at before they are opened, for a fifo or a device would never answer, and
before the work whose result they are to hold. No torch.
"""

from __future__ import annotations

import os
import stat
from os.path import isdir
from pathlib import Path

from benchmark.errors import UserError

USUAL_DATA = "data"  # the folder of data where none is named, which need not be there
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular(path: Path, where: str) -> int:
    """The size in bytes of a file that can be read like one.

    Raises:
        UserError: nothing is there, or something else than a file; beginning with ``where``.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise UserError(f"{where}: file not found") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{where}: not readable: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{where}: no file but {KINDS.get(stat.S_IFMT(found.st_mode), 'something else')}")
    return found.st_size


def data_folder(name: str) -> None:
    """Refuse a folder of data that is typed and not there."""
    if name != USUAL_DATA and not isdir(name):
        raise UserError(f"--data {name}: folder not found")


def results_folder(name: str, usual: str | None = None) -> None:
    """Refuse as ``--results`` what cannot become a folder of results; where these are only read (``usual``: the folder
    where none is named) also one that is typed and not there.
    """
    _nearest(Path(name), f"--results {name}", folder=True)
    if usual not in (None, name) and not isdir(name):
        raise UserError(f"--results {name}: folder not found")


def writable(path: Path, where: str, folder: bool) -> None:
    """Refuse a place that a file, or a folder of files, could not be written to.

    Raises:
        UserError: something else is there or above it, or this user may not write there.
    """
    nearest = _nearest(path, where, folder)
    if not os.access(nearest, os.W_OK):
        raise UserError(f"{where}: {nearest} is not writable")


def _nearest(path: Path, where: str, folder: bool) -> Path:
    """What is there already of a file or folder: itself, or the nearest folder above it."""
    try:
        if path.exists() or path.is_symlink():
            if folder != path.is_dir():
                raise UserError(f"{where}: {'no folder' if folder else 'a folder, expected a file'}")
            if not folder:
                regular(path, where)
            return path
        above = next(each for each in path.absolute().parents if each.exists())
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {getattr(error, 'strerror', None) or error}") from None
    if not above.is_dir():
        raise UserError(f"{where}: {above} is no folder")
    return above
