"""How fast methods are: what is timed, and that what grows with the tasks is seen."""

import time
from pathlib import Path

import pytest

from benchmark import cli
from benchmark.running import speed
from methods.sequential_lora import SequentialLora
from methods.stacked_lora import StackedLora

OPTIONS = ["--streams", "smoke", "--limit", "16", "--device", "cpu"]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(speed, "STEPS", 4)
    monkeypatch.setattr(speed, "WARM_UP", 1)
    monkeypatch.chdir(tmp_path)


class Slowing(SequentialLora):
    """A tenth of a second longer with every task."""

    def loss(self, batch):
        time.sleep(0.1 * len(self.tasks))
        return super().loss(batch)


def test_a_step_that_grows_with_the_tasks_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["speed", "--methods", f"{__name__}:Slowing", *OPTIONS]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "Slowing  smoke " in line)
    first, last, kept = (float(cell) for cell in row.split()[2:5])
    assert last < first and 0.4 < kept < 0.9  # alone 0.5; a busy machine adds to both


def test_a_method_is_timed_at_both_ends_and_leaves_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    class Watched(StackedLora):
        def loss(self, batch):
            seen.append(("step", len(self.tasks)))
            return super().loss(batch)

        def end_task(self, task, loader):
            seen.append(("end", task.index))
            super().end_task(task, loader)

    monkeypatch.setattr("benchmark.config.registry.load", lambda name: Watched)
    assert cli.main(["speed", "--methods", "stacked_lora", *OPTIONS]) == 0
    assert seen == [("end", 0), *[("step", 1), ("step", 2)] * 5, ("step", 2), ("step", 2), ("end", 1)]
    assert [path.name for path in tmp_path.rglob("*")] == ["results", "local", "speed.csv"]
    assert "relative" in capsys.readouterr().out


def test_a_method_that_never_trains_has_answers_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["speed", "--methods", "zero_shot", "ncm", *OPTIONS]) == 0
    names = ("zero_shot", "ncm")
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith(names)]
    rows = [row for row in rows if len(row) > 4]
    assert [row[0].strip() for row in rows] == ["zero_shot", "ncm"] * 2  # of images, of operators
    for row in rows[:2]:
        assert [cell.strip() for cell in row[2:6]] == ["-"] * 4 and float(row[6].replace(",", "")) > 0


def test_ratios_are_of_pairs_and_relative_to_the_reference() -> None:
    first, last = iter([9.0, 10, 20, 10, 20]), iter([1.0, 5, 10, 5, 12])  # the machine is at times twice as fast
    assert speed._in_turn(first, last) == (15.0, 7.5, 0.5)
    assert speed._in_turn(iter([]), iter([])) == (None, None, None)
    found = [speed.Speed(name, "s", 1.0, rate, 1.0, rate) for name, rate in (("a", 3.0), ("sequential_lora", 6.0))]
    cells = [list(column.cells) for column in speed.table(found).columns]
    assert cells[5] == cells[7] == ["0.50", "1.00"]


def test_what_does_not_fit_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in ((["--methods", "mslora_rc"], "mslora_cr"), ([], "--methods is missing"),
                          (["--methods", "ncm", "--method", "ncm"], "speed takes --methods")):  # fmt: skip
        assert cli.main(["speed", *argv]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
