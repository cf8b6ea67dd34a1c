"""Files appear whole or not at all, and numbers stand in them in one way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmark.record.files import csv_text, decimals, now, write_bytes, write_json, write_text

NAN = float("nan")
ROOT = Path(__file__).resolve().parents[2]


def test_json_is_stable_and_readable(tmp_path: Path) -> None:
    value = {"b": NAN, "a": np.array([[1.0, NAN], [np.inf, 0.1]]), "n": np.int64(3), "e": [], "d": {}, "t": (1, 2)}
    write_json(tmp_path / "x.json", value)
    assert (tmp_path / "x.json").read_text() == (
        '{\n "b": null,\n "a": [\n  [1.0, null],\n  [null, 0.1]\n ],\n "n": 3,\n "e": [],\n "d": {},\n "t": [1, 2]\n}\n'
    )
    write_json(tmp_path / "half.json", {"path": "\udc80"})
    assert json.loads((tmp_path / "half.json").read_text()) == {"path": "\udc80"}


def test_decimals() -> None:
    assert [decimals(value) for value in (0.5, None, NAN, float("inf"), -1e-9, -0.5, 1)] == [
        "0.500000", "", "", "", "0.000000", "-0.500000", "1.000000",
    ]  # fmt: skip
    assert decimals(0.125, 2) == "0.12" and decimals(-0.001, 2) == "0.00"


def test_csv_has_one_kind_of_line_end() -> None:
    assert csv_text(["a", "b"], [["x, y", 1], ['"', None]]) == 'a,b\n"x, y",1\n"""",\n'


def test_now_has_its_zone_and_whole_seconds() -> None:
    assert now().endswith("+00:00") and "." not in now()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError):
            patch.setattr(os, name, fail)
            write_text(path, "new")
        assert [file.name for file in tmp_path.iterdir()] == ["run.json"] and path.read_text() == "old"


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "run.json", b"old")
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom benchmark.record.files import write_json\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_json(Path(sys.argv[1]), {'schema': 1})\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "run.json"], cwd=ROOT, check=False)
    assert done.returncode != 0
    assert len(list(tmp_path.glob(".run.json.*.tmp"))) == 1
    assert (tmp_path / "run.json").read_bytes() == b"old"


def test_folders_are_made_on_the_way(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"
