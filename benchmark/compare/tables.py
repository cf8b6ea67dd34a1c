"""What is printed after a run: tables for a terminal that fit in 80 columns, per cent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from benchmark import metrics
from benchmark.compare.stats import mean
from benchmark.kinds import OWN
from benchmark.kinds.generation import ASIDE
from benchmark.record.files import decimals
from benchmark.record.schema import PROTOCOLS, Record
from benchmark.record.summary import floats, missing_rows

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


WIDTH, NAME, CELL = 80, 30, 7  # letters: of a table, of a name in one line, of a number with the room around it
WORDS = {  # for metrics that their names do not say
    OWN: "score",
    "exact": "exact match",
    "f1": "token F1",
    "fact_f1": "fact F1",
    "likelihood": "likeliest answer",
    "macro_auroc": "macro AUROC",
    "rouge_l": "ROUGE-L",
}


def console() -> Console:
    """Where lines and tables are printed: as wide as the terminal, elsewhere so that no table is cut."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal or os.environ.get("COLUMNS", "").isdigit() else Console(width=110)


def percent(value: float | None, spread: float | None = None) -> str:
    """``83.2 ± 1.1`` from fractions, ``-`` for null."""
    if value is None or value != value:
        return "-"
    return decimals(100 * value, 1) + (f" ± {decimals(100 * spread, 1)}" if spread is not None else "")


def markdown_table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of a Markdown file, a line a row."""
    every = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in every)


def clock(seconds: float) -> str:
    """``93 s``, ``12 min``, ``3.4 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def spoken(metric: str) -> str:
    """``mean_recall`` as ``mean recall``, ``f1`` as ``token F1``."""
    return WORDS.get(metric, metric.replace("_", " "))


def plain_table(title: str, **options: Any) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(title=Text(title), box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, **options)


def _styled(text: str, style: str = "") -> Text:
    """A cell that Rich takes as it is: settings such as ``[0, 1]`` are no markup."""
    from rich.text import Text

    return Text(text, style=style)


def after_run(record: Record) -> Iterator[Table]:
    """All tables of a complete run, those of its kind of task too."""
    for protocol in PROTOCOLS:
        yield from matrix_tables(record, protocol)
    yield transfer_table(record)
    if record.kind.ways:
        yield ways_table(record)
    if any(kind.speaks for kind in record.stream.kinds):
        yield answers_table(record)
    if record.missing is not None:
        yield missing_table(record)


def matrix_tables(record: Record, protocol: str) -> Iterator[Table]:
    """The (T+1) x T matrix of one record in per cent, as many tasks beside each other as fit, table below table.

    A column is a task by its number, which stands before its name where it was learned; the diagonal is bold, tasks not
    learned yet are dim. Where a router chose the task, the share of samples that it sent to the right one stands below
    the last row.
    """
    own = [f" ({spoken(own)})" if record.primary == OWN else "" for own in record.stream.measures]
    named = zip(range(1, len(own) + 1), record.stream.task_names, own, strict=True)
    stages = ["before", *(f"{number} {name}{metric}" for number, name, metric in named)]
    beside = max(1, (WIDTH - min(NAME, max(map(len, stages)))) // CELL)
    for first in range(0, len(own), beside):
        yield _matrix_table(record, protocol, stages, range(first, min(len(own), first + beside)))


def _matrix_table(record: Record, protocol: str, stages: Sequence[str], places: range) -> Table:
    """The columns of these tasks."""
    told = f"{_where(record)}: {spoken(record.primary)} in per cent, identity {protocol}"
    part = f", tasks {places.start + 1} to {places.stop}" if len(places) < len(stages) - 1 else ""
    result = plain_table(told + part)
    result.add_column("after", overflow="fold", max_width=NAME)
    for place in places:
        result.add_column(str(place + 1), justify="right", no_wrap=True)
    for stage, (name, scores) in enumerate(zip(stages, record.matrix(protocol), strict=True)):
        cells = [_styled(percent(scores[place]), "bold" if place == stage - 1 else "dim" if place >= stage else "")
                 for place in places]  # fmt: skip
        result.add_row(_styled(name), *cells)
    routed = record.router_accuracy[-1] if record.router_accuracy else []
    if protocol == "hidden" and any(share is not None for share in routed):
        result.add_section()
        result.add_row("router right", *(_styled(percent(routed[place])) for place in places))
    return result


def transfer_table(record: Record) -> Table:
    """Learning, forgetting and backward transfer of every task of one record but the last, and their means, in per
    cent."""
    tasks = record.stream.tasks
    result = plain_table(f"{_where(record)}: forgetting and transfer in per cent")
    result.add_column("task", overflow="fold", max_width=22)
    result.add_column("modality", overflow="fold", max_width=14)
    columns = []
    for name, per_task in (("forgot", metrics.forgetting_per_task), ("BWT", metrics.backward_transfer_per_task)):
        for protocol in PROTOCOLS:
            result.add_column(f"{name}\n({protocol})", justify="right", no_wrap=True)
            columns.append(per_task([floats(row) for row in record.matrix(protocol)]).tolist())
    for place, task in enumerate(tasks[:-1]):
        numbers = (_styled(percent(column[place])) for column in columns)
        result.add_row(_styled(task.name), _styled(task.modality), *numbers, end_section=place == len(tasks) - 2)
    result.add_row(_styled("mean", "bold"), "", *(_styled(percent(mean(column)), "bold") for column in columns))
    return result


def ways_table(record: Record) -> Table:
    """The last row's numbers in per cent, a line for each way in which the kind of task asks a sample."""
    kind = record.kind
    result = plain_table(f"{_where(record)}: {kind.name} after the last task in per cent")
    result.add_column("direction", max_width=24)
    for column in kind.per_way:
        result.add_column(column.heading, justify="right", no_wrap=True)
    last = list(kind.ways)[-1]
    for protocol in PROTOCOLS:
        for way, words in kind.ways.items():
            cells = [_styled(percent(record.number(protocol, f"{way}_{column.name}"))) for column in kind.per_way]
            result.add_row(_styled(f"{words} ({protocol})"), *cells, end_section=way == last)
    return result


def answers_table(record: Record) -> Table:
    """The tasks that are answered in words after the last one, in per cent: their own metric, what it is for guesses
    without the image, and what else was measured of the answers."""
    result = plain_table(f"{_where(record)}: answers in words after the last task, in per cent")
    result.add_column("task", overflow="fold", max_width=14)
    result.add_column("own metric", max_width=11)
    last = {name: {protocol: matrix[-1] for protocol, matrix in of.items()} for name, of in record.scores.items()}
    known = [name for name in ASIDE if any(value is not None for row in last[name].values() for value in row)]
    for heading in ("score", "without the image", *map(spoken, known)):
        result.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    stream = record.stream
    for protocol in PROTOCOLS:
        result.add_row(_styled(protocol, "dim"))
        for place in (place for place, kind in enumerate(stream.kinds) if kind.speaks):
            task, metric = stream.task_names[place], stream.measures[place]
            score, *more = (percent(last[name][protocol][place]) for name in (metric, *known))
            cells = (task, spoken(metric), score, percent((record.blind or {}).get(task)), *more)
            result.add_row(*map(_styled, cells))
        result.add_section()
    return result


def missing_table(record: Record) -> Table:
    """The final model's score where samples lack one input, the other or either, mean over tasks."""
    result = plain_table(f"{_where(record)}: {spoken(record.primary)} in per cent with inputs missing")
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
