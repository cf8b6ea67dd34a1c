"""FeCAM: the Mahalanobis distance to every class on frozen features; never trains.

Goswami et al., *FeCAM: Exploiting the Heterogeneity of Class Distributions in Exemplar-Free Continual Learning*,
NeurIPS 2023. Classes of a model that was not trained on them are spread unlike in unlike directions: a distance that
knows each class's own covariance tells them apart better than one to the class means alone.

z     = unit feature of the frozen model;   m_c, C mean and covariance (n - 1) of z over the samples of class c
S_c   = C + g1 mean(diag C) I + g2 mean(entries of C beside the diagonal that are not 0) (1 1^T - I)
R_c   = S / (sd sd^T),  sd^2 = diag S:  a correlation, so that classes with small variances do not win by them
d_c   = (z - m_c)^T R_c^-1 (z - m_c);     score(c) = exp(logit_scale) (1 - d_c / 2)

With R = I and a mean of length 1 the score is that of the cosine, as texts have it: a class without samples yet is
scored by its text, as in zero-shot. This is the released script for vision transformers, whose features are signed as
CLIP's are (g2 = 0 on CIFAR-100; ``imagenet_r`` g1 = g2 = 10): unit features, one shrinkage, means not made unit
vectors. The code for convolutional networks takes their square root before (Tukey's power), which is no number for a
negative feature, takes that of the mean instead of the mean of it, and shrinks twice. ``--method.beta 0.5`` has the
power with signs kept, x^beta = sign(x) |x|^beta, made a unit vector again: then that is z.

A class of one sample has R = I (its released covariance is no number); a feature that never varies has no correlation
with any. A class that comes again is merged exactly, where the script for domains averages covariances.

    make bench METHOD=fecam
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.stream import Label, Task
from methods.base import Batch, IncrementalMethod
from methods.parts.checks import above, at_least, within
from methods.parts.gaussians import learn_gaussians, off_diagonal_mean, shrunk

PRESETS = {
    "official": {"method": {"g1": 1.0, "g2": 0.0, "beta": 1.0}},
    "imagenet_r": {"method": {"g1": 10.0, "g2": 10.0, "beta": 1.0}},
}


def shrink(cov: Tensor, g1: float, g2: float) -> Tensor:
    """(E, E): g1 times the mean variance added to the diagonal, g2 times the mean of what is beside it and not 0."""
    return shrunk(cov, g1 * cov.diagonal().mean(), g2 * off_diagonal_mean(cov, zeros=False))


def correlation(cov: Tensor) -> Tensor:
    """(E, E) the correlation matrix of a covariance; without variance 1 on the diagonal and 0 beside it."""
    variance_E = cov.diagonal()
    inverse_E = torch.where(variance_E > 0, variance_E, 1).rsqrt() * (variance_E > 0)
    return inverse_E[:, None] * cov * inverse_E + torch.diag((variance_E <= 0).to(cov))


def tukey(x: Tensor, beta: float) -> Tensor:
    """x^beta, which brings skewed features closer to a Gaussian; sign(x) |x|^beta of negative ones; beta 0: log x."""
    return x.log() if beta == 0 else x.sign() * x.abs() ** beta


def mahalanobis(x: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    """(N,) squared distances (x - mean)^T P (x - mean) of x (N, E) from mean (E,), P (E, E) an inverse covariance."""
    apart_NE = x - mean
    return (apart_NE @ precision * apart_NE).sum(dim=-1)


def inverse(cov: Tensor) -> Tensor:
    """(E, E) the inverse by Cholesky, in the precision given; the pseudo-inverse of a singular one."""
    factor_EE, failed = torch.linalg.cholesky_ex(cov)
    small = factor_EE.diagonal().min() < 1e-6 * factor_EE.diagonal().max()
    return torch.linalg.pinv(cov, hermitian=True) if failed or small else torch.cholesky_inverse(factor_EE)


class FeCAM(IncrementalMethod):
    """Means and covariances of classes on frozen CLIP features.

    Args:
        g1: how many mean variances are added to every variance.
        g2: how many mean covariances are added to every covariance.
        beta: Tukey's power, in (0, 1]; 1 leaves the features as they are.
    """

    search = {"g1": (0.25, 4.0), "beta": (0.25, 1.0)}  # beta: at most 1

    def __init__(self, g1: float = 1.0, g2: float = 0.0, beta: float = 1.0) -> None:
        super().__init__()
        at_least(0, g1=g1, g2=g2)
        above(0, beta=beta)
        within(0, 1, beta=beta)
        self.g1, self.g2, self.beta = g1, g2, beta
        self._inverted: dict[int, tuple[Tensor, Tensor]] = {}  # of a class the covariance kept, and R^-1 made of it

    @torch.no_grad()
    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        pairs = [(self._powered(self._unit(batch)), batch["label"]) for batch in loader]
        learn_gaussians(self.memory, torch.cat([z for z, _ in pairs]), torch.cat([y for _, y in pairs]))

    def scores(self, batch: Batch, labels: Sequence[Label], task: Task | None) -> Tensor:
        unit_BE = self._unit(batch)
        z_BE, scores_BC = self._powered(unit_BE), unit_BE @ self.backbone.class_features(labels).mT
        for column, label in enumerate(labels):
            if f"mean_{label.id}" in self.memory:
                d_B = mahalanobis(z_BE, self.memory[f"mean_{label.id}"], self._precision(label.id))
                scores_BC[:, column] = 1 - d_B / 2
        return self.backbone.logit_scale.exp() * scores_BC

    def _unit(self, batch: Batch) -> Tensor:
        return F.normalize(self.embed_image(batch).float(), dim=-1)

    def _powered(self, unit_BE: Tensor) -> Tensor:
        """(B, E) z"""
        return unit_BE if self.beta == 1 else F.normalize(tukey(unit_BE, self.beta), dim=-1)

    def _precision(self, label_id: int) -> Tensor:
        """(E, E) R^-1 of a class, made once for as long as its covariance stays."""
        cov_EE = self.memory[f"cov_{label_id}"]
        known = self._inverted.get(label_id)
        if known is None or known[0] is not cov_EE:
            precision_EE = inverse(correlation(shrink(cov_EE.double(), self.g1, self.g2)))
            self._inverted[label_id] = known = cov_EE, precision_EE.float()
        return known[1]

    def answers_from(self, task: Task, protocol: str) -> tuple[object, ...]:
        """How often each of the task's labels has been learned; other candidates' Gaussians are final once learned."""
        return tuple(sum(label in learned.labels for learned in self.tasks) for label in task.labels)
