"""The README's tables, written between its marks from the records: per cent, mean ± standard deviation over runs.

A table stands between ``<!-- leaderboard STREAM -->`` and ``<!-- end -->``; ``<!-- leaderboard STREAM inputs -->`` has
the runs that learn from one input alone as well, ``<!-- overall -->`` the ranks over streams.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmark.compare import comparisons, leaderboard
from benchmark.compare.entries import counts
from benchmark.compare.rows import DEFAULT, LEADERBOARD, LeaderboardRow
from benchmark.compare.tables import percent
from benchmark.errors import UserError
from benchmark.kinds import Column, Kind
from benchmark.record.files import write_text
from benchmark.record.schema import Record
from benchmark.record.stored import read_all

MARKS = re.compile(r"(<!-- (leaderboard [\w@.-]+(?: inputs)?|overall) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
LAST = (
    Column("last, given", "last_acc", spread=True),
    Column("last, hidden", "last_acc", hidden=True, spread=True),
)
WORST = (Column("worst task, given", "worst_task"), Column("worst task, hidden", "worst_task", hidden=True))
SHOWN: dict[str, Callable[[float], str]] = {
    "count": lambda value: f"{value:,}",
    "mib": lambda value: f"{value / 2**20:.1f}",
    "ratio": lambda value: f"{value:.2f}",
}

Both = tuple[LeaderboardRow, LeaderboardRow]  # a method's rows with the identity given and hidden


def rewrite(file: Path, results: Path) -> None:
    """Write every marked table of a file anew.

    Raises:
        UserError: no such file, or a mark names a stream without records.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--readme {file}: cannot be read ({error.strerror})") from None
    write_text(file, rewritten(text, results))


def rewritten(text: str, results: Path) -> str:
    """The text with every marked table as the records in ``results`` have it.

    Raises:
        UserError: a mark names a stream without records.
    """
    found = read_all(results)

    def lines(match: re.Match[str]) -> str:
        what, *names = match[2].split()
        table = _overall(found) if what == "overall" else _stream(found, *names)
        return match[1] + "\n" + "\n".join(table) + "\n\n" + match[3]

    return MARKS.sub(lines, text)


def _stream(found: Sequence[Record], stream: str, inputs: str = "") -> list[str]:
    here = [record for record in found if record.stream.folder == stream and counts(record)]
    if not here:
        raise UserError(f"<!-- leaderboard {stream} -->: no records of this stream")
    every = leaderboard.rows(here)
    every = [row for row in every if row.preset in ("", DEFAULT)]
    hidden = {(row.method, row.key): row for row in every if row.protocol == "hidden"}
    both = [(row, hidden[row.method, row.key]) for row in every if row.protocol == "given"]
    return _of_inputs(both, here[0].kind) if inputs else _of_defaults(both, here[0].kind)


def _of_defaults(both: Sequence[Both], kind: Kind) -> list[str]:
    columns = (*LAST, *WORST, *kind.table)
    lines = [
        [
            _name(given), given.group, str(given.n_runs), f"{_rank(given)} / {_rank(hidden)}",
            *(_cell(column, (given, hidden)) for column in columns),
        ]
        for given, hidden in both if given.usual
    ]  # fmt: skip
    return _table(["method", "group", "runs", "rank, given / hidden", *(c.heading for c in columns)], lines)


def _name(row: LeaderboardRow) -> str:
    return f"`{row.method}`" + ("" if row.default else f" ({row.settings.removeprefix('method.')})")


def _of_inputs(both: Sequence[Both], kind: Kind) -> list[str]:
    """The methods that have runs from one input alone, beside their runs from all."""
    words = {"": " and ".join(kind.inputs)} | {f"inputs={name}": f"{name} alone" for name in kind.inputs}
    alone = {given.method for given, _ in both if given.settings in words and not given.default}
    shown = [rows for rows in both if rows[0].settings in words and rows[0].method in alone]
    shown.sort(key=lambda rows: (rows[0].method, list(words).index(rows[0].settings)))
    lines = [
        [f"`{rows[0].method}`", words[rows[0].settings], str(rows[0].n_runs), *(_cell(column, rows) for column in LAST)]
        for rows in shown
    ]
    return _table(["method", "learns from", "runs", *(column.heading for column in LAST)], lines)


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *lines)]


def _cell(column: Column, rows: Both) -> str:
    row = rows[column.hidden]
    value = row.value(column.name if column.name in LEADERBOARD else f"{column.name}_mean")
    if column.shown in SHOWN:
        return "-" if value is None else SHOWN[column.shown](value)
    return percent(value, row.value(f"{column.name}_std") if column.spread else None)


def _rank(row: LeaderboardRow) -> str:
    return "-" if row.rank is None else f"{row.rank:.1f}"


def _overall(found: Sequence[Record]) -> list[str]:
    """Average rank over streams, given and hidden, of each group."""
    every = comparisons.overall(found)
    hidden = {(row.group, row.backbone, row.method): row.average_rank for row in every if row.protocol == "hidden"}
    lines = []
    for row in (row for row in every if row.protocol == "given"):
        other = hidden.get((row.group, row.backbone, row.method))
        rank = "-" if other is None else f"{other:.2f}"
        lines.append([f"`{row.method}`", row.group, str(row.n_streams), f"{row.average_rank:.2f}", rank])
    return _table(["method", "group", "streams", "average rank, given", "average rank, hidden"], lines)
