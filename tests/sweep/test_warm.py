"""Cells in copies of a process that has imported everything: as cold ones, but at once; whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cells import ROOT, statuses, surroundings

from benchmark import cli
from benchmark.record.stored import read_record
from benchmark.sweep import engines
from benchmark.sweep.engines import local, warm

ARGV = ("--method", "ncm", "--stream", "smoke", "--results", "out", "--device", "cpu", "--quiet")
STAND_IN = (  # a worker whose cells are stand-ins, and which imports no torch
    "import sys, cells; from benchmark.sweep.engines import warm; warm.IMPORTED = ()\n"
    "sys.exit(warm.serve(lambda argv: cells.main(argv[1:])))"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory in which workers are stand-ins."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    monkeypatch.setenv("CELLS_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(warm, "WORKER", (sys.executable, "-c", STAND_IN))


@pytest.fixture
def worker() -> Iterator[warm.Worker]:
    made = warm.Worker(engines.threads(1))
    yield made
    made.close()


def until(true: Callable[[], object]) -> None:
    ends = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.02)


def in_a_cell(worker: warm.Worker) -> bool:
    return worker.cell is not None and "running" in statuses()


def cell(seed: int) -> tuple[str, ...]:
    return (*ARGV, "--seed", str(seed))


def meanwhile(worker: warm.Worker, act: Callable[[], object]) -> threading.Thread:
    """Do it as soon as the worker is in the middle of a cell."""

    def watch() -> None:
        until(lambda: in_a_cell(worker))
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_cells_of_a_slot_have_one_worker_and_end_as_cold_ones(worker: warm.Worker) -> None:
    stop = threading.Event()
    assert worker.run(cell(0), stop) == (0, "ncm: done") and worker.process is not None
    first = worker.process.pid
    code, line = worker.run((*cell(1), "--sead", "1"), stop)
    assert code == 1 and line.endswith("unknown argument '--sead' (did you mean '--seed'?)")
    assert worker.run(cell(2), stop) == (0, "ncm: done") and worker.process.pid == first
    assert [line.split()[1] for line in Path("log").read_text().splitlines()] == ["0", "2"]


def test_a_failing_cell_says_why(worker: warm.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLS_FAIL", "ncm")
    assert worker.run(cell(0), threading.Event()) == (1, "RuntimeError: the disk is full")


def test_a_killed_cell_has_failed_and_the_next_one_runs(worker: warm.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLS_SECONDS", "1.5")
    watch = meanwhile(worker, lambda: os.kill(worker.cell or 0, signal.SIGKILL))
    assert worker.run(cell(0), threading.Event()) == (-9, "killed by SIGKILL")
    watch.join()
    assert worker.run(cell(0), threading.Event()) == (0, "ncm: done")
    assert Path("log").read_text().split() == ["ncm", "0", "0", "new", "ncm", "0", "0", "continued"]


def test_the_cell_of_a_killed_worker_continues_in_another(worker: warm.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLS_SECONDS", "1.5")
    watch = meanwhile(worker, lambda: worker.process and worker.process.kill())
    assert worker.run(cell(0), threading.Event()) == (0, "ncm: done")
    watch.join()
    assert Path("log").read_text().split() == ["ncm", "0", "0", "new", "ncm", "0", "0", "continued"]


def test_a_worker_that_cannot_start_leaves_the_cell_to_a_cold_process(
    worker: warm.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "WORKER", (sys.executable, "-c", "raise SystemExit(1)"))
    code = "print('cold')"
    monkeypatch.setattr(engines, "COMMAND", (sys.executable, "-c", code))
    assert worker.run(cell(0), threading.Event()) == (0, "cold")


def test_a_cell_is_stopped(worker: warm.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLS_SECONDS", "60")
    stop, begun = threading.Event(), time.monotonic()
    watch = meanwhile(worker, stop.set)
    assert worker.run(cell(0), stop) == (-15, "killed by SIGTERM")
    watch.join()
    assert time.monotonic() - begun < 30 and worker.cell is None


def test_the_engine_keeps_a_worker_for_each_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    core = local.cores()[0]
    places = [local.Slot((core,), "7"), local.Slot((core,))]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CELLS_SECONDS", "0.5")
    assert sorted(local.run([cell(seed) for seed in range(4)], places)) == [(p, 0, "ncm: done") for p in range(4)]
    found = [surroundings(path.parent) for path in sorted(Path("out").glob("runs/*/*/*/*/run.json"))]
    assert [each["cores"] for each in found] == [[core]] * 4 and [each["threads"] for each in found] == ["1"] * 4
    assert {each["gpu"] for each in found} == {"7", None}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_and_its_cell_die_with_the_sweep(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLS_SECONDS", "60")
    code = (
        f"from benchmark import cli; from benchmark.sweep.engines import warm\nwarm.WORKER = {warm.WORKER!r}\n"
        "cli.main('sweep --methods ncm --streams smoke --jobs 1 --results out --device cpu'.split())"
    )
    sweep = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    until(lambda: statuses() == ["running"])
    ours = descendants(sweep.pid)
    assert len(ours) == 2  # the worker and its cell
    sweep.send_signal(number)
    sweep.wait(30)
    until(lambda: not any(alive(pid) for pid in ours))


def descendants(pid: int) -> list[int]:
    children = [
        int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
    ]
    return [each for child in children for each in (child, *descendants(child))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_several_devices_and_other_commands_are_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "COMMAND", (sys.executable, "-c", "print('cold')"))
    assert list(local.run([cell(0)], [local.Slot((local.cores()[0],))])) == [(0, 0, "cold")]
    monkeypatch.setattr(warm, "possible", lambda: True)
    assert list(local.run([cell(0)], [local.Slot((local.cores()[0],), each=2)])) == [(0, 0, "cold")]


def test_a_warm_run_is_a_cold_one_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real runs: the second one of a worker, which is to come after another, begins at once and in fresh memory."""
    monkeypatch.setattr(warm, "WORKER", (sys.executable, "-m", "benchmark", "worker"))
    argv = ("--stream", "smoke", "--epochs", "1", "--limit", "8", "--device", "cpu", "--quiet")
    worker, taken = warm.Worker(engines.threads(1)), []
    for method in ("zero_shot", "mslora_cr"):
        begun = time.monotonic()
        code, line = worker.run((*argv, "--method", method, "--results", "warm"), threading.Event())
        taken.append(time.monotonic() - begun)
        assert code == 0, line
    worker.close()
    assert taken[1] < taken[0]  # which has imported
    assert cli.main(["run", *argv, "--method", "mslora_cr", "--results", "cold"]) == 0
    hot, cold = (next(Path(name).glob("runs/smoke/mslora_cr/*/*")) for name in ("warm", "cold"))
    assert read_record(hot).scores == read_record(cold).scores
    assert read_record(hot).cost.peak_memory_mib[0] < 2000
    names = sorted(path.name for path in cold.glob("*.*") if path.suffix in (".csv", ".safetensors"))
    assert len(names) > 4 and all((hot / name).read_bytes() == (cold / name).read_bytes() for name in names)
    with np.load(hot / "predictions.npz") as mine, np.load(cold / "predictions.npz") as theirs:
        assert mine.files == theirs.files
        assert all(mine[name].tobytes() == theirs[name].tobytes() for name in mine.files)
