"""The contract's shared parts: local cross-entropy, views, schedule, checkpoints, training flags."""

from __future__ import annotations

import io
import math

import lightning as L
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmark.stream import Budget, Task
from methods.base import Batch, IncrementalMethod, augment, cosine, with_route
from methods.cllora import CLLora
from methods.independent_lora import IndependentLora
from methods.inflora import InfLoRA
from methods.ncm import NCM
from methods.ranpac import RanPAC
from methods.sdlora import SDLora
from methods.sequential_lora import SequentialLora
from methods.stacked_lora import StackedLora
from methods.zero_shot import ZeroShot

OWN = (tiny.task(0, [0, 1, 2]), tiny.task(1, [5, 3]), tiny.task(2, [9, 4, 7, 8]))  # ids with gaps, in any order
SHARED = tuple(tiny.task(i, [0, 1, 2]) for i in range(3))
SOME_SHARED = (tiny.task(0, [0, 1, 2]), tiny.task(1, [2, 3]))
REORDERED = (tiny.task(0, [6, 7]), tiny.task(1, [0, 1, 2]), tiny.task(2, [3, 4, 5]))


def attached(cls: type = IncrementalMethod, augment: str = "none", **arguments) -> IncrementalMethod:
    method = cls(**arguments)
    method.attach(tiny.backbone(), Budget(augment=augment))
    return method.eval()


def batch_of(tasks: tuple[Task, ...], count: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    chosen = [tasks[int(torch.randint(len(tasks), (), generator=generator))] for _ in range(count)]
    labels = [t.labels[int(torch.randint(len(t.labels), (), generator=generator))].id for t in chosen]
    return {
        "image": tiny.images(count, seed),
        "task": torch.tensor([t.index for t in chosen]),
        "label": torch.tensor(labels),
        "index": torch.arange(count),
    }


# ---- the loss -----------------------------------------------------------------------------------------------------


def naive_loss(method: IncrementalMethod, image_BE: Tensor, batch: Batch, tasks: tuple[Task, ...]) -> Tensor:
    """Sample by sample: minus the log of the softmax over the own task's labels."""
    losses = []
    for image_E, task, label in zip(image_BE, batch["task"].tolist(), batch["label"].tolist(), strict=True):
        scores = []
        for candidate in tasks[task].labels:
            text_E = method.backbone.class_features([candidate])[0]
            scores.append(method.backbone.logit_scale.exp() * (image_E / image_E.norm()) @ text_E)
        right = [candidate.id for candidate in tasks[task].labels].index(label)
        losses.append(torch.stack(scores).logsumexp(0) - scores[right])
    return sum(losses) / len(losses)


@pytest.mark.parametrize("tasks", [OWN, SHARED, SOME_SHARED, REORDERED], ids=["own", "shared", "partly", "reordered"])
@given(count=st.integers(1, 8), seed=st.integers(0, 10**6))
@settings(max_examples=15)
def test_a_mixed_batch_is_scored_over_each_samples_own_labels(tasks: tuple[Task, ...], count: int, seed: int) -> None:
    method, batch = attached(), batch_of(tasks, count, seed)
    for task in tasks:
        method.begin_task(task)
    features = [torch.randn(count, tiny.EMBED, generator=torch.Generator().manual_seed(seed)) for _ in range(2)]
    one, two = (f.requires_grad_(True) for f in features)
    loss, expected = method.cross_entropy(one, batch), naive_loss(method, two, batch, tasks)
    assert loss.shape == () and float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4, abs=1e-5)
    loss.backward()
    expected.backward()
    assert torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-5)


def test_a_label_of_another_task_changes_nothing() -> None:
    """Local: the loss of a sample of task 0 is the same before and after later tasks begin."""
    method, batch = attached(), batch_of(OWN[:1], 6)
    image_BE = torch.randn(6, tiny.EMBED)
    losses = []
    for task in OWN:
        method.begin_task(task)
        losses.append(float(method.cross_entropy(image_BE, batch)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] == pytest.approx(losses[2], rel=1e-5)


def test_loss_is_cross_entropy_plus_penalty() -> None:
    class Penalised(IncrementalMethod):
        def penalty(self) -> Tensor:
            return torch.tensor(2.5)

    plain, penalised, batch = attached(), attached(Penalised), batch_of(OWN[:1], 4)
    for method in (plain, penalised):
        method.begin_task(OWN[0])
    with torch.no_grad():
        expected = plain.cross_entropy(plain.embed_image(batch), batch)
        assert torch.equal(plain.loss(batch), expected) and float(plain.penalty()) == 0
        assert float(penalised.loss(batch)) == pytest.approx(float(expected) + 2.5)
    assert plain.trainable_parameters() == [] and plain.answers_from(OWN[0], "given") is None


@torch.no_grad()
def test_scores_are_zero_shot_over_the_labels_asked_for() -> None:
    method, batch = attached(), batch_of(OWN, 5)
    labels = (*OWN[1].labels, *OWN[0].labels)
    logits = method.scores(batch, labels, None)
    image_BE = torch.nn.functional.normalize(method.backbone.image(method.views(batch["image"], False)), dim=-1)
    expected = method.backbone.logit_scale.exp() * image_BE @ method.backbone.class_features(labels).T
    assert logits.shape == (5, len(labels)) and torch.allclose(logits, expected, atol=1e-4)


# ---- views --------------------------------------------------------------------------------------------------------


def test_views_normalise_with_the_backbones_own_numbers() -> None:
    method, image = attached(), tiny.images(3)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (tiny.MEAN, tiny.STD))
    for train in (False, True):  # augment is "none"
        assert torch.allclose(method.views(image, train), (image.float() / 255 - mean) / std, atol=1e-6)


@pytest.mark.parametrize("kind", ["none", "flip", "crop"])
def test_only_training_views_are_augmented(kind: str) -> None:
    method, image = attached(augment=kind), tiny.images(16)
    plain = attached().views(image, False)
    assert torch.equal(method.views(image, False), plain)
    assert torch.equal(method.views(image, True), plain) == (kind == "none")
    batch = {"image": image}
    with torch.no_grad():
        assert torch.equal(method.eval().embed_image(batch), method.eval().embed_image(batch))
        if kind != "none":
            assert not torch.equal(method.train().embed_image(batch), method.train().embed_image(batch))


def augmented(images: Tensor, crop: bool, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return augment(images, crop)


@given(st.integers(1, 6), st.integers(4, 20), st.integers(4, 20), st.booleans(), st.integers(0, 10**6))
def test_augmentation_keeps_shape_and_range(count: int, height: int, width: int, crop: bool, seed: int) -> None:
    images = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
    views = augmented(images, crop, seed)
    assert views.shape == images.shape and views.dtype == images.dtype
    for view, image in zip(views, images, strict=True):
        for channel in range(3):
            assert image[channel].min() - 1e-5 <= view[channel].min()
            assert view[channel].max() <= image[channel].max() + 1e-5


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_a_flip_is_a_mirror_image_and_its_own_inverse(seed: int) -> None:
    images = tiny.images(8, seed).float()
    once = augmented(images, False, seed)
    for view, image in zip(once, images, strict=True):
        assert torch.equal(view, image) or torch.equal(view, image.flip(-1))
    assert torch.equal(augmented(once, False, seed), images)


def test_every_image_has_its_own_draw() -> None:
    images = tiny.images(1).float().expand(400, -1, -1, -1) / 255
    flips = [torch.equal(view, images[0]) for view in augmented(images, False, 0)]
    assert 150 < sum(flips) < 250  # a fair coin each
    crops = augmented(images[:50], True, 0)
    assert len({round(float(view.double().sum()), 6) for view in crops}) == 50
    assert not torch.equal(augmented(images, True, 1), augmented(images, True, 2))


def test_a_crop_is_a_window_of_70_to_100_percent_of_the_area() -> None:
    """Images whose pixels are their coordinates: the view tells where each of its pixels was cut out."""
    size, count = 32, 2000
    centre = (torch.arange(size) + 0.5) / size
    images = torch.stack([centre.expand(size, size), centre[:, None].expand(size, size), torch.zeros(size, size)])
    views = augmented(images.expand(count, -1, -1, -1), True, 3)[:, :2, 2:-2, 2:-2]  # the rim may touch the border
    step_x, step_y = views[:, 0].diff(dim=2) * size, views[:, 1].diff(dim=1) * size
    side = step_y.mean(dim=(1, 2))
    assert (step_y - side.view(-1, 1, 1)).abs().max() < 1e-3  # straight, without a turn or a reflected part
    assert (step_x.abs() - side.view(-1, 1, 1)).abs().max() < 1e-3  # the aspect is kept
    assert math.sqrt(0.7) - 1e-3 <= side.min() < 0.86 and 0.97 < side.max() <= 1 + 1e-3
    mirrored = (step_x.mean(dim=(1, 2)) < 0).float().mean()
    assert 0.4 < mirrored < 0.6
    middle = views[:, :, 13:15, 13:15].mean(dim=(2, 3))
    reach = (1 - side) / 2
    assert ((middle - 0.5).abs() <= reach[:, None] + 1e-3).all()
    for axis in range(2):  # windows lie on either side, and up to the border
        assert (middle[:, axis] < 0.5).float().mean() == pytest.approx(0.5, abs=0.1)
        assert ((middle[:, axis] - 0.5).abs() / reach.clamp_min(1e-3)).quantile(0.95) > 0.9


# ---- schedule -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 50), st.integers(1, 500))
def test_the_schedule_rises_to_one_and_falls_to_zero(warmup: int, more: int) -> None:
    steps = warmup + more
    factors = [cosine(step, warmup, steps) for step in range(steps + 1)]
    assert factors[0] == pytest.approx(1 / warmup)
    assert factors[warmup - 1] == factors[warmup] == pytest.approx(1)
    assert factors[steps] == pytest.approx(0, abs=1e-12)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert cosine(warmup + more / 2, warmup, steps) == pytest.approx(0.5)  # type: ignore[arg-type]


class Recording(SequentialLora):
    """Keeps the learning rate of every step."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_every_task_has_its_own_optimiser_and_schedule(schedule: str, optimizer: str) -> None:
    method = Recording(rank=2)
    budget = Budget(epochs=3, lr=1e-3, warmup=0.2, schedule=schedule, optimizer=optimizer, weight_decay=0.01)
    method.attach(tiny.backbone(), budget)
    frozen = {n: p.clone() for n, p in method.backbone.named_parameters()}
    for task in OWN[:2]:
        method.begin_task(task)
        method.rates = []
        data = [batch_of((task,) if task.index == 0 else OWN[:2], 4, seed) for seed in range(3)]
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = L.Trainer(max_epochs=3, accelerator="cpu", enable_model_summary=False, **quiet)
        before = [p.clone() for p in method.trainable_parameters()]
        with method.learning():
            trainer.fit(method, DataLoader(data, batch_size=None))
        expected = [cosine(step, 2, 9) if schedule == "cosine" else 1.0 for step in range(9)]
        assert method.rates == pytest.approx([1e-3 * factor for factor in expected])
        assert any(not torch.equal(p, b) for p, b in zip(method.trainable_parameters(), before, strict=True))
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
        assert type(trainer.optimizers[0]) is kind and trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.01
    now = {n.replace(".base_layer", ""): p for n, p in method.backbone.named_parameters() if ".lora_" not in n}
    assert now.keys() == frozen.keys() and all(torch.equal(now[n], frozen[n]) for n in frozen)


# ---- checkpoints --------------------------------------------------------------------------------------------------


@torch.no_grad()
def learned(seed: int | None) -> IndependentLora:
    """A method grown to two tasks; with experts, memory and a router if there is a seed."""
    method = attached(IndependentLora, rank=2)
    for task in OWN[:2]:
        method.begin_task(task)
        if seed is not None:
            tiny.shake_all(method.trainable_parameters(), seed + task.index)
            method.end_task(task, [batch_of((task,), 6, task.index)])
    return method


@torch.no_grad()
def test_a_checkpoint_is_experts_and_memory_and_restores_the_answers() -> None:
    method, fresh = learned(0), learned(None)
    state = method.state_dict()
    experts = {f"backbone.image.{n}" for n, _ in method.backbone.image.named_parameters() if ".lora_" in n}
    router = {f"memory.router_{name}" for name in ("projection", "gram", "means", "counts", "tasks", "weights", "bias")}
    assert set(state) == experts | router
    assert len(experts) == 2 * 2 * 6 * tiny.LAYERS  # two tasks, A and B, six places
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=fresh.strict_loading)
    batch = batch_of(OWN[:2], 8)
    for labels, task in ((OWN[0].labels, OWN[0]), (OWN[1].labels, OWN[1]), (OWN[0].labels + OWN[1].labels, None)):
        answer = method.scores(batch, labels, task)
        assert torch.equal(fresh.scores(batch, labels, task), answer)
        assert not torch.equal(
            learned(None).scores(batch, OWN[0].labels, OWN[0]), method.scores(batch, OWN[0].labels, OWN[0])
        )
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in state.items())


@torch.no_grad()
def test_a_checkpoint_does_not_depend_on_what_is_folded() -> None:
    method = learned(0)
    plain = {name: value.clone() for name, value in method.state_dict().items()}
    with method.experts.blend({"task0": 1.0}, live="task1"):
        folded = method.state_dict()
        assert folded.keys() == plain.keys() and all(torch.equal(folded[name], plain[name]) for name in plain)


class TunedNorms(IncrementalMethod):
    """Trains what belongs to the frozen tower: its norms."""

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        for parameter in self.trainable_parameters():
            parameter.requires_grad_(True)

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [p for m in self.backbone.image.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()]


class TunedNormByTask(TunedNorms):
    """Task t trains the t-th of them."""

    def trainable_parameters(self) -> list[nn.Parameter]:
        return super().trainable_parameters()[2 * len(self.tasks) - 2 : 2 * len(self.tasks)] if self.tasks else []


@pytest.mark.parametrize("cls", [TunedNorms, TunedNormByTask])
@torch.no_grad()
def test_whatever_of_the_backbone_was_ever_trainable_is_saved_regrown_and_restored(cls: type) -> None:
    method, batch = attached(cls), batch_of(OWN[:2], 8)
    for task in OWN[:2]:
        method.begin_task(task)
        tiny.shake_all(method.trainable_parameters(), task.index)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    names = {name for name, p in method.named_parameters() if p.requires_grad}
    assert set(state) == names and len(names) == (4 if cls is TunedNormByTask else 4 * (tiny.LAYERS + 1))
    again = attached(cls)
    for task in OWN[:2]:
        again.begin_task(task)
    assert not torch.equal(again.scores(batch, OWN[0].labels, None), method.scores(batch, OWN[0].labels, None))
    missing, unexpected = again.load_state_dict(state, strict=False)
    assert not unexpected and not set(missing) & set(again.state_dict())
    assert torch.equal(again.scores(batch, OWN[0].labels, None), method.scores(batch, OWN[0].labels, None))
    assert again.state_dict().keys() == state.keys()
    untouched = attached(cls)  # what has not grown keeps what it loads as well
    untouched.load_state_dict(state, strict=False)
    assert untouched.state_dict().keys() == state.keys()


# ---- answering ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_route_that_is_given_is_used_and_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch, labels = learned(0), batch_of(OWN[:2], 8), OWN[0].labels + OWN[1].labels
    route_B = method.route(batch)
    own = method.scores(batch, labels, None), method.represent(batch, None)
    monkeypatch.setattr(method, "route", lambda batch: pytest.fail("the frozen model is passed twice"))
    assert torch.equal(method.scores(batch, labels, None, route=route_B), own[0])
    assert torch.equal(method.represent(batch, None, route=route_B), own[1])
    elsewhere_B = 1 - route_B
    by_hand = [method.represent(batch, OWN[int(index)])[row] for row, index in enumerate(elsewhere_B)]
    assert torch.allclose(method.represent(batch, None, route=elsewhere_B), torch.stack(by_hand), atol=1e-5)
    assert torch.equal(method.scores(batch, OWN[0].labels, OWN[0], route=elsewhere_B),
                       method.scores(batch, OWN[0].labels, OWN[0]))  # fmt: skip


class Routed(IncrementalMethod):
    """Routes, and answers by represent alone."""

    def route(self, batch: Batch) -> Tensor:
        return torch.ones(len(batch["image"]), dtype=torch.long)

    def represent(self, batch: Batch, task: Task | None, route: Tensor | None = None) -> Tensor:
        return self.embed(batch) * (1 if route is None else torch.where(route == 1, 1.0, -1.0)[:, None])


class OfTwoArguments(Routed):
    """The same without ``route``."""

    def represent(self, batch: Batch, task: Task | None) -> Tensor:
        return self.embed(batch)


@torch.no_grad()
def test_a_method_may_leave_out_the_route() -> None:
    batch, labels = batch_of(OWN[:1], 4), OWN[0].labels
    away_B = torch.zeros(4, dtype=torch.long)
    for cls, sign in ((Routed, -1), (OfTwoArguments, 1)):
        method = attached(cls)
        assert bool(with_route(method.represent, away_B)) == (cls is Routed) and with_route(method.scores, away_B)
        given = method.scores(batch, labels, None, route=away_B)
        assert torch.allclose(given, sign * method.scores(batch, labels, None), atol=1e-5)


@pytest.mark.parametrize("cls", [CLLora, IndependentLora, InfLoRA, NCM, RanPAC, SDLora, StackedLora, ZeroShot])
@torch.no_grad()
def test_an_answer_reads_the_inputs_alone(cls: type) -> None:
    method = attached(cls)
    for task in OWN[:2]:
        method.begin_task(task)
        method.end_task(task, [batch_of((task,), 6, task.index)])
    batch = batch_of(OWN[:2], 6)
    for task in (OWN[1], None):
        answer = method.scores(batch, OWN[1].labels, task)
        assert torch.equal(method.scores({"image": batch["image"]}, OWN[1].labels, task), answer)


# ---- training flags -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_training_leaves_the_backbone_in_eval_mode(dropout: float) -> None:
    method = attached(IndependentLora, rank=2, dropout=dropout)
    for task in OWN[:2]:
        method.begin_task(task)
        method.eval()
        assert not any(module.training for module in method.modules())
        assert method.train() is method and method.training and method.memory.training
        training = {name for name, module in method.backbone.named_modules() if module.training}
        assert all("lora_dropout" in name for name in training) and bool(training)
    method.train(False)
    assert not any(module.training for module in method.modules())


def test_dropout_acts_on_the_experts_while_training_only() -> None:
    method, batch = attached(IndependentLora, rank=2, dropout=0.5), batch_of(OWN[:1], 4)
    method.begin_task(OWN[0])
    tiny.shake_all(method.trainable_parameters(), 0)
    with torch.no_grad(), method.learning():
        method.train()
        assert not torch.equal(method.embed_image(batch), method.embed_image(batch))
        method.eval()
        assert torch.equal(method.embed_image(batch), method.embed_image(batch))


def test_a_method_can_be_put_in_training_mode_before_it_has_a_backbone() -> None:
    method = IndependentLora()
    assert method.train().training and not method.eval().training and method.state_dict() == {}
