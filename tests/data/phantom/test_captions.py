"""Made captions: different, true, in words of pretraining and others."""

from __future__ import annotations

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data import phantom
from benchmark.data.phantom import captions, synonyms

CONTEXT = 48  # tokens the default backbone reads, with the start and end marks
every_generator = pytest.mark.parametrize("name", phantom.GENERATORS)


def tokens(texts: list[str]) -> int:
    """How many tokens the longest has, start and end marks included, none cut off."""
    rows = open_clip.SimpleTokenizer(context_length=200)(texts)
    return int((rows != 0).sum(dim=1).max())


def phrases(name: str, factors: dict[str, float], wording: str) -> set[str]:
    """Everything that may be said of these factors."""
    found = set()
    for factor, words in phantom.generator(name).FACTORS.items():
        level = 0 if factors[factor] < 0.4 else 2 if factors[factor] > 0.6 else 1
        found |= {(words.low, words.middle, words.high)[level]}
        found |= {table[name][factor][level] for table in captions.WORDINGS[wording]}
    return found


@every_generator
def test_synonyms_tell_every_level_of_every_factor_apart_and_differ_from_pretraining(name: str) -> None:
    factors = phantom.generator(name).FACTORS
    known = {word for factor in factors.values() for word in (factor.low, factor.middle, factor.high)}
    for table in (synonyms.CLINICAL, synonyms.PLAIN):
        assert set(table[name]) == set(factors)
        words = [word for levels in table[name].values() for word in levels]
        assert len(set(words)) == 18 and not set(words) & known


@every_generator
@given(
    seed=st.integers(0, 2**31), wording=st.sampled_from(list(captions.WORDINGS)), count=st.integers(1, captions.MOST)
)
def test_captions_are_different_true_and_the_same_again(name: str, seed: int, wording: str, count: int) -> None:
    factors = phantom.factors_of(name, {}, [seed])
    told = captions.captions(name, factors, [seed], count, wording)
    assert len(set(told)) == len(told) == count
    assert told == captions.captions(name, dict(factors), (seed,), count, wording)
    true = phrases(name, factors, wording)
    for caption in told:
        rest = caption.split(" with ", 1)[-1].split(" showing ", 1)[-1].split(": ", 1)[-1]
        pieces = rest.split(", ")
        assert all(piece in true or all(part in true for part in piece.split(" and ")) for piece in pieces), caption


@every_generator
def test_the_longest_captions_fit_the_backbone(name: str) -> None:
    told = [
        caption
        for i in range(150)
        for caption in captions.captions(name, phantom.factors_of(name, {}, [i]), [i], 2, "both")
    ]
    assert tokens(told) <= CONTEXT


def test_captions_use_words_of_pretraining_and_others() -> None:
    factors = phantom.factors_of("xray", {}, [1])
    told = " ".join(captions.captions("xray", factors, [1], captions.MOST, "clinical"))
    known = {words.phrase(factors[factor]) for factor, words in phantom.generator("xray").FACTORS.items()}
    assert any(phrase in told for phrase in known)
    assert any(phrase in told for phrase in phrases("xray", factors, "clinical") - known)
