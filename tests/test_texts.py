"""Texts: the official numbers, what the release's rules say, and every score computed another way."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import texts
from benchmark.errors import UserError
from benchmark.texts import normaliser

GOLDEN = json.loads((Path(__file__).parent / "golden" / "c" / "text_metrics.json").read_text())
ITEMS: list[dict[str, Any]] = GOLDEN["items"]
OPEN = [item for item in ITEMS if item["type"] == "OPEN"]
CLOSED = [item for item in ITEMS if item["type"] == "CLOSED"]
WEIGHTS = {"bleu4": (0.25,) * 4, "bleu1_only": (1, 0, 0, 0), "bleu2_only": (0, 1, 0, 0), "bleu3_only": (0, 0, 1, 0)}
SETS = ("open", "reports", "short")

words = st.lists(st.sampled_from(["a", "b", "c", "d", "ee", "no"]), max_size=9)
sentences = words.map(" ".join)
pairs = st.lists(st.tuples(sentences, sentences), min_size=1, max_size=7)
# What the rules are about, in any order: marks, spaces of several kinds, stops, numbers, articles, contractions.
pieces = st.sampled_from([
    *';/[]"{}()=+\\_-><@`,?!', *".....", *"      ", "\t", "\n", "\u00a0", *"':%#*&7", "1,2", "3.5", "\u0663", "none",
    "ten", "eleven", "One", "a", "An", "THE", "dont", "isnt", "Im", "somebody'd", "oedema", "\u0130", "\u03a3",
])  # fmt: skip
raw = st.lists(pieces, max_size=90).map("".join)


def near(actual: float, expected: float, tolerance: float) -> bool:
    return abs(actual - expected) <= tolerance * (1 + abs(expected))


def compared(of: str, second: bool = False) -> tuple[list[Any], list[str]]:
    """References and predictions of a golden set, normalised; with a second reference, the next item's."""
    items = [ITEMS[i] for i in GOLDEN["aggregate"][of]["ids"]]
    references = [texts.normalise(item["reference"]) for item in items]
    twice = [[one, other] for one, other in zip(references, [*references[1:], references[0]], strict=True)]
    return twice if second else references, [texts.normalise(item["prediction"]) for item in items]


# ---- official numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: f"{item['id']}-{item['tag']}")
def test_every_item_is_scored_as_officially(item: dict[str, Any]) -> None:
    r, p = item["reference"], item["prediction"]
    assert texts.normalise(r) == texts.reference_words(r) == item["norm_reference"]
    assert texts.normalise(p) == texts.answer_words(p) == item["norm_prediction"]
    assert texts.exact(r, p) is bool(item["exact"])
    official = tuple(item[f"{name}_official"] for name in ("f1", "precision", "recall"))
    assert texts.f1(r, p, clipped=False) == pytest.approx(official, abs=1e-12)
    assert near(texts.f1(r, p)[0], item["own_f1_clipped"], 1e-12)
    assert near(texts.rouge_l(r, p), item["rougeL"][2], 1e-12)
    assert near(texts.rouge_l(item["norm_reference"], item["norm_prediction"]), item["rougeL_normalised"][2], 1e-12)
    if item["type"] == "CLOSED":
        assert texts.closed_hit(r, p) is bool(item["closed_hit"])
    else:
        assert (texts.f1(r, p, clipped=False)[2] > 0.5) is bool(item["hit"])
        for name, weights in WEIGHTS.items():
            assert near(texts.sentence_bleu(r, p, weights), item[name], 1e-12), name


@pytest.mark.parametrize("of", SETS)
def test_sets_are_scored_as_officially(of: str) -> None:
    golden = GOLDEN["aggregate"][of]
    references, predictions = compared(of)
    orders = [golden[f"corpus_bleu{n}_none"] for n in range(1, 5)]
    assert texts.corpus_bleus(references, predictions) == pytest.approx(orders, abs=1e-9)
    for n, expected in enumerate(orders, start=1):
        assert near(texts.corpus_bleu(references, predictions, n), expected, 1e-9)
    unsmoothed = texts.corpus_bleu(references, predictions, smooth=False)
    assert near(unsmoothed, golden["corpus_bleu4_none_unsmoothed"], 1e-9)
    mean, each = texts.cider_d(references, predictions)
    assert near(mean, golden["ciderD"], 1e-10) and each == pytest.approx(golden["ciderD_each"], abs=1e-10)
    chosen = [ITEMS[i] for i in golden["ids"]]
    for name, score in (("rougeL_mean_f", texts.rouge_l), ("own_f1_clipped_mean", lambda r, p: texts.f1(r, p)[0])):
        scores = [score(item["reference"], item["prediction"]) for item in chosen]
        assert near(sum(scores) / len(scores), golden[name], 1e-12)


def test_of_several_references_the_official_numbers() -> None:
    golden = GOLDEN["aggregate"]["reports_two_references"]
    references, predictions = compared("reports", second=True)
    assert near(texts.corpus_bleu(references, predictions), golden["corpus_bleu4_none"], 1e-9)
    mean, each = texts.cider_d(references, predictions)
    assert near(mean, golden["ciderD"], 1e-10) and each == pytest.approx(golden["ciderD_each"], abs=1e-10)


@pytest.mark.parametrize(("table", "items"), [("all", ITEMS), ("open", OPEN), ("closed", CLOSED)])
def test_the_release_s_own_table(table: str, items: list[dict[str, Any]]) -> None:
    def mean(score: Any, of: list[dict[str, Any]]) -> float:
        return 100 * sum(score(item["reference"], item["prediction"]) for item in of) / len(of)

    asked, closed = ([item for item in items if item["type"] == kind] for kind in ("OPEN", "CLOSED"))
    found = {"exact match score": mean(texts.exact, items)}
    if asked:
        for place, name in enumerate(("f1 score", "precision", "recall")):
            found[name] = mean(lambda r, p, place=place: texts.f1(r, p, clipped=False)[place], asked)
        for name, weights in zip(("", "_1", "_2", "_3"), WEIGHTS.values(), strict=True):
            found[f"bleu_score{name}"] = mean(lambda r, p, w=weights: texts.sentence_bleu(r, p, w), asked)
    if closed:
        found["close accuracy"] = mean(texts.closed_hit, closed)
    assert found == pytest.approx(GOLDEN["aggregate"][f"official_{table}"], rel=1e-12)


def test_the_signature_is_that_of_the_numbers() -> None:
    assert texts.bleu_signature() == GOLDEN["aggregate"]["open"]["corpus_bleu4_none_detail"]["signature"]


# ---- what is compared ---------------------------------------------------------------------------------------------


def by_the_letter(s: str) -> str:
    """The release's rules, one after another and a character at a time."""
    s = s.lower()
    out = s
    glued = any(a.isdecimal() and b == "," and c.isdecimal() for a, b, c in zip(s, s[1:], s[2:], strict=False))
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        spaced = any(x + y in (mark + " ", " " + mark) for x, y in pairwise(s))
        out = out.replace(mark, "" if glued or spaced else " ")
    kept, removed = "", 0
    for here, after in pairwise(out + " "):
        if here == "." and not after.isdecimal() and removed < 32:
            removed += 1
        else:
            kept += here
    numbers = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    found = ["zero" if word == "none" else word for word in kept.split()]
    found = [str(numbers.index(word)) if word in numbers else word for word in found]
    return " ".join(normaliser._CONTRACTIONS.get(word, word) for word in found if word not in ("a", "an", "the"))


@given(raw)
def test_rules_are_kept_by_the_letter(s: str) -> None:
    assert texts.normalise(s) == texts.reference_words(s) == by_the_letter(s)
    assert texts.answer_words(s) == by_the_letter(s.lower().strip())


@given(raw, raw)
def test_what_a_model_says_before_its_answer_is_its_own(left: str, right: str) -> None:
    """Of predictions alone; a reference with the word keeps it, as officially."""
    prediction = f" {left}ASSISTANT:{right} "
    assert (
        texts.answer_words(prediction) == texts.normalise(prediction) == by_the_letter((left + right).lower().strip())
    )
    assert texts.reference_words("Assistant: J.") == "assistant: j"
    assert texts.exact("left", "Assistant: left") and not texts.exact("Assistant: left", "left")


@pytest.mark.parametrize(
    ("s", "expected"),
    [
        ("a,b, c", "ab c"),  # one comma with a space beside it, and every comma is deleted
        ("a,b,c", "b c"),  # "a" is an article
        ("x-y -z", "xy z"),
        ("x-y 1,200 u/v", "xy 1200 uv"),
        ("x-y 1, 200 u/v", "x y 1 200 u v"),
        ("x-y\t-z", "x y z"),  # a tab is no space
        ("No. 5", "no 5"),
        ("3.5. .5 5. .x", "3.5 .5 5 x"),
        ("3..5", "3.5"),
        ("x." * 33 + "y", "x" * 33 + ".y"),
        ("Im Ive dont shes she's somebody'd oclock", "im ive don't shes she's somebodyd o'clock"),
        ("don't", "don't"),
        ("the one, a ten", "1 10"),
        ("oneten None", "oneten 0"),
        ("", ""),
        (" . ", ""),
        ("a" * 10_000, "a" * 10_000),
    ],
)
def test_odd_rules(s: str, expected: str) -> None:
    assert texts.normalise(s) == expected


def test_a_reference_keeps_its_outer_spaces_until_marks_are_judged() -> None:
    assert texts.reference_words("well-defined- ") == "welldefined"  # a space beside one of them
    assert texts.answer_words("well-defined- ") == "well defined"
    assert not texts.exact("well-defined- ", "well-defined- ")


def test_contractions_are_the_release_s() -> None:
    assert len(normaliser._CONTRACTIONS) == 114
    for short, full in normaliser._CONTRACTIONS.items():
        assert short.replace("'", "") == full.replace("'", "") and short != full and short.islower()


# ---- of one answer ------------------------------------------------------------------------------------------------


@given(words, words)
def test_f1_is_the_overlap(r: list[str], p: list[str]) -> None:
    left, right = Counter(w for w in r if w != "a"), Counter(w for w in p if w != "a")
    found = texts.f1(" ".join(r), " ".join(p))
    both = (left & right).total()
    if not both:
        assert found == (0, 0, 0) == texts.f1(" ".join(r), " ".join(p), clipped=False)
        return
    assert found == pytest.approx(
        (2 * both / (left.total() + right.total()), both / right.total(), both / left.total()), abs=1e-12
    )
    loose = texts.f1(" ".join(r), " ".join(p), clipped=False)
    assert all(a >= b - 1e-12 for a, b in zip(loose, found, strict=True)) and max(loose) <= 1
    assert found[0] == pytest.approx(texts.f1(" ".join(p), " ".join(r))[0], abs=1e-12)


def test_f1_normalises_twice_and_exact_match_once() -> None:
    """What 32 stops leave behind is removed by the second pass, as officially."""
    stops = "x. " * 40
    assert not texts.exact("x " * 40, stops)
    assert texts.f1("x " * 40, stops)[0] == 1


def test_an_answer_that_repeats_itself_is_only_right_where_it_is_not_clipped() -> None:
    assert texts.f1("left", "left left left left", clipped=False) == (1, 1, 1)
    assert texts.f1("left", "left left left left") == pytest.approx((0.4, 0.25, 1))


@pytest.mark.parametrize(
    ("r", "p", "hit"),
    [("no", "abnormal", True), ("abnormal", "no", False), ("the", "anything", True), ("", "", True), ("0", "10", True),
     ("a b", "c a b d", True), ("yes", "", False), ("two", "2 nodules", True)],
)  # fmt: skip
def test_closed_hits_are_substrings(r: str, p: str, hit: bool) -> None:
    assert texts.closed_hit(r, p) is hit


def grams(told: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(told[i : i + n]) for i in range(len(told) - n + 1))


@given(words, words, st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_sentence_bleu_is_its_formula(r: list[str], p: list[str], weights: list[float]) -> None:
    reference, prediction = ([w for w in side if w != "a"] for side in (r, p))
    found = texts.sentence_bleu(" ".join(r), " ".join(p), weights)
    if not set(reference) & set(prediction):
        assert found == 0
        return
    product = 1.0 if len(prediction) > len(reference) else math.exp(1 - len(reference) / len(prediction))
    for n, weight in enumerate(weights, start=1):
        told = grams(prediction, n)
        matches = sum(min(count, grams(reference, n)[gram]) for gram, count in told.items())
        product *= (matches / told.total() if matches else sys.float_info.min) ** weight
    assert found == pytest.approx(product, rel=1e-9, abs=1e-12)


@given(words, words)
def test_rouge_is_the_longest_common_subsequence(r: list[str], p: list[str]) -> None:
    @lru_cache(None)
    def longest(i: int, j: int) -> int:
        if i == len(r) or j == len(p):
            return 0
        return longest(i + 1, j + 1) + 1 if r[i] == p[j] else max(longest(i + 1, j), longest(i, j + 1))

    common = longest(0, 0)
    expected = 2 * (common / len(p)) * (common / len(r)) / (common / len(p) + common / len(r)) if common else 0
    assert texts.rouge_l(" ".join(r), " ".join(p)) == pytest.approx(expected, abs=1e-12)
    assert texts.rouge_l(", ".join(r).upper(), "-".join(p)) == pytest.approx(expected, abs=1e-12)


def test_rouge_words_are_ascii() -> None:
    assert texts.rouge_l("\u0153d\u00e8me l\u00e9ger", "d me l ger") == 1
    assert texts.rouge_l("\u0153", "\u0153") == texts.rouge_l("", "") == 0
    assert texts.rouge_l("x " * 10_000, "x " * 10_000) == 1


# ---- of all answers -----------------------------------------------------------------------------------------------


@given(pairs, st.integers(1, 5), st.booleans())
def test_corpus_bleu_is_its_formula(told: list[tuple[str, str]], order: int, smooth: bool) -> None:
    sides = [(r.split(), p.split()) for r, p in told]
    lengths = [sum(len(side) for side in each) for each in zip(*sides, strict=True)]
    logs, halved = 0.0, 1
    for n in range(1, order + 1):
        total = sum(grams(p, n).total() for _, p in sides)
        matches = sum((grams(p, n) & grams(r, n)).total() for r, p in sides)
        halved *= 1 if matches else 2
        share = (matches or (1 / halved if smooth else 0)) / total if total else 0
        logs += math.log(share) if share else -math.inf
    shared = any(set(r) & set(p) for r, p in sides)
    expected = math.exp(logs / order + min(0, 1 - lengths[0] / lengths[1])) if shared else 0
    references, predictions = ([*side] for side in zip(*told, strict=True))
    assert texts.corpus_bleu(references, predictions, order, smooth) == pytest.approx(expected, abs=1e-9)
    assert texts.corpus_bleus(references, predictions, order, smooth)[-1] == pytest.approx(expected, abs=1e-9)


def test_corpus_bleu_takes_the_closest_of_several_references() -> None:
    one, other = "c d e f g", "c d e"
    assert texts.corpus_bleu([[one, "x"], [other]], [one, other], 2) == pytest.approx(1)
    assert texts.corpus_bleu([[one, other]], ["c d e"], 3) == pytest.approx(1)  # no brevity penalty: of three words too
    assert texts.corpus_bleu([one], ["c d e"], 3) == pytest.approx(math.exp(1 - 5 / 3))


def by_dictionaries(references: list[list[str]], predictions: list[str]) -> list[float]:
    """CIDEr-D as its authors write it: a dictionary of weights for each text and order."""
    spread = Counter(
        gram
        for group in references
        for gram in {gram for r in group for n in range(1, 5) for gram in grams(r.split(), n)}
    )

    def vector(text: str, n: int) -> dict[tuple[str, ...], float]:
        total = math.log(len(references))
        return {g: c * (total - math.log(max(1, spread[g]))) for g, c in grams(text.split(), n).items()}

    each = []
    for group, prediction in zip(references, predictions, strict=True):
        score = 0.0
        for reference in group:
            apart = max(0, len(reference.split()) - 1) - max(0, len(prediction.split()) - 1)
            for n in range(1, 5):
                p, r = vector(prediction, n), vector(reference, n)
                product = sum(min(weight, r.get(gram, 0)) * r.get(gram, 0) for gram, weight in p.items())
                norm = math.hypot(*p.values()) * math.hypot(*r.values())
                score += (product / norm if norm else 0) * math.exp(-(apart**2) / 72) / 4
        each.append(10 * score / len(group))
    return each


@given(st.lists(st.tuples(st.lists(sentences, min_size=1, max_size=3), sentences), min_size=1, max_size=7))
def test_cider_is_what_its_authors_write(told: list[tuple[list[str], str]]) -> None:
    references, predictions = ([*side] for side in zip(*told, strict=True))
    expected = by_dictionaries(references, predictions)
    mean, each = texts.cider_d(references, predictions)
    assert each == pytest.approx(expected, abs=1e-10) and all(0 <= score <= 10 + 1e-9 for score in each)
    assert mean == pytest.approx(sum(expected) / len(expected), abs=1e-10)
    turned = texts.cider_d(references[::-1], predictions[::-1])[1]
    assert turned == pytest.approx(expected[::-1], abs=1e-10)


def test_cider_of_one_sample_and_of_equal_ones_is_nothing() -> None:
    assert texts.cider_d(["b c d e"], ["b c d e"]) == (0, [0])
    assert texts.cider_d(["b c d e"] * 3, ["b c d e"] * 3) == (0, [0] * 3)
    assert texts.cider_d(["b c d e f", "g"], ["b c d e f", "g"])[1] == pytest.approx([10, 2.5])


def test_no_answers_have_no_score() -> None:
    assert math.isnan(texts.corpus_bleu([], [])) and math.isnan(texts.cider_d([], [])[0])
    assert texts.cider_d([], [])[1] == []
    assert texts.corpus_bleu([""], [""]) == texts.corpus_bleu(["b"], [""]) == 0
    assert texts.cider_d(["", "b"], ["", ""]) == (0, [0, 0])


@pytest.mark.parametrize("score", [texts.corpus_bleu, texts.cider_d])
def test_answers_and_references_go_together(score: Any) -> None:
    for references, predictions in ((["b"], []), (["b"], ["b", "c"]), ([[]], ["b"]), (["b"], "b")):
        with pytest.raises(ValueError, match="reference"):
            score(references, predictions)
    with pytest.raises(ValueError, match="order"):
        texts.corpus_bleu(["b"], ["b"], 0)


@pytest.mark.parametrize("call", [lambda: texts.corpus_bleu(["b"], ["b"]), texts.bleu_signature])
def test_without_sacrebleu_the_extra_is_named(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sacrebleu", "sacrebleu.metrics", "sacrebleu.metrics.bleu"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"sacrebleu.*mbil-bench\[generation\]"):
        call()


def test_nothing_but_bleu_waits_for_sacrebleu() -> None:
    code = (
        "import sys, benchmark.texts as t; t.f1('b', 'b'); t.cider_d(['b'], ['b']); print('sacrebleu' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "False\n"
