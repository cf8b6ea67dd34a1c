"""Which tasks a method put together, and how far that agrees with their modalities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from benchmark.record.parts import Count


@dataclass(frozen=True)
class Partition:
    """Groups of tasks.

    Attributes:
        groups: of every task, in the order of the run, the number of its group, in order of first appearance.
        agreement: with the partition by modality, the adjusted Rand index: 1 the same, 0 as by chance.
    """

    groups: list[Count]
    agreement: Annotated[float, Meta(ge=-1, le=1)]

    @classmethod
    def of(cls, groups: Sequence[int], modalities: Sequence[str]) -> Partition:
        """Groups numbered in any way, and the modality of each task."""
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        return cls([numbers[group] for group in groups], round(adjusted_rand(groups, modalities), 6))

    def fits(self, modalities: Sequence[str]) -> bool:
        """Whether it can be of tasks with these modalities."""
        return len(self.groups) == len(modalities) and self == Partition.of(self.groups, modalities)


def adjusted_rand(left: Sequence[Hashable], right: Sequence[Hashable]) -> float:
    """How far two partitions of the same items agree, by pairs of items: 1 the same, about 0 by chance, -1/2 at least.

    Hubert and Arabie, "Comparing Partitions", Journal of Classification 1985: with a pairs together in both, b in the
    left one, c in the right one and n in all, (a - b c / n) / ((b + c) / 2 - b c / n). Partitions that are the same
    have 1 also where that is 0 / 0: all items together, or each alone.

    Args:
        left, right: of every item the group it is in.
    """
    a, b, c = (_pairs(groups) for groups in (zip(left, right, strict=True), left, right))
    if a == b == c:
        return 1.0
    chance = b * c / (len(left) * (len(left) - 1) / 2)
    return (a - chance) / ((b + c) / 2 - chance)


def _pairs(groups: Iterable[Hashable]) -> int:
    """How many pairs of items are in the same group."""
    return sum(n * (n - 1) // 2 for n in Counter(groups).values())
