"""Generation tasks: what a stream file says of them, what is settled by samples, tables and functions, doubles."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.data import catalog, doubles, identity, settle, sources
from benchmark.data.catalog import Source
from benchmark.errors import UserError
from tests.data.sources.test_llava import TEST, TRAIN
from tests.source_files import WHERE, pixels, refused, save, written

COLUMNS = {"image": "file", "instruction": "asked", "answer": "told", "split": "part"}
ROWS = [
    {"file": f"{i // 2}.png", "asked": f"question {i % 3}", "told": ("yes", "no", "a ring")[i % 3], "part": part,
     "sort": ("CLOSED", "closed", "")[i % 3], "who": f"p{i // 4}"}
    for i, part in enumerate(["train"] * 12 + ["val"] * 4 + ["test"] * 4)
]  # fmt: skip
CLASSES = {"name": "c", "modality": "ct", "source": "phantom", "generator": "ct", "seed": 1, "classes": ["a", "b"],
           "regions": [{}, {}], "template": "{}", "sizes": {"train": 4, "val": 2, "test": 2}}  # fmt: skip
LLAVA = {"name": "g", "modality": "ct", "kind": "generation", "source": "llava", "train": "train.json",
         "test": "test.jsonl", "images": "."}  # fmt: skip
TABLE = {"name": "t", "modality": "ct", "kind": "generation", "source": "table", "path": "table.csv",
         "columns": COLUMNS}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A table, LLaVA's files and their images."""
    for i in range(10):
        save(tmp_path / f"{i}.png", pixels(i, (16, 16, 3)))
        save(tmp_path / "a" / f"{i}.png", pixels(i, (16, 16, 3)))
    (tmp_path / "train.json").write_text(json.dumps(TRAIN))
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, TEST)))
    written(tmp_path, ROWS)
    return tmp_path


def recipe_of(folder: Path, *tasks: dict[str, Any], **stream: Any) -> catalog.Recipe:
    (folder / "s.yaml").write_text(yaml.safe_dump({"name": "s", "tasks": [*tasks]} | stream))
    return catalog.load(str(folder / "s.yaml"), folder)


def table(folder: Path, rows: list[dict[str, Any]] = ROWS, kind: str = "csv", **options: Any) -> Source:
    fields = {key: options.pop(key) for key in ("instruction", "answers") if key in options}
    options = {"path": written(folder, rows, kind), "columns": COLUMNS} | options
    return replace(Source(WHERE, "table", (), options, "generation"), **fields)


# ---- what a stream file says


def test_a_task_says_how_it_is_asked_and_answered(files: Path) -> None:
    words = {"metric": "f1", "answers": ["yes", "no"], "max_new_tokens": 7}
    task = recipe_of(files, LLAVA | words).stream.tasks[0]
    assert (task.metric, task.answers, task.max_new_tokens, task.instruction) == ("f1", ("yes", "no"), 7, "")
    assert task.labels == () and task.kind == "generation"
    plain = recipe_of(files, LLAVA).stream.tasks[0]
    assert (plain.metric, plain.answers, plain.max_new_tokens) == ("", (), 100)
    asked = recipe_of(files, CLASSES, CLASSES | {"name": "d", "instruction": " Which? "}).stream.tasks
    assert [each.instruction for each in asked] == ["What does the image show?", "Which?"]
    assert recipe_of(files, CLASSES | {"metric": "accuracy"}).stream.tasks[0].metric == ""  # that of its kind


def test_kinds_stand_in_one_stream_and_label_ids_count_over_labelled_tasks(files: Path) -> None:
    columns = {"image": "file", "text": "asked", "label": "told", "split": "part"}
    fusion = TABLE | {"name": "f", "kind": "fusion", "classes": ["yes", "no", "a ring"], "template": "{}",
                      "columns": columns}  # fmt: skip
    recipe = recipe_of(files, CLASSES, LLAVA, fusion, TABLE)
    assert recipe.stream.kinds == ("classification", "fusion", "generation")
    assert [[label.id for label in task.labels] for task in recipe.stream] == [[0, 1], [], [2, 3, 4], []]
    assert [task.index for task in recipe.stream] == [0, 1, 2, 3] and {task.of for task in recipe.stream} == {4}


WRONG: list[tuple[list[dict[str, Any]], str]] = [
    ([LLAVA | {"classes": ["a", "b"]}], "tasks[0].classes: a generation task has none"),
    ([LLAVA | {"template": "{}"}], "tasks[0].template: a generation task has none"),
    ([LLAVA | {"metric": "F1"}], "unknown metric 'F1'"),
    ([LLAVA | {"metric": "accuracy"}], "unknown metric 'accuracy' (valid: exact, f1)"),
    ([LLAVA | {"metric": ["f1"]}], "unknown metric"),
    ([LLAVA | {"metric": None}], "unknown metric"),
    ([LLAVA | {"max_new_tokens": 0}], ".max_new_tokens: expected a whole number, 1 to 2048, got 0"),
    ([LLAVA | {"max_new_tokens": 2049}], ".max_new_tokens: expected a whole number, 1 to 2048, got 2049"),
    ([LLAVA | {"max_new_tokens": True}], ".max_new_tokens: expected a whole number"),
    ([LLAVA | {"max_new_tokens": 3.0}], ".max_new_tokens: expected a whole number"),
    ([LLAVA | {"answers": "yes"}], ".answers: expected at least two different answers"),
    ([LLAVA | {"answers": ["yes"]}], ".answers: expected at least two different answers"),
    ([LLAVA | {"answers": ["yes", "yes"]}], ".answers: expected at least two different answers"),
    ([LLAVA | {"answers": ["yes", "Yes"]}], ".answers: 'yes' and 'Yes' are one name to the backbone"),
    ([LLAVA | {"answers": [True, False]}], ".answers: expected a list of texts (numbers, yes and no in quotes)"),
    ([LLAVA | {"answers": ["yes", ""]}], ".answers: expected a list of texts"),
    ([LLAVA | {"answers": ["yes", "a\nb"]}], ".answers: expected a line"),
    ([LLAVA | {"answers": []}], ".answers: expected a list of texts"),
    ([LLAVA | {"answers": {"yes": 1}}], ".answers: expected a list of texts"),
    ([LLAVA | {"instruction": 3}], ".instruction: expected text, got 3"),
    ([LLAVA | {"instruction": "  "}], ".instruction: expected text"),
    ([LLAVA | {"instruction": "a " * 501}], ".instruction: expected at most 500 words"),
    ([LLAVA | {"train": ...}], "tasks[0]: the key 'train' is missing"),
    ([LLAVA | {"test": "none.jsonl"}], "tasks[0].test: file not found"),
    ([LLAVA | {"train": "a"}], "tasks[0].train: file not found"),
    ([LLAVA | {"images": "train.json"}], "tasks[0].images: folder not found"),
    ([LLAVA | {"images": ["a"]}], "tasks[0].images: expected text"),
    ([LLAVA | {"kind": "classification"}], "tasks[0].kind: source 'llava' gives generation tasks only"),
    ([LLAVA | {"kind": ...}], "tasks[0].kind: source 'llava' gives generation tasks only"),
    ([LLAVA | {"columns": COLUMNS}], "unknown key 'columns'"),
    ([LLAVA | {"instructions": "Q"}], "unknown key 'instructions' (did you mean 'instruction'?)"),
    ([LLAVA | {"source": "folder", "train": ..., "test": ..., "images": ..., "path": "a"}],
     "source 'folder' gives classification tasks only"),
    ([CLASSES | {"answers": ["yes", "no"]}], "tasks[0].answers: a classification task has none"),
    ([CLASSES | {"max_new_tokens": 5}], "tasks[0].max_new_tokens: a classification task has none"),
    ([CLASSES | {"metric": "exact"}], "unknown metric 'exact' (valid: accuracy)"),
    ([CLASSES | {"instruction": ["Q"]}], "tasks[0].instruction: expected text"),
    ([TABLE | {"kind": "retrieval", "instruction": "Q"}], "tasks[0].instruction: a retrieval task has none"),
    ([LLAVA, TABLE | {"kind": "retrieval"}], "retrieval tasks cannot stand beside those of another kind (generation)"),
    ([TABLE | {"kind": "retrieval"}, CLASSES],
     "retrieval tasks cannot stand beside those of another kind (classification)"),
    ([LLAVA, LLAVA], "the name 'g' stands twice"),
]  # fmt: skip


@pytest.mark.parametrize(("tasks", "says"), WRONG, ids=[says for _, says in WRONG])
def test_a_wrong_task_is_refused_in_one_line(tasks: list[dict[str, Any]], says: str, files: Path) -> None:
    with pytest.raises(UserError) as error:
        recipe_of(files, *({key: value for key, value in task.items() if value is not ...} for task in tasks))
    assert says in str(error.value) and str(error.value).startswith(str(files / "s.yaml")), error.value


def test_labels_are_not_shared_with_tasks_that_have_none(files: Path) -> None:
    for tasks in ([LLAVA], [CLASSES, LLAVA]):
        with pytest.raises(UserError, match="label_space: shared, but generation tasks have no labels"):
            recipe_of(files, *tasks, label_space="shared")


# ---- what samples settle


def test_metric_and_answers_are_settled_by_the_samples(files: Path) -> None:
    recipe = settle.settled(recipe_of(files, LLAVA, CLASSES, TABLE))
    assert [task.metric for task in recipe.stream] == ["exact", "", "f1"]
    assert [task.answers for task in recipe.stream] == [("no", "yes"), (), ()]
    typed = TABLE | {"columns": COLUMNS | {"type": "sort"}}
    assert settle.settled(recipe_of(files, typed)).stream.tasks[0].answers == ("no", "yes")
    kept = settle.settled(recipe_of(files, LLAVA | {"metric": "f1", "answers": ["yes", "no", "both"]})).stream.tasks[0]
    assert (kept.metric, kept.answers) == ("f1", ("yes", "no", "both"))
    closed = [line | {"answer_type": "OPEN"} for line in TEST[1:]]
    (files / "test.jsonl").write_text("\n".join(map(json.dumps, [TEST[0], *closed])))
    mixed = settle.settled(recipe_of(files, LLAVA)).stream.tasks[0]
    assert (mixed.metric, mixed.answers) == ("f1", ("no", "yes"))


def test_no_image_is_decoded_to_settle(files: Path) -> None:
    for i in range(10):
        (files / "a" / f"{i}.png").write_bytes(b"no image")
    assert settle.settled(recipe_of(files, LLAVA)).stream.tasks[0].metric == "exact"


def test_the_hash_tells_words_and_not_whether_the_file_or_the_samples_tell_them(files: Path) -> None:
    def hashed(**more: Any) -> str:
        recipe = settle.settled(recipe_of(files, LLAVA | more, CLASSES))
        return identity.stream_hash(recipe.stream, identity.identities(recipe))

    same = {hashed(), hashed(metric="exact"), hashed(answers=["yes", "no"]), hashed(max_new_tokens=100)}
    others = {hashed(metric="f1"), hashed(answers=["yes", "no", "both"]), hashed(max_new_tokens=9)}
    assert len(same) == 1 and len(others) == 3 and not same & others

    def asked(**more: Any) -> str:
        recipe = recipe_of(files, CLASSES | more)
        return identity.stream_hash(recipe.stream, identity.identities(recipe))

    assert asked() == asked(instruction="What does the image show?") == asked(metric="accuracy")
    assert asked() != asked(instruction="Which class?")


MADE = {"name": "m", "modality": "ct", "kind": "generation", "source": "phantom", "generator": "ct", "seed": 1,
        "sizes": {"train": 8, "val": 8, "test": 8}, "talk": "closed", "factors": ["lesion_size"]}  # fmt: skip


def test_made_questions_have_their_own_instructions_and_legal_answers(files: Path) -> None:
    found = settle.settled(recipe_of(files, MADE)).stream.tasks[0]
    assert (found.metric, found.answers) == ("exact", ("no", "yes"))
    kept = settle.settled(recipe_of(files, MADE | {"answers": ["yes", "no"]})).stream.tasks[0]
    assert kept.answers == ("yes", "no")
    for change, says in (({"answers": ["large", "small"]}, "is none of"), ({"instruction": "Q"}, "bring their own")):
        for more in ({}, {"metric": "f1"}):
            with pytest.raises(UserError, match=says):
                settle.settled(recipe_of(files, MADE | change | more))


# ---- tables and functions


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_of_questions_and_answers(kind: str, files: Path) -> None:
    source = table(files, ROWS, kind, columns=COLUMNS | {"type": "sort", "group": "who"})
    for split in sources.SPLITS:
        rows = [row for row in ROWS if row["part"] == split]
        loaded = sources.load(source, split)
        assert loaded.pairs is not None and loaded.closed is not None and len(loaded.images) == len(rows) // 2
        assert [(loaded.texts[q], loaded.texts[a]) for _, q, a in loaded.pairs.tolist()] == [
            (row["asked"], row["told"]) for row in rows
        ]
        assert loaded.pairs[:, 0].tolist() == [i // 2 for i in range(len(rows))]
        assert loaded.closed.tolist() == [row["told"] != "a ring" for row in rows]
        assert loaded.labels.max() + 1 == len({row["told"] for row in rows})
    assert sources.groups(source)["train"].tolist() == [i // 4 for i in range(12)]
    assert sources.identity(source) == sources.identity(table(files, columns=COLUMNS | {"type": "sort"}))


def test_one_instruction_of_all_rows_and_legal_answers_that_make_them_closed(files: Path) -> None:
    columns = {key: COLUMNS[key] for key in ("image", "answer", "split")}
    told = sources.dialogue(table(files, columns=columns, instruction="Is it <image> there?"))
    assert {(question, closed) for split in told.values() for question, _, closed in split} == {
        ("Is it   there?", False)
    }
    legal = sources.dialogue(table(files, answers=("Yes", "No", "A ring")))
    assert all(closed for split in legal.values() for *_, closed in split)


def test_splits_are_drawn_by_images(files: Path) -> None:
    columns = {key: COLUMNS[key] for key in ("image", "answer", "instruction")}
    rows = [row | {"file": f"{i % 10}.png"} for i, row in enumerate(ROWS)]
    source = table(files, rows, columns=columns, subgroups=["sort"])
    found = {split: {sample.path for sample in part} for split, part in sources.table.listed(source).items()}
    assert sorted(path for paths in found.values() for path in paths) == sorted({files / row["file"] for row in rows})
    assert all(found.values()) and sources.subgroups(source)["test"]["sort"].shape == (2 * len(found["test"]),)


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ({"asked": " "}, {}, "row 3: the question is empty"),
        ({"told": ""}, {}, "row 3: the answer is empty"),
        ({"told": "word " * 10_000}, {}, "row 3: the answer has 10,000 words"),
        ({"asked": "word " * 10_000}, {}, "row 3: the question has 10,000 words"),
        ({"told": "<image>"}, {}, "row 3: the answer has <image>"),
        ({"told": "maybe"}, {"answers": ("yes", "no", "a ring")}, "row 3: the answer 'maybe' is none of"),
        ({"sort": "CLOSE"}, {"columns": COLUMNS | {"type": "sort"}}, "row 3: unknown answer type 'CLOSE'"),
        ({"file": ""}, {}, "row 3: image not found"),
        ({"file": "../x.png"}, {}, "row 3: the image is outside of the table's folder"),
        ({}, {"columns": {"image": "file", "answer": "told"}}, "the column of 'instruction' is missing"),
        ({}, {"columns": {"image": "file", "instruction": "told"}}, "the column of 'answer' is missing"),
        ({}, {"columns": COLUMNS | {"label": "sort"}}, ".columns.label: a generation task has none"),
        ({}, {"columns": COLUMNS | {"text": "sort"}}, ".columns.text: a generation task has none"),
        ({}, {"instruction": "Q"}, ".columns.instruction: the task has an instruction, which is that of every row"),
        ({}, {"values": ["a"]}, ".values: a generation task has no classes"),
        ({}, {"columns": COLUMNS | {"type": "who"}}, "row 1: unknown answer type 'p0'"),
        ({}, {"columns": COLUMNS | {"group": "part", "split": "who"}}, "unknown split 'p0'"),
        ({"who": "p4"}, {"columns": COLUMNS | {"group": "who"}}, "groups are in more than one split: 'p4'"),
    ],
)
def test_a_bad_table_is_refused(change: dict[str, Any], options: dict[str, Any], says: str, files: Path) -> None:
    rows = [row | change if i == 2 else row for i, row in enumerate(ROWS)]
    assert says in refused(table(files, rows, **options))


def test_other_kinds_have_no_answers(files: Path) -> None:
    columns = {"image": "file", "label": "told", "answer": "asked", "split": "part"}
    source = Source(WHERE, "table", ("yes", "no", "a ring"), {"path": files / "table.csv", "columns": columns})
    assert ".columns.answer: a classification task has none" in refused(source)


GOOD = "return {'images': np.zeros((2, 4, 4), np.uint8), 'texts': ['Q', 'no', 'yes', 'Q'], 'pairs': [[0, 0, 1], [0, 3, 2], [1, 0, 1]]"  # noqa: E501


def plugin(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str, **fields: Any) -> Source:
    (folder / "own_words.py").write_text(f"import numpy as np\n\ndef load(split):\n    {body}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "own_words", raising=False)
    return replace(Source(WHERE, "function", (), {"function": "own_words:load"}, "generation"), **fields)


def test_a_function_gives_questions_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plugin(tmp_path, monkeypatch, f"{GOOD}}}")
    loaded = sources.load(source, "train")
    assert loaded.texts == ("Q", "no", "yes") and loaded.labels.tolist() == [0, 1, 0] and loaded.closed is not None
    assert loaded.pairs is not None and loaded.pairs.tolist() == [[0, 0, 1], [0, 0, 2], [1, 0, 1]]
    assert sources.dialogue(source)["test"] == [("Q", "no", False), ("Q", "yes", False), ("Q", "no", False)]
    before = sources.identity(source)
    told = plugin(tmp_path, monkeypatch, f"{GOOD}, 'closed': [True, False, True]}}")
    assert [closed for *_, closed in sources.dialogue(told)["val"]] == [True, False, True]
    assert sources.identity(told) != before
    legal = plugin(tmp_path, monkeypatch, f"{GOOD}}}", answers=("yes", "no"))
    assert all(closed for *_, closed in sources.dialogue(legal)["test"])


@pytest.mark.parametrize(
    ("body", "fields", "says"),
    [
        (GOOD.replace("'pairs'", "'labels'") + "}", {}, "the key 'pairs' is missing"),
        (GOOD.replace("'texts'", "'labels'") + "}", {}, "the key 'texts' is missing"),
        (GOOD.replace("[0, 0, 1]", "[0, 0, 4]") + "}", {}, "pairs: a row lies outside"),
        (GOOD.replace(", 1]", "]").replace(", 2]", "]") + "}", {}, "pairs: expected (P, 3)"),
        (GOOD + ", 'closed': [1, 0, 1]}", {}, "closed: expected true and false, got int64"),
        (GOOD + ", 'closed': [True]}", {}, "closed: (1,) does not fit 3 samples"),
        (GOOD.replace("'no'", "'a ' * 10_000") + "}", {}, "texts[1]: the answer has 10,000 words"),
        (GOOD.replace("['Q'", "['<image>'") + "}", {}, "texts[0]: the question is empty"),
        (GOOD + "}", {"answers": ("yes", "maybe")}, "pairs[0]: the answer 'no' is none of"),
        (GOOD + "}", {"instruction": "Q"}, ".instruction: the function brings its own questions"),
    ],
)
def test_what_a_function_may_not_give(
    body: str, fields: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says in refused(plugin(tmp_path, monkeypatch, body, **fields))


# ---- what stands twice


def test_an_image_with_its_question_counts_in_two_splits_and_under_two_answers(files: Path) -> None:
    def counted(**changes: dict[str, Any]) -> dict[str, int]:
        rows = [row | changes.get(f"row{i}", {}) for i, row in enumerate(ROWS)]
        return doubles.counted(table(files, rows))

    assert counted() == {"test": 0, "val": 0, "labels": 0}  # each image has two questions
    again = {"file": "0.png", "asked": "question 9"}
    assert counted(row19=again) == {"test": 0, "val": 0, "labels": 0}  # another question of a training image
    same = {"file": "0.png", "asked": "question 0"}
    assert counted(row19=same | {"told": " YES. "}) == {"test": 1, "val": 0, "labels": 0}
    assert counted(row19=same | {"told": "no"}, row15=same) == {"test": 1, "val": 1, "labels": 1}
