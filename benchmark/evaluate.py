"""Fills the score matrices: every task after every stage, with the task's identity given and hidden.

``given``: candidates are the task's own labels, for every cell. ``hidden``: candidates are the labels of the tasks
learned so far, for learned tasks only. Legend: N samples, C candidates, K classes of the task.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_auroc,
    multiclass_f1_score,
    multiclass_recall,
)

from benchmark.data.module import TaskData
from benchmark.metrics import METRICS
from benchmark.stream import Label, Stream, Task

PROTOCOLS = ("given", "hidden")


def sample_metrics(logits_NC: Tensor, target_N: Tensor, own_K: Tensor) -> dict[str, float]:
    """Metrics on samples, as fractions; all NaN where the method has no answer (NaN logits).

    Args:
        logits_NC: over the candidates. target_N: column of the true label. own_K: columns of the task's own labels.

    Averages over classes run over the task's classes that the test set contains; AUROC is one class against the rest
    of the task's samples, on the probabilities over all candidates.
    """
    if logits_NC.isnan().any():
        return dict.fromkeys(METRICS, float("nan"))
    logits_NC, target_N, own_K = logits_NC.float().cpu(), target_N.cpu(), own_K.cpu()
    classes = logits_NC.shape[1]
    counts_C = torch.bincount(target_N, minlength=classes)
    present_C = counts_C > 0
    probabilities_NK = logits_NC.softmax(dim=1)[:, own_K]
    column_C = torch.full((classes,), -1)
    column_C[own_K] = torch.arange(len(own_K))
    rankable_K = present_C[own_K] & (counts_C[own_K] < len(target_N))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes without samples: left out below
        auroc_K = multiclass_auroc(probabilities_NK, column_C[target_N], num_classes=len(own_K), average=None)
        recall_C = multiclass_recall(logits_NC, target_N, num_classes=classes, average=None)
        f1_C = multiclass_f1_score(logits_NC, target_N, num_classes=classes, average=None)
        accuracy = multiclass_accuracy(logits_NC, target_N, num_classes=classes, average="micro")
    return {
        "accuracy": accuracy.item(),
        "balanced_accuracy": recall_C[present_C].mean().item(),
        "macro_auroc": auroc_K[rankable_K].mean().item(),
        "macro_f1": f1_C[present_C].mean().item(),
    }


@dataclass(frozen=True)
class Cell:
    """One task after one stage under one protocol."""

    metrics: Mapping[str, float]
    logits_NC: NDArray[np.float16]
    answers_N: NDArray[np.int64]  # global label ids; -1 without an answer
    router_accuracy: float | None = None


class Evaluator:
    """Evaluates a method on every task's held-out split.

    A cell is computed again only if what its answers depend on has changed (``answers_from``, the candidates and, when
    the identity is hidden, the router); ``full`` computes all of them.
    """

    def __init__(
        self, method: Any, stream: Stream, data: Sequence[TaskData], split: str, device: torch.device,
        dtype: torch.dtype | None, full: bool = False,
    ) -> None:  # fmt: skip
        self.method, self.stream, self.data, self.split = method, stream, data, split
        self.device, self.dtype, self.full = device, dtype, full
        self._known: dict[tuple[int, str], tuple[tuple[object, ...], Cell]] = {}
        self.computed = 0

    def row(self, stage: int) -> dict[str, list[Cell | None]]:
        """Protocol -> a cell per task, after ``stage`` tasks; None where the protocol defines no cell.

        Leaves the method as it was, its training flags included.
        """
        was_training = self.method.training
        self.method.eval()
        autocast = torch.autocast(self.device.type, self.dtype) if self.dtype is not None else nullcontext()
        try:
            with torch.no_grad(), autocast:
                return {protocol: [self._cell(stage, task, protocol) for task in self.stream] for protocol in PROTOCOLS}
        finally:
            self.method.train(was_training)

    def _cell(self, stage: int, task: Task, protocol: str) -> Cell | None:
        if protocol == "hidden" and (task.index >= stage or self.method.requires_task_id):
            return None
        shared = self.stream.label_space == "shared"
        candidates = self.stream[:stage].labels() if protocol == "hidden" and not shared else task.labels
        signature = self._signature(stage, task, protocol, candidates)
        known = self._known.get((task.index, protocol))
        if signature is not None and known is not None and known[0] == signature and not self.full:
            return known[1]
        cell = self._compute(task, candidates, hidden=protocol == "hidden")
        self.computed += 1
        if signature is not None:
            self._known[task.index, protocol] = signature, cell
        return cell

    def _signature(
        self, stage: int, task: Task, protocol: str, candidates: Sequence[Label]
    ) -> tuple[object, ...] | None:
        depends = ("joint",) if self.method.joint and stage > 0 else self.method.answers_from(task, protocol)
        if depends is None:
            return None
        router = stage if protocol == "hidden" and not self.method.joint else None
        return (depends, tuple(label.id for label in candidates), router)

    def _compute(self, task: Task, candidates: Sequence[Label], hidden: bool) -> Cell:
        logits, labels, routed = [], [], []
        for batch in self.data[task.index].batches(self.split, self.device):
            unlabelled = {"image": batch["image"], "index": batch["index"]}
            if not hidden:
                unlabelled["task"] = batch["task"]
            logits.append(self.method.scores(unlabelled, candidates, None if hidden else task).float().cpu())
            labels.append(batch["label"].cpu())
            route = self.method.route(unlabelled) if hidden else None
            if route is not None:
                routed.append((route == task.index).float().cpu())
        logits_NC, labels_N = torch.cat(logits), torch.cat(labels)
        ids_C = torch.tensor([label.id for label in candidates])
        target_N = torch.searchsorted(ids_C, labels_N)
        own_K = torch.tensor([i for i, label in enumerate(candidates) if label in task.labels])
        answers = torch.where(logits_NC.isnan().any(1), -1, ids_C[logits_NC.nan_to_num().argmax(1)])
        return Cell(
            sample_metrics(logits_NC, target_N, own_K),
            logits_NC.numpy().astype(np.float16),
            answers.numpy(),
            torch.cat(routed).mean().item() if routed else None,
        )
