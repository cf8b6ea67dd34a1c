"""Which records enter a leaderboard, and what belongs together there."""

from __future__ import annotations

from collections.abc import Iterable

from benchmark.record.records import Record, finished

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
    """The runs of each (method, key) of one stream, both sorted; runs by order, then seed.

    A method has one default row: of several keys without settings (a CPU's precision and a GPU's) the one with the most
    runs, of equals the newest. The others come with their precision as ``settings``.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda record: (record["order"], record["seed"])):
        groups.setdefault((record["method"], record["key"]), []).append(record)
    first: dict[tuple[str, str], list[Record]] = {}
    for runs in groups.values():
        if runs[0]["settings"] == "":
            place = runs[0]["method"], runs[0]["backbone"]
            first[place] = max(first.get(place, runs), runs, key=lambda runs: (len(runs), max(map(age, runs))))
    return [_named(groups[name], first) for name in sorted(groups)]


def _named(runs: list[Record], first: dict[tuple[str, str], list[Record]]) -> list[Record]:
    if runs[0]["settings"] != "" or first[runs[0]["method"], runs[0]["backbone"]] is runs:
        return runs
    return [run | {"settings": f"precision={run['config'].get('precision')}"} for run in runs]


def group_place(group: str) -> tuple[int, str]:
    """Where a group stands in a table."""
    return GROUPS.index(group) if group in GROUPS else len(GROUPS), group
