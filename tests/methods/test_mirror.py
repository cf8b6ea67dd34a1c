"""Images of tasks with sides are never mirrored, sample by sample: left and right can be learned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.stream import Budget, Task
from methods.base import Batch, IncrementalMethod
from methods.der import DER
from methods.er import ER
from methods.joint_lora import JointLora
from methods.parts import backbones
from methods.sequential_lora import SequentialLora
from tests import tiny
from tests.lessons import batch, learn, learner

SIDED, EITHER = replace(tiny.task(0, [0, 1]), mirror=False), tiny.task(1, [2, 3])


def left_or_right(task: Task, count: int = 64, seed: int = 0, size: int = tiny.SIZE) -> Batch:
    """The first class is brighter on its left half, the second on its right, under noise."""
    generator = torch.Generator().manual_seed(seed)
    side_B = torch.arange(count) % 2
    images_BCHW = 120 + 30 * torch.randn(count, 3, size, size, generator=generator)
    halves = images_BCHW.view(count, 3, size, 2, size // 2)
    halves[torch.arange(count), :, :, side_B] += 60
    labels_B = torch.tensor([task.labels[side].id for side in side_B.tolist()])
    tasks_B = torch.full((count,), task.index)
    return {"image": images_BCHW.clamp(0, 255).to(torch.uint8), "label": labels_B, "task": tasks_B}


def test_left_and_right_are_learned_only_without_a_mirror() -> None:
    def accuracy(task: Task) -> float:
        with tiny.seeded(0):
            method = SequentialLora()
            method.attach(backbones.load("phantom-clip", None), Budget())
        learn(method, task, left_or_right(task, 128, 0, 64), steps=15, lr=0.003)
        test = left_or_right(task, 100, 1, 64)
        with torch.no_grad():
            best_B = method.scores(test, task.labels, task).argmax(dim=1)
        return float((best_B == test["label"]).float().mean())

    assert accuracy(SIDED) > 0.9
    assert accuracy(replace(SIDED, mirror=True)) < 0.65  # chance: the mirror swaps the classes


def mirrored(method: IncrementalMethod, seen: list[Tensor], images: Tensor) -> Tensor:
    """Which of the images that the backbone was shown were mirrored."""
    plain_BCHW = method.views(images, False)
    (shown_BCHW,) = seen
    same_B, other_B = ((x == shown_BCHW).flatten(1).all(dim=1) for x in (plain_BCHW, plain_BCHW.flip(-1)))
    assert (same_B ^ other_B).all()
    return other_B


def shown(method: IncrementalMethod, data: Batch, seed: int = 3) -> list[Tensor]:
    """The images that reach the backbone in one step of training."""
    seen: list[Tensor] = []
    watch = method.backbone.image.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    with method.learning(), tiny.seeded(seed):
        method.train()
        method.loss(data)
    watch.remove()
    return seen


def test_of_a_mixed_batch_each_sample_obeys_its_own_task() -> None:
    """Joint training: the images of the task with sides stay, about half of the others are mirrored."""
    method = learner(JointLora, augment="flip")
    for task in (SIDED, EITHER):
        method.begin_task(task)
    parts = [left_or_right(SIDED), left_or_right(EITHER)]
    rows = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    mixed = {name: torch.cat([part[name] for part in parts])[rows] for name in parts[0]}
    mirrored_B = mirrored(method, shown(method, mixed), mixed["image"])
    assert not mirrored_B[mixed["task"] == 0].any()
    assert 20 < int(mirrored_B[mixed["task"] == 1].sum()) < 44


@pytest.mark.parametrize("cls", [ER, DER])
@pytest.mark.parametrize("first, second", [(SIDED, EITHER), (replace(EITHER, index=0), replace(SIDED, index=1))])
def test_replayed_images_obey_the_task_they_are_of(cls: type[Any], first: Task, second: Task) -> None:
    method = learner(cls, augment="flip", buffer_size=40)
    learn(method, first, left_or_right(first), steps=1)
    method.begin_task(second)
    data = batch(second)
    (images_BCHW,) = shown(method, data)
    new_BCHW, replayed_BCHW = images_BCHW[:32], images_BCHW[32:]
    kept_BCHW = method.views(method.memory["buffer_image"], False)
    mirrored_B = torch.tensor([not (kept_BCHW == image).flatten(1).all(dim=1).any() for image in replayed_BCHW])
    turned_B = mirrored(method, [new_BCHW], data["image"])
    assert len(replayed_BCHW) in (32, 64)
    for task, flags_B in ((first, mirrored_B), (second, turned_B)):
        assert 8 < int(flags_B.sum()) < len(flags_B) - 8 if task.mirror else not flags_B.any()


def test_the_mask_changes_no_draw_and_without_a_task_the_careful_answer_is_given() -> None:
    method, images, either_B = learner(SequentialLora, augment="crop"), tiny.images(24), torch.ones(24).long()

    def views(task: Tensor | None) -> Tensor:
        with tiny.seeded(1):
            return method.views(images, True, task)

    method.begin_task(EITHER)
    usual = views(either_B)
    assert torch.equal(views(None), usual)
    method.begin_task(SIDED)
    assert torch.equal(views(either_B), usual)
    assert torch.equal(views(None), views(torch.zeros(24).long()))
    half_B = torch.arange(24) % 2
    assert torch.equal(views(half_B), torch.where((half_B == 1).view(-1, 1, 1, 1), usual, views(None)))
