"""Questions about made images, and what has to be drawn so that they have the answer that is due.

The answer is chosen first and the image's factors are then drawn where it is true, at a distance from where it would
be another: so every wording of a closed question has yes and no equally often, in every split of an even number of
them, and the question alone is worth nothing. Likewise every open question has its three answers equally often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmark.data import phantom
from benchmark.data.phantom import asking

# Where a value is drawn whose level is told. Captions change words at 0.4 and 0.6; what is near is not drawn.
LEVELS = {"low": (0.03, 0.32), "middle": (0.44, 0.56), "high": (0.68, 0.97)}
MOST_LISTED = 3


class Turn(NamedTuple):
    """One exchange about one image: the values that some factors are drawn with make ``answer`` true."""

    instruction: str
    answer: str
    closed: bool
    factors: dict[str, float]


def value_of(level: str, rng: np.random.Generator) -> float:
    """A value of this level (``low``, ``middle``, ``high``), away from its neighbours'."""
    low, high = LEVELS[level]
    return low + (high - low) * float(rng.random())


def words_of(name: str, factor: str, level: str) -> str:
    """What a caption says of this level: ``enlarged nuclei``."""
    told = getattr(phantom.generator(name).FACTORS[factor], level)
    assert isinstance(told, str)
    return told


def closed(
    name: str, factors: Sequence[str], forms: str, number: int, order: Sequence[int], seed: Sequence[int]
) -> Turn:
    """Question ``number // 2``, answered with yes where ``number`` is even and no where it is odd.

    Args:
        order: (Q,) a permutation of the questions, ``count_closed`` of them: that in which they are asked.
    """
    rng = np.random.default_rng([*seed])
    question = order[number // 2 % len(order)]
    question, form = divmod(question, len(asking.CLOSED[forms]))
    factor, state = factors[question // 2], ("low", "high")[question % 2]
    others = [level for level in LEVELS if level != state]
    turn = number // 2 + number // 2 // len(order)
    level = state if number % 2 == 0 else others[turn % 2]
    asked = asking.ASKED[name][factor]
    instruction = asking.CLOSED[forms][form].format(
        subject=asked.subject, verb=asked.verb, Verb=asked.verb.capitalize(), state=getattr(asked, state)
    )
    return Turn(instruction, ("no", "yes")[level == state], True, {factor: value_of(level, rng)})


def opened(
    name: str, factors: Sequence[str], forms: str, number: int, order: Sequence[int], seed: Sequence[int]
) -> Turn:
    """Question ``number // 3``, answered with the words of a caption for a low, middle or high value in turn."""
    rng = np.random.default_rng([*seed])
    question, form = divmod(order[number // 3 % len(order)], len(asking.OPEN[forms]))
    factor, level = factors[question], [*LEVELS][number % 3]
    instruction = asking.OPEN[forms][form].format(aspect=asking.ASKED[name][factor].aspect)
    return Turn(instruction, words_of(name, factor, level), False, {factor: value_of(level, rng)})


def listed(name: str, factors: Sequence[str], forms: str, number: int, seed: Sequence[int]) -> Turn:
    """One to three factors are high, and the answer names them in the order of ``factors``; all others are low."""
    rng = np.random.default_rng([*seed])
    most = min(MOST_LISTED, len(factors))
    marked = rng.permutation(len(factors))[: 1 + number % most].tolist()
    drawn = {factor: value_of("high" if i in marked else "low", rng) for i, factor in enumerate(factors)}
    answer = ", ".join(words_of(name, factors[i], "high") for i in sorted(marked))
    return Turn(asking.LIST[forms][number // most % len(asking.LIST[forms])], answer, False, drawn)


def classes(
    words: Sequence[str],
    meanings: Sequence[str],
    regions: Sequence[Mapping[str, Sequence[float]]],
    forms: str,
    number: int,
    seed: Sequence[int],
) -> Turn:
    """The ``words`` in turn, each true where the factors lie in its region; the instruction names them all.

    Every wording names them in their order and in the reverse one. ``meanings``: what is said of each in brackets.
    """
    rng = np.random.default_rng([*seed])
    wordings, place = asking.CLASSES[forms], number % len(words)
    backwards, form = divmod(number // len(words) % (2 * len(wordings)), len(wordings))
    named = [f"{word} ({meaning})" for word, meaning in zip(words, meanings, strict=True)] if meanings else [*words]
    named = named[::-1] if backwards else named
    instruction = wordings[form].format(words=f"{', '.join(named[:-1])} or {named[-1]}")
    region = regions[place]
    drawn = {factor: low + (high - low) * float(rng.random()) for factor, (low, high) in sorted(region.items())}
    return Turn(instruction, words[place], True, drawn)


def count_closed(factors: Sequence[str], forms: str) -> int:
    """How many different closed questions there are about these factors."""
    return 2 * len(factors) * len(asking.CLOSED[forms])


def count_open(factors: Sequence[str], forms: str) -> int:
    return len(factors) * len(asking.OPEN[forms])
