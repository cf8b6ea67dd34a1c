"""What stands in the files of a record: text, JSON, CSV, numbers. How they are put on disk, ``benchmark.disk`` says."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark.disk import write_bytes

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are wide ones


def now() -> str:
    """The time in UTC as the records write it: ``2026-05-09T07:35:25+00:00``."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` of UTF-8. What UTF-8 cannot hold (half a character of a file's name) becomes a ``\\u`` escape."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Write JSON: keys as given, floats by repr, NaN and infinity as null, a list of plain values on one line."""
    write_text(path, _json(plain(value)) + "\n")


def plain(value: Any) -> Any:
    """Numpy's scalars and arrays as Python's, tuples as lists, numbers that JSON lacks as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(value: object, indent: str = "") -> str:
    deeper = indent + " "
    if isinstance(value, dict) and value:
        lines = [f"{json.dumps(key, ensure_ascii=False)}: {_json(item, deeper)}" for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        lines = [_json(item, deeper) for item in value]
    else:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    start, end = "{}" if isinstance(value, dict) else "[]"
    return f"{start}\n{deeper}" + f",\n{deeper}".join(lines) + f"\n{indent}{end}"


def csv_text(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A CSV with ``\\n`` at line ends on every system, of which a spreadsheet computes nothing."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([_told(cell) for cell in row] for row in (header, *rows))
    return buffer.getvalue()


def _told(cell: object) -> object:
    """A cell; text that a spreadsheet would take for a formula begins with ``'``, numbers do not."""
    if not isinstance(cell, str) or not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def decimals(value: float | None, digits: int = 6) -> str:
    """``0.5`` as ``0.500000``, None and NaN as nothing, and never a negative zero."""
    if value is None or not math.isfinite(value):
        return ""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text
