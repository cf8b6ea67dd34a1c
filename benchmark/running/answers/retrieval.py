"""Retrieval: every image of the task asks for its texts in the gallery, and every text for its images.

Legend: Q queries, G gallery, E embedding, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmark.metrics import DIRECTIONS, RECALLS, best_ranks, match_metrics
from benchmark.running.answers.question import Cell, Question
from benchmark.stream import Task


@dataclass(frozen=True)
class Items:
    """Images and texts of a task: unit features (N, E) by input, which belong together, where each was routed."""

    features: Mapping[str, Tensor]
    pairs: Tensor  # (P, 2) image row, text row
    routed: Sequence[Tensor | None]

    def positives(self, asking: str) -> Tensor:
        """(Q, G) bool, of the images as queries or of the texts."""
        matrix = torch.zeros(len(self.features["image"]), len(self.features["text"]), dtype=torch.bool)
        matrix[self.pairs[:, 0], self.pairs[:, 1]] = True
        return matrix if asking == "image" else matrix.T


def answered(question: Question) -> Cell:
    """``i2t_rank`` and ``t2i_rank`` float32: the rank of every query's best match."""
    gallery = [_embedded(question, other) for other in question.gallery]
    own = _embedded(question, question.task)
    ranks = {}
    for way, (asking, asked) in zip(DIRECTIONS, (("image", "text"), ("text", "image")), strict=True):
        gallery_GE = torch.cat([items.features[asked] for items in gallery])
        parts = [items.positives(asking) if items is own else
                 torch.zeros(len(own.features[asking]), len(items.features[asked]), dtype=torch.bool)
                 for items in gallery]  # fmt: skip
        positive_QG = torch.cat(parts, dim=1)
        similarity_QG = own.features[asking] @ gallery_GE.T
        ranks[way] = best_ranks(similarity_QG.numpy(), positive_QG.numpy())
    rank_Q = np.concatenate([ranks[way] for way in DIRECTIONS])
    hits = None if np.isnan(rank_Q).any() else np.mean([rank_Q <= k for k in RECALLS], axis=0)
    sizes = tuple(len(ranks[way]) for way in DIRECTIONS)
    kept = {f"{way}_rank": rank.astype(np.float32) for way, rank in ranks.items()}
    pairs, samples = own.pairs.numpy(), question.samples
    groups = query_groups(pairs, samples.groups)
    subgroups = {name: each.of(first_pairs(pairs)) for name, each in samples.subgroups.items()}
    return Cell(match_metrics(ranks), kept, hits, groups, sizes, subgroups, **question.routes(own.routed))


def query_groups(pairs: NDArray[np.int64], groups: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The group of every image, then of every text: an image and its texts belong together.

    Args:
        pairs: (P, 2) image row, text row. groups: (P,) numbers of what belongs together beyond that, such as patients.

    A text of several images belongs to the first of them.
    """
    own_P = pairs[:, 0] if groups is None else groups
    return own_P[first_pairs(pairs)]


def first_pairs(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(Q,) the first of the pairs (P, 2) that has every image, then every text."""
    return np.concatenate([np.unique(pairs[:, side], return_index=True)[1] for side in (0, 1)])


def _embedded(question: Question, task: Task) -> Items:
    """A task's test items, once in a stage; images and texts never meet in a batch."""
    place = task.index, question.hidden and not question.method.task_free
    if place not in question.known:
        features, routed, data = {}, [], question.data[task.index]
        for inputs in ("image", "text"):
            found = []
            for batch in data.items(question.split, question.device, inputs):
                features_BE, route_B = question.of(task).features(batch)
                found.append(F.normalize(features_BE, dim=-1))
                routed.append(route_B)
            features[inputs] = torch.cat(found)
        pairs = data.splits[question.split].pairs
        assert pairs is not None
        question.known[place] = Items(features, pairs, routed)
    return question.known[place]
