"""The shared router: which expert answers when the task's identity is hidden.

It sees unit features z of the frozen model and decides sample by sample, never from a test batch as a whole. Samples
with text have a router for images, one for texts and, in fusion, one for both together: what is there decides. Three
kinds, all learned task by task from means over its samples, without keeping a sample. Every task weighs the same,
however many samples it has: a router that counts samples sends those of a small task to a large one like it.

ridge        h = relu(z W), W ~ N(0, 1) once;  m_t = mean of h over the n_t samples of task t, m = mean of the m_t
             G = sum_t mean of h h^T over task t - T m m^T,  S = mean over tasks of the covariance of h within them
             task = argmax_t of (h - m) (G + lambda I)^-1 (m_t - m) + trace((G + lambda I)^-1 S) / (T n_t)
             (the head of RanPAC, McDonnell et al., NeurIPS 2023, on tasks instead of classes, with an intercept; the
             last term is what the noise of m_t takes from new samples of its task: the fewer samples, the more)
mahalanobis  class means mu_c and S, the mean over tasks of the covariance within their classes;
             task of argmin_c (z - mu_c)^T S^-1 (z - mu_c)
ncm          class means, made unit vectors;  task of argmax_c cos(z, mu_c)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.stream import Label, Task
from methods.base import INPUTS, Batch
from methods.parts.features import class_means, class_sums, random_features
from methods.parts.memory import Memory

VERSION = 2  # 1 weighed a task by the number of its samples
KINDS = ("ridge", "mahalanobis", "ncm")
RANDOM_FEATURES = 1000
RIDGE = 0.1  # lambda, where every task weighs 1: chosen on validation data of tasks of unequal size
SHRINKAGE = 1e-4  # of S towards a multiple of the identity


def random_projection(width: int, features: int) -> Tensor:
    """(width, features) of N(0, 1), the same on every machine and in every run."""
    return torch.randn(width, features, generator=torch.Generator().manual_seed(0))


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
        if "prompt" in batch:  # a vision-language model is never shown an image without a question
            parts = [batch]
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
        memory[f"{name}_means"] = torch.zeros(0, RANDOM_FEATURES, device=device)
        memory[f"{name}_tasks"] = torch.zeros(0, dtype=torch.long, device=device)
    hidden_NM = random_features(unit_NE, memory[f"{name}_projection"])
    memory[f"{name}_gram"] = memory[f"{name}_gram"] + hidden_NM.mT @ hidden_NM / len(hidden_NM)
    memory.append(f"{name}_means", hidden_NM.mean(dim=0, keepdim=True))
    memory.append(f"{name}_counts", torch.full((1,), len(hidden_NM), device=device))
    memory.append(f"{name}_tasks", torch.full((1,), task, device=device))
    means_TM, gram_MM = memory[f"{name}_means"].double(), memory[f"{name}_gram"].double()
    tasks, mean_M = len(means_TM), means_TM.mean(dim=0)
    apart_TM = means_TM - mean_M
    gram_MM = gram_MM - tasks * torch.outer(mean_M, mean_M)  # G = T S + sum over tasks of their outer products apart
    factor_MM = torch.linalg.cholesky(gram_MM + RIDGE * torch.eye(len(gram_MM)).to(gram_MM))
    head_TM = torch.cholesky_solve(apart_TM.mT, factor_MM).mT
    trace = (len(gram_MM) - RIDGE * torch.cholesky_inverse(factor_MM).trace() - (head_TM * apart_TM).sum()) / tasks
    bias_T = trace / (tasks * memory[f"{name}_counts"]) - head_TM @ mean_M
    memory[f"{name}_weights"], memory[f"{name}_bias"] = head_TM.float(), bias_T.float()


def _learn_mahalanobis(memory: Memory, task: int, unit_NE: Tensor, labels_N: Tensor, name: str) -> None:
    sums_KE, ids_K, position_N = class_sums(unit_NE, labels_N)
    means_KE = sums_KE / torch.bincount(position_N)[:, None]
    centred_NE = (unit_NE - means_KE[position_N]).double()
    own_EE = centred_NE.mT @ centred_NE / len(unit_NE)
    memory[f"{name}_covariances"] = own_EE + memory.get(f"{name}_covariances", torch.zeros_like(own_EE))
    memory.append(f"{name}_means", means_KE)
    memory.append(f"{name}_tasks", torch.full((len(ids_K),), task, device=means_KE.device))
    covariance_EE = memory[f"{name}_covariances"].double() / len(memory[f"{name}_tasks"].unique())
    identity_EE = covariance_EE.diagonal().mean().clamp_min(1e-12) * torch.eye(len(covariance_EE)).to(covariance_EE)
    covariance_EE = (1 - SHRINKAGE) * covariance_EE + SHRINKAGE * identity_EE
    # -1/2 (z - mu)^T S^-1 (z - mu) up to a term that all classes share
    weights_KE = torch.linalg.solve(covariance_EE, memory[f"{name}_means"].double().mT).mT
    memory[f"{name}_bias"] = (-0.5 * (weights_KE * memory[f"{name}_means"]).sum(dim=1)).float()
    memory[f"{name}_weights"] = weights_KE.float()


def task_scores(memory: Memory, features_BE: Tensor, tasks: int, name: str = "router") -> Tensor:
    """(B, T) how well each of so many tasks fits each sample's frozen feature; -inf for those not taken in.

    The regression's value (0 to about 1), minus half the squared Mahalanobis distance up to what all tasks share, or
    the cosine, of the task's best class.
    """
    with torch.autocast(features_BE.device.type, enabled=False):
        unit_BE = F.normalize(features_BE.float(), dim=-1)
        if f"{name}_projection" in memory:
            unit_BE = random_features(unit_BE, memory[f"{name}_projection"])
        weights, bias = memory.get(f"{name}_weights"), memory.get(f"{name}_bias")
        if weights is None or bias is None:
            scores_BK = unit_BE @ memory[f"{name}_means"].mT
        else:
            scores_BK = unit_BE @ weights.mT + bias
        none_BT = scores_BK.new_full((len(scores_BK), tasks), -torch.inf)
        return none_BT.scatter_reduce(1, memory[f"{name}_tasks"].expand_as(scores_BK), scores_BK, "amax")


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
