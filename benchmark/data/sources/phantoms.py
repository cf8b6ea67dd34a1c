"""``source: phantom``: made samples, with notes (fusion), captions (retrieval) or instructions and answers
(generation), under a shift or plain.

Everything is a pure function of (seed, split, number of the sample), so the options are what the samples are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data import phantom
from benchmark.data.catalog import Source
from benchmark.data.phantom import captions, notes, shifts, talk
from benchmark.data.phantom.facts import facts as facts_of
from benchmark.data.sources import talking
from benchmark.data.sources.pairs import components, numbered
from benchmark.data.sources.split import SPLITS, Split
from benchmark.errors import UserError, shown, unknown

SIZES = {"train": 512, "val": 64, "test": 256}
MOST = 200_000  # images of a task: of one split all are in memory while they are drawn
OWN = {
    "classification": ("regions",), "fusion": ("regions", "notes"), "retrieval": ("captions", "wording", "region"),
    "generation": talking.OPTIONS,
}  # fmt: skip


def load(source: Source, split: str) -> Split:
    """Images of the options' regions in turn, each with a note or captions where the kind of task has texts."""
    made = options(source)
    if source.task_kind == "generation":
        return _spoken(source, made, split)
    name, seed, count = made["generator"], (phantom.VERSION, made["seed"], SPLITS.index(split)), made["sizes"][split]
    regions = made["regions"] if "regions" in made else [made.get("region", {})]
    images, labels = phantom.render_split(name, regions, count, seed)
    images = _shifted(images, made, seed)
    if source.task_kind == "classification":
        return Split(images, labels)
    if source.task_kind == "fusion":
        written = [notes.note(made["notes"][label], [*seed, i]) for i, label in enumerate(labels.tolist())]
        image_P = np.arange(count)
    else:
        factors = [phantom.factors_of(name, regions[0], [*seed, i]) for i in range(count)]
        drawn = [
            captions.captions(name, of, [*seed, i], made["captions"], made.get("wording", captions.USUAL))
            for i, of in enumerate(factors)
        ]
        written = [text for texts in drawn for text in texts]
        image_P = np.arange(count).repeat(made["captions"])
    places, text_P = numbered(written)
    labels = components(image_P, text_P) if source.task_kind == "retrieval" else labels
    return Split(images, labels, tuple(written[place] for place in places), np.stack([image_P, text_P], axis=1))


def _spoken(source: Source, made: dict[str, Any], split: str) -> Split:
    """An image for each turn; a pair is the rows of its image, instruction and answer."""
    about, number = talking.talk_of(source, made), SPLITS.index(split)
    turns = about.turns(number, made["sizes"][split])
    images = _shifted(about.images(number, turns), made, (phantom.VERSION, made["seed"], number))
    answers = [turn.answer for turn in turns]
    written = [*(turn.instruction for turn in turns), *answers]
    places, text_2P = numbered(written)
    pairs = np.stack([np.arange(len(turns)), *text_2P.reshape(2, -1)], axis=1)
    texts, closed = tuple(written[place] for place in places), np.array([turn.closed for turn in turns])
    return Split(images, numbered(answers)[1], texts, pairs, closed)


def pictures(source: Source, split: str, numbers: Sequence[int]) -> list[NDArray[np.uint8]]:
    """(size, size, 3) the images of these samples of a generation task, as :func:`load` draws them, and no others."""
    made, number = options(source), SPLITS.index(split)
    about = talking.talk_of(source, made)
    turns, seed = about.turns(number, made["sizes"][split]), (phantom.VERSION, made["seed"], number)
    drawn = [(i, about.image(number, i, turns[i])) for i in numbers]
    return [shifts.shifted(image, made["shift"], [*seed, i]) if "shift" in made else image for i, image in drawn]


def _shifted(images: NDArray[np.uint8], made: dict[str, Any], seed: tuple[int, ...]) -> NDArray[np.uint8]:
    if "shift" not in made:
        return images
    return np.stack([shifts.shifted(image, made["shift"], [*seed, i]) for i, image in enumerate(images)])


def dialogue(source: Source) -> dict[str, list[tuple[str, str, bool]]]:
    """By split the instruction, the answer and whether it is closed of every sample, without drawing an image."""
    made = options(source)
    about = talking.talk_of(source, made)
    return {split: [turn[:3] for turn in about.turns(i, made["sizes"][split])] for i, split in enumerate(SPLITS)}


def facts(source: Source) -> Callable[[str], dict[str, str]] | None:
    """What tells factor -> level of a report's text; None where a task has no reports."""
    if source.task_kind != "generation":
        return None
    about = talking.talk_of(source, options(source))
    return partial(facts_of, about.name) if "report" in about.kinds else None


def identity(source: Source) -> str:
    """sha256 of the versions of what draws and writes, and of the options."""
    made = options(source)
    versions = [phantom.VERSION, phantom.SIZE]
    versions += [shifts.VERSION] if "shift" in made else []
    of_kind = {"fusion": [notes.VERSION], "retrieval": [captions.VERSION]}
    of_kind["generation"] = [talk.VERSION, captions.VERSION]
    versions += of_kind.get(source.task_kind, [])
    described = json.dumps([*versions, made], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def options(source: Source) -> dict[str, Any]:
    """The options of a made task, checked, with all its sizes.

    Raises:
        UserError: an option is missing, wrong, or of another kind of task.
    """
    where, given, kind = source.where, dict(source.options), source.task_kind
    if given.get("generator") not in phantom.GENERATORS:
        raise unknown("generator", given.get("generator"), phantom.GENERATORS, where)
    for other, own in OWN.items():
        for key in own:
            if key in given and key not in OWN[kind]:
                raise UserError(f"{where}.{key}: an option of {other} tasks, this one is a {kind} task")
    if not _whole(given.get("seed"), 0) or given["seed"] >= 2**63:
        raise UserError(f"{where}.seed: expected a whole number from 0 to 2^63 - 1, got {shown(given.get('seed'))}")
    classes = len(source.classes)
    least = max(classes, 1)
    if kind == "retrieval":
        _check_captions(given, where)
    elif kind == "generation":
        _check_region(given["generator"], given.get("region", {}), f"{where}.region")
        for i, region in enumerate(given["regions"] if isinstance(given.get("regions"), list) else ()):
            _check_region(given["generator"], region, f"{where}.regions[{i}]")
        least = talking.least(talking.talk_of(source, given))
    else:
        regions = given.get("regions")
        if not isinstance(regions, list) or len(regions) != classes:
            raise UserError(f"{where}.regions: expected one region for each of the {classes} classes")
        for i, region in enumerate(regions):
            _check_region(given["generator"], region, f"{where}.regions[{i}]")
    if kind == "fusion":
        _check_notes(given.get("notes"), classes, where)
    if "shift" in given:
        _check_shift(given["shift"], where)
    sizes = given.get("sizes", {})
    if not isinstance(sizes, dict):
        raise UserError(f"{where}.sizes: expected split: number of images, got {shown(sizes)}")
    sizes = SIZES | sizes
    for split, size in sizes.items():
        if split not in SPLITS:
            raise unknown("split", split, SPLITS, f"{where}.sizes")
        if not _whole(size, least):
            raise UserError(f"{where}.sizes.{split}: expected a whole number of at least {least}, got {shown(size)}")
    if sum(sizes.values()) > MOST:
        raise UserError(f"{where}.sizes: expected at most {MOST:,} images in all, got {shown(sum(sizes.values()))}")
    return given | {"sizes": sizes}


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_region(generator: str, region: Any, where: str) -> None:
    factors = phantom.generator(generator).FACTORS
    if not isinstance(region, dict):
        raise UserError(f"{where}: expected factor: [low, high], got {shown(region)}")
    for factor, bounds in region.items():
        if factor not in factors:
            raise unknown("factor", factor, factors, where)
        numbers = isinstance(bounds, list) and [
            x for x in bounds if isinstance(x, (int, float)) and not isinstance(x, bool)
        ]
        if not numbers or len(numbers) != 2 or len(bounds) != 2 or not 0 <= numbers[0] < numbers[1] <= 1:
            raise UserError(f"{where}.{factor}: expected [low, high] within [0, 1], got {shown(bounds)}")


def _check_notes(given: Any, classes: int, where: str) -> None:
    if not isinstance(given, list) or len(given) != classes:
        raise UserError(f"{where}.notes: expected a list of sentences for each of the {classes} classes")
    for i, sentences in enumerate(given):
        right = isinstance(sentences, list) and sentences
        if not right or not all(isinstance(text, str) and text.strip() for text in sentences):
            raise UserError(f"{where}.notes[{i}]: expected a list of sentences, got {shown(sentences)}")
        for text in sentences:
            if len(text.split()) > notes.LONGEST:
                raise UserError(f"{where}.notes[{i}]: {shown(text)} has more than {notes.LONGEST} words")


def _check_captions(given: dict[str, Any], where: str) -> None:
    count: Any = given.get("captions")
    if not _whole(count, 1) or count > captions.MOST:
        raise UserError(
            f"{where}.captions: expected how many captions an image has, 1 to {captions.MOST}, got {shown(count)}"
        )
    if given.get("wording", captions.USUAL) not in captions.WORDINGS:
        raise unknown("wording", given["wording"], captions.WORDINGS, where)
    _check_region(given["generator"], given.get("region", {}), f"{where}.region")


def _check_shift(given: Any, where: str) -> None:
    if not isinstance(given, dict) or not given:
        raise UserError(f"{where}.shift: expected kind: strength, got {shown(given)}")
    for kind, strength in given.items():
        if kind not in shifts.KINDS:
            raise unknown("shift", kind, shifts.KINDS, f"{where}.shift")
        number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
        if not number or not 0 <= strength <= 1:
            raise UserError(f"{where}.shift.{kind}: expected a strength in [0, 1], got {shown(strength)}")
