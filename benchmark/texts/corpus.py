"""What all answers of a set share with their references: BLEU, and CIDEr-D, whose weights are the set's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ORDERS = 4  # longest n-grams of BLEU and CIDEr-D
SIGMA = 6.0  # CIDEr-D: how fast a difference of lengths costs


def corpus_bleu(
    references: Sequence[str | Sequence[str]], predictions: Sequence[str], order: int = ORDERS, smooth: bool = True
) -> float:
    """BLEU of all answers together, of the orders 1 to ``order``, by sacrebleu; words are what spaces divide.

    Args:
        references: a string of each prediction, or several.
        smooth: the k-th order without a match counts 1 / (2^k candidates); otherwise the score is 0 then.

    Returns:
        NaN without predictions; 0 where no prediction has ``order`` words.

    Raises:
        UserError: sacrebleu is not installed.
        ValueError: as many references as predictions are needed, at least one of each.
    """
    return corpus_bleus(references, predictions, order, smooth)[-1]


def corpus_bleus(
    references: Sequence[str | Sequence[str]], predictions: Sequence[str], orders: int = ORDERS, smooth: bool = True
) -> tuple[float, ...]:
    """BLEU of the orders 1 to 1, 1 to 2, ... 1 to ``orders``; see :func:`corpus_bleu`."""
    groups = _groups(references, predictions)
    if orders < 1:
        raise ValueError(f"BLEU is of order 1 or more, not {orders}")
    bleu = _bleu(orders, smooth)
    if not predictions:
        return (float("nan"),) * orders
    streams = [[group[i] if i < len(group) else None for group in groups] for i in range(max(map(len, groups)))]
    whole = bleu.corpus_score(predictions, streams)
    found = (whole.counts, whole.totals, whole.sys_len, whole.ref_len)
    return tuple(
        bleu.compute_bleu(*found, smooth_method=bleu.smooth_method, max_ngram_order=n).score / 100
        for n in range(1, orders + 1)
    )


def bleu_signature() -> str:
    """What sacrebleu says of how :func:`corpus_bleu` computes with one reference each, its version too.

    Raises:
        UserError: sacrebleu is not installed.
    """
    bleu = _bleu(ORDERS, smooth=True)
    bleu.corpus_score(["a"], [["a"]])  # until it has seen references it does not know how many
    return str(bleu.get_signature())


def _bleu(orders: int, smooth: bool) -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise UserError('BLEU needs the sacrebleu package: pip install "mbil-bench[generation]"') from None
    method = "exp" if smooth else "none"
    return BLEU(tokenize="none", smooth_method=method, max_ngram_order=orders, force=True)  # force: no advice


def _groups(references: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> list[Sequence[str]]:
    groups = [[each] if isinstance(each, str) else each for each in references]
    if isinstance(predictions, str) or len(groups) != len(predictions) or not all(groups):
        raise ValueError(f"{len(groups)} references for {len(predictions)} predictions; each needs one or more")
    return groups


def cider_d(references: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> tuple[float, list[float]]:
    """(mean, of each) CIDEr-D, 0 to 10: how alike the n-grams are, rare ones counting more, for n = 1 to 4.

    A gram's weight is its count times ln N - ln(number of samples whose references have it), N samples; of each order
    sum min(p, r) r / (|p| |r|), times exp(-(difference of lengths)^2 / 72), length counted in bigrams. What every
    reference has weighs nothing, so that one sample alone has 0. Never comparable across sets of different N.

    Args:
        references: a string of each prediction, or several, over which the mean is taken.

    Raises:
        ValueError: as many references as predictions are needed, at least one of each.
    """
    groups = _groups(references, predictions)
    if not groups:
        return float("nan"), []
    texts = [text.split() for text in chain(predictions, chain.from_iterable(groups))]  # the answers, then references
    samples = len(groups)
    of = np.concatenate([np.arange(samples), np.repeat(np.arange(samples), [len(group) for group in groups])])
    lengths = np.array([max(0, len(text) - 1) for text in texts])
    apart = lengths[samples:] - lengths[of[samples:]]
    scores = np.mean([_likeness(*grams, of, samples) for grams in _every_gram(texts)], axis=0)
    scores *= np.exp(-(apart**2) / (2 * SIGMA**2))
    each = 10 * np.bincount(of[samples:], scores) / np.bincount(of[samples:])
    return float(each.mean()), each.tolist()


def _every_gram(texts: Sequence[list[str]]) -> Iterator[tuple[Ints, Ints]]:
    """Of each order 1 to 4: where an n-gram begins, the number of its text and a number of the gram, (places,) each."""
    names = {word: number for number, word in enumerate(dict.fromkeys(chain.from_iterable(texts)))}
    words = np.array([names[word] for text in texts for word in text], dtype=np.int64)
    text = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    ahead = np.array([left for text in texts for left in range(len(text), 0, -1)], dtype=np.int64)
    grams = words.copy()
    for n in range(1, ORDERS + 1):
        begin = np.flatnonzero(ahead >= n)
        if n > 1:
            grams[begin] = np.unique(grams[begin] * len(names) + words[begin + n - 1], return_inverse=True)[1]
        yield text[begin], grams[begin]


def _likeness(text: Ints, gram: Ints, of: Ints, samples: int) -> Floats:
    """(references,) sum_g min(p, r) r / (|p| |r|), 0 where a norm is 0; of text i the sample is ``of[i]``."""
    width = int(gram.max(initial=0)) + 1
    keys, counts = np.unique(text * width + gram, return_counts=True)
    text, gram = np.divmod(keys, width)
    learned = text >= samples
    same = (of[text] * width + gram)[learned]  # the key of this gram in the sample's answer
    spread = np.bincount(np.unique(same) % width, minlength=width)
    weights = counts * (np.log(samples) - np.log(np.maximum(1, spread)))[gram]
    norms = np.sqrt(np.bincount(text, weights**2, minlength=len(of)))
    answer, told = np.append(keys[~learned], -1), np.append(weights[~learned], 0.0)
    place = np.searchsorted(answer[:-1], same)  # the last place is that of what no answer has
    overlap = np.minimum(np.where(answer[place] == same, told[place], 0.0), weights[learned]) * weights[learned]
    norm = norms[samples:] * norms[of[samples:]]
    return np.bincount(text[learned] - samples, overlap, minlength=len(norm)) / np.where(norm > 0, norm, 1.0)
