"""Phantoms that talk: an instruction and an answer for every image, both true of what the image is drawn from.

A turn is a pure function of (talk, split, number of the sample) and is known without drawing the image. Wordings of
instructions do not depend on the generator: they tell what is asked for, the image tells of what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from benchmark.data import phantom
from benchmark.data.phantom import captions, questions, reports
from benchmark.data.phantom.questions import Turn

VERSION = 1
KINDS = ("closed", "open", "list", "classes", "report")
FORMS = ("usual", "other")
_STREAM, _ORDER = 4, 5  # tell the draws of turns, and of the order of questions, from those of the images


@dataclass(frozen=True)
class Talk:
    """What is talked about.

    Args:
        name: of the generator.
        seed: of all draws but the split's.
        kinds: of the turns, in turn.
        factors: what is asked about, listed or told.
        region: confines factors that nothing is said of.
        words: of ``classes``, with ``regions`` and, for the instruction, ``meanings`` of each or none.
        wording: which synonyms reports have.
        forms: which wordings instructions have.
    """

    name: str
    seed: tuple[int, ...]
    kinds: tuple[str, ...]
    factors: tuple[str, ...]
    region: phantom.Region
    words: tuple[str, ...] = ()
    meanings: tuple[str, ...] = ()
    regions: tuple[Mapping[str, Sequence[float]], ...] = ()
    wording: str = captions.USUAL
    forms: str = FORMS[0]

    def turns(self, split: int, size: int) -> list[Turn]:
        """The turns of a split's first ``size`` samples."""
        return [*islice(self._endless(split), size)]

    def images(self, split: int, turns: Sequence[Turn]) -> NDArray[np.uint8]:
        """(N, size, size, 3) what the turns of a split are about: factors that they leave open are drawn as well."""
        images = np.empty((len(turns), phantom.SIZE, phantom.SIZE, 3), np.uint8)
        for i, turn in enumerate(turns):
            images[i] = self.image(split, i, turn)
        return images

    def image(self, split: int, number: int, turn: Turn) -> NDArray[np.uint8]:
        """(size, size, 3) what the turn of one sample of a split is about, by the sample's number."""
        module, rng = phantom.generator(self.name), np.random.default_rng([*self.seed, split, number])
        factors = phantom.draw_factors(self.region, sorted(module.FACTORS), rng) | turn.factors
        return module.render(factors, rng, phantom.SIZE)

    def _endless(self, split: int) -> Iterator[Turn]:
        asked = dict.fromkeys(KINDS, 0)
        orders = np.random.default_rng([*self.seed, _ORDER])
        order_closed = orders.permutation(questions.count_closed(self.factors, self.forms)).tolist()
        order_open = orders.permutation(questions.count_open(self.factors, self.forms)).tolist()
        for i in count():
            kind, seed = self.kinds[i % len(self.kinds)], [*self.seed, split, i, _STREAM]
            number, what = asked[kind], (self.name, self.factors)
            asked[kind] += 1
            if kind == "closed":
                yield questions.closed(*what, self.forms, number, order_closed, seed)
            elif kind == "open":
                yield questions.opened(*what, self.forms, number, order_open, seed)
            elif kind == "list":
                yield questions.listed(*what, self.forms, number, seed)
            elif kind == "classes":
                yield questions.classes(self.words, self.meanings, self.regions, self.forms, number, seed)
            else:
                yield reports.report(*what, self.wording, self.forms, number, seed)
