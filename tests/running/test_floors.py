"""The barest loop does the work of a run, and a run is held against it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from benchmark import cli
from benchmark.config import arguments, registry
from benchmark.config.resolve import Plan, resolve
from benchmark.record.stored import read_record
from benchmark.running import floors, speed
from benchmark.running.bare import BareRun
from benchmark.running.hardware import Hardware, chosen
from benchmark.running.load import loaded
from benchmark.running.operators import Operators, counted

SMALL = ["--method", "sequential_lora", "--stream", "smoke", "--epochs", "2", "--device", "cpu"]


def plan_of(argv: list[str]) -> Plan:
    config, card, _ = arguments.parse("run", argv, with_class=True)
    return resolve(config, card, cuda=False)


def test_the_barest_loop_has_the_matrix_of_the_run(tmp_path: Path) -> None:
    argv = [*SMALL, "--results", str(tmp_path)]
    assert cli.main(["run", *argv, "--quiet"]) == 0
    (folder,) = tmp_path.glob("runs/*/*/*/*")
    scores, plan = read_record(folder).scores["accuracy"], plan_of(argv)
    method, data = loaded(plan, registry.load("sequential_lora"), torch.device("cpu"))
    given, hidden = BareRun(method, plan.stream, data, (0, 0), plan.precision, torch.device("cpu")).run()
    assert scores["given"] == given
    assert [row[:learned] for learned, row in enumerate(scores["hidden"])] == hidden


def test_ratios_say_what_a_number_costs_more_than_its_floor() -> None:
    plan = plan_of(SMALL)
    dear = floors.Held.of("a", "s", plan, [(2.0, 1.0), (3.0, 2.0), (9.0, 3.0)])
    slow = floors.Held.of("b", "images/s", plan, [(50.0, 100.0)])
    assert dear.ratios == (2.0, 1.5, 3.0) and dear.ratio == 2.0 and (dear.value, dear.floor) == (3.0, 2.0)
    assert slow.ratio == 2.0


def test_speed_writes_every_number_beside_its_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("STEPS", 2), ("WARM_UP", 1)):
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(floors, "TURNS", 1)
    monkeypatch.setattr(floors, "_imports", lambda: 1.0)
    monkeypatch.setattr(floors, "_child", lambda argv, what: {"first": 3.0, "run": 300.0, "bare": 200.0}[what])
    monkeypatch.chdir(tmp_path)
    argv = ["--methods", "sequential_lora", "mslora_cr", "--streams", "smoke", "--limit", "8", "--device", "cpu"]
    assert cli.main(["speed", *argv]) == 0
    assert [str(path) for path in Path().rglob("*") if path.is_file()] == ["results/local/speed.csv"]
    rows = list(csv.DictReader(Path("results/local/speed.csv").read_text().splitlines()))
    by = {(row["quantity"], row["method"]): row for row in rows}
    assert float(by["peak memory", "sequential_lora"]["ratio"]) == 1.5
    assert float(by["start to the first step", "sequential_lora"]["ratio"]) == 3.0
    assert all(float(row["value"]) > 0 and float(row["floor"]) > 0 for row in rows)
    more = by["computing operators a step", "mslora_cr"]
    assert (
        float(more["value"])
        > float(more["floor"])
        == float(by["computing operators a step", "sequential_lora"]["value"])
    )
    assert "the least that it could" in capsys.readouterr().out


def test_a_fresh_process_measures_what_is_asked(tmp_path: Path) -> None:
    """In this process: the child's own function, but for the end of the process at its first step."""
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: printed.append(str(words[0])))
        floors.measured([*SMALL, "--limit", "4"], "bare")
    assert 50 < float(printed[-1]) < 1e5


def test_operators_are_counted_and_those_that_wait_are_named() -> None:
    x = torch.ones(3, 4, requires_grad=True)
    with Operators() as operators:
        y = (x.T @ x).relu()  # a product, a view, a clamp
        y.view(16)[2:].sum().backward()
    assert operators.computing > 3 and not operators.waits
    with Operators() as operators:
        x.detach()[x.detach() > 0], x.sum().item(), x.detach().nonzero()
    assert operators.waits.keys() == {"index", "_local_scalar_dense", "nonzero"}
    computing, dispatched = counted(lambda: torch.mm(x.detach(), x.detach().T))
    assert computing == 1 and dispatched > 3
    assert chosen(plan_of(SMALL).config) == Hardware(torch.device("cpu"))
