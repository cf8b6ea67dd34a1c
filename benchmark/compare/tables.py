"""What is printed after a run and by ``leaderboard``: tables for a terminal, per cent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import metrics
from benchmark.compare.leaderboard import known_stream, rank_class, rows
from benchmark.compare.stats import mean
from benchmark.record.records import PROTOCOLS, Record, decimals, missing_rows, read_all

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def percent(value: float | None, spread: float | None = None) -> str:
    """``83.2 ± 1.1`` from fractions, ``-`` for null."""
    if value is None or value != value:
        return "-"
    return decimals(100 * value, 1) + (f" ± {decimals(100 * spread, 1)}" if spread is not None else "")


def spoken(metric: str) -> str:
    """``mean_recall`` as ``mean recall``."""
    return metric.replace("_", " ")


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

    Rank, forgetting and BWT are with the identity given; bold is the best default of its group and backbone. ``n=1``
    stands for the rank of a default that ran once.
    """
    known_stream(Path(results), stream)
    every = rows(read_all(Path(results), stream))
    hidden = {(row["method"], row["key"]): row for row in every if row["protocol"] == "hidden"}
    measure = spoken(every[0]["primary"]) if every else "accuracy"
    result = _table(f"{stream}: {measure} in per cent, mean ± standard deviation over runs")
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
            first = row["settings"] == "" and value is not None and value == best[name, *rank_class(mine)]
            cells.append(_styled(percent(value, mine[f"{name}_std"]), "bold" if first else ""))
        result.add_row(_styled(_rank(row)), *cells)
    return result


def _rank(row: dict[str, Any]) -> str:
    once = row["settings"] == "" and row["n_runs"] == 1
    return decimals(row["rank"], 2) or ("n=1" if once else "")


def _best(every: list[dict[str, Any]]) -> dict[tuple, float]:
    """The best mean of the defaults by (name, group, protocol, backbone): least forgetting, most of the rest."""
    best: dict[tuple, float] = {}
    for row in every:
        for name, choose in (("last_acc", max), ("forgetting", min), ("bwt", max)):
            place, value = (name, *rank_class(row)), row[f"{name}_mean"]
            if row["settings"] == "" and value is not None:
                best[place] = choose(best.get(place, value), value)
    return best


def matrix_table(record: Record, protocol: str, metric: str | None = None) -> Table:
    """The (T+1) x T matrix of one record in per cent: the diagonal bold, tasks not learned yet dim.

    Of the primary metric unless another is named.
    Where a router chose the task, the share of samples that it sent to the right one stands below the last row.
    """
    metric = metric or record["primary"]
    tasks = [task["name"] for task in record["stream"]["tasks"]]
    title = f"{record['method']} on {record['stream']['folder']}: {spoken(metric)} in per cent, identity {protocol}"
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


def missing_table(record: Record) -> Table:
    """Of fusion: the final model's accuracy where samples lack the image, the text or either, mean over tasks."""
    result = _table(f"{record['method']} on {record['stream']['folder']}: accuracy in per cent with inputs missing")
    table = list(missing_rows(record))
    result.add_column("missing", no_wrap=True)
    for rate in dict.fromkeys(row[2] for row in table):
        result.add_column(f"{100 * float(rate):.0f} %", justify="right")
    for protocol in PROTOCOLS:
        mine = {(row[1], row[2]): float(row[-1]) if row[-1] else None for row in table if row[0] == protocol}
        for name in ("image", "text", "both"):
            cells = [_styled(percent(value)) for (what, _), value in mine.items() if what in ("none", name)]
            label = "image or text" if name == "both" else name
            result.add_row(_styled(f"{label} ({protocol})"), *cells, end_section=name == "both")
    return result


def recall_table(record: Record) -> Table:
    """Of retrieval: the last row's recalls and MRR of both directions, forgetting and BWT of R@1, in per cent."""
    result = _table(f"{record['method']} on {record['stream']['folder']}: retrieval after the last task in per cent")
    result.add_column("direction", no_wrap=True)
    names = ("r1", "r5", "r10", "mrr", "forgetting", "bwt")
    for name in ("R@1", "R@5", "R@10", "MRR", "forgetting\n(R@1)", "BWT\n(R@1)"):
        result.add_column(name, justify="right")
    for protocol in PROTOCOLS:
        for way, label in (("i2t", "image to text"), ("t2i", "text to image")):
            cells = [_styled(percent(record["summary"][protocol][f"{way}_{name}"])) for name in names]
            result.add_row(_styled(f"{label} ({protocol})"), *cells, end_section=way == "t2i")
    return result


def summary_line(record: Record) -> str:
    """The run in one line, per cent: last accuracy, forgetting, BWT and what it cost."""
    given, hidden = record["summary"]["given"], record["summary"]["hidden"]
    cost = record["cost"]
    seconds = sum(cost["train_seconds"]), sum(cost["eval_seconds"])
    return (
        f"{record['method']} on {record['stream']['folder']}: "
        f"last {spoken(record['primary'])} {percent(given['last_acc'])} given, {percent(hidden['last_acc'])} hidden; "
        f"forgetting {percent(given['forgetting'])}, {percent(hidden['forgetting'])}; "
        f"{max(cost['trainable_params'], default=0):,} trained parameters, "
        f"{cost['stored_bytes'][-1] / 2**20:.2f} MiB kept, "
        f"{seconds[0]:.0f} s training, {seconds[1]:.0f} s evaluation, peak {cost['peak_memory_mib'][-1]:,.0f} MiB"
    )
