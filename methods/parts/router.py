"""The shared router: which expert answers when the task's identity is hidden.

It sees unit features z of the frozen model and decides sample by sample, never from a test batch as a whole. Samples
with text have a router for images, one for texts and, in fusion, one for both together: what is there decides. Three
kinds, all learned task by task from sums, without keeping a sample:

ridge        h = relu(z W), W ~ N(0, 1) once;  G = sum h h^T, Q = sum h e_t^T;  task = argmax of h (G + lambda I)^-1 Q
             (the head of RanPAC, McDonnell et al., NeurIPS 2023, on tasks instead of classes)
mahalanobis  class means mu_c and one covariance S within classes;  task of argmin_c (z - mu_c)^T S^-1 (z - mu_c)
ncm          class means, made unit vectors;  task of argmax_c cos(z, mu_c)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.stream import Label, Task
from methods.base import INPUTS, Batch
from methods.parts.memory import Memory

KINDS = ("ridge", "mahalanobis", "ncm")
RANDOM_FEATURES = 1000
RIDGE = 10.0
SHRINKAGE = 1e-4  # of S towards a multiple of the identity


def class_means(features_NE: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """(means_KE, ids_K): the unit mean of each class's unit features, ids ascending."""
    sums_KE, ids_K = _class_sums(F.normalize(features_NE, dim=-1), labels_N)[:2]
    return F.normalize(sums_KE, dim=-1), ids_K


def _class_sums(features_NE: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(sums_KE, ids_K, position_N) of each class, ids ascending; position is a sample's row."""
    ids_K, position_N = labels_N.unique(return_inverse=True)
    sums_KE = features_NE.new_zeros(len(ids_K), features_NE.shape[1])
    return sums_KE.index_add_(0, position_N, features_NE), ids_K, position_N


def random_projection(width: int, features: int) -> Tensor:
    """(width, features) of N(0, 1), the same on every machine and in every run."""
    return torch.randn(width, features, generator=torch.Generator().manual_seed(0))


def random_features(features_NE: Tensor, projection_EM: Tensor) -> Tensor:
    """(N, M): h = relu(z W)."""
    return (features_NE @ projection_EM).relu()


def ridge_head(G: Tensor, Q: Tensor, ridge: float) -> Tensor:
    """(C, M) rows of the head: ((G + ridge I)^-1 Q)^T, from G (M, M) and Q (M, C)."""
    return torch.linalg.solve(G + ridge * torch.eye(len(G), dtype=G.dtype, device=G.device), Q).mT


def name_of(batch: Batch) -> str:
    """Which router answers for what a batch holds: ``router`` for images, ``router_text``, ``router_image_text``."""
    inputs = [name for name in INPUTS if name in batch]
    return "router" if inputs == ["image"] else "_".join(["router", *inputs])


def learn_task(
    memory: Memory, task: Task, loader: Iterable[Batch], embed: Callable[[Batch], Tensor], kind: str = "ridge"
) -> None:
    """Take in a task: a router for images, for texts, and in fusion for both, as far as its batches hold them.

    Args:
        loader: the training set. embed: the frozen features (B, E) of what a batch holds.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for batch in loader:
        inputs = [name for name in INPUTS if name in batch]
        parts = [{name: batch[name]} for name in inputs]
        if task.labels and len(inputs) == 2:
            parts.append({name: batch[name] for name in inputs})
        for part in parts:  # a task without classes is one itself
            labels = batch["label" if task.labels else "task"]
            found.setdefault(name_of(part), []).append((embed(part), labels))
    for name, features in found.items():
        learn(memory, task.index, features, kind, name)


def learn(
    memory: Memory, task: int, batches: Iterable[tuple[Tensor, Tensor]], kind: str = "ridge", name: str = "router"
) -> None:
    """Take in a task, from (frozen features (B, E), labels (B,)) over its training set, under ``name`` in memory."""
    features, labels = zip(*batches, strict=True)
    unit_NE, labels_N = F.normalize(torch.cat(features).float(), dim=-1), torch.cat(labels)
    if kind == "ridge":
        _learn_ridge(memory, task, unit_NE, name)
    elif kind == "mahalanobis":
        _learn_mahalanobis(memory, task, unit_NE, labels_N, name)
    else:
        means_KE, _ = class_means(unit_NE, labels_N)
        memory.append(f"{name}_means", means_KE)
        memory.append(f"{name}_tasks", torch.full((len(means_KE),), task, device=means_KE.device))


def _learn_ridge(memory: Memory, task: int, unit_NE: Tensor, name: str) -> None:
    width, device = unit_NE.shape[1], unit_NE.device
    if f"{name}_projection" not in memory:
        memory[f"{name}_projection"] = random_projection(width, RANDOM_FEATURES).to(device)
        memory[f"{name}_gram"] = torch.zeros(RANDOM_FEATURES, RANDOM_FEATURES, device=device)
        memory[f"{name}_sums"] = torch.zeros(0, RANDOM_FEATURES, device=device)
        memory[f"{name}_tasks"] = torch.zeros(0, dtype=torch.long, device=device)
    hidden_NM = random_features(unit_NE, memory[f"{name}_projection"])
    memory[f"{name}_gram"] = memory[f"{name}_gram"] + hidden_NM.mT @ hidden_NM
    memory.append(f"{name}_sums", hidden_NM.sum(dim=0, keepdim=True))
    memory.append(f"{name}_tasks", torch.full((1,), task, device=device))
    head_TM = ridge_head(memory[f"{name}_gram"].double(), memory[f"{name}_sums"].mT.double(), RIDGE)
    memory[f"{name}_weights"], memory[f"{name}_bias"] = head_TM.float(), torch.zeros(len(head_TM), device=device)


def _learn_mahalanobis(memory: Memory, task: int, unit_NE: Tensor, labels_N: Tensor, name: str) -> None:
    sums_KE, ids_K, position_N = _class_sums(unit_NE, labels_N)
    means_KE = sums_KE / torch.bincount(position_N)[:, None]
    centred_NE = (unit_NE - means_KE[position_N]).double()
    scatter_EE = centred_NE.mT @ centred_NE
    count = torch.tensor(float(len(unit_NE)), device=unit_NE.device)
    memory[f"{name}_scatter"] = scatter_EE + memory.get(f"{name}_scatter", torch.zeros_like(scatter_EE))
    memory[f"{name}_count"] = count + memory.get(f"{name}_count", torch.zeros_like(count))
    memory.append(f"{name}_means", means_KE)
    memory.append(f"{name}_tasks", torch.full((len(ids_K),), task, device=means_KE.device))
    covariance_EE = memory[f"{name}_scatter"].double() / memory[f"{name}_count"]
    identity_EE = covariance_EE.diagonal().mean().clamp_min(1e-12) * torch.eye(len(covariance_EE)).to(covariance_EE)
    covariance_EE = (1 - SHRINKAGE) * covariance_EE + SHRINKAGE * identity_EE
    # -1/2 (z - mu)^T S^-1 (z - mu) up to a term that all classes share
    weights_KE = torch.linalg.solve(covariance_EE, memory[f"{name}_means"].double().mT).mT
    memory[f"{name}_bias"] = (-0.5 * (weights_KE * memory[f"{name}_means"]).sum(dim=1)).float()
    memory[f"{name}_weights"] = weights_KE.float()


def route(memory: Memory, features_BE: Tensor, name: str = "router") -> Tensor:
    """(B,) the task of each sample's frozen feature."""
    with torch.autocast(features_BE.device.type, enabled=False):
        unit_BE = F.normalize(features_BE.float(), dim=-1)
        if f"{name}_projection" in memory:
            unit_BE = random_features(unit_BE, memory[f"{name}_projection"])
        weights, bias = memory.get(f"{name}_weights"), memory.get(f"{name}_bias")
        if weights is None or bias is None:
            scores = unit_BE @ memory[f"{name}_means"].mT
        else:
            scores = unit_BE @ weights.mT + bias
        return memory[f"{name}_tasks"][scores.argmax(dim=-1)]


def by_route(route_B: Tensor, batch: Batch, answer: Callable[[int, Batch], Tensor]) -> Tensor:
    """(B, ...) each sample answered by the task that it is routed to.

    Args:
        answer: ``fn(task index, part of the batch) -> (rows, ...)``.
    """
    rows, answers = [], []
    for index in route_B.unique().tolist():
        rows.append((route_B == index).nonzero().squeeze(1))
        answers.append(answer(index, {name: values[rows[-1]] for name, values in batch.items()}))
    return torch.cat(answers)[torch.cat(rows).argsort()]


def own_labels_first(
    logits_BC: Tensor, route_B: Tensor, labels: Sequence[Label], tasks: Sequence[Task], scale: Tensor
) -> Tensor:
    """(B, C) the logits with labels of other tasks than the routed one below all of that one's; route -1 as it is.

    Args:
        logits_BC: within +-``scale``, over ``labels``. tasks: those learned, by index.
    """
    own = [{label.id for label in task.labels} for task in tasks]
    foreign = [[label.id not in ids for label in labels] for ids in own] + [[False] * len(labels)]  # [-1] is the last
    foreign_TC = torch.tensor(foreign, device=logits_BC.device)
    return (logits_BC - 2 * scale * foreign_TC[route_B]).float()
