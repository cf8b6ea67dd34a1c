"""Tables of Markdown files, written between marks from the records: per cent, mean ± standard deviation over runs.

A table stands between ``<!-- leaderboard STREAM -->`` and ``<!-- end -->``; ``<!-- leaderboard STREAM inputs -->`` has
the runs that learn from one input alone as well, ``<!-- leaderboard STREAM tuned -->`` the rows with tuned values
instead of the default ones, ``<!-- leaderboard STREAM of METHOD METHOD -->`` the rows of these methods alone, in fewer
columns, with what each method is; ``<!-- overall -->`` the ranks over streams.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmark.compare import comparisons, leaderboard
from benchmark.compare.entries import counts
from benchmark.compare.presets import TUNED
from benchmark.compare.rows import DEFAULT, LEADERBOARD, STREAM_CAPACITY, LeaderboardRow
from benchmark.compare.tables import markdown_table, percent
from benchmark.config.registry import card
from benchmark.errors import UserError, unknown
from benchmark.kinds import Column, Kind
from benchmark.kinds.classification import CHANGES
from benchmark.record.files import write_text
from benchmark.record.schema import Record
from benchmark.record.stored import read_all

MARKS = re.compile(
    r"(<!-- (leaderboard [\w@.-]+(?: inputs| tuned| of(?: [\w.:]+)+)?|overall) -->\n).*?(<!-- end -->)", flags=re.DOTALL
)
LAST = (
    Column("last, given", "last_acc", spread=True),
    Column("last, hidden", "last_acc", hidden=True, spread=True),
)
WORST = Column("worst task, given / hidden", "worst_task", both=True)
SHORT = (*LAST, *CHANGES, Column("trained parameters", "trainable_params", "count"))
SHOWN: dict[str, Callable[[float], str]] = {
    "count": lambda value: f"{value:,}",
    "mib": lambda value: f"{value / 2**20:.1f}",
    "ratio": lambda value: f"{value:.2f}",
}

Both = tuple[LeaderboardRow, LeaderboardRow]  # a method's rows with the identity given and hidden


def rewrite(files: Sequence[Path], results: Path) -> None:
    """Write every marked table of these files anew; none is written where one has a mistake.

    Raises:
        UserError: no such file, or a mark names a stream, or a method, without records.
    """
    texts, found = [_text(file) for file in files], read_all(results)
    for file, text in zip(files, [rewritten(text, found) for text in texts], strict=True):
        write_text(file, text)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"--readme {file}: cannot be read (no text)") from None
    except OSError as error:
        raise UserError(f"--readme {file}: cannot be read ({error.strerror})") from None


def rewritten(text: str, found: Sequence[Record]) -> str:
    """The text with every marked table as these records have it.

    Raises:
        UserError: a mark names a stream, or a method, without records.
    """

    def lines(match: re.Match[str]) -> str:
        what, *names = match[2].split()
        table = _overall(found) if what == "overall" else _stream(found, *names)
        return match[1] + "\n" + table + "\n\n" + match[3]

    return MARKS.sub(lines, text)


def _stream(found: Sequence[Record], stream: str, what: str = "", *methods: str) -> str:
    here = [record for record in found if record.stream.folder == stream and counts(record)]
    if not here:
        raise UserError(f"<!-- leaderboard {stream} -->: no records of this stream")
    preset = TUNED if what == TUNED else DEFAULT
    every = [row for row in leaderboard.rows(here) if row.preset in ("", preset)]
    hidden = {(row.method, row.key): row for row in every if row.protocol == "hidden"}
    both = [(row, hidden[row.method, row.key]) for row in every if row.protocol == "given"]
    if what == "inputs":
        return _of_inputs(both, here[0].kind)
    both = [rows for rows in both if rows[0].preset or rows[0].settings == STREAM_CAPACITY]  # joint training at both
    return _of_methods(both, stream, methods) if methods else _of_preset(both, here[0].kind)


def _of_methods(both: Sequence[Both], stream: str, methods: Sequence[str]) -> str:
    """These rows of the table, in its order."""
    there = {given.method for given, _ in both}
    for name in methods:
        if name not in there:
            raise unknown(f"<!-- leaderboard {stream} -->: method with a row", name, there)
    shown = [rows for rows in both if rows[0].method in methods]
    lines = [
        [_name(given), _said(given), str(given.n_runs), *(_cell(column, (given, hidden)) for column in SHORT)]
        for given, hidden in shown
    ]
    return markdown_table(["method", "what it is", "runs", *(column.heading for column in SHORT)], lines)


def _said(row: LeaderboardRow) -> str:
    """The first line of the method's docstring, without its name."""
    return card(row.method).summary.partition(": ")[2].rstrip(".").replace("``", "`")


def _of_preset(both: Sequence[Both], kind: Kind) -> str:
    columns = [column for column in (*LAST, WORST, *kind.table) if _says_something(column, both)]
    lines = [
        [
            _name(given), given.group, str(given.n_runs), f"{_rank(given)} / {_rank(hidden)}",
            *(_cell(column, (given, hidden)) for column in columns),
        ]
        for given, hidden in both
    ]  # fmt: skip
    return markdown_table(["method", "group", "runs", "rank, given / hidden", *(c.heading for c in columns)], lines)


def _name(row: LeaderboardRow) -> str:
    return f"`{row.method}`" + ("" if row.preset else f" ({row.settings.removeprefix('method.')})")


def _of_inputs(both: Sequence[Both], kind: Kind) -> str:
    """The methods that have runs from one input alone, beside their runs from all."""
    words = {"": " and ".join(kind.inputs)} | {f"inputs={name}": f"{name} alone" for name in kind.inputs}
    alone = {given.method for given, _ in both if given.settings in words and not given.default}
    shown = [rows for rows in both if rows[0].settings in words and rows[0].method in alone]
    shown.sort(key=lambda rows: (rows[0].method, list(words).index(rows[0].settings)))
    lines = [
        [f"`{rows[0].method}`", words[rows[0].settings], str(rows[0].n_runs), *(_cell(column, rows) for column in LAST)]
        for rows in shown
    ]
    return markdown_table(["method", "learns from", "runs", *(column.heading for column in LAST)], lines)


def _says_something(column: Column, both: Sequence[Both]) -> bool:
    """Whether a column is another number than the one that it must not repeat, to a tenth of a per cent in some row."""
    if not column.unlike:
        return True
    numbers = [(_value(column.name, row), _value(column.unlike, row)) for rows in both for row in rows]
    return any(one != other and (one is None or other is None or abs(one - other) > 0.0005) for one, other in numbers)


def _value(name: str, row: LeaderboardRow) -> float | None:
    return row.value(name if name in LEADERBOARD else f"{name}_mean")


def _cell(column: Column, rows: Both) -> str:
    if column.both:
        each = (replace(column, both=False, hidden=hidden) for hidden in (False, True))
        return " / ".join(_cell(one, rows) for one in each)
    row = rows[column.hidden]
    value = _value(column.name, row)
    if column.shown in SHOWN:
        return "-" if value is None else SHOWN[column.shown](value)
    return percent(value, row.value(f"{column.name}_std") if column.spread else None)


def _rank(row: LeaderboardRow) -> str:
    return "-" if row.rank is None else f"{row.rank:.1f}"


def _overall(found: Sequence[Record]) -> str:
    """Average rank over streams, given and hidden, of each group."""
    every = comparisons.overall(found)
    hidden = {(row.group, row.backbone, row.method): row.average_rank for row in every if row.protocol == "hidden"}
    lines = []
    for row in (row for row in every if row.protocol == "given"):
        other = hidden.get((row.group, row.backbone, row.method))
        rank = "-" if other is None else f"{other:.2f}"
        lines.append([f"`{row.method}`", row.group, str(row.n_streams), f"{row.average_rank:.2f}", rank])
    return markdown_table(["method", "group", "streams", "average rank, given", "average rank, hidden"], lines)
