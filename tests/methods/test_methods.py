"""Every method keeps the contract, and the relations that follow from what the methods are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.config import registry
from benchmark.record.schema import Matrix, Record
from benchmark.record.state_files import StateFiles
from benchmark.running.loop import Loop
from benchmark.testing import check_method
from benchmark.testing.bench import Bench
from methods.base import IncrementalMethod
from methods.sequential_lora import SequentialLora
from methods.stacked_lora import StackedLora
from methods.zero_shot import ZeroShot
from tests import tiny

SCORES = json.loads((Path(__file__).resolve().parents[1] / "golden" / "smoke_scores.json").read_text())
SAMPLES = 8  # of each test set there: an accuracy moves in eighths


SPEAKING = [name for name in registry.names() if "generation" in registry.card(name).kinds]
TELLING = ("mslora_cr", "ewc", "er")  # experts and a router, a gradient a sample, a buffer
WORDS = [pytest.param(name, marks=() if name in TELLING else pytest.mark.slow) for name in SPEAKING]
PAIRING = [name for name in registry.names() if "retrieval" in registry.card(name).kinds]
ALIKE = (  # of two inputs they make what mslora_cr makes, with which they share all that is made of them
    "independent_lora", "stacked_lora", "medcrp", "sequential_lora", "joint_lora", "lora_merge", "keeplora", "ewc",
    "er",
)  # fmt: skip
PAIRS = [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in PAIRING]


@pytest.mark.parametrize("name", registry.names())
def test_contract(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    holds(name, ("classification",), monkeypatch)


@pytest.mark.parametrize("name", PAIRS)
def test_contract_of_two_inputs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    holds(name, ("fusion", "retrieval"), monkeypatch)


@pytest.mark.parametrize("name", WORDS)
def test_contract_in_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    holds(name, ("generation",), monkeypatch)


def holds(name: str, among: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every check, and the scores of the run that they look at are those that the method has always had."""
    made, run = [], Bench.run

    def kept(self: Bench) -> Loop:
        loop = run(self)
        made.append(loop.record)
        return loop

    monkeypatch.setattr(Bench, "run", kept)
    check_method(registry.load(name), raise_on_failure=True, among=among)
    assert {record.stream.kind for record in made} == {kind for kind in SCORES[name] if kind in among}
    assert {*SCORES[name]} == {*registry.card(name).kinds}
    for record in made:
        for metric, protocols in SCORES[name][record.stream.kind].items():
            for protocol, matrix in protocols.items():
                drift(record.scores[metric][protocol], matrix, f"{metric}, {protocol}")


def drift(now: Matrix, before: Matrix, what: str) -> None:
    """Another processor rounds otherwise, and a sample of a cell may be answered otherwise for it."""
    cells = [(a, b) for row in zip(now, before, strict=True) for a, b in zip(*row, strict=True)]
    assert [a is None for a, _ in cells] == [b is None for _, b in cells], what
    apart = [abs(a - b) for a, b in cells if a is not None]
    assert max(apart) <= 1.25 / SAMPLES and sum(apart) / len(apart) <= 0.25 / SAMPLES, f"{what}: {apart}"


class Forgetful(SequentialLora):
    """Breaks the contract: says that its answers never change, and keeps an image count in a plain attribute."""

    kinds = ("classification", "retrieval")

    def answers_from(self, task, protocol):
        return ("never changes",)


class Leaky(StackedLora):
    """Breaks the contract: training moves an earlier expert, evaluation moves the memory."""

    kinds = ("classification",)

    def loss(self, batch):
        with torch.no_grad():
            self.backbone.image.blocks[0].norm1.bias.add_(1e-3)
        return super().loss(batch)

    def scores(self, batch, labels, task):
        self.memory["asked"] = self.memory.get("asked", torch.zeros(1)) + 1
        return super().scores(batch, labels, task)


def failures(cls) -> set[str]:
    return {result.name for result in check_method(cls) if not result.passed}


def test_check_method_finds_wrong_reuse() -> None:
    """A resumed run has forgotten what it reused, so it too may come to another matrix: of classes it does."""
    reuse, resumed = "reuse equals full evaluation", "stopped and resumed equals straight"
    found = failures(Forgetful)
    assert found - {f"{resumed} (retrieval)"} == {reuse, resumed, f"{reuse} (retrieval)"}


class ForgetfulInWords(Forgetful):
    """The same of what is written."""

    kinds = ("generation",)


@pytest.mark.slow
def test_check_method_finds_wrong_reuse_of_what_is_written() -> None:
    assert "reuse equals full evaluation (generation)" in failures(ForgetfulInWords)


def test_check_method_finds_leaks() -> None:
    found = failures(Leaky)
    assert {"only trainable parameters change", "evaluation changes nothing"} <= found


class Peeking(ZeroShot):
    """Breaks the contract: lets an image see the text that it is paired with."""

    kinds = ("retrieval",)

    def embed_image(self, batch):
        image = super().embed_image(batch)
        return image + self.embed_text(batch) if "text" in batch else image


def test_check_method_finds_an_image_that_sees_its_text() -> None:
    assert failures(Peeking) == {"an image and its text do not see each other (retrieval)"}


class Waiting(SequentialLora):
    """Breaks the contract: reads its loss in every step."""

    kinds = ("classification",)

    def loss(self, batch):
        loss = super().loss(batch)
        return loss if loss.item() > 0 else 0 * loss


def test_check_method_finds_a_step_that_waits() -> None:
    assert failures(Waiting) == {"a step does not wait for the device"}


class TunedNorms(IncrementalMethod):
    """Keeps the contract in seven lines, and what it trains is a part of the frozen tower."""

    def begin_task(self, task):
        super().begin_task(task)
        for parameter in self.trainable_parameters():
            parameter.requires_grad_(True)

    def trainable_parameters(self):
        norms = [module for module in self.backbone.image.modules() if isinstance(module, nn.LayerNorm)]
        return [parameter for norm in norms for parameter in norm.parameters()]


def test_norms_of_the_tower_may_be_tuned() -> None:
    check_method(TunedNorms, raise_on_failure=True)


class Cheating(ZeroShot):
    """Knows by heart which test sample is of which class: the place in the set tells."""

    kinds = ("classification",)

    def scores(self, batch, labels, task):
        return F.one_hot(batch["index"] * len(labels) // SAMPLES % len(labels), len(labels)).float()


class Averaging(ZeroShot):
    """Answers from the batch as a whole."""

    kinds = ("classification",)

    def scores(self, batch, labels, task):
        logits = super().scores(batch, labels, task)
        return logits - logits.mean(dim=0)


def test_an_answer_from_other_than_the_sample_is_refused() -> None:
    assert failures(Cheating) == {"runs a stream"}  # there is no index to answer from
    assert failures(Averaging) == {"an answer depends on its sample alone"}


def run(cls, folder: Path, **arguments) -> Record:
    bench = Bench(tiny.given(cls, **arguments), folder)
    return bench.run().record


def test_mslora_cr_without_its_terms_is_stacked_lora(tmp_path: Path) -> None:
    plain = run(registry.load("stacked_lora"), tmp_path / "a")
    cr = run(registry.load("mslora_cr"), tmp_path / "b", alpha=0.0, beta=0.0)
    assert plain.scores == cr.scores


def test_first_task_of_experts_is_that_of_sequential_lora(tmp_path: Path) -> None:
    """One LoRA, kaiming / 0, the same seed and budget: the same model after task 1."""
    records_ = [run(registry.load(n), tmp_path / n) for n in ("sequential_lora", "independent_lora", "stacked_lora")]
    first = [record.matrix("given")[1][0] for record in records_]
    assert first[0] == first[1] == first[2]


def test_experts_never_forget_when_the_identity_is_given(tmp_path: Path) -> None:
    for name in ("independent_lora", "stacked_lora", "mslora_cr"):
        matrix = run(registry.load(name), tmp_path / name).matrix("given")
        assert matrix[2][0] == matrix[1][0]


def test_zero_shot_rows_are_all_the_same(tmp_path: Path) -> None:
    matrix = run(registry.load("zero_shot"), tmp_path).matrix("given")
    assert matrix[0] == matrix[1] == matrix[2]


def test_joint_training_is_one_model(tmp_path: Path) -> None:
    record = run(registry.load("joint_lora"), tmp_path)
    matrix = record.scores["macro_auroc"]["given"]  # finer than accuracy on 16 images
    assert matrix[1] == matrix[2] and matrix[0] != matrix[1]
    assert len(record.cost.train_seconds) == 2


def test_a_resumed_run_that_begins_again_is_no_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged state is done without, so that the numbers alone would not tell."""
    put = StateFiles.put

    def damaged(files: StateFiles, name: str, *arguments: Any) -> None:
        put(files, name, *arguments)
        if name.startswith("method-"):
            (files.folder / name).write_bytes(b"damaged")

    monkeypatch.setattr(StateFiles, "put", damaged)
    with pytest.raises(AssertionError, match=r"method-0-begun\.pt: damaged"):
        _ = Bench(SequentialLora, tmp_path).resumed
