"""Data that stand twice are said by plan and run, kept in the record, shown in the report; and nothing is stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from benchmark import cli
from tests.source_files import arrays, saved

SAID = "warning: data that stand twice: cells (2 of test also in train or val, 1 under two labels)"


@pytest.mark.slow
def test_what_stands_twice_is_said_from_plan_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tally: Callable[..., None]
) -> None:
    monkeypatch.setenv("MBIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    made = arrays()
    made["test_images"][:2] = made["train_images"][0]  # of the classes a and b, in train of a
    saved(tmp_path, made)
    task = {"name": "cells", "modality": "ct", "source": "npz", "path": "set.npz", "classes": ["a", "b", "c"],
            "template": "{}"}  # fmt: skip
    Path("s.yaml").write_text(yaml.safe_dump({"name": "s", "tasks": [task]}))
    run = ["--method", "zero_shot", "--stream", "s.yaml", "--results", "out", "--device", "cpu"]
    for argv in (["plan", *run], ["plan", "--methods", "zero_shot", "--streams", *run[3:]], ["run", *run]):
        assert cli.main(argv) == 0
        assert capsys.readouterr().out.replace("\n", " ").count(SAID) == 1, argv
    (record,) = Path("out/runs/s").glob("*/*/*/run.json")
    assert json.loads(record.read_text())["repeats"] == {"cells": {"test": 2, "val": 0, "labels": 1}}
    assert cli.main(["report", "--results", "out"]) == 0
    page = Path("out/report/index.html").read_text()
    assert "Data that stand twice: cells (2 of test also in train or val, 1 under two labels)." in page
    tally("said from plan to report")
