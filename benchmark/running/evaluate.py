"""Fills the score matrices: every task after every stage, with the task's identity given and hidden.

``given``: candidates are the task's own labels, for every cell. ``hidden``: candidates are the labels of the tasks
learned so far, for learned tasks only. Of retrieval the candidates are the gallery: the task's own test items when the
identity is given, and when it is hidden those of the tasks learned so far (``seen``), of the ``task`` alone, or of
``all``. Legend: N samples, C candidates, K classes of the task, Q queries, G gallery, E embedding.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_auroc,
    multiclass_f1_score,
    multiclass_recall,
)

from benchmark.data.batches import TaskData
from benchmark.metrics import CLASSES, DIRECTIONS, best_ranks, match_metrics
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
        return dict.fromkeys(CLASSES, float("nan"))
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
    """One task after one stage under one protocol; ``arrays`` are its predictions by name.

    Classes: ``logits`` float16 (N, C) with the identity given, else ``answer`` int64 (N,) global label ids, -1 without
    an answer. Retrieval: ``i2t_rank``, ``t2i_rank`` float32, of every query's best match.

    ``hits`` bool: whether each sample is answered rightly, of retrieval whether each image, then each text, finds its
    match first; None without an answer. ``routed``: how many samples the router sends to each task.
    """

    metrics: Mapping[str, float]
    arrays: Mapping[str, NDArray[Any]]
    hits: NDArray[np.bool_] | None
    router_accuracy: float | None = None
    routed: tuple[int, ...] | None = None


class Evaluator:
    """Evaluates a method on every task's held-out split.

    A cell is computed again only if what its answers depend on has changed (``answers_from``, the candidates and, when
    the identity is hidden, the router); ``full`` computes all of them.
    """

    def __init__(
        self, method: Any, stream: Stream, data: Sequence[TaskData], split: str, device: torch.device,
        dtype: torch.dtype | None, full: bool = False, gallery: str = "seen",
    ) -> None:  # fmt: skip
        self.method, self.stream, self.data, self.split = method, stream, data, split
        self.device, self.dtype, self.full, self.gallery = device, dtype, full, gallery
        self._known: dict[tuple[int, str], tuple[tuple[object, ...], Cell]] = {}
        self.computed = 0

    def row(self, stage: int) -> dict[str, list[Cell | None]]:
        """Protocol -> a cell per task, after ``stage`` tasks; None where the protocol defines no cell.

        Leaves the method as it was, its training flags included.
        """
        with self._answering():
            self._items: dict[tuple[int, str], Items] = {}
            return {protocol: [self._cell(stage, task, protocol) for task in self.stream] for protocol in PROTOCOLS}

    def withheld(self, inputs: str) -> dict[str, list[Cell | None]]:
        """The row after the last task of a fusion stream, with the image or the text alone."""
        with self._answering():
            last = len(self.stream)
            return {
                protocol: [self._withheld(last, task, protocol, inputs) for task in self.stream]
                for protocol in PROTOCOLS
            }

    def _withheld(self, stage: int, task: Task, protocol: str, inputs: str) -> Cell | None:
        if protocol == "hidden" and self.method.requires_task_id:
            return None
        return self._classes(task, self._candidates(stage, task, protocol), protocol, inputs)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        was_training = self.method.training
        self.method.eval()
        autocast = torch.autocast(self.device.type, self.dtype) if self.dtype is not None else nullcontext()
        try:
            with torch.no_grad(), autocast:
                yield
        finally:
            self.method.train(was_training)

    def _cell(self, stage: int, task: Task, protocol: str) -> Cell | None:
        if protocol == "hidden" and (task.index >= stage or self.method.requires_task_id):
            return None
        candidates = self._candidates(stage, task, protocol)
        signature = self._signature(stage, task, protocol, candidates)
        known = self._known.get((task.index, protocol))
        if signature is not None and known is not None and known[0] == signature and not self.full:
            return known[1]
        if task.kind == "retrieval":
            cell = self._matches(stage, task, protocol)
        else:
            cell = self._classes(task, candidates, protocol)
        self.computed += 1
        if signature is not None:
            self._known[task.index, protocol] = signature, cell
        return cell

    def _candidates(self, stage: int, task: Task, protocol: str) -> Sequence[Label]:
        own = protocol == "given" or self.stream.label_space == "shared"
        return task.labels if own else self.stream[:stage].labels()

    def _signature(
        self, stage: int, task: Task, protocol: str, candidates: Sequence[Label]
    ) -> tuple[object, ...] | None:
        depends = ("joint",) if self.method.joint and stage > 0 else self.method.answers_from(task, protocol)
        if depends is None:
            return None
        router = stage if protocol == "hidden" and not self.method.joint else None
        gallery = tuple(other.index for other in self._gallery(stage, task, protocol))
        return (depends, tuple(label.id for label in candidates), router, gallery)

    # ---- image (and text) -> class --------------------------------------------------------------------------------

    def _classes(self, task: Task, candidates: Sequence[Label], protocol: str, inputs: str = "both") -> Cell:
        hidden = protocol == "hidden"
        logits, labels, routed = [], [], []
        for batch in self.data[task.index].batches(self.split, self.device, inputs):
            unlabelled = _unlabelled(batch, hidden)
            logits.append(self.method.scores(unlabelled, candidates, None if hidden else task).float().cpu())
            labels.append(batch["label"].cpu())
            routed.append(self._routed(unlabelled, hidden))
        logits_NC, labels_N = torch.cat(logits), torch.cat(labels)
        ids_C = torch.tensor([label.id for label in candidates])
        target_N = torch.searchsorted(ids_C, labels_N)
        own_K = torch.tensor([i for i, label in enumerate(candidates) if label in task.labels])
        answers_N = torch.where(logits_NC.isnan().any(1), -1, ids_C[logits_NC.nan_to_num().argmax(1)])
        predicted = {"answer": answers_N.numpy()} if hidden else {"logits": logits_NC.numpy().astype(np.float16)}
        hits = None if (answers_N < 0).any() else (answers_N == labels_N).numpy()
        return Cell(sample_metrics(logits_NC, target_N, own_K), predicted, hits, *self._routes(routed, task))

    def _routed(self, unlabelled: dict[str, Tensor], hidden: bool) -> Tensor | None:
        """(B,) the task that a router sends each sample to."""
        route_B = self.method.route(unlabelled) if hidden else None
        return None if route_B is None else route_B.cpu()

    def _routes(self, routed: Sequence[Tensor | None], task: Task) -> tuple[float | None, tuple[int, ...] | None]:
        """The share of a task's samples that are routed to it, and how many are routed to each task."""
        known = [route_B for route_B in routed if route_B is not None]
        if not known:
            return None, None
        route_N = torch.cat(known)
        counts = torch.bincount(route_N[route_N >= 0], minlength=len(self.stream))  # -1: plain CLIP
        return (route_N == task.index).float().mean().item(), tuple(counts.tolist())

    # ---- image <-> text -------------------------------------------------------------------------------------------

    def _gallery(self, stage: int, task: Task, protocol: str) -> Sequence[Task]:
        if task.kind != "retrieval" or protocol == "given" or self.gallery == "task":
            return (task,)
        return self.stream.tasks if self.gallery == "all" else self.stream[:stage].tasks

    def _matches(self, stage: int, task: Task, protocol: str) -> Cell:
        """Every image of the task asks for its texts in the gallery, and every text for its images."""
        gallery = [self._embedded(other, protocol) for other in self._gallery(stage, task, protocol)]
        own = self._embedded(task, protocol)
        ranks = {}
        for way, (asking, asked) in zip(DIRECTIONS, (("image", "text"), ("text", "image")), strict=True):
            gallery_GE = torch.cat([items.features[asked] for items in gallery])
            parts = [items.positives(asking) if items is own else
                     torch.zeros(len(own.features[asking]), len(items.features[asked]), dtype=torch.bool)
                     for items in gallery]  # fmt: skip
            positive_QG = torch.cat(parts, dim=1)
            similarity_QG = own.features[asking] @ gallery_GE.T
            ranks[way] = best_ranks(similarity_QG.numpy(), positive_QG.numpy())
        arrays = {f"{way}_rank": rank.astype(np.float32) for way, rank in ranks.items()}
        rank_Q = np.concatenate([ranks[way] for way in DIRECTIONS])
        hits = None if np.isnan(rank_Q).any() else rank_Q == 1
        return Cell(match_metrics(ranks), arrays, hits, *self._routes(own.routed, task))

    def _embedded(self, task: Task, protocol: str) -> Items:
        """A task's test items as unit features, once in a row; images and texts never meet in a batch."""
        known = self._items.get((task.index, protocol))
        if known is None:
            hidden, features, routed = protocol == "hidden", {}, []
            for inputs in ("image", "text"):
                found = []
                for batch in self.data[task.index].items(self.split, self.device, inputs):
                    unlabelled = _unlabelled(batch, hidden)
                    features_BE = self.method.represent(unlabelled, None if hidden else task)
                    found.append(F.normalize(features_BE.float(), dim=-1).cpu())
                    routed.append(self._routed(unlabelled, hidden))
                features[inputs] = torch.cat(found)
            pairs = self.data[task.index].splits[self.split].pairs
            assert pairs is not None
            known = self._items[task.index, protocol] = Items(features, pairs, routed)
        return known


@dataclass(frozen=True)
class Items:
    """Images and texts of a retrieval task: unit features (N, E) by input, which belong together, where they go."""

    features: Mapping[str, Tensor]
    pairs: Tensor  # (P, 2) image row, text row
    routed: Sequence[Tensor | None]

    def positives(self, asking: str) -> Tensor:
        """(Q, G) bool, of the images as queries or of the texts."""
        matrix = torch.zeros(len(self.features["image"]), len(self.features["text"]), dtype=torch.bool)
        matrix[self.pairs[:, 0], self.pairs[:, 1]] = True
        return matrix if asking == "image" else matrix.T


def _unlabelled(batch: dict[str, Tensor], hidden: bool) -> dict[str, Tensor]:
    """What a method may see of a batch when it answers."""
    return {name: values for name, values in batch.items() if name != "label" and not (hidden and name == "task")}
