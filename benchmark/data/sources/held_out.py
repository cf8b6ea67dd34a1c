"""Splits that a source does not have, drawn from its samples: the same draw on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from benchmark import kinds
from benchmark.data.catalog import Source
from benchmark.data.sources.in_files import Sample
from benchmark.data.sources.options import mapping
from benchmark.errors import UserError, shown

FRACTIONS = {"val": 0.1, "test": 0.2}  # of the images of each class


def drawn(source: Source, samples: list[Sample], wanted: Sequence[str]) -> dict[str, list[Sample]]:
    """``wanted`` of the splits out of some samples, and train as what is left; nothing if nothing is wanted.

    Groups stay whole. Those of one class (of their first image) stand in the order of sha256(seed:group), the first
    for train, the next ones for val and test until these have their share: wherever the images lie and whatever other
    classes there are. Generation tasks have no classes, and a group for val however few there are.

    Raises:
        UserError: ``fractions`` or ``seed`` is wrong, or asks for a split that is there.
    """
    fractions, seed = _fractions(source, wanted), source.options.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError(f"{source.where}.seed: expected a whole number, got {shown(seed)}")
    if not fractions:
        return {}
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.group, []).append(i)

    def place(group: str) -> bytes:  # of a name that UTF-8 cannot hold, too
        return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogatepass")).digest()

    least = {"val": int(kinds.of(source.task_kind).speaks), "test": 0}
    classes: dict[int, list[list[int]]] = {}
    for group in sorted(groups, key=place):
        classes.setdefault(samples[groups[group][0]].label, []).append(groups[group])
    split_of = [""] * len(samples)
    for members_of in classes.values():
        count = sum(map(len, members_of))
        left = {"train": 1} | {split: max(round(count * share), least[split]) for split, share in fractions.items()}
        for members in members_of:
            split = next((split for split in left if left[split] > 0), "train")
            left[split] -= len(members)
            for i in members:
                split_of[i] = split
    return {
        split: [sample for sample, of in zip(samples, split_of, strict=True) if of == split]
        for split in ("train", *fractions)
    }


def _fractions(source: Source, wanted: Sequence[str]) -> dict[str, float]:
    """The share of every split that is drawn."""
    given = mapping(source, "fractions", ("val", "test"))
    for split, share in given.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
            raise UserError(f"{source.where}.fractions.{split}: expected a number between 0 and 1, got {shown(share)}")
        if split not in wanted:
            raise UserError(f"{source.where}.fractions.{split}: the split is there, nothing is to be drawn")
    fractions = {split: share for split, share in (FRACTIONS | given).items() if split in wanted}
    if sum(fractions.values()) >= 1:
        raise UserError(f"{source.where}.fractions: nothing is left for train")
    return fractions
