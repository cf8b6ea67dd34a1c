"""Stream files: what loads, what is refused and how that is said."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.data import catalog, sources, task_keys
from benchmark.errors import UserError
from benchmark.stream import Label
from tests.source_files import QUESTION, QUESTIONS, stream_file, written

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


def test_every_source_that_a_file_may_name_has_a_reader() -> None:
    assert set(task_keys.SOURCES) == set(sources.READERS)


def test_a_stream_by_its_path(tmp_path: Path) -> None:
    recipe = catalog.load(stream_file(tmp_path, TWO), tmp_path)
    stream = recipe.stream
    assert (stream.name, stream.version, stream.kinds, stream.label_space) == ("two", 3, ("classification",), "own")
    assert [label.id for task in stream for label in task.labels] == [0, 1, 2, 3]
    assert stream.tasks[0].labels[1] == Label(1, "large lesions", ("an abdominal CT slice with large lesions.",))
    assert recipe.sources[1].where == f"{recipe.file}: tasks[1]"


def test_several_templates_are_several_prompts(tmp_path: Path) -> None:
    content = changed(TWO, "tasks.0.template", ["CT: {}.", "{}, a slice"])
    label = catalog.load(stream_file(tmp_path, content), tmp_path).stream.tasks[0].labels[0]
    assert label.prompts == ("CT: small lesions.", "small lesions, a slice")


def test_shared_label_space_numbers_the_classes_once(tmp_path: Path) -> None:
    content = changed(TWO, "tasks.1.classes", TASK["classes"]) | {"label_space": "shared"}
    stream = catalog.load(stream_file(tmp_path, content), tmp_path).stream
    assert stream.tasks[0].labels == stream.tasks[1].labels
    assert [label.id for label in stream.labels()] == [0, 1]
    assert stream.reordered([1, 0]).labels() == stream.labels()


def test_keys_given_beside_a_card_override_it(data: Path, tmp_path: Path) -> None:
    task = {"card": "breastmnist", "name": "mine", "classes": ["bad", "good"], "template": "{}!", "path": "other.npz"}
    (data / "other.npz").touch()
    recipe = catalog.load(stream_file(tmp_path, {"name": "one", "tasks": [task]}), data)
    made = recipe.stream.tasks[0]
    assert (made.name, made.modality) == ("mine", "ultrasound")
    assert [label.prompts for label in made.labels] == [("bad!",), ("good!",)]
    assert recipe.sources[0].options["path"] == data / "other.npz"


def test_relative_paths_are_looked_up_in_the_data_folder_then_beside_the_stream(tmp_path: Path) -> None:
    data, beside = tmp_path / "data", tmp_path / "streams"
    data.mkdir(), beside.mkdir()
    task = {"name": "t", "modality": "ct", "source": "npz", "path": "t.npz", "classes": ["a", "b"], "template": "{}"}
    file = stream_file(beside, {"name": "one", "tasks": [task]})
    with pytest.raises(UserError) as error:
        catalog.load(file, data)
    assert str(error.value).startswith(f"{file}: tasks[0].path: file not found: {data / 't.npz'}")
    assert "DATA=" in str(error.value) and "--data" in str(error.value)
    for place in (beside / "t.npz", data / "t.npz"):  # the second is preferred once it is there
        place.touch()
        assert catalog.load(file, data).sources[0].options["path"] == place
    absolute = stream_file(beside, {"name": "one", "tasks": [task | {"path": str(beside / "t.npz")}]})
    assert catalog.load(absolute, data).sources[0].options["path"] == beside / "t.npz"


def test_orders_are_the_listed_ones_then_seeded_permutations(tmp_path: Path) -> None:
    tasks = [TASK | {"name": f"t{i}", "seed": i} for i in range(6)]
    listed = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]
    recipe = catalog.load(stream_file(tmp_path, {"name": "six", "tasks": tasks, "orders": listed}), tmp_path)
    unlisted = catalog.load(stream_file(tmp_path, {"name": "six", "tasks": tasks}), tmp_path)
    assert [list(recipe.permutation(i)) for i in (0, 1)] == listed
    assert unlisted.permutation(0) == (0, 1, 2, 3, 4, 5)
    drawn = [recipe.permutation(i) for i in range(2, 40)]
    assert all(sorted(order) == list(range(6)) for order in drawn)
    assert len(set(drawn)) > 30
    assert drawn == [unlisted.permutation(i) for i in range(2, 40)]
    assert recipe.permutation(2) == (2, 5, 1, 3, 0, 4)  # the same on every machine and in every version


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
    ("tasks.0.mirror", "no", ("tasks[0].mirror", "true or false", "'no'")),
    ("tasks.0.mirror", 0, ("tasks[0].mirror", "true or false", "got 0")),
    ("tasks.0.kind", "clasification", ("tasks[0]", "unknown kind", "did you mean 'classification'?")),
    ("tasks.0.kind", "retrieval", ("tasks[0].classes", "a retrieval task has none")),
    ("tasks.0.kind", ["fusion"], ("tasks[0]", "unknown kind")),
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
    file = stream_file(tmp_path, changed(TWO, place, value))
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
    file = stream_file(tmp_path, content)
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
    with pytest.raises(
        UserError, match=r"unknown stream 'zzz' \(valid: cifar100_10, covid_notes3, mbiil8, mbiil_cls, "
    ):
        catalog.load("zzz", tmp_path)


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
    file = stream_file(tmp_path, changed(TWO, f"tasks.1.{place}", value))
    with pytest.raises(UserError) as error:
        [sources.identity(source) for source in catalog.load(file, tmp_path).sources]
    message = str(error.value)
    assert message.startswith(f"{file}: tasks[1]") and "\n" not in message
    assert all(part in message for part in says), message


def stream(folder: Path, **task: Any) -> str:
    told = {"name": "t", "modality": "ct", "source": "table", "path": "table.csv", "columns": {}} | task
    file = folder / "s.yaml"
    file.write_text(yaml.safe_dump({"name": "s", "label_space": told.pop("label_space", "own"), "tasks": [told]}))
    return str(file)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({"kind": "retrieval", "classes": ["a", "b"]}, (".classes", "a retrieval task has none")),
        ({"kind": "retrieval", "template": "{}"}, (".template", "a retrieval task has none")),
        ({"kind": "fusion"}, (".classes", "list of texts")),
        ({"kind": "retrieval", "label_space": "shared"}, ("label_space", "no labels")),
        ({"kind": "fusion", "source": "npz", "columns": ...}, (".kind", "'npz' gives classification tasks only")),
        ({"kind": "retrieval", "source": "folder", "columns": ...}, (".kind", "'folder' gives classification")),
    ],
)
def test_wrong_tasks_with_texts_are_refused(task: dict[str, Any], says: tuple[str, ...], twenty: Path) -> None:
    written(twenty, QUESTIONS)
    file = Path(stream(twenty, **{key: value for key, value in task.items() if value is not ...}))
    if ... in task.values():
        content = yaml.safe_load(file.read_text())
        del content["tasks"][0]["columns"]
        file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as error:
        catalog.load(str(file), twenty)
    assert str(error.value).startswith(str(file)) and all(part in str(error.value) for part in says), error.value


def test_a_retrieval_stream_has_no_labels_and_its_sources_know_their_kind(twenty: Path) -> None:
    written(twenty, QUESTIONS)
    columns = {key: QUESTION[key] for key in ("image", "text", "split")}
    recipe = catalog.load(stream(twenty, kind="retrieval", columns=columns), twenty)
    assert (recipe.stream.kinds, recipe.stream.tasks[0].labels) == (("retrieval",), ())
    assert recipe.sources[0].task_kind == "retrieval" and recipe.sources[0].classes == ()
    assert len(sources.load(recipe.sources[0], "train").labels) == 24
