"""LwF: the released distillation, who the teacher is, and what it keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from methods.lwf import LwF, distillation
from methods.sequential_lora import SequentialLora
from tests import tiny
from tests.golden_files import close, golden
from tests.lessons import (
    batch,
    copies,
    cross_entropy_by_hand,
    flat,
    forgetting,
    learn,
    learner,
    logits,
    same,
    sequential_forgetting,
)

seeds = st.integers(0, 10**6)
TASKS = [tiny.task(i, [2 * i, 2 * i + 1]) for i in range(3)]


# ---- the pure function --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["mammoth", "libcontinual"])
def test_the_distillation_is_the_official_one(library: str) -> None:
    g = golden("lwf_kd")
    new = g["new_logits"].requires_grad_(True)
    value = distillation(new, g["old_logits"], float(g["temp"]))
    close(value, g[library], 1e-12)
    close(torch.autograd.grad(value, new)[0], g[f"d_{library}"], 1e-12)


@given(seeds, st.integers(1, 6), st.integers(1, 7), st.floats(0.3, 8), st.booleans())
def test_it_is_the_divergence_plus_the_teachers_entropy(
    seed: int, samples: int, classes: int, temperature: float, double: bool
) -> None:
    generator, dtype = torch.Generator().manual_seed(seed), torch.float64 if double else torch.float32
    new, old = (5 * torch.randn(samples, classes, generator=generator, dtype=dtype) for _ in range(2))
    new.requires_grad_(True)
    value = distillation(new, old, temperature)
    targets = torch.softmax(old / temperature, dim=1)
    divergence = torch.nn.KLDivLoss(reduction="batchmean")((new / temperature).log_softmax(dim=1), targets)
    entropy = torch.distributions.Categorical(probs=targets).entropy().mean()
    tolerance = 1e-9 if double else 1e-5
    assert value.dtype == dtype
    close(value, divergence + entropy, tolerance)
    by_hand = (torch.softmax(new / temperature, dim=1) - targets) / (temperature * samples)  # no factor T^2
    close(torch.autograd.grad(value, new)[0], by_hand.detach(), tolerance)
    close(distillation(old, old, temperature), entropy, tolerance)  # its least value


# ---- the method ---------------------------------------------------------------------------------------------------


def test_the_first_task_has_no_teacher() -> None:
    assert learn(learner(LwF), TASKS[0]) == learn(learner(SequentialLora), TASKS[0])


def test_the_teacher_is_the_lora_before_the_task_and_takes_no_gradient() -> None:
    method = learner(LwF)
    for task in TASKS:
        before = copies(method.experts.parameters("shared")) if task.index else None
        learn(method, task, steps=4)
        teacher, student = (method.experts.parameters(name) for name in ("teacher", "shared"))
        if before is not None:
            assert not same(before, student)
        assert same(teacher, student), "the teacher of the next task is this task's end"
        assert [id(p) for p in method.trainable_parameters()] == [id(p) for p in student]
        with method.learning():
            before = copies(teacher)
            loss = method.loss(batch(task))
            loss.backward()
            torch.optim.SGD(method.trainable_parameters(), lr=0.01).step()
            assert all(p.grad is None and not p.requires_grad for p in teacher)
            assert any(p.grad.any() for p in student)
        assert same(before, teacher) and not same(before, student)
        method.zero_grad()
        method.end_task(task, [])


def test_the_loss_pulls_to_the_old_answers_on_the_new_images() -> None:
    """Soft targets over all earlier classes, as the weights answered before the task, however far they have moved."""
    method = learner(LwF, strength=1.7, temperature=3.0)
    for task in TASKS[:2]:
        learn(method, task)
    data, earlier = batch(TASKS[2]), [label for task in TASKS[:2] for label in task.labels]
    with torch.no_grad():
        old_BC = method.scores(data, earlier, None)
    learn_a_little(method)
    with method.learning():
        method.train()
        parameters = method.trainable_parameters()
        image_BE = method.embed_image(data)
        new_BC = method.backbone.logits(image_BE, method.backbone.class_features(earlier))
        assert float((new_BC - old_BC).detach().abs().max()) > 0.5
        softly = -(torch.softmax(old_BC / 3, dim=1) * torch.log(torch.softmax(new_BC / 3, dim=1))).sum() / len(old_BC)
        expected = cross_entropy_by_hand(method, image_BE, data) + 1.7 * softly
        loss = method.loss(data)
        close(loss, expected, 1e-5)
        close(*(flat(torch.autograd.grad(x, parameters)) for x in (loss, expected)), 1e-4)
        close(logits(method, data, earlier), new_BC.detach(), 1e-5)  # the teacher has left no trace in the tower


def learn_a_little(method: LwF) -> None:
    """Steps into the third task, which is not ended."""
    method.begin_task(TASKS[2])
    with method.learning():
        optimizer = torch.optim.Adam(method.trainable_parameters(), lr=0.01)
        for _ in range(4):
            loss = method.loss(batch(TASKS[2]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        optimizer.zero_grad()


def test_teacher_and_student_see_the_same_view() -> None:
    """Where both are equal, at the start of a task, distillation has no gradient: with augmentation too."""

    def gradient(strength: float) -> Tensor:
        method = learner(LwF, augment="crop", strength=strength)
        learn(method, TASKS[0])
        method.begin_task(TASKS[1])
        with method.learning(), tiny.seeded(5):
            method.train()
            return flat(torch.autograd.grad(method.loss(batch(TASKS[1])), method.trainable_parameters()))

    close(gradient(30.0), gradient(0.0), 1e-4)


def test_evaluation_answers_with_the_student() -> None:
    method = learner(LwF)
    learn(method, TASKS[0])
    data = batch(TASKS[0])
    answers = method.scores(data, TASKS[0].labels, None)
    tiny.shake_all(method.experts.parameters("teacher"), 3)
    assert torch.equal(method.scores(data, TASKS[0].labels, None), answers)


def test_it_forgets_less_than_one_lora_without_it() -> None:
    assert forgetting(LwF, strength=10.0) < 0.7 * sequential_forgetting()


def test_arguments_are_checked() -> None:
    for name, value in {"strength": -1.0, "temperature": 0.0}.items():
        with pytest.raises(ValueError, match=f"{name} {value}: "):
            LwF(**{name: value})


def test_the_teacher_answers_without_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    method, data, seen = learner(LwF, dropout=0.5), batch(TASKS[1]), []
    learn(method, TASKS[0])
    method.begin_task(TASKS[1])
    score = method.backbone.logits
    with method.learning():
        method.eval()
        expected = logits(method, data, TASKS[0].labels)  # teacher and student are equal now
        method.train()
        monkeypatch.setattr(method.backbone, "logits", lambda *args: seen.append(score(*args)) or score(*args))
        method.loss(data)
    assert any(torch.allclose(x, expected, atol=1e-4) for x in seen if x.shape == expected.shape)
