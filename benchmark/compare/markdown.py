"""The README's tables, written between its marks from the records: per cent, mean ± standard deviation over runs.

A table stands between ``<!-- leaderboard STREAM -->`` and ``<!-- end -->``; ``<!-- leaderboard STREAM inputs -->`` has
the runs that learn from one input alone as well, ``<!-- overall -->`` the ranks over streams.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark.compare import comparisons, leaderboard
from benchmark.compare.tables import percent
from benchmark.errors import UserError
from benchmark.record import records
from benchmark.record.records import Record

MARKS = re.compile(r"(<!-- (leaderboard [\w@.-]+(?: inputs)?|overall) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
Row = dict[str, Any]
Column = tuple[str, Callable[[Row, Row], str]]  # heading, and the cell from the rows of given and of hidden


def rewrite(file: Path, results: Path) -> None:
    """Write every marked table of a file anew.

    Raises:
        UserError: no such file, or a mark names a stream without records.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--readme {file}: cannot be read ({error.strerror})") from None
    records.write_text(file, rewritten(text, results))


def rewritten(text: str, results: Path) -> str:
    """The text with every marked table as the records in ``results`` have it.

    Raises:
        UserError: a mark names a stream without records.
    """
    found = records.read_all(results)

    def table(match: re.Match[str]) -> str:
        what, *names = match[2].split()
        lines = _overall(found) if what == "overall" else _stream(found, *names)
        return match[1] + "\n" + "\n".join(lines) + "\n\n" + match[3]

    return MARKS.sub(table, text)


def _stream(found: Sequence[Record], stream: str, inputs: str = "") -> list[str]:
    here = [record for record in found if record["stream"]["folder"] == stream and leaderboard.counts(record)]
    if not here:
        raise UserError(f"<!-- leaderboard {stream} -->: no records of this stream")
    every = leaderboard.rows(here)
    hidden = {(row["method"], row["key"]): row for row in every if row["protocol"] == "hidden"}
    pairs = [(row, hidden[row["method"], row["key"]]) for row in every if row["protocol"] == "given"]
    if inputs:
        alone = {"": "image and text", "inputs=image": "image alone", "inputs=text": "text alone"}
        both = {given["method"] for given, _ in pairs if given["settings"] in alone and given["settings"]}
        pairs = [pair for pair in pairs if pair[0]["settings"] in alone and pair[0]["method"] in both]
        pairs.sort(key=lambda pair: (pair[0]["method"], list(alone).index(pair[0]["settings"])))
        columns: list[Column] = [*BASIC[:1], ("learns from", lambda g, h: alone[g["settings"]]), *BASIC[2:3], *LAST]
    else:
        pairs = [pair for pair in pairs if pair[0]["settings"] == ""]
        kind = here[0]["stream"].get("kind", "classification")
        columns = [*BASIC, *LAST, *(RETRIEVAL if kind == "retrieval" else FUSION if kind == "fusion" else CLASSES)]
    return _table([heading for heading, _ in columns], [[cell(*pair) for _, cell in columns] for pair in pairs])


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)]


def _value(name: str, hidden: bool = False, spread: bool = False) -> Callable[[Row, Row], str]:
    def cell(given_row: Row, hidden_row: Row) -> str:
        row = hidden_row if hidden else given_row
        return percent(row.get(f"{name}_mean"), row.get(f"{name}_std") if spread else None)

    return cell


def _rank(row: Row) -> str:
    return "-" if row["rank"] is None else f"{row['rank']:.1f}"


BASIC: list[Column] = [
    ("method", lambda g, h: f"`{g['method']}`"),
    ("group", lambda g, h: g["group"]),
    ("runs", lambda g, h: str(g["n_runs"])),
    ("rank, given / hidden", lambda g, h: f"{_rank(g)} / {_rank(h)}"),
]
LAST: list[Column] = [
    ("last, given", _value("last_acc", spread=True)),
    ("last, hidden", _value("last_acc", hidden=True, spread=True)),
]
FORGETTING: list[Column] = [
    ("forgetting, given", _value("forgetting")),
    ("forgetting, hidden", _value("forgetting", hidden=True)),
]
CLASSES: list[Column] = [
    *FORGETTING,
    ("forward transfer", _value("fwt")),
    ("trained parameters", lambda g, h: f"{g['trainable_params']:,}"),
    ("kept MiB", lambda g, h: f"{g['stored_bytes'] / 2**20:.1f}"),
]
FUSION: list[Column] = [
    *FORGETTING,
    ("lost without image", _value("image_drop")),
    ("lost without text", _value("text_drop")),
    ("dominance", lambda g, h: "-" if g["dominance_mean"] is None else f"{g['dominance_mean']:.2f}"),
]
RETRIEVAL: list[Column] = [
    (f"R@{k}, {way}", _value(f"{name}_r{k}", hidden=True))
    for k in (1, 10)
    for name, way in (("i2t", "image to text"), ("t2i", "text to image"))
] + [
    ("forgetting of R@1, image to text", _value("i2t_forgetting", hidden=True)),
    ("text to image", _value("t2i_forgetting", hidden=True)),
]


def _overall(found: Sequence[Record]) -> list[str]:
    """Average rank over streams, given and hidden, of each group."""
    every = comparisons.overall(found)
    ranks = {(row["protocol"], row["group"], row["backbone"], row["method"]): row for row in every}
    rows = []
    for row in (row for row in every if row["protocol"] == "given"):
        other = ranks.get(("hidden", *(row[name] for name in ("group", "backbone", "method"))))
        rank = "-" if other is None else f"{other['average_rank']:.2f}"
        rows.append([f"`{row['method']}`", row["group"], str(row["n_streams"]), f"{row['average_rank']:.2f}", rank])
    return _table(["method", "group", "streams", "average rank, given", "average rank, hidden"], rows)
