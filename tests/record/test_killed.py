"""A process that is killed at any of its file operations: whoever comes next finds the way to the same end.

A kill is an exception that no code catches, at the n-th operation and at every later one: ``finally`` clauses of the
killed process change nothing either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.record.folder import RunFolder, State, replaced
from benchmark.record.schema import Record
from benchmark.record.stored import path_of, read_record
from tests.made_records import made, save
from tests.record.test_folder import running

OPERATIONS = ("replace", "rename", "unlink", "mkdir", "rmdir", "fsync")
OLD, NEW = (
    made(given=given, files={"predictions.npz": sha256(text.encode()).hexdigest()})
    for given, text in ((None, "old"), ([[0.5] * 3] * 4, "new"))
)


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed_at(step: int) -> Iterator[list[str]]:
    """Inside, the operation number ``step`` and all later ones raise; yields the operations that were done."""
    done: list[str] = []

    def counted(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if len(done) >= step:
                raise Killed
            done.append(name)
            return operation(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, counted(name, getattr(os, name)))
        patch.setattr(os, "scandir", _state_first(os.scandir))
        yield done


def _state_first(scandir: Callable[..., Any]) -> Callable[..., Any]:
    """A folder is deleted in the worst order: the state of a run before its record."""

    @contextmanager
    def ordered(folder: Any) -> Iterator[Iterator[Any]]:
        with scandir(folder) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

    return ordered


def kills(
    prepare: Callable[[Path], RunFolder], act: Callable[[RunFolder], None], tmp_path: Path
) -> Iterator[RunFolder]:
    """The folder after ``act`` was killed at its first operation, at its second, and so on, and after all of it."""
    for step in range(1000):
        folder = prepare(tmp_path / str(step))
        try:
            with killed_at(step) as done:
                act(folder)
        except Killed:
            yield RunFolder(folder.path, folder.key)
            continue
        assert len(done) == step > 3
        yield RunFolder(folder.path, folder.key)
        return
    raise AssertionError("it never ends")


def put(folder: Path, text: str, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}


def begun(results: Path) -> RunFolder:
    """A first run, all of it but its end."""
    folder = RunFolder(path_of(results, NEW), NEW.key)
    folder.begin(running(NEW))
    put(folder.making, "new", "state/phase", "predictions.npz", "experts/skin/adapter", "experts/skin/more/deep")
    return folder


def begun_anew(results: Path) -> RunFolder:
    """The same with a complete run before it, which left other files too."""
    folder = path_of(save(results, OLD), OLD)
    put(folder, "old", "predictions.npz", "experts/skin/adapter", "experts/lung/adapter", "gone.csv")
    return begun(results)


def finish(folder: RunFolder) -> None:
    folder.finish(NEW)


@pytest.mark.parametrize("prepare", [begun, begun_anew])
def test_a_killed_finish_comes_to_the_same_end(prepare: Callable[[Path], RunFolder], tmp_path: Path) -> None:
    whole = prepare(tmp_path / "whole")
    finish(whole)
    expected, states = content(whole.path), []
    assert "gone.csv" not in expected and not any("state" in name for name in expected)
    for folder in kills(prepare, finish, tmp_path):
        if prepare is begun_anew:
            assert read_record(folder.path) in (OLD, NEW)  # readers always have a complete record
        with folder.claimed():
            found = folder.found()
            states.append(found.state)
            assert found.record in (NEW, running(NEW))
            if found.state is State.UNFINISHED:
                finish(folder)
        assert folder.found().state is State.WHOLE and folder.found().record == NEW
        left = {name: text for name, text in content(folder.path).items() if not name.endswith(".tmp")}
        assert left == expected and not (folder.path / "state").exists()
        assert [path.name for path in folder.path.parent.iterdir()] == [folder.path.name]
    assert states == sorted(states, key=[State.UNFINISHED, State.WHOLE].index) and len(set(states)) == 2


@pytest.mark.parametrize("prepare", [begun, begun_anew])
def test_a_finish_that_is_killed_twice(prepare: Callable[[Path], RunFolder], tmp_path: Path) -> None:
    for first in range(0, 60, 7):
        for second in range(0, 40, 11):
            folder = prepare(tmp_path / f"{first}-{second}")
            for step in (first, second, 10_000):
                with suppress(Killed), folder.claimed():
                    if folder.found().state is State.UNFINISHED:
                        with killed_at(step):
                            finish(folder)
            assert folder.found().record == NEW and folder.found().state is State.WHOLE
            assert "gone.csv" not in content(folder.path)


def old_and_half(results: Path) -> RunFolder:
    """An unfinished run with the state that it needs to continue."""
    folder = RunFolder(path_of(results, OLD), OLD.key)
    folder.begin(running(OLD))
    folder.write(replace(running(OLD), stages=2))
    put(folder.making, "old", "state/phase", "state/checkpoint", "predictions.npz")
    return folder


def complete_and_half(results: Path) -> RunFolder:
    """A complete run, and an unfinished one that was to replace it."""
    put(path_of(save(results, OLD), OLD), "old", "predictions.npz")
    return old_and_half(results)


def complete(results: Path) -> RunFolder:
    folder = RunFolder(path_of(save(results, OLD), OLD), OLD.key)
    put(folder.path, "old", "predictions.npz", "experts/skin/adapter")
    return folder


def begin(folder: RunFolder) -> None:
    folder.begin(running(NEW))


def before(record: Record | None) -> bool:
    return record is not None and record.stages == 2


@pytest.mark.parametrize("prepare", [old_and_half, complete_and_half, complete])
def test_a_killed_begin_mixes_nothing(prepare: Callable[[Path], RunFolder], tmp_path: Path) -> None:
    for folder in kills(prepare, begin, tmp_path):
        if prepare is not old_and_half:
            assert read_record(folder.path) == OLD and (folder.path / "predictions.npz").read_text() == "old"
        with folder.claimed():
            found = folder.found()
            assert found.state is not State.DAMAGED
            if before(found.record):  # not touched yet: it can continue
                assert {"phase", "checkpoint"} <= {path.name for path in folder.state.iterdir()}
            elif found.state is State.UNFINISHED:  # begun: nothing is left of what was there
                assert found.record == running(NEW) and not folder.state.exists()
            begin(folder)
            assert folder.found().record == running(NEW) and not folder.state.exists()
            put(folder.making, "new", "predictions.npz")
            finish(folder)
        assert folder.found().state is State.WHOLE and folder.found().record == NEW
        assert (folder.path / "predictions.npz").read_text() == "new" and not (folder.path / "experts").exists()


def test_a_killed_replacement_loses_neither_run(tmp_path: Path) -> None:
    source = path_of(save(tmp_path / "theirs", NEW), NEW)
    put(source, "new", "predictions.npz", "experts/skin/adapter")

    def replace_it(folder: RunFolder) -> None:
        replaced(folder.path, source, NEW)

    for folder in kills(complete, replace_it, tmp_path):
        with suppress(UserError):
            replaced(folder.path, tmp_path / "gone", NEW)
        text = (folder.path / "predictions.npz").read_text()
        assert (folder.found().record, text) in ((OLD, "old"), (NEW, "new"))
        replace_it(folder)
        assert content(folder.path)["predictions.npz"] == "new" and folder.found().record == NEW
        assert [path.name for path in folder.path.parents[2].iterdir()] == ["ewc"]


def test_a_replacement_that_fails_puts_back_what_made_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rename = complete(tmp_path), Path.rename

    def full(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("no space left")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="no space"):
        replaced(folder.path, path_of(save(tmp_path / "theirs", NEW), NEW), NEW)
    assert folder.found().state is State.WHOLE and folder.found().record == OLD
    assert [path.name for path in folder.path.parents[2].iterdir()] == ["ewc"]
