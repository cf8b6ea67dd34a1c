"""Made notes: short, and only the sentence depends on the class."""

from __future__ import annotations

from collections import Counter

import open_clip
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.phantom import notes

CONTEXT = 48  # tokens the default backbone reads, with the start and end marks
SENTENCES = ["Fever since Monday.", "Coughs."]


def tokens(texts: list[str]) -> int:
    """How many tokens the longest has, start and end marks included, none cut off."""
    rows = open_clip.SimpleTokenizer(context_length=200)(texts)
    return int((rows != 0).sum(dim=1).max())


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=4))
def test_a_note_tells_one_of_the_sentences_once_and_is_short(seed: list[int]) -> None:
    note = notes.note(SENTENCES, seed)
    assert note == notes.note(list(SENTENCES), tuple(seed))
    assert sum(note.count(sentence) for sentence in SENTENCES) == 1
    assert len(note.split()) <= 35 and note[0] == note[0].upper() and note.endswith(".")


def test_only_the_sentence_depends_on_the_class() -> None:
    """So neither age, sex, the other facts nor the place of the sentence can tell the class."""
    for i in range(200):
        one, other = notes.note(["ONE."], [5, i]), notes.note(["OTHER."], [5, i])
        assert one.replace("ONE.", "OTHER.") == other


def test_notes_vary_in_patient_facts_place_and_sentence() -> None:
    made = [notes.note(SENTENCES, [7, i]) for i in range(400)]
    assert len(set(made)) > 390
    first = Counter(note.index("Fever") < 25 for note in made if "Fever" in note)
    assert min(first.values()) > 30 and 130 < sum(first.values()) < 270
    assert all(any(fact.split("{")[0].rstrip(".") in note for note in made) for fact in notes.DISTRACTORS)
    women = sum("woman" in note.lower() for note in made)
    assert 150 < women < 250


def test_the_longest_note_fits_the_backbone() -> None:
    sentence = "Has had a dry cough, a mild fever and night sweats since late autumn."
    assert len(sentence.split()) == notes.LONGEST
    made = [notes.note([sentence], [i]) for i in range(300)]
    assert max(len(note.split()) for note in made) <= 35
    assert tokens(made) <= CONTEXT
