"""What ``tune`` tries of a method: the same quasi-random points for everybody, over the rate and what it declares.

Trial 0 is the default. The others are the points of a Sobol sequence behind its first, which is 0: over the learning
rate first, then over the arguments of the method's ``search``, each on a logarithmic scale.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.config.key import versions
from benchmark.config.registry import MethodCard
from benchmark.errors import UserError, shown
from benchmark.stream import Budget

LR = (5e-4, 2e-2)
MOST = 3  # arguments of its own that a method may search
TRIALS = 9


@dataclass(frozen=True)
class SearchPoint:
    """What one trial runs with: the learning rate and the arguments that are searched, of trial 0 the defaults."""

    lr: float
    args: dict[str, float]

    @property
    def options(self) -> list[str]:
        """As typed for ``run``."""
        return [f"--lr={self.lr!r}", *(f"--method.{name}={value!r}" for name, value in self.args.items())]


def unit_points(count: int) -> list[list[float]]:
    """The first ``count`` points of the list, each 1 + MOST numbers in (0, 1)."""
    from scipy.stats import qmc

    drawn = qmc.Sobol(1 + MOST, scramble=False).random_base2(max(count, 1).bit_length())
    return [[float(number) for number in point] for point in drawn[1 : count + 1]]


def points(card: MethodCard, trials: int) -> list[SearchPoint]:
    """What the trials of a method run with, the default first.

    Raises:
        UserError: its ``search`` is wrong.
    """
    said = wrong(card.search, card.defaults)
    if said is not None:
        raise UserError(f"{card.file}: search: {said}")
    found = [SearchPoint(Budget.lr, {name: card.defaults[name] for name in card.search})]
    for rate, *others in unit_points(trials - 1):
        args = {
            name: _at(u, *ends, whole=isinstance(card.defaults[name], int))
            for u, (name, ends) in zip(others, card.search.items(), strict=False)
        }
        found.append(SearchPoint(_at(rate, *LR), args))
    return found


def _at(u: float, low: float, high: float, whole: bool = False) -> float:
    """The value at a share of the way from low to high on a logarithmic scale, to four digits."""
    value = low * (high / low) ** u
    return round(value) if whole else float(f"{value:.4g}")


def wrong(search: Mapping[Any, Any], defaults: Mapping[str, Any]) -> str | None:
    """Why a ``search`` is none; None where it is one.

    Args:
        defaults: of all arguments of the method.
    """
    if len(search) > MOST:
        return f"at most {MOST} arguments, these are {len(search)}"
    for name, ends in search.items():
        if name not in defaults:
            return f"{shown(name)} is no argument of the method"
        numbers = isinstance(ends, (tuple, list)) and len(ends) == 2 and all(map(_number, ends))
        if not numbers or not 0 < ends[0] < ends[1]:
            return f"{name}: expected (low, high), two numbers above 0, got {shown(ends)}"
        if not _number(defaults[name]) or not ends[0] <= defaults[name] <= ends[1]:
            return f"{name}: its default, {shown(defaults[name])}, is not within {ends[0]} and {ends[1]}"
    return None


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def space(card: MethodCard) -> str:
    """12 hex digits that change with what a trial's number stands for: the ranges, the defaults, the versions."""
    searched = {name: [*ends, card.defaults.get(name)] for name, ends in card.search.items()}
    described = [LR, Budget.lr, searched, versions(card)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:12]
