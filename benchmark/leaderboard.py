"""Tables made from the records alone: four CSV files per stream, of fusion a fifth.

Only complete records of the test split without a ``limit`` enter. The same records give the same bytes, in whatever
order and on whatever machine they are read: sums are exact (``fsum``), draws are seeded from the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmark import metrics
from benchmark.errors import UserError, unknown
from benchmark.records import (
    DROPS,
    MATCHES,
    PROTOCOLS,
    RECALLS,
    Record,
    csv_text,
    decimals,
    finished,
    missing_rows,
    read_all,
    run_files,
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
DIGITS = {"train_seconds_mean": 2, "eval_seconds_mean": 2, "peak_memory_mib": 1}
GROUPS = ("plain", "needs identity", "keeps images", "needs length", "joint")
DRAWS = 2000


# Numbers


def _whole(values: Sequence[float | None]) -> list[float]:
    """The values, or no value if one of them is null."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def mean(values: Sequence[float | None]) -> float | None:
    """The mean, None when there is no value or one of them is null."""
    known = _whole(values)
    return fmean(known) if known else None


def deviation(values: Sequence[float | None]) -> float | None:
    """The sample standard deviation (ddof 1), None for fewer than two values or with a null."""
    known = _whole(values)
    return stdev(known) if len(known) > 1 else None


def interval(runs: Sequence[Record], values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """A 95 % percentile interval of the mean from a nested bootstrap: orders are drawn, then seeds within each.

    The runs of one key differ in seed and order, and runs of one order are alike, so both levels are drawn again.
    None for a single run or with a null. Additions are elementwise, in one order, so that no machine rounds otherwise.
    """
    known = _whole(values)
    if len(known) < 2:
        return None, None
    import numpy as np

    orders: dict[int, list[float]] = {}
    for run, value in zip(runs, known, strict=True):
        orders.setdefault(run["order"], []).append(value)
    sizes, widest = np.array([len(each) for each in orders.values()]), max(map(len, orders.values()))
    table_OS = np.array([each + [0.0] * (widest - len(each)) for each in orders.values()])
    generator = np.random.Generator(np.random.PCG64(int(runs[0]["key"], 16)))
    total, count = np.zeros(DRAWS), np.zeros(DRAWS)
    for _ in range(len(orders)):
        order_D = (generator.random(DRAWS) * len(orders)).astype(int)
        for place in range(widest):
            seed_D = (generator.random(DRAWS) * sizes[order_D]).astype(int)
            total += np.where(place < sizes[order_D], table_OS[order_D, seed_D], 0.0)
            count += place < sizes[order_D]
    low, high = np.percentile(total / count, [2.5, 97.5])
    return float(low), float(high)


def _over_tasks(runs: Sequence[Record], name: str, reduce: Any) -> list[float | None]:
    """One number of a cost per run; None where the run did not measure it."""
    costs = [run["cost"].get(name) or [None] for run in runs]
    return [None if None in cost else reduce(cost) for cost in costs]


# Rows


def counts(record: Record) -> bool:
    """Whether a record may enter a leaderboard."""
    return record["status"] == "complete" and record["split"] == "test" and record["limit"] is None


def newest(records: Iterable[Record]) -> dict[str, Record]:
    """The newest record of every method that may enter a leaderboard."""
    found: dict[str, Record] = {}
    for record in filter(counts, records):
        found[record["method"]] = max(found.get(record["method"], record), record, key=_age)
    return found


def rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The leaderboard of one stream, one dict of ``COLUMNS`` per (method, key, protocol), in the order of the file.

    ``rank`` is given only to defaults (``settings`` empty) and counts among the same group, protocol and backbone, by
    the mean last accuracy as printed; equals share the better rank. ``stale`` compares with the newest of ``records``.
    """
    entering = [record for record in records if counts(record)]
    result, latest = [], newest(entering)
    for runs in _by_key(entering):
        current = latest[runs[0]["method"]]["provenance"]["fingerprint"]
        result += [_row(runs, protocol, current) for protocol in PROTOCOLS]
    for row in result:
        rivals = [other for other in result if rank_class(other) == rank_class(row)]
        if _ranked(row):
            row["rank"] = 1 + sum(_ranked(other) and _printed(other) > _printed(row) for other in rivals)
    return sorted(result, key=_place)


def _by_key(records: Iterable[Record]) -> list[list[Record]]:
    """The runs of each (method, key), both sorted."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda record: (record["order"], record["seed"])):
        groups.setdefault((record["method"], record["key"]), []).append(record)
    return [groups[name] for name in sorted(groups)]


def _age(record: Record) -> tuple:
    return finished(record), record["key"], record["order"], record["seed"]


def _row(runs: list[Record], protocol: str, current: str) -> dict[str, Any]:
    head = max(runs, key=_age)
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
    row["peak_memory_mib"] = max(_whole(peaks), default=None)
    row["stale"] = any(run["provenance"]["fingerprint"] != current for run in runs)
    return {name: row.get(name) for name in (*COLUMNS, *(f"{name}_mean" for name in EXTRA if name in values))}


def rank_class(row: dict[str, Any]) -> tuple:
    return row["group"], row["protocol"], row["backbone"]


def _ranked(row: dict[str, Any]) -> bool:
    return row["settings"] == "" and row["last_acc_mean"] is not None


def _printed(row: dict[str, Any]) -> float:
    return float(decimals(row["last_acc_mean"]))


def _place(row: dict[str, Any]) -> tuple:
    group = GROUPS.index(row["group"]) if row["group"] in GROUPS else len(GROUPS)
    rank = float("inf") if row["rank"] is None else row["rank"]
    return PROTOCOLS.index(row["protocol"]), group, row["group"], rank, row["method"], row["key"]


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
    A fusion stream has ``.missing.csv`` as well: accuracy where a part of the samples lacks the image or the text.

    ``matrix.csv`` is the mean matrix of the primary metric over the runs of each key's lowest order only: stages of
    different orders have learned different tasks. The other two are per task name over all runs in which the task was
    not the last. A stream with no record that counts gets no file; one it has already is left with its header.

    Any number of processes may build at once: each looks again after writing and repeats if a record came meanwhile,
    so whoever writes last has seen every record.

    Returns:
        The files written.

    Raises:
        UserError: no runs of that stream, or an unreadable record.
    """
    results = Path(results)
    known_stream(results, stream)
    for _ in range(10):
        before = _stamps(results, stream)
        written = _write(results, read_all(results, stream))
        if _stamps(results, stream) == before:
            break
    return written


def known_stream(results: Path, stream: str | None) -> None:
    names = sorted(path.name for path in (results / "runs").glob("*") if path.is_dir())
    if stream is not None and stream not in names:
        raise unknown("stream", stream, names, f"{results / 'runs'}") if names else UserError(f"no runs in {results}")


def _stamps(results: Path, stream: str | None) -> dict[Path, tuple[int, int]]:
    stamps = {}
    for path in run_files(results, stream):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        stamps[path] = (status.st_mtime_ns, status.st_ino)
    return stamps


def _write(results: Path, records: list[Record]) -> list[Path]:
    written = []
    for folder in sorted({record["stream"]["folder"] for record in records}):
        here = [record for record in records if record["stream"]["folder"] == folder]
        if any(map(counts, here)) or (results / "leaderboards" / f"{folder}.csv").exists():
            for suffix, text in _texts(here).items():
                written.append(results / "leaderboards" / f"{folder}{suffix}")
                write_text(written[-1], text)
    return written


def _texts(records: list[Record]) -> dict[str, str]:
    """The content of a stream's files by suffix."""
    entering = [record for record in records if counts(record)]
    keys = [(runs, protocol) for runs in _by_key(entering) for protocol in PROTOCOLS]
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
        ".csv": csv_text(columns, ([_cell(name, row.get(name)) for name in columns] for row in every)),
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


def _cell(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) or value is None:
        return decimals(value, DIGITS.get(name, 6))
    return str(value)
