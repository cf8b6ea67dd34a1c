"""Phantoms that talk: what is asked and answered is true of what is drawn, and a question alone tells nothing."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.data import catalog, phantom, sources
from benchmark.data.catalog import Source
from benchmark.data.phantom import asking, captions, notes, questions, reports, talk, vocabulary
from benchmark.data.sources import phantoms, talking

STREAMS = ("smoke_generation", "smoke_mixed", "phantom_mbiil8")
TALKING = {
    f"{stream}/{task.name}": source
    for stream in STREAMS
    for recipe in [catalog.load(stream, Path())]
    for task, source in zip(recipe.stream, recipe.sources, strict=True)
    if task.kind == "generation"
}
Factors = dict[str, float]
Spoken = dict[str, list[tuple[str, str, bool]]]


@cache
def spoken_in(task: str) -> Spoken:
    return phantoms.dialogue(TALKING[task])


# The oracle: what makes a statement true, written down once more and without the tables of the package.
TRUE: dict[str, Callable[[Factors], bool]] = {
    "the nuclei are sparse": lambda f: f["nuclear_density"] < 0.4,
    "the nuclei are crowded": lambda f: f["nuclear_density"] > 0.6,
    "the glands are small": lambda f: f["gland_size"] < 0.4,
    "the glands are dilated": lambda f: f["gland_size"] > 0.6,
    "the nuclear staining is pale": lambda f: f["stain"] < 0.4,
    "the nuclear staining is dark": lambda f: f["stain"] > 0.6,
    "the stroma is loose": lambda f: f["fibrosis"] < 0.4,
    "the stroma is densely fibrotic": lambda f: f["fibrosis"] > 0.6,
    "the opacity is limited": lambda f: f["opacity_extent"] < 0.4,
    "the opacity is extensive": lambda f: f["opacity_extent"] > 0.6,
    "the opacity is hazy": lambda f: f["opacity_texture"] < 0.4,
    "the opacity is nodular": lambda f: f["opacity_texture"] > 0.6,
    "the pleural effusion is minimal": lambda f: f["effusion"] < 0.4,
    "the pleural effusion is large": lambda f: f["effusion"] > 0.6,
    "the lung volume is low": lambda f: f["lung_volume"] < 0.4,
    "the lung volume is increased": lambda f: f["lung_volume"] > 0.6,
    "the lesion is symmetric": lambda f: f["asymmetry"] < 0.4,
    "the lesion is markedly asymmetric": lambda f: f["asymmetry"] > 0.6,
    "the lesion is uniformly brown": lambda f: f["colour_variety"] < 0.4,
    "the lesion is multicoloured": lambda f: f["colour_variety"] > 0.6,
    "the overlying hair is absent": lambda f: f["hair"] < 0.4,
    "the overlying hair is heavy": lambda f: f["hair"] > 0.6,
    "the pigment network is absent": lambda f: f["pigment_network"] < 0.4,
    "the pigment network is prominent": lambda f: f["pigment_network"] > 0.6,
}
ASPECTS = {
    "density of the nuclei": "nuclear_density", "size of the glands": "gland_size", "nuclear staining": "stain",
    "stroma": "fibrosis", "extent of the opacity": "opacity_extent", "texture of the opacity": "opacity_texture",
    "pleural effusion": "effusion", "lung volume": "lung_volume", "symmetry of the lesion": "asymmetry",
    "colour of the lesion": "colour_variety", "overlying hair": "hair", "pigment network": "pigment_network",
}  # fmt: skip
OPEN = re.compile(r"(?:How would you describe|What can be said about|Describe|What is your impression of) the (.+?)"
                  r"(?: in a few words)?[?.]")  # fmt: skip
CODES = {
    "asy": "asymmetry", "rag": "border_irregularity", "mul": "colour_variety", "big": "lesion_size", "hry": "hair",
    "net": "pigment_network",
}  # fmt: skip
TOLD = {
    "histopathology": ["nuclear_density", "nuclear_size", "gland_size", "pleomorphism", "fibrosis"],
    "xray": ["opacity_extent", "heart_size", "lung_volume", "effusion", "opacity_texture"],
}


def answer_of(name: str, task: str, question: str, factors: Factors) -> str | dict[str, str]:
    """What is right, told from what the image was drawn from; of a report its facts."""
    words = phantom.generator(name).FACTORS
    if task in ("pathology_classes", "radiology_classes"):
        return "enlarged" if factors["nuclear_size" if name == "histopathology" else "heart_size"] > 0.5 else "small"
    if task == "dermatology_classes":
        return ([code for code, factor in CODES.items() if factors[factor] > 0.5] or ["pln"])[0]
    if task.endswith("reports"):
        told = [f for i, f in enumerate(TOLD[name]) if i < 3 or factors[f] > 0.6]
        return {f: "low" if factors[f] < 0.4 else "high" if factors[f] > 0.6 else "middle" for f in told}
    if question in asking.LIST["usual"]:
        listed = sorted((f for f in factors if factors[f] > 0.6 and f in ASPECTS.values()), key=[*words].index)
        return ", ".join(words[f].phrase(factors[f]) for f in listed)
    if found := OPEN.fullmatch(question):
        factor = ASPECTS[found[1]]
        return words[factor].phrase(factors[factor])
    said = re.sub(r"^(Would you say that|Is it true that|Does the image show that) ", "", question.rstrip("?"))
    if said not in TRUE:  # "Are the nuclei sparse"
        (said,) = [fact for fact in TRUE if sorted(fact.split()) == sorted(said.lower().split())]
    return "yes" if TRUE[said](factors) else "no"


class Recorder:
    """Stands for a generator's ``render``: keeps what it was to draw, and draws nothing."""

    def __init__(self) -> None:
        self.drawn: list[Factors] = []

    def __call__(self, factors: Factors, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
        self.drawn.append(dict(factors))
        return np.zeros((size, size, 3), np.uint8)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    for name in phantom.GENERATORS:
        monkeypatch.setattr(phantom.generator(name), "render", recorder)
    return recorder


def made(**options: Any) -> Source:
    given = {"generator": "histopathology", "seed": 3, "sizes": {"train": 24, "val": 12, "test": 12}} | options
    return Source("s.yaml: tasks[0]", "phantom", (), given, "generation")


@pytest.mark.parametrize("task", [name for name in TALKING if name.startswith("phantom_mbiil8")])
def test_every_answer_is_what_an_oracle_tells_from_the_factors_that_were_drawn(task: str, recorder: Recorder) -> None:
    source = TALKING[task]
    name, told = source.options["generator"], phantoms.facts(source)
    for split in sources.SPLITS:
        recorder.drawn.clear()
        loaded = sources.load(source, split)
        assert loaded.pairs is not None and len(recorder.drawn) == len(loaded.images) == len(loaded.pairs)
        for image, question, answer in loaded.pairs.tolist():
            right = answer_of(name, task.split("/")[1], loaded.texts[question], recorder.drawn[image])
            said: object = loaded.texts[answer]
            assert (told(loaded.texts[answer]) if told else said) == right, (loaded.texts[question], said, image)


@pytest.mark.parametrize("task", TALKING)
def test_a_closed_question_has_all_its_answers_equally_often(task: str) -> None:
    """So the answer that is most frequent for a question, or overall, is right on no more than chance."""
    for split, turns in spoken_in(task).items():
        answers: dict[str, Counter[str]] = defaultdict(Counter)
        for question, answer, closed in turns:
            if closed:
                answers[question][answer] += 1
        words = TALKING[task].options.get("words", ["yes", "no"])
        for question, counted in answers.items():
            counts = [counted[word] for word in words]
            assert len(counted) == len(words) or (len(words) > 2 and split == "val"), (split, question)
            assert max(counts) - min(counts) <= (0 if len(words) == 2 else 1), (split, question, counted)
        asked = sum(sum(counted.values()) for counted in answers.values())
        blind = sum(max(counted.values()) for counted in answers.values())
        assert blind <= asked / len(words) + len(answers) * (len(words) > 2)


@pytest.mark.parametrize("name", ["pathology_questions", "radiology_questions", "dermatology_questions"])
def test_the_answers_learned_by_question_are_worth_nothing_on_the_test_set(name: str) -> None:
    spoken = spoken_in(f"phantom_mbiil8/{name}")
    learned: dict[str, Counter[str]] = defaultdict(Counter)
    for question, answer, _ in spoken["train"]:
        learned[question][answer] += 1
    closed = [(question, answer) for question, answer, is_closed in spoken["test"] if is_closed]
    right = sum(learned[question].most_common(1)[0][0] == answer for question, answer in closed)
    assert len(closed) == 96 and right == 48
    answered = [(q, a) for q, a, is_closed in spoken["test"] if not is_closed and q not in asking.LIST["usual"]]
    assert len(answered) == 48 and {q for q, _ in answered} <= learned.keys()
    assert max(Counter(answered).values()) == 1 and len({q for q, _ in answered}) == 16


@pytest.mark.parametrize("generator", phantom.GENERATORS)
def test_what_is_told_is_drawn_away_from_where_other_words_begin(generator: str, recorder: Recorder) -> None:
    factors = sorted(phantom.generator(generator).FACTORS)[:5]
    source = made(generator=generator, talk=["closed", "open", "list", "report"], factors=factors)
    loaded = sources.load(source, "train")
    about = talking.talk_of(source, phantoms.options(source))
    for turn, drawn in zip(about.turns(0, 24), recorder.drawn, strict=True):
        assert turn.factors and all(drawn[factor] == value for factor, value in turn.factors.items())
        for value in turn.factors.values():
            assert min(abs(value - border) for border in (0.4, 0.6)) >= 0.04 - 1e-9
    assert loaded.closed is not None and loaded.closed.tolist() == [True, False, False, False] * 6


def test_a_sample_depends_on_its_number_and_not_on_the_size_of_its_split() -> None:
    kinds = [*talk.KINDS]
    options = {
        "talk": kinds, "factors": ["gland_size", "stain", "fibrosis"], "words": ["few", "many"],
        "regions": [{"nuclear_density": [0, 0.3]}, {"nuclear_density": [0.7, 1]}],
    }  # fmt: skip
    short, long = made(**options), made(**options, sizes={"train": 30, "val": 10, "test": 10})
    short_train, long_train = (sources.load(source, "train") for source in (short, long))
    assert np.array_equal(short_train.images, long_train.images[:24])
    assert phantoms.dialogue(short)["train"] == phantoms.dialogue(long)["train"][:24]
    splits = [sources.load(long, split) for split in sources.SPLITS]
    assert len({image.tobytes() for split in splits for image in split.images}) == 50
    other = made(**options, sizes={"train": 30, "val": 10, "test": 10})
    assert np.array_equal(sources.load(other, "test").images, splits[2].images)


def test_a_split_is_its_dialogue_which_is_told_without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    source = TALKING["smoke_mixed/skin_questions"]
    loaded = sources.load(source, "train")
    assert loaded.pairs is not None and loaded.closed is not None
    read = [
        (loaded.texts[question], loaded.texts[answer], closed)
        for (_, question, answer), closed in zip(loaded.pairs.tolist(), loaded.closed.tolist(), strict=True)
    ]
    assert loaded.pairs[:, 0].tolist() == [*range(16)] and len(set(loaded.texts)) == len(loaded.texts)
    first = [*dict.fromkeys(answer for _, answer, _ in read)]
    assert loaded.labels.tolist() == [first.index(answer) for _, answer, _ in read]
    monkeypatch.setattr(phantom.generator("dermoscopy"), "render", None)
    assert phantoms.dialogue(source)["train"] == read


def test_a_region_confines_what_nothing_is_said_of(recorder: Recorder) -> None:
    sources.load(made(talk="closed", factors=["stain"], region={"gland_size": [0.7, 0.9]}), "train")
    assert all(0.7 <= drawn["gland_size"] <= 0.9 for drawn in recorder.drawn) and len(recorder.drawn) == 24


def test_wordings_are_shared_by_tasks_and_no_task_has_one_of_its_own() -> None:
    """Reports, lists and the two states word for word; other questions by their form."""
    asked = {
        name.split("/")[1]: {question for turns in spoken_in(name).values() for question, *_ in turns}
        for name in TALKING if name.startswith("phantom_mbiil8")
    }  # fmt: skip
    assert asked["pathology_reports"] == asked["radiology_reports"] == {*asking.REPORT["usual"]}
    assert asked["pathology_classes"] == asked["radiology_classes"] and len(asked["pathology_classes"]) == 6
    three = [asked[f"{modality}_questions"] for modality in ("pathology", "radiology", "dermatology")]
    assert set.intersection(*three) == {*asking.LIST["usual"]}
    begun = [{question.split()[0] for question in questions} for questions in three]
    assert begun[0] == begun[1] | {"Are"} and begun[1] == begun[2]


def test_other_wordings_ask_the_same_and_are_met_in_no_shipped_stream() -> None:
    usual, other = ({q for q, *_ in phantoms.dialogue(made(talk="closed", forms=f))["train"]} for f in talk.FORMS)
    assert not usual & other
    shipped = {q for task in TALKING for turns in spoken_in(task).values() for q, *_ in turns}
    assert not shipped & (other | {*asking.LIST["other"], *asking.REPORT["other"]})
    for forms in (asking.CLOSED, asking.OPEN, asking.LIST, asking.CLASSES, asking.REPORT):
        assert forms.keys() == {*talk.FORMS} and not {*forms["usual"]} & {*forms["other"]}


@pytest.mark.parametrize("generator", phantom.GENERATORS)
def test_every_factor_can_be_asked_about_and_no_two_questions_are_the_same(generator: str) -> None:
    factors = phantom.generator(generator).FACTORS
    asked = asking.ASKED[generator]
    assert asked.keys() == factors.keys()
    assert len({each.aspect for each in asked.values()}) == len(asked)
    assert len({(each.subject, state) for each in asked.values() for state in (each.low, each.high)}) == 2 * len(asked)
    assert all(each.verb in ("is", "are") and len(words.high.split()) <= 3 for each, words in zip(
        asked.values(), factors.values(), strict=True))  # fmt: skip


@pytest.mark.parametrize("generator", phantom.GENERATORS)
def test_answers_to_open_questions_have_one_to_three_words(generator: str) -> None:
    spoken = phantoms.dialogue(made(generator=generator, talk="open", sizes={"train": 72}))["train"]
    assert {len(answer.split()) for _, answer, _ in spoken} <= {1, 2, 3}
    assert len({answer for _, answer, _ in spoken}) == 18


def test_reports_have_two_to_four_sentences_that_tell_three_to_five_factors() -> None:
    for name in ("pathology_reports", "radiology_reports"):
        source = TALKING[f"phantom_mbiil8/{name}"]
        written = [answer for _, answer, _ in spoken_in(f"phantom_mbiil8/{name}")["train"]]
        facts = phantoms.facts(source)
        assert facts is not None
        assert {len(re.findall(r"[.](?: |$)", text)) for text in written} == {2, 3, 4}
        assert {len(facts(text)) for text in written} == {3, 4, 5}
        assert max(len(vocabulary.split(text)) for text in written) < 50 and len(set(written)) > 200
        synonyms = captions.WORDINGS["clinical"][0][source.options["generator"]]
        said = [any(word in text.lower() for words in synonyms.values() for word in words) for text in written]
        assert np.mean(said) > 0.9


def test_the_vocabulary_has_every_word_that_made_streams_say() -> None:
    known = vocabulary.words()
    assert known == sorted(set(known)) and all(vocabulary.split(word) == [word] for word in known)
    texts = [text for task in TALKING for turns in spoken_in(task).values()
             for question, answer, _ in turns for text in (question, answer)]  # fmt: skip
    for generator in phantom.GENERATORS:
        factors = sorted(phantom.generator(generator).FACTORS)[:5]
        for forms in talk.FORMS:
            source = made(generator=generator, talk=["closed", "open", "list", "report"], factors=factors, forms=forms,
                          sizes={"train": 200})  # fmt: skip
            texts += [text for question, answer, _ in phantoms.dialogue(source)["train"] for text in (question, answer)]
        for i in range(30):
            drawn = phantom.factors_of(generator, {}, [i])
            texts += [phantom.caption(generator, drawn), *captions.captions(generator, drawn, [i], 3, "both")]
    for name in catalog.names("streams"):
        for source in catalog.load(name, None).sources:
            if source.kind == "phantom":
                texts += [notes.note(told, [i]) for told in source.options.get("notes", ()) for i in range(40)]
                texts += source.classes
    missing = {word for text in texts for word in vocabulary.split(text)} - {*known}
    assert not missing
    assert vocabulary.split("A 63-year-old's H&E slide: T1 (x-ray).") == [
        "a", "63", "-", "year-old", "'", "s", "h&e", "slide", ":", "t1", "(", "x-ray", ")", ".",
    ]  # fmt: skip


def test_phantom_mbiil8_has_the_published_order_and_is_small() -> None:
    recipe = catalog.load("phantom_mbiil8", Path())
    assert [task.name for task in recipe.stream] == [
        "pathology_questions", "radiology_questions", "dermatology_questions", "pathology_classes",
        "radiology_classes", "dermatology_classes", "pathology_reports", "radiology_reports",
    ]  # fmt: skip
    assert all(task.name.startswith(task.modality) and task.kind == "generation" for task in recipe.stream)
    assert len(recipe.orders) == 2 and len({source.options["seed"] for source in recipe.sources}) == 8
    assert {tuple(phantoms.options(s)["sizes"].values()) for s in recipe.sources} == {(384, 48, 192)}
    assert [phantoms.facts(source) is not None for source in recipe.sources] == [False] * 6 + [True] * 2
    closed = [{closed for *_, closed in spoken_in(f"phantom_mbiil8/{task.name}")["test"]} for task in recipe.stream]
    assert closed == [{True, False}] * 3 + [{True}] * 3 + [{False}] * 2


def test_levels_keep_their_distance_and_have_the_words_of_captions() -> None:
    for generator in phantom.GENERATORS:
        for factor, words in phantom.generator(generator).FACTORS.items():
            for level, bounds in questions.LEVELS.items():
                assert {words.phrase(value) for value in bounds} == {questions.words_of(generator, factor, level)}
    assert reports.ALWAYS < reports.MOST


@pytest.mark.parametrize(
    ("task", "digest"),
    [
        ("smoke_generation/slide_questions", "6c759d79acc7"),
        ("smoke_generation/film_reports", "08accf4b32cf"),
        ("smoke_mixed/skin_questions", "ec622ca35a1b"),
        ("phantom_mbiil8/dermatology_questions", "319a8db6b6c7"),
        ("phantom_mbiil8/dermatology_classes", "578883a60a57"),
        ("phantom_mbiil8/radiology_reports", "705a26f2d03a"),
    ],
)
def test_what_is_said_is_pinned(task: str, digest: str) -> None:
    """Where it changes raise ``talk.VERSION``: records name it."""
    about = talking.talk_of(TALKING[task], phantoms.options(TALKING[task]))
    said = [
        (*turn[:3], {factor: round(value, 6) for factor, value in sorted(turn.factors.items())})
        for split in range(3)
        for turn in about.turns(split, 8)
    ]
    assert talk.VERSION == 1
    assert hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12] == digest
