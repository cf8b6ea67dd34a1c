"""Contents of files are hashed once, and not where nothing can be remembered."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmark.data import sources
from benchmark.data.sources import contents
from tests.source_files import in_folders, pixels, save


def test_contents_are_hashed_once(chest: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    told = sources.identity(in_folders(chest))
    assert not cache.exists()  # files of this moment could change within one tick of the clock: nothing is remembered
    monkeypatch.setattr(contents.time, "time_ns", lambda: now() + 3_000_000_000)
    assert sources.identity(in_folders(chest)) == told
    (memory,) = (cache / "digests").iterdir()
    assert len(json.loads(memory.read_text())["files"]) == 18
    hashed: list[Any] = []
    real = hashlib.file_digest
    monkeypatch.setattr(contents.hashlib, "file_digest", lambda file, *a: hashed.append(file.name) or real(file, *a))
    assert sources.identity(in_folders(chest)) == told and hashed == []
    image = save(chest / "val" / "NORMAL" / "val-NORMAL-0.png", pixels(3))
    assert sources.identity(in_folders(chest)) != told and hashed == [str(image)]
    memory.write_text("damaged")
    sources.identity(in_folders(chest))
    assert len(hashed) == 1 + 18


def test_a_cache_that_cannot_be_written_is_done_without(chest: Path, cache: Path) -> None:
    told = sources.identity(in_folders(chest))
    cache.write_text("a file where the folder should be")
    assert sources.identity(in_folders(chest)) == told


@pytest.mark.parametrize("kept", ["[]", '{"files": [1], "digest": "x"}', "{}", '"text"', "null", "\x00"])
def test_a_damaged_memory_is_no_memory(kept: str, chest: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = sources.identity(in_folders(chest))
    now = time.time_ns
    monkeypatch.setattr(contents.time, "time_ns", lambda: now() + 3_000_000_000)
    assert sources.identity(in_folders(chest)) == told
    (memory,) = (cache / "digests").iterdir()
    whole = json.loads(memory.read_text())
    memory.write_text(kept)
    assert sources.identity(in_folders(chest)) == told
    assert json.loads(memory.read_text()) == whole
    for entry in whole["files"].values():
        entry[-1] = "0" * 64  # well-formed, and of other files
    memory.write_text(json.dumps(whole))
    assert sources.identity(in_folders(chest)) == told
