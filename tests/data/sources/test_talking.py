"""The options of made generation tasks: what makes another task, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmark.data import sources
from benchmark.data.catalog import Source
from benchmark.data.phantom import captions, notes, talk
from benchmark.data.sources import phantoms
from benchmark.errors import UserError
from tests.source_files import WHERE

MADE = {"generator": "histopathology", "seed": 3, "sizes": {"train": 8, "val": 4, "test": 4}}
TWO: dict[str, Any] = {
    "talk": "classes", "words": ["few", "many"],
    "regions": [{"nuclear_density": [0, 0.3]}, {"nuclear_density": [0.7, 1]}],
}  # fmt: skip
REPORT: dict[str, Any] = {"talk": "report", "factors": ["gland_size", "stain", "fibrosis"]}


def source(**options: Any) -> Source:
    return Source(WHERE, "phantom", (), MADE | options, "generation")


def test_identities_change_with_what_is_said_and_not_without(monkeypatch: pytest.MonkeyPatch) -> None:
    several = [
        source(talk="closed"), source(talk="open"), source(talk=["closed", "open"]), source(talk="closed", seed=4),
        source(talk="closed", factors=["stain"]), source(talk="closed", forms="other"), source(**TWO),
        source(**TWO, meanings=["a", "b"]), source(**REPORT), source(**REPORT, wording="plain"),
        source(talk="closed", factors=["stain"], region={"gland_size": [0, 0.5]}),
        source(**REPORT, shift={"noise": 0.5}),
    ]  # fmt: skip
    told = [sources.identity(each) for each in several]
    assert len(set(told)) == len(several) and told == [sources.identity(each) for each in several]
    monkeypatch.setattr(notes, "VERSION", 99)
    assert told == [sources.identity(each) for each in several]
    for module in (talk, captions):
        monkeypatch.setattr(module, "VERSION", 99)
        assert not {*told} & {sources.identity(each) for each in several}
        monkeypatch.undo()


def test_a_shift_is_of_the_images_alone() -> None:
    plain, shifted = source(**REPORT), source(**REPORT, shift={"noise": 0.5})
    before, after = (sources.load(each, "val") for each in (plain, shifted))
    assert phantoms.dialogue(plain) == phantoms.dialogue(shifted)
    assert all((one != other).any() for one, other in zip(before.images, after.images, strict=True))
    assert before.texts == after.texts and np.array_equal(before.labels, after.labels)


def test_only_tasks_with_reports_know_facts() -> None:
    classes = Source(WHERE, "phantom", ("a", "b"), MADE | {"regions": [{}, {}]})
    assert phantoms.facts(classes) is None and phantoms.facts(source(talk="closed")) is None
    told = phantoms.facts(source(**(REPORT | {"talk": ["closed", "report"]})))
    assert told is not None and told("Karyomegaly and small glands.") == {"nuclear_size": "high", "gland_size": "low"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, (".talk", "closed, open, list, classes, report", "None")),
        ({"talk": []}, (".talk", "[]")),
        ({"talk": {"closed": 1}}, (".talk", "closed")),
        ({"talk": "closd"}, ("unknown talk 'closd'", "did you mean 'closed'?")),
        ({"talk": ["closed", ["open"]]}, ("unknown talk",)),
        ({"talk": True}, (".talk", "True")),
        ({"talk": "closed", "factors": []}, (".factors", "list of factors")),
        ({"talk": "closed", "factors": "stain"}, (".factors", "'stain'")),
        ({"talk": "closed", "factors": ["stian"]}, ("unknown factor 'stian'", "did you mean 'stain'?")),
        ({"talk": "closed", "factors": [["stain"]]}, ("unknown factor",)),
        ({"talk": "closed", "factors": ["stain", "stain"]}, (".factors", "different")),
        ({"talk": "report"}, (".factors", "3 to 5")),
        ({"talk": "report", "factors": ["stain", "fibrosis"]}, (".factors", "3 to 5")),
        ({"talk": "closed", "wording": "plain"}, (".wording", "talk: report")),
        ({"talk": "closed", "words": ["a", "b"]}, (".words", "talk: classes")),
        ({"talk": "closed", "regions": [{}]}, (".regions", "talk: classes")),
        ({"talk": "closed", "forms": "odd"}, ("unknown forms 'odd'", "usual")),
        ({"talk": "closed", "forms": ["usual"]}, ("unknown forms",)),
        (REPORT | {"wording": "clinial"}, ("unknown wording 'clinial'", "did you mean 'clinical'?")),
        (REPORT | {"wording": ["plain"]}, ("unknown wording",)),
        ({"talk": "closed", "region": {"stain": [0, 0.5]}}, (".region.stain", "talked about")),
        ({"talk": "closed", "region": {"stian": [0, 0.5]}}, (".region", "unknown factor")),
        ({"talk": "closed", "factors": ["fibrosis"], "region": {"stain": [0.5, 0]}}, (".region.stain", "[low, high]")),
        ({"talk": "closed", "region": [1]}, (".region", "factor: [low, high]")),
        (TWO | {"region": {"nuclear_density": [0, 1]}}, (".region.nuclear_density", "talked about")),
        (TWO | {"factors": ["stain"]}, (".factors", "talk: classes")),
        (TWO | {"words": ["few"]}, (".words", "at least two")),
        (TWO | {"words": ["few", True]}, (".words", "in quotes")),
        (TWO | {"words": ["few", "Few"]}, (".words", "different")),
        (TWO | {"words": ["few", " "]}, (".words", "at least two words")),
        (TWO | {"words": ["few", "one\ntwo"]}, (".words", "at least two words")),
        (TWO | {"words": ["few", "a b c d"]}, (".words", "at most 3 words")),
        (TWO | {"words": ["few", "{x}"]}, (".words", "braces")),
        (TWO | {"words": None}, (".words", "None")),
        (TWO | {"words": ["few", "some", "many"]}, (".regions", "3 words")),
        (TWO | {"regions": None}, (".regions", "2 words")),
        ({key: value for key, value in TWO.items() if key != "regions"}, (".regions", "2 words")),
        (TWO | {"regions": [{}, {"stian": [0, 1]}]}, (".regions[1]", "unknown factor")),
        (TWO | {"regions": [{}, 3]}, (".regions[1]", "factor: [low, high]")),
        (TWO | {"meanings": ["one"]}, (".meanings", "2 words")),
        (TWO | {"meanings": [1, 2]}, (".meanings", "list of texts")),
        ({"talk": "closed", "sizes": {"val": 1}}, (".sizes.val", "at least 2")),
        ({"talk": ["closed", "open"], "sizes": {"val": 3}}, (".sizes.val", "at least 4")),
        (TWO | {"sizes": {"test": 1}}, (".sizes.test", "at least 2")),
        ({"talk": "closed", "notes": []}, (".notes", "an option of fusion tasks", "a generation task")),
        ({"talk": "closed", "captions": 2}, (".captions", "an option of retrieval tasks")),
        ({"talk": "closed", "seed": "x"}, (".seed", "whole number")),
    ],
)
def test_wrong_options_are_refused_in_one_line(options: dict[str, Any], says: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        sources.identity(source(**options))
    message = str(error.value)
    assert message.startswith(WHERE) and "\n" not in message and all(part in message for part in says), message


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"instruction": "What is it?"}, (".instruction", "bring their own")),
        ({"answers": ("yes", "maybe")}, (".talk", "'no'", "is none of", ".answers")),
    ],
)
def test_what_a_task_says_of_its_answers_must_hold(told: dict[str, Any], says: tuple[str, ...]) -> None:
    sources.identity(replace(source(talk="closed"), answers=("no", "yes", "unknown")))
    with pytest.raises(UserError) as error:
        sources.identity(replace(source(talk="closed"), **told))
    assert all(part in str(error.value) for part in says), error.value


@pytest.mark.parametrize("key", ["talk", "factors", "words", "meanings", "forms"])
def test_other_kinds_have_none_of_these_options(key: str) -> None:
    classes = Source(WHERE, "phantom", ("a", "b"), MADE | {"regions": [{}, {}], key: "closed"})
    with pytest.raises(UserError, match=f"{key}: an option of generation tasks, this one is a classification task"):
        sources.identity(classes)
