"""Which group a task joins: a Chinese restaurant process whose tables are told apart by a feature of each task's text.

With n tasks so far, n_g of them in group g, m_g the mean of their features e, s_g = cos(e, m_g):

log P(g)   = log n_g   - log(n + alpha) + L(s_g)
log P(new) = log alpha - log(n + alpha) - L(max_g s_g)          not normalised; the largest one decides
L(s) = log(s + 1e-6) - log(1 - s + 1e-6)   until a similarity inside and one to another group are known, then
L(s) = log N(s; mu_i, sd_i) - log N(s; mu_o, sd_o)   of those inside groups and those to other groups

After a decision, with the means as they were, s_g of the chosen group counts as inside if it had more than one task,
the others as outside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from methods.parts.checks import above

TINY = 1e-6
LONE_SD, LEAST_SD = 0.1, 0.05  # of one similarity, and of alike ones


@dataclass
class Running:
    """Number, mean and sum of squared deviations of the similarities of one sort, by Welford's update."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        step = value - self.mean
        self.mean += step / self.n
        self.squares += step * (value - self.mean)

    @property
    def sd(self) -> float:
        return max(math.sqrt(self.squares / (self.n - 1)), LEAST_SD) if self.n > 1 else LONE_SD

    def log_density(self, value: float) -> float:
        """Up to what all Gaussians share."""
        return -((value - self.mean) ** 2) / (2 * self.sd**2) - math.log(self.sd)


@dataclass
class Group:
    """Tasks that share what they learn: the mean (E,) of their features, and how many they are."""

    mean: Tensor
    n: int = 1

    def add(self, feature: Tensor) -> None:
        self.n += 1
        self.mean = self.mean + (feature - self.mean) / self.n


@dataclass
class Assignment:
    """The groups that tasks have been put into, one task after another.

    Args:
        alpha: the higher, the sooner a new group opens.
        faithful: as released, where L of a negative cosine is no number in the beginning, which as the first of several
            wins every comparison, and where the ratio of two unlike Gaussians falls again above mu_i, so that a text
            equal to a group's may open a new one. By default s is clipped to [0, 1], and L never falls: the density
            inside is flat above mu_i, the one outside below mu_o.

    Attributes:
        groups: by number, each with the ``mean`` (E,) of its tasks' features and ``n`` of them.
    """

    alpha: float
    faithful: bool = False
    groups: list[Group] = field(default_factory=list)
    inside: Running = field(default_factory=Running)
    outside: Running = field(default_factory=Running)

    def __post_init__(self) -> None:
        """Raises ValueError: alpha is not above 0."""
        above(0, alpha=self.alpha)

    def decide(self, feature: Tensor) -> tuple[int, Tensor]:
        """Put the next task into a group.

        Args:
            feature: (E,) unit feature of its text.

        Returns:
            The number of its group, and (groups so far + 1,) log posteriors in float64, the last one of a new group.

        Raises:
            ValueError: the feature is not finite, or of another width than those before.
        """
        feature_E = feature.detach().double().cpu()
        if feature_E.ndim != 1 or (self.groups and feature_E.shape != self.groups[0].mean.shape):
            raise ValueError(f"feature of shape {tuple(feature.shape)}: need one width for all tasks")
        if not feature_E.isfinite().all():
            raise ValueError("feature: not finite")
        similarities = [self._similarity(feature_E, group) for group in self.groups]
        logs = self._log_posteriors(similarities)
        chosen = max(range(len(logs)), key=logs.__getitem__)  # the first of equals, and of all where that is NaN
        for number, similarity in enumerate(similarities):
            if number != chosen:
                self.outside.add(similarity)
            elif self.groups[number].n > 1:
                self.inside.add(similarity)
        if chosen == len(self.groups):
            self.groups.append(Group(feature_E))
        else:
            self.groups[chosen].add(feature_E)
        return chosen, torch.tensor(logs, dtype=torch.float64)

    def _similarity(self, feature_E: Tensor, group: Group) -> float:
        return float(torch.nn.functional.cosine_similarity(feature_E, group.mean, dim=0, eps=1e-12))

    def _log_posteriors(self, similarities: list[float]) -> list[float]:
        tasks = sum(group.n for group in self.groups)
        among = math.log(tasks + self.alpha)
        known = [
            math.log(group.n) - among + self._evidence(similarity)
            for group, similarity in zip(self.groups, similarities, strict=True)
        ]
        nearest = self._evidence(max(similarities)) if similarities else 0.0
        return [*known, math.log(self.alpha) - among - nearest]

    def _evidence(self, s: float) -> float:
        """L(s): how much more likely this similarity is inside a group than to another one."""
        if not (self.inside.n and self.outside.n):
            kept = s if self.faithful else min(max(s, 0.0), 1.0)
            return _log(kept + TINY) - _log(1 - kept + TINY)
        inner, outer = (s, s) if self.faithful else (min(s, self.inside.mean), max(s, self.outside.mean))
        return self.inside.log_density(inner) - self.outside.log_density(outer)


def _log(value: float) -> float:
    """As numpy has it: -inf of 0, NaN below."""
    return math.log(value) if value > 0 else -math.inf if value == 0 else math.nan
