"""The rows of tables of every kind: which are kept, and what is no table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmark.data import sources
from tests.source_files import QUESTIONS, fusion, in_table, refused, rows_of, written


def test_rows_keep_what_their_column_says(twenty: Path) -> None:
    for kind in ("csv", "jsonl", "parquet"):
        path = written(twenty, QUESTIONS, kind)
        for rows, keep in (
            ({"kind": "A"}, lambda row: row["kind"] == "A"),
            ({"kind": ["A", "C"], "number": [0, 3]}, lambda row: row["kind"] in "AC" and row["number"] in (0, 3)),
            ({"number": 2}, lambda row: row["number"] == 2),
        ):
            loaded = sources.load(fusion(path, rows=rows), "train")
            expected = [row["question"] for row in QUESTIONS if row["part"] == "train" and keep(row)]
            assert [text for _, text in rows_of(loaded)] == expected and expected


def test_rows_that_are_passed_over_may_be_wrong(twenty: Path) -> None:
    bad = {"file": "none.png", "question": "", "answer": "maybe", "kind": "D", "part": "train", "number": 0}
    path = written(twenty, [bad, *QUESTIONS])
    assert "unknown label 'maybe'" in refused(fusion(path))
    kept = fusion(path, rows={"kind": ["A", "B", "C"]})
    assert sources.identity(kept) == sources.identity(fusion(written(twenty, QUESTIONS)))
    missing = [*QUESTIONS[:3], QUESTIONS[3] | {"file": "none.png"}]
    message = refused(fusion(written(twenty, [bad, *missing]), rows={"kind": ["A", "B", "C"]}))
    assert "row 5: image not found" in message  # the number in the table, not among what is kept


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"", "not readable as a table"),
        ("t.csv", b'a,b\n"1', "not readable as a table"),
        ("t.csv", b"file,finding\n\xff,1\n", "not readable as a table"),
        ("t.jsonl", b'{"a": 1', "not readable as a table"),
        ("t.parquet", b"no parquet", "not readable as a table"),
        ("t.xlsx", b"", "unknown kind of table '.xlsx'"),
        ("t.csv", b"file,finding\n", "train: no images in this split"),
        ("t.csv", b"file,finding\n,pneumonia\n", "row 1: image not found"),
    ],
)
def test_what_is_no_table_is_refused(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(in_table(tmp_path / name))
    assert message.startswith(str(tmp_path / name)) and says in message


def test_parquet_without_pyarrow_says_what_to_install(twenty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(twenty, QUESTIONS, "parquet")

    def missing(*args: Any, **kwargs: Any) -> Any:
        raise ImportError("Unable to find a usable engine;\ntried using: 'pyarrow', 'fastparquet'.")

    monkeypatch.setattr(pd, "read_parquet", missing)
    assert refused(in_table(path)) == f"{path}: reading Parquet needs pyarrow: pip install pyarrow (or save it as CSV)"
