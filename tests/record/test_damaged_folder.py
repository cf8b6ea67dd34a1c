"""What is wrong in a run's folder is told with the file's name, and none of it stands in the way of another run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from benchmark.disk import remove
from benchmark.errors import UserError
from benchmark.record.folder import RunFolder, State, replaced
from benchmark.record.stored import path_of, read_record, write_record
from tests.made_records import archive, made, save
from tests.record.test_folder import running

LEFT = {"predictions.npz": b"arrays", "method.safetensors": b"tensors", "experts/skin/adapter_config.json": b"{}"}
RECORD = made(files={name: sha256(data).hexdigest() for name, data in LEFT.items()})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A whole run's."""
    found = RunFolder(path_of(save(tmp_path, RECORD), RECORD), RECORD.key)
    for name, data in LEFT.items():
        (found.path / name).parent.mkdir(parents=True, exist_ok=True)
        (found.path / name).write_bytes(data)
    return found


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("way", ["gone", "other", "a folder", "a link"])
def test_a_damaged_file_beside_a_record_is_told_and_the_record_stays_until_it_is_made_again(
    name: str, way: str, folder: RunFolder
) -> None:
    assert folder.found().state is State.WHOLE
    file = folder.path / name
    file.unlink()
    if way == "other":
        file.write_bytes(LEFT[name] + b" ")
    elif way == "a folder":
        file.mkdir()
    elif way == "a link":
        file.symlink_to("nowhere")
    found = folder.found()
    assert (found.state, found.record, found.complete) == (State.DAMAGED, RECORD, False)
    assert found.reason.startswith(f"{file}: ")
    with folder.claimed():
        folder.begin(running(RECORD))
        assert read_record(folder.path) == RECORD and folder.found().state is State.UNFINISHED
        for each, data in LEFT.items():
            (folder.making / each).parent.mkdir(parents=True, exist_ok=True)
            (folder.making / each).write_bytes(data)
        folder.finish(RECORD)
    assert folder.found().state is State.WHOLE


def test_a_record_that_came_without_all_that_the_run_left_was_made_elsewhere(folder: RunFolder) -> None:
    for name in LEFT:
        (folder.path / name).unlink()
    assert folder.found().state is State.ELSEWHERE


def test_an_old_record_has_no_digests_but_its_predictions_have(tmp_path: Path) -> None:
    folder = RunFolder(path_of(save(tmp_path, made()), made()), made().key)
    file = folder.path / "predictions.npz"
    file.write_bytes(archive("old"))
    assert folder.found().state is State.WHOLE
    file.write_bytes(archive("old")[:-20])
    assert folder.found().state is State.DAMAGED and str(file) in folder.found().reason


def test_a_record_that_was_changed_is_damaged(folder: RunFolder) -> None:
    file = folder.path / "run.json"
    file.write_text(file.read_text().replace('"fingerprint": "aa"', '"fingerprint": "ab"'))
    with pytest.raises(UserError, match="does not fit its 'digest'"):
        read_record(file)
    found = folder.found()
    assert found.state is State.DAMAGED and found.record is None and found.reason.startswith(f"{file}: damaged")


def test_what_is_derived_from_a_record_is_written_again(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    given, hidden = (folder.path / f"accuracy_{protocol}.csv" for protocol in ("given", "hidden"))
    before = given.read_bytes(), hidden.read_bytes()
    given.unlink()
    hidden.unlink()
    hidden.mkdir()
    assert folder.found().state is State.DAMAGED
    with folder.claimed():
        assert folder.found().state is State.WHOLE
    assert (given.read_bytes(), hidden.read_bytes()) == before
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == [str(given), str(hidden)]


def test_a_copy_of_another_runs_record_may_go_and_the_only_one_may_not(folder: RunFolder, tmp_path: Path) -> None:
    other = replace(RECORD, seed=1)
    write_record(folder.path, other)
    found = folder.found()
    assert found.state is State.FOREIGN and "the record of another run, seed 1" in found.reason and not found.counts
    save(tmp_path, other)
    found = folder.found()
    assert found.state is State.DAMAGED and found.record is None and "a copy of the record of" in found.reason


# Whatever is there


def nothing_but(path: Path, make: Callable[[Path], object]) -> None:
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)


def run_json(make: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda path: nothing_but(path / "run.json", make)


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: nothing_but(path, lambda there: there.write_text("")),
    "a link to nothing": lambda path: nothing_but(path, lambda there: there.symlink_to("nowhere")),
    "run.json is a folder": run_json(lambda there: (there / "deep").mkdir(parents=True)),
    "run.json is a link": run_json(lambda there: there.symlink_to("x")),
    "state is a file": lambda path: (path / "state").write_text(""),
    "anew is a file": lambda path: ((path / "state").mkdir(), (path / "state" / "anew").write_text("")),
    "anew is damaged": lambda path: ((path / "state" / "anew" / "run.json").mkdir(parents=True)),
    "read-only": lambda path: [each.chmod(0o500) for each in (path / "experts" / "skin", path / "experts")],
    "no record": lambda path: (path / "run.json").unlink(),
    "garbage": lambda path: (path / "run.json").write_bytes(os.urandom(100)),
    "a CSV is a folder": lambda path: ((path / "accuracy_given.csv").unlink(), (path / "accuracy_given.csv").mkdir()),
}  # fmt: skip


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_a_run_can_begin_whatever_is_there(what: str, folder: RunFolder) -> None:
    IN_THE_WAY[what](folder.path)
    with folder.claimed():
        folder.found()
        folder.begin(running(RECORD))
        assert folder.found().state is State.UNFINISHED and folder.found().record == running(RECORD)
        for name, data in LEFT.items():
            (folder.making / name).parent.mkdir(parents=True, exist_ok=True)
            (folder.making / name).write_bytes(data)
        folder.finish(RECORD)
    assert folder.found().state is State.WHOLE and not (folder.path / "state").exists()


# What the killed left


def test_leftovers_are_removed_by_the_next_process(folder: RunFolder) -> None:
    before = sorted(path for path in folder.path.parents[2].rglob("*"))
    for name in (".run.json.7-ab.tmp", "method.tmp", "experts/skin/.adapter_config.json.7-ab.tmp", "state/phase"):
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_text("half")
    building = folder.path.parents[2] / f".merging-{folder.path.name}-{RECORD.key}.tmp"
    (building / "new").mkdir(parents=True)
    with folder.claimed():
        pass
    assert sorted(path for path in folder.path.parents[2].rglob("*")) == before


def test_a_run_that_made_room_for_one_that_never_came_is_put_back(folder: RunFolder, tmp_path: Path) -> None:
    building = folder.path.parents[2] / f".merging-{folder.path.name}-{RECORD.key}.tmp"
    building.mkdir()
    folder.path.rename(building / "old")
    with folder.claimed():
        assert folder.found().state is State.WHOLE
    assert not building.exists()
    other = replace(RECORD, provenance=replace(RECORD.provenance, started="2026-01-01T00:00:00+00:00"))
    with folder.claimed():
        replaced(folder.path, path_of(save(tmp_path / "theirs", other), other), other)
    assert read_record(folder.path) == other
