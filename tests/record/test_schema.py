"""What a record is: every committed one comes back as it is, and what is none is refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import kinds
from benchmark.errors import UserError, forget_notices
from benchmark.record.parts import AnswerSample, SampleGroups, SampleScores
from benchmark.record.schema import Configuration, Record, StreamEntry, TaskEntry, blank, unmeasured
from benchmark.record.soundness import sound
from benchmark.record.stored import read_all, read_record, run_files
from benchmark.stream import Label, Stream, Task
from tests.committed import committed
from tests.made_records import CONFIG, MIXED, QUESTIONS, TASKS, made, save, talking, told_apart, with_hits

ROOT = Path(__file__).resolve().parents[2]
LATER = {"config": {"inputs": "both", "gallery": "seen"}}  # what older records lack, and what it stands for


def raw(**changes: Any) -> dict[str, Any]:
    """The content of a complete record's file."""
    return made(**changes).to_json()


def test_committed_records_come_back_as_they_are() -> None:
    files = run_files(ROOT / "results")
    assert {file.relative_to(ROOT / "results").as_posix() for file in files} >= set(committed())
    for file in files:
        old = json.loads(file.read_text(encoding="utf-8"))
        old.pop("digest", None)  # of the file, beside the record
        new = sound(deepcopy(old)).to_json()
        if old.get("router_confusion", old) is None:
            del old["router_confusion"]
        assert new == old, file
        for part in ("stream", "config", "cost", "provenance", "summary", "scores"):
            assert list(new[part]) == list(old[part]), (file, part)


def test_old_records_without_what_came_later() -> None:
    value = raw()
    for name in ("router_confusion", "hits", "class_recall", "class_confusion", "subgroups", "missing"):
        assert name not in value
    assert "inputs" not in value["config"] and "gallery" not in value["config"]
    record = sound(value)
    assert (record.config.inputs, record.config.gallery) == ("both", "seen")
    assert record.router_confusion is record.hits is record.missing is None
    assert record.class_recall is record.subgroups is None
    for numbers in value["summary"].values():
        del numbers["worst_task"], numbers["ece"]
    assert sound(value).number("given", "worst_task") is None
    later = replace(
        record, config=replace(record.config, inputs="image", gallery="all"), router_confusion=[[1] * 3] * 3
    )
    assert later.to_json()["config"] == value["config"] | {"inputs": "image", "gallery": "all"}
    assert sound(later.to_json()) == later


@pytest.mark.parametrize("kind", sorted(kinds.KINDS))
def test_a_record_of_every_kind_comes_back(kind: str) -> None:
    withheld = {name: {"given": [0.5] * 3, "hidden": [0.5, None, 0.0]} for name in kinds.of(kind).withheld}
    record = with_hits(
        made(kind=kind, missing=withheld or None), {"lung_ct": [1, 0], "retina_oct": [1], "skin": [0] * 9}
    )
    assert sound(json.loads(json.dumps(record.to_json()))) == record
    assert record.kind is kinds.of(kind) and record.primary == record.kind.primary


@given(st.lists(st.integers(0, 255), min_size=1, max_size=50), st.booleans())
def test_scores_of_samples_and_their_groups_come_back(levels: list[int], parted: bool) -> None:
    scores, groups = np.array(levels) / 255, np.arange(len(levels)) // 2
    parts = [1, len(levels) - 1] if parted and len(levels) > 1 else []
    kept = {
        "lung_ct": SampleScores.packed(scores, parts),
        "skin": SampleScores.packed(scores > 0.5),
        "retina_oct": None,
    }
    record = made(hits={"given": kept}, groups={"lung_ct": SampleGroups.packed(groups)})
    again = sound(json.loads(json.dumps(record.to_json())))
    assert again == record and again.groups is not None and again.hits is not None
    assert again.groups["lung_ct"].unpacked().tolist() == groups.tolist()
    one, other = again.hits["given"]["lung_ct"], again.hits["given"]["skin"]
    assert one is not None and other is not None
    assert (one.unpacked() == scores).all() and (other.unpacked() == (scores > 0.5)).all()
    means = [scores[:1].mean(), scores[1:].mean()] if parts else [scores.mean()]
    assert one.weighed().mean() == pytest.approx(sum(means) / len(means))
    assert set(record.to_json()["hits"]["given"]["skin"]) == {"n", "bits"}  # as it always was


def test_groups_of_other_samples_are_refused() -> None:
    value = with_hits(made(), {task: [1, 0] for task in TASKS}).to_json()
    value["groups"] = {"skin": asdict(SampleGroups.packed(np.arange(3)))}
    with pytest.raises(ValueError, match=r"groups\.skin is not of the samples of hits\.given\.skin"):
        sound(value)


@pytest.mark.parametrize("tasks", [QUESTIONS, MIXED], ids=["questions", "mixed"])
def test_each_column_is_its_tasks_own_metric(tasks: dict[str, tuple[str, str]]) -> None:
    record = talking(tasks=tasks, order=1)
    value = json.loads(json.dumps(record.to_json()))
    assert sound(deepcopy(value)) == record and record.primary == value["primary"] == "primary"
    several = tasks is MIXED
    assert record.stream.kind == record.kind.name == ("mixed" if several else "generation")
    entries = {task["name"]: task for task in value["stream"]["tasks"]}
    assert [("kind" in entries[name]) for name in tasks] == [several] * len(tasks)  # told where the stream does not
    assert [entries[name].get("metric", "") for name in tasks] == [metric for _, metric in tasks.values()]
    assert record.stream.measures == [
        metric or ("exact" if kind == "generation" else "accuracy") for kind, metric in list(tasks.values())[::-1]
    ]
    for protocol in ("given", "hidden"):
        for place, metric in enumerate(record.stream.measures):
            own = [row[place] for row in record.scores[metric][protocol]]
            assert own == [row[place] for row in record.matrix(protocol)] and own[-1] is not None
    if several:
        accuracy, exact = (record.scores[metric]["given"][-1] for metric in ("accuracy", "exact"))
        assert accuracy[:3] == [None] * 3 and exact[-2:] == [None] * 2
    assert list(value)[-3:] == ["hits", "blind", "samples"]


def test_the_metric_that_all_tasks_share_is_the_primary_one() -> None:
    def primary(kind: str, *tasks: tuple[str, str]) -> str:
        entries = [TaskEntry(f"t{place}", kind=own, metric=metric) for place, (own, metric) in enumerate(tasks)]
        return StreamEntry("s", "s", entries, kind=kind).primary

    assert (
        primary("generation", ("", "f1"), ("", "f1")) == "f1"
        and primary("generation", ("", ""), ("", "exact")) == "exact"
    )
    assert primary("generation", ("", "f1"), ("", "")) == "primary"
    assert primary("mixed", ("classification", ""), ("fusion", "")) == "accuracy"
    assert primary("mixed", ("classification", ""), ("generation", "")) == "primary"
    tasks = (
        Task(0, "a", "ct", "fusion", (Label(0, "x", ()),), 2),
        Task(1, "b", "us", "generation", (), 2, metric="f1"),
    )
    mixed = Stream("s", 1, "own", tasks)
    assert TaskEntry.of(tasks[0], mixed) == TaskEntry("a", "ct", ["x"], "fusion")
    assert TaskEntry.of(tasks[1], mixed) == TaskEntry("b", "us", [], "generation", "f1")
    assert TaskEntry.of(tasks[0], mixed[:1]) == TaskEntry("a", "ct", ["x"])


def test_texts_of_samples_are_made_fit_for_a_record() -> None:
    wild = "a\x1b[2J\tb\r\nc\u202ed\ud800\x00" + "é" * 5000
    sample = AnswerSample.of(wild, "", "yes", "no")
    assert sample.question.startswith("a\ufffd[2J b\nc\ufffdd\ufffd\ufffdé") and len(sample.question) == 2000
    record = talking()
    record = replace(record, samples={"ct_vqa": [sample] * 8})
    assert sound(json.loads(json.dumps(record.to_json()))) == record


def spoilt(change: Callable[[dict[str, Any]], object], says: str) -> None:
    value = json.loads(json.dumps(talking().to_json()))
    change(value)
    with pytest.raises(ValueError, match=says) as caught:
        sound(value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_what_a_record_of_answers_in_words_may_not_say() -> None:
    def task(place: int, **changes: Any) -> Callable[[dict[str, Any]], object]:
        return lambda value: value["stream"]["tasks"][place].update(changes)

    def part(**changes: Any) -> Callable[[dict[str, Any]], object]:
        return lambda value: value.update(changes)

    sample = {"question": "q", "reference": "r", "own": "a", "last": "b"}
    for kind in ("", "mixed", "other", "x" * 5000, "two\nlines"):
        spoilt(task(0, kind=kind), "the kind of skin_classes, which is not known")
    for place, metric in ((0, "exact"), (2, "bleu1"), (2, "primary"), (4, "../x"), (4, "f" * 9999)):
        spoilt(task(place, metric=metric), "the metric of .*, which is no primary one")
    spoilt(task(0, kind=None), "Expected `str`")
    spoilt(lambda value: value["stream"].update(kind="generation"), "stream.kind 'generation' is not that of the tasks")
    spoilt(
        lambda value: [task.update(kind="generation") for task in value["stream"]["tasks"]], "is not that of the tasks"
    )
    spoilt(part(primary="exact"), "primary 'exact' is not that of its mixed tasks")
    spoilt(lambda value: value["scores"].pop("primary"), "scores lacks 'primary'")
    spoilt(lambda value: value["scores"].pop("cider_d"), "scores lacks 'cider_d'")
    for at, number in ((0, 0.123), (4, None)):
        spoilt(lambda value, at=at, number=number: value["scores"]["primary"]["given"][5].__setitem__(at, number),
               "scores.primary.given is not scores.(accuracy|f1).given for ")  # fmt: skip
    spoilt(part(blind={"skin_classes": 0.5}), "blind is not of the tasks that are answered in words")
    spoilt(part(blind={"path_vqa": 1.5}), "<= 1")
    spoilt(part(samples={"mri_notes": []}), "samples is not of the tasks that are answered in words")
    spoilt(part(samples={"path_vqa": [sample] * 9}), "length <= 8")
    for text in ("x" * 2001, "\x1b[2J", "\u202e", "\ud800"):
        spoilt(part(samples={"path_vqa": [sample | {"last": text}]}), "samples")
    spoilt(part(samples={"path_vqa": [{"question": "q"}]}), "missing required field")
    spoilt(part(files={"../answers.jsonl.gz": "0" * 64}), "of another form")
    assert sound(talking(files={"answers.jsonl.gz": "0" * 64}).to_json()).files


def test_keys_stand_in_order() -> None:
    value = with_hits(
        made(router_confusion=[[1] * 3] * 3), {task: [1] for task in ("lung_ct", "retina_oct", "skin")}
    ).to_json()
    assert list(value) == [
        "schema", "key", "method", "group", "stream", "config", "settings", "backbone", "seed", "order", "permutation",
        "limit", "split", "status", "stages", "primary", "scores", "router_accuracy", "summary", "cost", "provenance",
        "router_confusion", "hits",
    ]  # fmt: skip
    assert list(value["stream"]) == ["name", "folder", "version", "hash", "kind", "label_space", "tasks"]


def test_what_is_told_apart_comes_back() -> None:
    apart = {"skin": {"site": {"": (3, None), 'Bern, "Nord"': (6, 0.5)}}}
    record = told_apart(made(), {"skin": [0.25]}, apart)
    value = json.loads(json.dumps(record.to_json()))
    assert sound(value) == record and list(value)[-2:] == ["class_recall", "subgroups"]
    assert value["class_recall"]["hidden"] == {"lung_ct": [None], "retina_oct": [None], "skin": [0.25]}
    assert value["subgroups"]["given"]["skin"]["site"][""] == {"n": 3, "score": None}


# What is refused


def broken(change: Callable[[dict[str, Any]], object], **changes: Any) -> str:
    value = raw(**changes)
    change(value)
    return json.dumps(value)


def put(value: object, *where: str | int, **changes: Any) -> str:
    """A record with something else in one place."""

    def change(record: Any) -> None:
        for step in where[:-1]:
            record = record[step]
        record[where[-1]] = value

    return broken(change, **changes)


GIVEN = ("scores", "accuracy", "given")
HITS = {"given": {"skin": {"n": 9, "bits": "AA=="}}, "hidden": {}}
REFUSED = [
    ("{", "not a JSON file"),
    ("[" * 100_000, "not a JSON file"),
    ("[]", "has no 'schema'"),
    ("{}", "has no 'schema'"),
    ("null", "has no 'schema'"),
    (put("1", "schema"), "has no 'schema'"),
    (put(True, "schema"), "Expected `int`, got `bool`"),
    (put(2, "schema"), "schema 2 is newer than 1"),
    (put(0, "schema"), "schema 0 is not known"),
    (put(-1, "schema"), "schema -1 is not known"),
    # what is missing
    (broken(lambda record: record.pop("summary")), "summary.given lacks 'last_acc'"),
    (broken(lambda record: record.pop("scores")), "scores lacks 'accuracy'"),
    (broken(lambda record: record.pop("seed")), "`seed`"),
    (broken(lambda record: record.pop("stream")), "`stream`"),
    (broken(lambda record: record.pop("permutation")), "permutation []"),
    (broken(lambda record: record["stream"].pop("folder")), "`folder`"),
    (broken(lambda record: record["stream"].pop("tasks")), "`tasks`"),
    (broken(lambda record: record["stream"]["tasks"][1].pop("name")), "`name`"),
    (broken(lambda record: record["scores"]["accuracy"].pop("hidden")), "scores has 'accuracy', which is no metric"),
    (broken(lambda record: record["scores"].pop("accuracy")), "scores lacks 'accuracy'"),
    (broken(lambda record: record["summary"]["hidden"].pop("bwt")), "summary.hidden lacks 'bwt'"),
    (broken(lambda record: record["summary"].pop("hidden")), "summary.hidden lacks 'last_acc'"),
    (broken(lambda record: record["summary"]["given"].pop("t2i_r5"), kind="retrieval"), "lacks 't2i_r5'"),
    (broken(lambda record: record["provenance"].pop("fingerprint")), "lacks 'fingerprint'"),
    # shapes
    (broken(lambda record: record["scores"]["accuracy"]["given"].pop()), "scores.accuracy.given is not 4 x 3"),
    (put([0.5], *GIVEN, 1), "scores.accuracy.given is not 4 x 3"),
    (put([], *GIVEN), "scores.accuracy.given is not 4 x 3"),
    (put([[0.5] * 3] * 4, "scores", "accuracy", "told"), "scores has 'accuracy', which is no metric"),
    (put([0.5] * 3, "router_accuracy"), "router_accuracy"),
    (put([[0.5] * 2] * 4, "router_accuracy"), "router_accuracy is not 4 x 3"),
    (put([[1] * 3] * 2, "router_confusion"), "router_confusion is not 3 x 3"),
    (put([0], "permutation"), "permutation [0] is not one of 3 tasks"),
    (put([0, 1, 1], "permutation"), "permutation [0, 1, 1] is not one of 3 tasks"),
    (put(9, "stages"), "stages 9"),
    (put([], "stream", "tasks"), "tasks"),
    (put({"image": {}}, "missing", kind="fusion"), "missing lacks 'image'"),
    (
        put({"image": {"given": [0.5] * 3, "hidden": [0.5]}, "text": {}}, "missing", kind="fusion"),
        "missing lacks 'image'",
    ),
    (put(HITS, "hits"), "hits.given.skin is not n and the bits or levels of n samples"),
    (put({"given": {"skin": {"n": 3, "levels": "AA=="}}}, "hits"), "hits.given.skin is not n and the bits or levels"),
    (put({"given": {"skin": {"n": 3, "bits": "4A==", "parts": [1, 1]}}}, "hits"), "hits.given.skin is not n"),
    (put({"skin": {"n": 3, "numbers": "AA=="}}, "groups"), "groups.skin is not n and the numbers of n samples"),
    (put({"given": {"skin": [0.5]}}, "class_recall"), "class_recall.given is not a number for each label of each task"),
    (put({"given": {"skin": {"sex": {"f": {"n": 0, "score": 1.0}}}}}, "subgroups"), "`int` >= 1"),
    # types
    (put("x", *GIVEN, 0, 0), "Expected `float | null`, got `str`"),
    (put("0.5", *GIVEN, 0, 0), "got `str`"),
    (put(True, *GIVEN, 0, 0), "got `bool`"),
    (put([], "scores"), "Expected `object`, got `array`"),
    (put({}, *GIVEN), "Expected `array`"),
    (put(True, "seed"), "Expected `int`, got `bool`"),
    (put(1.5, "order"), "Expected `int`"),
    (put("0", "seed"), "Expected `int`, got `str`"),
    (put(7, "method"), "Expected `str`"),
    (put("7", "summary", "given", "bwt"), "got `str`"),
    (put("many", "cost", "train_seconds"), "Expected `array`"),
    (put(["many"], "cost", "train_seconds"), "Expected `float`"),
    (put([1.5], "cost", "stored_bytes"), "Expected `int`"),
    (put([True], "cost", "stored_bytes"), "Expected `int`"),
    (put(None, "limit", limit=3) and put("3", "limit"), "got `str`"),
    (put({"a": 7}, "provenance", "data"), "Expected `str`"),
    (put({"given": {"skin": 7}}, "hits"), "hits"),
    # ranges and words
    (put(5.0, *GIVEN, 0, 0), "<= 1"),
    (put(-0.1, *GIVEN, 3, 2), ">= 0"),
    (
        put(5.0, "summary", "given", "last_acc"),
        "summary.given.last_acc is 5.0, of the matrices it is 0.",
    ),
    (put(-1.5, "summary", "hidden", "bwt"), "summary.hidden.bwt is -1.5, of the matrices it is "),
    (put(-1, "seed"), ">= 0"),
    (put([-1.0], "cost", "eval_seconds"), ">= 0"),
    (
        put([1.0], "cost", "eval_seconds").replace('"eval_seconds": [1.0]', '"eval_seconds": [1e999]'),
        "<= 1000000000000",
    ),
    (put([-1, 0, 1], "permutation"), ">= 0"),
    (put("done", "status"), "Invalid enum value 'done'"),
    (put("lines\nof\ntext", "status"), "Invalid enum value"),
    (put("generation_", "stream", "kind"), "stream.kind 'generation_' is not known"),
    (put("two\nlines", "stream", "kind"), "is not known"),
    (put("exact", "primary"), "scores lacks 'exact'"),
    (put("ewc", "key"), "key"),
    (put("", "key"), "key"),
    (put("../../outside", "stream", "folder"), "folder"),
    (put("..", "method"), "method"),
    (put("a/b", "method"), "method"),
    (put(None, "provenance", "finished"), "provenance lacks 'finished'"),
    (put("yesterday", "provenance", "finished"), "of another form - at `$.provenance.finished`"),
    (put("", "provenance", "fingerprint"), "lacks 'fingerprint'"),
]


@pytest.mark.parametrize(("text", "says"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_record_is_refused_by_name(
    tmp_path: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runs" / "three" / "ewc" / "0123456789ab" / "seed0-order0" / "run.json"
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    for place in (file.parent, file):
        with pytest.raises(UserError) as caught:
            read_record(place)
        assert str(caught.value).startswith(f"{file}: ") and says in str(caught.value)
        assert "\n" not in str(caught.value)
    forget_notices()
    assert read_all(tmp_path) == read_all(tmp_path, "three") == []
    assert capsys.readouterr().err == f"left out: {caught.value}\n"


def test_scores_that_numpy_summed_may_end_just_above_one() -> None:
    assert sound(json.loads(put(1.0000001, *GIVEN, 3, 2))).matrix("given")[3][2] == 1.0000001


def test_nan_is_null_whoever_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(put(float("nan"), *GIVEN, 0, 0))
    assert read_record(tmp_path).matrix("given")[0][0] is None


# Unfinished ones


def test_an_unfinished_record_needs_its_identity_alone() -> None:
    value = {"schema": 1, "key": "0a", "method": "ewc", "seed": 0, "order": 0, "status": "running",
             "stream": {"name": "two", "folder": "two", "tasks": [{"name": "a"}, {"name": "b"}]}}  # fmt: skip
    record = sound(value)
    assert not record.complete and not record.ranked and record.summary is None and record.stages == 0
    for change, says in (
        ({"key": None}, "key"),
        ({"stages": 5}, "stages"),
        ({"scores": {"accuracy": {"given": [[]], "hidden": []}}}, "3 x 2"),
        ({"scores": {"../a": {"given": [[]], "hidden": []}}}, "no metric"),
    ):
        with pytest.raises(ValueError, match=says):
            sound(value | change)
    with pytest.raises(ValueError, match=r"stream\.kind"):
        sound(value | {"stream": value["stream"] | {"kind": "other"}})  # type: ignore[operator]


@pytest.mark.parametrize("kind", sorted(kinds.KINDS))
def test_a_run_that_has_not_begun_is_blank_and_grows_by_rows(kind: str) -> None:
    stream = StreamEntry("two", "two", [TaskEntry("a"), TaskEntry("b")], kind=kind)
    record = Record(schema=1, key="0a", method="ewc", stream=stream, seed=0, order=0, **unmeasured(stream))
    assert set(record.scores) == {"primary", *kinds.of(kind).metrics} and record.matrix("hidden") == blank(2)
    assert sound(json.loads(json.dumps(record.to_json()))) == record
    row = {metric: {"given": [0.5, 0.25], "hidden": [0.5, None]} for metric in record.scores}
    grown = record.with_row(1, row, [1.0, None])
    assert grown.stages == 2 and grown.matrix("given") == [[None, None], [0.5, 0.25], [None, None]]
    assert grown.router_accuracy == [[None, None], [1.0, None], [None, None]]
    assert record.matrix("given") == blank(2) and record.stages == 0  # the old one is as it was


# What is asked of one


def test_what_is_asked_of_a_record() -> None:
    record = made(order=1, seed=3)
    assert record.place == ("three", "ewc", "0123456789ab", 3, 1)
    assert record.stream.task_names == ["skin", "retina_oct", "lung_ct"]
    assert record.cost.seconds == 1.0 + 2.0 + 6.5 + 4 * 0.25
    assert record.number("given", "last_acc") == pytest.approx(sum(x or 0 for x in record.matrix("given")[-1]) / 3)
    assert record.number("hidden", "fwt") is None is record.number("given", "image_drop")
    assert record.measured("fwt") and not record.measured("image_drop")
    assert (
        record.ranked
        and not made(limit=3).ranked
        and not made(split="val").ranked
        and not made(status="running").ranked
    )
    with pytest.raises(FrozenInstanceError):
        record.seed = 4  # type: ignore[misc]


def test_settings_are_found_as_they_are_typed() -> None:
    config = Configuration(**(CONFIG.__dict__ | {"epochs": 7}))
    assert (config.value("epochs"), config.value("method.strength"), config.value("method.none")) == (7, 1e-05, None)


def test_a_time_without_a_zone_is_utc() -> None:
    value = raw()
    times = []
    for text in ("2026-01-01T10:00:00", "2026-01-01T10:00:00Z", "2026-01-01T08:30:00-01:30"):
        value["provenance"]["finished"] = text
        times.append(sound(value).finished)
    assert times[0] == times[1] == times[2]


def test_import_is_light() -> None:
    program = (
        "import sys, benchmark.record.schema; print([m for m in ('numpy', 'pandas', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"


def test_reading_all_is_sorted(tmp_path: Path) -> None:
    places = [("lwf", 0, 0), ("ewc", 10, 0), ("ewc", 2, 1), ("ewc", 2, 0)]
    save(tmp_path, *(made(method, seed=seed, order=order) for method, seed, order in places))
    assert [(r.method, r.seed, r.order) for r in read_all(tmp_path)] == [
        ("ewc", 2, 0), ("ewc", 2, 1), ("ewc", 10, 0), ("lwf", 0, 0),
    ]  # fmt: skip
