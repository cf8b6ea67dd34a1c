"""Facts told by a text are exact: every phrase tells its own, and a made report tells what it was made of."""

from __future__ import annotations

import pytest

from benchmark.data import phantom
from benchmark.data.phantom import captions, reports
from benchmark.data.phantom.facts import facts, phrases
from benchmark.data.phantom.questions import LEVELS
from benchmark.data.phantom.synonyms import CLINICAL, PLAIN


@pytest.mark.parametrize("name", phantom.GENERATORS)
def test_every_phrase_of_a_generator_tells_its_own_factor_and_level(name: str) -> None:
    counted = 0
    for factor, words in phantom.generator(name).FACTORS.items():
        for told in ((words.low, words.middle, words.high), CLINICAL[name][factor], PLAIN[name][factor]):
            for phrase, level in zip(told, LEVELS, strict=True):
                for text in (phrase, phrase.upper(), f"Findings: {phrase}.", phrase.replace("-", " - ")):
                    assert facts(name, text) == {factor: level}, text
                counted += 1
    assert counted == len(phrases(name)) == 54


@pytest.mark.parametrize("name", phantom.GENERATORS)
@pytest.mark.parametrize("wording", captions.WORDINGS)
def test_a_made_report_tells_the_facts_it_was_made_of(name: str, wording: str) -> None:
    every = sorted(phantom.generator(name).FACTORS)
    for number in range(120):
        factors = [*every[number % 6 :], *every[: number % 6]][: 3 + number % 3]
        turn = reports.report(name, factors, wording, "usual", number, [number])
        told = reports.told(factors, turn.factors)
        level = {f: "low" if v < 0.4 else "high" if v > 0.6 else "middle" for f, v in turn.factors.items()}
        assert facts(name, turn.answer) == {factor: level[factor] for factor in told}, turn.answer
        assert 2 <= turn.answer.count(". ") + 1 <= 4 and 3 <= len(told) <= 5


@pytest.mark.parametrize("name", phantom.GENERATORS)
def test_a_caption_tells_the_facts_it_was_made_of(name: str) -> None:
    for i in range(50):
        drawn = phantom.factors_of(name, {}, [i])
        words = phantom.generator(name).FACTORS
        right = {f: [w.low, w.middle, w.high].index(w.phrase(drawn[f])) for f, w in words.items()}
        assert facts(name, phantom.caption(name, drawn)) == {f: [*LEVELS][level] for f, level in right.items()}
        for text in captions.captions(name, drawn, [i], 3, "both"):
            told = facts(name, text)
            assert 4 <= len(told) <= 5 and all([*LEVELS][right[f]] == level for f, level in told.items()), text


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("xray", "", {}),
        ("xray", "A chest x-ray.", {}),
        ("xray", "CARDIOMEGALY", {"heart_size": "high"}),
        ("xray", "Cardiomegaly, cardiomegaly and enlarged heart.", {"heart_size": "high"}),
        ("xray", "Small heart and enlarged heart.", {"heart_size": "several"}),
        ("xray", "Small heart, enlarged heart, small heart.", {"heart_size": "several"}),
        ("xray", "No cardiomegaly, without air trapping.", {}),
        ("xray", "small. Heart enlarged", {}),
        ("xray", "small, heart", {}),
        ("xray", "ground - glass change", {"opacity_texture": "low"}),
        ("xray", "ground\nglass change", {"opacity_texture": "low"}),
        ("xray", "nonsmall heartiness", {}),
        ("dermoscopy", "no mesh and no overlying hair", {"pigment_network": "low", "hair": "low"}),
        ("dermoscopy", "mildly asymmetric lesion", {"asymmetry": "middle"}),
        ("ultrasound", "dark grey inside", {"echogenicity": "middle"}),
        ("ultrasound", "grey inside", {"echogenicity": "high"}),
        ("ultrasound", "scattered fibroglandular parenchyma", {"gland_density": "middle"}),
    ],
)
def test_odd_texts(name: str, text: str, told: dict[str, str]) -> None:
    assert facts(name, text) == told
