"""RAPF: a linear adapter on frozen features, taught old classes by samples of their Gaussians, and fused after a task.

Huang et al., *Class-Incremental Learning with CLIP: Adaptive Representation Adjustment and Parameter Fusion*,
ECCV 2024. Old classes whose text is near a new class's are the ones that are lost: samples of them are pushed away from
the new text; and of what a task changed in the adapter, only what changed much is kept whole.

x       = image feature of the frozen model, not normalised;   z = unit(Wa x);   logits = exp(logit_scale) z . u_c
mu_c, S_c   mean of x and its covariance (n - 1) + 1e-4 I over the samples of class c, after its task
replay  = 10 beta samples of N(mu, S) of each of k old classes drawn at random
hard    = pairs (o, c) of an old and a new class with ||u_o - u_c|| < tau, and 20 beta samples of o
L       = mean CE over batch and replay, over all labels seen
        + mean over pairs and samples of relu(0.1 - z . u_o + z . u_c)
fusion, after every task but the first:  Wold = U diag(s) V^T,  P = U^T Wa,  O = diag(s) V^T
          m = min(1, |P - O| / max |P - O| + b);    Wa <- U (m P + (1 - m) O)

The images are augmented as the budget says and pass the frozen tower in every step. An old class's samples are shared
by its pairs. ``--method.candidates own``: the CE of each sample over its own task's labels.

The released code begins with a random Wa (``--method.start random``), which loses what CLIP knew: here it is the
identity and a little noise, for the identity itself has no basis U of its own to fuse in. It fails where a task brings
one new class and where a class has one sample (here: no variance beyond 1e-4). Its ``shrinkage`` adds the mean variance
and covariance, and may then have no Cholesky root: here the mean is then over all covariances, also those that are 0.
Where classes have fewer samples than features, shrinkage makes of a flat Gaussian a full one, of twice the variance.
A class that comes again is merged exactly. Its schedule, a tenth of the rate after epochs 4 and 10, is a cosine here.

    make bench METHOD=rapf
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.stream import Label, Task
from methods.base import CANDIDATES, Batch, IncrementalMethod
from methods.parts.checks import at_least, one_of, within
from methods.parts.gaussians import learn_gaussians, off_diagonal_mean, shrunk

PRESETS = {
    "official": {
        "epochs": 15,
        "batch_size": 100,
        "optimizer": "adam",
        "lr": 1e-3,
        "method": {"b": 0.6, "tau": 0.55, "beta": 2.0, "start": "random"},
    },
    "imagenet_r": {
        "epochs": 15,
        "batch_size": 64,
        "optimizer": "adam",
        "lr": 1e-3,
        "method": {"b": 0.7, "tau": 0.65, "beta": 1.0, "shrinkage": True, "start": "random"},
    },
    "cub": {
        "epochs": 15,
        "batch_size": 32,
        "optimizer": "adam",
        "lr": 1e-3,
        "method": {"b": 0.8, "tau": 0.65, "beta": 1.0, "shrinkage": True, "start": "random"},
    },
}
STARTS = ("identity", "random")
NOISE = 1e-3  # beside the identity
RIDGE = 1e-4  # on every covariance
MARGIN = 0.1
REPLAYED, PUSHED = 10, 20  # samples of an old class, times beta


def root(cov: Tensor) -> Tensor:
    """(E, E) A with A A^T the covariance: Cholesky's; of one that has none, that of the nearest one that has some."""
    factor_EE, failed = torch.linalg.cholesky_ex(cov)
    if not failed:
        return factor_EE
    values_E, vectors_EE = torch.linalg.eigh(cov)
    return vectors_EE * values_E.clamp_min(0).sqrt()


def sample(mean: Tensor, cov: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """(count, E) draws from N(mean, cov), mean (E,), cov (E, E): mean + A e with A A^T = cov, e standard normal."""
    noise_NE = torch.randn(count, len(mean), dtype=mean.dtype, device=mean.device, generator=generator)
    return mean + noise_NE @ root(cov).mT.to(mean)


def shrink(cov: Tensor) -> Tensor:
    """(E, E): the mean variance added to the diagonal, the mean covariance to what is beside it.

    As released the mean is over covariances that are not 0; where that leaves no positive definite matrix, over all of
    them, which does for every positive definite ``cov``.
    """
    variance = cov.diagonal().mean()
    released = shrunk(cov, variance, off_diagonal_mean(cov, zeros=False))
    if not torch.linalg.cholesky_ex(released).info:
        return released
    return shrunk(cov, variance, off_diagonal_mean(cov, zeros=True))


def hard_pairs(old_text: Tensor, new_text: Tensor, tau: float) -> Tensor:
    """(n, 2) indices into old and new of classes whose text features, (O, E) and (C, E), as unit vectors are nearer
    than tau."""
    old_OE, new_CE = F.normalize(old_text, dim=-1), F.normalize(new_text, dim=-1)
    return (torch.cdist(old_OE, new_CE, compute_mode="donot_use_mm_for_euclid_dist") < tau).nonzero()


def fuse(old: Tensor, new: Tensor, b: float) -> Tensor:
    """(E, E) the adapter after a task, from the one before it and the one trained: what moved much is kept as trained.

    In the singular basis of ``old``: an entry that moved as far as any, or nearer to that than b, is the new one's.
    """
    U, s, Vt = torch.linalg.svd(old)
    P, before = U.mT @ new, s[:, None] * Vt
    moved = (P - before).abs()
    m = (moved / moved.max().clamp_min(torch.finfo(moved.dtype).tiny) + b).clamp_max(1)
    return U @ (m * P + (1 - m) * before)


@dataclass(frozen=True)
class Old:
    """What replay needs of K old classes, and of the O of them that are near a new one, among C new ones.

    Odd axes: K old classes, O those with a pair, C new classes.
    """

    labels_K: Tensor
    tasks_K: Tensor  # the last one with the class
    means_KE: Tensor
    roots_KEE: Tensor
    near_O: Tensor  # which of the K
    own_OE: Tensor  # texts
    new_CE: Tensor
    pair_OC: Tensor  # 1 where the two are a pair

    def drawn(self, which: Tensor, count: int) -> Tensor:
        """(classes, count, E) samples of some classes."""
        means_K1E, roots_KEE = self.means_KE[which][:, None], self.roots_KEE[which]
        return means_K1E + torch.randn(len(which), count, means_K1E.shape[-1], device=which.device) @ roots_KEE.mT


class RAPF(IncrementalMethod):
    """A linear adapter on frozen CLIP features, with Gaussian replay.

    Args:
        b: least weight of what a task changed, when it is fused with what was before.
        tau: distance of texts below which an old class is pushed from a new one.
        beta: samples of a class, in tens for replay and twenties for pairs.
        classes: k, old classes replayed in a step.
        shrinkage: of the covariances, for few samples.
        start: of the adapter: identity (with a little noise), or random as released.
        candidates: labels that the cross-entropy of a sample runs over: own (its task's) or seen (of all tasks begun).
    """

    ddp = False  # every process would draw its own replay
    task_free = True
    search = {"b": (0.15, 1.0), "tau": (0.1375, 1.0), "beta": (0.5, 8.0)}  # b: a share

    def __init__(
        self,
        b: float = 0.6,
        tau: float = 0.55,
        beta: float = 2.0,
        classes: int = 5,
        shrinkage: bool = False,
        start: str = "identity",
        candidates: str = "seen",
    ) -> None:
        super().__init__()
        within(0, 1, b=b)
        at_least(0, tau=tau)
        at_least(1 / REPLAYED, beta=beta)
        at_least(1, classes=classes)
        one_of(STARTS, start=start)
        one_of(CANDIDATES, candidates=candidates)
        self.b, self.tau, self.beta, self.classes, self.shrinkage = b, tau, beta, classes, shrinkage
        self.start, self.candidates = start, candidates
        self._old: Old | None = None

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self._old = None
        if len(self.tasks) == 1:
            width = self.backbone.embedding
            self.adapter = nn.Linear(width, width, bias=False)
            if self.start == "identity":
                nn.init.normal_(self.adapter.weight, std=NOISE)
                with torch.no_grad():
                    self.adapter.weight.add_(torch.eye(width))
        self.memory["adapter_before"] = self.adapter.weight

    def trainable_parameters(self) -> list[nn.Parameter]:
        return list(self.adapter.parameters()) if self.tasks else []

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the batch and of samples of old classes, and the hinge of those near new ones."""
        x_BE, old = self.features(batch), self._classes_before()
        if old is None:
            return self.cross_entropy(self.adapted(x_BE), batch)
        chosen = torch.randperm(len(old.labels_K), device=x_BE.device)[: self.classes]
        x_KNE = old.drawn(chosen, int(REPLAYED * self.beta))
        told = {"label": old.labels_K, "task": old.tasks_K}
        both = {name: torch.cat([batch[name], of_K[chosen].repeat_interleave(x_KNE.shape[1])])
                for name, of_K in told.items()}  # fmt: skip
        replayed = self.cross_entropy(self.adapted(torch.cat([x_BE, x_KNE.flatten(0, 1)])), both)
        return replayed + self._push(old) if len(old.near_O) else replayed

    def _push(self, old: Old) -> Tensor:
        """Mean over pairs and samples of relu(0.1 - z . u_o + z . u_c)."""
        x_ONE = old.drawn(old.near_O, max(1, int(PUSHED * self.beta)))
        z_ONE = F.normalize(self.adapted(x_ONE), dim=-1)
        own_ON1 = (z_ONE @ old.own_OE[..., None]).float()
        hinge_ONC = (MARGIN - own_ON1 + z_ONE @ old.new_CE.mT).relu()
        return (hinge_ONC.mean(dim=1) * old.pair_OC).sum() / old.pair_OC.sum()

    @torch.no_grad()
    def _classes_before(self) -> Old | None:
        """Of the classes of earlier tasks, made once a task; None where there are none."""
        if self._old is None and len(self.tasks) > 1:
            tasks = {label: task.index for task in self.tasks[:-1] for label in task.labels}
            labels = [label for label in tasks if f"mean_{label.id}" in self.memory]
            self._old = self._gathered(labels, [tasks[label] for label in labels])
        return self._old

    def _gathered(self, labels: list[Label], tasks: list[int]) -> Old:
        device, new = self.device, [label for label in self.tasks[-1].labels if label not in labels]
        roots_KEE = torch.stack([root(self._covariance(label.id)) for label in labels])
        text_KE = self.backbone.class_features(labels)
        new_CE = self.backbone.class_features(new) if new else text_KE[:0]
        pairs = hard_pairs(text_KE, new_CE, self.tau)
        pair_KC = torch.zeros(len(labels), len(new), device=device)
        pair_KC[pairs[:, 0], pairs[:, 1]] = 1
        near_O = pairs[:, 0].unique()
        return Old(
            torch.tensor([label.id for label in labels], device=device),
            torch.tensor(tasks, device=device),
            torch.stack([self.memory[f"mean_{label.id}"] for label in labels]),
            roots_KEE.float(),
            near_O,
            text_KE[near_O],
            new_CE,
            pair_KC[near_O],
        )

    def _covariance(self, label_id: int) -> Tensor:
        """(E, E) S_c in float64."""
        cov_EE = self.memory[f"cov_{label_id}"].double()
        cov_EE = cov_EE + RIDGE * torch.eye(len(cov_EE)).to(cov_EE)
        return shrink(cov_EE) if self.shrinkage else cov_EE

    @torch.no_grad()
    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        """Keep the Gaussians of the task's classes, and fuse the adapter with what it was."""
        pairs = [(self.features(batch), batch["label"]) for batch in loader]
        learn_gaussians(self.memory, torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]))
        before_EE, weight = self.memory.pop("adapter_before"), self.adapter.weight
        if len(self.tasks) > 1:
            weight.copy_(fuse(before_EE.double(), weight.double(), self.b))

    @torch.no_grad()
    def features(self, batch: Batch) -> Tensor:
        """(B, E) x, augmented while training."""
        return super().embed_image(batch).float()

    def adapted(self, x: Tensor) -> Tensor:
        """(..., E) Wa x in float32; x before the first task."""
        with torch.autocast(self.device.type, enabled=False):
            return self.adapter(x) if self.tasks else x

    def embed_image(self, batch: Batch) -> Tensor:
        return self.adapted(self.features(batch))
