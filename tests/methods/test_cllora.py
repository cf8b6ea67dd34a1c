"""CL-LoRA against the numbers of the released code, its step of distillation, and one pass per task."""

from __future__ import annotations

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from benchmark.stream import Budget
from methods.cllora import CLLora, block_orthogonality, orthonormal, row_weights
from tests import tiny
from tests.golden_files import GOLDEN, close

# ---- pure functions -----------------------------------------------------------------------------------------------


def test_orthogonality_of_block_weights_is_the_official_one() -> None:
    with np.load(GOLDEN / "cllora_ortho.npz", allow_pickle=False) as file:
        g = {name: torch.tensor(file[name]) for name in file.files}
    for previous in (g["prev"], list(g["prev"])):
        current = g["cur"].clone().requires_grad_(True)
        loss = block_orthogonality(previous, current)
        loss.backward()
        close(loss, g["loss"], 1e-7)
        close(current.grad, g["dcur"], 1e-7)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4), st.floats(0.01, 100))
def test_orthogonality_is_of_directions(seed: int, tasks: int, blocks: int, length: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    previous = torch.randn(tasks, blocks, 2, generator=generator, dtype=torch.float64)
    current = torch.randn(blocks, 2, generator=generator, dtype=torch.float64)
    value = block_orthogonality(previous, current)
    rows, c = previous.reshape(tasks, -1).numpy(), current.flatten().numpy()
    cosines = rows @ c / np.linalg.norm(rows, axis=1) / np.linalg.norm(c)
    assert float(value) == pytest.approx(np.abs(cosines).mean(), abs=1e-9)
    close(block_orthogonality(-length * previous, length * current), value, 1e-6)
    close(block_orthogonality([current], current), torch.ones((), dtype=torch.float64), 1e-9)


def test_no_earlier_task_no_term() -> None:
    assert block_orthogonality([], torch.ones(3)) == 0
    assert block_orthogonality(torch.zeros(0, 6, 3), torch.ones(6, 3)) == 0


def test_rows() -> None:
    matrix = torch.empty(3, 8)
    orthonormal([matrix])
    close(matrix @ matrix.T, torch.eye(3), 1e-6)
    close(row_weights(torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])), torch.tensor([[2.5], [0.5], [0.0]]), 1e-6)
    assert torch.equal(row_weights(torch.zeros(4, 2)), torch.ones(4, 1))


# ---- the method ---------------------------------------------------------------------------------------------------


def learner(**arguments: object) -> CLLora:
    method = CLLora(rank=3, **arguments)  # type: ignore[arg-type]
    method.attach(tiny.backbone(), Budget(augment="none", schedule="constant"))
    return method


def batch(ids: list[int], task: int, seed: int | None = None) -> dict[str, Tensor]:
    labels = torch.tensor([ids[i % len(ids)] for i in range(12)])
    return {"image": tiny.images(12, task if seed is None else seed), "label": labels, "task": torch.full((12,), task)}


def ids_of(index: int) -> list[int]:
    return [2 * index, 2 * index + 1]


def begin(method: CLLora, index: int, ids: list[int] | None = None) -> None:
    with tiny.seeded(index):
        method.begin_task(tiny.task(index, ids or ids_of(index)))


def learn(method: CLLora, index: int, steps: int = 5, lr: float = 0.02, ids: list[int] | None = None) -> None:
    """A new task, with AdamW in place of a Trainer's."""
    begin(method, index, ids)
    with method.learning():
        method.train()
        optimizer = torch.optim.AdamW(method.trainable_parameters(), lr=lr, weight_decay=0.0)
        method.optimizers = lambda use_pl_optimizer: optimizer  # type: ignore[method-assign,misc]
        for _ in range(steps):
            loss = method.training_step(batch(ids or ids_of(index), index), 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        method.eval()
        method.end_task(method.tasks[-1], [batch(ids or ids_of(index), index)])


def early(method: CLLora, images: Tensor, name: str) -> Tensor:
    """The feature after the first half under a shared adapter, seen from outside."""
    seen: list[Tensor] = []

    def edit(layer: int, x_BND: Tensor) -> Tensor:
        if layer == method.middle:
            seen.append(x_BND)
        return x_BND

    images_BCHW = method.views(images, train=False)
    with method.shared.mix({name: torch.ones(())}):
        method.backbone.image(images_BCHW, edit_tokens=edit)
    return method.backbone.image.pool(seen[0], images_BCHW)


def test_distillation_is_a_step_of_its_own_on_reweighted_rows() -> None:
    method = learner()
    learn(method, 0)
    begin(method, 1)
    data, text = batch([2, 3], 1), method.backbone.class_features(method.tasks[1].labels)
    with method.learning():
        method.train()
        shared = method.shared.factors("shared")[1]
        with torch.no_grad():
            for i, B in enumerate(shared):
                B.add_(0.05 * torch.randn(B.shape, generator=torch.Generator().manual_seed(i)))
        old = (method.backbone.logits(early(method, data["image"], "teacher"), text) / 2).softmax(dim=1).detach()
        new = (method.backbone.logits(early(method, data["image"], "shared"), text) / 2).log_softmax(dim=1)
        gradients = torch.autograd.grad(5 * -(old * new).sum() / 12, shared)
        before = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
        optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.1)
        method.optimizers = lambda use_pl_optimizer: optimizer  # type: ignore[method-assign,misc]
        method._distil(method.views(data["image"], train=True))
        moved = {name: parameter for name, parameter in method.named_parameters() if (parameter != before[name]).any()}
        assert {id(parameter) for parameter in moved.values()} == {id(B) for B in shared}
        start = {id(parameter): before[name] for name, parameter in method.named_parameters()}
        for B, gradient, previous in zip(shared, gradients, method.shared.factors("teacher")[1], strict=True):
            norms = previous.norm(dim=1)
            weights = len(norms) * norms / norms.sum()
            close(B, start[id(B)] - 0.1 * weights[:, None] * gradient, 1e-5)


def test_distillation_brings_the_shared_adapter_back() -> None:
    method = learner()
    learn(method, 0)
    begin(method, 1)
    images = batch([2, 3], 1)["image"]
    text = method.backbone.class_features(method.tasks[1].labels)

    def gap() -> float:
        """Between what both shared adapters say of the new task's images."""
        says = [
            method.backbone.logits(early(method, images, name), text).softmax(dim=1) for name in ("shared", "teacher")
        ]
        return float((says[0] - says[1]).abs().max().detach())

    with method.learning():
        method.train()
        optimizer = torch.optim.SGD(method.trainable_parameters(), lr=100.0)  # the tiny model's answers differ little
        method.optimizers = lambda use_pl_optimizer: optimizer  # type: ignore[method-assign,misc]
        assert gap() == 0
        with torch.no_grad():
            for B in method.shared.factors("shared")[1]:
                B.add_(0.3 * torch.randn(B.shape, generator=torch.Generator().manual_seed(0)))
        away = gap()
        for _ in range(40):
            method._distil(method.views(images, train=True))
        assert gap() < 0.5 * away


def test_a_trainer_makes_two_steps_for_the_shared_adapter_and_one_for_the_rest() -> None:
    method = learner()
    learn(method, 0)
    del method.optimizers
    begin(method, 1)
    with method.learning():
        method.train()
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(method, DataLoader([batch([2, 3], 1, seed) for seed in range(3)], batch_size=None))
        state = trainer.optimizers[0].state
        assert {int(state[B]["step"]) for B in method.shared.factors("shared")[1]} == {6}
        assert {int(state[p]["step"]) for p in method.experts.parameters("task1")} == {3}
        assert int(state[method.block_weights[1]]["step"]) == 3


def test_adapters_begin_orthonormal_and_the_shared_reduction_stays() -> None:
    method = learner()
    learn(method, 0)
    fixed = [A.detach().clone() for A in method.shared.factors("shared")[0]]
    begin(method, 1)
    for A in (*fixed, *method.experts.factors("task1")[0]):
        close(A @ A.T, torch.eye(3), 1e-5)
    weights = method.block_weights[1]
    assert weights.shape == (2 * (tiny.LAYERS - tiny.LAYERS // 2),) and ((weights >= 0.5) & (weights <= 1.5)).all()
    assert not method.block_weights[0].requires_grad and weights.requires_grad
    own = {*method.shared.factors("shared")[1], *method.experts.parameters("task1"), weights}
    assert set(method.trainable_parameters()) == own
    with method.learning():
        assert all(p.requires_grad for p in own) and not any(
            A.requires_grad for A in method.shared.factors("shared")[0]
        )
    assert all(torch.equal(a, b) for a, b in zip(fixed, method.shared.factors("shared")[0], strict=True))


def test_block_weights_scale_their_layers_and_become_part_of_the_adapter() -> None:
    method = learner()
    begin(method, 0)
    data = batch([0, 1], 0)
    with method.learning():
        method.train()
        with torch.no_grad():
            for B in method.experts.factors("task0")[1]:
                B.normal_(generator=torch.Generator().manual_seed(1))
        apart = method.embed_image(data)
        apart.square().sum().backward()
        assert method.block_weights[0].grad.abs().min() > 0
        method.eval()
        unweighted = method.embed_image(data)
        method.end_task(method.tasks[0], [data])
        close(method.embed_image(data), apart.detach(), 1e-5)
        assert (unweighted - apart).norm() > 0.01 * apart.norm()


def test_classes_are_scored_under_their_own_tasks_adapters() -> None:
    method = learner()
    learn(method, 0, lr=0.1)
    learn(method, 1, lr=0.1)
    data = {"image": tiny.images(5, seed=9)}
    labels = [tiny.label(i) for i in (3, 0, 2, 1)]
    hidden = method.scores(data, labels, None)
    for index in (0, 1):
        images = method.views(data["image"], train=False)
        train = batch(ids_of(index), index)
        with method.shared.blend({"shared": 1.0}), method.experts.blend({f"task{index}": 1.0}):
            feature = F.normalize(method.backbone.image(images), dim=-1)
        own = [column for column, label in enumerate(labels) if label.id in ids_of(index)]
        assert torch.equal(hidden[:, own], method.scores(data, [labels[c] for c in own], method.tasks[index]))
        if index == 1:  # the shared adapter has not moved since: its prototypes are the means of today
            with method.shared.blend({"shared": 1.0}), method.experts.blend({"task1": 1.0}):
                z = F.normalize(method.backbone.image(method.views(train["image"], train=False)), dim=-1)
            means = torch.stack([z[train["label"] == labels[c].id].mean(dim=0) for c in own])
            expected = method.backbone.logit_scale.exp() * feature @ F.normalize(means, dim=-1).T
            close(hidden[:, own], expected, 1e-4)


def test_text_scores_and_classes_without_a_task() -> None:
    method = learner(head="text")
    data = {"image": tiny.images(5, seed=9)}
    labels = [tiny.label(i) for i in range(4)]
    frozen = method.backbone.image(method.views(data["image"], train=False))
    text = method.backbone.class_features(labels)
    close(method.scores(data, labels, None), method.backbone.logits(frozen, text), 1e-5)  # before the first task
    learn(method, 0, lr=0.1)
    images = method.views(data["image"], train=False)
    with method.shared.blend({"shared": 1.0}):
        shared = method.backbone.logits(method.backbone.image(images), text)
        with method.experts.blend({"task0": 1.0}):
            own = method.backbone.logits(method.backbone.image(images), text)
    close(method.scores(data, labels, None), torch.cat([own[:, :2], shared[:, 2:]], dim=1), 1e-4)
    close(method.scores(data, labels[2:], tiny.task(1, [2, 3])), shared[:, 2:], 1e-4)
    assert (own - shared).abs().max() > 0.01


def test_a_class_of_two_tasks_gets_its_better_score() -> None:
    method = learner()
    learn(method, 0, lr=0.1, ids=[0, 1])
    learn(method, 1, lr=0.1, ids=[0, 1])
    data, labels = {"image": tiny.images(6, seed=3)}, [tiny.label(0), tiny.label(1)]
    single = [method.scores(data, labels, task) for task in method.tasks]
    assert torch.equal(method.scores(data, labels, None), torch.maximum(*single))
    assert (single[0] - single[1]).abs().max() > 0


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="prototype, text"):
        CLLora(head="cosine")
    with pytest.raises(ValueError, match="temperature"):
        CLLora(temperature=0.0)
