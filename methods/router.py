"""The shared router: which expert answers when the task's identity is hidden.

It sees unit features z of the frozen model and decides sample by sample, never from a test batch as a whole. Three
kinds, all learned task by task from sums, without keeping a sample:

ridge        h = relu(z W), W ~ N(0, 1) once;  G = sum h h^T, Q = sum h e_t^T;  task = argmax of h (G + lambda I)^-1 Q
             (the head of RanPAC, McDonnell et al., NeurIPS 2023, on tasks instead of classes)
mahalanobis  class means mu_c and one covariance S within classes;  task of argmin_c (z - mu_c)^T S^-1 (z - mu_c)
ncm          class means, made unit vectors;  task of argmax_c cos(z, mu_c)

Legend: B batch, N samples, K class means kept so far, E embedding, M random features, T tasks.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.memory import Memory

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


def ridge_head(G: Tensor, Q: Tensor, ridge: float) -> Tensor:
    """(C, M) rows of the head: ((G + ridge I)^-1 Q)^T, from G (M, M) and Q (M, C)."""
    return torch.linalg.solve(G + ridge * torch.eye(len(G), dtype=G.dtype, device=G.device), Q).mT


def checked(kind: str) -> str:
    """The kind of router, if there is one of that name.

    Raises:
        ValueError: naming those there are.
    """
    if kind not in KINDS:
        raise ValueError(f"router {kind!r}: choose from {', '.join(KINDS)}")
    return kind


def learn(memory: Memory, task: int, batches: Iterable[tuple[Tensor, Tensor]], kind: str = "ridge") -> None:
    """Take in a task, from (frozen features (B, E), labels (B,)) over its training set."""
    features, labels = zip(*batches, strict=True)
    unit_NE, labels_N = F.normalize(torch.cat(features).float(), dim=-1), torch.cat(labels)
    if kind == "ridge":
        _learn_ridge(memory, task, unit_NE)
    elif kind == "mahalanobis":
        _learn_mahalanobis(memory, task, unit_NE, labels_N)
    else:
        means_KE, _ = class_means(unit_NE, labels_N)
        memory.append("router_means", means_KE)
        memory.append("router_tasks", torch.full((len(means_KE),), task, device=means_KE.device))


def _learn_ridge(memory: Memory, task: int, unit_NE: Tensor) -> None:
    width, device = unit_NE.shape[1], unit_NE.device
    if "router_projection" not in memory:
        memory["router_projection"] = random_projection(width, RANDOM_FEATURES).to(device)
        memory["router_gram"] = torch.zeros(RANDOM_FEATURES, RANDOM_FEATURES, device=device)
        memory["router_sums"] = torch.zeros(0, RANDOM_FEATURES, device=device)
        memory["router_tasks"] = torch.zeros(0, dtype=torch.long, device=device)
    hidden_NM = (unit_NE @ memory["router_projection"]).relu()
    memory["router_gram"] = memory["router_gram"] + hidden_NM.mT @ hidden_NM
    memory.append("router_sums", hidden_NM.sum(dim=0, keepdim=True))
    memory.append("router_tasks", torch.full((1,), task, device=device))
    head_TM = ridge_head(memory["router_gram"].double(), memory["router_sums"].mT.double(), RIDGE)
    memory["router_weights"], memory["router_bias"] = head_TM.float(), torch.zeros(len(head_TM), device=device)


def _learn_mahalanobis(memory: Memory, task: int, unit_NE: Tensor, labels_N: Tensor) -> None:
    sums_KE, ids_K, position_N = _class_sums(unit_NE, labels_N)
    means_KE = sums_KE / torch.bincount(position_N)[:, None]
    centred_NE = (unit_NE - means_KE[position_N]).double()
    scatter_EE = centred_NE.mT @ centred_NE
    count = torch.tensor(float(len(unit_NE)), device=unit_NE.device)
    memory["router_scatter"] = scatter_EE + memory.get("router_scatter", torch.zeros_like(scatter_EE))
    memory["router_count"] = count + memory.get("router_count", torch.zeros_like(count))
    memory.append("router_means", means_KE)
    memory.append("router_tasks", torch.full((len(ids_K),), task, device=means_KE.device))
    covariance_EE = memory["router_scatter"].double() / memory["router_count"]
    identity_EE = covariance_EE.diagonal().mean().clamp_min(1e-12) * torch.eye(len(covariance_EE)).to(covariance_EE)
    covariance_EE = (1 - SHRINKAGE) * covariance_EE + SHRINKAGE * identity_EE
    # -1/2 (z - mu)^T S^-1 (z - mu) up to a term that all classes share
    weights_KE = torch.linalg.solve(covariance_EE, memory["router_means"].double().mT).mT
    memory["router_bias"] = (-0.5 * (weights_KE * memory["router_means"]).sum(dim=1)).float()
    memory["router_weights"] = weights_KE.float()


def route(memory: Memory, features_BE: Tensor) -> Tensor:
    """(B,) the task of each sample's frozen feature."""
    with torch.autocast(features_BE.device.type, enabled=False):
        unit_BE = F.normalize(features_BE.float(), dim=-1)
        if "router_projection" in memory:
            unit_BE = (unit_BE @ memory["router_projection"]).relu()
        weights, bias = memory.get("router_weights"), memory.get("router_bias")
        if weights is None or bias is None:
            scores = unit_BE @ memory["router_means"].mT
        else:
            scores = unit_BE @ weights.mT + bias
        return memory["router_tasks"][scores.argmax(dim=-1)]
