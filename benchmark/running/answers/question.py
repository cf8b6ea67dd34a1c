"""What is asked of a method in one cell of a score matrix, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.batches import Samples, Subgrouping, TaskData
from benchmark.stream import Label, Stream, Task
from methods.base import Batch, IncrementalMethod, takes_route


class Routes(TypedDict, total=False):
    """The fields of a cell that the router fills, if there is one."""

    router_accuracy: float
    routed: tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """One task after one stage under one protocol; ``arrays`` are its predictions by name (``Kind.kept``).

    Attributes:
        hits: the primary metric of each sample (N,): of classes whether it is answered rightly, bool; of retrieval, for
            each image, then each text, the mean of R@1, R@5 and R@10; None without an answer.
        groups: (N,) numbers of those that belong together; None: each stands for itself.
        parts: how many of the N each of several means is over whose mean the primary metric is; empty: one mean.
        subgroups: by name of a column how it divides these N.
        recalls: (K,) of each class of the task, NaN where it is undefined; None without labels.
        routed: how many samples the router sends to each task.
    """

    metrics: Mapping[str, float]
    arrays: Mapping[str, NDArray[Any]]
    hits: NDArray[Any] | None
    groups: NDArray[np.int64] | None = None
    parts: tuple[int, ...] = ()
    subgroups: Mapping[str, Subgrouping] = field(default_factory=dict)
    recalls: NDArray[np.float64] | None = None
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

    @property
    def samples(self) -> Samples:
        """The task's held-out samples."""
        return self.data[self.task.index].splits[self.split]

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

    def routes(self, routed: Sequence[Tensor | None]) -> Routes:
        """The share of the task's samples that are routed to it, and how many are routed to each task."""
        known = [route_B for route_B in routed if route_B is not None]
        if not known:
            return {}
        route_N = torch.cat(known)
        counts = torch.bincount(route_N[route_N >= 0], minlength=len(self.stream))  # -1: the frozen model
        own = (route_N == self.task.index).float().mean().item()
        return {"router_accuracy": own, "routed": tuple(counts.tolist())}


def unlabelled(batch: Batch, hidden: bool) -> Batch:
    """What a method may see of a batch when it answers: neither labels nor which samples they are."""
    secret = ("label", "index", "task") if hidden else ("label", "index")
    return {name: values for name, values in batch.items() if name not in secret}
