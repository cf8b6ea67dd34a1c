"""Records from elsewhere that are none: each is refused in one line, by name, and stops nobody else's table."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import cli
from benchmark.errors import UserError
from benchmark.record.parts import SampleGroups, Verified
from benchmark.record.schema import Record
from benchmark.record.stored import path_of, read_all, read_record, stream_folder
from tests.made_records import TASKS, lacking, made, save, told_apart, with_hits

AT = "2026-01-02T00:00:00+00:00"
BIG = 10**400
MATRIX = ("scores", "accuracy", "given")
HITS = ("hits", "given", "skin")


def sound(seed: int) -> dict[str, Any]:
    """The content of a record that has every part, and is accepted."""
    return json.loads(_sound()) | {"seed": seed}


@lru_cache
def _sound() -> str:
    record = with_hits(made(), {task: [1, 0, 1, 1] for task in TASKS})
    record = told_apart(record, {"skin": [0.25]}, {"skin": {"sex": {"f": (2, 0.5)}}})
    record = replace(
        record,
        groups={"skin": SampleGroups.packed(np.array([0, 0, 1, 1]))},
        router_confusion=[[1] * 3] * 3,
        provenance=replace(record.provenance, started=AT, finished=AT, verified=Verified("aa", AT)),
    )
    return json.dumps(record.to_json())


def bomb(size: int) -> str:
    """Base64 of zlib of so many zeros, of which a hundred thousand fit in hundred bytes."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(2**20)) for _ in range(size // 2**20)]
    return b64encode(b"".join(parts) + packer.flush()).decode()


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# Something else in one place: where, and what

PLACES: list[tuple[tuple[str | int, ...], tuple[Any, ...]]] = [
    (("schema",), (True, 1.5, 0, -1, 2, "1", None, [1], BIG)),
    (("key",), ("", "0123456789AB", "ab/..", "../../x", "0123456789ab\n", "0x12", 12, None, "a" * 65)),
    (("method",), ("", ".", "..", "a/b", "/etc", "-rf", "=1+1", "a\nb", "a\x1b[2J", "x" * 201, "é", None, 7, "<b>")),
    (("group",), ("", "\\input{x}", "<b>", "Plain", 7, None)),
    (("stream", "name"), ("", "overall", "Overall", "../three", "a b", "\ud800", "three\u202e", 7)),
    (("stream", "folder"), ("four", "../three", "three@123456", "three@../../x", "three/", "/three", "", 7)),
    (("stream", "hash"), ("FF", "x/../y", "f" * 65, 7)),
    (("stream", "version"), ("1", 1.5, BIG, True)),
    (("stream", "kind"), ("", "other", "two\nlines", 7, None)),
    (("stream", "label_space"), ("", "mine", None)),
    (("stream", "tasks"), ([], {}, None, [{"name": "a"}] * 3, nested(5))),
    (("stream", "tasks", 0, "name"), ("", "../a", "skin", "=cmd()", "a|b", "a\tb", "<script>", "\udc80", 7)),
    (("stream", "tasks", 0, "modality"), ("x\x1b]0;y\x07", "\ud800", "m" * 4001, 7)),
    (("stream", "tasks", 0, "labels"), ("a", [7], [None], ["l" * 4001], ["a", "b"])),
    (("seed",), (-1, True, 1.0, "0", "0/../../victim", 2**53 + 1, BIG, None)),
    (("order",), (-1, False, 0.5, "0/../../victim", BIG, [0])),
    (("permutation",), ([], [0, 0, 1], [0, 1, 3], [-1, 0, 1], [True, 0, 2], "012", [0, 1, BIG])),
    (("limit",), (0, -1, "3", True, BIG)),
    (("split",), ("", "train", None, "test\n")),
    (("status",), ("done", "", None, True, "Complete")),
    (("stages",), (0, 3, 5, -1, True, 4.5, BIG)),
    (("primary",), ("", "exact", "macro_f1", "../x", None)),
    (("settings",), ("a\nb", "\x1b[31m", "\ud83d", "s" * 4001, None, 7)),
    (("backbone",), ("other", "\x00", 7)),
    (("scores",), ({}, [], None, {"accuracy": {}}, {"../../victim": {"given": [], "hidden": []}})),
    (("scores", "accuracy"), ({}, [], {"given": [[0.5] * 3] * 4}, {"given": 1, "hidden": 2})),
    (("scores", "made_up"), ({"given": [[0.5] * 3] * 4, "hidden": [[0.5] * 3] * 4},)),
    (MATRIX, ([], {}, [[0.5] * 3] * 3, [[0.5] * 2] * 4, [[0.5] * 4] * 4, [0.5] * 12, "0.5", nested(10))),
    ((*MATRIX, 3, 2), (5.0, -0.1, 1.01, "1", True, [], {}, 0.123, None, BIG, 1e300, float("nan"), float("inf"))),
    (("scores", "macro_f1", "hidden", 3, 0), (2.0, 0.111, "x")),
    (("router_accuracy",), ([], [[0.5] * 2] * 4, [[2.0] * 3] * 4, "x")),
    (("router_confusion",), ([[1] * 3] * 2, [[1.5] * 3] * 3, [[-1] * 3] * 3, [[BIG] * 3] * 3)),
    (("summary",), (None, {}, [], {"given": {}}, {"given": {}, "hidden": {}})),
    (("summary", "told"), ({"last_acc": 0.5},)),
    (("summary", "given", "last_acc"), (5.0, None, 0.999, -1.0, "0.5", True, BIG, float("inf"))),
    (("summary", "given", "made_up"), (0.5,)),
    (("summary", "hidden", "forgetting"), (-2.0, 0.77, None)),
    (("cost", "train_seconds"), ([1.0], [1.0] * 9, [-1.0] * 3, ["x"] * 3, [1e300] * 3, [float("inf")] * 3, 7)),
    (("cost", "eval_seconds"), ([1.0] * 3, [1e16] * 4)),
    (("cost", "stored_bytes"), ([1.5] * 3, [BIG] * 3, [-1] * 3, [True] * 3, [10**18] * 3)),
    (("cost", "peak_memory_mib"), ([1.0, 2.0], [-1.0], "1")),
    (("config", "method"), ("os:system", "lwf", "..", 7)),
    (("config", "backbone"), ("hf-hub:some/where", 7)),
    (("config", "epochs"), (-1, 1.5, "3", BIG)),
    (("config", "lr"), ("x", None, float("inf"), BIG)),
    (("config", "stream"), ("\x00", "a\nb", "s" * 4001)),
    (("config", "method_args"), ({"a b": 1}, {"x=1 --results": "/"}, {"": 1}, [1], {"a": nested(30)},
                                 {"a": nested(900)})),
    (("config", "versions"), ({"method": "2"}, {"method": -1}, {"method": BIG})),
    (("provenance", "fingerprint"), ("", "a b", "<b>", "a" * 65, 7)),
    (("provenance", "finished"), (None, "", "yesterday", "2026-02-30T00:00:00+00:00", "0001-01-01T00:00:00+00:00",
                                  "9999-12-31T23:59:59-23:59", "20260101", "2026-01-01T00:00:00+29:00", 7)),
    (("provenance", "started"), ("2026-01-01T00:00:00", "now", "2026-13-01T00:00:00+00:00")),
    (("provenance", "git_sha"), ("--upload-pack=x", "HEAD", "../x", 7)),
    (("provenance", "device"), ("x\x1b[2J", "\ud800", 7)),
    (("provenance", "packages"), ({"torch": 7}, {"torch": "1\n2"}, [])),
    (("provenance", "verified"), ({}, {"code": "aa", "finished": "never"}, {"code": "a b", "finished": AT}, 7)),
    (("hits",), ([], {"given": []}, {"told": {}}, {"given": {"other": None}}, {"given": {"../x": None}})),
    (HITS, (7, {}, {"n": 9, "bits": "AA=="}, {"n": 0, "bits": ""}, {"n": 4, "bits": "*"}, {"n": True, "bits": "AA=="},
            {"n": 10**12, "bits": "AA=="}, {"n": 10**12, "levels": "eJw="}, {"n": 3, "bits": "4A=="},
            {"n": 4, "bits": "AA==", "parts": [1, 1]}, {"n": 4, "bits": "AA==", "parts": [4, 0]},
            {"n": 4, "bits": "AA==", "parts": [-1, 5]}, {"n": 4, "levels": "AA=="}, {"n": 4, "levels": bomb(2**28)},
            {"n": 10**7, "levels": bomb(2**28)}, {"n": 4, "levels": b64encode(zlib.compress(bytes(4))[:-4]).decode()})),
    (("groups",), ({"other": {"n": 4, "numbers": ""}}, {"skin": {"n": 4, "numbers": "AA=="}},
                   {"skin": {"n": 4, "numbers": bomb(2**28)}}, {"skin": asdict(SampleGroups.packed(np.arange(3)))})),
    (("class_recall",), ({"given": {"skin": [0.5]}}, {"told": {}}, {"given": {t: [2.0] for t in TASKS}})),
    (("class_confusion",), ({"x": {"counts": [[1]], "sensitivity": [1.0]}}, {"skin": {"counts": [[1]]}},
                            {"skin": {"counts": [[1], []], "sensitivity": [1.0]}}, {"skin": 7},
                            {"skin": {"counts": [[-1]], "sensitivity": [2.0]}})),
    (("subgroups",), ({"told": {}}, {"given": {"x": {}}}, {"given": {"skin": {"sex": {"f": {"n": 0, "score": 1.0}}}}},
                      {"given": {"skin": {"sex": {"f": {"n": 1, "score": 5.0}}}}})),
    (("stream", "tasks", 0, "kind"), ("other", "mixed", "generation", "fusion", "a\nb", None, 7)),
    (("stream", "tasks", 0, "metric"), ("exact", "macro_f1", "primary", "../x", None, 7)),
    (("scores", "primary"), ({}, {"given": [[0.5] * 3] * 4, "hidden": [[0.5] * 3] * 4}, {"given": [[]], "hidden": []})),
    (("blind",), ({"skin": 0.5}, {"x": None}, {"skin": 2.0}, [], 7)),
    (("samples",), ({"skin": []}, {"../x": []}, [], 7)),
    (("files",), ({"answers.jsonl": "0" * 64}, {"answers.jsonl.gz": "0"}, {"x/../answers.jsonl.gz": "0" * 64})),
    (("missing",), ({}, {"image": {"given": [0.5] * 3, "hidden": [0.5] * 3}}, {"../x": {"given": [], "hidden": []}})),
]  # fmt: skip

GONE = ("schema", "key", "method", "stream", "seed", "order", "status", "permutation", "stages", "scores", "summary")


def whole(change: Callable[[str], str | bytes]) -> Callable[[int], bytes]:
    def made_of(seed: int) -> bytes:
        text = change(json.dumps(sound(seed)))
        return text if isinstance(text, bytes) else text.encode()

    return made_of


def second(key: str) -> Callable[[str], str]:
    """The key once more, with the same value: which of two counts would be up to the reader."""
    return lambda text: text.replace(f'"{key}":', f'"{key}": null, "{key}":', 1)


TEXTS: dict[str, Callable[[int], bytes]] = {
    "empty": whole(lambda _: ""),
    "blank": whole(lambda _: " \n"),
    "cut short": whole(lambda text: text[:-1]),
    "half": whole(lambda text: text[: len(text) // 2]),
    "twice": whole(lambda text: text + text),
    "a list of it": whole(lambda text: f"[{text}]"),
    "text of it": whole(json.dumps),
    "null": whole(lambda _: "null"),
    "no UTF-8": whole(lambda text: text.encode() + b"\xff"),
    "UTF-16": whole(lambda text: text.encode("utf-16")),
    "bytes": whole(lambda _: bytes(range(256))),
    "lists without end": whole(lambda _: "[" * 100_000),
    "objects without end": whole(lambda _: '{"a":' * 100_000),
    "a number of 5000 digits": whole(lambda text: text.replace('"seed": ', '"seed": 1' + "0" * 5000, 1)),
    "no Python": whole(lambda text: text.replace('"seed"', "seed", 1)),
    "NaN": whole(lambda text: text.replace('"last_acc": 0', '"last_acc": NaN, "x": 0', 1)),
    **{f"{key} twice": whole(second(key)) for key in ("schema", "method", "given", "lr", "n")},
}


def one_place(where: tuple[str | int, ...], value: Any) -> Callable[[int], bytes]:
    def made_of(seed: int) -> bytes:
        whole: Any = sound(seed)
        at = whole
        for step in where[:-1]:
            at = at[step]
        at[where[-1]] = value
        return json.dumps(whole).encode()

    return made_of


def without(name: str) -> Callable[[int], bytes]:
    return lambda seed: json.dumps({key: value for key, value in sound(seed).items() if key != name}).encode()


def cases() -> Iterator[tuple[str, Callable[[int], bytes]]]:
    yield from TEXTS.items()
    for name in GONE:
        yield f"no {name}", without(name)
    for where, values in PLACES:
        for number, value in enumerate(values):
            yield f"{'.'.join(map(str, where))} {number}", one_place(where, value)


CASES = list(cases())


def hostile(results: Path, many: list[tuple[str, Callable[[int], bytes]]]) -> dict[Path, str]:
    """These records, each where a run of its own seed belongs; by file what is wrong with it."""
    files = {}
    for seed, (name, content) in enumerate(many, 1):
        file = path_of(results, made(seed=seed)) / "run.json"
        file.parent.mkdir(parents=True)
        file.write_bytes(content(seed))
        files[file] = name
    return files


def tables(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((results / "leaderboards").iterdir())}


def test_what_they_are_made_of_is_accepted(tmp_path: Path) -> None:
    assert len(CASES) >= 300
    for seed in (0, len(CASES)):
        file = path_of(tmp_path, made(seed=seed)) / "run.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(sound(seed)))
    assert [record.seed for record in read_all(tmp_path)] == [0, len(CASES)]


def test_every_one_is_refused_in_one_line(tmp_path: Path, tally: Callable[..., None]) -> None:
    for file, name in hostile(tmp_path, CASES).items():
        with pytest.raises(UserError) as caught:
            read_record(file)
        said = str(caught.value)
        assert said.startswith(f"{file}: ") and said.isprintable() and len(said) < len(str(file)) + 400, name
        tally("refused by the reader")


def test_many_at_once_stop_nobody(
    tmp_path: Path, tally: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours and another stream's tables are as without them, wherever they lie, and each is named once."""
    ours, theirs, alone = (tmp_path / name for name in ("ours", "theirs", "alone"))
    good, other = made(), made("lwf", seed=0)
    for results in (ours, alone):
        assert cli.main(["leaderboard", "--results", str(save(results, good, other))]) == 0
    files = hostile(ours, some := CASES[::4])
    capsys.readouterr()
    assert cli.main(["leaderboard", "--results", str(ours)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["left out", str(file)] for file in sorted(files)]
    assert tables(ours) == tables(alone)
    tally("left out of a leaderboard", len(lines))
    hostile(theirs, some)
    assert cli.main(["merge", "--from", str(save(theirs, good, made(seed=0, key="0a"))), "--results", str(alone)]) == 1
    said = capsys.readouterr().out
    assert f"1 copied, 1 here already, 0 unfinished left out, 0 in conflict, {len(some)} refused" in said
    assert len(read_all(alone)) == 3
    tally("refused by merge", said.count("left out: "))


def of_kinds(*tasks: str) -> Record:
    """A record like the others, but for the kinds of its tasks, which have the same metrics."""
    record = made(seed=3)
    entries = [replace(task, kind=kind) for task, kind in zip(record.stream.tasks, tasks, strict=True)]
    own = {"primary": record.scores["accuracy"]}
    stream = replace(record.stream, kind="mixed", tasks=entries)
    return replace(record, stream=stream, scores=own | record.scores, class_recall=None)


STRANGERS: dict[str, Callable[[Record], Record]] = {
    "another hash": lambda record: replace(record, stream=replace(record.stream, hash="ee")),
    "another task": lambda record: made(seed=3, tasks=("lung_ct", "retina_oct", "other")),
    "a task more": lambda record: made(seed=3, tasks=(*TASKS, "more")),
    "another kind": lambda record: made(seed=3, kind="retrieval"),
    "a space of labels of its own": lambda record: replace(record, stream=replace(record.stream, label_space="shared")),
    "more test samples": lambda record: with_hits(record, {task: [1, 0, 1] for task in TASKS}),
    "another kind of one task": lambda _: of_kinds("classification", "fusion", "classification"),
    "tasks in another listed order": lambda record: replace(record, permutation=[1, 0, 2]),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_sound_alone_but_not_beside_others(
    name: str, tmp_path: Path, tally: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    mine = [with_hits(made(seed=seed), {task: [1, 0] for task in TASKS}) for seed in (0, 1)]
    stranger = STRANGERS[name](made(seed=3))
    assert read_record(path_of(save(tmp_path / "alone", stranger), stranger)) == stranger
    for results in ("ours", "expected"):
        assert cli.main(["leaderboard", "--results", str(save(tmp_path / results, *mine))]) == 0
    capsys.readouterr()
    assert cli.main(["leaderboard", "--results", str(save(tmp_path / "ours", stranger))]) == 0
    assert capsys.readouterr().err.count("left out: ") == 1
    assert tables(tmp_path / "ours") == tables(tmp_path / "expected")
    tally("left out beside others")


def test_plans_and_sweeps_go_on(tmp_path: Path, tally: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    """An empty record of a run that is planned, of another seed of its row, and of another stream."""
    results, whole = save(tmp_path, made()), ["--results", str(tmp_path)]
    assert cli.main(["plan", "--method", "ncm", "--stream", "smoke", *whole]) == 0
    path = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("record: "))
    files = [Path(path.removeprefix("record: ")).with_name(f"seed{seed}-order0") / "run.json" for seed in (0, 1)]
    files.append(path_of(results, made(seed=1)) / "run.json")
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("")
    assert cli.main(["plan", "--method", "ncm", "--stream", "smoke", *whole]) == 0
    said = capsys.readouterr()
    assert "state: damaged" in said.out and all(f"left out: {file}: " in said.err for file in files)
    assert cli.main(["plan", "--methods", "ncm", "--streams", "smoke", "--seeds", "0,2", *whole]) == 0
    said = capsys.readouterr()
    assert "2 of 2 to run" in said.out and "1 damaged" in said.out
    assert stream_folder(results, "three", "ff") == "three"  # though the first that is read is none
    tally("plans that go on", 2)


def test_names_that_a_spreadsheet_would_compute_are_quoted(tmp_path: Path) -> None:
    recalls = {"skin": [0.25]}
    record = told_apart(made(), recalls, {"skin": {"=site": {"@SUM(A1)": (2, 0.5), "-1": (2, 0.5)}}})
    tasks = [replace(task, labels=["=HYPERLINK(1)"]) for task in record.stream.tasks]
    record = replace(record, stream=replace(record.stream, tasks=tasks), settings="+x")
    assert cli.main(["leaderboard", "--results", str(save(tmp_path, record))]) == 0
    text = b"".join(tables(tmp_path).values()).decode()
    for told in ("'=HYPERLINK(1)", "'=site", "'@SUM(A1)", "'+x"):
        assert told in text
    assert ",-1," in text  # a number


def test_fusion_is_checked_too(tmp_path: Path) -> None:
    record = lacking(made(kind="fusion"))
    value = record.to_json()
    assert read_record(path_of(save(tmp_path, record), record)) == record
    for change in ({"image": {}, "text": {}}, value["missing"] | {"../x": value["missing"]["image"]}, {"image": 7}):
        (path_of(tmp_path, record) / "run.json").write_text(json.dumps(value | {"missing": change}))
        with pytest.raises(UserError, match="missing"):
            read_record(path_of(tmp_path, record))


# The long half


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, len(CASES), 40))
def test_reports_are_as_without_them(
    start: int, tmp_path: Path, tally: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, pages = CASES[start : start + 40], []
    for results in (tmp_path / "with", tmp_path / "without"):
        save(results, made(), made("lwf"))
        if results.name == "with":
            files = hostile(results, chosen)
        for verb in ("leaderboard", "report"):
            assert cli.main([verb, "--results", str(results)]) == 0
        pages.append(((results / "report" / "index.html").read_bytes(), tables(results)))
    said = capsys.readouterr().err
    assert all(said.count(f"left out: {file}: ") == 2 for file in files) and pages[0] == pages[1]
    tally("left out of a leaderboard", len(files))
    tally("left out of a report", len(files))


@pytest.mark.slow
def test_each_alone_through_merge(
    tmp_path: Path, tally: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Into an empty folder, so that nothing that is there says how a stream is to look."""
    for number, case in enumerate(CASES):
        theirs, ours = tmp_path / f"theirs{number}", tmp_path / f"ours{number}"
        hostile(theirs, [case])
        assert cli.main(["merge", "--from", str(theirs), "--results", str(ours)]) == 1, case[0]
        assert "0 copied" in capsys.readouterr().out and not list(ours.rglob("run.json")), case[0]
        tally("merged alone, nothing copied")
    assert {path.name.rstrip("0123456789") for path in tmp_path.iterdir()} <= {"theirs", "ours"}


@pytest.mark.slow
def test_a_record_of_endless_size_is_not_read(tmp_path: Path, tally: Callable[..., None]) -> None:
    file = path_of(tmp_path, made()) / "run.json"
    file.parent.mkdir(parents=True)
    with file.open("wb") as opened:
        opened.truncate(10 * 2**40)  # of nothing: it takes no room on the disk
    with pytest.raises(UserError, match="larger than 64 MiB"):
        read_record(file)
    tally("refused by the reader")
