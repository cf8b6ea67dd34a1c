"""Made tasks: their samples, notes, captions and shifts, identities, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.data import catalog, phantom, sources
from benchmark.data.catalog import Source
from benchmark.data.phantom import captions, notes, shifts
from benchmark.errors import UserError
from tests.source_files import WHERE

SENTENCES = ["Fever since Monday.", "Coughs."]
REGION = {"gland_size": [0.05, 0.3]}
FUSION = {"generator": "histopathology", "seed": 3, "sizes": {"train": 12, "val": 2, "test": 4}}
FUSION |= {"regions": [REGION, REGION], "notes": [SENTENCES, ["No fever."]]}
RETRIEVAL = {"generator": "oct", "seed": 3, "captions": 2, "sizes": {"train": 9, "val": 2, "test": 4}}
CLASSES = ("a", "b")


def fusion(**options: Any) -> Source:
    return Source(WHERE, "phantom", CLASSES, FUSION | options, "fusion")


def retrieval(**options: Any) -> Source:
    return Source(WHERE, "phantom", (), RETRIEVAL | options, "retrieval")


def test_a_made_task_has_its_sizes_classes_in_turn_and_three_different_splits() -> None:
    source = catalog.load("smoke", Path()).sources[0]
    splits = {split: sources.load(source, split) for split in sources.SPLITS}
    assert {split: len(s.labels) for split, s in splits.items()} == {"train": 16, "val": 8, "test": 8}
    assert all(s.labels.tolist() == [i % 4 for i in range(len(s.labels))] for s in splits.values())
    images = [image.tobytes() for s in splits.values() for image in s.images]
    assert len(set(images)) == 32


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


def test_a_shifted_task_is_the_shifted_images_and_another_identity() -> None:
    plain = catalog.load("phantom_domain6", Path()).sources[0]
    shifted = Source(WHERE, "phantom", plain.classes, {**plain.options, "shift": {"noise": 0.5}})
    before, after = (sources.load(source, "val") for source in (plain, shifted))
    seed = [phantom.VERSION, plain.options["seed"], 1]
    expected = [shifts.shifted(image, {"noise": 0.5}, [*seed, i]) for i, image in enumerate(before.images)]
    assert np.array_equal(after.images, np.stack(expected)) and np.array_equal(after.labels, before.labels)
    assert sources.identity(plain) != sources.identity(shifted)


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
