"""A method among the rows of a stream's table: what is run for it, and what is said then."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cells import finished, stand_ins

from benchmark import cli
from benchmark.compare import comparisons
from benchmark.config import arguments
from benchmark.config.resolve import resolve
from benchmark.record.stored import read_record, write_record
from benchmark.sweep import among
from tests.made_records import flat, made, with_hits

HERE = ("--device", "cpu")
CELLS = ((0, 0), (1, 0), (0, 1))  # seed, order


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder whose table has two methods in three cells."""
    results = tmp_path_factory.mktemp("stored") / "results"
    for method in ("ncm", "zero_shot"):
        argv = ["--method", method, "--stream", "smoke", "--results", str(results), *HERE]
        config, card, _ = arguments.parse("run", argv, with_class=False)
        plan = resolve(config, card, cuda=False)
        for seed, order in (*CELLS, *([(7, 0)] if method == "ncm" else [])):
            one = plan.replicate(seed, order)
            write_record(one.path, finished(one))
    return results


@pytest.fixture(autouse=True)
def table(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone with these stored; runs are stand-ins that log when they start."""
    shutil.copytree(stored, tmp_path / "results")
    stand_ins(tmp_path, monkeypatch)


def started() -> list[str]:
    """Method, seed and order of the cells that were started since the last call."""
    lines = Path("log").read_text().splitlines() if Path("log").exists() else []
    Path("log").unlink(missing_ok=True)
    return sorted(line.rsplit(" ", 1)[0] for line in lines)


def test_a_method_is_run_where_the_table_has_runs_and_stands_among_its_rows(capsys: pytest.CaptureFixture) -> None:
    before = {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}
    asked = ["compare", "--method", "ranpac", "--stream", "smoke", *HERE]
    assert cli.main(asked) == 0
    assert started() == ["ranpac 0 0", "ranpac 0 1", "ranpac 1 0"]  # not the seed that one row alone has
    said = capsys.readouterr().out
    lines = said.splitlines()
    board = [line.split()[1:3] for line in lines if "± " in line and "mean" not in line]
    assert sorted(board) == [["ncm", "4"], ["ranpac", "(own)"], ["zero_shot", "3"]]  # not as tuned, too
    titles = [line for line in said.splitlines() if "minus each" in line]
    assert len(titles) == 2 and "identity given:" in titles[0] and "identity hidden:" in titles[1]
    assert sum(line.split()[:1] in (["ncm*"], ["zero_shot*"]) for line in lines) == 4  # stand-ins keep no samples
    (key,) = (path.name for path in Path("results/local/runs/smoke/ranpac").iterdir())
    figures = [Path(f"results/local/compare/smoke-ranpac-own-{key}.{kind}") for kind in ("png", "svg")]
    assert [str(path) for path in figures] == lines[-2:] and all(path.stat().st_size > 1000 for path in figures)
    assert {path: path.read_bytes() for path in before} == before
    assert cli.main([*asked, "--with", "ncm"]) == 0
    assert started() == ["ranpac 7 0"]  # of ncm alone each cell is most
    assert "zero_shot" not in capsys.readouterr().out


def test_what_this_code_made_is_not_run_again_and_settings_of_the_method_are_its_own(
    capsys: pytest.CaptureFixture,
) -> None:
    assert cli.main(["compare", "--method", "zero_shot", "--stream", "smoke", *HERE]) == 0
    assert started() == [] and "(own)" not in capsys.readouterr().out
    for file in Path("results/runs/smoke/zero_shot").rglob("run.json"):  # of other code than this tree's
        record = read_record(file)
        write_record(file.parent, replace(record, provenance=replace(record.provenance, fingerprint="other")))
    assert cli.main(["compare", "--method", "zero_shot", "--with", "ncm", "--stream", "smoke", *HERE]) == 0
    assert len(started()) == 4 and "zero_shot (own) minus each" in capsys.readouterr().out
    asked = among.asked("mslora_cr", "smoke", ["ncm"], ["--method.rank", "4", *HERE])
    assert asked.cells == asked.missing == ((0, 0), (0, 1), (0, 7), (1, 0))


def test_with_a_preset_rivals_are_the_rows_of_that_preset_each_with_its_own_values(
    capsys: pytest.CaptureFixture,
) -> None:
    keys = {}
    for preset in ((), ("--preset", "tuned"), ("--preset", "tuned", "--epochs", "1")):
        argv = ["--method", "sequential_lora", "--stream", "smoke", *preset, *HERE]
        config, card, _ = arguments.parse("run", argv, with_class=False)
        plan = resolve(config, card, cuda=False)
        write_record(plan.path, finished(plan))
        keys[preset[-1:]] = plan.key
    assert len(set(keys.values())) == 3
    untuned = {"ncm", "zero_shot"}  # with nothing to tune; their default rows stand as tuned
    for options, key in (((), keys[()]), (("--preset", "tuned"), keys["tuned",])):
        found = among.asked("independent_lora", "smoke", [], [*options, *HERE])
        rivals = {runs[0].method: runs[0].key for runs in found.sides()[1]}
        assert rivals.keys() == {*untuned, "sequential_lora"} and rivals["sequential_lora"] == key
    also = among.asked("independent_lora", "smoke", [], ["--preset", "tuned", "--method.rank", "4", *HERE])
    assert len(also.sides()[1]) == 3  # arguments of the method are its own there, too
    assert cli.main(["compare", "--method", "sequential_lora", "--stream", "smoke", "--preset", "tuned", *HERE]) == 0
    said = capsys.readouterr().out
    assert len([line for line in said.splitlines() if "± " in line and "mean" not in line]) == 3
    assert said.count("tuned") == 3  # each stands there as tuned, and once


def test_what_cannot_be_compared_is_refused_and_nothing_runs(capsys: pytest.CaptureFixture) -> None:
    for words, said in (
        ("--method ranpac --with nmc", "unknown method 'nmc'"),
        ("--method ranpac --epochs 1", "compare: no runs of other methods on smoke with epochs=1 and phantom-clip"),
        ("--method ranpac --seed 3", "--seed: compare runs the seeds"),
        ("--method ranpac --limit=3", "--limit: compare runs the seeds"),
        ("--method ranpac --preset tuned --epochs 1", "compare takes rows with these values, not with epochs=1"),
        ("--method mslora_cr --preset official", "no runs of other methods on smoke with official values"),
        ("--method rannpac", "unknown method 'rannpac'"),
        ("--with ncm", "--method is missing"),
        ("--method ranpac --lrr 3", "lrr"),
    ):
        assert cli.main(["compare", *words.split(), "--stream", "smoke", *HERE]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert started() == [] and not Path("results/local").exists()


def test_a_cell_that_fails_is_said_and_the_others_are_compared(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLS_FAIL", "ranpac")
    assert cli.main(["compare", "--method", "ranpac", "--stream", "smoke", *HERE]) == 1
    assert "3 of 3 cells failed" in capsys.readouterr().out


def test_differences_are_of_the_same_samples_where_both_kept_them() -> None:
    hits = {"ewc": [1, 1, 1, 0, 1, 1], "lwf": [0, 0, 1, 0, 1, 0]}
    rows = [[with_hits(made(method, key, seed), dict.fromkeys(("lung_ct", "retina_oct", "skin"), hits[method]))
             for seed in (0, 1)] for method, key in (("ewc", "01"), ("lwf", "02"))]  # fmt: skip
    (row,) = comparisons.against(rows[0], rows[1:], "given")
    (pair,) = (row for row in comparisons.pairs([*rows[0], *rows[1]]) if row.protocol == "given")
    assert row == pair and row.n_samples == 18
    old = flat("old", "03", 0.5, 0.6)
    found = comparisons.against(rows[0], [rows[1], old], "given")
    assert [each.n_samples for each in found] == [18, 0] and found[0].p < found[0].p_holm
    assert found[1].difference == pytest.approx(np.mean(hits["ewc"]) - 0.55) and found[1].ci_low < found[1].difference
    (alike,) = comparisons.against(flat("a", "04", 0.5, 0.5), [flat("b", "05", 0.4, 0.4)], "given")
    assert alike.difference == pytest.approx(0.1) and math.isnan(alike.p)
