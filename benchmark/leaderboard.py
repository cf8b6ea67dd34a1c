"""Tables made from the records alone: four CSV files per stream, and what is printed after a run.

Only complete records of the test split without a ``limit`` enter. The same records give the same bytes, in whatever
order and on whatever machine they are read: sums are exact (``fsum``), draws are seeded from the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from benchmark import metrics
from benchmark.errors import UserError, unknown
from benchmark.records import PROTOCOLS, Record, csv_text, decimals, finished, read_all, run_files, write_text

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

COLUMNS = (
    "rank", "method", "backbone", "key", "settings", "group", "protocol", "primary", "n_runs", "seeds", "orders",
    "last_acc_mean", "last_acc_std", "last_acc_ci_low", "last_acc_ci_high", "avg_acc_mean", "avg_acc_std", "aia_mean",
    "forgetting_mean", "forgetting_std", "bwt_mean", "bwt_std", "fwt_mean", "transfer_mean", "learning_acc_mean",
    "balanced_acc_mean", "macro_auroc_mean", "trainable_params", "stored_bytes", "train_seconds_mean",
    "eval_seconds_mean", "peak_memory_mib", "stale",
)  # fmt: skip
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


def rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The leaderboard of one stream, one dict of ``COLUMNS`` per (method, key, protocol), in the order of the file.

    ``rank`` is given only to defaults (``settings`` empty) and counts among the same group, protocol and backbone, by
    the mean last accuracy as printed; equals share the better rank. ``stale`` compares with the newest of ``records``.
    """
    entering = [record for record in records if counts(record)]
    newest: dict[str, Record] = {}
    for record in entering:
        newest[record["method"]] = max(newest.get(record["method"], record), record, key=_age)
    result = []
    for runs in _by_key(entering):
        current = newest[runs[0]["method"]]["provenance"]["fingerprint"]
        result += [_row(runs, protocol, current) for protocol in PROTOCOLS]
    for row in result:
        rivals = [other for other in result if _class(other) == _class(row)]
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
    return {name: row[name] for name in COLUMNS}


def _class(row: dict[str, Any]) -> tuple:
    return row["group"], row["protocol"], row["backbone"]


def _ranked(row: dict[str, Any]) -> bool:
    return row["settings"] == "" and row["last_acc_mean"] is not None


def _printed(row: dict[str, Any]) -> float:
    return float(decimals(row["last_acc_mean"]))


def _place(row: dict[str, Any]) -> tuple:
    group = GROUPS.index(row["group"]) if row["group"] in GROUPS else len(GROUPS)
    rank = float("inf") if row["rank"] is None else row["rank"]
    return PROTOCOLS.index(row["protocol"]), group, row["group"], rank, row["method"], row["key"]


def _matrix_rows(runs: list[Record], protocol: str) -> Iterator[list[object]]:
    """Stage, task, mean, deviation and n of every cell, over the runs of the lowest order."""
    alike = [run for run in runs if run["order"] == runs[0]["order"]]
    scores = [run["scores"][run["primary"]][protocol] for run in alike]
    for stage in range(len(scores[0])):
        for place, task in enumerate(runs[0]["stream"]["tasks"]):
            cell = [matrix[stage][place] for matrix in scores]
            yield [stage, task["name"], decimals(mean(cell)), decimals(deviation(cell)), len(cell)]


def _task_rows(runs: list[Record], protocol: str, per_task: Any) -> Iterator[list[object]]:
    """Task, mean, deviation and n over all runs in which the task was not the last, in the stream's listed order."""
    found: dict[tuple[int, str], list[float | None]] = {}
    for run in runs:
        tasks = zip(run["permutation"], run["stream"]["tasks"], strict=True)
        numbers = per_task(run["scores"][run["primary"]][protocol]).tolist()
        for (listed, task), number in zip(tasks, numbers, strict=False):  # the last task has no number
            found.setdefault((listed, task["name"]), []).append(None if number != number else number)
    for (_, task), numbers in sorted(found.items()):
        yield [task, decimals(mean(numbers)), decimals(deviation(numbers)), len(numbers)]


# Files


def build(results: Path, stream: str | None = None) -> list[Path]:
    """Write ``results/leaderboards/<stream>.csv`` and beside it ``.matrix.csv``, ``.forgetting.csv`` and ``.bwt.csv``.

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
    _known(results, stream)
    for _ in range(10):
        before = _stamps(results, stream)
        written = _write(results, read_all(results, stream))
        if _stamps(results, stream) == before:
            break
    return written


def _known(results: Path, stream: str | None) -> None:
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
    keys = [(runs, protocol) for runs in _by_key(filter(counts, records)) for protocol in PROTOCOLS]

    def long(columns: Sequence[str], cells: Any) -> str:
        found = ([runs[0]["method"], runs[0]["key"], protocol, *cell] for runs, protocol in keys
                 for cell in cells(runs, protocol))  # fmt: skip
        return csv_text(("method", "key", "protocol", *columns, "n_runs"), found)

    def tasks(name: str, per_task: Any) -> str:
        return long(("task", f"{name}_mean", f"{name}_std"), lambda runs, kind: _task_rows(runs, kind, per_task))

    return {
        ".csv": csv_text(COLUMNS, ([_cell(name, row[name]) for name in COLUMNS] for row in rows(records))),
        ".matrix.csv": long(("stage", "task", "accuracy_mean", "accuracy_std"), _matrix_rows),
        ".forgetting.csv": tasks("forgetting", metrics.forgetting_per_task),
        ".bwt.csv": tasks("bwt", metrics.backward_transfer_per_task),
    }


def _cell(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) or value is None:
        return decimals(value, DIGITS.get(name, 6))
    return str(value)


# What is printed


def percent(value: float | None, spread: float | None = None) -> str:
    """``83.2 ± 1.1`` from fractions, ``-`` for null."""
    if value is None or value != value:
        return "-"
    return decimals(100 * value, 1) + (f" ± {decimals(100 * spread, 1)}" if spread is not None else "")


def _short(name: str, width: int) -> str:
    """A task's name over lines no longer than ``width``: ``retina_grading`` becomes ``retina`` above ``grading``."""
    parts = name.replace("-", "_").split("_")
    return "\n".join(part if len(part) <= width else part[: width - 1] + "…" for part in parts if part)


def _table(title: str, **options: Any) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(title=Text(title), box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, **options)


def _styled(text: str, style: str = "") -> Text:
    """A cell that Rich takes as it is: settings such as ``[0, 1]`` are no markup."""
    from rich.text import Text

    return Text(text, style=style)


def table(results: Path, stream: str) -> Table:
    """The leaderboard of a stream, one line per (method, key): per cent with the standard deviation over runs.

    Rank, forgetting and BWT are with the identity given; bold is the best default of its group and backbone.
    """
    _known(Path(results), stream)
    every = rows(read_all(Path(results), stream))
    hidden = {(row["method"], row["key"]): row for row in every if row["protocol"] == "hidden"}
    result = _table(f"{stream}: per cent, mean ± standard deviation over runs")
    result.add_column("#", justify="right", no_wrap=True)
    result.add_column("method", no_wrap=True, max_width=18)
    result.add_column("settings", overflow="fold")
    result.add_column("group", max_width=8)
    for name in ("runs", "last\n(given)", "last\n(hidden)", "forgetting\n(given)", "BWT\n(given)"):
        result.add_column(name, justify="right", no_wrap=True)
    best = _best(every)
    for row in (row for row in every if row["protocol"] == "given"):
        other = hidden[row["method"], row["key"]]
        cells = [_styled(str(row[name])) for name in ("method", "settings", "group", "n_runs")]
        for name, mine in (("last_acc", row), ("last_acc", other), ("forgetting", row), ("bwt", row)):
            value = mine[f"{name}_mean"]
            first = row["settings"] == "" and value is not None and value == best[name, *_class(mine)]
            cells.append(_styled(percent(value, mine[f"{name}_std"]), "bold" if first else ""))
        result.add_row(_styled("" if row["rank"] is None else str(row["rank"])), *cells)
    return result


def _best(every: list[dict[str, Any]]) -> dict[tuple, float]:
    """The best mean of the defaults by (name, group, protocol, backbone): least forgetting, most of the rest."""
    best: dict[tuple, float] = {}
    for row in every:
        for name, choose in (("last_acc", max), ("forgetting", min), ("bwt", max)):
            place, value = (name, *_class(row)), row[f"{name}_mean"]
            if row["settings"] == "" and value is not None:
                best[place] = choose(best.get(place, value), value)
    return best


def matrix_table(record: Record, protocol: str, metric: str = "accuracy") -> Table:
    """The (T+1) x T matrix of one record in per cent: the diagonal bold, tasks not learned yet dim.

    Where a router chose the task, the share of samples that it sent to the right one stands below the last row.
    """
    tasks = [task["name"] for task in record["stream"]["tasks"]]
    title = f"{record['method']} on {record['stream']['folder']}: {metric} in per cent, identity {protocol}"
    result = _table(title)
    result.add_column("after", no_wrap=True, max_width=18)
    width = min(12, max(5, 80 // len(tasks) - 2))  # so that eight tasks fit in 100 columns
    for name in tasks:
        result.add_column(_styled(_short(name, width)), justify="right")
    for stage, scores in enumerate(record["scores"][metric][protocol]):
        cells = [_styled(percent(score), "bold" if place == stage - 1 else "dim" if place >= stage else "")
                 for place, score in enumerate(scores)]  # fmt: skip
        result.add_row(_styled(f"{stage} {tasks[stage - 1]}" if stage else "before"), *cells)
    routed = (record.get("router_accuracy") or [[]])[-1]
    if protocol == "hidden" and any(share is not None for share in routed):
        result.add_section()
        result.add_row("router right", *(_styled(percent(share)) for share in routed))
    return result


def transfer_table(record: Record) -> Table:
    """Forgetting and backward transfer of every task of one record but the last, and their means, in per cent."""
    tasks = record["stream"]["tasks"]
    result = _table(f"{record['method']} on {record['stream']['folder']}: forgetting and transfer in per cent")
    result.add_column("task", no_wrap=True, max_width=32)
    result.add_column("modality", no_wrap=True, max_width=20)
    columns = []
    for name, per_task in (("forgetting", metrics.forgetting_per_task), ("BWT", metrics.backward_transfer_per_task)):
        for protocol in PROTOCOLS:
            result.add_column(f"{name}\n({protocol})", justify="right")
            columns.append(per_task(record["scores"][record["primary"]][protocol]).tolist())
    for place, task in enumerate(tasks[:-1]):
        numbers = (_styled(percent(column[place])) for column in columns)
        result.add_row(_styled(task["name"]), _styled(task["modality"]), *numbers, end_section=place == len(tasks) - 2)
    result.add_row(_styled("mean", "bold"), "", *(_styled(percent(mean(column)), "bold") for column in columns))
    return result


def summary_line(record: Record) -> str:
    """The run in one line, per cent: last accuracy, forgetting, BWT and what it cost."""
    given, hidden = record["summary"]["given"], record["summary"]["hidden"]
    cost = record["cost"]
    seconds = sum(cost["train_seconds"]), sum(cost["eval_seconds"])
    return (
        f"{record['method']} on {record['stream']['folder']}: last accuracy {percent(given['last_acc'])} given, "
        f"{percent(hidden['last_acc'])} hidden; "
        f"forgetting {percent(given['forgetting'])}, {percent(hidden['forgetting'])}; "
        f"{max(cost['trainable_params'], default=0):,} trained parameters, "
        f"{cost['stored_bytes'][-1] / 2**20:.2f} MiB kept, "
        f"{seconds[0]:.0f} s training, {seconds[1]:.0f} s evaluation, peak {cost['peak_memory_mib'][-1]:,.0f} MiB"
    )
