"""Which records enter a leaderboard, and what belongs together there."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from benchmark.config import registry
from benchmark.errors import UserError
from benchmark.record import provenance
from benchmark.record.schema import Record

GROUPS = ("plain", "needs identity", "keeps images", "needs length", "joint")


def counts(record: Record) -> bool:
    """Whether a record may enter a leaderboard."""
    return record.ranked


def age(record: Record) -> tuple[datetime, str, int, int]:
    """The later, the larger; no two records of a stream and method are of one age."""
    return record.finished, record.key, record.order, record.seed


def newest(records: Iterable[Record]) -> dict[str, Record]:
    """The newest record of every method that may enter a leaderboard."""
    found: dict[str, Record] = {}
    for record in filter(counts, records):
        found[record.method] = max(found.get(record.method, record), record, key=age)
    return found


def by_key(records: Iterable[Record]) -> list[list[Record]]:
    """The runs of each (method, key) of one stream, both sorted; runs by order, then seed.

    A method has one default row: of several keys without settings (a CPU's precision and a GPU's) the one with the most
    runs, of equals the newest. The others come with their precision as ``settings``.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.order, record.seed)):
        groups.setdefault((record.method, record.key), []).append(record)
    first: dict[tuple[str, str], list[Record]] = {}
    for runs in groups.values():
        if runs[0].settings == "":
            place = runs[0].method, runs[0].backbone
            first[place] = max(first.get(place, runs), runs, key=lambda runs: (len(runs), max(map(age, runs))))
    return [_named(groups[name], first) for name in sorted(groups)]


def _named(runs: list[Record], first: dict[tuple[str, str], list[Record]]) -> list[Record]:
    if runs[0].settings != "" or first[runs[0].method, runs[0].backbone] is runs:
        return runs
    return [replace(run, settings=f"precision={run.config.precision}") for run in runs]


def group_place(group: str) -> tuple[int, str]:
    """Where a group stands in a table."""
    return GROUPS.index(group) if group in GROUPS else len(GROUPS), group


def made_by_other_code(records: Iterable[Record]) -> list[str]:
    """The methods whose newest complete record of a stream was made by other code than that of the working tree."""
    root, changed = Path(__file__).resolve().parents[2], []
    for method, record in sorted(newest(records).items()):
        with suppress(UserError):  # a method that is no longer there
            if record.provenance.fingerprint != provenance.fingerprint(root, registry.card(method).file):
                changed.append(method)
    return changed
