"""A stream's leaderboard as lines that fit in 80 columns: names whole, settings on a line of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmark.compare.leaderboard import rows_of
from benchmark.compare.rows import LeaderboardRow, PairRow
from benchmark.compare.tables import percent, plain_table, spoken
from benchmark.kinds import OWN
from benchmark.record.files import decimals

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

LONGEST = 22  # letters of a name that stands beside its numbers; a longer one has a line of its own

Both = tuple[LeaderboardRow, LeaderboardRow]  # a method's rows with the identity given and hidden


class Shown(NamedTuple):
    """A column: its heading, over two lines, and the number of a row; ``best``: which one is printed bold."""

    heading: tuple[str, str]
    name: str
    hidden: bool = False
    spread: bool = False
    best: Callable[[float, float], float] = max


COLUMNS = (
    Shown(("last", "given"), "last_acc", spread=True),
    Shown(("last", "hidden"), "last_acc", hidden=True, spread=True),
    Shown(("bal-", "anced"), "balanced_acc"),
    Shown(("worst", "task"), "worst_task"),
    Shown(("", "learned"), "learning_acc"),
    Shown(("", "forgot"), "forgetting", best=min),
)


def table(results: Path, stream: str, metric: str | None = None) -> Group:
    """The leaderboard of a stream, see :func:`board`; ``metric``: by another one than each task's own.

    Raises:
        UserError: no record of that stream, or none that was measured so.
    """
    return board(rows_of(Path(results), stream, metric), stream)


def board(every: Sequence[LeaderboardRow], stream: str) -> Group:
    """A line per (method, key, preset), group by group: per cent, the last score with its standard deviation over runs.

    Rank, balanced accuracy, worst (the lowest task), learned (right after its task) and forgot are with the identity
    given; bold is the best of its preset, group and backbone. ``n=1``: the rank of a row of a preset that ran once.
    """
    from rich.console import Group
    from rich.text import Text

    primary = every[0].primary if every else ""
    metric = "each task's own metric" if primary == OWN else spoken(primary)
    told = f": {metric} in per cent, mean ± standard deviation over runs" if every else ": no runs that are ranked"
    return Group("", Text(f"{stream}{told}", style="italic"), *_lines(every), "")


def pairs_table(rows: Sequence[PairRow], stream: str, measure: str) -> Table:
    """One method minus each of the others, in points, with what can be said of chance; ``rows`` are of one protocol."""
    title = f"identity {rows[0].protocol}: {rows[0].method_a} minus each on {stream}, last {measure}, points"
    result = plain_table(title)
    result.add_column("method", overflow="fold", max_width=26)
    for name in ("runs", "difference", "95 %", "p", "p, Holm"):
        result.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        ends = "-" if math.isnan(row.ci_low) else f"{percent(row.ci_low)} to {percent(row.ci_high)}"
        mark = "" if row.n_samples else "*"
        cells = (f"{100 * row.difference:+.1f}", ends, *(_p(p) for p in (row.p, row.p_holm)))
        result.add_row(row.method_b + mark, str(row.n_cells), *cells)
    return result


def _p(p: float) -> str:
    return "-" if math.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}"


def _lines(every: Sequence[LeaderboardRow]) -> Iterator[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    hidden = {(row.method, row.key, row.preset): row for row in every if row.protocol == "hidden"}
    both = [(row, hidden[row.method, row.key, row.preset]) for row in every if row.protocol == "given"]
    shown = [each for each in COLUMNS if any(_value(each, pair) is not None for pair in both)]
    headings = (("", "#"), ("", "method"), ("", "n"), *(each.heading for each in shown))
    cells = [[_rank(given), given.method, str(given.n_runs), *(_cell(each, (given, other)) for each in shown)]
             for given, other in both]  # fmt: skip
    widths = [max(map(len, (*headings[at], *(line[at] for line in cells)))) for at in range(len(headings))]
    widths[1] = min(widths[1], LONGEST)
    best = [_best(each, both) for each in shown]
    for level in (0, 1) if both else ():
        yield Text(_joined([heading[level] for heading in headings], widths), style="bold", no_wrap=True)
    for place, ((given, other), line) in enumerate(zip(both, cells, strict=True)):
        if place == 0 or given.group != both[place - 1][0].group:
            yield Text(given.group, style="dim")
        if len(given.method) > LONGEST:
            yield Padding(Text(given.method, overflow="fold"), (0, 0, 0, widths[0] + 1))
            line[1] = ""
        text = Text(_joined(line, widths), no_wrap=True)
        for at, each in enumerate(shown):
            value = _value(each, (given, other))
            if given.preset and value is not None and value == best[at][(given, other)[each.hidden].rank_class]:
                start = sum(widths[: at + 3]) + at + 3
                text.stylize("bold", start, start + widths[at + 3])
        yield text
        if _settings(given):
            yield Padding(Text(_settings(given), style="dim", overflow="fold"), (0, 0, 0, widths[0] + 3))


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells beside each other: numbers to the right, the method, the second one, to the left."""
    sides = zip(cells, widths, range(len(cells)), strict=True)
    return " ".join(cell.ljust(width) if at == 1 else cell.rjust(width) for cell, width, at in sides)


def _value(column: Shown, both: Both) -> float | None:
    return both[column.hidden].value(f"{column.name}_mean")


def _cell(column: Shown, both: Both) -> str:
    return percent(_value(column, both), both[column.hidden].value(f"{column.name}_std") if column.spread else None)


def _rank(row: LeaderboardRow) -> str:
    once = bool(row.preset) and row.n_runs == 1
    return decimals(row.rank, 2) or ("n=1" if once else "")


def _settings(row: LeaderboardRow) -> str:
    """What differs from the defaults, after the name of the preset that it is, where it is another one."""
    return row.settings if row.default or not row.preset else f"{row.preset}: {row.settings}".removesuffix(": ")


def _best(column: Shown, both: Sequence[Both]) -> dict[tuple[str, ...], float]:
    """The best mean of what is ranked together: a preset's rows by group, protocol and backbone."""
    best: dict[tuple[str, ...], float] = {}
    for pair in both:
        row, value = pair[column.hidden], _value(column, pair)
        if row.preset and value is not None:
            best[row.rank_class] = column.best(best.get(row.rank_class, value), value)
    return best
