"""What is seen while a run goes on: the display, Lightning's loggers, one process in a folder."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmark import cli
from benchmark.errors import UserError
from benchmark.record.folder import RunFolder
from benchmark.record.schema import SCHEMA, Record, StreamEntry, TaskEntry, unmeasured
from benchmark.record.stored import read_record
from benchmark.running import fit, processes
from benchmark.running.progress import Display

RUN = ["run", "--method", "sequential_lora", "--stream", "smoke", "--epochs", "1", "--limit", "24", "--quiet"]


def record(stages: int) -> Record:
    """Two tasks, of whose matrix ``stages`` rows are known."""
    stream = StreamEntry("smoke", "smoke", [TaskEntry("lung_ct"), TaskEntry("skin")], kind="fusion")
    fields = unmeasured(stream)
    for stage in range(stages):
        fields["scores"]["accuracy"]["given"][stage] = [0.25 + 0.5 * stage, 0.125]
    return Record(SCHEMA, "0" * 12, "ewc", stream, seed=0, order=0, stages=stages, **fields)


def test_plain_lines_tell_step_loss_speed_and_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.running.progress.EVERY", -1.0)
    out = io.StringIO()
    with Display(Console(file=out, width=120), 40) as display:
        display.step("task 1/2 lung_ct  epoch 1/2", 9, None, 100.0)
        display.step("task 1/2 lung_ct  epoch 1/2", 10, 0.5, 1234.0)
        display.matrix(record(2))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("  task 1/2 lung_ct  epoch 1/2  loss 0.500  1,234 samples/s  step 10/40  ")
    assert lines[1] == "  after 1/2: accuracy given 75.0  12.5"
    assert len(lines) == 2 and "\x1b" not in out.getvalue()


def test_in_a_terminal_the_matrix_grows_below_nothing_else() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with Display(console, 40) as display:
        display.step("task 1/2 lung_ct  epoch 1/2", 30, 0.5, 1234.0)
        display.matrix(record(1))
        assert display.live is not None
        display.live.refresh()
        first = out.getvalue()
        display.matrix(record(2))
        display.live.refresh()
    assert "loss 0.500" in first and "1,234 samples/s" in first and "30/40" in first and "75.0" not in first
    assert "1 lung_ct" in first and "75.0" in out.getvalue()


def test_time_left_counts_what_this_process_did(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    display = Display(Console(file=io.StringIO()), steps=100)
    display.step("", 61, None, 1.0)  # sixty were made before the run was stopped
    now[0] += 20.0
    assert display.left(71) == "0:58"  # two seconds a step, 29 to go


def test_quiet_prints_nothing() -> None:
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=True), 4, quiet=True) as display:
        display.say("x")
        display.phase("x")
        display.step("x", 1, 1.0, 1.0)
        display.matrix(record(1))
    assert out.getvalue() == ""


def test_csv_logger_has_losses_by_step_and_scores_by_stage(tmp_path: Path) -> None:
    assert cli.main([*RUN, "--logger", "csv", "--results", str(tmp_path)]) == 0
    (folder,) = tmp_path.glob("runs/smoke/*/*/*")
    with open(folder / "logs" / "part1" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [(int(row["step"]), float(row["loss"])) for row in rows if row["loss"]]
    assert [step for step, _ in losses] == [1, 2] and all(loss > 0 for _, loss in losses)  # 24 images a task
    scores = read_record(folder).matrix("given")
    logged = [float(row["accuracy_given/gland_nuclei"]) for row in rows if row["accuracy_given/gland_nuclei"]]
    assert logged == pytest.approx([row[0] for row in scores])


SLURM = {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "MBIL_PARENT": "1"}
TORCHRUN = {"LOCAL_RANK": "3", "RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "nowhere", "TORCHELASTIC_RUN_ID": "x"}


@pytest.mark.parametrize("job", [SLURM, TORCHRUN], ids=["slurm", "torchrun"])
def test_inside_a_job_a_run_is_none_of_its_tasks(
    job: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would wait for the job's other tasks, or refuse their number; a rank that nobody of this suite gave
    would have it learn for a leader that is not there. Who calls a run keeps its environment.
    """
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    seen: list[list[str]] = []
    fitted = fit.L.Trainer.fit

    def fitting(self: fit.L.Trainer, *arguments: Any, **options: Any) -> Any:
        seen.append([name for name in job if name in os.environ])
        return fitted(self, *arguments, **options)

    monkeypatch.setattr(fit.L.Trainer, "fit", fitting)
    monkeypatch.setattr(processes, "follow_parent", lambda: None)  # 1 is not
    before = dict(os.environ)
    assert cli.main([*RUN, "--results", str(tmp_path)]) == 0
    assert seen == [[], []] and dict(os.environ) == before
    (file,) = tmp_path.glob("runs/smoke/*/*/*/run.json")
    assert read_record(file).complete


def test_tensorboard_logger(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert cli.main([*RUN, "--logger", "tensorboard", "--results", str(tmp_path)]) == 0
    (folder,) = tmp_path.glob("runs/smoke/*/*/*")
    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    assert len(events.Scalars("accuracy_hidden/gland_nuclei")) == 2  # no answer before the first task


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_one_line(
    logger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec(logger) is not None:
        pytest.skip(f"{logger} is installed")
    assert cli.main([*RUN, "--logger", logger, "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"pip install {logger}" in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("run.json"))


def test_one_process_at_a_time_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "seed0-order0"
    with RunFolder(folder).claimed():
        code = (
            "import sys; from pathlib import Path; from benchmark.record.folder import RunFolder\n"
            f"with RunFolder(Path({str(folder)!r})).claimed(): pass"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert other.returncode == 1 and "another process is running this" in other.stderr
        with pytest.raises(UserError), RunFolder(folder).claimed():
            pass
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert list(tmp_path.rglob("*.lock")) == []


def test_a_killed_process_leaves_the_folder_free(tmp_path: Path) -> None:
    folder = tmp_path / "seed0-order0"
    code = (
        "import time; from pathlib import Path; from benchmark.record.folder import RunFolder\n"
        f"with RunFolder(Path({str(folder)!r})).claimed(): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "in\n"
        child.kill()
    with RunFolder(folder).claimed():
        pass


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    child = (
        "import os, time; from benchmark.running import processes; processes.follow_parent();"
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = (
        "import os, subprocess, sys; os.environ['MBIL_PARENT'] = str(os.getpid());"
        f"subprocess.run([sys.executable, '-c', {child!r}])"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.kill()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child is still there")
