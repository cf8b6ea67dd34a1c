"""Which records enter a leaderboard, and what belongs together there."""

from __future__ import annotations

from collections.abc import Iterable

from benchmark.records import Record, finished

GROUPS = ("plain", "needs identity", "keeps images", "needs length", "joint")


def counts(record: Record) -> bool:
    """Whether a record may enter a leaderboard."""
    return record["status"] == "complete" and record["split"] == "test" and record["limit"] is None


def age(record: Record) -> tuple:
    """The later, the larger; no two records of a stream and method are of one age."""
    return finished(record), record["key"], record["order"], record["seed"]


def newest(records: Iterable[Record]) -> dict[str, Record]:
    """The newest record of every method that may enter a leaderboard."""
    found: dict[str, Record] = {}
    for record in filter(counts, records):
        found[record["method"]] = max(found.get(record["method"], record), record, key=age)
    return found


def by_key(records: Iterable[Record]) -> list[list[Record]]:
    """The runs of each (method, key) of one stream, both sorted; runs by order, then seed."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda record: (record["order"], record["seed"])):
        groups.setdefault((record["method"], record["key"]), []).append(record)
    return [groups[name] for name in sorted(groups)]


def group_place(group: str) -> tuple[int, str]:
    """Where a group stands in a table."""
    return GROUPS.index(group) if group in GROUPS else len(GROUPS), group
