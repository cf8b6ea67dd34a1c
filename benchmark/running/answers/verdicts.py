"""What is said of answers in words: of each one, of those of a cell, and of a baseline that never sees an image."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmark import kinds, texts

Asked = tuple[str, str]  # an instruction, and the answer to it
Facts = Callable[[str], Mapping[str, str]]  # factor -> level, of those that a text tells

TIMES = 3  # an open answer keeps the format up to so many times the words of the longest one learned
LONG = 8  # words from which on an answer that equals a learned one is a copy rather than a usual phrase
CANDIDATES, HELD = 64, 256  # answers that a blind baseline chooses among, and those it judges them by

NAN = float("nan")


@dataclass(frozen=True)
class Answer:
    """What a model answered to one question.

    Attributes:
        closed: the reference is one of a few legal answers.
        tokens: how many it wrote, the one that ends it included.
        stopped: whether it ended by itself, not at the limit.
        likeliest: of a closed question the likeliest legal answer.
    """

    prompt: str
    reference: str
    prediction: str
    closed: bool
    tokens: int | None
    stopped: bool | None
    likeliest: str | None


def verdict(answer: Answer, legal: Sequence[str], longest: int) -> dict[str, bool | float]:
    """What is said of one answer: ``exact``, ``f1`` (clipped), ``format_kept``; of a closed one ``closed_lenient``.

    Args:
        legal: the answers that a closed question allows; where none are known it is judged like an open one.
        longest: words of the longest answer learned (:func:`most_words`).
    """
    reference, prediction = answer.reference, answer.prediction
    said: dict[str, bool | float] = {
        "exact": texts.exact(reference, prediction),
        "f1": texts.f1(reference, prediction)[0],
        "format_kept": _keeps_format(answer, legal, longest),
    }
    if answer.closed:
        said["closed_lenient"] = texts.closed_hit(reference, prediction)
    return said


def _keeps_format(answer: Answer, legal: Sequence[str], longest: int) -> bool:
    words = texts.answer_words(answer.prediction)
    if answer.closed and legal:
        return words in _legal_words(tuple(legal))
    return 1 <= len(words.split()) <= TIMES * longest


@lru_cache(8)
def _legal_words(legal: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(texts.reference_words, legal))


def most_words(learned: Sequence[str]) -> int:
    """Words of the longest of these answers, as they are compared."""
    return max((len(texts.reference_words(each).split()) for each in learned), default=0)


def cell_metrics(
    answers: Sequence[Answer], legal: Sequence[str], learned: Sequence[str], facts: Facts | None = None
) -> dict[str, float]:
    """Every metric of the kind ``generation`` over the answers of a cell, NaN where the task does not have it.

    ``exact``, ``f1`` and the habits are over all answers; ``closed_lenient`` and ``likelihood`` over those to closed
    questions; ``f1_official`` (as in the release), BLEU, ROUGE-L and CIDEr-D over those to open ones. ``cider_d`` is a
    tenth of CIDEr-D.

    Args:
        legal: the answers that closed questions allow.
        learned: the answers of the training set.
        facts: what a text tells, of a task whose facts are known.

    Raises:
        UserError: there are open questions and sacrebleu is not installed.
    """
    longest = most_words(learned)
    said = [verdict(answer, legal, longest) for answer in answers]
    closed = [answer for answer in answers if answer.closed]
    chosen = [(answer.reference, answer.likeliest) for answer in closed if answer.likeliest is not None]
    found = {
        **{name: _mean([each[name] for each in said]) for name in ("exact", "f1", "format_kept")},
        "closed_lenient": _mean([each["closed_lenient"] for each in said if "closed_lenient" in each]),
        "likelihood": _mean([texts.exact(reference, likeliest) for reference, likeliest in chosen]),
        "truncated": _mean([not answer.stopped for answer in answers if answer.stopped is not None]),
        **_open_metrics([answer for answer in answers if not answer.closed]),
        **_variety(answers, learned),
        **_fact_metrics(answers, facts),
    }
    return {name: found[name] for name in kinds.of("generation").metrics}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else NAN


def _open_metrics(answers: Sequence[Answer]) -> dict[str, float]:
    names = [f"bleu{order}" for order in range(1, 5)]
    if not answers:
        return dict.fromkeys((*names, "f1_official", "rouge_l", "cider_d"), NAN)
    references = [texts.reference_words(answer.reference) for answer in answers]
    predictions = [texts.answer_words(answer.prediction) for answer in answers]
    return {
        **dict(zip(names, texts.corpus_bleus(references, predictions), strict=True)),
        "f1_official": _mean([texts.f1(answer.reference, answer.prediction, clipped=False)[0] for answer in answers]),
        "rouge_l": _mean([texts.rouge_l(answer.reference, answer.prediction) for answer in answers]),
        "cider_d": texts.cider_d(references, predictions)[0] / 10,
    }


def _variety(answers: Sequence[Answer], learned: Sequence[str]) -> dict[str, float]:
    told = [texts.answer_words(answer.prediction) for answer in answers]
    known = {texts.reference_words(each) for each in learned}
    return {
        "distinct": len(set(told)) / len(told) if told else NAN,
        "verbatim": _mean([words in known for words in told if len(words.split()) >= LONG]),
    }


def _fact_metrics(answers: Sequence[Answer], facts: Facts | None) -> dict[str, float]:
    """Shares of the facts that the references tell; the F1 is 2 right / (told by references + told by answers)."""
    pairs = [(facts(answer.reference), facts(answer.prediction)) for answer in answers] if facts else []
    asked, told = (sum(len(each) for each in side) for side in (zip(*pairs, strict=True) if pairs else ([], [])))
    if not asked:
        return dict.fromkeys(("fact_f1", "fact_right", "fact_contradicted", "fact_left_out"), NAN)
    right = sum(answer.get(factor) == level for true, answer in pairs for factor, level in true.items())
    left_out = sum(factor not in answer for true, answer in pairs for factor in true)
    return {
        "fact_f1": 2 * right / (asked + told),
        "fact_right": right / asked,
        "fact_contradicted": (asked - right - left_out) / asked,
        "fact_left_out": left_out / asked,
    }


def hits(answers: Sequence[Answer], metric: str) -> NDArray[np.float64]:
    """(N,) the primary metric of each answer, ``exact`` or ``f1`` (clipped)."""
    return np.array([_score(metric, answer.reference, answer.prediction) for answer in answers], dtype=np.float64)


def _score(metric: str, reference: str, prediction: str) -> float:
    return float(texts.exact(reference, prediction)) if metric == "exact" else texts.f1(reference, prediction)[0]


def blind(learned: Sequence[Asked], asked: Sequence[Asked], metric: str) -> float:
    """What is scored without a look at the image: to each question the best single answer learned for it.

    Of the training answers to the same instruction, as written, it is the one with the best mean ``metric`` against
    them all, and of an instruction that was not learned, against all of the training set; of equals the first by
    alphabet. NaN where nothing was learned or is asked.

    Args:
        learned: (instruction, answer) of each training sample.
        asked: (instruction, reference) of each sample to be answered.
        metric: ``exact`` or ``f1``.
    """
    if not learned or not asked:
        return NAN
    answers: dict[str, list[str]] = defaultdict(list)
    for instruction, answer in learned:
        answers[instruction].append(answer)
    unlearned = {instruction for instruction, _ in asked if instruction not in answers}
    best = {each: _best(answers[each], metric) for each, _ in asked if each not in unlearned}
    if unlearned:
        best |= dict.fromkeys(unlearned, _best([answer for _, answer in learned], metric))
    return _mean([_score(metric, reference, best[instruction]) for instruction, reference in asked])


def _best(answers: Sequence[str], metric: str) -> str:
    """The answer that does best against all of them."""
    often = Counter(answers)
    if metric == "exact":
        same = Counter(map(texts.reference_words, answers))
        return min(often, key=lambda answer: (-same[texts.answer_words(answer)], answer))
    candidates = sorted(often, key=lambda answer: (-often[answer], answer))[:CANDIDATES]
    held = sorted(answers)
    held = (
        [held[i * len(held) // HELD] for i in range(HELD)] if len(held) > HELD else held
    )  # evenly, whatever the order
    weights = Counter(held)

    def worth(candidate: str) -> float:
        return sum(count * texts.f1(answer, candidate)[0] for answer, count in weights.items())

    return min(candidates, key=lambda candidate: (-worth(candidate), candidate))
