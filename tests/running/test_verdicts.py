"""What is said of answers: each metric by hand, what a task does not have, and the baseline that sees no image."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import kinds, texts
from benchmark.running.answers import verdicts
from benchmark.running.answers.verdicts import Answer, blind, cell_metrics, hits, most_words, verdict

KIND = kinds.of("generation")
OPEN_ONLY = ("f1_official", "bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d")
FACTS = ("fact_f1", "fact_right", "fact_contradicted", "fact_left_out")
LEVELS = {"size": ("small", "large"), "edge": ("sharp", "blurred"), "tone": ("dark", "bright")}

sentences = st.lists(st.sampled_from(["yes", "no", "the", "dont", "small", "x-y", "."]), max_size=5).map(" ".join)


def answer(reference: str, prediction: str, closed: bool = False, **more: object) -> Answer:
    fields: dict[str, object] = {"prompt": "?", "tokens": None, "stopped": None, "likeliest": None}
    return Answer(reference=reference, prediction=prediction, closed=closed, **(fields | more))  # type: ignore[arg-type]


def facts(text: str) -> dict[str, str]:
    told = texts.normalise(text).split()
    return {factor: level for factor, levels in LEVELS.items() for level in levels if level in told}


def missing(found: dict[str, float]) -> set[str]:
    return {name for name, value in found.items() if math.isnan(value)}


# ---- one answer ---------------------------------------------------------------------------------------------------


def test_a_verdict_says_what_holds_of_one_answer() -> None:
    assert verdict(answer("no", "Abnormal.", closed=True), ["Yes", "No"], 1) == {
        "exact": False, "f1": 0.0, "format_kept": False, "closed_lenient": True,
    }  # fmt: skip
    assert verdict(answer("the left lung", "left"), [], 2) == {
        "exact": False, "f1": pytest.approx(2 / 3), "format_kept": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prediction", "closed", "legal", "longest", "kept"),
    [
        ("YES.", True, ["yes", "no"], 1, True),
        ("assistant: yes", True, ["yes", "no"], 1, True),
        ("yes, there is", True, ["yes", "no"], 3, False),
        ("", True, ["yes", "no"], 3, False),
        ("two", True, ["2", "3"], 1, True),
        ("a b c", True, [], 1, True),  # "a" is no word; nothing is known to be legal
        ("x y z", False, ["x"], 1, True),
        ("x y z u", False, ["x"], 1, False),
        ("", False, [], 5, False),
        ("the", False, [], 5, False),
    ],
)
def test_the_format_is_kept(prediction: str, closed: bool, legal: list[str], longest: int, kept: bool) -> None:
    assert verdict(answer("r", prediction, closed), legal, longest)["format_kept"] is kept


def test_the_longest_answer_learned_is_counted_as_it_is_compared() -> None:
    assert most_words(["the left lung", "x-y-z", ""]) == 3 and most_words([]) == 0


# ---- a cell -------------------------------------------------------------------------------------------------------


def test_every_metric_of_the_kind_is_there() -> None:
    for answers in ([], [answer("r", "p")], [answer("r", "p", closed=True)]):
        found = cell_metrics(answers, ["r"], ["r"], facts)
        assert tuple(found) == KIND.metrics and all(type(value) is float for value in found.values())
    assert missing(cell_metrics([], [], [])) == set(KIND.metrics)


def test_what_a_task_does_not_have_is_missing() -> None:
    of_open = missing(cell_metrics([answer("r", "r")], [], ["r"]))
    assert of_open == {"closed_lenient", "likelihood", "truncated", "verbatim", *FACTS}
    of_closed = missing(cell_metrics([answer("r", "r", True, stopped=True)], ["r"], ["r"]))
    assert of_closed == {*OPEN_ONLY, "likelihood", "verbatim", *FACTS}
    assert missing(cell_metrics([answer("r", "r")], [], ["r"], facts)) >= set(FACTS)  # its reference tells none


def test_a_cell_of_both_by_hand() -> None:
    answers = [
        answer("yes", "yes", True, stopped=True, likeliest="Yes"),
        answer("no", "not here", True, stopped=False, likeliest="no"),
        answer("no", "YES", True, stopped=None, likeliest="yes"),
        answer("left lung", "left left", stopped=False),
        answer("x y z u v w k m", "the x y z u v w k m", stopped=True),
        answer("x y z u v w k n", "x y z u v w k o", stopped=True),
    ]
    found = cell_metrics(answers, ["yes", "no"], ["yes", "no", "left lung", "x y z u v w k m"])
    assert found["exact"] == pytest.approx(2 / 6)
    assert found["f1"] == pytest.approx((1 + 0 + 0 + 0.5 + 1 + 7 / 8) / 6)
    assert found["closed_lenient"] == pytest.approx(2 / 3)
    assert found["likelihood"] == pytest.approx(2 / 3)
    assert found["f1_official"] == pytest.approx((0.8 + 1 + 7 / 8) / 3)
    assert found["format_kept"] == pytest.approx(5 / 6)
    assert found["truncated"] == pytest.approx(2 / 5)
    assert found["distinct"] == pytest.approx(5 / 6)
    assert found["verbatim"] == pytest.approx(1 / 2)
    assert found["bleu1"] == pytest.approx((1 + 8 + 7) / (2 + 8 + 8))
    assert found["rouge_l"] == pytest.approx((2 * 1 / 4 + 2 * 8 / 17 + 7 / 8) / 3)  # raw strings: "the" is a word there
    references = [texts.normalise(each.reference) for each in answers[3:]]
    predictions = [texts.normalise(each.prediction) for each in answers[3:]]
    assert found["cider_d"] == pytest.approx(texts.cider_d(references, predictions)[0] / 10)
    assert found["bleu4"] == pytest.approx(texts.corpus_bleu(references, predictions))
    assert missing(found) == set(FACTS)


def test_facts_of_a_report_are_right_contradicted_or_left_out() -> None:
    answers = [
        answer(
            "A small spot, sharp and dark.", "The spot is small, its edge blurred."
        ),  # right, contradicted, left out
        answer("A large spot.", "Bright."),  # left out, and told what nobody asked
        answer("A large spot.", "Large."),
        answer("Nothing of it.", "Dark."),  # no fact of its own
    ]
    found = cell_metrics(answers, [], ["x"], facts)
    assert [found[name] for name in FACTS[1:]] == pytest.approx([2 / 5, 1 / 5, 2 / 5])
    precision, recall = 2 / 5, 2 / 5
    assert found["fact_f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    silent = cell_metrics([replace(each, prediction="") for each in answers], [], ["x"], facts)
    assert [silent[name] for name in FACTS] == [0, 0, 0, 1]
    perfect = cell_metrics([replace(each, prediction=each.reference) for each in answers], [], ["x"], facts)
    assert [perfect[name] for name in FACTS] == [1, 1, 0, 0]


@given(st.lists(st.tuples(sentences, sentences, st.booleans()), min_size=1, max_size=6))
def test_verdicts_hits_and_metrics_agree(told: list[tuple[str, str, bool]]) -> None:
    answers = [answer(r, p, closed) for r, p, closed in told]
    found = cell_metrics(answers, ["yes"], ["yes no"])
    said = [verdict(each, ["yes"], 2) for each in answers]
    for name in ("exact", "f1", "format_kept"):
        assert found[name] == pytest.approx(mean(float(each[name]) for each in said))
    for name in ("exact", "f1"):
        scores = hits(answers, name)
        assert scores.dtype == np.float64 and scores.shape == (len(answers),)
        assert scores.mean() == pytest.approx(found[name])
    assert hits([], "f1").shape == (0,)
    lenient = [each["closed_lenient"] for each in said if "closed_lenient" in each]
    assert len(lenient) == sum(each.closed for each in answers)


def test_two_thousand_reports_are_judged_in_a_moment() -> None:
    generator = np.random.default_rng(0)
    words = [f"word{i}" for i in range(300)]
    told = [" ".join(words[int(i)] for i in generator.zipf(1.3, 40) % 300) for _ in range(4000)]
    answers = [answer(r, p, stopped=True) for r, p in zip(told[:2000], told[2000:], strict=True)]
    began = time.process_time()
    found = cell_metrics(answers, [], told[:2000])
    assert time.process_time() - began < 5  # a second and a half as measured
    assert missing(found) == {"closed_lenient", "likelihood", *FACTS}


# ---- without a look at the image ----------------------------------------------------------------------------------


def test_the_blind_answer_is_the_best_one_learned_for_the_question() -> None:
    learned = [("Is it?", "Yes."), ("Is it?", "yes"), ("Is it?", "No"), ("Where?", "left"), ("Where?", "right"),
               ("Where?", "left"), ("Else?", "no"), ("Else?", "no"), ("Else?", "no"), ("Else?", "no")]  # fmt: skip
    asked = [("Is it?", "yes"), ("Is it?", "no"), ("Where?", "Left."), ("Why?", "no"), ("Why?", "yes")]
    assert blind(learned, asked, "exact") == pytest.approx(3 / 5)  # yes, left, and of an unknown question no
    assert blind(learned[:2], [("Where?", "yes")], "exact") == 1
    assert math.isnan(blind([], asked, "exact")) and math.isnan(blind(learned, [], "f1"))


def test_f1_s_blind_answer_is_the_nearest_to_all() -> None:
    """Neither the most frequent one nor one that was right once: the one with most words in common."""
    learned = [("?", text) for text in ("small dark", "small bright", "small sharp dark", "x", "x")]
    assert blind(learned, [("?", "small dark sharp")], "f1") == pytest.approx(0.8)
    assert blind(learned, [("?", "x")], "exact") == 1


def test_of_equals_the_first_by_alphabet() -> None:
    for told in (["b", "c", "b", "c"], ["c", "b", "c", "b"]):
        learned = [("?", text) for text in told]
        for metric in ("exact", "f1"):
            assert blind(learned, [("?", "b")], metric) == 1 and blind(learned, [("?", "c")], metric) == 0


@given(st.lists(sentences, min_size=1, max_size=8), st.lists(sentences, min_size=1, max_size=4), st.randoms())
def test_no_single_answer_does_better_on_what_was_learned(told: list[str], asked: list[str], random: object) -> None:
    learned = [("?", text) for text in told]
    for metric in ("exact", "f1"):

        def score(reference: str, prediction: str, metric: str = metric) -> float:
            return float(hits([answer(reference, prediction)], metric)[0])

        best = max(mean(score(text, each) for text in told) for each in told)
        assert blind(learned, learned, metric) == pytest.approx(best)
        turned = list(learned)
        random.shuffle(turned)  # type: ignore[attr-defined]
        questions = [("?", text) for text in asked]
        assert blind(turned, questions, metric) == blind(learned, questions, metric)


def test_a_large_set_is_judged_by_a_part_of_it_that_its_order_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [f"common {i} {i % 7}" for i in range(3000)] + ["common 3"] * 2
    calls: Counter[tuple[str, str]] = Counter()
    score = texts.f1

    def counted(r: str, p: str, clipped: bool = True) -> tuple[float, float, float]:
        calls[r, p] += 1
        return score(r, p, clipped)

    monkeypatch.setattr(verdicts.texts, "f1", counted)
    asked = [("?", "common 3"), ("Else?", "common 3")] * 500
    found = []
    for order in (told, told[::-1]):
        calls.clear()
        found.append((blind([("?", text) for text in order], asked, "f1"), dict(calls)))
    assert found[0] == found[1]
    assert calls.total() <= 2 * 64 * 256 + 1000  # each question's answer is sought once, however often it is asked
