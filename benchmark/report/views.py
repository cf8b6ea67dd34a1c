"""What the report shows of a stream, as plain values: nothing is drawn here, and nothing that ``leaderboard.rows`` has
is computed again."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmark import metrics
from benchmark.compare import leaderboard
from benchmark.compare.entries import by_key, counts
from benchmark.record.records import MISSING_RATES, PROTOCOLS, Record, missing_rows, run_folder
from benchmark.report import modality

View = dict[str, Any]
NUMBERS = ("forgetting", "bwt", "fwt")


def stream_view(records: Sequence[Record]) -> View:
    """One stream: its tasks, its leaderboard rows, its methods.

    Args:
        records: of one stream, at least one of which enters the leaderboard.
    """
    entering = [record for record in records if counts(record)]
    rows, head = leaderboard.rows(entering), entering[0]
    stream = head["stream"]
    by_identity = {(row["method"], row["key"], row["protocol"]): row for row in rows}
    methods = [
        method_view(runs, {protocol: by_identity[method, key, protocol] for protocol in PROTOCOLS})
        for (method, key), runs in _in_order(entering, rows)
    ]
    by_place = dict(zip(head["permutation"], stream["tasks"], strict=True))
    return {
        "name": stream["folder"],
        "kind": stream["kind"],
        "measure": head["primary"].replace("_", " "),
        "tasks": [by_place[place] for place in sorted(by_place)],
        "chance": chance(stream),
        "hash": stream["hash"],
        "rows": rows,
        "methods": methods,
        "runs": entering,
        "left_out": _left_out(records),
        "data": _data(entering),
        "newest": max(record["provenance"]["finished"] for record in entering),
    }


def _in_order(entering: Iterable[Record], rows: Iterable[View]) -> list[tuple[tuple[str, str], list[Record]]]:
    """The runs of each (method, key) in the order of the leaderboard, identity given."""
    found = {(runs[0]["method"], runs[0]["key"]): runs for runs in by_key(entering)}
    places = [(row["method"], row["key"]) for row in rows if row["protocol"] == PROTOCOLS[0]]
    return [(place, found[place]) for place in places]


def chance(stream: View) -> dict[str, float] | None:
    """What guessing scores after the last task: the mean over tasks of 1 / candidates; None for retrieval."""
    sizes = [len(task["labels"]) for task in stream["tasks"]]
    if stream["kind"] == "retrieval" or not all(sizes):
        return None
    every = sizes[0] if stream["label_space"] == "shared" else sum(sizes)
    return {"given": fmean(1 / size for size in sizes), "hidden": 1 / every}


def _left_out(records: Iterable[Record]) -> dict[str, int]:
    """How many records enter no leaderboard, by reason."""
    found: dict[str, int] = {}
    for record in records:
        if not counts(record):
            unfinished, validation = record["status"] != "complete", record.get("split") != "test"
            reason = "not finished" if unfinished else "validation split" if validation else "limited data"
            found[reason] = found.get(reason, 0) + 1
    return found


def _data(runs: Iterable[Record]) -> dict[str, list[str]]:
    """The checksums of every task's data; more than one only if runs of one stream disagree."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for task, digest in (run["provenance"].get("data") or {}).items():
            found.setdefault(task, set()).add(str(digest))
    return {task: sorted(digests) for task, digests in found.items()}


# One method


def method_view(runs: Sequence[Record], rows: dict[str, View]) -> View:
    """One (method, key): the mean matrix of its lowest order, and over all runs what happened task by task.

    Args:
        runs: sorted by order and seed.
        rows: its leaderboard rows by protocol.
    """
    alike = [run for run in runs if run["order"] == runs[0]["order"]]
    row = rows[PROTOCOLS[0]]
    return {
        **{name: row[name] for name in ("method", "key", "settings", "group", "backbone", "n_runs")},
        "stale": row["stale"],
        "rows": rows,
        "tasks": runs[0]["stream"]["tasks"],
        "alike": [(run["seed"], run["order"]) for run in alike],
        "matrix": {protocol: _mean_matrix(_matrices(alike, protocol)) for protocol in PROTOCOLS},
        "forgotten": {protocol: _mean_rows([metrics.forgetting_per_task(matrix).tolist()
                                            for matrix in _matrices(alike, protocol)]) for protocol in PROTOCOLS},
        "curve": {protocol: _mean_rows([modality.learned_so_far(m) for m in _matrices(runs, protocol)])
                  for protocol in PROTOCOLS},
        "modalities": _modalities(runs),
        "steps": {protocol: _steps(runs, protocol) for protocol in PROTOCOLS},
        "router": _router(alike),
        "missing": _missing(runs),
        "provenance": [provenance_view(run) for run in runs],
        "packages": sorted({_packages(run) for run in runs}),
    }  # fmt: skip


def _matrices(runs: Iterable[Record], protocol: str) -> list[list[list[float]]]:
    """The primary metric's matrix of every run, null as NaN."""
    matrices = (run["scores"][run["primary"]][protocol] for run in runs)
    return [[[math.nan if cell is None else cell for cell in row] for row in matrix] for matrix in matrices]


def _mean_matrix(matrices: Sequence[Sequence[Sequence[float]]]) -> list[list[float | None]]:
    return [_mean_rows(rows) for rows in zip(*matrices, strict=True)]


def _mean_rows(rows: Sequence[Sequence[float]]) -> list[float | None]:
    """The mean of each place over rows of one length; None where one of them is NaN."""
    return [average(values) for values in zip(*rows, strict=True)]


def average(values: Iterable[float]) -> float | None:
    """The mean; None for no value and where one is NaN."""
    known = list(values)
    return fmean(known) if known and not any(map(math.isnan, known)) else None


def _modalities(runs: Sequence[Record]) -> list[View]:
    """Per modality the mean forgetting and transfer over the tasks of every run that have the number."""
    pooled: dict[str, dict[str, dict[str, list[float]]]] = {}
    for run in runs:
        names = [task["modality"] for task in run["stream"]["tasks"]]
        for protocol in PROTOCOLS:
            for name, numbers in modality.per_modality(_matrices([run], protocol)[0], names).items():
                kept = pooled.setdefault(name, {each: {key: [] for key in NUMBERS} for each in PROTOCOLS})
                for key, values in numbers.items():
                    kept[protocol][key] += values
    names = [task["modality"] for task in runs[0]["stream"]["tasks"]]
    return [
        {"name": name, "tasks": names.count(name)}
        | {protocol: {key: average(values) for key, values in kept[protocol].items()} for protocol in PROTOCOLS}
        for name, kept in pooled.items()
    ]


def _steps(runs: Sequence[Record], protocol: str) -> tuple[float | None, float | None]:
    """Intra- and inter-modality forgetting per step (``modality.step_drops``), the mean over runs."""
    names = [[task["modality"] for task in run["stream"]["tasks"]] for run in runs]
    drops = [modality.step_drops(matrix, each) for matrix, each in zip(_matrices(runs, protocol), names, strict=True)]
    return average(same for same, _ in drops), average(other for _, other in drops)


def _router(runs: Sequence[Record]) -> View | None:
    """Where the final router sent the test samples, rows adding up to 1; None for a method that never routed.

    ``confusion`` is None when the runs were recorded without it, ``right`` is the diagonal, which all records have.
    """
    last = [(run.get("router_accuracy") or [[]])[-1] for run in runs]
    if not all(any(cell is not None for cell in row) for row in last):
        return None
    counts = [run.get("router_confusion") for run in runs]
    shares = None
    if all(counts):
        summed = [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*counts, strict=True)]
        shares = [[cell / sum(row) if sum(row) else None for cell in row] for row in summed]
    right = _mean_rows([[math.nan if cell is None else cell for cell in row] for row in last])
    return {"confusion": shares, "right": right}


def _missing(runs: Sequence[Record]) -> View | None:
    """Of fusion: {protocol: {(missing, rate): mean accuracy of the final model}}; None where a run did not measure."""
    if not all("missing" in run for run in runs):
        return None
    found: dict[str, dict[tuple[str, float], list[float]]] = {protocol: {} for protocol in PROTOCOLS}
    for run in runs:
        for protocol, what, rate, *_, mean in missing_rows(run):
            found[protocol].setdefault((what, float(rate)), []).append(float(mean) if mean else math.nan)
    return {protocol: {cell: average(values) for cell, values in cells.items()} for protocol, cells in found.items()}


MISSING = [("none", 0.0), *((what, rate) for what in ("image", "text", "both") for rate in MISSING_RATES)]


# Where a number comes from


def provenance_view(run: Record) -> View:
    """One run: who made it when with which code, and the command that makes it again."""
    about = run["provenance"]
    return {
        "seed": run["seed"],
        "order": run["order"],
        "given": run["summary"]["given"]["last_acc"],
        "hidden": run["summary"]["hidden"]["last_acc"],
        "finished": about["finished"],
        "commit": about.get("git_sha"),
        "dirty": about.get("git_dirty"),
        "fingerprint": about["fingerprint"],
        "device": about.get("device"),
        "command": command(run),
        "folder": run_folder(Path(), run["stream"]["folder"], run["method"], run["key"], run["seed"], run["order"])
        .as_posix(),
    }  # fmt: skip


def command(run: Record) -> str:
    """The command that makes a run again; where its files lie (``--data``) is no part of a record."""
    config = run["config"]
    words = ["python", "-m", "benchmark", "run", "--method", str(config.get("method", run["method"]))]
    words += ["--stream", str(config.get("stream", run["stream"]["name"])), "--backbone", run["backbone"]]
    words += ["--seed", str(run["seed"]), "--order", str(run["order"])]
    for name in re.findall(r"(?:^| )((?:method\.)?\w+)=", run["settings"]):
        bare = name.removeprefix("method.")
        value = config.get("method_args", {}).get(bare) if bare != name else config.get(name)
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(words)


def _packages(run: Record) -> str:
    about = run["provenance"]
    versions = {"Python": about.get("python")} | (about.get("packages") or {})
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version) or "not recorded"
