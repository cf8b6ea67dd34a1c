"""What is asked of a method in one cell of a score matrix, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.batches import TaskData
from benchmark.stream import Label, Stream, Task
from methods.base import Batch, IncrementalMethod, takes_route


@dataclass(frozen=True)
class Cell:
    """One task after one stage under one protocol; ``arrays`` are its predictions by name (``Kind.kept``).

    ``hits`` bool: whether each sample is answered rightly, of retrieval whether each image, then each text, finds its
    match first; None without an answer. ``routed``: how many samples the router sends to each task.
    """

    metrics: Mapping[str, float]
    arrays: Mapping[str, NDArray[Any]]
    hits: NDArray[np.bool_] | None
    router_accuracy: float | None = None
    routed: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Question:
    """One task's held-out samples, put to a method.

    Args:
        method: in eval mode. stream, data: all tasks, in the order of the run.
        task: whose samples. hidden: the method is not told whose they are.
        candidates: the labels to choose from; without labels ``gallery``: the tasks whose items are searched.
        inputs: both, image or text: what a sample shows.
        known: answers of this stage that several cells share.
    """

    method: IncrementalMethod
    stream: Stream
    data: Sequence[TaskData]
    split: str
    device: torch.device
    task: Task
    hidden: bool
    candidates: Sequence[Label] = ()
    gallery: Sequence[Task] = ()
    inputs: str = "both"
    known: dict[Any, Any] = field(default_factory=dict)

    @property
    def told(self) -> Task | None:
        """The task's identity, if it is given."""
        return None if self.hidden else self.task

    def of(self, task: Task) -> Question:
        """The same of another task's samples."""
        return replace(self, task=task)

    def scores(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """(B, C) logits over the candidates, and (B,) where each sample was routed."""
        return self._ask(self.method.scores, batch, self.candidates)

    def features(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """(B, E) features to search by, and (B,) where each sample was routed."""
        return self._ask(self.method.represent, batch)

    def _ask(self, ask: Any, batch: Batch, *more: Any) -> tuple[Tensor, Tensor | None]:
        """Put a batch without what tells the answer; the router is asked once, and its answer passed on."""
        shown = unlabelled(batch, self.hidden)
        route_B = self.method.route(shown) if self.hidden else None
        options = {} if route_B is None or not takes_route(ask) else {"route": route_B}
        answer = ask(shown, *more, self.told, **options)
        return answer.float().cpu(), None if route_B is None else route_B.cpu()

    def routes(self, routed: Sequence[Tensor | None]) -> tuple[float | None, tuple[int, ...] | None]:
        """The share of the task's samples that are routed to it, and how many are routed to each task."""
        known = [route_B for route_B in routed if route_B is not None]
        if not known:
            return None, None
        route_N = torch.cat(known)
        counts = torch.bincount(route_N[route_N >= 0], minlength=len(self.stream))  # -1: the frozen model
        return (route_N == self.task.index).float().mean().item(), tuple(counts.tolist())


def unlabelled(batch: Batch, hidden: bool) -> Batch:
    """What a method may see of a batch when it answers: neither labels nor which samples they are."""
    secret = ("label", "index", "task") if hidden else ("label", "index")
    return {name: values for name, values in batch.items() if name not in secret}
