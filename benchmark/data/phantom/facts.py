"""What a text tells of an image: which factors, and at which level. Exact, for the words that tell them are known.

A text is read as words, without capitals, hyphens or the ends of lines; the longest words that tell a level are found
first, and none reach over a comma, a full stop or the like. What is told to be absent (``no cardiomegaly``) is not
told, and a factor that is told at several levels is ``several``, which no reference says.
"""

from __future__ import annotations

import re
from functools import cache

from benchmark.data import phantom
from benchmark.data.phantom.questions import LEVELS
from benchmark.data.phantom.synonyms import CLINICAL, PLAIN

SEVERAL = "several"
NEGATIONS = ("no", "not", "without")
_WORDS = re.compile(r"[^\W_]+|[.,;:!?()]")


def facts(name: str, text: str) -> dict[str, str]:
    """Factor -> level (``low``, ``middle``, ``high``, or ``several`` of them) that a text tells of the generator."""
    known, words = phrases(name), _split(text)
    longest = max(map(len, known))
    found: dict[str, str] = {}
    start = 0
    while start < len(words):
        for length in range(min(longest, len(words) - start), 0, -1):
            if (told := known.get(tuple(words[start : start + length]))) is not None:
                break
        else:
            start += 1
            continue
        if start == 0 or words[start - 1] not in NEGATIONS:
            factor, level = told
            found[factor] = level if found.get(factor, level) == level else SEVERAL
        start += length
    return found


@cache
def phrases(name: str) -> dict[tuple[str, ...], tuple[str, str]]:
    """The words of captions and all synonyms, split -> the factor and the level that they tell."""
    told: dict[tuple[str, ...], tuple[str, str]] = {}
    for factor, words in phantom.generator(name).FACTORS.items():
        for said in ((words.low, words.middle, words.high), CLINICAL[name][factor], PLAIN[name][factor]):
            told |= {_split(phrase): (factor, level) for phrase, level in zip(said, LEVELS, strict=True)}
    return told


def _split(text: str) -> tuple[str, ...]:
    return tuple(_WORDS.findall(text.lower()))
