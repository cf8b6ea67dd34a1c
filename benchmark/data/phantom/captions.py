"""Captions of made retrieval tasks: the same picture told in other words, order, length and form.

A part of the phrases is that of the captions which the default backbone was pretrained on, the rest are synonyms that
it never met, so that an untrained model is better than chance and has much to learn. Captions are a pure function of
(factors, seed).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.data import phantom
from benchmark.data.phantom.synonyms import CLINICAL, PLAIN

VERSION = 1
MOST = 8  # captions of one image
WORDINGS = {"both": (CLINICAL, PLAIN), "clinical": (CLINICAL,), "plain": (PLAIN,)}  # which synonyms are used
USUAL = "both"
KNOWN = 0.3  # share of phrases in the words of pretraining
FEWEST, LONGEST = 4, 5  # factors told by one caption: 5 fit 48 tokens
_STREAM = 3  # tells the captions' draws from those of the image

FORMS = (
    "{article} {name} with {list}",
    "{list}",
    "{article} {name} showing {list}",
    "{name}: {list}",
    "findings: {list}",
)


def captions(name: str, factors: Mapping[str, float], seed: Sequence[int], count: int, wording: str) -> list[str]:
    """``count`` different captions of one image of the generator ``name``."""
    rng = np.random.default_rng([*seed, _STREAM])
    written: dict[str, None] = {}
    while len(written) < count:
        written[_caption(name, factors, rng, wording)] = None
    return list(written)


def _caption(name: str, factors: Mapping[str, float], rng: np.random.Generator, wording: str) -> str:
    module = phantom.generator(name)
    told = rng.permutation(sorted(module.FACTORS))[: rng.integers(FEWEST, LONGEST + 1)].tolist()
    phrases = [phrase(name, factor, factors[factor], rng, wording) for factor in told]
    ends = f"{phrases[-2]} and {phrases[-1]}" if rng.random() < 0.5 else f"{phrases[-2]}, {phrases[-1]}"
    article = "an" if module.NAME.startswith(("a", "H&E")) else "a"
    form = FORMS[rng.integers(len(FORMS))]
    return form.format(article=article, name=module.NAME, list=", ".join([*phrases[:-2], ends]))


def phrase(name: str, factor: str, value: float, rng: np.random.Generator, wording: str) -> str:
    """What is said of a factor's value: the words of pretraining, or a synonym of this wording."""
    words = phantom.generator(name).FACTORS[factor]
    known, table = rng.random() < KNOWN, WORDINGS[wording][rng.integers(len(WORDINGS[wording]))]
    told = words.phrase(value)
    return told if known else table[name][factor][(words.low, words.middle, words.high).index(told)]
