"""Two small tasks that pull one LoRA in opposite directions, and the phases of a run on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.stream import Budget, Label, Task
from methods.base import Batch, IncrementalMethod
from methods.sequential_lora import SequentialLora
from tests import tiny

SEEDS = (1, 2)


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def opposed(index: int) -> Task:
    """Two classes with the prompts of task 0's: what they look like is half of the other one (:func:`batch`)."""
    labels = tuple(Label(2 * index + c, f"class {2 * index + c}", tiny.label(c).prompts) for c in (0, 1))
    return Task(index, f"task{index}", "radiology", "classification", labels, 20)


def batch(task: Task, seed: int = 0, count: int = 32) -> Batch:
    """Images of a task: their class's pattern under noise; from task 1 on, half that of the wrong class of task 0."""
    generator = torch.Generator().manual_seed(1000)
    patterns = torch.randint(40, 216, (20, 3, tiny.SIZE, tiny.SIZE), generator=generator).float()
    generator.manual_seed(seed + 50 * task.index)
    labels_B = torch.tensor([task.labels[i % len(task.labels)].id for i in range(count)])
    images_BCHW = patterns[labels_B]
    if task.index:
        wrong_B = torch.tensor([1 - i % 2 for i in range(count)])
        images_BCHW = (images_BCHW + patterns[wrong_B]) / 2
    images_BCHW = images_BCHW + 40 * torch.randn(images_BCHW.shape, generator=generator)
    return {
        "image": images_BCHW.clamp(0, 255).to(torch.uint8),
        "label": labels_B,
        "task": torch.full((count,), task.index),
        "index": torch.arange(count),
    }


def learner(cls: type[Any], seed: int = 0, augment: str = "none", **arguments: Any) -> Any:
    with tiny.seeded(seed):
        method = cls(**({"rank": 4, "lora_alpha": 4.0} | arguments))
        method.attach(tiny.backbone(), Budget(augment=augment))
    return method


def with_defaults(cls: type[Any], kinds: tuple[str, ...], **arguments: Any) -> type[Any]:
    """The method with other defaults, of some of the kinds that it learns: what ``check_method`` builds."""

    def build(self: Any, **more: Any) -> None:
        cls.__init__(self, **(arguments | more))

    return type(cls.__name__, (cls,), {"__init__": build, "kinds": kinds})


def learn(
    method: IncrementalMethod, task: Task, data: Batch | None = None, steps: int = 30, lr: float = 0.01
) -> list[float]:
    """Begin, train on batches of 16 and end a task as the runner does; the loss of every step."""
    data, losses = data or batch(task), []
    with tiny.seeded(task.index):
        method.begin_task(task)
    with method.learning(), tiny.seeded(100 + task.index):
        method.train()
        optimizer = torch.optim.Adam(method.trainable_parameters(), lr=lr)
        for _ in range(steps):
            rows = torch.randperm(len(data["label"]))[:16]
            loss = method.loss({name: values[rows] for name, values in data.items()})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        optimizer.zero_grad()
        method.eval()
        method.end_task(task, [data])
    return losses


@torch.no_grad()
def logits(method: IncrementalMethod, data: Batch, labels: Sequence[Label]) -> Tensor:
    """(B, C) as the weights are at the moment: inside ``learning`` those being trained."""
    return method.backbone.logits(method.embed_image(data), method.backbone.class_features(labels))


def cross_entropy_by_hand(method: IncrementalMethod, image_BE: Tensor, data: Batch, candidates: str = "own") -> Tensor:
    """The mean over samples of the cross-entropy over their own task's labels, or all seen, sample by sample."""
    losses, seen = [], list(dict.fromkeys(label for task in method.tasks for label in task.labels))
    for feature_E, label, index in zip(image_BE, data["label"].tolist(), data["task"].tolist(), strict=True):
        own = next(task for task in method.tasks if task.index == index).labels
        labels = own if candidates == "own" else seen
        logits_C = method.backbone.logits(feature_E[None], method.backbone.class_features(labels))[0]
        losses.append(-logits_C.log_softmax(dim=0)[[known.id for known in labels].index(label)])
    return torch.stack(losses).mean()


@cache
def forgetting(cls: type[Any], **arguments: Any) -> float:
    """How much the test loss of task 0 rises while its opposite is learned, mean over seeds."""
    rises = []
    for seed in SEEDS:
        method, first, losses = learner(cls, seed, **arguments), opposed(0), []
        test = batch(first, seed + 9)
        for task in (first, opposed(1)):
            learn(method, task, batch(task, seed))
            with torch.no_grad():
                losses.append(float(F.cross_entropy(method.scores(test, first.labels, None), test["label"])))
        rises.append(losses[1] - losses[0])
    return sum(rises) / len(rises)


def sequential_forgetting() -> float:
    """Of the LoRA that does nothing against it: what the others must stay below."""
    rise = forgetting(SequentialLora)
    assert rise > 0.8, "the two tasks do not disturb each other: nothing to compare"
    return rise
