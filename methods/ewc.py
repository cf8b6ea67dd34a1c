"""EWC: one LoRA that is held where its weights mattered to earlier tasks.

Kirkpatrick et al., *Overcoming catastrophic forgetting in neural networks*, PNAS 2017; one running Fisher for all tasks
as in online EWC, Schwarz et al., *Progress & Compress*, ICML 2018.

F_t     = 1/N sum over samples of (d log p(y|x) / d theta)^2, per-sample gradients, over the task's own labels
F       <- gamma F + F_t          theta* <- theta, after every task
penalty = 1/2 sum F (theta - theta*)^2
L       = CE + strength penalty

Two published codes differ from this and from each other: mammoth weights every sample by p(y|x) (``probs_N``) and has
no 1/2; LibContinual squares the mean gradient of a batch, which is smaller by about the batch size (its strength of
1000 belongs to that). y is the true label, so a task fitted well leaves a small Fisher. In LoRA the Fisher of A is near
0 while B is: early in a stream A moves freely. A retrieval pair's likelihood is that of finding it among the 64 of its
chunk, in both directions, the others held fixed. Of an answer in words log p is the mean over its tokens, as in CE.

    make bench METHOD=ewc                               # last accuracy 56.7 given, 26.1 hidden
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.stream import Task
from methods.base import Batch, IncrementalMethod
from methods.parts.checks import at_least, within
from methods.parts.experts import Experts
from methods.parts.matching import belongs
from methods.sequential_lora import SequentialLora

PRESETS = {"libcontinual": {"optimizer": "sgd", "lr": 0.1, "schedule": "constant"}}
CHUNK = 64  # samples whose gradients are held at once


def fisher_diagonal(grads_NP: Tensor, probs_N: Tensor | None = None) -> Tensor:
    """(P,) mean over samples of their squared gradients (N, P) of log p(y|x), each times p(y|x) if that is given."""
    squares_NP = grads_NP**2
    return (squares_NP if probs_N is None else probs_N[:, None] * squares_NP).mean(dim=0)


def quadratic_penalty(
    params: Tensor | Sequence[Tensor], anchor: Tensor | Sequence[Tensor], fisher: Tensor | Sequence[Tensor]
) -> Tensor:
    """1/2 sum F (theta - theta*)^2, of tensors of one shape or of sequences of them."""
    if isinstance(params, Tensor):
        params, anchor, fisher = [params], [anchor], [fisher]  # type: ignore[list-item]
    terms = [(f * (p - a) ** 2).sum() for p, a, f in zip(params, anchor, fisher, strict=True)]
    return 0.5 * torch.stack(terms).sum()


def flat(parameters: Iterable[Tensor]) -> Tensor:
    """(P,) all their numbers in a row."""
    return torch.cat([parameter.flatten() for parameter in parameters])


def fisher_of_expert(
    method: IncrementalMethod, experts: Experts, name: str, task: Task, loader: Iterable[Batch]
) -> Tensor:
    """(P,) of a LoRA's parameters, from the gradient of every sample of a task's training set."""
    total_P, samples = torch.zeros_like(flat(experts.parameters(name))), 0
    for batch in loader:
        for start in range(0, len(batch["label"]), CHUNK):
            chunk = {key: values[start : start + CHUNK] for key, values in batch.items()}
            with torch.enable_grad(), experts.apart(name, len(chunk["label"])) as own:
                if task.kind == "retrieval":
                    losses_N = _matching(method, chunk)
                else:
                    losses_N = method.sample_losses(method.outputs(chunk), chunk)  # - log p of each one's own answer
                grads_NP = torch.cat([g.flatten(1) for g in torch.autograd.grad(losses_N.sum(), own)], dim=1)
            total_P += fisher_diagonal(grads_NP) * len(grads_NP)
            samples += len(grads_NP)
    return total_P / samples


def _matching(method: IncrementalMethod, chunk: Batch) -> Tensor:
    """(N,) - log p of finding a sample's matches among the other items of its chunk, which are held fixed."""
    images_NE, texts_NE = (F.normalize(method.embed({key: chunk[key]}), dim=-1) for key in ("image", "text"))
    target_NN = belongs(chunk).float()
    target_NN = target_NN / target_NN.sum(dim=1, keepdim=True)
    found = ((images_NE, texts_NE.detach()), (texts_NE, images_NE.detach()))
    losses = [F.cross_entropy(method.backbone.logits(*pair), target_NN, reduction="none") for pair in found]
    return torch.stack(losses).mean(dim=0)


class EWC(SequentialLora):
    """Sequential LoRA with a quadratic penalty in the metric of the diagonal Fisher information.

    Args:
        strength: lambda, weight of the penalty.
        gamma: how much of the earlier tasks' Fisher is kept.
        lora: arguments of :class:`~methods.sequential_lora.SequentialLora`.
    """

    search = {"strength": (25.0, 400.0)}

    def __init__(self, strength: float = 100.0, gamma: float = 1.0, **lora: Any) -> None:
        super().__init__(**lora)
        at_least(0, strength=strength)
        within(0, 1, gamma=gamma)
        self.strength, self.gamma = strength, gamma

    def penalty(self) -> Tensor:
        if "fisher" not in self.memory:
            return super().penalty()
        with torch.autocast(self.device.type, enabled=False):
            return self.strength * quadratic_penalty(self._flat(), self.memory["anchor"], self.memory["fisher"])

    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        fisher_P = self._fisher(task, loader)
        if "fisher" in self.memory:
            fisher_P = self.gamma * self.memory["fisher"] + fisher_P
        self.memory["fisher"], self.memory["anchor"] = fisher_P, self._flat()

    def _flat(self) -> Tensor:
        return flat(self.trainable_parameters())

    def _fisher(self, task: Task, loader: Iterable[Batch]) -> Tensor:
        return fisher_of_expert(self, self.experts, self.expert(task), task, loader)
