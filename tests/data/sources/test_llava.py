"""LLaVA's files in the official layout: what they say, and what is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.data import sources
from benchmark.data.cache import cached
from benchmark.data.catalog import Source
from tests.source_files import WHERE, pixels, refused, save

TRAIN = [
    {"id": i, "image": f"a/{i // 2}.png", "conversations": [
        {"from": "human", "value": f"<image>\nIs ring {i % 3} visible?"},
        {"from": "gpt", "value": ("yes", "no")[i % 2]},
    ]}
    for i in range(12)
]  # fmt: skip
TEST = [
    {"question_id": i, "image": f"a/{6 + i // 2}.png", "text": f"Is ring {i % 3} visible?\n<image>",
     "gt": ("yes", "no")[i % 2], "answer_type": "CLOSED"}
    for i in range(6)
]  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i in range(9):
        save(tmp_path / "pictures" / "a" / f"{i}.png", pixels(i, (16, 16, 3)))
    return tmp_path


def llava(folder: Path, train: Any = TRAIN, test: Any = TEST, **fields: Any) -> Source:
    """The files of a task; what is text is written as it is."""
    lines = test if isinstance(test, (str, bytes)) else "".join(json.dumps(line) + "\n" for line in test)
    for name, content in (("train.json", train), ("test.jsonl", lines)):
        content = content if isinstance(content, (str, bytes)) else json.dumps(content)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    options = {"train": folder / "train.json", "test": folder / "test.jsonl", "images": folder / "pictures"}
    return replace(Source(WHERE, "llava", (), options | fields.pop("options", {}), "generation"), **fields)


def turns(*values: str, first: str = "human") -> list[dict[str, str]]:
    speakers = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": speakers[i % 2], "value": value} for i, value in enumerate(values)]


def spoken(split: sources.Split) -> list[tuple[int, str, str]]:
    assert split.pairs is not None
    return [(image, split.texts[asked], split.texts[told]) for image, asked, told in split.pairs.tolist()]


def test_the_official_layout_is_read(images: Path) -> None:
    source = llava(images)
    test = sources.load(source, "test")
    expected = [(i // 2, f"Is ring {i % 3} visible?", ("yes", "no")[i % 2]) for i in range(6)]
    assert spoken(test) == expected and test.labels.tolist() == [0, 1] * 3
    assert np.array_equal(next(iter(test.images)), pixels(6, (16, 16, 3))) and len(test.images) == 3
    assert test.closed is not None and test.closed.tolist() == [True] * 6
    train, val = sources.load(source, "train"), sources.load(source, "val")
    assert len(train.labels) == 10 and len(val.labels) == 2  # a tenth, and both questions of its image
    assert train.closed is not None and train.closed.all()
    assert sources.counts(source) == {"test": 3, "train": 5, "val": 1}
    assert {split: number.tolist() for split, number in sources.groups(source).items()} == {
        "test": [0, 0, 1, 1, 2, 2], "train": [i // 2 for i in range(10)], "val": [0, 0]}  # fmt: skip
    assert sources.subgroups(source) == {} and sources.facts(source) is None
    assert sources.dialogue(source)["test"] == [(asked, told, True) for _, asked, told in expected]


def test_what_is_kept_in_the_cache_is_what_was_read(images: Path) -> None:
    source = llava(images)
    for _ in range(2):
        for split, found in cached(source, sources.identity(source), 8).items():
            read = sources.load(source, split)
            assert spoken(found) == spoken(read) and found.images.shape == (len(read.images), 3, 8, 8)
            assert found.closed is not None and read.closed is not None
            assert found.closed.dtype == bool and found.closed.tolist() == read.closed.tolist()


def test_rounds_places_of_the_image_and_lists_of_images(images: Path) -> None:
    train = [
        {"image": ["a/0.png", "a/1.png"], "conversations": turns("What <image> is it?", "a ring", "Why?", "x")},
        {"image": "a/1.png", "conversations": turns("hello", "<image>\nQ", " A ", first="gpt")},
        {"image": "a/2.png", "conversations": turns("R\n<image>", "B"), "more": {"deep": [1, 2]}},
    ]  # fmt: skip
    test = [{"question_id": "0", "image": ["a/8.png", "none.png"], "text": "Q", "ground_truth": "A"},
            {"question_id": 0, "image": "a/8.png", "text": "Q2", "gt": "B", "answer_type": "closed"}]  # fmt: skip
    source = llava(images, train, test)
    told = sources.dialogue(source)
    assert sorted(told["train"] + told["val"]) == [
        ("Q", "A", False), ("R", "B", False), ("What   is it?", "a ring", False), ("Why?", "x", False)]  # fmt: skip
    assert told["test"] == [("Q", "A", False), ("Q2", "B", True)]
    assert told["val"] and not {q for q, *_ in told["val"]} & {q for q, *_ in told["train"]}


def test_training_answers_are_closed_as_the_test_file_says(images: Path) -> None:
    asked = [TRAIN[i] | {"conversations": turns("Q", told)} for i, told in enumerate(["Yes.", "no", "left", "a ring"])]
    opened = [line | {"answer_type": "OPEN"} for line in TEST]

    def closed(test: list[dict[str, Any]], **fields: Any) -> set[str]:
        told = sources.dialogue(llava(images, asked, test, **fields))
        return {answer for _, answer, is_closed in told["train"] + told["val"] if is_closed}

    assert closed(TEST) == {"Yes.", "no", "left", "a ring"} and closed(opened) == set()
    assert closed([TEST[0], *opened[1:]]) == {"Yes.", "no"}
    mixed = [TEST[0] | {"gt": "Left"}, *opened[1:]]
    assert closed(mixed, answers=("left", "right")) == {"left"}


def test_an_image_of_two_names_is_one(images: Path) -> None:
    names = ["a/0.png", "./a/0.png", "a//0.png", "a/../a/0.png"] * 3
    train = [TRAIN[i] | {"image": name} for i, name in enumerate(names)]
    found = sources.load(llava(images, [*train, TRAIN[2]]), "train")
    assert {*sources.groups(llava(images, [*train, TRAIN[2]]))["train"].tolist()} == {0} and len(found.labels) == 12


def test_a_few_images_are_enough(images: Path) -> None:
    one = [TRAIN[0], TRAIN[1]]  # of one image
    told = sources.dialogue(llava(images, one))
    assert told["val"] == told["train"] and len(told["train"]) == 2
    two = sources.dialogue(llava(images, [TRAIN[0], TRAIN[2]]))
    assert len(two["val"]) == len(two["train"]) == 1 and two["val"] != two["train"]


@pytest.mark.parametrize("mark", ["﻿", ""])
@pytest.mark.parametrize("end", ["\r\n", "\n\n", "\n"])
def test_a_mark_of_bytes_and_any_ends_of_lines(mark: str, end: str, images: Path) -> None:
    expected = sources.identity(llava(images))
    lines = mark + end.join(json.dumps(line) for line in TEST)
    assert sources.identity(llava(images, mark + json.dumps(TRAIN, indent=1).replace("\n", end), lines)) == expected


def test_the_identity_is_that_of_contents(images: Path) -> None:
    def told(train: Any = TRAIN, test: Any = TEST) -> str:
        return sources.identity(llava(images, train, test))

    other = TRAIN[0] | {"conversations": turns("Is ring 0 visible?", "maybe")}
    seen = {
        told(), told([other, *TRAIN[1:]]), told(TRAIN[1:]), told(test=TEST[1:]), told(test=TEST[::-1]),
        told([TRAIN[0] | {"image": "a/5.png"}, *TRAIN[1:]]), told(test=[TEST[0] | {"text": "Q"}, *TEST[1:]]),
        told(test=[{**TEST[0], "answer_type": "OPEN"}, *TEST[1:]]),
    }  # fmt: skip
    assert len(seen) == 8
    assert told([entry | {"id": 7} for entry in TRAIN]) == told()
    before = told()
    save(images / "pictures" / "a" / "0.png", pixels(99, (16, 16, 3)))
    assert told() != before


def entry(**changes: Any) -> Any:
    return [*TRAIN[:3], {key: value for key, value in (TRAIN[3] | changes).items() if value is not ...}]


def line(**changes: Any) -> Any:
    return [*TEST[:2], {key: value for key, value in (TEST[2] | changes).items() if value is not ...}]


def talk(*values: Any) -> Any:
    return entry(conversations=turns(*values))


LONG = "word " * 10_000
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("no image", {"train": entry(image=...)}, "train.json: entry 4: without an image"),
    ("null as an image", {"train": entry(image=None)}, "entry 4: without an image"),
    ("an empty image", {"train": entry(image="")}, "entry 4: without an image"),
    ("an empty list of images", {"train": entry(image=[])}, "entry 4: without an image"),
    ("a list of nothing", {"train": entry(image=[""])}, "entry 4: without an image"),
    ("a number as an image", {"train": entry(image=3)}, "entry 4: image: expected a path, got 3"),
    ("an image that is not there", {"train": entry(image="a/99.png")}, "entry 4: turn 1: image not found"),
    ("a folder as an image", {"train": entry(image="a")}, "entry 4: turn 1: image not found"),
    ("an image above", {"train": entry(image="../secret.png")}, "turn 1: the image is outside of the folder of images"),
    ("an image elsewhere", {"train": entry(image="/etc/passwd")}, "turn 1: the image is outside"),
    ("a NUL in an image", {"train": entry(image="a/\0.png")}, "entry 4: turn 1: image not found"),
    ("half a character in an image", {"train": entry(image="\ud800.png")}, "entry 4: turn 1: image not found"),
    ("a long name of an image", {"train": entry(image="x" * 5000)}, "entry 4: turn 1: image not found"),
    ("no conversation", {"train": entry(conversations=...)}, "entry 4: conversations: expected a list of turns"),
    ("an empty conversation", {"train": entry(conversations=[])}, "entry 4: conversations: expected a list of turns"),
    ("a text as conversation", {"train": entry(conversations="Q")}, "entry 4: conversations: expected a list of turns"),
    ("a turn that is a text", {"train": entry(conversations=["Q", "A"])}, "turn 1: expected 'from' and 'value'"),
    ("a turn without a value", {"train": entry(conversations=[{"from": "human"}])}, "turn 1: expected 'from'"),
    ("a question alone", {"train": talk("Q")}, "entry 4: conversations: a question without an answer"),
    ("a question too many", {"train": talk("Q", "A", "Q")}, "entry 4: conversations: a question without an answer"),
    ("an answer alone", {"train": entry(conversations=turns("A", first="gpt"))}, "entry 4: conversations: no question"),
    ("two questions at once", {"train": entry(conversations=turns("Q")[:1] * 2)}, "turn 2: expected a turn of 'gpt'"),
    ("another speaker", {"train": entry(conversations=[*turns("Q"), {"from": "gtp", "value": "A"}])},
     "turn 2: unknown speaker 'gtp' (did you mean 'gpt'?)"),
    ("a list as a speaker", {"train": entry(conversations=[*turns("Q"), {"from": ["gpt"], "value": "A"}])},
     "turn 2: unknown speaker"),
    ("an empty question", {"train": talk("<image>\n ", "A")}, "entry 4: turn 1: the question is empty"),
    ("an empty answer", {"train": talk("Q", " \n")}, "entry 4: turn 2: the answer is empty"),
    ("an answer that nobody sees", {"train": talk("Q", "\u200b")}, "entry 4: turn 2: the answer is empty"),
    ("an answer that is a number", {"train": talk("Q", 3)}, "entry 4: turn 2: the answer: expected text, got 3"),
    ("half a character", {"train": talk("Q", "\ud800")}, "entry 4: turn 2: the answer: expected text"),
    ("an image in an answer", {"train": talk("Q", "A <image>")}, "entry 4: turn 2: the answer has <image>"),
    ("a long question", {"train": talk(LONG, "A")}, "entry 4: turn 1: the question has 10,000 words"),
    ("a long answer", {"train": talk("Q", LONG)}, "entry 4: turn 2: the answer has 10,000 words"),
    ("a long word", {"train": talk("Q", "x" * 100_000)}, "turn 2: the answer has 1 words, 100,000 characters"),
    ("an answer outside of the legal ones", {"train": talk("Q", "maybe"), "answers": ("yes", "no")},
     "entry 4: turn 1: the answer 'maybe' is none of s.yaml: tasks[0].answers (['yes', 'no'])"),
    ("an entry that is a list", {"train": [[]]}, "entry 1: expected keys and values"),
    ("keys at the top", {"train": {"a": 1}}, "train.json: expected a list of conversations, got a dict"),
    ("no entries", {"train": []}, "train.json: expected a list of conversations"),
    ("no JSON", {"train": "[{"}, "train.json: not readable as JSON"),
    ("nothing", {"train": ""}, "train.json: not readable as JSON"),
    ("lines of JSON", {"train": "{}\n{}"}, "train.json: not readable as JSON: Extra data"),
    ("deep lists", {"train": "[" * 10**6}, "train.json: not readable as JSON: nested too deep"),
    ("deep lists in a line", {"test": '{"a":' * 10**6}, "line 1: not readable as JSON: nested too deep"),
    ("NaN", {"train": json.dumps(TRAIN).replace('"id": 0', '"id": NaN')}, "not readable as JSON: NaN is no number"),
    ("a number of many digits", {"train": json.dumps(TRAIN).replace('"id": 0', f'"id": {"9" * 9999}')}, "as JSON"),
    ("a key twice", {"train": json.dumps(TRAIN).replace('"id": 0', '"id": 0, "id": 1')}, "the key 'id' stands twice"),
    ("UTF-16", {"train": json.dumps(TRAIN).encode("utf-16")}, "train.json: not readable as text of UTF-8"),
    ("no UTF-8", {"test": b'{"text": "\xff"}'}, "test.jsonl: not readable as text of UTF-8"),
    ("no reference", {"test": line(gt=...)}, "test.jsonl: line 3: the key 'gt' is missing"),
    ("an empty reference", {"test": line(gt=" ")}, "line 3: the answer is empty"),
    ("no text as a reference", {"test": line(gt=None)}, "line 3: the answer: expected text, got None"),
    ("references", {"test": line(gt=["a", "b"])}, "line 3: the answer: expected text, got ['a', 'b']"),
    ("a long reference", {"test": line(gt=LONG)}, "line 3: the answer has 10,000 words"),
    ("no question", {"test": line(text=...)}, "line 3: the key 'text' is missing"),
    ("an empty text", {"test": line(text="<image>")}, "line 3: the question is empty"),
    ("a long text", {"test": line(text=LONG)}, "line 3: the question has 10,000 words"),
    ("no image in a line", {"test": line(image=...)}, "line 3: without an image"),
    ("an image of a line above", {"test": line(image="../x.png")}, "line 3: the image is outside"),
    ("an image of a line not there", {"test": line(image="x.png")}, "line 3: image not found"),
    ("an unknown type", {"test": line(answer_type="CLOSE")}, "line 3: answer_type: unknown answer type 'CLOSE'"),
    ("a number as a type", {"test": line(answer_type=1)}, "line 3: answer_type: unknown answer type '1'"),
    ("a reference outside of the legal ones", {"test": line(gt="maybe"), "answers": ("yes", "no")},
     "line 3: the answer 'maybe' is none of"),
    ("legal answers of open questions", {"test": [TEST[0] | {"answer_type": "OPEN"}], "answers": ("yes", "no")},
     ".answers: these samples have no closed question"),
    ("an empty test file", {"test": ""}, "test.jsonl: expected a JSON object a line, at least one"),
    ("blank lines", {"test": "\n \n"}, "test.jsonl: expected a JSON object a line, at least one"),
    ("a line that is no JSON", {"test": json.dumps(TEST[0]) + "\n\nyes\n"}, "line 3: not readable as JSON"),
    ("a list of tests", {"test": json.dumps(TEST)}, "line 1: expected keys and values, got a list"),
    ("a key twice in a line", {"test": '{"gt": "a", "gt": "b"}'}, "line 1: not readable as JSON: the key 'gt' stands"),
    ("Infinity in a line", {"test": '{"gt": -Infinity}'}, "line 1: not readable as JSON: -Infinity is no number"),
    ("an instruction", {"instruction": "Q"}, ".instruction: the files of source 'llava' bring their own questions"),
    ("a share of test", {"options": {"fractions": {"test": 0.5}}}, ".fractions.test: the split is there"),
    ("a seed", {"options": {"seed": "x"}}, ".seed: expected a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_bad_files_are_refused_in_one_line(changes: dict[str, Any], says: str, images: Path) -> None:
    save(images / "secret.png", pixels(0))
    message = refused(llava(images, **changes))
    assert says in message and len(message) < 2100, message


def test_a_file_that_no_memory_holds(images: Path) -> None:
    source = llava(images)
    with open(source.options["train"], "r+b") as file:
        file.truncate(3 << 30)  # no bytes of the disk
    assert "train.json: larger than 2 GiB" in refused(source)


@pytest.mark.parametrize("name", ["train", "test"])
@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: (path.unlink(), path.mkdir())])
def test_a_file_that_is_none(name: str, spoil: Callable[[Path], Any], images: Path) -> None:
    source = llava(images)
    spoil(source.options[name])
    assert f"{source.options[name]}: " in refused(source)
