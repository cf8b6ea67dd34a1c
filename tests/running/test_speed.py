"""How fast methods are: what is timed, and that what grows with the tasks is seen."""

import csv
import time
from pathlib import Path

import pytest

from benchmark import cli
from benchmark.config import arguments
from benchmark.config.resolve import Plan, resolve
from benchmark.running import speed
from methods.sequential_lora import SequentialLora
from methods.stacked_lora import StackedLora

OPTIONS = ["--streams", "smoke", "--limit", "16", "--device", "cpu"]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(speed, "STEPS", 4)
    monkeypatch.setattr(speed, "WARM_UP", 1)
    monkeypatch.chdir(tmp_path)


def plan_of(method: str) -> Plan:
    config, card, _ = arguments.parse("run", ["--method", method, "--stream", "smoke"], with_class=True)
    return resolve(config, card, cuda=False)


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
    assert seen == [("end", 0), *[("step", 1), ("step", 2)] * 5, *[("step", 2)] * 4, ("end", 1)]
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


def test_what_is_compared_is_of_the_same_turns() -> None:
    """The machine is at times twice as fast, and a rate that is compared later would be another."""
    first, last, reference = iter([9.0, 10, 20, 10, 20]), iter([1.0, 5, 10, 5, 12]), iter([1.0, 20, 40, 20, 48])
    turns = speed._turns(first, last, reference, warm_up=1, many=4)
    plan = plan_of("sequential_lora")
    kept = speed._held("kept", plan, [(turn[1], turn[0]) for turn in turns])
    learned = speed._held("learned", plan, [(turn[1], turn[2]) for turn in turns])
    assert kept is not None and learned is not None
    assert (kept.value, kept.floor, kept.ratios) == (7.5, 15.0, (2.0, 2.0, 2.0, 20 / 12))
    assert learned.ratios == (4.0,) * 4
    assert speed._turns(iter([]), iter([1.0]), warm_up=0, many=2) == [(None, 1.0)]
    assert speed._held("none", plan, [(None, 1.0)]) is None
    steps = speed.Held.of("computing operators a step", "", plan, [(600, 400)])
    more = speed.Held.of("dispatched operators a step", "", plan, [(3000, 1500)])
    found = speed.Speed("a", "s", kept, learned, learned, (steps, more))
    cells = [list(column.cells) for column in speed.table([found]).columns]
    assert cells == [["a"], ["s"], ["15"], ["8"], ["0.50"], ["0.25"], ["8"], ["0.25"]]
    lines = list(csv.DictReader(speed.csv_of([found], [], "cpu").splitlines()))
    assert [(line["ratio"], line["lowest"], line["highest"]) for line in lines] == [
        ("2.000", "1.667", "2.000"), ("4.000",) * 3, ("4.000",) * 3, ("1.500",) * 3, ("2.000",) * 3
    ]  # fmt: skip
    cells = [list(column.cells) for column in speed.operators_table([found]).columns]
    assert cells == [["a"], ["s"], ["600"], ["1.50"], ["3,000"], ["2.00"]]


class Half(SequentialLora):
    """A fifth of a second longer in every step and every answer."""

    def loss(self, batch):
        time.sleep(0.2)
        return super().loss(batch)

    def scores(self, batch, labels, task):
        time.sleep(0.2)
        return super().scores(batch, labels, task)


def test_a_method_is_timed_beside_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["speed", "--methods", f"{__name__}:Half", f"{__name__}:Slowing", *OPTIONS]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "Slowing  smoke " in line).split()
    assert float(row[5]) > 0.6  # the first method is the reference where there is no other
    assert float(row[7]) > 1.5  # and answers later
    lines = list(csv.DictReader(Path("results/local/speed.csv").read_text().splitlines()))
    by = {(line["method"].split(":")[-1].split(".")[-1], line["quantity"]): line for line in lines}
    assert {by["Half", name]["ratio"] for name in ("learned at the last task", "answered")} == {"1.000"}
    assert float(by["Slowing", "answered"]["ratio"]) < 0.7


def test_what_does_not_fit_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in ((["--methods", "mslora_rc"], "mslora_cr"), ([], "--methods is missing"),
                          (["--methods", "ncm", "--method", "ncm"], "speed takes --methods")):  # fmt: skip
        assert cli.main(["speed", *argv]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
