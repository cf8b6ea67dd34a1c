"""Reports of made images: two to four sentences that tell three to five factors, some in the words of captions, most in
synonyms of the image's modality.

The first three factors are always told, any other only where it is high, so that the image alone decides what a report
says; how it says it is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmark.data import phantom
from benchmark.data.phantom import asking
from benchmark.data.phantom.captions import phrase
from benchmark.data.phantom.questions import LEVELS, Turn, value_of

ALWAYS, MOST = 3, 5  # factors that every report tells, and that one tells at most
MOST_SENTENCES = 4
FIRST = ("{name}: {list}.", "Findings: {list}.", "{list}.")
BETWEEN = ("{list}.", "Further findings: {list}.", "Also {list}.")
LAST = ("{list}.", "Impression: {list}.", "In addition {list}.")


def report(name: str, factors: Sequence[str], wording: str, forms: str, number: int, seed: Sequence[int]) -> Turn:
    """The report of one image, and the values of its factors; those it tells are :func:`told`."""
    rng = np.random.default_rng([*seed])
    levels = [[*LEVELS][i] for i in rng.integers(len(LEVELS), size=len(factors)).tolist()]
    drawn = {factor: value_of(level, rng) for factor, level in zip(factors, levels, strict=True)}
    phrases = [phrase(name, factor, drawn[factor], rng, wording) for factor in told(factors, drawn)]
    instruction = asking.REPORT[forms][number % len(asking.REPORT[forms])]
    return Turn(instruction, _written(phantom.generator(name).NAME, phrases, rng), False, drawn)


def told(factors: Sequence[str], values: dict[str, float]) -> list[str]:
    """Which factors a report tells."""
    return [*factors[:ALWAYS], *(factor for factor in factors[ALWAYS:] if values[factor] >= LEVELS["high"][0])]


def _written(name: str, phrases: Sequence[str], rng: np.random.Generator) -> str:
    sentences = int(rng.integers(2, min(MOST_SENTENCES, len(phrases)) + 1))
    cuts = [0, *sorted((1 + rng.permutation(len(phrases) - 1)[: sentences - 1]).tolist()), len(phrases)]
    written = []
    for i in range(sentences):
        forms = FIRST if i == 0 else LAST if i == sentences - 1 else BETWEEN
        part = phrases[cuts[i] : cuts[i + 1]]
        listed = " and ".join(filter(None, [", ".join(part[:-1]), part[-1]]))
        sentence = forms[rng.integers(len(forms))].format(name=name, list=listed)
        written.append(sentence[0].upper() + sentence[1:])
    return " ".join(written)
