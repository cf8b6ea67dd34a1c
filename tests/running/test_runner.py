"""The loop over tasks, as a user runs it: killed, resumed, forced, reused."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.cli import main
from benchmark.config.resolve import Plan
from benchmark.record.schema import PROTOCOLS
from benchmark.record.stored import read_all, read_record
from benchmark.running import evaluate, load
from benchmark.running.seeds import derive_seed, seeded

EPOCHS = 4  # and four steps in each: long enough to be killed in


def command(results: Path, *more: str) -> list[str]:
    line = ["run", "--method", "mslora_cr", "--stream", "smoke", "--epochs", str(EPOCHS), "--results", str(results)]
    return [*line, "--batch_size", "4", *more]


def folder_of(results: Path) -> Path:
    (file,) = results.glob("runs/smoke/mslora_cr/*/seed*/run.json")
    return file.parent


def forked(run: Callable[[], int]) -> int:
    """The number of another process that does this, and has imported everything already."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        code = run()
        sys.stderr.flush()
    finally:
        os._exit(code)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("straight")
    assert main(command(results)) == 0
    return results


def test_killed_and_run_again_gives_the_same_bytes(straight: Path, tmp_path: Path) -> None:
    """kill -9 as soon as a state file is there, three times; the same command then continues to the same matrices."""
    for wait_for in ("fit-0-*.ckpt", "predictions-1.npz", "fit-1-*.ckpt"):
        process = forked(lambda: main(command(tmp_path)))
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(f"runs/smoke/mslora_cr/*/seed0-order0/state/{wait_for}")):
            assert os.waitpid(process, os.WNOHANG) == (0, 0), "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process, signal.SIGKILL)
        assert os.waitpid(process, 0) == (process, signal.SIGKILL)
        assert read_record(folder_of(tmp_path)).status == "running"
    assert main(command(tmp_path)) == 0
    for file in sorted(folder_of(straight).glob("*.csv")):
        assert (folder_of(tmp_path) / file.name).read_bytes() == file.read_bytes(), file.name
    assert not (folder_of(tmp_path) / "state").exists()
    cost = read_record(folder_of(tmp_path)).cost
    for seconds, rate in zip(cost.train_seconds, cost.images_per_second, strict=True):
        assert 0 < 16 * EPOCHS / rate < seconds  # all epochs of a task, whoever made them; and a look before and after


def test_what_other_code_has_begun_is_neither_continued_nor_thrown_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a run by one code and half by another would be nobody's."""
    line = ["run", "--method", "zero_shot", "--stream", "smoke", "--results", str(tmp_path), "--quiet"]
    assert main(line) == 0
    (file,) = tmp_path.glob("runs/smoke/zero_shot/*/*/run.json")
    record = json.loads(file.read_text())
    ours = record["provenance"]["fingerprint"]
    del record["digest"], record["files"]
    file.write_text(
        json.dumps(
            record
            | {"status": "running", "provenance": {"fingerprint": "other", "started": "2026-01-01T00:00:00+00:00"}}
        )
    )
    begun = file.read_bytes()
    capsys.readouterr()
    assert main(line) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "begun by other code than this tree's; --force starts anew" in said and file.read_bytes() == begun
    assert main(["plan", *line[1:]]) == 0
    assert "unfinished: begun by other code" in capsys.readouterr().out.replace("\n", " ")
    assert main([*line, "--force"]) == 0
    assert read_record(file).provenance.fingerprint == ours
    capsys.readouterr()
    assert main(line) == 0 and "by other code" not in capsys.readouterr().out
    monkeypatch.setattr(Plan, "code", "0" * 16)  # the method has been edited since
    assert main(line) == 0
    assert "already complete, by other code than this tree's: " in capsys.readouterr().out


def test_complete_runs_are_not_repeated_and_force_repeats_them(
    straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder_of(straight) / "run.json").read_bytes()
    assert main(command(straight)) == 0
    assert "already complete" in capsys.readouterr().out
    assert (folder_of(straight) / "run.json").read_bytes() == before
    scores = json.loads(before)["scores"]
    assert main(command(straight, "--force", "true")) == 0
    again = read_record(folder_of(straight))
    assert again.scores == scores and again.provenance.started != json.loads(before)["provenance"]["started"]


def test_a_record_that_came_without_its_predictions_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["run", "--method", "ncm", "--stream", "smoke", "--results", str(tmp_path)]
    assert main(line) == 0
    (file,) = tmp_path.glob("runs/smoke/ncm/*/*/run.json")
    first = read_record(file)
    for name in first.files or ():
        (file.parent / name).unlink()
    assert main(["plan", *line[1:]]) == 0
    assert "made elsewhere" in capsys.readouterr().out
    assert main(line) == 0
    assert "already complete" not in capsys.readouterr().out
    assert (file.parent / "predictions.npz").is_file()  # so it did run
    assert read_record(file).scores == first.scores


def test_a_complete_record_counts_until_another_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made again with --force, stopped half-way and continued: at every moment a reader finds one whole record."""
    line = ["run", "--method", "sequential_lora", "--stream", "smoke", "--epochs", "1", "--results", str(tmp_path)]
    assert main(line) == 0
    (file,) = tmp_path.glob("runs/smoke/sequential_lora/*/*/run.json")
    first, seen = read_record(file), []
    answered = evaluate.Evaluator.row

    def row(self: evaluate.Evaluator, stage: int) -> evaluate.Cells:
        seen.append((stage, read_record(file)))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return answered(self, stage)

    monkeypatch.setattr(evaluate.Evaluator, "row", row)
    assert main([*line, "--force"]) == 130
    assert read_record(file) == first and (file.parent / "predictions.npz").is_file()
    assert main(line) == 0  # goes on with what --force began
    assert [stage for stage, _ in seen] == [0, 1, 1, 2] and all(record == first for _, record in seen)
    again = read_record(file)
    assert again.scores == first.scores and again.provenance.started != first.provenance.started
    assert not (file.parent / "state").exists() and len(read_all(tmp_path)) == 1


def test_a_second_process_neither_waits_nor_deletes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started while the first one loads its data, and again when that has ended."""
    line = ["run", "--method", "ncm", "--stream", "smoke", "--results", str(tmp_path), "--quiet"]
    loaded, others = load.loaded, []

    def loading(*arguments: Any) -> Any:
        monkeypatch.setattr(load, "loaded", loaded)
        with open(tmp_path / "said", "w") as said, redirect_stderr(said):
            others.append(os.waitpid(forked(lambda: main(line)), 0)[1])
        return loaded(*arguments)

    monkeypatch.setattr(load, "loaded", loading)
    assert main(line) == 0
    (second,) = others
    said = (tmp_path / "said").read_text()
    assert os.waitstatus_to_exitcode(second) == 2 and "another process is running this" in said
    (file,) = tmp_path.glob("runs/smoke/ncm/*/*/run.json")
    before = file.read_bytes()
    assert main(line) == 0 and len(others) == 1 and file.read_bytes() == before


def test_what_a_method_refuses_leaves_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said after the folder is claimed, and as if it had not been."""
    line = ["run", "--method", "mslora_cr", "--stream", "smoke", "--results", str(tmp_path), "--method.rank", "0"]
    assert main(line) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not any(tmp_path.iterdir())


def test_record_holds_what_a_reader_needs(straight: Path) -> None:
    record = read_record(folder_of(straight))
    assert record.complete and record.settings == "epochs=4 batch_size=4"
    assert folder_of(straight).parts[-2] == record.key and len(record.key) == 12
    cost = record.cost
    assert [
        len(getattr(cost, n)) for n in ("trainable_params", "stored_bytes", "train_seconds", "images_per_second")
    ] == [2] * 4
    assert len(cost.eval_seconds) == 3 and cost.stored_bytes[1] > cost.stored_bytes[0] > 0
    hidden = record.matrix("hidden")
    assert hidden[0] == [None, None] and hidden[1][1] is None and None not in hidden[2]
    assert None not in [cell for row in record.matrix("given") for cell in row]
    assert record.router_accuracy[2][0] is not None
    for protocol, last in ((name, record.matrix(name)[-1]) for name in PROTOCOLS):
        kept = [record.hits[protocol][task].weighed().mean() for task in record.stream.task_names]
        assert kept == pytest.approx(last)
    assert record.groups is None  # every made image is its own
    assert record.provenance.data.keys() == {"gland_nuclei", "chest_opacity"}


def test_predictions_give_the_matrix_again(straight: Path) -> None:
    """Accuracy computed from the stored answers alone."""
    import numpy as np

    record = read_record(folder_of(straight))
    with np.load(folder_of(straight) / "predictions.npz", allow_pickle=False) as stored:
        first_id = 0
        for column, task in enumerate(record.stream.tasks):
            labels = stored[f"labels/{task.name}"]
            for stage in range(3):
                answers = stored[f"{stage}/{task.name}/given_logits"].astype(np.float32).argmax(1) + first_id
                assert np.mean(answers == labels) == pytest.approx(record.matrix("given")[stage][column], abs=0.07)
                if stage > column:
                    hidden = stored[f"{stage}/{task.name}/hidden_answer"]
                    cell = record.matrix("hidden")[stage][column]
                    assert np.mean(hidden == labels) == pytest.approx(cell, abs=1e-6)
            first_id += len(task.labels)


def test_experts_are_saved(straight: Path) -> None:
    names = {path.parent.name for path in folder_of(straight).glob("experts/*/adapter_model.safetensors")}
    assert names == {"task0", "task1"}


def test_another_order_another_place_same_key(straight: Path, tmp_path: Path) -> None:
    assert main([*command(tmp_path), "--order", "1", "--seed", "3", "--quiet", "true"]) == 0
    folder = folder_of(tmp_path)
    assert folder.name == "seed3-order1" and folder.parent.name == folder_of(straight).parent.name


def test_limited_runs_enter_no_leaderboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--method", "ncm", "--stream", "smoke", "--limit", "8", "--results", str(tmp_path)]) == 0
    assert "enters no leaderboard" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "leaderboards").exists() or not any((tmp_path / "leaderboards").glob("smoke*.csv"))


def test_preset_and_config_file_and_command_line_in_that_order(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("method: {name: mslora_cr, rank: 3}\nstream: smoke\nepochs: 2\nlr: 0.001\n")
    from benchmark.config.arguments import parse

    run, card, _ = parse("plan", ["--config", str(config), "--lr", "0.01"], with_class=False)
    assert (card.name, run.epochs, run.lr, run.method_args["rank"]) == ("mslora_cr", 2, 0.01, 3)
    config.write_text("method: ncm\n")  # the name alone
    assert parse("plan", ["--config", str(config), "--force"], with_class=False)[0].force
    run, _, cls = parse("run", ["--method", "mslora_cr", "--preset", "official", "--method.rank", "4"], with_class=True)
    assert (run.method_args["rank"], run.method_args["lora_alpha"], run.lr) == (4, 64.0, 2e-4) and cls is not None


def test_plan_and_run_agree_on_the_key(straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *command(straight)[1:]]) == 0
    printed = capsys.readouterr().out
    assert str(folder_of(straight)) in printed and "complete" in printed


def test_seeds_are_functions_of_their_parts() -> None:
    assert derive_seed(0, 0, 1, "begin") == derive_seed(0, 0, 1, "begin") != derive_seed(0, 1, 0, "begin")
    state = torch.get_rng_state()
    with seeded(7):
        first = torch.rand(3)
    with seeded(7):
        assert torch.equal(first, torch.rand(3))
    assert torch.equal(state, torch.get_rng_state())
