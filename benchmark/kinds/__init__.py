"""The kinds of task, one declarative file each. No torch: readers of records ask here, and so does what computes."""

from __future__ import annotations

from benchmark.kinds import classification, fusion, retrieval
from benchmark.kinds.kind import Column, Kind

__all__ = ["KINDS", "Column", "Kind", "of"]

KINDS: dict[str, Kind] = {module.KIND.name: module.KIND for module in (classification, fusion, retrieval)}


def of(name: str) -> Kind:
    """The kind of this name.

    Raises:
        KeyError: there is none; whoever reads a user's file asks ``KINDS`` first.
    """
    return KINDS[name]
