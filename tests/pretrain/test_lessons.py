"""What phantom-llava learns from: true, balanced, of no stream's wordings, seeds and classes."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.data import catalog, phantom
from benchmark.data.phantom import asking, facts, questions, vocabulary
from benchmark.pretrain import forbidden, lessons
from benchmark.pretrain.lessons import Exchange, Scene

KINDS = ("classification", "generation")
every_generator = pytest.mark.parametrize("name", phantom.GENERATORS)
USUAL = {form for forms in (asking.CLOSED, asking.OPEN, asking.LIST, asking.CLASSES, asking.REPORT)
         for form in forms["usual"]}  # fmt: skip
OWN = (lessons.CLOSED, lessons.OPEN, lessons.CHOICE, lessons.CODES, lessons.LIST, lessons.REPORT, lessons.REPEAT)


def scenes(name: str, count: int, regions: list[phantom.Region]) -> list[Scene]:
    rng = Random(7)
    return [lessons.scene(name, regions, rng)[0] for _ in range(count)]


def test_wordings_are_those_of_no_stream() -> None:
    own = [form for forms in OWN for form in forms]
    assert len({*own}) == len(own) and not USUAL & {*own}
    asked = {re.escape(form).replace(r"\{words\}", ".+") for form in own if "{" not in form or "{words}" in form}
    for name in catalog.names("streams"):
        for task in catalog.load(name, None).stream:
            assert not [form for form in asked if re.fullmatch(form, task.instruction)]


def test_every_word_has_a_token() -> None:
    known = {*vocabulary.words(), *lessons.words()}
    for name in phantom.GENERATORS:
        for scene in scenes(name, 60, []):
            for instruction, answer in lessons.dialogue(scene, Random(name)):
                assert {*vocabulary.split(instruction), *vocabulary.split(answer)} <= known


@every_generator
def test_images_lie_outside_every_class_of_two_factors_or_more(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, float]] = []

    def watched(factors: dict[str, float], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
        drawn.append(factors)
        return np.zeros((size, size, 3), np.uint8)

    monkeypatch.setattr(phantom.generator(name), "render", watched)
    regions = forbidden.regions(KINDS)[name]
    images, talks = lessons.chunk(name, 0, regions)
    assert len(images) == len(talks) == len(drawn) == lessons.CHUNK
    assert regions and not any(phantom.inside(factors, region) for factors in drawn for region in regions)
    for factors in drawn:
        assert all(any(low <= value <= high for low, high in questions.LEVELS.values()) for value in factors.values())


def test_the_codes_of_the_stream_are_held_out_beside_the_classes() -> None:
    more = sum(map(len, forbidden.regions(KINDS).values())) - sum(map(len, forbidden.regions().values()))
    assert more == 7


def test_seeds_are_its_own_and_lessons_are_pure() -> None:
    used = {source.options.get("seed") for stream in catalog.names("streams")
            for source in catalog.load(stream, None).sources}  # fmt: skip
    assert lessons.SEED not in used
    (one, talks), (again, same), (other, _) = (lessons.chunk("oct", number, []) for number in (0, 0, 1))
    assert np.array_equal(one, again) and talks == same
    assert len({image.tobytes() for image in np.concatenate([one, other])}) == 2 * lessons.CHUNK


@every_generator
def test_answers_are_true(name: str) -> None:
    """Read back by rules that know nothing of how they were made."""
    for number, scene in enumerate(scenes(name, 80, [])):
        for exchange in lessons.dialogue(scene, Random(f"{name} {number}")):
            assert true(scene, exchange), (scene, exchange)


def true(scene: Scene, exchange: Exchange) -> bool:
    instruction, answer = exchange
    meant = dict(re.findall(r"([^ ,:]+) \(([^)]+)\)", instruction))
    if meant:
        holds = {code: facts.facts(scene.name, meaning).items() <= scene.levels.items()
                 for code, meaning in meant.items() if meaning != "none of these"}  # fmt: skip
        right = [code for code, held in holds.items() if held]
        return answer in meant and (right == [answer] or (not right and meant[answer] == "none of these"))
    if answer in ("yes", "no"):
        asked = [
            (factor, level) for factor, words in asking.ASKED[scene.name].items() for level in ("low", "high")
            for form in lessons.CLOSED
            if instruction == form.format(subject=words.subject, verb=words.verb, Verb=words.verb.capitalize(),
                                          state=getattr(words, level))
        ]  # fmt: skip
        return len(asked) == 1 and (scene.levels[asked[0][0]] == asked[0][1]) == (answer == "yes")
    told = facts.facts(scene.name, answer)
    if instruction in lessons.LIST:
        return told == {factor: level for factor, level in scene.levels.items() if level == "high"}
    if any(instruction.startswith(form.split("{")[0]) and answer in instruction for form in lessons.REPEAT):
        return True
    if not told:  # a choice in the words of questions
        found = [factor for factor, words in asking.ASKED[scene.name].items()
                 if {words.low, words.high} == offered(instruction)
                 and scene.levels[factor] != "middle" and getattr(words, scene.levels[factor]) == answer]  # fmt: skip
        return bool(found)
    return told.items() <= scene.levels.items()


def offered(instruction: str) -> set[str]:
    for form in lessons.CHOICE:
        before, after = form.split("{words}")
        if instruction.startswith(before) and instruction.endswith(after):
            return {*re.split(", | or ", instruction[len(before) : len(instruction) - len(after)])}
    return set()


def test_yes_and_no_come_out_alike() -> None:
    """Of the factor that is asked about most, whose levels are as they should be: half each, whatever is asked."""
    said: Counter[tuple[str, str]] = Counter()
    rng = Random(0)
    for scene in scenes("dermoscopy", 6_000, forbidden.regions(KINDS)["dermoscopy"]):
        instruction, answer = lessons._closed(scene, scene.focus, rng)
        state = next(level for level in ("low", "high")
                     if getattr(asking.ASKED["dermoscopy"][scene.focus], level) in instruction)  # fmt: skip
        said[state, answer] += 1
    for state in ("low", "high"):
        share = said[state, "yes"] / (said[state, "yes"] + said[state, "no"])
        assert share == pytest.approx(0.53, abs=0.05)


def test_open_questions_and_choices_are_often_followed_by_one_about_the_same() -> None:
    followed = total = 0
    for name in phantom.GENERATORS:
        for number, scene in enumerate(scenes(name, 150, [])):
            for one, next_one in pairwise(lessons.dialogue(scene, Random(f"{name} {number}"))):
                if any(re.fullmatch(re.escape(form).replace(r"\{aspect\}", ".+"), one.instruction)
                       for form in lessons.OPEN):  # fmt: skip
                    factor = next(iter(facts.facts(name, one.answer)))
                    words = asking.ASKED[name][factor]
                    total += 1
                    followed += next_one.answer in ("yes", "no") and words.subject in next_one.instruction.lower()
    assert 0.3 < followed / total < 0.6  # 0.35 and what follows by chance
