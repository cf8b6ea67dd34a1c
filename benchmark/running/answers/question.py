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
from benchmark.errors import RunFailed
from benchmark.record.parts import Divergence
from benchmark.running import mistakes
from benchmark.running.divergence import Diverged
from benchmark.stream import Label, Stream, Task
from methods.base import Batch, IncrementalMethod, with_route


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
        confusion: (K, K) how many samples of a class, a row, are answered with which; sensitivity: (K,) of each class
            at a fixed specificity, NaN where it is undefined. With the identity given alone.
        routed: how many samples the router sends to each task.
    """

    metrics: Mapping[str, float]
    arrays: Mapping[str, NDArray[Any]]
    hits: NDArray[Any] | None
    groups: NDArray[np.int64] | None = None
    parts: tuple[int, ...] = ()
    subgroups: Mapping[str, Subgrouping] = field(default_factory=dict)
    recalls: NDArray[np.float64] | None = None
    confusion: NDArray[np.int64] | None = None
    sensitivity: NDArray[np.float64] | None = None
    router_accuracy: float | None = None
    routed: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Question:
    """One task's held-out samples, put to a method.

    Args:
        method: in eval mode. stream, data: all tasks, in the order of the run.
        stage: how many tasks are learned.
        task: whose samples. hidden: the method is not told whose they are.
        candidates: the labels to choose from; without labels ``gallery``: the tasks whose items are searched.
        legal: of closed questions the answers among which the likeliest is looked for.
        inputs: both, image or text: what a sample shows.
        known: answers of this stage that several cells share.
    """

    method: IncrementalMethod
    stream: Stream
    data: Sequence[TaskData]
    split: str
    device: torch.device
    stage: int
    task: Task
    hidden: bool
    candidates: Sequence[Label] = ()
    gallery: Sequence[Task] = ()
    legal: Sequence[str] = ()
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

    def scores(self, batch: Batch, number: int) -> tuple[Tensor, Tensor | None]:
        """(B, C) logits over the candidates, and (B,) where each sample was routed.

        A method whose features do not depend on the task's identity gives those of a batch, by its ``number``, once.

        Raises:
            RunFailed: what the method gives is of another shape or type. Diverged: it is not finite.
        """
        whole = type(self.method).scores is not IncrementalMethod.scores or self.method.backbone.speaks
        if not self.method.task_free or whole:
            return self._ask("scores", batch, (self.candidates,), len(self.candidates))
        place = self.task.index, self.inputs, number
        if place not in self.known:
            features = self.method.represent(unlabelled(batch, hidden=True), None)
            self.known[place] = mistakes.check_features(self.method, features, len(batch["label"]))
        logits_BC = self.method.backbone.logits(self.known[place], self.method.backbone.class_features(self.candidates))
        return self._checked("scores", logits_BC, len(batch["label"]), len(self.candidates)), None

    def features(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """(B, E) features to search by, and (B,) where each sample was routed; raises as :meth:`scores`.

        Those that are compared are of one width.
        """
        answer, route_B = self._ask("represent", batch, (), self.known.get("width"))
        self.known["width"] = answer.shape[1]
        return answer, route_B

    def texts(self, batch: Batch, number: int) -> tuple[Sequence[str], Tensor | None]:
        """What is written of every sample of a batch, by its ``number``, and (B,) where each was routed.

        Of a method that is free of the task a whole answer is the same with the identity given and hidden: it is not
        cut where the limit of its own task is, and not asked for twice.

        Raises:
            RunFailed: it is no text for every sample.
        """
        place = "texts", self.task.index, number
        if place in self.known:
            return self.known[place], None
        shown, route_B, options = self._shown("answer", batch)
        answers = self.method.answer(shown, self.told, **options)
        if len(answers) != len(batch["label"]) or not all(isinstance(answer, str) for answer in answers):
            told = f"{len(answers)} of {', '.join(sorted({type(answer).__name__ for answer in answers}))}"
            raise self._broken("answer", told, f"{len(batch['label'])} texts")
        if self.method.task_free and not self.hidden and all(getattr(answer, "stopped", False) for answer in answers):
            self.known[place] = answers
        return answers, None if route_B is None else route_B.cpu()

    def likelihoods(self, batch: Batch, candidates: Sequence[str]) -> Tensor:
        """(B, C) how likely each of these answers is; raises as :meth:`scores`."""
        return self._ask("likelihood", batch, (candidates,), len(candidates))[0]

    def _ask(self, name: str, batch: Batch, more: tuple[Any, ...], width: int | None) -> tuple[Tensor, Tensor | None]:
        """Put a batch without what tells the answer; the router is asked once, and its answer passed on."""
        shown, route_B, options = self._shown(name, batch)
        answer = getattr(self.method, name)(shown, *more, self.told, **options)
        return self._checked(name, answer, len(batch["label"]), width), None if route_B is None else route_B.cpu()

    def _shown(self, name: str, batch: Batch) -> tuple[Batch, Tensor | None, dict[str, Tensor]]:
        """A batch without what tells the answer; what the router says of it, and that again if it is taken."""
        shown, ask = unlabelled(batch, self.hidden), getattr(self.method, name)
        route_B = self.method.route(shown) if self.hidden else None
        if route_B is not None:
            self._check_route(route_B, len(batch["label"]))
        return shown, route_B, with_route(ask, route_B)

    def _checked(self, name: str, answer: Any, rows: int, width: int | None) -> Tensor:
        """The answer on the CPU in float32, if it is one: (rows, width) and finite, or declared to be none."""
        if not isinstance(answer, Tensor):
            raise self._broken(name, f"a {type(answer).__name__}", "a tensor")
        expected = f"({rows}, {'E' if width is None else width})"
        right = answer.ndim == 2 and len(answer) == rows and answer.shape[1] == (width or answer.shape[1] or 1)
        if not right or not answer.is_floating_point():
            shape = "(" + ", ".join(map(str, answer.shape)) + ")"
            told = f"{shape} of {str(answer.dtype).removeprefix('torch.')}"
            what = "a column for each candidate" if self.candidates else "features of one width"
            raise self._broken(name, told, f"{expected} of floating point: {what}")
        answer = answer.float().cpu()
        if not answer.isfinite().all() and not self._abstained(answer):
            what = "NaN" if answer.isnan().any() else "infinite"
            declared = "" if self.method.abstains else ", and it does not declare that it abstains"
            rate = self.method.budget.lr if self.stage and self.method.trainable_parameters() else None
            raise Diverged(Divergence(self.task.name, f"{self._spoken(name)} is {what}{declared}", lr=rate))
        return answer

    def _abstained(self, answer: Tensor) -> bool:
        """Whether this is no answer, as the method declares: of a learned task that is told it always has one."""
        told = not self.hidden and self.task.index < self.stage
        return self.method.abstains and not told and bool(answer.isnan().all())

    def _check_route(self, route_B: Tensor, rows: int) -> None:
        """A task's index for every row, -1 for the frozen model."""
        last, dtype = len(self.stream) - 1, str(route_B.dtype).removeprefix("torch.")
        if route_B.shape != (rows,) or route_B.is_floating_point() or route_B.min() < -1 or route_B.max() > last:
            expected = f"({rows},) of whole numbers from -1 to {last}"
            raise self._broken("route", f"{tuple(route_B.shape)} of {dtype}", expected)

    def _broken(self, name: str, told: str, expected: str) -> RunFailed:
        line = mistakes.place(type(self.method), name)
        return RunFailed(f"task {self.task.name}: {self._spoken(name)} is {told}, expected {expected}{line}")

    def _spoken(self, name: str) -> str:
        """``MyMethod: scores, identity given, after 2 of 8 tasks``."""
        protocol = "hidden" if self.hidden else "given"
        after = f"after {self.stage} of {len(self.stream)} tasks"
        return f"{type(self.method).__name__}: {name}, identity {protocol}, {after}"

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
    secret = ("label", "index", "target", "target_mask", *(("task",) if hidden else ()))
    return {name: values for name, values in batch.items() if name not in secret}
