"""Which records enter a leaderboard, and what belongs together there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmark.config import registry
from benchmark.config.key import versions
from benchmark.config.registry import MethodCard
from benchmark.data import catalog
from benchmark.errors import UserError
from benchmark.kinds import OWN
from benchmark.record import provenance
from benchmark.record.schema import Record
from benchmark.record.summary import summarise
from benchmark.stream import Budget

METRICS = ("balanced_accuracy", "macro_auroc")  # by which runs can be looked at beside each task's own metric
GROUPS = ("plain", "needs identity", "keeps images", "needs length", "joint")


def counts(record: Record) -> bool:
    """Whether a record may enter a leaderboard."""
    return record.ranked


def trial_stream(name: str) -> bool:
    """Whether a stream is there to see that things run, and nothing is said or ranked of it."""
    return name.partition("@")[0].partition("_")[0] == "smoke"


def trial(settings: str) -> bool:
    """Whether a row learned for fewer epochs than the common budget has, of which nothing is said or counted."""
    epochs = re.search(r"(?:^| )epochs=(\d+)(?: |$)", settings)
    return epochs is not None and int(epochs[1]) < Budget().epochs


def seen_by(metric: str, records: Iterable[Record]) -> list[Record]:
    """The complete runs as if this metric were that of every task: matrices, numbers and ranks are of it.

    Scores of single samples are of the tasks' own metric and are left out, with what is made from them.

    Raises:
        UserError: none of them was measured by it.
    """
    found = []
    for run in filter(counts, records):
        known = run.scores.get(metric, {})
        if any(cell is not None for matrix in known.values() for row in matrix for cell in row):
            scores = {**run.scores, OWN: known}
            summary = summarise(run.kind, scores)
            found.append(replace(run, primary=metric, scores=scores, summary=summary, hits=None, missing=None))
    if not found:
        raise UserError(f"--metric {metric}: no whole run here was measured by it: it is of classes")
    return found


def age(record: Record) -> tuple[datetime, str, int, int]:
    """The later, the larger; no two records of a stream and method are of one age."""
    return record.finished, record.key, record.order, record.seed


def by_key(records: Iterable[Record]) -> list[list[Record]]:
    """The runs of each (method, key) of one stream, both sorted; runs by order, then seed. The user's own stand apart
    from stored ones (:attr:`Record.named`).

    A method has one default row: of several keys without settings (a CPU's precision and a GPU's, earlier versions of
    the method) one of today's versions if there is one, of these the one with the most runs, of equals the newest. The
    others come with what they differ in as ``settings``: their versions, or their precision.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.order, record.seed)):
        groups.setdefault((record.named, record.key), []).append(record)
    defaults: dict[tuple[str, str], list[list[Record]]] = {}
    for runs in groups.values():
        if runs[0].settings == "":
            defaults.setdefault((runs[0].named, runs[0].backbone), []).append(runs)
    first = {place: _first(rivals) for place, rivals in defaults.items()}
    return [_named(groups[name], first) for name in sorted(groups)]


def _first(rivals: list[list[Record]]) -> list[Record]:
    """The default row of a method among its keys without settings."""
    if len(rivals) == 1:
        return rivals[0]
    card = card_of(rivals[0][0])
    today = None if card is None else versions(card)
    return max(rivals, key=lambda runs: (runs[0].config.versions == today, len(runs), max(map(age, runs))))


def _named(runs: list[Record], first: dict[tuple[str, str], list[Record]]) -> list[Record]:
    chosen = first.get((runs[0].named, runs[0].backbone), runs)
    if runs[0].settings != "" or chosen is runs:
        return runs
    made, theirs = runs[0].config, chosen[0].config.versions
    told = f"precision={made.precision}"
    if made.versions != theirs:
        older = sorted(name for name in {*made.versions, *theirs} if made.versions.get(name) != theirs.get(name))
        told = "version " + ", ".join(f"{made.versions.get(name, 1)} of {name}" for name in older)
    return [replace(run, settings=told) for run in runs]


def card_of(record: Record) -> MethodCard | None:
    """What the working tree says of a record's method; None where it has it no more."""
    try:
        return registry.card(record.config.method or record.method)
    except UserError:
        return None


def candidates(record: Record) -> str:
    """Over which labels a sample's loss ran: own or seen; empty for methods without a choice, and for retrieval."""
    return str(method_args(record).get("candidates", "")) if record.kind.labelled else ""


def method_args(record: Record) -> dict[str, Any]:
    """The method's arguments in a run, an argument that it has had only since as it was before: candidates were own."""
    card = card_of(record)
    before = {"candidates": "own"} if card is not None and "candidates" in card.defaults else {}
    return before | record.config.method_args


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
        if a.method != b.method and shared and all(_equal(one[cell], other[cell]) for cell in shared):
            found.append((a, b))
    return found


def _equal(one: Record, other: Record) -> bool:
    """Whether all scores that both have are the same; later records have some more."""
    return all(one.scores[metric] == other.scores[metric] for metric in one.scores.keys() & other.scores.keys())


def group_place(group: str) -> tuple[int, str]:
    """Where a group stands in a table."""
    return GROUPS.index(group) if group in GROUPS else len(GROUPS), group


# The code behind a row


def tree_code(method: str, stream: str) -> str | None:
    """The fingerprint of the working tree's code for a method on a stream; None where it has one of them no more."""
    try:
        sources = _source_kinds(str(Path(stream).absolute()) if stream.endswith((".yaml", ".yml")) else stream)
        return provenance.fingerprint(provenance.ROOT, registry.card(method).file, sources)
    except (UserError, OSError):  # OSError: of a path from elsewhere that is none here
        return None


@lru_cache(maxsize=256)
def _source_kinds(stream: str) -> tuple[str, ...]:
    return catalog.load(stream, None).source_kinds


def code_of(record: Record) -> str | None:
    """The fingerprint of the working tree's code for what a record was made of."""
    return tree_code(record.config.method or record.method, record.config.stream or record.stream.name)


def stale(runs: Sequence[Record], code: str | None) -> list[Record]:
    """The runs of one row neither made nor verified by this code, that of the working tree.

    Where a run was verified, it stands for those of the row that the same code made. Of a plug-in whose file is not
    found from here nothing is said.
    """
    if code is None and any(":" in (run.config.method or run.method) for run in runs):
        return []
    about = [run.provenance for run in runs]
    standing = {made.fingerprint for made in about if made.verified is not None and made.verified.code == code}
    return [run for run in runs if run.provenance.fingerprint not in {code, *standing}]


def made_by_other_code(records: Iterable[Record]) -> list[str]:
    """The methods of one stream with a row that is stale."""
    rows = by_key(filter(counts, records))
    return sorted({runs[0].named for runs in rows if stale(runs, code_of(runs[0]))})
