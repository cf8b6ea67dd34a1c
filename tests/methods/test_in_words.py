"""What methods compute of answers in words: a Fisher of single samples, a buffer of prompts of any length, token
weights of a distillation; and the layout without weights, which the run's seed draws."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark import kinds
from benchmark.config.run_config import RunConfig
from benchmark.running.load import attached
from benchmark.stream import Budget, Task
from methods import ewc
from methods.er import ER
from methods.ewc import EWC
from methods.lwf import LwF
from methods.parts.memory import one_width
from methods.sequential_lora import SequentialLora
from methods.zero_shot import ZeroShot
from tests.golden_files import close
from tests.lessons import flat, learn

ASKED = (
    (("Is it large?", "yes"), ("Is the gland small?", "no"), ("Which colour is seen?", "a large opacity of red .")),
    (("Describe the image in a short report , please .", "the heart is large ."), ("Is the heart large?", "yes")),
)


def task(index: int) -> Task:
    return Task(index, f"t{index}", "ct", "generation", (), 2, max_new_tokens=6)


def learner(cls: type[Any], seed: int = 0, **arguments: Any) -> Any:
    arguments = arguments if cls is ZeroShot else {"rank": 2, "lora_alpha": 2.0} | arguments
    config = RunConfig(backbone="tiny-llava", method_args=arguments)
    return attached(cls, config, kinds.of("generation"), Budget(), seed)


@cache
def pictures() -> Tensor:
    return torch.randint(0, 256, (8, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def batch(method: Any, index: int, count: int = 6) -> dict[str, Tensor]:
    """Questions of a task in turn; their images differ."""
    asked, told = zip(*(ASKED[index][i % len(ASKED[index])] for i in range(count)), strict=True)
    targets = method.language.targets(told)
    return {
        "image": method.language.seen(pictures()[:count]), "prompt": method.language.prompts(asked),
        "target": targets, "target_mask": targets >= 0, "label": torch.zeros(count, dtype=torch.long),
        "task": torch.full((count,), index), "index": torch.arange(count),
    }  # fmt: skip


def rows(data: dict[str, Tensor], chosen: Sequence[int]) -> dict[str, Tensor]:
    return {name: values[list(chosen)] for name, values in data.items()}


def test_the_fisher_is_that_of_single_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ewc, "CHUNK", 4)
    method = learner(EWC)
    data = batch(method, 0)
    learn(method, task(0), data, steps=5)
    with method.learning():
        fisher = method._fisher(task(0), [rows(data, range(5)), rows(data, [5])])
        parameters, squares = method.trainable_parameters(), []
        for i in range(6):
            one = rows(data, [i])
            squares.append(flat(torch.autograd.grad(method.graded(method.outputs(one), one), parameters)) ** 2)
    expected = torch.stack(squares).mean(dim=0)
    assert expected.max() > 0 and ((fisher - expected).abs() / expected.max()).max() < 1e-5


def test_a_buffer_holds_prompts_and_answers_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of later tasks are longer; what is replayed is graded as if it stood alone."""
    method = learner(ER)
    first, second = batch(method, 0), batch(method, 1)
    assert first["prompt"].shape[1] < second["prompt"].shape[1] and first["target"].shape[1] > second["target"].shape[1]
    learn(method, task(0), first, steps=3)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "randint", lambda high, size, **_: torch.arange(size[0]) % high)
        method.begin_task(task(1))
        with method.learning(), torch.no_grad():
            alone = [method.language.objective(part) for part in (second, first)]
            close(method.loss(second), sum(alone) / 2, 1e-5)
    with torch.no_grad():
        method.end_task(task(1), [second])
    kept = {name.removeprefix("buffer_"): values for name, values in method.memory.items() if name != "buffer_seen"}
    for name in ("image", "prompt", "target", "target_mask", "task"):
        assert torch.equal(kept[name], one_width([first[name], second[name]]))
    assert torch.equal(kept["target_mask"], kept["target"] >= 0)


def test_the_teacher_weighs_samples_alike_and_then_their_tokens() -> None:
    """By hand, sample by sample and token by token, against what the weights answered before the task."""
    method = learner(LwF, strength=1.7, temperature=3.0)
    learn(method, task(0), batch(method, 0), steps=5)
    data = batch(method, 1)
    with method.learning(), torch.no_grad():
        old = method.outputs(data)
    method.begin_task(task(1))
    with method.learning():
        optimizer = torch.optim.SGD(method.trainable_parameters(), lr=1.0)
        method.loss(data).backward()
        optimizer.step()
        method.train()
        with torch.no_grad():
            new, each = method.outputs(data), []
            for told, student, teacher in zip(data["target"], new, old, strict=True):
                count = int((told >= 0).sum())
                soft = (teacher[:count] / 3).softmax(-1) * (student[:count] / 3).log_softmax(-1)
                each.append(-soft.sum(-1).mean())
            assert (new - old).abs().max() > 1e-2
            close(method.loss(data), method.graded(new, data) + 1.7 * torch.stack(each).mean(), 1e-5)


def test_the_seed_draws_the_backbone_the_same_for_every_method() -> None:
    one, other, again = learner(SequentialLora, 0), learner(SequentialLora, 1), learner(ZeroShot, 0)
    plain = {name: value for name, value in again.language.adapted.named_parameters()}
    differ = 0
    for drawn, same in ((one, True), (other, False)):
        for name, value in drawn.language.adapted.named_parameters():
            if ".lora_" not in name:
                equal = torch.equal(value, plain[name.replace(".base_layer", "")])
                assert equal or not same, name
                differ += not equal
    assert differ > 20  # all but norms and biases


def test_a_router_and_an_answer_see_nothing_of_what_is_right() -> None:
    """With a batch whose answers are others, what is written and where it is routed are as before."""
    from methods.mslora_cr import MSLoRACR

    method = learner(MSLoRACR)
    for index in range(2):
        learn(method, task(index), batch(method, index), steps=3)
    data = batch(method, 0)
    wrong = data | {"target": data["target"].flip(0), "label": data["label"] + 1}
    with torch.no_grad():
        assert torch.equal(method.route(data), method.route(wrong))
        for told in (task(0), None):
            answers = method.answer(data, told)
            assert answers == method.answer(wrong, told) and len(answers) == 6
            assert torch.equal(
                method.likelihood(data, ["yes", "no"], told), method.likelihood(wrong, ["yes", "no"], told)
            )
