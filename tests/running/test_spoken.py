"""Runs that are answered in words: four kinds of question in one stream, other models, killed, and what is hidden."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmark.cli import main
from benchmark.record.answers import read_answers
from tests.faults.small_runs import folder_of, forked, outcome
from tests.faults.test_kills import ended, leftovers
from tests.methods.layouts import LAYOUTS
from tests.source_files import pixels, save

SIZES = {"train": 8, "val": 4, "test": 4}
TALKS = ("closed", "open", "classes", "report")


def command(results: Path, method: str, stream: str, *more: str) -> list[str]:
    line = ["run", "--method", method, "--stream", stream, "--results", str(results), "--epochs", "1"]
    return [*line, "--batch_size", "4", "--lr", "0.02", "--device", "cpu", "--quiet", *more]


def asked(talk: str, index: int) -> dict[str, Any]:
    """A made task with one kind of question."""
    of = {"factors": ["nuclear_density", "nuclear_size", "gland_size"]}
    if talk == "classes":
        of = {"words": ["small", "large"], "regions": [{"gland_size": [0.05, 0.3]}, {"gland_size": [0.7, 0.95]}]}
    return of | {
        "name": f"{talk}_questions", "modality": "pathology", "kind": "generation", "source": "phantom",
        "generator": "histopathology", "seed": 70 + index, "sizes": SIZES, "talk": talk,
        "max_new_tokens": 4,
    }  # fmt: skip


def test_four_kinds_of_question_are_one_stream(tmp_path: Path) -> None:
    """Closed, open, classes in words, reports: each a task with a metric of its own, exact match or F1."""
    tasks = [asked(talk, index) for index, talk in enumerate(TALKS)]
    (tmp_path / "four.yaml").write_text(yaml.safe_dump({"name": "four", "tasks": tasks}))
    assert main(command(tmp_path / "r", "mslora_cr", str(tmp_path / "four.yaml"))) == 0
    folder = folder_of(tmp_path / "r")
    record = json.loads((folder / "run.json").read_text())
    assert record["stream"]["kind"] == "generation" and record["primary"] == "primary"
    rows = np.array(record["scores"]["primary"]["given"], float)
    assert rows.shape == (5, 4) and np.isfinite(rows).all()
    lines = list(read_answers(folder / "answers.jsonl.gz"))
    assert {line.task for line in lines} == {task["name"] for task in tasks}
    assert {line.type for line in lines if line.task == "closed_questions"} == {"CLOSED"}
    assert {line.type for line in lines if line.task == "report_questions"} == {"OPEN"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sequential_lora", "er", "lwf", "ewc", "olora", "joint_lora", "mslora_moecr"])
def test_classes_and_notes_are_learned_beside_questions(method: str, tmp_path: Path) -> None:
    assert main(command(tmp_path, method, "smoke_mixed", "--limit", "4")) == 0
    record = json.loads((folder_of(tmp_path) / "run.json").read_text())
    assert record["stream"]["kind"] == "mixed"
    assert np.isfinite(np.array(record["scores"]["primary"]["given"], float)).all()
    assert [value is None for value in record["scores"]["accuracy"]["given"][-1]] == [False, False, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sequential_lora", "mslora_cr"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stream_runs_on_any_layout(layout: str, method: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path / "model")
    backbone = f"local-dir:{tmp_path / 'model'}"
    line = command(tmp_path / "r", method, "smoke_generation", "--limit", "4", "--backbone", backbone)
    assert main(line) == 0
    record = json.loads((folder_of(tmp_path / "r") / "run.json").read_text())
    assert record["stream"]["kind"] == "generation" and record["config"]["backbone"] == backbone


def _stops_before_row(stage: int) -> None:
    """This process kills itself where the row of a stage would be answered."""
    from benchmark.running.evaluate import Evaluator

    row = Evaluator.row

    def killed(self: Evaluator, wanted: int) -> Any:
        if wanted == stage:
            os.kill(os.getpid(), signal.SIGKILL)
        return row(self, wanted)

    Evaluator.row = killed  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mslora_cr", "er"])
def test_a_killed_run_is_taken_up_to_the_same_bytes(method: str, tmp_path: Path) -> None:
    """All that is answered among them, in a file of its own."""
    line = [*command(tmp_path / "straight", method, "smoke_generation"), "--limit", "4"]
    assert main(line) == 0
    expected = outcome(folder_of(tmp_path / "straight"))
    assert "answers.jsonl.gz" in expected
    again = [*command(tmp_path / "killed", method, "smoke_generation"), "--limit", "4"]
    for stage in (1, 2):
        assert ended(forked(again, lambda stage=stage: _stops_before_row(stage))) == -signal.SIGKILL
    assert main(again) == 0
    assert outcome(folder_of(tmp_path / "killed")) == expected
    assert not leftovers(tmp_path / "killed")


def questions(folder: Path, told: Mapping[int, str]) -> str:
    """Two tasks in the official layout, whose test answers are these."""
    for name, first in (("a", 0), ("b", 6)):
        for i in range(first, first + 6):
            save(folder / "images" / f"{i}.png", pixels(i, (16, 16, 3)))
        train = [
            {"image": f"{first + i}.png", "conversations": [{"from": "human", "value": f"<image>\nIs {name} there?"},
                                                            {"from": "gpt", "value": ("yes", "no")[i % 2]}]}
            for i in range(4)
        ]  # fmt: skip
        test = [
            {"image": f"{first + 4 + i}.png", "text": f"Is {name} there?", "gt": told[i], "answer_type": "CLOSED"}
            for i in range(2)
        ]
        (folder / f"{name}.json").write_text(json.dumps(train))
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, test)))
    tasks = [
        {"name": name, "modality": "ct", "kind": "generation", "source": "llava", "train": f"{name}.json",
         "test": f"{name}.jsonl", "images": "images", "answers": ["yes", "no"], "max_new_tokens": 3}
        for name in "ab"
    ]  # fmt: skip
    (folder / "s.yaml").write_text(yaml.safe_dump({"name": "s", "tasks": tasks}))
    return str(folder / "s.yaml")


def test_what_is_right_changes_neither_an_answer_nor_a_route(tmp_path: Path) -> None:
    """Hidden or given: only what is compared with is another."""
    said, routed = [], []
    for name, told in (("one", {0: "yes", 1: "no"}), ("other", {0: "no", 1: "yes"})):
        (tmp_path / name).mkdir()
        stream = questions(tmp_path / name, told)
        assert main(command(tmp_path / name / "r", "mslora_cr", stream, "--data", str(tmp_path / name),
                            "--backbone", "tiny-llava")) == 0  # fmt: skip
        folder = folder_of(tmp_path / name / "r")
        with np.load(folder / "predictions.npz") as arrays:
            cells = [key for key in arrays.files if key.endswith(("_answer", "_likeliest"))]
            said.append({key: arrays[key].tolist() for key in cells})
        record = json.loads((folder / "run.json").read_text())
        routed.append((record["router_accuracy"], record["router_confusion"]))
    assert said[0] == said[1] and routed[0] == routed[1] and sum(map(sum, routed[0][1])) == 4
    assert {"0/a/given_answer", "2/b/hidden_answer", "2/a/hidden_likeliest"} <= said[0].keys()
    assert len({str(answers) for answers in said[0].values()}) > 3  # and they do change while it learns
