"""What one answer shares with its reference: all of it, words, n-grams, a common subsequence."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import exp, fsum, log

from benchmark.texts.normaliser import answer_words, reference_words


def exact(reference: str, prediction: str) -> bool:
    """Whether both are the same words."""
    return reference_words(reference) == answer_words(prediction)


def closed_hit(r: str, p: str) -> bool:
    """Whether the reference's words stand anywhere in the prediction's, inside a word too ("no" in "abnormal").

    A reference without words ("the") stands in every prediction.
    """
    return reference_words(r) in answer_words(p)


def f1(r: str, p: str, clipped: bool = True) -> tuple[float, float, float]:
    """(F, precision, recall) of the prediction's words; all are 0 where they share none, or one side has none.

    Args:
        clipped: a word counts as often as both sides have it. Otherwise, as in the release, each occurrence in the
            prediction of a word that the reference has is right, and a word of the reference is missed only where
            the prediction never has it.
    """
    w, c = _counts(reference_words(r)), _counts(answer_words(p))
    right = sum(min(n, w[word]) if clipped else n for word, n in c.items() if word in w)
    if not right:
        return 0.0, 0.0, 0.0
    missed = sum(w.values()) - right if clipped else sum(n for word, n in w.items() if word not in c)
    precision, recall = right / sum(c.values()), right / (right + missed)
    return 2 * precision * recall / (precision + recall), precision, recall


@lru_cache(2**13)
def _counts(normalised: str) -> Mapping[str, int]:
    return Counter(reference_words(normalised).split())  # the release normalises a second time here


def sentence_bleu(r: str, p: str, weights: Sequence[float]) -> float:
    """BLEU of one answer without smoothing: BP exp(sum_n weights[n-1] log p_n), a mean of geometric kind.

    p_n is the share of the prediction's n-grams that the reference has (clipped), BP = min(1, exp(1 - |r| / |p|)).
    An order without a match counts as the smallest float, so that the score is next to 0; without a shared word it
    is 0.
    """
    reference, prediction = reference_words(r).split(), answer_words(p).split()
    logs = []
    for n in range(1, len(weights) + 1):
        told = Counter(_grams(prediction, n))
        matches = (told & Counter(_grams(reference, n))).total()
        if n == 1 and not matches:
            return 0.0
        logs.append(log(matches / told.total() if matches else sys.float_info.min))
    brevity = min(1.0, exp(1 - len(reference) / len(prediction)))
    return brevity * exp(fsum(weight * each for weight, each in zip(weights, logs, strict=True)))


def _grams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def rouge_l(r: str, p: str) -> float:
    """F of the longest common subsequence of words, which are runs of a-z and 0-9; 0 where there is none."""
    reference, prediction = (re.findall("[a-z0-9]+", s.lower()) for s in (r, p))
    common = _longest_common(reference, prediction)
    return 2 * common / (len(reference) + len(prediction)) if common else 0.0


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence: a row of the usual table is the bits of one number (Hyyrö, 2004)."""
    places: Counter[str] = Counter()
    for place, word in enumerate(first):
        places[word] |= 1 << place
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        matches = row & places[word]
        row = (row + matches | row - matches) & full
    return len(first) - row.bit_count()
