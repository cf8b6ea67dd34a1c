"""The shipped streams and cards, and the examples of the datasets' README."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import yaml
from numpy.typing import NDArray

from benchmark.compare import choice
from benchmark.data import catalog, phantom, sources, task_keys
from benchmark.data.catalog import Source
from benchmark.data.sources import phantoms
from tests.source_files import stream_file

SHIPPED = {
    "phantom8": (8, 32), "phantom20": (20, 80), "smoke": (2, 8),
    "medical10": (10, 43), "mbiil_cls": (4, 14), "medmnist12": (12, 80), "cifar100_10": (10, 100),
    "medmnist12_64": (12, 80), "medmnist12_128": (12, 80), "medmnist12_224": (12, 80),
    "smoke_fusion": (2, 8), "phantom_notes6": (6, 24), "mbiil_vqa": (2, 4), "phantom_domain6": (6, 4),
    "smoke_retrieval": (2, 0), "phantom_retrieval6": (6, 0), "mbiil_reports": (2, 0), "covid_notes3": (3, 0),
    "phantom_tune4": (4, 16), "phantom_tune_notes3": (3, 12), "phantom_tune_retrieval3": (3, 0),
    "phantom_tune_mbiil4": (4, 0), "smoke_generation": (2, 0),
    "smoke_mixed": (4, 6), "phantom_mbiil8": (8, 0), "mbiil8": (8, 0),
}  # fmt: skip


def test_every_shipped_stream_is_tested_here() -> None:
    assert catalog.names("streams") == sorted(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_streams_load(name: str, data: Path) -> None:
    recipe = catalog.load(name, data)
    tasks, labels = SHIPPED[name]
    assert (recipe.stream.name, len(recipe.stream), len(recipe.sources)) == (name, tasks, tasks)
    assert [label.id for label in recipe.stream.labels()] == list(range(labels))
    assert recipe.orders[0] == tuple(range(tasks))
    assert all(label.name in prompt for label in recipe.stream.labels() for prompt in label.prompts)
    assert recipe.description


def test_phantom8_is_the_published_pattern_and_shares_inside_a_modality() -> None:
    recipe = catalog.load("phantom8", Path())
    pattern = ["pathology", "radiology", "dermatology"]
    assert [task.modality for task in recipe.stream] == (pattern * 3)[:8]
    assert [len(task.labels) for task in recipe.stream] == [4] * 8
    assert phantoms.SIZES == {"train": 512, "val": 64, "test": 256}
    assert not any("sizes" in source.options for source in recipe.sources)
    for modality in {task.modality for task in recipe.stream}:
        bounded = [
            (source.options["generator"], factor)
            for task, source in zip(recipe.stream, recipe.sources, strict=True)
            if task.modality == modality
            for factor in source.options["regions"][0]
        ]
        assert len(set(bounded)) < len(bounded)


@pytest.mark.parametrize("name", ["phantom8", "phantom20", "smoke"])
def test_made_tasks_of_a_shipped_stream_have_seeds_and_disjoint_regions_of_their_own(name: str) -> None:
    options = [source.options for source in catalog.load(name, Path()).sources]
    assert len({o["seed"] for o in options}) == len(options)
    for o in options:
        for i, one in enumerate(o["regions"]):
            for other in o["regions"][:i]:
                assert any(one[f][0] > other[f][1] or other[f][0] > one[f][1] for f in one.keys() & other.keys())


@pytest.mark.parametrize("card", catalog.names("cards"))
def test_a_card_is_a_task_and_tells_where_it_comes_from(card: str, data: Path, tmp_path: Path) -> None:
    content = yaml.safe_load((catalog.root() / "cards" / f"{card}.yaml").read_text(encoding="utf-8"))
    one_file = content["source"] in ("npz", "medmnist")
    optional = ("homepage", "notes") if one_file else ("notes", "md5")
    told = {key: content.get(key) for key in task_keys.CARD_KEYS if key not in optional}
    assert all(isinstance(value, str) and value for value in told.values()), told
    assert not one_file or (len(content["md5"]) == 32 and set(content["md5"]) <= set("0123456789abcdef"))
    assert content["name"] == card
    recipe = catalog.load(stream_file(tmp_path, {"name": "one", "tasks": [{"card": card}]}), data)
    assert recipe.stream.tasks[0].name == card
    if "path" in content:
        assert recipe.sources[0].options["path"] == data / content["path"]


def test_no_python_below_datasets() -> None:
    checkout = Path(__file__).resolve().parents[2] / "datasets"
    assert {file.suffix for file in checkout.rglob("*") if file.is_file()} == {".yaml", ".md", ".png"}


def test_mbiil8_has_the_published_tasks_and_modalities(data: Path) -> None:
    recipe = catalog.load("mbiil8", data)
    made = catalog.load("phantom_mbiil8", data)
    assert [task.modality for task in recipe.stream] == [task.modality for task in made.stream]
    folders = ["PathVQA", "Slake-VQARad", "Fitzpatrick", "PCam", "CXP", "HAM", "WSI-DX", "IU-X-Ray"]
    for source, folder in zip(recipe.sources, folders, strict=True):
        place = data / "MSLoRA_CR" / folder
        named = {"train": place / "train.json", "test": place / "test.jsonl", "images": place}
        assert source.kind == "llava" and source.options == named
    assert "identity" in recipe.description and recipe.orders == made.orders


def in_the_readme(kind: type) -> list[Any]:
    """Its YAML: whole streams and fragments of tasks (dict), lists of tasks (list)."""
    text = (Path(__file__).resolve().parents[2] / "datasets" / "README.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block.split("```")[0]) for block in text.split("```yaml\n")[1:]]
    return [block for block in blocks if isinstance(block, kind)]


def test_the_stream_written_out_in_the_readme_loads(data: Path, tmp_path: Path) -> None:
    (content,) = [block for block in in_the_readme(dict) if block.get("name") == "mine"]
    (data / "lung_tissue.npz").touch()
    recipe = catalog.load(stream_file(tmp_path, content), data)
    assert [task.name for task in recipe.stream] == ["lung_tissue", "breast", "made_nuclei"]
    assert recipe.orders == ((0, 1, 2), (2, 0, 1))
    assert sources.load(recipe.sources[2], "val").images.shape[0] == 32


def test_the_folder_and_the_tables_of_the_readme_load(data: Path, tmp_path: Path) -> None:
    for file in ("ham/metadata.csv", "signs/questions.csv", "pathvqa/train.json", "pathvqa/test.jsonl"):
        (data / file).parent.mkdir(exist_ok=True)
        (data / file).touch()
    (data / "pathvqa" / "images").mkdir()
    recipes = [
        catalog.load(stream_file(tmp_path, {"name": "s", "tasks": tasks}), data) for tasks in in_the_readme(list)
    ]
    assert [(recipe.sources[0].kind, *recipe.stream.kinds) for recipe in recipes] == [
        ("folder", "classification"), ("table", "classification"), ("table", "retrieval"), ("table", "generation"),
        ("llava", "generation"),
    ]  # fmt: skip


def test_the_parts_of_made_tasks_in_the_readme_load(tmp_path: Path) -> None:
    parts = {kind: part for part in in_the_readme(dict) for kind in ("notes", "captions") if kind in part}
    made = {"name": "t", "modality": "m", "source": "phantom", "seed": 1, "sizes": {"train": 8, "val": 4, "test": 4}}
    note = made | parts["notes"] | {"kind": "fusion", "generator": "xray", "classes": list("abcd"), "template": "{}"}
    for task in (note, made | parts["captions"] | {"generator": "oct"}):
        (source,) = catalog.load(stream_file(tmp_path, {"name": "s", "tasks": [task]}), tmp_path).sources
        assert len(sources.load(source, "train").images) == 8


def test_the_tasks_in_words_of_the_readme_load(tmp_path: Path) -> None:
    made = {"name": "t", "modality": "m", "source": "phantom", "generator": "histopathology", "seed": 1}
    spoken = [block for block in in_the_readme(dict) if "talk" in block]
    assert [block["talk"] for block in spoken] == [["closed", "open", "closed", "list"], "classes"]
    for block in spoken:
        task = made | block | {"sizes": {"train": 8, "val": 8, "test": 8}}
        (source,) = catalog.load(stream_file(tmp_path, {"name": "s", "tasks": [task]}), tmp_path).sources
        assert len(phantoms.dialogue(source)["train"]) == 8


CONTEXT = 48  # tokens the default backbone reads, with the start and end marks


def tokens(texts: list[str]) -> int:
    """How many tokens the longest has, start and end marks included, none cut off."""
    rows = open_clip.SimpleTokenizer(context_length=200)(texts)
    return int((rows != 0).sum(dim=1).max())


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


OF_TWO_FACTORS = ("phantom8", "phantom20", "smoke")


def test_class_names_of_the_shipped_streams_say_what_their_regions_draw() -> None:
    """The first factor as a caption would; the second by a clinical term, one for low and one for high values."""
    for stream in OF_TWO_FACTORS:
        recipe = catalog.load(stream, Path())
        for task, source in zip(recipe.stream, recipe.sources, strict=True):
            module, terms = phantom.generator(source.options["generator"]), {}
            for label, region in zip(task.labels, source.options["regions"], strict=True):
                (first, interval), (second, second_interval) = region.items()
                told, term = label.name.split(", ")
                for value in interval:
                    assert told == module.FACTORS[first].phrase(value), source.where
                assert terms.setdefault((second, tuple(second_interval)), term) == term, source.where
                assert all(module.NAME in prompt for prompt in label.prompts), source.where
            assert len(set(terms.values())) == len(terms) == 2, source.where


def test_only_what_has_sides_or_text_is_kept_from_the_mirror(data: Path) -> None:
    """Chest and organs, questions, notes and reports; of the made tasks none."""
    cards = {
        name: yaml.safe_load((catalog.root() / "cards" / f"{name}.yaml").read_text()) for name in catalog.names("cards")
    }
    sided = {name for name, content in cards.items() if not content.get("mirror", True)}
    words = ("chest", "organ", "question", "left")
    assert {name for name, c in cards.items() if any(w in str(c.get("template", "")) for w in words)} <= sided
    assert sided >= {"covid_cxr_notes", "iu_xray_reports"} and not sided & {"ham10000", "retinamnist", "pcam"}
    kept = {name: [task.name for task in catalog.load(name, data).stream if not task.mirror] for name in SHIPPED}
    assert kept["medical10"] == ["pneumonia", "sars_cov2_ct", "iqoth_lung_ct"] and len(kept["covid_notes3"]) == 3
    assert not any(tasks for name, tasks in kept.items() if name.startswith(("phantom", "smoke")))


def made_of(names: list[str]) -> dict[str, set[Any]]:
    """What tells the classes and the images of made streams apart, over all of them."""
    found: dict[str, set[Any]] = {name: set() for name in ("seeds", "regions", "labels", "prompts", "sentences")}
    for recipe in (catalog.load(name, None) for name in names):
        for task, source in zip(recipe.stream, recipe.sources, strict=True):
            options = source.options if source.kind == "phantom" else {}
            found["seeds"] |= {options[key] for key in ("seed",) if key in options}
            for region in options.get("regions", ()):
                bounds = tuple(sorted((factor, tuple(ends)) for factor, ends in region.items()))
                found["regions"].add((options["generator"], bounds))
            found["labels"] |= {label.name for label in task.labels}
            found["prompts"] |= {prompt for label in task.labels for prompt in label.prompts}
            found["sentences"] |= {text for texts in options.get("notes", ()) for text in texts}
    return found


def first(source: Source, count: int) -> NDArray[np.uint8]:
    """The first images of a training set, which do not depend on how many there are."""
    few = replace(source, options={**source.options, "sizes": {"train": count, "val": 4, "test": 4}})
    return sources.load(few, "train").images


def test_streams_to_tune_on_share_no_class_and_no_image_with_a_ranked_one() -> None:
    """Images of other seeds are other images: a sample is a pure function of seed, split and number."""
    every = {name: catalog.load(name, None).ranked for name in catalog.names("streams")}
    tuning = [name for name in every if not every[name]]
    assert set(tuning) == set(choice.STREAMS.values())
    ranked, own = made_of([name for name in every if every[name]]), made_of(tuning)
    assert all(own[what] and ranked[what] for what in own)
    assert {what: own[what] & ranked[what] for what in own} == {what: set() for what in own}
    images = [
        {image.tobytes() for source in catalog.load(name, None).sources for image in first(source, 8)}
        for name in ("phantom_tune4", "phantom8", "phantom_tune_retrieval3", "phantom_retrieval6")
    ]
    assert len(set().union(*images)) == sum(map(len, images)) == 8 * (4 + 8 + 3 + 6)
    for name in tuning:
        assert all(source.options["sizes"]["train"] <= 96 for source in catalog.load(name, None).sources)
        assert not catalog.load(name, None).orders[1:]
