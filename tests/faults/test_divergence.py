"""Numbers that are none end a run: it says where, its record says so, and no such state is ever on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.cli import main
from benchmark.config.resolve import Plan
from benchmark.record.stored import read_record
from benchmark.running.divergence import Diverged
from benchmark.testing import contract
from benchmark.testing.bench import Bench
from methods.base import IncrementalMethod
from methods.sequential_lora import SequentialLora
from tests.faults.disturbed import command, told

TALLY = "numbers that are none, told"
NAN, INF = float("nan"), float("inf")


def record_of(results: Path) -> Any:
    (file,) = results.glob("runs/*/*/*/*/run.json")
    return read_record(file)


def saved(results: Path) -> list[Tensor]:
    """Every tensor of every state on disk."""
    files = [*results.glob("runs/*/*/*/*/state/*.pt"), *results.glob("runs/*/*/*/*/state/*.ckpt")]
    found: list[Tensor] = []

    def walk(value: Any) -> None:
        if isinstance(value, Tensor):
            found.append(value)
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
            walk(each)

    for file in files:
        walk(torch.load(file, weights_only=True))
    return [tensor for tensor in found if tensor.is_floating_point()]


def nth(patch: pytest.MonkeyPatch, name: str, call: int, change: Callable[[Any, Any], Any], owner: Any = None) -> None:
    """The n-th call of a method's function gives something else."""
    owner = owner or IncrementalMethod
    original, left = getattr(owner, name), [call]

    def other(self: Any, *arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        found = original(self, *arguments, **options)
        return change(self, found) if left[0] == 0 else found

    patch.setattr(owner, name, other)


@pytest.mark.parametrize(
    ("value", "call", "task", "epoch", "step"),
    [
        (NAN, 7, "chest_opacity", 2, 3),
        pytest.param(INF, 2, "gland_nuclei", 1, 2, marks=pytest.mark.slow),
        pytest.param(-INF, 1, "gland_nuclei", 1, 1, marks=pytest.mark.slow),
    ],
)
def test_a_loss_that_is_no_number_stops_the_run(
    value: float, call: int, task: str, epoch: int, step: int, tmp_path: Path, straight: dict[str, bytes],
    tally: Callable[..., None],
) -> None:  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        nth(patch, "loss", call, lambda method, loss: loss * 0 + value)
        code, error = told(*command(tmp_path))
    record = record_of(tmp_path)
    when = f"task {task}: epoch {epoch}, step {step}: diverged, the loss is not finite"
    assert code == 1 and error.startswith(f"error: {when} (loss {value}, learning rate ") and error.count("\n") == 1
    assert (record.status, record.stages) == ("running", 1 if task == "gland_nuclei" else 2)
    assert (record.diverged.task, record.diverged.epoch, record.diverged.step) == (task, epoch, step)
    assert record.diverged.loss == str(value) and 0 < record.diverged.lr <= 1
    tensors = saved(tmp_path)
    assert tensors and all(tensor.isfinite().all() for tensor in tensors)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert told(*command(tmp_path)) == (1, error.rstrip("\n") + "; --force starts anew\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "code", "0" * 16)  # since then the method has been repaired: nothing is said of today's
        code, said = told(*command(tmp_path))
    assert code == 2 and "stopped for good by other code than this tree's; --force starts anew" in said
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    tally(TALLY)


@pytest.mark.slow
def test_a_parameter_that_is_no_number_stops_the_run(tmp_path: Path, tally: Callable[..., None]) -> None:
    """With a loss that is still one: the last step of an epoch is what spoilt it."""

    def spoil(method: Any, loss: Tensor) -> Tensor:
        parameter = method.trainable_parameters()[0]
        parameter.register_hook(lambda gradient: gradient * NAN)
        return loss

    with pytest.MonkeyPatch.context() as patch:
        nth(patch, "loss", 2, spoil)
        code, error = told(*command(tmp_path))
    record = record_of(tmp_path)
    assert code == 1 and "epoch 1, step 2: diverged, the parameter backbone.image." in error
    assert record.diverged.step == 2 and np.isfinite(float(record.diverged.loss))
    assert all(tensor.isfinite().all() for tensor in saved(tmp_path))
    tally(TALLY)


@pytest.mark.slow
@pytest.mark.parametrize("visit", ["prepare", "end"])
def test_what_a_method_keeps_has_to_be_numbers(visit: str, tmp_path: Path, tally: Callable[..., None]) -> None:
    def keep(method: Any, _: Any) -> None:
        method.memory["fisher"] = torch.tensor([1.0, NAN])

    with pytest.MonkeyPatch.context() as patch:
        nth(patch, f"{visit}_task", 2, keep, SequentialLora)
        code, error = told(*command(tmp_path))
    assert code == 1 and f"task chest_opacity: diverged, memory.fisher is not a number after {visit}_task" in error
    assert record_of(tmp_path).diverged.epoch is None and record_of(tmp_path).stages == 2
    assert not any(tensor.isnan().any() for tensor in saved(tmp_path))
    tally(TALLY)


@pytest.mark.slow
def test_force_starts_anew_and_the_state_is_told(
    tmp_path: Path, straight: dict[str, bytes], capsys: pytest.CaptureFixture[str], tally: Callable[..., None]
) -> None:
    """In a plan, in a sweep, in a leaderboard; and what was spoilt leaves no trace."""
    with pytest.MonkeyPatch.context() as patch:
        nth(patch, "loss", 2, lambda method, loss: loss * NAN)
        assert main(command(tmp_path)) == 1
    run = command(tmp_path)[1:]
    capsys.readouterr()
    assert main(["plan", *run]) == 0
    assert "the loss is not finite" in (plan := capsys.readouterr().out) and "--force starts anew" in plan
    grid = ["--methods", "sequential_lora", "--streams", "smoke", *run[4:]]
    assert main(["plan", *grid]) == 0
    assert "1 diverged (--redo all starts anew), 1 to run" not in (plan := capsys.readouterr().out)
    assert "1 diverged" in plan and "1 to run" in plan
    assert main(["leaderboard", "--results", str(tmp_path)]) == 0
    assert main(command(tmp_path, "--force")) == 0
    (file,) = tmp_path.glob("runs/*/*/*/*/run.json")
    assert "diverged" not in json.loads(file.read_text())
    assert {each.name: each.read_bytes() for each in file.parent.glob("*.csv")} == straight
    tally("diverged, and made anew by force")


def answer(patch: pytest.MonkeyPatch, change: Callable[[Any, Tensor], Any], call: int = 8) -> None:
    nth(patch, "scores", call, change, SequentialLora)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda method, logits: logits * NAN, "is NaN, and it does not declare that it abstains"),
        pytest.param(
            lambda method, logits: logits.index_fill(1, torch.tensor([0]), NAN),
            "is NaN, and it does not declare",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda method, logits: logits + INF, "is infinite, and it does not declare", marks=pytest.mark.slow
        ),
        pytest.param(lambda method, logits: logits[:, 1:], "of float32, expected (", marks=pytest.mark.slow),
        pytest.param(lambda method, logits: logits[1:], "of float32, expected (", marks=pytest.mark.slow),
        pytest.param(lambda method, logits: logits[None], "of float32, expected (", marks=pytest.mark.slow),
        pytest.param(lambda method, logits: logits.argmax(1), "of int64, expected (", marks=pytest.mark.slow),
        pytest.param(lambda method, logits: logits.long(), "of int64, expected (", marks=pytest.mark.slow),
        pytest.param(lambda method, logits: logits > 0, "of bool, expected (", marks=pytest.mark.slow),
        pytest.param(lambda method, logits: None, "is a NoneType, expected a tensor", marks=pytest.mark.slow),
        pytest.param(lambda method, logits: logits.tolist(), "is a list, expected a tensor", marks=pytest.mark.slow),
    ],
)
def test_an_answer_that_is_none_is_a_sentence(
    change: Callable[[Any, Tensor], Any], sentence: str, tmp_path: Path, tally: Callable[..., None]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        answer(patch, change)
        code, error = told(*command(tmp_path, "--limit", "8", "--epochs", "1"))
    begin = "error: task gland_nuclei: SequentialLora: scores, identity given, after 2 of 2 tasks is"
    assert code == 1 and sentence in error and error.count("\n") == 1
    assert error.startswith(("error: task gland_nuclei: SequentialLora: scores, identity ", begin))
    assert record_of(tmp_path).status == "running"
    tally("answers that are none, told")


@pytest.mark.slow
def test_who_abstains_declares_it(tmp_path: Path, tally: Callable[..., None]) -> None:
    """Of a task that is not learned; of a learned one that is told there is always an answer."""

    def none(method: Any, logits: Tensor) -> Tensor:
        return logits * NAN

    for abstains, call, code in ((True, 1, 0), (False, 1, 1), (True, 3, 1)):
        results = tmp_path / f"{abstains}{call}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SequentialLora, "abstains", abstains)
            answer(patch, none, call)
            assert told(*command(results, "--limit", "8", "--epochs", "1"))[0] == code
    assert record_of(tmp_path / "True1").matrix("given")[0][0] is None
    tally("abstentions, declared or refused", 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda method, features: features[:, 1:], "of float32, expected ("),
        (lambda method, features: features[:1], "of float32, expected ("),
        (lambda method, features: features * NAN, "represent, identity given, after 0 of 2 tasks is NaN"),
    ],
)
def test_features_that_are_none_are_a_sentence(
    change: Callable[[Any, Tensor], Any], sentence: str, tmp_path: Path, tally: Callable[..., None]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        nth(patch, "represent", 2, change)
        argv = command(tmp_path, "--limit", "8")
        argv[argv.index("smoke")] = "smoke_retrieval"
        argv[argv.index("sequential_lora")] = "zero_shot"
        code, error = told(*argv)
    assert code == 1 and sentence in error and error.count("\n") == 1
    tally("answers that are none, told")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda method, loss: torch.stack([loss, loss]),
            "loss gives float32 of shape (2,), expected one",
        ),
        pytest.param(
            lambda method, loss: loss.detach(),
            "SequentialLora.loss depends on no parameter that is trained",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda method, loss: None,
            "SequentialLora.loss gives None, expected one",
            marks=pytest.mark.slow,
        ),
        pytest.param(lambda method, loss: 0.5, "loss gives a float, expected one", marks=pytest.mark.slow),
    ],
)
def test_a_loss_that_is_none_is_a_sentence(
    change: Callable[[Any, Tensor], Any], sentence: str, tmp_path: Path, tally: Callable[..., None]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        nth(patch, "loss", 2, change)
        code, error = told(*command(tmp_path, "--limit", "8"))
    assert code == 1 and sentence in error and error.count("\n") == 1
    tally("losses that are none, told")


FULL = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes. Error code 12"


@pytest.mark.parametrize(
    ("error", "batch", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "8", "--batch_size 4"),
        pytest.param(RuntimeError(FULL), "2", "try --batch_size 1", marks=pytest.mark.slow),
        pytest.param(MemoryError(), "1", "--batch_size 1: take a smaller --backbone", marks=pytest.mark.slow),
    ],
)
def test_no_memory_left_is_told_with_a_batch_size_to_try(
    error: Exception, batch: str, sentence: str, tmp_path: Path, tally: Callable[..., None]
) -> None:
    def fail(method: Any, loss: Any) -> Any:
        raise error

    for name, said in (("loss", sentence), ("scores", "in batches of 256, which --batch_size does not change")):
        with pytest.MonkeyPatch.context() as patch:
            nth(patch, name, 2, fail, SequentialLora)
            code, line = told(*command(tmp_path / name, "--limit", "8", "--batch_size", batch))
        assert code == 2 and "out of memory" in line and said in line and line.count("\n") == 1
    tally("out of memory, told", 2)


@pytest.mark.slow
def test_what_is_a_mistake_keeps_its_traceback(tmp_path: Path) -> None:
    def fail(method: Any, loss: Any) -> Any:
        raise RuntimeError("a mistake")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="a mistake"):
        nth(patch, "loss", 1, fail)
        told(*command(tmp_path, "--limit", "8"))


@pytest.mark.slow
def test_the_contract_asks_for_the_declaration(tmp_path: Path) -> None:
    class Silent(SequentialLora):
        """Has no answer on a task that it has not learned."""

        def scores(self, batch: Any, labels: Any, task: Any, route: Any = None) -> Tensor:
            logits_BC = super().scores(batch, labels, task, route)
            return logits_BC * NAN if task is not None and task.index >= len(self.tasks) else logits_BC

    with pytest.raises(Diverged, match="does not declare that it abstains"):
        contract.answers_are_right(Bench(Silent, tmp_path / "undeclared"))
    Silent.abstains = True
    contract.answers_are_right(Bench(Silent, tmp_path / "declared"))
    with pytest.raises(AssertionError, match="NaN, which the method does not declare"):
        bench = Bench(Silent, tmp_path / "declared")
        Silent.abstains = False
        contract.finite_or_declared(bench, torch.full((2, 3), NAN), "before any training")
    with pytest.raises(AssertionError, match="finite, or NaN throughout"):
        contract.finite_or_declared(bench, torch.tensor([NAN, 1.0]), "before any training")
