"""Sweeps: the cells that are missing, once each, whatever happens on the way; and what a grid would take."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import PROGRAM, ROOT, finished, scores, stand_ins, statuses, tables
from hypothesis import given
from hypothesis import strategies as st

from benchmark import cli
from benchmark.config import arguments
from benchmark.config.resolve import resolve
from benchmark.record.files import now
from benchmark.record.folder import Found, RunFolder, State
from benchmark.record.schema import Provenance
from benchmark.record.stored import read_all, read_record, write_record
from benchmark.running.execute import new_record, starts_anew
from benchmark.sweep import engines, forecast, sweep
from benchmark.sweep.engines import local
from tests.made_records import archive

GRID = ("--methods", "ncm zero_shot", "--streams", "smoke", "--seeds", "0,1", "--results", "out", "--device", "cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which runs are stand-ins that log when they start."""
    stand_ins(tmp_path, monkeypatch)
    return tmp_path


def started() -> list[str]:
    """``method seed order state`` of every cell that was started since the last call."""
    log = Path("log")
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return sorted(lines)


def swept(*argv: str, code: int = 0) -> list[str]:
    assert cli.main(["sweep", *argv]) == code
    return started()


def saved(results: str, method: str, seed: int = 0, order: int = 0, stream: str = "smoke", **changes: Any) -> Path:
    """The record of a complete run, with changes; its folder."""
    argv = ["--method", method, "--stream", stream, "--seed", str(seed), "--order", str(order)]
    config, card, _ = arguments.parse("run", [*argv, "--results", results, "--device", "cpu"], with_class=False)
    resolved = resolve(config, card, cuda=False)
    record = finished(resolved) if changes.get("status") != "running" else new_record(resolved, "cpu")
    write_record(resolved.path, replace(record, **changes))
    return resolved.path


# What runs


def test_a_sweep_runs_what_is_missing_and_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    saved("out", "zero_shot", 1)
    assert swept(*GRID) == ["ncm 0 0 new", "ncm 1 0 new", "zero_shot 0 0 new"]
    printed = capsys.readouterr().out
    assert "4 cells: 1 done, 0 unfinished, 3 missing; 3 to run" in printed
    assert "[3/3] " in printed and "] zero_shot on smoke, seed 0, order 0: " in printed  # whichever ends last
    rows = [row for row in tables(Path("out"))["smoke.csv"] if row["preset"] == "default"]
    (ncm, _), (other, _) = ([row for row in rows if row["method"] == m] for m in ("ncm", "zero_shot"))
    assert (ncm["n_runs"], other["n_runs"]) == ("2", "2")
    (Path("out") / "leaderboards" / "smoke.csv").unlink()  # as if killed before it was written
    assert swept(*GRID) == [] and tables(Path("out"))["smoke.csv"]
    assert "4 cells: 4 done, 0 unfinished, 0 missing; 0 to run" in capsys.readouterr().out
    assert swept(*GRID, "--orders", "0 1") == [
        "ncm 0 1 new",
        "ncm 1 1 new",
        "zero_shot 0 1 new",
        "zero_shot 1 1 new",
    ]


def test_options_of_run_reach_every_cell() -> None:
    swept(*GRID, "--epochs", "3", "--lr", "0.001", "--limit", "5")
    found = read_all(Path("out"))
    assert len(found) == 4
    assert {(r.config.epochs, r.config.lr, r.limit) for r in found} == {(3, 0.001, 5)}
    assert not Path("out/leaderboards/smoke.csv").exists()  # runs with a limit are never ranked


def test_a_failing_cell_stops_no_other_and_is_told_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CELLS_FAIL", "ncm")
    assert len(swept(*GRID, code=1)) == 4
    printed = capsys.readouterr().out
    assert "2 of 4 cells failed" in printed
    summary = printed.partition("cells failed")[2]
    assert summary.count("RuntimeError: the disk is full") == 2 and "zero_shot" not in summary
    (command, _) = [line.strip() for line in summary.splitlines() if "python -m benchmark run" in line]
    assert command.endswith("--results out --device cpu --method ncm --stream smoke --seed 0 --order 0 --quiet")
    assert tables(Path("out"))["smoke.csv"][0]["n_runs"] == "2"
    monkeypatch.delenv("CELLS_FAIL")
    assert swept(*GRID) == ["ncm 0 0 new", "ncm 1 0 new"]


def test_a_cell_that_leaves_no_record_has_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "COMMAND", (sys.executable, "-c", "print('done')"))
    swept(*GRID, code=1)
    assert capsys.readouterr().out.count("cannot be read (No such file or directory)") == 8


@pytest.mark.parametrize(
    ("redo", "expected"),
    [
        ("none", ["zero_shot 0 0 continued", "zero_shot 1 0 continued"]),
        ("stale", ["ncm 1 0 anew", "zero_shot 0 0 anew", "zero_shot 1 0 continued"]),
        ("all", ["ncm 0 0 anew", "ncm 1 0 anew", "zero_shot 0 0 anew", "zero_shot 1 0 continued"]),
    ],
)
def test_redo_says_which_complete_cells_run_anew(redo: str, expected: list[str]) -> None:
    other = Provenance(fingerprint="another", finished=now(), device="cpu")
    saved("out", "ncm", 0)
    saved("out", "ncm", 1, provenance=other)
    saved("out", "zero_shot", 0, status="running", provenance=other)  # begun by other code
    saved("out", "zero_shot", 1, status="running")
    assert swept(*GRID, "--redo", redo) == expected


def test_a_cell_to_be_redone_continues_when_it_is_tried_again(tmp_path: Path) -> None:
    """What a cluster starts again after its worker is lost carries the same arguments as the first time."""
    config, *_ = arguments.parse("run", ["--method", "ncm", "--stream", "smoke"], with_class=False)
    record = read_record(saved("out", "ncm", status="running"))
    for begun, anew in (("2026-01-02T03:04:05+00:00", True), ("2026-01-02T03:04:07+00:00", False)):
        again = replace(config, force_before="2026-01-02T03:04:06.5+00:00")
        found = Found(State.UNFINISHED, replace(record, provenance=Provenance(started=begun)))
        assert starts_anew(again, found) is anew
    assert starts_anew(replace(again, force=True), found)
    assert not starts_anew(config, found)
    assert not starts_anew(again, RunFolder(tmp_path / "nothing").found())


def test_methods_come_one_after_the_other_the_longest_cells_first() -> None:
    for seconds, method in ((5.0, "er"), (900.0, "ncm")):
        record = read_record(saved("out", method, 7, stream="phantom20"))
        record = replace(record, cost=replace(record.cost, train_seconds=[seconds] * 20))
        write_record(next(Path("out").glob(f"runs/phantom20/{method}/*/seed7-order0")), record)
    grid = ("--methods", "er,ncm", "--streams", "phantom8 smoke", "--results", "out", "--device", "cpu")
    found = sweep.planned(grid).cells
    assert [(c.plan.card.name, c.plan.stream_folder) for c in found] == [
        ("er", "phantom8"), ("er", "smoke"), ("ncm", "phantom8"), ("ncm", "smoke")
    ]  # fmt: skip  # phantom8 has more tasks


def test_all_methods_are_those_that_learn_the_kind() -> None:
    found = sweep.planned(("--methods", "all", "--streams", "smoke,smoke_fusion", "--device", "cpu"))
    both = {c.plan.card.name for c in found.cells if c.plan.stream_folder == "smoke_fusion"}
    assert {"er", "lpi"} <= both and "ncm" not in both
    assert "ncm" in {c.plan.card.name for c in found.cells if c.plan.stream_folder == "smoke"}
    (line,) = found.skipped
    assert line.startswith("smoke_fusion: left out") and "ncm" in line and "lpi" not in line


def test_the_same_cell_by_two_names_runs_once() -> None:
    file = ROOT / "datasets" / "streams" / "smoke.yaml"
    found = sweep.planned(("--methods", "ncm ncm", "--streams", f"smoke {file}", "--seeds", "0 0,1", "--device", "cpu"))
    assert [c.plan.config.seed for c in found.cells] == [0, 1]


WRONG = [
    ("", "--methods is missing"),
    ("--methods ncn", "unknown method 'ncn' (did you mean 'ncm'?)"),
    ("--methods ncm --streams smke", "unknown stream 'smke' (did you mean 'smoke'?)"),
    ("--methods ncm --streams smoke_fusion", "method 'ncm' learns classification, not stream 'smoke_fusion' (fusion)"),
    ("--methods ncm --seeds 0,x", "--seeds: expected whole numbers such as 0,1,2, got '0,x'"),
    ("--methods ncm --seeds -1", "--seeds: expected a whole number of at least 0, got -1"),
    ("--methods ncm --seed 1", "--seed: sweep takes --seeds"),
    ("--methods ncm --method=er", "--method: sweep takes --methods"),
    ("--methods ncm --force", "--force: sweep takes --redo all"),
    ("--methods ncm --epoch 3", "unknown argument '--epoch' (did you mean '--epochs'?)"),
    ("--methods ncm er --method.buffer_size 5", "unknown argument '--method.buffer_size'"),
    ("--methods ncm --redo some", "argument --redo: invalid choice: 'some'"),
    ("--methods ncm --jobs 0", "--jobs: expected a whole number of at least 1, got 0"),
    ("--methods ncm --jobs 100000", "--jobs 100000: expected 1 to"),
    ("--methods ncm --engine cloud", "argument --engine: invalid choice: 'cloud'"),
    ("--methods ncm --engine ray --engine_args 5", "--engine_args: expected JSON such as"),
    ('--methods ncm --engine_args {"a":1}', "--engine_args: the local engine has none, got a"),
]


@pytest.mark.parametrize(("line", "says"), WRONG, ids=[line for line, _ in WRONG])
def test_wrong_arguments_are_refused_before_anything_starts(
    line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(
            ["sweep", "--streams", "smoke", *line.split()] if "--streams" not in line else ["sweep", *line.split()]
        )
        == 2
    )
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert says in printed.err
    assert list(Path().iterdir()) == []


# Interrupted


class Process:
    """A sweep in a process of its own, whose cells are stand-ins or (``real``) runs."""

    def __init__(self, *argv: str, real: bool = False) -> None:
        stand_in = "" if real else f"from benchmark.sweep import engines; engines.COMMAND = {PROGRAM!r}\n"
        # tests that a script started with ``&`` are deaf to SIGINT, and so is all they start
        heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        code = f"import sys\n{heard}{stand_in}from benchmark import cli\nsys.exit(cli.main(['sweep', *sys.argv[1:]]))"
        self.output = open("output", "ab")  # noqa: SIM115
        self.process = subprocess.Popen([sys.executable, "-c", code, *argv], stdout=self.output, stderr=self.output)

    def until(self, true: Callable[[], object], seconds: float = 120) -> None:
        ends = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None and time.monotonic() < ends, Path("output").read_text()
            time.sleep(0.02)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        self.process.wait(timeout=30)
        self.output.close()
        return self.process.returncode


ENDS = [
    (signal.SIGKILL, -9),
    (signal.SIGTERM, 143),
    pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("number", "code"), ENDS)
def test_a_sweep_that_is_ended_takes_its_cells_along(number: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLS_SECONDS", "2")
    process = Process(*GRID, "--jobs", "1")
    process.until(lambda: statuses() == ["running"])
    assert process.end(number) == code
    time.sleep(3)
    assert statuses() == ["running"] and started() == ["ncm 0 0 new"]
    told = [line for line in Path("output").read_text().splitlines() if "interrupted" in line]
    assert told == (["interrupted: the same command continues"] if code > 0 else [])


def test_a_killed_sweep_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLS_SECONDS", "0.5")
    process = Process(*GRID, "--jobs", "1")
    process.until(lambda: statuses() == ["complete", "running"])
    process.end(signal.SIGKILL)
    assert started() == ["ncm 0 0 new", "ncm 1 0 new"]
    monkeypatch.setenv("CELLS_SECONDS", "0")
    time.sleep(1)
    assert swept(*GRID) == ["ncm 1 0 continued", "zero_shot 0 0 new", "zero_shot 1 0 new"]
    swept(*GRID, "--results", "straight")
    assert tables(Path("out")) == tables(Path("straight")) and scores(Path("out")) == scores(Path("straight"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_killed_three_times_gives_the_same_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # real runs
    monkeypatch.chdir(tmp_path)
    grid = ("--methods", "sequential_lora ncm", "--streams", "smoke", "--seeds", "0,1", "--orders", "0,1",
            "--epochs", "1", "--device", "cpu", "--results")  # fmt: skip
    straight = Process(*grid, "straight", real=True)
    assert straight.process.wait(1200) == 0, Path("output").read_text()
    for done in (1, 3, 5):
        process = Process(*grid, "out", real=True)
        # something is finished and something else is under way
        process.until(lambda least=done: statuses().count("complete") >= least and "running" in statuses(), 600)
        assert process.end(signal.SIGKILL) == -9
    last = Process(*grid, "out", real=True)
    assert last.process.wait(1200) == 0, Path("output").read_text()
    assert statuses() == ["complete"] * 8
    assert tables(Path("out")) == tables(Path("straight")) and scores(Path("out")) == scores(Path("straight"))


# What it would take


def printed_plan(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert cli.main(["plan", *argv]) == 0
    return capsys.readouterr().out


def test_a_plan_of_a_grid_by_hand(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "cores", lambda: [0, 1])
    text = printed_plan(capsys, *GRID)
    assert "ncm on smoke: 2 of 2 to run (seed0-order0, seed1-order0); time and memory unknown" in text
    assert "4 cells: 0 done, 0 unfinished, 4 missing; 4 to run" in text and "no earlier record tells" in text
    assert not Path("out").exists()
    kept = saved("out", "ncm", 0)  # 2 tasks of 4 s, 3 evaluations of 1 s
    (kept / "predictions.npz").write_bytes(archive(" " * (3 * 2**18)))  # of four bytes each
    (kept / "experts" / "one").mkdir(parents=True)
    (kept / "experts" / "one" / "adapter.safetensors").write_bytes(bytes(2**20))
    saved("out", "zero_shot", 0, status="running", stages=2)  # one of two tasks is left
    text = printed_plan(capsys, *GRID)
    assert "ncm on smoke: 1 of 2 to run (seed1-order0); 11 s, 100 MiB each\n" in text
    assert (
        "zero_shot on smoke: 2 of 2 to run" in text and "11 s, 100 MiB each, scaled from 1 run of other methods" in text
    )
    assert "4 cells: 1 done, 1 unfinished, 2 missing; 3 to run" in text
    # 11 + 5.5 + 11: the second 11 starts in the slot that is free after 5.5
    assert "time: about 16 s in 2 slots, 28 s of computing" in text
    assert "memory: up to 100 MiB a run, 200 MiB at a time" in text
    assert "disk: about 12.0 MiB" in text  # ncm as before: 4; the others: 2 x 1 kept, 3 of predictions... twice


def test_estimates_scale_by_tasks_and_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    saved("out", "ncm", 0)  # 8 epochs, 11 s
    text = printed_plan(
        capsys, "--method", "ncm", "--stream", "smoke", "--epochs", "16", "--results", "out", "--device", "cpu"
    )
    assert "time: about 22 s (scaled by tasks and epochs from 1 run of the method with other settings)" in text
    asked = ["--method", "ncm", "--stream", "phantom8", "--results", "out", "--device", "cpu"]
    assert "no earlier record of this method or stream" in printed_plan(capsys, *asked)  # a tiny stream tells nothing
    saved("out", "ncm", stream="phantom20")  # 20 tasks of 4 s, 21 evaluations of 1 s
    told = "time: about 40 s (scaled by tasks and epochs from 1 run of the method on other streams)"
    assert told in printed_plan(capsys, *asked)
    text = printed_plan(capsys, "--method", "er", "--stream", "smoke", "--results", "out", "--device", "cpu")
    assert "time: about 11 s (scaled by tasks and epochs from 1 run of other methods on the stream)" in text
    text = printed_plan(capsys, "--method", "ncm", "--stream", "smoke", "--results", "out", "--device", "cuda")
    assert "no earlier record of this method or stream on this backbone and device" in text


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.integers(1, 5))
def test_the_makespan_lies_within_its_bounds(seconds: list[float], slots: int) -> None:
    total, longest = sum(seconds), max(seconds)
    lower, upper = max(total / slots, longest), total / slots + longest
    assert lower - 1e-6 <= forecast.makespan(seconds, slots) <= upper + 1e-6
    assert forecast.makespan(seconds, 1) == pytest.approx(total)
    assert forecast.makespan(seconds, 12) == longest


@pytest.mark.parametrize("verb", ["plan", "sweep"])
def test_a_grid_is_planned_without_torch(verb: str) -> None:
    for seed in (0, 1):
        saved("out", "ncm", seed), saved("out", "zero_shot", seed)
    code = f"import sys\nfrom benchmark import cli\ncli.main([{verb!r}, *sys.argv[1:]])\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *GRID], capture_output=True, text=True, check=True)
    assert "4 done" in done.stdout
    assert not {"torch", "lightning", "methods.base", "ray", "submitit"} & set(done.stdout.split())


@pytest.mark.slow
def test_measuring_times_steps_of_the_real_thing(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--methods", "sequential_lora zero_shot", "--streams", "smoke", "--device", "cpu", "--jobs", "1")
    text = printed_plan(capsys, *options, "--measure", "--limit", "20", "--epochs", "3", "--batch_size", "8")
    assert "18 steps, about" in text  # 2 tasks x 3 epochs x 3 batches of 20 images
    assert "s a training step" in text and "samples/s" in text and "measured: the method never trains" in text
    assert not Path("results").exists()
    assert os.environ["OMP_NUM_THREADS"] == "1"
