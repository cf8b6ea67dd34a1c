"""What a reader of a page may doubt: how many runs there are, of which code, and what is not ranked or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from benchmark.compare.entries import trial, trial_stream
from benchmark.compare.rows import LeaderboardRow
from benchmark.config import families
from benchmark.data import doubles
from benchmark.report.details import MethodView
from benchmark.report.findings import told
from benchmark.report.views import StreamView
from benchmark.report.wording import some_names

NOT_OURS = "neither made nor verified by the code that built this page"


def evidence(view: StreamView) -> list[str]:
    """How many runs there are, which are stale, which are not ranked and why, what did not enter."""
    runs = [] if trial_stream(view.name) else [run for run in view.runs if not trial(run.settings)]
    if not runs:
        return ["Made to see that things run: nothing is said, counted or ranked of it."]
    seeds, orders = _numbers({run.seed for run in runs}), _numbers({run.order for run in runs})
    methods = {run.named for run in runs}
    said = [f"{len(runs)} runs of {len(methods)} methods; seeds {seeds}; orders {orders}."]
    if not told(view.rows):
        said.append("No method has run more than once: who is ahead is not said.")
    old = stale([row for row in view.rows if not trial(row.settings)])
    said.append(f"Stale, {NOT_OURS}: {', '.join(old)}." if old else
                "Nothing is stale: every row was made or verified by the code that built this page.")  # fmt: skip
    said += [note for name in sorted({run.backbone for run in runs}) if (note := families.note(name))]
    known = {task: asdict(counts) for run in runs for task, counts in (run.repeats or {}).items()}
    if known:
        said.append(f"Data that stand twice: {doubles.told(known)}.")
    for reason, names in unranked(view.rows):
        every = "every method" if methods == set(names) else some_names(names, 12)
        said.append(f"Not ranked, {reason}: {every}.")
    said += [
        f"Left out, {reason}: {number} run{'s' if number > 1 else ''}." for reason, number in view.left_out.items()
    ]
    return said


def unranked(rows: Sequence[LeaderboardRow]) -> list[tuple[str, list[str]]]:
    """Why rows have no rank, with their names; a row is named once although it stands under both protocols."""
    reasons: dict[str, list[str]] = {
        "other settings than the defaults, tuned or official": [],
        "one run only, which says nothing about chance": [],
        "no answer under one of the protocols": [],
        "not the same seeds and orders as its rivals, or no rival": [],
    }
    settings, single, silent, other = reasons.values()
    for row in rows:
        if row.rank is not None or trial(row.settings):
            continue
        name = row.method if row.default else f"{row.method} ({row.preset or row.settings})"
        if not row.preset:
            reason = settings
        elif row.last_acc_mean is None:
            reason = silent
        else:
            reason = single if row.n_runs < 2 else other
        if name not in reason:
            reason.append(name)
    return [(why, names) for why, names in reasons.items() if names]


def stale(rows: Sequence[LeaderboardRow]) -> list[str]:
    """The methods whose rows were neither made nor verified by the tree's code, in the order of the table; or that it
    is every row."""
    names = list(dict.fromkeys(row.method for row in rows if row.stale))
    return ["every row"] if names and all(row.stale for row in rows) else names


def freshness(views: Sequence[StreamView]) -> str:
    """One sentence on stale rows over all streams."""
    old = {view.name: stale(view.rows) for view in views if stale(view.rows)}
    whole = [name for name, names in old.items() if names == ["every row"]]
    said = [f"{', '.join(names)} on {name}" for name, names in old.items() if name not in whole]
    if whole:
        said.insert(0, "every row" if len(whole) == len(views) else f"every row on {', '.join(whole)}")
    return f"Stale, {NOT_OURS}: {'; '.join(said)}." if said else "Nothing is stale."


def code(method: MethodView) -> str:
    """Whether the runs of a row were made by one clean commit."""
    runs = method.provenance
    commits = {run.commit for run in runs}
    dirty = sum(bool(run.dirty) for run in runs)
    said = "All runs at one commit" if len(commits) == 1 else f"Runs at {len(commits)} commits"
    if len(runs) == 1:
        said = "One run"
    if any(run.commit is None or run.dirty is None for run in runs):
        said = f"{'One run' if len(runs) == 1 else f'{len(runs)} runs'}, commit not recorded"
    else:
        said += f", {dirty} of them with uncommitted changes" if dirty else ", without uncommitted changes"
    prints = len({run.fingerprint for run in runs})
    said += f"; {'one code fingerprint' if prints == 1 else f'{prints} code fingerprints'}"
    return f"{said}, stale: {NOT_OURS}." if method.stale else f"{said}."


def _numbers(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)))
