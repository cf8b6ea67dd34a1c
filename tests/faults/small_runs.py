"""Short runs of every kind of task, for what goes wrong around them: the same command, and what it must leave."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark.cli import main

TIMES = {"train_seconds", "eval_seconds", "images_per_second", "peak_memory_mib"}  # of what a run took
OF_THE_MOMENT = {"started", "finished", "git_sha", "git_dirty"}
STREAMS = {"classification": "smoke", "fusion": "smoke_fusion", "retrieval": "smoke_retrieval"}


def command(results: Path, method: str, kind: str, *more: str, seed: int = 0) -> list[str]:
    """A run of two tasks, two epochs each, of a few samples."""
    line = ["run", "--method", method, "--stream", STREAMS[kind], "--seed", str(seed), "--results", str(results)]
    return [*line, "--epochs", "2", "--limit", "4", "--batch_size", "4", "--device", "cpu", "--quiet", *more]


def folder_of(results: Path, seed: int = 0) -> Path:
    (folder,) = results.glob(f"runs/*/*/*/seed{seed}-order0")
    return folder


def outcome(folder: Path) -> dict[str, Any]:
    """All that a finished run has left, to the byte, but for when it was and how long it took."""
    left: dict[str, Any] = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    record = json.loads(left.pop("run.json"))
    del record["digest"]
    record["cost"] = {name: value for name, value in record["cost"].items() if name not in TIMES}
    record["provenance"] = {k: v for k, v in record["provenance"].items() if k not in OF_THE_MOMENT}
    return left | {"run.json": record}


def forked(arguments: list[str], prepare: Callable[[], None] = lambda: None) -> int:
    """The number of a process that runs this command silently, and has imported everything already."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        prepare()
        code = main(arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)
