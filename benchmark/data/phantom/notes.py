"""Clinical notes of made fusion tasks: who the patient is, some facts that tell nothing, and one fact that does.

A note is a pure function of (the sentences of a class, seed). Only the one sentence depends on the class: age, sex,
the distracting facts, the order and the place of the sentence are drawn without it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

VERSION = 1
LONGEST = 14  # words of a sentence: a note has at most 35 then, and fits 48 tokens
_STREAM = 1  # tells a note's draws from those of its image

PATIENTS = (
    "{age}-year-old {sex}.",
    "A {sex} aged {age}.",
    "Patient: {sex}, {age} years.",
    "{sex}, {age} years old.",
)
SEXES = ("woman", "man")
AGES, MASS_INDICES = (25, 90), (19, 36)  # from and below
DISTRACTORS = (
    "Takes metformin.",
    "Allergic to penicillin.",
    "Seen for routine follow-up.",
    "Lives alone.",
    "Retired teacher.",
    "Works in an office.",
    "Takes a statin.",
    "Walks daily.",
    "Had an appendectomy.",
    "Wears hearing aids.",
    "Mild knee pain.",
    "Treated for hypothyroidism.",
    "Uses reading glasses.",
    "Drinks socially.",
    "Referred by the family doctor.",
    "Travelled last month.",
    "Sleeps well.",
    "Vaccinations up to date.",
    "Body mass index {bmi}.",
)


def note(sentences: Sequence[str], seed: Sequence[int]) -> str:
    """One of ``sentences`` inside a short note: ``63-year-old man. Takes metformin. <sentence> Lives alone.``"""
    rng = np.random.default_rng([*seed, _STREAM])
    patient = PATIENTS[rng.integers(len(PATIENTS))].format(age=rng.integers(*AGES), sex=SEXES[rng.integers(2)])
    drawn = rng.choice(len(DISTRACTORS), rng.integers(1, 3), replace=False)
    facts = [DISTRACTORS[i].format(bmi=rng.integers(*MASS_INDICES)) for i in drawn]
    place, chosen = rng.integers(len(facts) + 1), rng.random()
    sentence = sentences[int(chosen * len(sentences))]
    told = [patient[0].upper() + patient[1:], *facts[:place], sentence, *facts[place:]]
    return " ".join(told)
