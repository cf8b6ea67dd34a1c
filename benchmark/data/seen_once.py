"""Images that a frozen vision tower sees once for a whole run, as its features."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmark.data.asked import Words
from benchmark.data.batches import TaskData
from benchmark.data.sources.npz import machine_memory
from benchmark.data.tensors import Samples

AT_ONCE = 64  # images that a tower sees at a time
SHARE = 4  # features may take so much of the machine's memory: a quarter


def seen(tasks: Sequence[TaskData], splits: Collection[str], words: Words) -> list[TaskData]:
    """The tasks with the images of these splits as the frozen tower's features, so that it sees each of them once.

    All of a run's or none: features that would take more than a quarter of the machine's memory are not kept, and the
    backbone sees the images whenever it is asked.
    """
    stored = [images for task in tasks for split in splits if (images := task.splits[split].images) is not None]
    if not stored:
        return list(tasks)
    one = words.seen(stored[0][:1])[0]
    if 4 * one.numel() * sum(map(len, stored)) > machine_memory() / SHARE:
        return list(tasks)

    def features(images: Tensor) -> Tensor:
        made = torch.empty(len(images), *one.shape)
        for start in range(0, len(images), AT_ONCE):
            made[start : start + AT_ONCE] = words.seen(images[start : start + AT_ONCE])
        return made

    def looked_at(samples: Samples) -> Samples:
        return samples if samples.images is None else replace(samples, images=features(samples.images))

    return [
        replace(task, splits={name: looked_at(own) if name in splits else own for name, own in task.splits.items()})
        for task in tasks
    ]
