"""The shared router: which expert answers when the task's identity is hidden.

Nearest class mean on frozen features: every class of every task leaves the mean of its unit image features; a sample
goes to the task of the nearest mean (largest cosine). It decides sample by sample, never from a test batch as a whole.

Legend: B batch, K means kept so far, E embedding.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.memory import Memory


def class_means(features_NE: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """(means_KE, ids_K): the unit mean of each class's unit features, ids ascending."""
    ids_K, position_N = labels_N.unique(return_inverse=True)
    sums_KE = torch.zeros(len(ids_K), features_NE.shape[1], device=features_NE.device, dtype=features_NE.dtype)
    sums_KE.index_add_(0, position_N, F.normalize(features_NE, dim=-1))
    return F.normalize(sums_KE, dim=-1), ids_K


def learn(memory: Memory, task: int, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Keep a task's class means, from (frozen features (B, E), labels (B,)) over its training set."""
    features, labels = zip(*batches, strict=True)
    means_KE, _ = class_means(torch.cat(features).float(), torch.cat(labels))
    memory.append("router_means", means_KE)
    memory.append("router_tasks", torch.full((len(means_KE),), task, device=means_KE.device))


def route(memory: Memory, features_BE: Tensor) -> Tensor:
    """(B,) the task whose class mean is nearest to each sample's frozen feature."""
    means_KE = memory["router_means"]
    similarity_BK = F.normalize(features_BE.float(), dim=-1) @ means_KE.to(features_BE.device).T
    return memory["router_tasks"].to(features_BE.device)[similarity_BK.argmax(dim=-1)]
