"""The kinds of task, one declarative file each. No torch: readers of records ask here, and so does what computes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import chain

from benchmark.kinds import classification, fusion, generation, retrieval
from benchmark.kinds.kind import Column, Kind

__all__ = ["KINDS", "MIXED", "OWN", "Column", "Kind", "joined", "of"]

KINDS: dict[str, Kind] = {module.KIND.name: module.KIND for module in (classification, fusion, retrieval, generation)}
MIXED = "mixed"  # what a stream of several kinds is called
OWN = "primary"  # the metric that is in every column that of the column's own task


def of(name: str) -> Kind:
    """The kind of this name.

    Raises:
        KeyError: there is none; whoever reads a user's file asks ``KINDS`` first.
    """
    return KINDS[name]


def joined(names: Iterable[str]) -> Kind:
    """What holds of a stream whose tasks are of these kinds: all that is said of one, what is said of any of several.

    Of several the primary metric is ``OWN``. A number of the last row is a mean over all tasks: of several kinds those
    are there that each of them has.
    """
    return _joined(tuple(sorted(set(names))))


@cache
def _joined(names: tuple[str, ...]) -> Kind:
    every = [of(name) for name in names]
    if len(every) == 1:
        return every[0]

    def once(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(chain.from_iterable(getattr(kind, name) for kind in every)))

    first, *others = every
    shared = {name: metric for name, metric in first.last_row.items()
              if all(kind.last_row.get(name) == metric for kind in others)}  # fmt: skip
    return Kind(
        name=MIXED,
        smoke="",
        inputs=once("inputs"),
        labelled=any(kind.labelled for kind in every),
        metrics=(OWN, *once("metrics")),
        last_row=shared,
        kept={protocol: tuple(dict.fromkeys(chain.from_iterable(kind.kept[protocol] for kind in every)))
              for protocol in ("given", "hidden")},
        table=(
            Column("forgetting, given / hidden", "forgetting", both=True),
            Column("trained parameters", "trainable_params", "count"),
        ),
        beside=once("measures"),
        board=tuple(name for name in once("board") if name in shared),
        whole_batch=any(kind.whole_batch for kind in every),
        speaks=True,
    )  # fmt: skip
