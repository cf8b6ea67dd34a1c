"""What is printed after a run and by ``leaderboard``: tables for a terminal, per cent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import metrics
from benchmark.compare.leaderboard import known_stream, rows
from benchmark.compare.rows import LeaderboardRow
from benchmark.compare.stats import mean
from benchmark.kinds import OWN
from benchmark.kinds.generation import ASIDE
from benchmark.record.files import decimals
from benchmark.record.schema import PROTOCOLS, Record
from benchmark.record.stored import read_all
from benchmark.record.summary import floats, missing_rows

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


WORDS = {  # for metrics that their names do not say
    OWN: "score",
    "exact": "exact match",
    "f1": "token F1",
    "fact_f1": "fact F1",
    "likelihood": "likeliest answer",
    "rouge_l": "ROUGE-L",
}


def percent(value: float | None, spread: float | None = None) -> str:
    """``83.2 ± 1.1`` from fractions, ``-`` for null."""
    if value is None or value != value:
        return "-"
    return decimals(100 * value, 1) + (f" ± {decimals(100 * spread, 1)}" if spread is not None else "")


def clock(seconds: float) -> str:
    """``93 s``, ``12 min``, ``3.4 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def spoken(metric: str) -> str:
    """``mean_recall`` as ``mean recall``, ``f1`` as ``token F1``."""
    return WORDS.get(metric, metric.replace("_", " "))


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


# Of a stream


def table(results: Path, stream: str) -> Table:
    """The leaderboard of a stream, one line per (method, key): per cent with the standard deviation over runs.

    Rank, worst (the lowest task), forgetting and BWT are with the identity given; bold is the best of its preset, group
    and backbone. ``n=1`` stands for the rank of a default that ran once.
    """
    known_stream(Path(results), stream)
    every = rows(read_all(Path(results), stream))
    hidden = {(row.method, row.key, row.preset): row for row in every if row.protocol == "hidden"}
    primary = every[0].primary if every else ""
    metric = "each task's own metric" if primary == OWN else spoken(primary)
    measure = f": {metric} in per cent, mean ± standard deviation over runs" if every else ""
    result = _table(f"{stream}{measure}")
    result.add_column("#", justify="right", no_wrap=True)
    result.add_column("method", no_wrap=True, max_width=18)
    result.add_column("settings", overflow="fold")
    result.add_column("group", max_width=8)
    for name in ("runs", "last\n(given)", "last\n(hidden)", "worst\n(given)", "forgetting\n(given)", "BWT\n(given)"):
        result.add_column(name, justify="right", no_wrap=True)
    best = _best(every)
    for row in (row for row in every if row.protocol == "given"):
        cells = [_styled(text) for text in (_rank(row), row.method, _settings(row), row.group, str(row.n_runs))]
        other, names = hidden[row.method, row.key, row.preset], ("worst_task", "forgetting", "bwt")
        for name, mine in (("last_acc", row), ("last_acc", other), *((name, row) for name in names)):
            value = mine.value(f"{name}_mean")
            first = bool(row.preset) and value is not None and value == best[name, *mine.rank_class]
            cells.append(_styled(percent(value, mine.value(f"{name}_std")), "bold" if first else ""))
        result.add_row(*cells)
    return result


def _rank(row: LeaderboardRow) -> str:
    once = bool(row.preset) and row.n_runs == 1
    return decimals(row.rank, 2) or ("n=1" if once else "")


def _settings(row: LeaderboardRow) -> str:
    """What differs from the defaults, after the name of the preset that it is, where it is another one."""
    return row.settings if row.default or not row.preset else f"{row.preset}: {row.settings}".removesuffix(": ")


def _best(every: Sequence[LeaderboardRow]) -> dict[tuple[str, ...], float]:
    """The best mean by name and what is ranked together: least forgetting, most of the rest."""
    best: dict[tuple[str, ...], float] = {}
    choices: tuple[tuple[str, Callable[[float, float], float]], ...]
    choices = (("last_acc", max), ("worst_task", max), ("forgetting", min), ("bwt", max))
    for row in filter(lambda row: row.preset, every):
        for name, choose in choices:
            place, value = (name, *row.rank_class), row.value(f"{name}_mean")
            if value is not None:
                best[place] = choose(best.get(place, value), value)
    return best


# Of a run


def after_run(record: Record) -> Iterator[Table]:
    """All tables of a complete run, those of its kind of task too."""
    for protocol in PROTOCOLS:
        yield matrix_table(record, protocol)
    yield transfer_table(record)
    if record.kind.ways:
        yield ways_table(record)
    if any(kind.speaks for kind in record.stream.kinds):
        yield answers_table(record)
    if record.missing is not None:
        yield missing_table(record)


def matrix_table(record: Record, protocol: str, metric: str | None = None) -> Table:
    """The (T+1) x T matrix of one record in per cent: the diagonal bold, tasks not learned yet dim.

    Of the primary metric unless another is named.
    Where a router chose the task, the share of samples that it sent to the right one stands below the last row.
    """
    metric = metric or record.primary
    tasks = record.stream.task_names
    result = _table(f"{_where(record)}: {spoken(metric)} in per cent, identity {protocol}")
    result.add_column("after", no_wrap=True, max_width=18)
    width = min(12, max(5, 80 // len(tasks) - 2))  # so that eight tasks fit in 100 columns
    for name, own in zip(tasks, record.stream.measures, strict=True):
        told = (f"\n({own})" if len(own) + 2 <= width else f"\n{own}") if metric == OWN else ""
        result.add_column(_styled(_short(name, width) + told), justify="right")
    for stage, scores in enumerate(record.scores[metric][protocol]):
        cells = [_styled(percent(score), "bold" if place == stage - 1 else "dim" if place >= stage else "")
                 for place, score in enumerate(scores)]  # fmt: skip
        result.add_row(_styled(f"{stage} {tasks[stage - 1]}" if stage else "before"), *cells)
    routed = record.router_accuracy[-1] if record.router_accuracy else []
    if protocol == "hidden" and any(share is not None for share in routed):
        result.add_section()
        result.add_row("router right", *(_styled(percent(share)) for share in routed))
    return result


def transfer_table(record: Record) -> Table:
    """Forgetting and backward transfer of every task of one record but the last, and their means, in per cent."""
    tasks = record.stream.tasks
    result = _table(f"{_where(record)}: forgetting and transfer in per cent")
    result.add_column("task", no_wrap=True, max_width=32)
    result.add_column("modality", no_wrap=True, max_width=20)
    columns = []
    for name, per_task in (("forgetting", metrics.forgetting_per_task), ("BWT", metrics.backward_transfer_per_task)):
        for protocol in PROTOCOLS:
            result.add_column(f"{name}\n({protocol})", justify="right")
            columns.append(per_task([floats(row) for row in record.matrix(protocol)]).tolist())
    for place, task in enumerate(tasks[:-1]):
        numbers = (_styled(percent(column[place])) for column in columns)
        result.add_row(_styled(task.name), _styled(task.modality), *numbers, end_section=place == len(tasks) - 2)
    result.add_row(_styled("mean", "bold"), "", *(_styled(percent(mean(column)), "bold") for column in columns))
    return result


def ways_table(record: Record) -> Table:
    """The last row's numbers in per cent, a line for each way in which the kind of task asks a sample."""
    kind = record.kind
    result = _table(f"{_where(record)}: {kind.name} after the last task in per cent")
    result.add_column("direction", no_wrap=True)
    for column in kind.per_way:
        result.add_column(column.heading, justify="right")
    last = list(kind.ways)[-1]
    for protocol in PROTOCOLS:
        for way, words in kind.ways.items():
            cells = [_styled(percent(record.number(protocol, f"{way}_{column.name}"))) for column in kind.per_way]
            result.add_row(_styled(f"{words} ({protocol})"), *cells, end_section=way == last)
    return result


def answers_table(record: Record) -> Table:
    """The tasks that are answered in words after the last one, in per cent: their own metric, what it is for guesses
    without the image, and what else was measured of the answers."""
    result = _table(f"{_where(record)}: answers in words after the last task, in per cent")
    result.add_column("task", no_wrap=True, max_width=24)
    result.add_column("own metric", no_wrap=True)
    last = {name: {protocol: matrix[-1] for protocol, matrix in of.items()} for name, of in record.scores.items()}
    known = [name for name in ASIDE if any(value is not None for row in last[name].values() for value in row)]
    for heading in ("score", "without the image", *map(spoken, known)):
        result.add_column(heading.replace(" ", "\n", 1), justify="right")  # so that all fit in 100 columns
    stream = record.stream
    for protocol in PROTOCOLS:
        for place in (place for place, kind in enumerate(stream.kinds) if kind.speaks):
            task, metric = stream.task_names[place], stream.measures[place]
            score, *more = (percent(last[name][protocol][place]) for name in (metric, *known))
            cells = (f"{task} ({protocol})", spoken(metric), score, percent((record.blind or {}).get(task)), *more)
            result.add_row(*map(_styled, cells))
        result.add_section()
    return result


def missing_table(record: Record) -> Table:
    """The final model's score where samples lack one input, the other or either, mean over tasks."""
    result = _table(f"{_where(record)}: {spoken(record.primary)} in per cent with inputs missing")
    lines = list(missing_rows(record))
    result.add_column("missing", no_wrap=True)
    for rate in dict.fromkeys(line[2] for line in lines):
        result.add_column(f"{100 * float(rate):.0f} %", justify="right")
    for protocol in PROTOCOLS:
        mine = {(line[1], line[2]): float(line[-1]) if line[-1] else None for line in lines if line[0] == protocol}
        for name in (*record.kind.withheld, "both"):
            cells = [_styled(percent(value)) for (what, _), value in mine.items() if what in ("none", name)]
            label = " or ".join(record.kind.withheld) if name == "both" else name
            result.add_row(_styled(f"{label} ({protocol})"), *cells, end_section=name == "both")
    return result


def _where(record: Record) -> str:
    return f"{record.method} on {record.stream.folder}"


def summary_line(record: Record) -> str:
    """The run in one line, per cent: last accuracy, forgetting, BWT and what it cost."""
    cost = record.cost
    last, forgetting = (
        [percent(record.number(protocol, name)) for protocol in PROTOCOLS] for name in ("last_acc", "forgetting")
    )
    return (
        f"{_where(record)}: last {spoken(record.primary)} {last[0]} given, {last[1]} hidden; "
        f"forgetting {', '.join(forgetting)}; "
        f"{max(cost.trainable_params, default=0):,} trained parameters, "
        f"{max(cost.stored_bytes[-1:], default=0) / 2**20:.2f} MiB kept, "
        f"{sum(cost.train_seconds):.0f} s training, {sum(cost.eval_seconds):.0f} s evaluation, "
        f"peak {max(cost.peak_memory_mib[-1:], default=0):,.0f} MiB"
    )
