"""What make passes on, and what it installs: with a Python that only writes down what it is called with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
  "-m benchmark needs "*) [ -z "$LACKING" ] || echo $LACKING;;
  "-m uv "*|"-m pip install "*) exit "$INSTALLS";;
esac
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A clone that is set up, as far as make can tell."""
    for name in ("Makefile", "pyproject.toml", ".ci/constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / ".venv/.installed").touch()
    return tmp_path


def calls(tree: Path, *words: str, lacking: str = "", installs: int = 0) -> list[str]:
    """What Python was asked for, call by call."""
    (tree / "calls").write_text("")
    told = {"PATH": os.environ["PATH"], "CALLS": str(tree / "calls"), "LACKING": lacking, "INSTALLS": str(installs)}
    subprocess.run(["make", *words], cwd=tree, env=told, check=True, capture_output=True)
    return (tree / "calls").read_text().splitlines()


def test_a_backbone_is_named_only_where_it_is_given(tree: Path) -> None:
    """Without one the stream says which: of questions it is no CLIP."""
    asked, run = calls(tree, "bench", "METHOD=ewc", "STREAM=smoke_generation")
    assert asked == "-m benchmark needs --streams smoke_generation"
    assert run == "-m benchmark run --method ewc --stream smoke_generation --seed 0 --order 0"
    for line in calls(tree, "bench", "METHOD=ewc", "STREAM=my/own.yaml", "BACKBONE=hf:owner/name", "DATA=files"):
        assert "--backbone hf:owner/name" in line and "my/own.yaml" in line and "--data files" in line


def test_results_are_named_only_where_they_are_given(tree: Path) -> None:
    """Else they are the user's own, with the stored ones beside."""
    for target in (
        "bench",
        "sweep",
        "tune",
        "tuning",
        "plan",
        "speed",
        "verify",
        "leaderboard",
        "claims",
        "report",
        "merge",
    ):
        assert "--results" not in calls(tree, target, "METHOD=ewc", "FROM=theirs")[-1], target
        assert "--results out" in calls(tree, target, "METHOD=ewc", "FROM=theirs", "RESULTS=out")[-1], target


@pytest.mark.parametrize("target", ["sweep", "plan", "speed"])
def test_every_stream_of_a_grid_is_asked_about(target: str, tree: Path) -> None:
    asked, run = calls(tree, target, "METHODS=ewc lwf", "STREAMS=phantom8 own.yaml")
    assert asked == "-m benchmark needs --streams phantom8 own.yaml"
    assert run.startswith(f"-m benchmark {target} --methods ewc lwf --streams phantom8 own.yaml ")


def test_an_extra_is_installed_once_where_it_is_lacking_and_before_the_run(tree: Path) -> None:
    asked, *installing, run = calls(tree, "bench", "METHOD=ewc", "STREAM=smoke_generation", lacking="generation")
    assert "needs" in asked and " run " in run
    assert sum("pip install" in line and ".[generation]" in line for line in installing) == 1
    assert len(calls(tree, "bench", "METHOD=ewc", lacking="generation")) == 2


def test_where_an_extra_cannot_be_installed_the_run_says_so_itself(tree: Path) -> None:
    *_, run = calls(tree, "bench", "METHOD=ewc", lacking="generation", installs=1)
    assert " run " in run
    assert not (tree / ".venv/.extra-generation").exists()


def test_the_checks_of_a_method_ask_for_what_their_questions_need(tree: Path) -> None:
    assert calls(tree, "check", "METHOD=ewc") == [
        "-m benchmark needs --streams smoke_generation",
        "-m benchmark check --method ewc",
    ]


def test_nothing_is_asked_or_installed_for_what_needs_no_extra(tree: Path) -> None:
    for target in ("smoke", "methods", "streams", "leaderboard", "report", "pretrain"):
        assert not [line for line in calls(tree, target, lacking="generation") if "needs" in line or "pip" in line]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("EPOCH=1", "unknown variable EPOCH: did you mean EPOCHS?"),
        ("method=ewc", "unknown variable method: did you mean METHOD?"),
        ("BACKBON=x", "unknown variable BACKBON: did you mean BACKBONE?"),
        ("BATCH_SIZE=8", 'unknown variable BATCH_SIZE: other options of a run go into ARGS="--name value"'),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest(typed: str, told: str, tree: Path) -> None:
    (tree / "calls").write_text("")
    env = {"PATH": os.environ["PATH"], "CALLS": str(tree / "calls"), "LACKING": "", "INSTALLS": "0"}
    done = subprocess.run(["make", "bench", "METHOD=ewc", typed], cwd=tree, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1
    assert (tree / "calls").read_text() == ""


def test_variables_of_other_programs_are_handed_on(tree: Path) -> None:
    *_, run = calls(tree, "bench", "METHOD=ewc", "OMP_NUM_THREADS=1", "MBIL_CACHE=x", "EPOCHS=1", "-j2")
    assert run.endswith("--epochs 1")
