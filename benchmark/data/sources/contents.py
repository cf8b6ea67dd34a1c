"""The contents of files, hashed once and remembered in the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

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
    name = hashlib.sha256(f"{algorithm}:{Path(root).resolve()}".encode()).hexdigest()[:24]
    memory = cache_folder() / "digests" / f"{name}.json"
    known: dict[str, list[Any]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(memory.read_text(encoding="utf-8"))

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
        name: [*state, digest]
        for name, state, digest in zip(names, states, found, strict=True)
        if begun - max(state[1:]) > 2e9
    }
    if settled != known:
        with suppress(OSError):
            _replace(memory, settled)
    return found


def _replace(memory: Path, settled: dict[str, list[Any]]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=memory.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(settled, file)
    os.replace(draft, memory)
