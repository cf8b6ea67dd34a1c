"""Tables of CSV, TSV, JSONL or Parquet: their cells as text, and the rows of them that a task is made of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import UserError, shown, unknown

if TYPE_CHECKING:
    import pandas as pd

CELLS = (int, float, bool, Decimal, date, np.generic)
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def cells_of(path: Path, columns: Mapping[str, str], rows: Any, where: str) -> tuple[list[int], dict[str, list[str]]]:
    """The numbers (from 1) of the rows that are kept, and for every key of ``columns`` their cells as text.

    Args:
        path: the table.
        columns: key of the options that names it, such as ``columns.image`` -> the name of a column.
        rows: column -> value or values: rows with another cell there are passed over; empty keeps all.
        where: what a message about the options begins with.

    Raises:
        UserError: the table cannot be read, a column is not there, no row is left.
    """
    wanted = _wanted(rows, where)
    table = read(path)
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise UserError(f"{path}: the column {shown(twice[0])} stands twice")
    for key, column in (dict(columns) | {f"rows.{name}": name for name in wanted}).items():
        if column not in table.columns:
            raise unknown("column", column, table.columns, f"{path}: {where}.{key}")
    table = table.astype(object).where(table.notna(), None)
    for column in dict.fromkeys([*columns.values(), *wanted]):
        for row, value in enumerate(table[column].tolist(), start=1):
            if value is not None and not (is_text(value) if isinstance(value, str) else isinstance(value, CELLS)):
                kind = "half a character" if isinstance(value, str) else f"a {type(value).__name__}"
                raise UserError(f"{path}: row {row}: column {column!r}: expected text or a number, got {kind}")
    kept = list(range(len(table)))
    for column, values in wanted.items():
        entries = [as_text(value) for value in table[column].tolist()]
        left = [row for row in kept if entries[row] in values]
        if kept and not left:
            raise unknown("value", values[0], {entries[row] for row in kept}, f"{path}: {where}.rows.{column}")
        kept = left
    texts = {key: [as_text(value) for value in table[column].tolist()] for key, column in columns.items()}
    return [row + 1 for row in kept], {key: [entries[row] for row in kept] for key, entries in texts.items()}


def _wanted(rows: Any, where: str) -> dict[str, list[str]]:
    if not isinstance(rows, Mapping):
        raise UserError(f"{where}.rows: expected column: value or list of values, got {shown(rows)}")
    wanted = {}
    for column, given in rows.items():
        values = given if isinstance(given, list) else [given]
        right = all(isinstance(value, (str, int, float)) and not isinstance(value, bool) for value in values)
        if not values or not right:
            raise UserError(
                f"{where}.rows.{column}: expected text or numbers (yes and no in quotes), got {shown(given)}"
            )
        wanted[str(column)] = [as_text(value) for value in values]
    return wanted


def read(path: Path) -> pd.DataFrame:
    """A table; what stands in a CSV is text as written."""
    import pandas as pd

    kind = path.suffix.lower()
    if kind not in TABLES:
        raise unknown("kind of table", kind, TABLES, str(path))
    try:
        if kind == ".parquet":
            return pd.read_parquet(path)
        if kind in (".jsonl", ".ndjson"):
            with open(path, encoding="utf-8-sig") as file:
                rows = [json.loads(line, object_pairs_hook=_different) for line in file if line.strip()]
            return pd.DataFrame(rows, dtype=object)
        # the header is read as a row, for of columns with one name pandas renames all but the first
        cells = pd.read_csv(path, sep="\t" if kind == ".tsv" else ",", dtype=str, keep_default_na=False, header=None)
        names = [name or f"Unnamed: {place}" for place, name in enumerate(cells.iloc[0].fillna("").tolist())]
        _different([(name, None) for name in names])
        return cells.iloc[1:].reset_index(drop=True).set_axis(names, axis=1)
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow (or save it as CSV)") from None
    except Exception as error:  # pandas' and pyarrow's own errors, and those of the file
        raise UserError(f"{path}: not readable as a table: {' '.join(str(error).split())}") from None


def _different(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The cells of a row by column, refused where a column stands twice."""
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"the column {shown(twice[0])} stands twice")
    return dict(pairs)


def is_text(value: str) -> bool:
    """Whether UTF-8 can hold a text: half of a pair of surrogates, which JSON can name, it cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_text(value: Any) -> str:
    """A cell as text, the same from every kind of table: a missing one is empty, 3.0 is 3."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
