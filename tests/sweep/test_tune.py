"""Tuning: every trial once, whatever happens on the way; and what it found is what ``--preset tuned`` runs with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from cells import PROGRAM, finished, stand_ins

from benchmark import cli
from benchmark.compare import leaderboard
from benchmark.config import arguments, registry, tuned
from benchmark.config.resolve import resolve
from benchmark.record import trials
from benchmark.record.stored import read_all, write_record
from benchmark.record.trials import Trial
from benchmark.sweep import engines

TUNE = ("tune", "--methods", "ewc", "--kinds", "classification", "--results", "out", "--device", "cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which runs are stand-ins, whose scores are functions of method and seed alone."""
    stand_ins(tmp_path, monkeypatch)
    monkeypatch.setattr(tuned, "path", lambda name: tmp_path / "tuned" / f"{name}.yaml")
    return tmp_path


def lines(results: str = "out", method: str = "ewc") -> list[Trial]:
    return trials.read(Path(results), method)


def told(found: Sequence[Trial]) -> list[tuple[Any, ...]]:
    """All but when it was."""
    return [(trial.identity, trial.lr, trial.args, trial.status, trial.score) for trial in found]


def test_tuning_stopped_twice_goes_on_and_is_the_tuning_that_was_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = trials.add

    def killed(results: Path, found: Sequence[Trial]) -> int:
        if found[0].trial == 2:
            raise KeyboardInterrupt
        return added(results, found)

    argv = (*TUNE, "--trials", "4", "--jobs", "1")
    for _ in range(2):
        monkeypatch.setattr(trials, "add", killed)
        assert cli.main(argv) == 130
    assert not (folder / "tuned").exists() and [trial.trial for trial in lines()] == [0, 1]
    monkeypatch.setattr(trials, "add", added)
    assert cli.main(argv) == 0
    assert [trial.trial for trial in lines()] == [0, 1, 2, 3]
    starts = Path("log").read_text().splitlines()
    assert len(starts) == 4  # a run that was complete is not begun again
    assert not [*Path("out").glob("**/run.json")] and not Path("out/leaderboards").exists()
    first, text = told(lines()), (folder / "tuned" / "ewc.yaml").read_text()
    for part in ("2/2", "1/2"):
        assert cli.main([*argv, "--part", part, "--results", f"half{part[0]}"]) == 0
    assert cli.main(["merge", "--from", "half1", "--results", "half2"]) == 0
    assert told(lines("half2")) == first
    assert (folder / "tuned" / "ewc.yaml").read_text() == text
    assert cli.main(argv) == 0 and len(Path("log").read_text().splitlines()) == 8


def test_a_trial_that_fails_is_recorded_and_is_the_worst(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main([*TUNE, "--trials", "1"]) == 0
    monkeypatch.setenv("CELLS_FAIL", "ewc")
    assert cli.main([*TUNE, "--trials", "3"]) == 0
    assert [trial.status for trial in lines()] == ["complete", "failed", "failed"]
    assert "the disk is full" in lines()[1].note
    section = yaml.safe_load((folder / "tuned" / "ewc.yaml").read_text())["classification"]
    assert (section["values"], section["failed"], section["trials"]) == ({}, 2, 3)


def test_what_the_machine_did_is_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "COMMAND", (PROGRAM[0], "-c", "raise SystemExit(2)"))
    assert cli.main([*TUNE, "--trials", "2"]) == 1
    assert lines() == []


def test_the_preset_is_what_was_found_and_its_rows_say_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*TUNE, "--trials", "4"]) == 0
    rate = min(trial.lr for trial in lines())  # all trials are alike here
    for argv in (["--preset", "tuned"], [], ["--preset", "tuned", "--seed", "1"], ["--seed", "1"]):
        config, card, _ = arguments.parse("run", ["--method", "ewc", "--results", "out", *argv], with_class=False)
        assert config.lr == (rate if argv[:1] == ["--preset"] else 0.005)
        plan = resolve(config, card, cuda=False)
        write_record(plan.path, finished(plan))
    assert config.method_args == {**registry.card("ewc").defaults}
    rows = leaderboard.rows(read_all(Path("out")))
    assert {(row.preset, row.settings == "", row.rank is None) for row in rows} == {
        ("default", True, True), ("tuned", False, True)
    }  # fmt: skip
    assert cli.main(["plan", "--method", "ewc", "--stream", "smoke_fusion", "--preset", "tuned"]) == 2
    assert "ewc was tuned for classification, not for fusion" in capsys.readouterr().err


def test_a_default_that_was_found_best_stands_under_both(folder: Path) -> None:
    """Each of two methods under two presets, ranked among its own."""
    runs = []
    for method, lr in (("ewc", "0.002"), ("lwf", None), ("ncm", None)):
        section = {"values": {"lr": float(lr)} if lr else {}}
        if method != "ncm":
            (folder / "tuned").mkdir(exist_ok=True)
            (folder / "tuned" / f"{method}.yaml").write_text(yaml.safe_dump({"classification": section}))
        for seed in ("0", "1"):
            for argv in ([], ["--preset", "tuned"] if method != "ncm" else []):
                config, card, _ = arguments.parse("run", ["--method", method, "--seed", seed, *argv], with_class=False)
                runs.append(finished(resolve(config, card, cuda=False)))
    unique = {run.place: run for run in runs}
    rows = [row for row in leaderboard.rows(unique.values()) if row.protocol == "given"]
    assert sorted((row.preset, row.method, row.rank is not None) for row in rows) == [
        ("default", "ewc", True), ("default", "lwf", True), ("default", "ncm", True),
        ("tuned", "ewc", True), ("tuned", "lwf", True),
    ]  # fmt: skip
    assert sorted(row.rank or 0 for row in rows if row.preset == "tuned") in ([1.0, 2.0], [1.5, 1.5])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--trials", "0"], "--trials: expected a whole number"),
        (["--trials", "x"], "--trials: expected a whole number"),
        (["--part", "3/2"], "--part: expected k/n"),
        (["--part", "0/2"], "--part: expected k/n"),
        (["--kinds", "clasification"], "did you mean 'classification'?"),
        (["--methods", "ewcc"], "did you mean 'ewc'?"),
        (["--methods", "ncm", "--kinds", "fusion"], "none of them learns fusion"),
        (["--epochs", "2"], "--epochs: no option of tune"),
    ],
)
def test_bad_input_is_one_line_and_nothing_written(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*TUNE, *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not Path("out").exists()


def test_a_record_of_a_stream_to_tune_on_is_never_ranked() -> None:
    config, card, _ = arguments.parse("run", ["--method", "ewc", "--stream", "phantom_tune4"], with_class=False)
    plan = resolve(config, card, cuda=False)
    record = finished(plan)
    write_record(plan.path, record)
    (again,) = read_all(plan.path.parents[4])
    assert record.complete and not record.ranked and not again.ranked and not again.stream.ranked
    assert again.split == "test" and leaderboard.rows([again]) == []
