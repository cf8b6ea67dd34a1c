"""What ``phantom-llava`` learns from: dialogues about made images, in wordings that no shipped stream has.

A model of this size learns slowly that an image decides between yes and no; it learns soon to read the answer to an
open question off the image, and to compare a question's words with an answer that stands before it. So many open
questions and choices are followed by a closed question or by codes about the same thing: what the text decides at
first, the image decides in the end.

Levels are those of the streams' questions: what is near a border between words is not drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.data import phantom
from benchmark.data.phantom import asking, questions, vocabulary
from benchmark.data.phantom.questions import LEVELS

SEED = 770_002  # of the images: no shipped stream's seed
CHUNK = 240
TURNS = 5  # of a dialogue
# Of a turn that follows no other: how often it is of which sort.
SORTS = {"closed": 32, "open": 16, "choice": 14, "list": 10, "codes": 14, "report": 8, "repeat": 6}
FOLLOWED = 0.7  # open questions and choices that are followed by one about the same thing,
CLOSED_AFTER = 0.5  # which is closed, else of codes
SHARES = {"low": 0.375, "middle": 0.25, "high": 0.375}  # of levels
TRUE = 0.75  # closed questions that are answered with yes, of those about low and high values: half of all
FOCUSED = 0.5  # turns about the factor whose level is not what the held-out regions leave
MARKED = 0.25  # images of which one to three factors are high and none else

CLOSED = (
    *asking.CLOSED["other"],
    "Tell me whether {subject} {verb} {state}.",
    "Answer yes or no: {verb} {subject} {state}?",
    "Could it be that {subject} {verb} {state} in this image?",
    "I would say that {subject} {verb} {state}. Is that true?",
    "{Verb} {subject} {state} in this image?",
    "Does what you see show that {subject} {verb} {state}, yes or no?",
)
OPEN = (
    *asking.OPEN["other"],
    "Tell me about the {aspect}.",
    "In a few words, what would you say about the {aspect}?",
    "Write in a few words what is seen of the {aspect}.",
    "What can you see of the {aspect}, and how would you describe it?",
)
CHOICE = (
    "Which is shown, {words}?",
    "Which one fits, {words}? Answer with that only.",
    "Choose what is true of this image: {words}.",
    "Is it {words}?",
    "Decide what the image shows: {words}.",
)
CODES = (
    *asking.CLASSES["other"],
    "Which word is right for what is seen: {words}?",
    "Answer with one word that fits this image: {words}.",
    "What of these is true, {words}? Choose one word only.",
)
LIST = (
    *asking.LIST["other"],
    "Name what is marked.",
    "List all findings that are marked in this image.",
    "Tell me what stands out.",
    "What are the marked findings, all of them?",
)
REPORT = (
    *asking.REPORT["other"],
    "Report what is seen in a few words.",
    "Write what you see.",
    "Describe this image in short.",
    "What are the findings?",
)
REPEAT = ("Repeat: {words}.", "Write these words: {words}.", "Say {words}.")
SENTENCES = ("The image shows {list}.", "Seen: {list}.", "In this image: {list}.")
MOST_REPEATED = 5


class Exchange(NamedTuple):
    """An instruction and its answer."""

    instruction: str
    answer: str


class Scene(NamedTuple):
    """What an image is drawn from: the level of every factor of its generator, and that which is asked about most."""

    name: str
    levels: dict[str, str]
    focus: str

    def told(self, factor: str, level: str | None = None) -> str:
        """What a caption says of a factor, at its own level or another."""
        return questions.words_of(self.name, factor, level or self.levels[factor])

    def factor(self, rng: Random) -> str:
        return self.focus if rng.random() < FOCUSED else rng.choice([*self.levels])


def scene(name: str, regions: Sequence[phantom.Region], rng: Random) -> tuple[Scene, dict[str, float]]:
    """An image's levels and its factors, outside of these regions: the focus has every level as often as it should."""
    names = [*phantom.generator(name).FACTORS]
    focus, kept = rng.choice(names), _any_of(SHARES, rng)
    while True:
        levels = {each: _any_of(SHARES, rng) for each in names}
        if rng.random() < MARKED:
            marked = rng.sample(names, rng.randint(1, questions.MOST_LISTED))
            levels = {each: "high" if each in marked else "low" if level == "high" else level
                      for each, level in levels.items()}  # fmt: skip
        levels[focus] = kept
        factors = {factor: rng.uniform(*LEVELS[level]) for factor, level in levels.items()}
        if not any(phantom.inside(factors, region) for region in regions):
            return Scene(name, levels, focus), factors


def dialogue(seen: Scene, rng: Random) -> list[Exchange]:
    """``TURNS`` exchanges about one image."""
    turns: list[Exchange] = []
    while len(turns) < TURNS:
        sort, factor = _any_of(SORTS, rng), seen.factor(rng)
        turns.append(TEACHERS[sort](seen, factor, rng))
        if sort in ("open", "choice") and rng.random() < FOLLOWED:
            turns.append((_closed if rng.random() < CLOSED_AFTER else _codes)(seen, factor, rng))
    return turns[:TURNS]


def _closed(seen: Scene, factor: str, rng: Random) -> Exchange:
    """Yes as often as no: of what can be true, so much is."""
    level, words = seen.levels[factor], asking.ASKED[seen.name][factor]
    yes = level != "middle" and rng.random() < TRUE
    state = level if yes else rng.choice([state for state in ("low", "high") if state != level])
    told = {"subject": words.subject, "verb": words.verb, "Verb": words.verb.capitalize()}
    return Exchange(rng.choice(CLOSED).format(**told, state=getattr(words, state)), "yes" if yes else "no")


def _open(seen: Scene, factor: str, rng: Random) -> Exchange:
    return Exchange(rng.choice(OPEN).format(aspect=asking.ASKED[seen.name][factor].aspect), seen.told(factor))


def _choice(seen: Scene, factor: str, rng: Random) -> Exchange:
    """The true words among those of other levels: as captions say them, or as questions do."""
    level, words = seen.levels[factor], asking.ASKED[seen.name][factor]
    if level != "middle" and rng.random() < 0.5:
        offered, right = [words.low, words.high], getattr(words, level)
    else:
        others = rng.sample([other for other in LEVELS if other != level], rng.randint(1, 2))
        offered, right = [seen.told(factor, each) for each in (level, *others)], seen.told(factor)
    return Exchange(rng.choice(CHOICE).format(words=_either(offered, rng)), right)


def _codes(seen: Scene, factor: str, rng: Random) -> Exchange:
    """Words that stand for what is in brackets behind them, one of which is true."""
    right = seen.told(factor)
    wrong = [seen.told(factor, level) for level in LEVELS if level != seen.levels[factor]]
    if rng.random() < 0.5:  # what is marked, or not, of several factors
        wrong = [
            seen.told(other, rng.choice([level for level in LEVELS if level != own]))
            for other, own in seen.levels.items() if other != factor
        ]  # fmt: skip
    wrong = rng.sample(wrong, rng.randint(1, len(wrong)))
    if rng.random() < 0.15:
        right = "none of these"
    codes = _words(len(wrong) + 1, rng)
    named = [f"{code} ({meaning})" for code, meaning in zip(codes, [right, *wrong], strict=True)]
    return Exchange(rng.choice(CODES).format(words=_either(named, rng)), codes[0])


def _list(seen: Scene, factor: str, rng: Random) -> Exchange:
    high = [seen.told(each) for each, level in seen.levels.items() if level == "high"]
    return Exchange(rng.choice(LIST), ", ".join(high) if high else "none")


def _report(seen: Scene, factor: str, rng: Random) -> Exchange:
    """Three to five factors, in their order."""
    names = [*seen.levels]
    chosen = rng.sample(names, rng.randint(3, 5))
    phrases = [seen.told(each) for each in names if each in chosen]
    sentence = rng.choice(SENTENCES).format(list=f"{', '.join(phrases[:-1])} and {phrases[-1]}")
    return Exchange(rng.choice(REPORT), sentence)


def _repeat(seen: Scene, factor: str, rng: Random) -> Exchange:
    """So that words which nothing else teaches can be written."""
    words = " ".join(_words(rng.randint(1, MOST_REPEATED), rng))
    return Exchange(rng.choice(REPEAT).format(words=words), words)


TEACHERS: dict[str, Callable[[Scene, str, Random], Exchange]] = {
    "closed": _closed, "open": _open, "choice": _choice, "list": _list, "codes": _codes, "report": _report,
    "repeat": _repeat,
}  # fmt: skip


def _any_of(shares: Mapping[str, float], rng: Random) -> str:
    return rng.choices([*shares], [*shares.values()])[0]


def _either(words: Sequence[str], rng: Random) -> str:
    """In any order: ``a, b or c``."""
    mixed = rng.sample(words, len(words))
    return f"{', '.join(mixed[:-1])} or {mixed[-1]}"


def _words(count: int, rng: Random) -> list[str]:
    """So many different words of the vocabulary."""
    return rng.sample(spelt(), count)


@cache
def spelt() -> list[str]:
    """The words of the shipped streams that are made of letters."""
    return [word for word in vocabulary.words() if word[0].isalpha()]


def words() -> list[str]:
    """Sorted: what the wordings here add to the vocabulary of the streams."""
    forms = (*CLOSED, *OPEN, *CHOICE, *CODES, *LIST, *REPORT, *REPEAT, *SENTENCES, "none of these")
    return sorted({word for form in forms for word in vocabulary.split(form.replace("{Verb}", "{verb}").format(
        subject="", verb="", state="", aspect="", words="", list=""))})  # fmt: skip


def chunk(name: str, number: int, regions: Sequence[phantom.Region]) -> tuple[NDArray[np.uint8], list[list[Exchange]]]:
    """``CHUNK`` images (CHUNK, size, size, 3) of one generator, and a dialogue about each."""
    seed = [phantom.VERSION, SEED, phantom.GENERATORS.index(name), number]
    rng, painter = Random(str(seed)), np.random.default_rng(seed)
    module, talks = phantom.generator(name), []
    images = np.empty((CHUNK, phantom.SIZE, phantom.SIZE, 3), np.uint8)
    for i in range(CHUNK):
        seen, factors = scene(name, regions, rng)
        images[i] = module.render(factors, painter, phantom.SIZE)
        talks.append(dialogue(seen, rng))
    return images, talks
