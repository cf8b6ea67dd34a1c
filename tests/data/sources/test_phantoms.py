"""Made notes, captions and domain shifts, and the shipped streams that are made of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data import catalog, phantom, phantoms, sources
from benchmark.data.catalog import Source
from benchmark.data.phantom import captions, notes, shifts, synonyms
from benchmark.errors import UserError

CONTEXT = 48  # tokens the default backbone reads, with the start and end marks
WHERE = "s.yaml: tasks[0]"
SENTENCES = ["Fever since Monday.", "Coughs."]
REGION = {"gland_size": [0.05, 0.3]}
FUSION = {"generator": "histopathology", "seed": 3, "sizes": {"train": 12, "val": 2, "test": 4}}
FUSION |= {"regions": [REGION, REGION], "notes": [SENTENCES, ["No fever."]]}
RETRIEVAL = {"generator": "oct", "seed": 3, "captions": 2, "sizes": {"train": 9, "val": 2, "test": 4}}
CLASSES = ("a", "b")
every_generator = pytest.mark.parametrize("name", phantom.GENERATORS)


def fusion(**options: Any) -> Source:
    return Source(WHERE, "phantom", CLASSES, FUSION | options, "fusion")


def retrieval(**options: Any) -> Source:
    return Source(WHERE, "phantom", (), RETRIEVAL | options, "retrieval")


def tokens(texts: list[str]) -> int:
    """How many tokens the longest has, start and end marks included, none cut off."""
    rows = open_clip.SimpleTokenizer(context_length=200)(texts)
    return int((rows != 0).sum(dim=1).max())


# Notes


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


def test_a_fusion_task_pairs_every_image_with_its_note() -> None:
    source = fusion()
    train = sources.load(source, "train")
    assert train.labels.tolist() == [i % 2 for i in range(12)] and train.pairs is not None
    assert train.pairs[:, 0].tolist() == list(range(12))
    assert len(set(train.texts)) == len(train.texts)
    for (image, text), label in zip(train.pairs.tolist(), train.labels.tolist(), strict=True):
        assert train.texts[text] == notes.note(FUSION["notes"][label], [phantom.VERSION, 3, 0, image])  # type: ignore[index]
    plain = Source(WHERE, "phantom", CLASSES, {k: v for k, v in FUSION.items() if k != "notes"})
    assert np.array_equal(train.images, sources.load(plain, "train").images)
    assert not set(train.texts) & set(sources.load(source, "test").texts)
    longer = sources.load(fusion(sizes={"train": 20}), "train")
    assert longer.pairs is not None
    assert [longer.texts[t] for t in longer.pairs[:12, 1]] == [train.texts[t] for t in train.pairs[:, 1]]


# Captions


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


def phrases(name: str, factors: dict[str, float], wording: str) -> set[str]:
    """Everything that may be said of these factors."""
    found = set()
    for factor, words in phantom.generator(name).FACTORS.items():
        level = 0 if factors[factor] < 0.4 else 2 if factors[factor] > 0.6 else 1
        found |= {(words.low, words.middle, words.high)[level]}
        found |= {table[name][factor][level] for table in captions.WORDINGS[wording]}
    return found


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


def test_a_retrieval_task_has_several_captions_an_image_and_groups_what_shares_one() -> None:
    source = retrieval()
    train = sources.load(source, "train")
    assert train.pairs is not None and train.pairs[:, 0].tolist() == [i // 2 for i in range(18)]
    for image in range(9):
        seed = [phantom.VERSION, 3, 0, image]
        told = captions.captions("oct", phantom.factors_of("oct", {}, seed), seed, 2, "both")
        assert [train.texts[t] for i, t in train.pairs.tolist() if i == image] == told
    assert train.labels.tolist() == train.pairs[:, 0].tolist()


def test_texts_that_are_equal_by_chance_are_one_text_of_several_images(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([["x", "y"], ["z", "v"], ["y", "u"]])
    monkeypatch.setattr(captions, "captions", lambda *_: next(told))
    train = sources.load(retrieval(sizes={"train": 3}), "train")
    assert train.texts == ("x", "y", "z", "v", "u") and train.pairs is not None
    assert train.pairs.tolist() == [[0, 0], [0, 1], [1, 2], [1, 3], [2, 1], [2, 4]]
    assert train.labels.tolist() == [0, 0, 1, 1, 0, 0]


def test_a_region_confines_the_factors_of_a_retrieval_task() -> None:
    narrow = retrieval(region={"fluid": [0.7, 0.9]}, sizes={"train": 30}, captions=4)
    told = sources.load(narrow, "train").texts
    fluid = phantom.generator("oct").FACTORS["fluid"]
    assert any(fluid.high in text for text in told) and not any(fluid.low in text for text in told)


# Shifts

IMAGE = phantom.generator("histopathology").render(
    dict.fromkeys(phantom.generator("histopathology").FACTORS, 0.5), np.random.default_rng(0), 64
)


@pytest.mark.parametrize("kind", shifts.KINDS)
def test_a_shift_is_deterministic_grows_and_is_nothing_at_zero(kind: str) -> None:
    def away(strength: float) -> float:
        return float(np.abs(shifts.shifted(IMAGE, {kind: strength}, [1]).astype(int) - IMAGE).mean())

    assert np.array_equal(shifts.shifted(IMAGE, {kind: 0.0}, [1]), IMAGE)
    assert 0 < away(0.1) < away(0.4) < away(1.0) and away(1.0) > 15
    one, again, other = (shifts.shifted(IMAGE, {kind: 0.8}, [seed]) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert one.shape == IMAGE.shape and one.dtype == np.uint8
    small = IMAGE[:42, :42]  # not a multiple of the blocks of compression
    assert shifts.shifted(small, {kind: 0.8}, [1]).shape == small.shape


def test_the_order_in_which_shifts_are_named_does_not_matter() -> None:
    one = shifts.shifted(IMAGE, {"noise": 0.3, "stain": 0.6, "scanner": 0.2}, [4])
    assert np.array_equal(one, shifts.shifted(IMAGE, {"scanner": 0.2, "noise": 0.3, "stain": 0.6}, [4]))


def test_a_full_change_of_stain_moves_the_channels_on_and_keeps_grey() -> None:
    image = np.full((8, 8, 3), (200, 120, 60), np.uint8)
    turned = shifts.shifted(image, {"stain": 1.0}, [3]).astype(int)
    distances = [np.abs(turned - image[..., np.roll(range(3), k)]).max() for k in range(3)]
    assert min(distances) < 25 < sorted(distances)[1]
    grey = np.full((8, 8, 3), 90, np.uint8)
    assert np.abs(shifts.shifted(grey, {"stain": 0.7}, [3]).astype(int) - 90).max() <= 1


def test_a_shifted_task_is_the_shifted_images_and_another_identity() -> None:
    plain = catalog.load("phantom_domain6", Path()).sources[0]
    shifted = Source(WHERE, "phantom", plain.classes, {**plain.options, "shift": {"noise": 0.5}})
    before, after = (sources.load(source, "val") for source in (plain, shifted))
    seed = [phantom.VERSION, plain.options["seed"], 1]
    expected = [shifts.shifted(image, {"noise": 0.5}, [*seed, i]) for i, image in enumerate(before.images)]
    assert np.array_equal(after.images, np.stack(expected)) and np.array_equal(after.labels, before.labels)
    assert sources.identity(plain) != sources.identity(shifted)


# Identities and what is refused


def test_identities_change_with_what_is_said_and_not_without(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        sources.identity(source)
        for source in (
            fusion(), fusion(notes=[SENTENCES, ["Fever."]]), fusion(seed=4), fusion(shift={"noise": 0.5}),
            retrieval(), retrieval(captions=3), retrieval(wording="plain"), retrieval(region={"fluid": [0.1, 0.2]}),
        )
    }  # fmt: skip
    assert len(told) == 8
    plain = catalog.load("smoke", Path()).sources[0]
    before = sources.identity(plain), sources.identity(fusion()), sources.identity(retrieval())
    for part in (notes, captions, shifts):
        monkeypatch.setattr(part, "VERSION", 99)
    after = sources.identity(plain), sources.identity(fusion()), sources.identity(retrieval())
    assert before[0] == after[0] and before[1] != after[1] and before[2] != after[2]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (fusion(notes=None), (".notes", "each of the 2 classes")),
        (fusion(notes=[SENTENCES]), (".notes", "each of the 2 classes")),
        (fusion(notes=[SENTENCES, []]), (".notes[1]", "list of sentences", "[]")),
        (fusion(notes=[SENTENCES, "Fever."]), (".notes[1]", "list of sentences", "'Fever.'")),
        (fusion(notes=[SENTENCES, [" "]]), (".notes[1]", "list of sentences")),
        (fusion(notes=[SENTENCES, ["word " * 15]]), (".notes[1]", "more than 14 words")),
        (fusion(captions=2), (".captions", "an option of retrieval tasks", "a fusion task")),
        (fusion(regions=[REGION]), (".regions", "2 classes")),
        (fusion(shift={}), (".shift", "kind: strength")),
        (fusion(shift={"stian": 0.5}), (".shift", "unknown shift 'stian'", "did you mean 'stain'?")),
        (fusion(shift={"stain": 1.5}), (".shift.stain", "[0, 1]", "1.5")),
        (fusion(shift={"stain": True}), (".shift.stain", "[0, 1]", "True")),
        (fusion(shift={"stain": float("nan")}), (".shift.stain", "[0, 1]", "nan")),
        (retrieval(captions=None), (".captions", "1 to 8", "None")),
        (retrieval(captions=0), (".captions", "1 to 8", "0")),
        (retrieval(captions=9), (".captions", "1 to 8", "9")),
        (retrieval(wording="clinial"), ("unknown wording 'clinial'", "did you mean 'clinical'?")),
        (retrieval(region={"fluidd": [0, 1]}), (".region", "unknown factor 'fluidd'", "did you mean 'fluid'?")),
        (retrieval(region={"fluid": [1, 0]}), (".region.fluid", "[low, high]")),
        (retrieval(regions=[REGION]), (".regions", "a retrieval task")),
        (retrieval(notes=[]), (".notes", "an option of fusion tasks", "a retrieval task")),
        (retrieval(sizes={"train": 0}), (".sizes.train", "at least 1", "0")),
    ],
)
def test_wrong_options_are_refused_in_one_line(source: Source, says: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        sources.identity(source)
    message = str(error.value)
    assert message.startswith(WHERE) and "\n" not in message and all(part in message for part in says), message


# The shipped streams


@pytest.mark.parametrize("name", ["smoke_fusion", "phantom_notes6"])
def test_neither_modality_of_a_shipped_fusion_task_tells_more_than_half(name: str) -> None:
    """Two classes for each region of the image and two for each list of sentences."""
    recipe = catalog.load(name, Path())
    assert len({source.options["seed"] for source in recipe.sources}) == len(recipe.sources)
    for task, source in zip(recipe.stream, recipe.sources, strict=True):
        regions, told = ([repr(entry) for entry in source.options[key]] for key in ("regions", "notes"))
        assert set(Counter(regions).values()) == set(Counter(told).values()) == {2} and len(task.labels) == 4
        assert len(set(zip(regions, told, strict=True))) == 4
        sentences = [sentence for part in source.options["notes"][:2] for sentence in part]
        assert len(set(sentences)) == len(sentences)
        texts = list(sources.load(source, "val").texts)
        assert tokens(texts) <= CONTEXT and max(len(text.split()) for text in texts) <= 35


@pytest.mark.parametrize("name", ["phantom_notes6", "phantom_retrieval6", "phantom_domain6"])
def test_streams_of_six_are_small_and_have_three_orders(name: str) -> None:
    recipe = catalog.load(name, Path())
    assert len(recipe.stream) == 6 and len(recipe.orders) == 3
    modalities = Counter(task.modality for task in recipe.stream)
    assert sorted(modalities.values()) == ([6] if name == "phantom_domain6" else [2, 2, 2])
    for source in recipe.sources:
        assert phantoms.options(source)["sizes"] == {
            "train": 384,
            "val": 64,
            "test": 96 if source.task_kind == "retrieval" else 192,
        }


def test_the_domains_have_the_same_classes_and_differ_by_their_shift() -> None:
    recipe = catalog.load("phantom_domain6", Path())
    assert recipe.stream.label_space == "shared" and len(recipe.stream.labels()) == 4
    kinds = [tuple(source.options.get("shift", {})) for source in recipe.sources]
    assert Counter(kinds) == {(): 1, ("stain",): 2, ("scanner",): 2, ("noise",): 1}
    assert len({repr(source.options["regions"]) for source in recipe.sources}) == 1
    assert len({source.options["seed"] for source in recipe.sources}) == 6


def test_the_two_tasks_of_a_retrieval_modality_differ_in_wording() -> None:
    recipe = catalog.load("phantom_retrieval6", Path())
    told = {(task.modality, s.options["wording"]) for task, s in zip(recipe.stream, recipe.sources, strict=True)}
    assert len(told) == 6 and {wording for _, wording in told} == {"clinical", "plain"}
    assert all(task.labels == () for task in recipe.stream)


def test_pretraining_is_not_changed_by_these_streams() -> None:
    """The shipped backbone was trained with the regions of the three classification streams alone."""
    from benchmark import pretrain

    expected = sum(len(s.options["regions"]) for n in ("phantom8", "phantom20", "smoke") for s in load(n))
    assert sum(map(len, pretrain.forbidden().values())) == expected == 120


def load(name: str) -> tuple[Source, ...]:
    return catalog.load(name, None).sources
