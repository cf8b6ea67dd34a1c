"""``source: llava``: the files of LLaVA's training and test, as MSLoRA-CR has them, and a folder of images.

``train``: a JSON list; of each entry ``image`` (a path below ``images``; of a list the first) and ``conversations``,
turns of ``human`` and ``gpt`` by turns. A first turn that is not human is dropped, ``<image>`` is cut out of a question
wherever it stands, and every round is a sample of its own, without the rounds before it.
``test``: a JSON object a line with ``image``, ``text`` (the question), ``gt`` or ``ground_truth`` (the answer) and
``answer_type`` OPEN or CLOSED, OPEN where it is missing.
Other keys, ids among them, say nothing here. Validation samples are drawn from those of training, images whole.

The training file tells no answer types. Its questions are closed where all of the test file are; where some are, those
whose answer is one of the task's ``answers``, or without such a list yes or no; where none is, none. Of the test file
nothing else is used for that.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.catalog import Source
from benchmark.data.places import regular
from benchmark.data.sources.dialogues import YES_NO, answer, check_legal, is_closed, plain, question
from benchmark.data.sources.held_out import drawn
from benchmark.data.sources.in_files import (
    Sample,
    as_split,
    content_identity,
    group_numbers,
    image_files,
    none_empty,
)
from benchmark.data.sources.split import Split
from benchmark.errors import UserError, shown, unknown

SPEAKERS = ("human", "gpt")
MOST_BYTES = 2 << 30  # of a file, which is read as a whole


@dataclass(frozen=True)
class _Asked:
    """A question with its answer, where it stands (for messages) and the path of its image."""

    where: str
    image: str
    question: str
    answer: str
    closed: bool = False


def load(source: Source, split: str) -> Split:
    return as_split(source, listed(source)[split])


def identity(source: Source) -> str:
    return content_identity(source, listed(source))


def groups(source: Source) -> dict[str, NDArray[np.int64]]:
    """By split the number of every sample's image, without the splits where each sample has an image of its own."""
    return group_numbers(listed(source))


def listed(source: Source) -> dict[str, list[Sample]]:
    """A sample for every round of a conversation and every line of the test file.

    Raises:
        UserError: a file is damaged or of another layout, an image is not there, a text is empty or too long, an answer
            is not legal.
    """
    if source.instruction:
        raise UserError(f"{source.where}.instruction: the files of source 'llava' bring their own questions")
    tests = [(each, each.closed) for each in _tests(source)]
    is_one = _closed(source, {closed for _, closed in tests})
    trains = [(each, is_one(each)) for each in _trains(source)]
    check_legal(source, [(each.where, each.answer) for each, closed in (*trains, *tests) if closed])
    train, test = _samples(source, trains), _samples(source, tests)
    return none_empty(source, {"train": train, "test": test} | drawn(source, train, ["val"]))


def _closed(source: Source, types: set[bool]) -> Callable[[_Asked], bool]:
    """Which training questions are closed, where the test questions are of these types."""
    if len(types) == 1:
        return lambda _: types == {True}
    legal = {plain(text) for text in source.answers or YES_NO}
    return lambda each: plain(each.answer) in legal


def _samples(source: Source, asked: Sequence[tuple[_Asked, bool]]) -> list[Sample]:
    """The questions with their files below the folder of images, and whether they are closed."""
    folder = Path(source.options["images"])
    first: dict[str, str] = {}  # of every image where it stands first
    for each, _ in asked:
        first.setdefault(each.image, each.where)
    files = image_files([*first.values()], [[folder / image] for image in first], [folder], "the folder of images")
    found = {image: (file, 0, f"image:{normpath(image)}") for image, file in zip(first, files, strict=True)}
    return [Sample(*found[each.image], each.question, (), each.answer, closed) for each, closed in asked]


def _trains(source: Source) -> list[_Asked]:
    path = Path(source.options["train"])
    content = _parsed(_read(path), str(path))
    if not isinstance(content, list) or not content:
        got = "an empty list" if content == [] else f"a {type(content).__name__}"
        raise UserError(f"{path}: expected a list of conversations, got {got}")
    found = []
    for number, entry in enumerate(content, start=1):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict):
            raise UserError(f"{where}: expected keys and values, got a {type(entry).__name__}")
        image = _image(entry, where)
        rounds = _rounds(entry.get("conversations"), where)
        found += [_Asked(at, image, asked, told) for at, asked, told in rounds]
    return found


def _rounds(turns: Any, where: str) -> Iterator[tuple[str, str, str]]:
    """Where it stands, the question and the answer of every round of a conversation."""
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{where}: conversations: expected a list of turns, got {shown(turns)}")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            raise UserError(f"{where}: turn {number}: expected 'from' and 'value', got {shown(turn)}")
    first = int(turns[0]["from"] != SPEAKERS[0])
    for place, turn in enumerate(turns[first:]):
        at, speaker = f"{where}: turn {first + place + 1}", SPEAKERS[place % 2]
        if turn["from"] not in [*SPEAKERS]:
            raise unknown("speaker", turn["from"], SPEAKERS, at)
        if turn["from"] != speaker:
            raise UserError(f"{at}: expected a turn of {speaker!r}, got one of {turn['from']!r}")
    if len(turns) - first < 2 or (len(turns) - first) % 2:
        raise UserError(f"{where}: conversations: {'a question without an answer' if turns[first:] else 'no question'}")
    for place in range(first, len(turns), 2):
        at = f"{where}: turn {place + 1}"
        yield at, question(turns[place]["value"], at), answer(turns[place + 1]["value"], f"{where}: turn {place + 2}")


def _tests(source: Source) -> list[_Asked]:
    path = Path(source.options["test"])
    found = []
    for number, line in enumerate(io.StringIO(_read(path), newline=None), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        entry = _parsed(line, where)
        if not isinstance(entry, dict):
            raise UserError(f"{where}: expected keys and values, got a {type(entry).__name__}")
        image = _image(entry, where)
        for key, names in (("text", ("text",)), ("gt", ("gt", "ground_truth"))):
            if not any(name in entry for name in names):
                raise UserError(f"{where}: the key {key!r} is missing")
        told = answer(entry["gt"] if "gt" in entry else entry["ground_truth"], where)
        closed = is_closed(entry.get("answer_type"), f"{where}: answer_type")
        found.append(_Asked(where, image, question(entry["text"], where), told, closed))
    if not found:
        raise UserError(f"{path}: expected a JSON object a line, at least one")
    return found


def _image(entry: dict[str, Any], where: str) -> str:
    """The image of an entry, the first where it lists several."""
    given = entry.get("image")
    first = given[0] if isinstance(given, list) and given else given
    if first is None or first in ("", []):
        raise UserError(f"{where}: without an image (the key 'image')")
    if not isinstance(first, str):
        raise UserError(f"{where}: image: expected a path, got {shown(first)}")
    return first


def _read(path: Path) -> str:
    if regular(path, str(path)) > MOST_BYTES:
        raise UserError(f"{path}: larger than {MOST_BYTES >> 30} GiB")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as text of UTF-8: {' '.join(str(error).split())}") from None


def _parsed(text: str, where: str) -> Any:
    """What a text of JSON says; no key may stand twice, and NaN and Infinity are none."""
    try:
        return json.loads(text, object_pairs_hook=_different, parse_constant=_no_number)
    except RecursionError:
        raise UserError(f"{where}: not readable as JSON: nested too deep") from None
    except ValueError as error:
        raise UserError(f"{where}: not readable as JSON: {' '.join(str(error).split())}") from None


def _different(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice)} stands twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
