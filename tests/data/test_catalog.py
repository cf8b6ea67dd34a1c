"""Streams as values, stream files and cards: what loads, what is refused and how that is said."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data import catalog, phantoms, sources
from benchmark.errors import UserError
from benchmark.stream import Label, Stream, Task

REGIONS = [{"lesion_size": [0.05, 0.4]}, {"lesion_size": [0.6, 0.95]}]
TASK = {
    "name": "liver",
    "modality": "ct",
    "source": "phantom",
    "generator": "ct",
    "seed": 5,
    "classes": ["small lesions", "large lesions"],
    "regions": REGIONS,
    "template": "an abdominal CT slice with {}.",
}
AGAIN = deepcopy(TASK) | {"name": "again", "seed": 6, "classes": ["a", "b"]}
TWO = {"name": "two", "version": 3, "tasks": [TASK, AGAIN]}
SHIPPED = {
    "phantom8": (8, 32), "phantom20": (20, 80), "smoke": (2, 8),
    "medical10": (10, 43), "mbiil_cls": (4, 14), "medmnist12": (12, 80),
    "smoke_fusion": (2, 8), "phantom_notes6": (6, 24), "mbiil_vqa": (2, 4), "phantom_domain6": (6, 4),
    "smoke_retrieval": (2, 0), "phantom_retrieval6": (6, 0), "mbiil_reports": (2, 0), "covid_notes3": (3, 0),
}  # fmt: skip


def write(folder: Path, content: Any, name: str = "stream.yaml") -> str:
    file = folder / name
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(file)


def changed(content: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A copy with the value at a place like ``tasks.0.seed`` set, or deleted where the value is ``...``."""
    content = deepcopy(content)
    *way, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    at: Any = content
    for key in way:
        at = at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return content


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder in which every file that a card names is there (empty: the catalog does not read them)."""
    folder = tmp_path / "images"
    folder.mkdir()
    for card in catalog.names("cards"):
        content = yaml.safe_load((catalog.root() / "cards" / f"{card}.yaml").read_text())
        if content["source"] == "folder":
            (folder / content["path"]).mkdir()
        elif "path" in content:
            (folder / content["path"]).parent.mkdir(exist_ok=True)
            (folder / content["path"]).touch()
    return folder


# Streams as values


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    sizes = draw(st.lists(st.integers(2, 4), min_size=1, max_size=6))
    ids = iter(range(sum(sizes)))
    tasks = []
    for index, size in enumerate(sizes):
        labels = tuple(Label(i, f"class {i}", (f"a {i}",)) for i in (next(ids) for _ in range(size)))
        tasks.append(Task(index, f"task {index}", "ct", "classification", labels, len(sizes)))
    return Stream("made", 1, "classification", "own", tuple(tasks))


@given(streams(), st.data())
def test_reordered_moves_tasks_and_keeps_label_ids(stream: Stream, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(stream))))
    moved = stream.reordered(order)
    assert [task.index for task in moved] == list(range(len(stream)))
    assert [task.name for task in moved] == [stream.tasks[old].name for old in order]
    assert [task.labels for task in moved] == [stream.tasks[old].labels for old in order]
    assert {task.of for task in moved} == {len(stream)}
    assert moved.labels() == stream.labels()
    back = [order.index(i) for i in range(len(order))]
    assert moved.reordered(back) == stream


@given(streams(), st.lists(st.integers(-1, 6), max_size=6))
def test_only_a_permutation_reorders(stream: Stream, order: list[int]) -> None:
    if sorted(order) == list(range(len(stream))):
        assert len(stream.reordered(order)) == len(stream)
    else:
        with pytest.raises(ValueError, match=r"no permutation of 0\.\."):
            stream.reordered(order)


@given(streams(), st.integers(0, 7))
def test_slices_are_what_has_been_seen(stream: Stream, k: int) -> None:
    seen = stream[:k]
    assert tuple(seen) == stream.tasks[:k] and seen.name == stream.name
    assert [label.id for label in seen.labels()] == list(range(sum(len(task.labels) for task in stream.tasks[:k])))


# What is shipped


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
    told = {key: content.get(key) for key in catalog.CARD_KEYS if key not in optional}
    assert all(isinstance(value, str) and value for value in told.values()), told
    assert not one_file or (len(content["md5"]) == 32 and set(content["md5"]) <= set("0123456789abcdef"))
    assert content["name"] == card
    recipe = catalog.load(write(tmp_path, {"name": "one", "tasks": [{"card": card}]}), data)
    assert recipe.stream.tasks[0].name == card
    if "path" in content:
        assert recipe.sources[0].options["path"] == data / content["path"]


def test_no_python_below_datasets() -> None:
    checkout = Path(__file__).resolve().parents[2] / "datasets"
    assert {file.suffix for file in checkout.rglob("*") if file.is_file()} == {".yaml", ".md"}


def in_the_readme(kind: type) -> list[Any]:
    """Its YAML: whole streams and fragments of tasks (dict), lists of tasks (list)."""
    text = (Path(__file__).resolve().parents[2] / "datasets" / "README.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block.split("```")[0]) for block in text.split("```yaml\n")[1:]]
    return [block for block in blocks if isinstance(block, kind)]


def test_the_stream_written_out_in_the_readme_loads(data: Path, tmp_path: Path) -> None:
    (content,) = [block for block in in_the_readme(dict) if "tasks" in block]
    (data / "lung_tissue.npz").touch()
    recipe = catalog.load(write(tmp_path, content), data)
    assert [task.name for task in recipe.stream] == ["lung_tissue", "breast", "made_nuclei"]
    assert recipe.orders == ((0, 1, 2), (2, 0, 1))
    assert sources.load(recipe.sources[2], "val").images.shape[0] == 32


def test_the_folder_and_the_tables_of_the_readme_load(data: Path, tmp_path: Path) -> None:
    (data / "ham").mkdir()
    (data / "ham" / "metadata.csv").touch()
    recipes = [catalog.load(write(tmp_path, {"name": "s", "tasks": tasks}), data) for tasks in in_the_readme(list)]
    assert [recipe.sources[0].kind for recipe in recipes] == ["folder", "table", "table"]
    assert [recipe.stream.kind for recipe in recipes] == ["classification", "classification", "retrieval"]


def test_the_parts_of_made_tasks_in_the_readme_load(tmp_path: Path) -> None:
    parts = {kind: part for part in in_the_readme(dict) for kind in ("notes", "captions") if kind in part}
    made = {"name": "t", "modality": "m", "source": "phantom", "seed": 1, "sizes": {"train": 8, "val": 4, "test": 4}}
    note = made | parts["notes"] | {"kind": "fusion", "generator": "xray", "classes": list("abcd"), "template": "{}"}
    for task in (note, made | parts["captions"] | {"generator": "oct"}):
        (source,) = catalog.load(write(tmp_path, {"name": "s", "tasks": [task]}), tmp_path).sources
        assert len(sources.load(source, "train").images) == 8


# What a file says


def test_a_stream_by_its_path(tmp_path: Path) -> None:
    recipe = catalog.load(write(tmp_path, TWO), tmp_path)
    stream = recipe.stream
    assert (stream.name, stream.version, stream.kind, stream.label_space) == ("two", 3, "classification", "own")
    assert [label.id for task in stream for label in task.labels] == [0, 1, 2, 3]
    assert stream.tasks[0].labels[1] == Label(1, "large lesions", ("an abdominal CT slice with large lesions.",))
    assert recipe.sources[1].where == f"{recipe.file}: tasks[1]"


def test_several_templates_are_several_prompts(tmp_path: Path) -> None:
    content = changed(TWO, "tasks.0.template", ["CT: {}.", "{}, a slice"])
    label = catalog.load(write(tmp_path, content), tmp_path).stream.tasks[0].labels[0]
    assert label.prompts == ("CT: small lesions.", "small lesions, a slice")


def test_shared_label_space_numbers_the_classes_once(tmp_path: Path) -> None:
    content = changed(TWO, "tasks.1.classes", TASK["classes"]) | {"label_space": "shared"}
    stream = catalog.load(write(tmp_path, content), tmp_path).stream
    assert stream.tasks[0].labels == stream.tasks[1].labels
    assert [label.id for label in stream.labels()] == [0, 1]
    assert stream.reordered([1, 0]).labels() == stream.labels()


def test_keys_given_beside_a_card_override_it(data: Path, tmp_path: Path) -> None:
    task = {"card": "breastmnist", "name": "mine", "classes": ["bad", "good"], "template": "{}!", "path": "other.npz"}
    (data / "other.npz").touch()
    recipe = catalog.load(write(tmp_path, {"name": "one", "tasks": [task]}), data)
    made = recipe.stream.tasks[0]
    assert (made.name, made.modality) == ("mine", "ultrasound")
    assert [label.prompts for label in made.labels] == [("bad!",), ("good!",)]
    assert recipe.sources[0].options["path"] == data / "other.npz"


def test_relative_paths_are_looked_up_in_the_data_folder_then_beside_the_stream(tmp_path: Path) -> None:
    data, beside = tmp_path / "data", tmp_path / "streams"
    data.mkdir(), beside.mkdir()
    task = {"name": "t", "modality": "ct", "source": "npz", "path": "t.npz", "classes": ["a", "b"], "template": "{}"}
    file = write(beside, {"name": "one", "tasks": [task]})
    with pytest.raises(UserError) as error:
        catalog.load(file, data)
    assert str(error.value).startswith(f"{file}: tasks[0].path: file not found: {data / 't.npz'}")
    assert "DATA=" in str(error.value) and "--data" in str(error.value)
    for place in (beside / "t.npz", data / "t.npz"):  # the second is preferred once it is there
        place.touch()
        assert catalog.load(file, data).sources[0].options["path"] == place
    absolute = write(beside, {"name": "one", "tasks": [task | {"path": str(beside / "t.npz")}]})
    assert catalog.load(absolute, data).sources[0].options["path"] == beside / "t.npz"


def test_orders_are_the_listed_ones_then_seeded_permutations(tmp_path: Path) -> None:
    tasks = [TASK | {"name": f"t{i}", "seed": i} for i in range(6)]
    listed = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]
    recipe = catalog.load(write(tmp_path, {"name": "six", "tasks": tasks, "orders": listed}), tmp_path)
    unlisted = catalog.load(write(tmp_path, {"name": "six", "tasks": tasks}), tmp_path)
    assert [list(recipe.permutation(i)) for i in (0, 1)] == listed
    assert unlisted.permutation(0) == (0, 1, 2, 3, 4, 5)
    drawn = [recipe.permutation(i) for i in range(2, 40)]
    assert all(sorted(order) == list(range(6)) for order in drawn)
    assert len(set(drawn)) > 30
    assert drawn == [unlisted.permutation(i) for i in range(2, 40)]
    assert recipe.permutation(2) == (2, 5, 1, 3, 0, 4)  # the same on every machine and in every version


# What is refused: (place, value, what the message must contain besides the file)

WRONG: list[tuple[str, Any, tuple[str, ...]]] = [
    ("taks", [], ("unknown key 'taks'", "did you mean 'tasks'?")),
    ("tasks.0.templat", "x {}", ("tasks[0]", "unknown key 'templat'", "did you mean 'template'?")),
    ("tasks.1.path", "x.npz", ("tasks[1]", "unknown key 'path'")),
    ("name", ..., ("'name' is missing",)),
    ("name", 8, ("name", "expected text, got 8")),
    ("name", "a/b", ("name", "'a/b'")),
    ("version", "two", ("version", "whole number", "'two'")),
    ("version", True, ("version", "whole number", "True")),
    ("label_space", "share", ("unknown label_space 'share'", "did you mean 'shared'?")),
    ("label_space", "shared", ("label_space", "classes differ")),
    ("tasks", ..., ("tasks", "at least one task")),
    ("tasks", [], ("tasks", "at least one task")),
    ("tasks", "liver", ("tasks", "at least one task")),
    ("tasks.0", "liver", ("tasks[0]", "'liver'")),
    ("tasks.1.name", "liver", ("tasks", "'liver' stands twice")),
    ("tasks.0.name", "../liver", ("tasks[0].name", "'../liver'")),
    ("tasks.0.name", ..., ("tasks[0]", "'name' is missing")),
    ("tasks.0.modality", ..., ("tasks[0]", "'modality' is missing")),
    ("tasks.0.modality", 3, ("tasks[0].modality", "expected text, got 3")),
    ("tasks.0.kind", "clasification", ("tasks[0]", "unknown kind", "did you mean 'classification'?")),
    ("tasks.0.kind", "retrieval", ("tasks[0].classes", "a retrieval task has none")),
    ("tasks.0.source", "npz:", ("tasks[0]", "unknown source 'npz:'", "did you mean 'npz'?")),
    ("tasks.0.source", "my.module:load", ("tasks[0]", "unknown key 'generator'")),
    ("tasks.0.source", ..., ("tasks[0]", "'source' is missing", "npz", "phantom")),
    ("tasks.0.source", "phantoms", ("tasks[0]", "unknown source", "did you mean 'phantom'?")),
    ("tasks.0.source", ["npz"], ("tasks[0]", "unknown source")),
    ("tasks.0.card", "brestmnist", ("tasks[0]", "unknown card", "did you mean 'breastmnist'?")),
    ("tasks.0.classes", ..., ("tasks[0].classes", "list of texts")),
    ("tasks.0.classes", [1, 2], ("tasks[0].classes", "list of texts", "[1, 2]")),
    ("tasks.0.classes", ["a"], ("tasks[0].classes", "two different")),
    ("tasks.0.classes", ["a", "a"], ("tasks[0].classes", "two different")),
    ("tasks.0.template", ..., ("tasks[0].template", "list of texts")),
    ("tasks.0.template", "no place", ("tasks[0].template", "must contain {} once")),
    ("tasks.0.template", "{} and {}", ("tasks[0].template", "must contain {} once")),
    ("tasks.0.template", "{} of the {organ}", ("tasks[0].template", "no other braces")),
    ("tasks.0.template", "{} {0}", ("tasks[0].template", "no other braces")),
    ("orders", [[0, 0]], ("orders[0]", "no permutation of 0..1")),
    ("orders", [[0, 1], [1]], ("orders[1]", "no permutation of 0..1")),
    ("orders", [["0", "1"]], ("orders[0]", "no permutation of 0..1")),
    ("orders", [[False, True]], ("orders[0]", "no permutation of 0..1")),
    ("orders", [0, 1], ("orders[0]", "no permutation of 0..1")),
    ("orders", "01", ("orders", "list of orders")),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "says"), WRONG, ids=[f"{place}={value}" for place, value, _ in WRONG])
def test_a_wrong_stream_file_is_refused_in_one_line(
    place: str, value: Any, says: tuple[str, ...], tmp_path: Path
) -> None:
    file = write(tmp_path, changed(TWO, place, value))
    with pytest.raises(UserError) as error:
        catalog.load(file, tmp_path)
    message = str(error.value)
    assert message.startswith(file) and "\n" not in message
    assert all(part in message for part in says), message


@pytest.mark.parametrize(
    ("content", "says"),
    [("a: [1, 2", "not readable as YAML"), ("\x00", "not readable as YAML"), ("- a\n", "top level"), ("", "top level")],
)
def test_a_file_that_is_no_stream(content: str, says: str, tmp_path: Path) -> None:
    file = write(tmp_path, content)
    with pytest.raises(UserError, match=says) as error:
        catalog.load(file, tmp_path)
    assert str(error.value).startswith(file) and "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("none.yaml", "none.yml"):
        with pytest.raises(UserError, match="file not found") as error:
            catalog.load(str(tmp_path / name), tmp_path)
        assert str(error.value).startswith(str(tmp_path / name))


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: Ürin".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.yaml: not readable"):
        catalog.load(str(tmp_path / "latin.yaml"), tmp_path)


def test_an_unknown_stream_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown stream 'phantm8' \(did you mean 'phantom8'\?\)"):
        catalog.load("phantm8", tmp_path)
    with pytest.raises(UserError, match=r"unknown stream 'zzz' \(valid: covid_notes3, mbiil_cls, "):
        catalog.load("zzz", tmp_path)


# A phantom's options are checked where its samples are asked for

MADE: list[tuple[str, Any, tuple[str, ...]]] = [
    ("generator", "ctt", ("unknown generator 'ctt'", "did you mean 'ct'?")),
    ("generator", ..., ("unknown generator",)),
    ("seed", "five", (".seed", "whole number", "'five'")),
    ("seed", -1, (".seed", "whole number", "-1")),
    ("seed", True, (".seed", "whole number", "True")),
    ("seed", ..., (".seed", "whole number")),
    ("regions", REGIONS[:1], (".regions", "2 classes")),
    ("regions", "all", (".regions", "2 classes")),
    ("regions.1", [0, 1], (".regions[1]", "factor: [low, high]")),
    ("regions.1", {"lesion_sise": [0, 1]}, (".regions[1]", "unknown factor", "did you mean 'lesion_size'?")),
    ("regions.0.lesion_size", [0.4, 0.05], (".regions[0].lesion_size", "[low, high]", "[0.4, 0.05]")),
    ("regions.0.lesion_size", [0.4, 1.05], (".regions[0].lesion_size", "[low, high]")),
    ("regions.0.lesion_size", [0.1, "high"], (".regions[0].lesion_size", "[low, high]")),
    ("regions.0.lesion_size", [0.1, 0.2, 0.3], (".regions[0].lesion_size", "[low, high]")),
    ("regions.0.lesion_size", [0.1, float("nan")], (".regions[0].lesion_size", "[low, high]")),
    ("regions.0.lesion_size", 0.5, (".regions[0].lesion_size", "[low, high]", "0.5")),
    ("sizes", {"trian": 8}, (".sizes", "unknown split 'trian'", "did you mean 'train'?")),
    ("sizes", {"train": "many"}, (".sizes.train", "whole number", "'many'")),
    ("sizes", {"test": 1}, (".sizes.test", "at least 2", "1")),
    ("sizes", 64, (".sizes", "64")),
    ("sizes", "small", (".sizes", "'small'")),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "says"), MADE, ids=[f"{place}={value}" for place, value, _ in MADE])
def test_wrong_options_of_a_made_task_are_refused(
    place: str, value: Any, says: tuple[str, ...], tmp_path: Path
) -> None:
    file = write(tmp_path, changed(TWO, f"tasks.1.{place}", value))
    with pytest.raises(UserError) as error:
        [sources.identity(source) for source in catalog.load(file, tmp_path).sources]
    message = str(error.value)
    assert message.startswith(f"{file}: tasks[1]") and "\n" not in message
    assert all(part in message for part in says), message
