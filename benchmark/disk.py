"""Files on disk: written whole or not at all, known again by a digest, removed whatever they are. No torch."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from contextlib import suppress
from glob import glob
from pathlib import Path

Data = bytes | bytearray | memoryview
UNABLE = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EISDIR)  # of file systems that cannot fsync a folder


def below(folder: Path, pattern: str) -> list[Path]:
    """What fits the pattern below a folder, sorted, hidden files left out; folders may vanish meanwhile."""
    return sorted(folder / name for name in glob(pattern, root_dir=folder))


def write_bytes(path: Path, data: Data) -> None:
    """Put ``data`` at ``path`` in one step: readers, and a process killed half-way, see the old file or the new one.

    Raises:
        OSError: naming ``path``, where there is no space or no permission; what was there is there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # a write tells no path, an open that of the temporary file
        raise
    finally:
        with suppress(OSError):  # that it cannot be written is told already
            temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(folder: Path) -> None:
    """What was renamed in a folder is on disk afterwards."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in UNABLE:
            error.filename = str(folder)
            raise
    finally:
        os.close(opened)


def digest(data: Data) -> str:
    """64 hex digits (BLAKE2: where the processor has no instructions for SHA, in a third of its time)."""
    return digesting(data).hexdigest()


def digesting(begin: Data = b"") -> hashlib.blake2b:
    """The same of data that comes in parts: ``update``, then ``hexdigest``."""
    return hashlib.blake2b(begin, digest_size=32)


def sha256(path: Path) -> str:
    """Of a file's content, as ``sha256sum`` tells it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Remove what is there, if anything is: a file, a link (never what it points to), a folder with all in it."""
    if path.is_dir() and not path.is_symlink():
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            pass
        except PermissionError:
            _unlock(path)
            shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink(missing_ok=True)


def make_room(path: Path) -> Path:
    """Remove a folder where a file belongs; returns ``path``."""
    if path.is_dir():
        remove(path)
    return path


def _unlock(folder: Path) -> None:
    """Let the folder's owner change all folders in it."""
    folder.chmod(0o700)
    for above, names, _ in os.walk(folder):
        for name in names:
            inner = Path(above, name)
            if not inner.is_symlink():
                inner.chmod(0o700)
