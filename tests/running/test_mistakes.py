"""What a method's author does wrong is one sentence with the author's own line, in ``run`` and in ``check``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmark import cli

GOOD = '''
import torch
from torch import nn
from methods.base import IncrementalMethod


class Mine(IncrementalMethod):
    """A linear layer on the features."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict()

    def begin_task(self, task):
        super().begin_task(task)
        self.heads[str(task.index)] = nn.Linear(64, 64)

    def trainable_parameters(self):
        return list(self.heads[str(len(self.tasks) - 1)].parameters()) if self.tasks else []

    def embed_image(self, batch):
        feature = super().embed_image(batch)
        return self.heads[str(len(self.tasks) - 1)](feature) if self.tasks else feature
'''
OWN = "list(self.heads[str(len(self.tasks) - 1)].parameters())"
LOSS = "\n    def loss(self, batch):\n        x = super().loss(batch)\n        return {}\n"
SCORES = "\n    def scores(self, batch, labels, task):\n        return super().scores(batch, labels, task){}\n"
LATE = """
    def loss(self, batch):
        if "late" not in self.heads:
            self.heads["late"] = nn.Linear(64, 64)
        return super().loss(batch)
"""
BEGIN, MADE, TRAINED = "def begin_task(self, task):", "def __init__(self):", "def trainable_parameters(self):"
LOST, ASKED = "def loss(self, batch):", "def scores(self, batch, labels, task):"
Change = str | tuple[str, str]
MISTAKES: dict[str, tuple[Change, str, str]] = {  # what is written behind, or instead of what; what is said; which line
    "no super in begin_task": (("super().begin_task(task)", "pass"), "does not call super().begin_task(task)", BEGIN),
    "no super in __init__": (
        ("super().__init__()\n        self.heads = nn.ModuleDict()", "self.rank = 8"),
        "does not call super().__init__()", MADE,
    ),
    "modules before super": (
        ("        super().__init__()\n", ""), "before Module.__init__() call", "self.heads = nn.ModuleDict()"
    ),
    "a loss of every sample": (LOSS.format("x * torch.ones(8)"), "Mine.loss gives float32 of shape (8,)", LOST),
    "a loss of one sample": (LOSS.format("x[None]"), "Mine.loss gives float32 of shape (1,)", LOST),
    "a number": (LOSS.format("x.item()"), "Mine.loss gives a float, expected", LOST),
    "a dict": (LOSS.format("{'loss': x}"), "Mine.loss gives a dict, expected", LOST),
    "no return": (LOSS.format("None"), "Mine.loss gives None, expected", LOST),
    "whole numbers": (LOSS.format("x.round().long()"), "Mine.loss gives int64 of shape ()", LOST),
    "no gradient": (LOSS.format("x.detach()"), "depends on no parameter that is trained", LOST),
    "frozen": ((OWN, f"[*self.backbone.image.parameters()] + {OWN}"), "gives backbone.image.", TRAINED),
    "a plain dict": (("nn.ModuleDict()", "{}"), "at place 0 that is no part of the method", TRAINED),
    "a generator": ((OWN, "self.heads.parameters()"), "gives a generator, expected a list", TRAINED),
    "a parameter twice": ((OWN, f"{OWN} * 2"), "gives a parameter twice", TRAINED),
    "made while training": (
        (f"return {OWN} if self.tasks else []\n", "return list(self.heads.parameters())\n" + LATE),
        "gives heads.late.weight since training began", TRAINED,
    ),
    "a column too few": (SCORES.format("[:, 1:]"), "is (8, 3) of float32, expected (8, 4)", ASKED),
    "classes for scores": (SCORES.format(".argmax(1)"), "of int64, expected (8, 4)", ASKED),
    "numpy": (SCORES.format(".numpy()"), "is a ndarray, expected a tensor", ASKED),
    "an argument too few": (
        SCORES.format("").replace(", task):", "):"),
        "is called as scores(batch, labels, task)", "def scores(self, batch, labels):",
    ),
    "a name misspelt": (("return self.heads[", "return self.haeds["), "no attribute 'haeds'", "return self.haeds["),
}  # fmt: skip
UNMARKED = ("no super in begin_task", "frozen", "a name misspelt")  # the rest are of the same kinds


def written(folder: Path, place: int, change: Change) -> Path:
    text = GOOD + change if isinstance(change, str) else GOOD.replace(*change)
    assert text != GOOD
    file = folder / f"mistaken_{place}.py"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    "name", [name if name in UNMARKED else pytest.param(name, marks=pytest.mark.slow) for name in MISTAKES]
)
def test_a_mistake_ends_a_run_in_one_sentence_with_the_authors_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    change, said, line = MISTAKES[name]
    file = written(tmp_path, list(MISTAKES).index(name), change)
    argv = ["run", "--method", str(file), "--stream", "smoke", "--limit", "8", "--epochs", "1", "--batch_size", "8"]
    assert cli.main([*argv, "--device", "cpu", "--quiet", "--results", str(tmp_path)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and said in error and f"{file.name}:" in error and f": {line}" in error


def test_check_stops_at_the_first_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    file = written(tmp_path, 100, MISTAKES["a loss of every sample"][0])
    assert cli.main(["check", "--method", str(file)]) == 1
    out = capsys.readouterr().out
    assert out.count("FAIL") == 1 and "Mine.loss gives float32 of shape (8,)" in out and f": {LOST}" in out
    assert "the other checks are made when this one passes" in out


def test_check_names_what_is_kept_outside_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    kept = "\n    def end_task(self, task, loader):\n        self.shift = next(iter(loader))['image'].max().item()\n"
    kept += SCORES.format(" + getattr(self, 'shift', 0.0) * torch.arange(len(labels))")
    file = written(tmp_path, 101, kept)
    assert cli.main(["check", "--method", str(file)]) == 1
    out = capsys.readouterr().out
    assert out.count("FAIL") == 1 and "what self.memory does not hold is lost: self.shift" in out.replace(
        "\n     ", " "
    )
