"""Tables of images and texts: what belongs together, identities, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.data import sources
from benchmark.data.cache import cached
from tests.source_files import (
    QUESTION,
    QUESTIONS,
    YES_NO,
    fusion,
    listed,
    pixels,
    refused,
    retrieval,
    rows_of,
    save,
    written,
)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_fusion_table_keeps_images_and_texts_once_and_the_rows_in_order(kind: str, twenty: Path) -> None:
    source = fusion(written(twenty, QUESTIONS, kind))
    for split in sources.SPLITS:
        rows = [row for row in QUESTIONS if row["part"] == split]
        loaded = sources.load(source, split)
        assert loaded.labels.tolist() == [YES_NO.index(row["answer"]) for row in rows]
        assert len(loaded.images) == len({row["file"] for row in rows}) == len(rows) // 2
        assert len(loaded.texts) == len(set(loaded.texts)) == 5 if split == "train" else 4
        expected = [(np.asarray(Image.open(twenty / row["file"])).tobytes(), row["question"]) for row in rows]
        assert rows_of(loaded) == expected
    assert sources.identity(source) == sources.identity(fusion(written(twenty, QUESTIONS)))


def test_a_retrieval_table_numbers_what_belongs_together_within_its_split(twenty: Path) -> None:
    texts = ["a", "b", "c", "c", "d", "e", "f", "g"]
    images = [0, 0, 1, 2, 3, 4, 5, 6]
    parts = ["train"] * 5 + ["val"] + ["test"] * 2
    rows = [{"file": f"{i}.png", "question": t, "part": p} for i, t, p in zip(images, texts, parts, strict=True)]
    source = retrieval(written(twenty, rows))
    train = sources.load(source, "train")
    assert train.labels.tolist() == [0, 0, 1, 1, 2] and train.texts == ("a", "b", "c", "d")
    assert train.pairs is not None and train.pairs.tolist() == [[0, 0], [0, 1], [1, 2], [2, 2], [3, 3]]
    assert sources.load(source, "test").labels.tolist() == [0, 1]
    sources.check_labels(source, "train", train.labels)  # numbers, not classes: nothing to refuse
    small = cached(source, sources.identity(source), 8)["train"]
    assert small.texts == train.texts and small.images.shape == (4, 3, 8, 8)


def test_the_identity_tells_texts_labels_pairs_images_and_splits(twenty: Path) -> None:
    def told(rows: list[dict[str, Any]], kind: Any = fusion) -> str:
        return sources.identity(kind(written(twenty, rows)))

    first = QUESTIONS[0]
    seen = {
        told(QUESTIONS), told(QUESTIONS, retrieval), told(QUESTIONS[1:]), told([*QUESTIONS[1:], first]),
        told([first | {"question": "another"}, *QUESTIONS[1:]]), told([first | {"answer": "yes"}, *QUESTIONS[1:]]),
        told([first | {"file": "1.png"}, *QUESTIONS[1:]]), told([first | {"part": "val"}, *QUESTIONS[1:]]),
    }  # fmt: skip
    assert len(seen) == 8
    before = told(QUESTIONS)
    save(twenty / "0.png", pixels(99, (9, 8, 3)))
    assert told(QUESTIONS) != before


def test_a_drawn_retrieval_table_is_the_same_however_its_rows_stand(twenty: Path) -> None:
    columns = {"image": "file", "text": "question"}
    rows = [{"file": f"{i}.png", "question": f"text {i // 2 if i < 4 else i}"} for i in range(20)]

    def drawn(rows: list[dict[str, Any]]) -> dict[str, set[str]]:
        found = listed(retrieval(written(twenty, rows), columns=columns))
        return {split: {sample.path.name for sample in found[split]} for split in sources.SPLITS}

    assert drawn(rows) == drawn(rows[::-1])
    assert {split: len(found) for split, found in drawn(rows).items()} == {"train": 13, "val": 2, "test": 5}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rows": {"kin": "A"}}, ("unknown column 'kin'", "did you mean 'kind'?", "rows.kin")),
        ({"rows": {"kind": "AB"}}, ("rows.kind", "unknown value 'AB'")),
        ({"rows": {"kind": "A", "answer": "yess"}}, ("rows.answer", "did you mean 'yes'?")),
        ({"rows": {"answer": True}}, (".rows.answer", "in quotes", "True")),
        ({"rows": {"answer": []}}, (".rows.answer", "[]")),
        ({"rows": ["kind"]}, (".rows", "column: value")),
        ({"columns": {"image": "file", "label": "answer"}}, (".columns", "'text' is missing")),
        ({"columns": {"image": "file", "text": "question"}}, (".columns", "'label' is missing")),
        ({"columns": QUESTION | {"text": "questoin"}}, ("unknown column 'questoin'", "did you mean 'question'?")),
    ],
)
def test_wrong_options_of_a_fusion_table(options: dict[str, Any], says: tuple[str, ...], twenty: Path) -> None:
    message = refused(fusion(written(twenty, QUESTIONS), **options))
    assert all(part in message for part in says), message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"columns": {"image": "file"}}, (".columns", "'text' is missing")),
        ({"columns": QUESTION}, (".columns.label", "a retrieval task has none")),
        ({"values": ["a"]}, (".values", "no classes")),
    ],
)
def test_wrong_options_of_a_retrieval_table(options: dict[str, Any], says: tuple[str, ...], twenty: Path) -> None:
    message = refused(retrieval(written(twenty, QUESTIONS), **options))
    assert all(part in message for part in says), message


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_an_empty_text_is_named(empty: str | None, twenty: Path) -> None:
    rows = [dict(row) for row in QUESTIONS]
    rows[6]["question"] = empty
    for source in (fusion, retrieval):
        assert "row 7: column 'question': the text is empty" in refused(source(written(twenty, rows, "jsonl")))
