"""Run folders: what is written, what is read, and what state a run is in."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.record import stored
from benchmark.record.folder import RunFolder, State, replaced
from benchmark.record.schema import PROTOCOLS, Record, unmeasured
from benchmark.record.stored import (
    path_of,
    read_all,
    read_record,
    renamed,
    run_files,
    run_path,
    stream_folder,
    write_record,
)
from benchmark.record.summary import summarise
from tests.made_records import archive, archived, made, on, save

NAMES = ("lung-x.ray", "Urine_2")


def two(**changes: object) -> Record:
    """A complete record of two tasks with awkward names and two metrics."""
    given = [[0.25, 0.5], [1.0, 0.5], [0.75, 1.0]]
    hidden = [[None, None], [1.0, None], [0.5, 1.0]]
    record = made(tasks=NAMES)
    scores = {name: {"given": given, "hidden": hidden} for name in record.scores}
    return replace(record, scores=scores, summary=summarise(record.kind, scores), **changes)


def running(record: Record) -> Record:
    """The record of the same run, before it has begun."""
    blank = unmeasured(record.stream)
    return replace(record, stages=0, summary=None, **blank)


# Files


def test_run_path() -> None:
    path = run_path(Path("r"), "two@abcdef", "ewc", "0123456789ab", 3, 1)
    assert path == Path("r/runs/two@abcdef/ewc/0123456789ab/seed3-order1")
    record = renamed(made(seed=3, order=1), "two@abcdef")
    assert path_of(Path("r"), record) == path and record.stream.name == "three"


def test_write_and_read(tmp_path: Path) -> None:
    record = two()
    folder = path_of(save(tmp_path, record), record)
    assert read_record(folder) == read_record(folder / "run.json") == record
    matrices = [f"{metric}_{protocol}.csv" for metric in record.scores for protocol in PROTOCOLS]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*matrices, "run.json"])
    assert (folder / "accuracy_hidden.csv").read_text(encoding="utf-8") == (
        "stage,lung-x.ray,Urine_2\nbefore,,\nlung-x.ray,1.000000,\nUrine_2,0.500000,1.000000\n"
    )
    with (folder / "accuracy_given.csv").open(encoding="utf-8", newline="") as file:
        assert [row["stage"] for row in csv.DictReader(file)] == ["before", *NAMES]


def test_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    record = two()
    folder = path_of(save(tmp_path, record), record)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_record(folder, read_record(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_the_routers_accuracy_stands_beside_the_hidden_matrix(tmp_path: Path) -> None:
    write_record(tmp_path / "none", two(router_accuracy=[[None] * 2] * 3))
    assert not (tmp_path / "none" / "router_accuracy_hidden.csv").exists()
    routed = [[0.5 if task < stage else None for task in range(2)] for stage in range(3)]
    write_record(tmp_path / "some", two(router_accuracy=routed))
    rows = (tmp_path / "some" / "router_accuracy_hidden.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 4 and rows[1] == "before,," and rows[-1].split(",")[1:] == ["0.500000"] * 2


def test_missing_inputs_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    without = {name: {"given": [0.5] * 3, "hidden": [0.25] * 3} for name in ("image", "text")}
    write_record(tmp_path, made(kind="fusion", missing=without))
    rows = list(csv.reader((tmp_path / "missing_modality.csv").open(encoding="utf-8", newline="")))
    assert rows[0] == ["protocol", "missing", "rate", "lung_ct", "retina_oct", "skin", "mean"]
    assert ["given", "text", "1.0", "0.500000", "0.500000", "0.500000", "0.500000"] in rows


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing: cannot be read \(No such file"):
        read_record(tmp_path / "nothing")
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a JSON file"):
        read_record(tmp_path)


def test_an_unfinished_record(tmp_path: Path) -> None:
    record = running(two())
    folder = path_of(save(tmp_path, record), record)
    assert read_record(folder) == record == read_all(tmp_path)[0]
    assert "before,,\n" in (folder / "accuracy_given.csv").read_text(encoding="utf-8")


def test_read_all_is_sorted_and_complete(tmp_path: Path) -> None:
    for method, seed, order in (("lwf", 0, 0), ("ewc", 10, 0), ("ewc", 2, 1), ("ewc", 2, 0)):
        save(tmp_path, made(method, seed=seed, order=order))
    save(tmp_path, on("another", made()))
    found = [(r.stream.folder, r.method, r.seed, r.order) for r in read_all(tmp_path)]
    assert found == [
        ("another", "ewc", 0, 0), ("three", "ewc", 2, 0), ("three", "ewc", 2, 1), ("three", "ewc", 10, 0),
        ("three", "lwf", 0, 0),
    ]  # fmt: skip
    assert len(read_all(tmp_path, "three")) == 4 == len(run_files(tmp_path, "three"))
    assert read_all(tmp_path, "none") == read_all(tmp_path / "none") == []


def test_a_record_in_the_place_of_another_run_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = made()
    folder = path_of(save(tmp_path, record), record)
    copy = folder.with_name("copy-of-seed0")
    copy.mkdir()
    (copy / "run.json").write_bytes((folder / "run.json").read_bytes())
    assert read_all(tmp_path) == [record]
    assert f"left out: {copy}/run.json: lies where another run belongs" in capsys.readouterr().err


def test_a_record_that_goes_while_all_are_read_is_no_longer_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, made(), made(seed=1))
    read = stored.read_record

    def vanishing(path: Path) -> Record:
        if "seed0" in str(path):
            path.unlink()
        return read(path)

    monkeypatch.setattr(stored, "read_record", vanishing)
    assert [record.seed for record in read_all(tmp_path)] == [1] and capsys.readouterr().err == ""


def test_another_stream_of_the_same_name_has_a_folder_of_its_own(tmp_path: Path) -> None:
    assert stream_folder(tmp_path, "three", "abcdef0123") == "three"
    save(tmp_path, made())
    assert stream_folder(tmp_path, "three", "ff") == "three"
    assert stream_folder(tmp_path, "three", "abcdef0123") == "three@abcdef"


# States


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(path_of(tmp_path, made()), made().key)


def test_the_five_states(folder: RunFolder) -> None:
    found = folder.found()
    assert (found.state, found.record, found.complete, found.learned) == (State.MISSING, None, False, 0)

    begun = running(made())
    folder.begin(begun)
    assert (folder.found().state, folder.found().record) == (State.UNFINISHED, begun)
    assert not folder.found().complete and folder.found().learned == 0
    folder.write(replace(begun, stages=3))
    assert folder.found().learned == 2

    folder.finish(made())
    assert folder.found().state is State.ELSEWHERE and folder.found().complete  # no predictions: of a git clone
    (folder.path / "predictions.npz").write_bytes(archive("arrays"))
    assert folder.found().state is State.WHOLE and folder.found().record == made() and folder.found().learned == 3

    (folder.path / "run.json").write_text("{")
    found = folder.found()
    assert found.state is State.DAMAGED and found.record is None and not found.complete
    assert found.reason.startswith(f"{folder.path / 'run.json'}: not a JSON file")


def test_the_record_of_another_run_is_told(folder: RunFolder) -> None:
    write_record(folder.path, made(key="0a"))
    found = folder.found()
    assert (
        found.state is State.FOREIGN
        and found.reason == f"{folder.path / 'run.json'}: the record of another run, key 0a"
    )
    assert RunFolder(folder.path).found().state is State.ELSEWHERE  # no key is expected


def test_a_folder_without_a_record_is_nothing(folder: RunFolder) -> None:
    (folder.path / "state").mkdir(parents=True)
    (folder.path / "accuracy_given.csv").write_text("left by a writer that was killed")
    assert folder.found().state is State.MISSING
    folder.begin(running(made()))
    assert "killed" not in (folder.path / "accuracy_given.csv").read_text()


def test_beginning_deletes_an_unfinished_run(folder: RunFolder) -> None:
    folder.begin(running(made()))
    folder.state.mkdir()
    (folder.state / "checkpoint").write_text("old")
    (folder.path / "predictions.npz").write_text("old")
    folder.begin(running(made()))
    assert not folder.state.exists() and not (folder.path / "predictions.npz").exists()
    assert folder.found().state is State.UNFINISHED


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}'])
def test_beginning_replaces_what_is_damaged(folder: RunFolder, text: str) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "run.json").write_text(text)
    assert folder.found().state is State.DAMAGED
    folder.begin(running(made()))
    assert folder.found().record == running(made())


def test_a_complete_run_counts_until_the_one_that_replaces_it_is_whole(folder: RunFolder, tmp_path: Path) -> None:
    old, new = made(), made(given=[[0.5] * 3] * 4)
    save(tmp_path, old)
    for name in ("predictions.npz", "experts/lung_ct/adapter", "only_the_old_run_has_this.csv"):
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text("old")

    begun = running(new)
    folder.begin(begun)
    assert folder.found().state is State.UNFINISHED and folder.found().record == begun
    assert folder.making == folder.path / "state" / "anew" and folder.state == folder.making / "state"
    folder.write(replace(begun, stages=2))
    for name in ("state/phase", "predictions.npz", "experts/lung_ct/adapter"):
        (folder.making / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.making / name).write_bytes(archive("new"))
    assert read_all(tmp_path) == [old] and folder.found().learned == 1

    folder.finish(new)
    assert folder.found().state is State.WHOLE and read_all(tmp_path) == [new]
    assert archived(folder.path / "predictions.npz") == "new"
    assert archived(folder.path / "experts" / "lung_ct" / "adapter") == "new"
    assert "0.500000" in (folder.path / "accuracy_given.csv").read_text()
    assert not folder.state.exists() and not (folder.path / "only_the_old_run_has_this.csv").exists()


def test_beginning_again_deletes_what_was_being_made_and_keeps_what_is_complete(
    folder: RunFolder, tmp_path: Path
) -> None:
    save(tmp_path, made())
    folder.begin(running(made()))
    folder.state.mkdir()
    (folder.state / "phase").write_text("old")
    folder.begin(running(made()))
    assert folder.found().state is State.UNFINISHED and not folder.state.exists()
    assert read_all(tmp_path) == [made()]
    (folder.making / "run.json").write_text("{")
    assert folder.found().state is State.DAMAGED and str(folder.making) in folder.found().reason
    folder.begin(running(made()))
    assert folder.found().state is State.UNFINISHED and read_all(tmp_path) == [made()]


# From elsewhere


def test_a_run_from_elsewhere_takes_the_place_of_one_that_is_there(tmp_path: Path) -> None:
    old, new = made(), made(given=[[0.5] * 3] * 4)
    folder, source = path_of(tmp_path / "ours", old), path_of(tmp_path / "theirs", new)
    save(tmp_path / "ours", old)
    (folder / "predictions.npz").write_text("old")
    save(tmp_path / "theirs", new)
    for name in ("experts/skin/adapter_config.json", "state/phase", ".hidden", "experts/skin/setup.py", "run.sh"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("new")
    replaced(folder, source, renamed(new, "three"))
    assert read_all(tmp_path / "ours") == [new] == read_all(tmp_path / "theirs")
    assert (folder / "experts" / "skin" / "adapter_config.json").read_text() == "new"
    assert not any((folder / name).exists() for name in ("predictions.npz", "state", ".hidden", "run.sh"))
    assert not (folder / "experts" / "skin" / "setup.py").exists()  # which no run leaves
    assert [path.name for path in (tmp_path / "ours" / "runs" / "three").iterdir()] == ["ewc"]


def test_a_run_that_cannot_be_copied_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    folder = path_of(save(tmp_path, made()), made())
    with pytest.raises(UserError):
        replaced(folder, tmp_path / "nothing", made(given=[[0.5] * 3] * 4))
    assert read_all(tmp_path) == [made()]


def test_json_has_no_key_of_its_own_for_what_a_run_lacks(tmp_path: Path) -> None:
    folder = path_of(save(tmp_path, made()), made())
    assert not {"hits", "missing", "router_confusion"} & set(json.loads((folder / "run.json").read_text()))
