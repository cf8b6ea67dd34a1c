"""Which records enter a leaderboard, and what belongs together there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import combinations

from benchmark.config import registry
from benchmark.data import catalog
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


def by_key(records: Iterable[Record]) -> list[list[Record]]:
    """The runs of each (method, key) of one stream, both sorted; runs by order, then seed.

    A method has one default row: of several keys without settings (versions of the method, a CPU's precision and a
    GPU's) that of the newest version, then with the most runs, of equals the newest. The others come with their version
    or precision as ``settings``.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.order, record.seed)):
        groups.setdefault((record.method, record.key), []).append(record)
    first: dict[tuple[str, str], list[Record]] = {}
    for runs in groups.values():
        if runs[0].settings == "":
            place = runs[0].method, runs[0].backbone
            first[place] = max(first.get(place, runs), runs, key=_standing)
    return [_named(groups[name], first) for name in sorted(groups)]


def _standing(runs: list[Record]) -> tuple[int, int, tuple[datetime, str, int, int]]:
    return _version(runs), len(runs), max(map(age, runs))


def _version(runs: list[Record]) -> int:
    return runs[0].config.versions.get("method", 1)


def _named(runs: list[Record], first: dict[tuple[str, str], list[Record]]) -> list[Record]:
    if runs[0].settings != "" or first[runs[0].method, runs[0].backbone] is runs:
        return runs
    earlier = _version(runs) < _version(first[runs[0].method, runs[0].backbone])
    told = f"version={_version(runs)}" if earlier else f"precision={runs[0].config.precision}"
    return [replace(run, settings=told) for run in runs]


def alike(records: Iterable[Record]) -> list[tuple[Record, Record]]:
    """Of every two methods of one stream whose rows have equal scores, to the last digit, in all runs of a shared order
    and seed: the first run of each row.

    What answers alike everywhere is one method, counted twice in ranks and tests.
    """
    rows = by_key(filter(counts, records))
    sittings = [{(run.order, run.seed, run.stream.hash, tuple(run.permutation)): run for run in runs} for runs in rows]
    found = []
    for one, other in combinations(sittings, 2):
        a, b = next(iter(one.values())), next(iter(other.values()))
        shared = one.keys() & other.keys()
        if a.method != b.method and shared and all(one[cell].scores == other[cell].scores for cell in shared):
            found.append((a, b))
    return found


def group_place(group: str) -> tuple[int, str]:
    """Where a group stands in a table."""
    return GROUPS.index(group) if group in GROUPS else len(GROUPS), group


# The code behind a row


def tree_code(method: str, stream: str) -> str | None:
    """The fingerprint of the working tree's code for a method on a stream; None where it has one of them no more."""
    try:
        sources = catalog.load(stream, None).source_kinds
        return provenance.fingerprint(provenance.ROOT, registry.card(method).file, sources)
    except UserError:
        return None


def code_of(record: Record) -> str | None:
    """The fingerprint of the working tree's code for what a record was made of."""
    return tree_code(record.config.method or record.method, record.config.stream or record.stream.name)


def stale(runs: Sequence[Record], code: str | None) -> list[Record]:
    """The runs of one row neither made nor verified by this code, that of the working tree.

    Where a run was verified, it stands for those of the row that the same code made.
    """
    about = [run.provenance for run in runs]
    standing = {made.fingerprint for made in about if made.verified is not None and made.verified.code == code}
    return [run for run in runs if run.provenance.fingerprint not in {code, *standing}]


def made_by_other_code(records: Iterable[Record]) -> list[str]:
    """The methods of one stream with a row that is stale."""
    rows = by_key(filter(counts, records))
    return sorted({runs[0].method for runs in rows if stale(runs, code_of(runs[0]))})
