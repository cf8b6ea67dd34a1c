"""Several processes that learn together: the parts of a batch, the same draws, the same matrix as one process."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file

from benchmark import cli
from benchmark.data.batches import Batches, Samples
from benchmark.record.state_files import StateFiles
from benchmark.record.stored import read_record
from benchmark.running import fit, processes, state
from benchmark.running.hardware import Hardware
from benchmark.running.progress import Display
from benchmark.stream import Share
from methods.base import IncrementalMethod, augment

CPU = torch.device("cpu")
RUN = ["run", "--method", "mslora_cr", "--stream", "smoke", "--epochs", "2", "--batch_size", "7"]
RUN += ["--device", "cpu", "--quiet"]


@given(st.integers(1, 200), st.integers(1, 16))
def test_the_parts_of_a_batch_are_every_row_once(size: int, world: int) -> None:
    shares = [Share.of(size, rank, world) for rank in range(world)]
    rows = [row for share in shares if share.weight for row in range(share.start, share.stop)]
    assert rows == list(range(size))
    assert all(share.stop > share.start for share in shares)  # nobody takes the mean of nothing


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 99))
def test_weighted_means_of_parts_are_the_mean_of_the_batch(size: int, world: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=size)
    shares = [Share.of(size, rank, world) for rank in range(world)]
    mean = sum(share.weight * values[share.start : share.stop].mean() for share in shares) / world
    np.testing.assert_allclose(mean, values.mean(), atol=1e-12)


@pytest.mark.parametrize("crop", [False, True])
def test_views_of_a_part_are_that_part_of_the_views(crop: bool) -> None:
    images = torch.rand(11, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def views(share: Share | None) -> torch.Tensor:
        torch.manual_seed(5)
        return augment(images if share is None else images[share.start : share.stop], crop, share)

    whole = views(None)
    assert not torch.equal(whole, images)
    for rank in range(3):
        share = Share.of(11, rank, 3)
        torch.testing.assert_close(views(share), whole[share.start : share.stop])


def test_processes_take_their_part_of_every_batch() -> None:
    samples = Samples(torch.arange(23).view(23, 1).byte(), torch.arange(23))
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0))
    whole = [batch["index"].tolist() for batch in Batches([(samples, 0)], 5, CPU, lambda: order)]
    parts = [Batches([(samples, 0)], 5, CPU, lambda: order, part=(rank, 2)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == len(whole) == 5
    for batch, *halves in zip(whole, *parts, strict=True):
        assert [index for half in halves for index in half["index"].tolist()] == batch
    assert [share.size for number in range(5) if (share := parts[0].share(number))] == [5, 5, 5, 5, 3]


def test_only_a_process_that_a_run_has_started_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv(processes.PARENT, "7")  # a sweep's cell
    assert processes.rank_here() == 0
    monkeypatch.setenv(processes.LEADER, "6")
    assert processes.rank_here() == 0
    monkeypatch.setenv(processes.LEADER, "7")
    assert processes.rank_here() == 2
    with processes.on_its_own(2):
        assert "LOCAL_RANK" not in os.environ and os.environ[processes.LEADER] == str(os.getpid())
    assert processes.rank_here() == 2


def test_those_who_wait_for_an_evaluation_wait_long() -> None:
    """The group's time-out, half an hour by default, ends all of them."""
    made = fit.strategy(Hardware(CPU, 2, "ddp"))
    assert made._timeout >= timedelta(days=7) and made._ddp_kwargs == {"find_unused_parameters": False}
    assert fit.strategy(Hardware(CPU, 2, "ddp_find_unused_parameters_true"))._ddp_kwargs["find_unused_parameters"]
    assert fit.strategy(Hardware(CPU)) == "auto"


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_learn_with_the_memory_of_the_first(rank: int, tmp_path: Path) -> None:
    kept = {"same": torch.tensor([1.0]), "near": torch.tensor([2.0 + rank * 1e-6]), f"own{rank}": torch.tensor([3])}
    first = {"same": torch.tensor([1.0]), "near": torch.tensor([2.0]), "own0": torch.tensor([3])}
    method = IncrementalMethod()
    method.memory.update(kept)
    told: list[dict[str, torch.Tensor]] = []

    def broadcast(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        told.append(found)
        return first

    trainer = SimpleNamespace(world_size=2, is_global_zero=rank == 0, strategy=SimpleNamespace(broadcast=broadcast))
    lesson = fit.Lesson([], (), state.FitCheckpoints(StateFiles(tmp_path, ()), 0), "")
    watch = fit.EpochEnd(lesson, Display(Console(), 1, quiet=True), None, [])
    watch.on_fit_start(trainer, method)  # type: ignore[arg-type]
    assert dict(method.memory) == first and len(told) == 1
    trainer.world_size = 1
    watch.on_fit_start(trainer, method)  # type: ignore[arg-type]
    assert len(told) == 1


def test_two_processes_make_the_matrix_of_one(tmp_path: Path) -> None:
    """With gloo on the CPU, at the same global batch; 7 divides neither the training set nor by two."""
    assert cli.main([*RUN, "--results", str(tmp_path / "1")]) == 0
    command = [sys.executable, "-m", "benchmark", *RUN, "--devices", "2", "--results", str(tmp_path / "2")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mslora_cr on smoke") == 1  # one process speaks
    one, two = (next((tmp_path / name).glob("runs/*/*/*/*")) for name in ("1", "2"))
    record, other = read_record(one), read_record(two)
    assert one.parent.name == two.parent.name  # the same key: replicates of each other
    assert record.hits == other.hits and record.scores.keys() == other.scores.keys()
    for metric in record.scores.keys() - {"ece"}:  # which is of probabilities, and those differ as the weights do below
        assert record.scores[metric] == other.scores[metric], metric
    for protocol, matrix in record.scores["ece"].items():
        for row, theirs in zip(matrix, other.scores["ece"][protocol], strict=True):
            assert theirs == [None if cell is None else pytest.approx(cell, abs=1e-3) for cell in row]
    state, shared = load_file(one / "method.safetensors"), load_file(two / "method.safetensors")
    assert state.keys() == shared.keys()
    for name, tensor in state.items():  # float32 sums in another order
        torch.testing.assert_close(shared[name], tensor, atol=1e-3, rtol=1e-3, msg=name)
    with np.load(one / "predictions.npz") as mine, np.load(two / "predictions.npz") as theirs:
        for task in ("gland_nuclei", "chest_opacity"):  # every test sample is evaluated, once
            assert theirs[f"2/{task}/given_logits"].shape == mine[f"2/{task}/given_logits"].shape
            assert len(theirs[f"2/{task}/hidden_answer"]) == len(mine[f"labels/{task}"])
    assert "2 x cpu" in other.provenance.device and not (two / "state").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--method", "er", "--stream", "smoke", "--devices", "2"], "er needs whole batches"),
        (["--method", "sequential_lora", "--stream", "smoke_retrieval", "--devices", "2"], "retrieval contrasts"),
        (["--method", "ewc", "--stream", "smoke", "--devices", "2", "--batch_size", "1"], "more than the 1 samples"),
        (["--method", "ewc", "--stream", "smoke", "--devices", "0"], "--devices"),
        (["--method", "ewc", "--stream", "smoke", "--strategy", "dp"], "did you mean 'ddp'"),
        (["--method", "ewc", "--stream", "smoke", "--devices", "4096", "--batch_size", "4096"], "CPU cores"),
    ],
)
def test_what_cannot_be_shared_is_said_at_once(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", *argv, "--device", "cpu", "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not any(tmp_path.iterdir())
