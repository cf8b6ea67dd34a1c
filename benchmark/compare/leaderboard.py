"""Tables made from the records alone: CSV files per stream, and two over all streams.

Only complete records of the test split without a ``limit`` enter. The same records give the same bytes, in whatever
order and on whatever machine they are read: sums are exact (``fsum``), draws are seeded from the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark import metrics
from benchmark.compare import comparisons
from benchmark.compare.entries import age, by_key, counts, group_place, newest
from benchmark.compare.stats import average_ranks, deviation, interval, mean, whole
from benchmark.errors import UserError, unknown
from benchmark.record.records import (
    DROPS,
    MATCHES,
    PROTOCOLS,
    RECALLS,
    Record,
    csv_text,
    decimals,
    missing_rows,
    read_all,
    write_text,
)

COLUMNS = (
    "rank", "method", "backbone", "key", "settings", "group", "protocol", "primary", "n_runs", "seeds", "orders",
    "last_acc_mean", "last_acc_std", "last_acc_ci_low", "last_acc_ci_high", "avg_acc_mean", "avg_acc_std", "aia_mean",
    "forgetting_mean", "forgetting_std", "bwt_mean", "bwt_std", "fwt_mean", "transfer_mean", "learning_acc_mean",
    "balanced_acc_mean", "macro_auroc_mean", "trainable_params", "stored_bytes", "train_seconds_mean",
    "eval_seconds_mean", "peak_memory_mib", "stale",
)  # fmt: skip
EXTRA = (*MATCHES, *DROPS)  # behind them, where a stream's runs have these
DIGITS = {"rank": 2, "train_seconds_mean": 2, "eval_seconds_mean": 2, "peak_memory_mib": 1}
ACROSS = "overall"  # the files over all streams


# Rows


def _over_tasks(runs: Sequence[Record], name: str, reduce: Any) -> list[float | None]:
    """One number of a cost per run; None where the run did not measure it."""
    costs = [run["cost"].get(name) or [None] for run in runs]
    return [None if None in cost else reduce(cost) for cost in costs]


def rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The leaderboard of one stream, one dict of ``COLUMNS`` per (method, key, protocol), in the order of the file.

    ``rank`` is given only to defaults (``settings`` empty) and counts among the same group, protocol and backbone:
    ``cell_ranks`` of the last accuracies as printed. ``stale`` compares with the newest of ``records``.
    """
    entering = [record for record in records if counts(record)]
    result, latest = [], newest(entering)
    classes: dict[tuple, list[tuple[dict[str, Any], dict[tuple[int, int], float]]]] = {}
    for runs in by_key(entering):
        current = latest[runs[0]["method"]]["provenance"]["fingerprint"]
        for protocol in PROTOCOLS:
            row = _row(runs, protocol, current)
            result.append(row)
            if row["settings"] == "" and row["last_acc_mean"] is not None:
                scores = (decimals(run["summary"][protocol]["last_acc"]) for run in runs)
                cells = {(run["order"], run["seed"]): float(score) for run, score in zip(runs, scores, strict=True)}
                classes.setdefault(rank_class(row), []).append((row, cells))
    for rivals in classes.values():
        for (row, _), rank in zip(rivals, cell_ranks([cells for _, cells in rivals]), strict=True):
            row["rank"] = rank
    return sorted(result, key=_place)


def cell_ranks(rivals: Sequence[Mapping[tuple[int, int], float]]) -> list[float | None]:
    """Of each rival, a score per cell (order, seed): its rank in every reference cell (1 is best, equals share the mean
    of their ranks), averaged over them.

    Reference cells are those that more than half of the rivals have; who lacks one of them has no rank. With fewer
    than two reference cells, or fewer than two rivals that have them all, nobody has.
    """
    known = set().union(*rivals)
    reference = sorted(cell for cell in known if 2 * sum(cell in each for each in rivals) > len(rivals))
    placed = [place for place, each in enumerate(rivals) if all(cell in each for cell in reference)]
    ranks: list[float | None] = [None] * len(rivals)
    if len(reference) > 1 and len(placed) > 1:
        table_BM = [[rivals[place][cell] for place in placed] for cell in reference]
        for place, rank in zip(placed, average_ranks(table_BM), strict=True):
            ranks[place] = rank
    return ranks


def _row(runs: list[Record], protocol: str, current: str) -> dict[str, Any]:
    head = max(runs, key=age)
    values = {name: [run["summary"][protocol][name] for run in runs] for name in runs[0]["summary"][protocol]}
    row: dict[str, Any] = {"rank": None, "protocol": protocol, "n_runs": len(runs)}
    row |= {name: head[name] for name in ("method", "backbone", "key", "settings", "group", "primary")}
    row |= {f"{name}s": " ".join(map(str, sorted({run[name] for run in runs}))) for name in ("seed", "order")}
    row |= {f"{name}_mean": mean(each) for name, each in values.items()}
    row |= {f"{name}_std": deviation(each) for name, each in values.items()}
    row["last_acc_ci_low"], row["last_acc_ci_high"] = interval(runs, values["last_acc"])
    for name, reduce in (("trainable_params", max), ("stored_bytes", lambda cost: cost[-1])):
        number = mean(_over_tasks(runs, name, reduce))
        row[name] = None if number is None else round(number)
    row["train_seconds_mean"] = mean(_over_tasks(runs, "train_seconds", sum))
    row["eval_seconds_mean"] = mean(_over_tasks(runs, "eval_seconds", sum))
    peaks = _over_tasks(runs, "peak_memory_mib", max)
    row["peak_memory_mib"] = max(whole(peaks), default=None)
    if "dominance" in values:  # of the mean drops: a mean of ratios is at the mercy of a drop near zero
        drops = [row["image_drop_mean"], row["text_drop_mean"]]
        row["dominance_mean"] = metrics.dominance(*drops) if None not in drops and min(drops) > 0 else None
    row["stale"] = any(run["provenance"]["fingerprint"] != current for run in runs)
    return {name: row.get(name) for name in (*COLUMNS, *(f"{name}_mean" for name in EXTRA if name in values))}


def rank_class(row: dict[str, Any]) -> tuple:
    return row["group"], row["protocol"], row["backbone"]


def _place(row: dict[str, Any]) -> tuple:
    """Best average rank first, then without one; equals by mean last accuracy as printed, then by name."""
    rank = float("inf") if row["rank"] is None else row["rank"]
    last = -float(decimals(row["last_acc_mean"]) or "-inf")
    return PROTOCOLS.index(row["protocol"]), *group_place(row["group"]), rank, last, row["method"], row["key"]


def _measures(run: Record) -> tuple[str, ...]:
    """The primary metric; of retrieval behind it the recalls of both directions."""
    return (run["primary"], *(name for name in RECALLS if name in run["scores"]))


def _spread(values: Sequence[float | None]) -> list[str]:
    return [decimals(mean(values)), decimals(deviation(values))]


def _matrix_rows(runs: list[Record], protocol: str) -> Iterator[list[object]]:
    """Stage, task, mean and deviation of every measure, and n of every cell, over the runs of the lowest order."""
    alike = [run for run in runs if run["order"] == runs[0]["order"]]
    scores = [[run["scores"][name][protocol] for run in alike] for name in _measures(runs[0])]
    for stage in range(len(scores[0][0])):
        for place, task in enumerate(runs[0]["stream"]["tasks"]):
            cells = [_spread([matrix[stage][place] for matrix in matrices]) for matrices in scores]
            yield [stage, task["name"], *(text for cell in cells for text in cell), len(alike)]


def _task_rows(runs: list[Record], protocol: str, per_task: Any) -> Iterator[list[object]]:
    """Task, mean and deviation of every measure, and n over all runs in which the task was not the last, in the
    stream's listed order."""
    found: dict[tuple[int, str], list[list[float | None]]] = {}
    for run in runs:
        tasks = zip(run["permutation"], run["stream"]["tasks"], strict=True)
        columns = [per_task(run["scores"][name][protocol]).tolist() for name in _measures(run)]
        for (listed, task), *numbers in zip(tasks, *columns, strict=False):  # the last task has no number
            known = [None if number != number else number for number in numbers]
            found.setdefault((listed, task["name"]), []).append(known)
    for (_, task), numbers in sorted(found.items()):
        measures = [list(values) for values in zip(*numbers, strict=True)]
        yield [task, *(text for values in measures for text in _spread(values)), len(numbers)]


def _missing_rows(runs: list[Record], protocol: str) -> Iterator[list[object]]:
    """What is missing, at which rate, mean and deviation over runs of the final model's mean accuracy, and n."""
    tables = [[row for row in missing_rows(run) if row[0] == protocol] for run in runs]
    for rows in zip(*tables, strict=True):
        yield [*rows[0][1:3], *_spread([float(row[-1]) if row[-1] else None for row in rows]), len(rows)]


# Files


def build(results: Path, stream: str | None = None) -> list[Path]:
    """Write ``results/leaderboards/<stream>.csv`` and beside it ``.matrix.csv``, ``.forgetting.csv`` and ``.bwt.csv``.
    A fusion stream has ``.missing.csv`` as well: accuracy where a part of the samples lacks the image or the text; a
    stream whose runs kept their hits ``.pairs.csv``. ``overall.csv`` and ``overall.pairs.csv`` are over all streams,
    whichever was named.

    ``matrix.csv`` is the mean matrix of the primary metric over the runs of each key's lowest order only: stages of
    different orders have learned different tasks. The other two are per task name over all runs in which the task was
    not the last. A stream with no record that counts gets no file, and without a comparison to show neither do the
    last three; a file that is there already is left with its header.

    Any number of processes may build at once: each reads again after writing and repeats if the records that count
    have changed meanwhile, so whoever writes last has seen every record.

    Returns:
        The files written.

    Raises:
        UserError: no runs of that stream, a stream named ``overall``, or an unreadable record of any stream.
    """
    results = Path(results)
    known_stream(results, stream)
    entering = list(filter(counts, read_all(results)))
    for _ in range(10):
        written = _write(results, entering, stream)
        before, entering = entering, list(filter(counts, read_all(results)))
        if entering == before:
            break
    return written


def known_stream(results: Path, stream: str | None) -> None:
    names = sorted(path.name for path in (results / "runs").glob("*") if path.is_dir())
    if ACROSS in names:
        raise UserError(f"{results / 'runs' / ACROSS}: {ACROSS}.csv is the table over all streams; rename this one")
    if stream is not None and stream not in names:
        raise unknown("stream", stream, names, f"{results / 'runs'}") if names else UserError(f"no runs in {results}")


def _write(results: Path, entering: list[Record], stream: str | None) -> list[Path]:
    """The files of one stream or of all, then those over all streams; all texts are made before a file is written."""
    streams: dict[str, list[Record]] = {path.name: [] for path in (results / "runs").glob("*")}
    for record in entering:
        streams.setdefault(record["stream"]["folder"], []).append(record)
    texts: dict[str, str] = {}
    for folder in sorted(streams):
        known = streams[folder] or (results / "leaderboards" / f"{folder}.csv").exists()
        if known and stream in (None, folder):
            texts |= {f"{folder}{suffix}": text for suffix, text in _texts(streams[folder]).items()}
            texts[f"{folder}.pairs.csv"] = _table_text(comparisons.PAIRS, comparisons.pairs(streams[folder]))
    texts[f"{ACROSS}.csv"] = _table_text(comparisons.OVERALL, comparisons.overall(entering))
    texts[f"{ACROSS}.pairs.csv"] = _table_text(comparisons.OVERALL_PAIRS, comparisons.overall_pairs(entering))
    written = []
    for name, text in texts.items():
        path = results / "leaderboards" / name
        compares = name.endswith(".pairs.csv") or name == f"{ACROSS}.csv"
        if not compares or text.count("\n") > 1 or path.exists():
            write_text(path, text)
            written.append(path)
    return written


def _texts(entering: list[Record]) -> dict[str, str]:
    """The content of a stream's files by suffix."""
    keys = [(runs, protocol) for runs in by_key(entering) for protocol in PROTOCOLS]
    measures = _measures(entering[0]) if entering else ("accuracy",)

    def long(columns: Iterable[str], cells: Any) -> str:
        found = ([runs[0]["method"], runs[0]["key"], protocol, *cell] for runs, protocol in keys
                 for cell in cells(runs, protocol))  # fmt: skip
        return csv_text(("method", "key", "protocol", *columns, "n_runs"), found)

    def tasks(name: str, per_task: Any) -> str:
        names = [name, *(f"{measure}_{name}" for measure in measures[1:])]
        columns = (f"{each}_{kind}" for each in names for kind in ("mean", "std"))
        return long(("task", *columns), lambda runs, kind: _task_rows(runs, kind, per_task))

    every = rows(entering)
    columns = max((tuple(row) for row in every), key=len, default=COLUMNS)
    texts = {
        ".csv": _table_text(columns, every),
        ".matrix.csv": long(
            ("stage", "task", *(f"{each}_{kind}" for each in measures for kind in ("mean", "std"))), _matrix_rows
        ),
        ".forgetting.csv": tasks("forgetting", metrics.forgetting_per_task),
        ".bwt.csv": tasks("bwt", metrics.backward_transfer_per_task),
    }
    keys = [(runs, protocol) for runs, protocol in keys if all("missing" in run for run in runs)]
    if keys:
        texts[".missing.csv"] = long(("missing", "rate", "accuracy_mean", "accuracy_std"), _missing_rows)
    return texts


def _table_text(columns: Sequence[str], found: Iterable[Mapping[str, Any]]) -> str:
    return csv_text(columns, ([_cell(name, row.get(name)) for name in columns] for row in found))


def _cell(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) or value is None:
        return decimals(value, DIGITS.get(name, 6))
    return str(value)
