"""Tables on disk, of every kind that a ``table`` source reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd


def written(where: Path, rows: Any, kind: str = "csv") -> Path:
    """``where/table.<kind>`` with these rows."""
    path, frame = where / f"table.{kind}", pd.DataFrame(rows)
    if kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return path
