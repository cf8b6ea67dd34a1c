"""The contents of files, hashed once and remembered in the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark.disk import digest, write_bytes
from benchmark.errors import UserError


def cache_folder() -> Path:
    """Where decoded images and the hashes of files are kept: $MBIL_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MBIL_CACHE") or Path(base) / "mbil-bench")


def digests(root: Path, paths: Sequence[Path], algorithm: str = "sha256") -> list[str]:
    """The hash of every file's content, read again only where size or times differ from what is remembered of it.

    Args:
        root: what the files are remembered under: the folder or table that they belong to.
    """
    of = f"{algorithm}:{Path(root).resolve()}"
    memory = cache_folder() / "digests" / f"{hashlib.sha256(of.encode()).hexdigest()[:24]}.json"
    known = _remembered(memory, of)

    def hashed(path: str) -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()

    begun, names = time.time_ns(), [str(path) for path in paths]
    try:
        states = [[stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for stat in map(os.stat, names)]
        new = [name for name, state in zip(names, states, strict=True) if known.get(name, [None])[:-1] != state]
        with ThreadPoolExecutor(8) as pool:
            read = dict(zip(new, pool.map(hashed, new), strict=True))
    except OSError as error:
        raise UserError(f"{error.filename or root}: not readable: {error.strerror or error}") from None
    found = [read[name] if name in read else known[name][-1] for name in names]
    # a file changed just now may change again within one tick of its clock: not remembered
    settled = {
        name: [*state, content]
        for name, state, content in zip(names, states, found, strict=True)
        if begun - max(state[1:]) > 2e9
    }
    if settled != known:
        with suppress(OSError):
            write_bytes(memory, json.dumps({"files": settled, "digest": _own(settled, of)}).encode())
    return found


def _remembered(memory: Path, of: str) -> dict[str, list[Any]]:
    """File -> size, times and hash; nothing where the memory is damaged, or of other files."""
    with suppress(OSError, ValueError, RecursionError):
        told = json.loads(memory.read_bytes())
        if isinstance(told, dict) and told.get("digest") == _own(told.get("files"), of):
            return told["files"]
    return {}


def _own(files: object, of: str) -> str:
    return digest(json.dumps([of, files], sort_keys=True).encode())
