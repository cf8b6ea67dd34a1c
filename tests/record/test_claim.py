"""One process at a time in a run's folder: real second processes, at every moment of the first one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from benchmark.errors import UserError
from benchmark.record.claim import TRIES, alone_in
from benchmark.record.folder import RunFolder, State
from benchmark.record.stored import path_of, read_all
from tests.made_records import archive, archived, made, save
from tests.record.test_folder import running

ROOT = Path(__file__).resolve().parents[2]
RECORD = made()
MOMENTS = ("started", "claimed", "begun", "written", "finished", "left")

# A whole run that stops at every moment until a line comes in.
RUNNER = """
import sys
from pathlib import Path
from benchmark.errors import UserError
from benchmark.record.folder import RunFolder, State
from tests.made_records import archive, made
from tests.record.test_folder import running
def at(moment):
    print(moment, flush=True)
    sys.stdin.readline()
folder = RunFolder(Path(sys.argv[1]), made().key)
at("started")
try:
    with folder.claimed():
        at("claimed")
        if folder.found().state is State.WHOLE:
            print("already complete", flush=True)
        else:
            folder.begin(running(made()))
            at("begun")
            (folder.making / "predictions.npz").write_bytes(archive("by the other process"))
            folder.write(running(made()))
            at("written")
            folder.finish(made())
            at("finished")
except UserError as error:
    print(error, flush=True)
at("left")
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(path_of(tmp_path / "results", RECORD), RECORD.key)


class Other:
    """Another process that runs into the same folder, from moment to moment."""

    def __init__(self, folder: RunFolder) -> None:
        command = [sys.executable, "-c", RUNNER, str(folder.path)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def until(self, moment: str) -> None:
        """It has come to this moment, and waits there."""
        while (here := self.said()) != moment:
            assert here in MOMENTS, here
            self.go()

    def ends(self) -> list[str]:
        """All that it says on its way to the end."""
        lines: list[str] = []
        while line := self.said():
            lines.append(line)
            if line in MOMENTS:
                self.go()
        assert self.process.wait() == 0
        return lines

    def killed(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def run(folder: RunFolder) -> str:
    """What the same command does in this process."""
    with folder.claimed():
        if folder.found().state is State.WHOLE:
            return "already complete"
        folder.begin(running(RECORD))
        (folder.making / "predictions.npz").write_bytes(archive("by this process"))
        folder.finish(RECORD)
    return "made"


def files(folder: RunFolder) -> dict[str, bytes]:
    above = folder.path.parents[4]
    return {str(path.relative_to(above)): path.read_bytes() for path in above.rglob("*") if path.is_file()}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_second_process_at_every_moment_of_the_first(folder: RunFolder, moment: str) -> None:
    other = Other(folder)
    other.until(moment)
    if moment == "started":
        assert run(folder) == "made"
        other.go()
        assert "already complete" in other.ends()
        assert archived(folder.path / "predictions.npz") == "by this process"
    elif moment == "left":
        assert run(folder) == "already complete"
        other.go()
        other.ends()
    else:
        before = files(folder)
        with pytest.raises(UserError, match="another process is running this") as caught:
            run(folder)
        assert str(caught.value).startswith(f"{folder.path}: ") and "\n" not in str(caught.value)
        assert files(folder) == before
        other.go()
        assert "already complete" not in other.ends()
        assert archived(folder.path / "predictions.npz") == "by the other process"
    assert folder.found().state is State.WHOLE and read_all(folder.path.parents[4]) == [RECORD]
    assert [path.name for path in folder.path.parent.iterdir()] == [folder.path.name]


@pytest.mark.parametrize("moment", MOMENTS[1:5])
def test_a_lock_goes_with_the_process_that_is_killed(folder: RunFolder, moment: str) -> None:
    other = Other(folder)
    other.until(moment)
    other.killed()
    assert run(folder) == ("already complete" if moment == "finished" else "made")
    assert folder.found().state is State.WHOLE
    assert [path.name for path in folder.path.parent.iterdir()] == [folder.path.name]  # the lock's file is gone too


def test_the_same_process_does_not_get_it_twice(folder: RunFolder) -> None:
    with folder.claimed() as claimed:
        assert claimed is folder
        with pytest.raises(UserError, match="another process"), RunFolder(folder.path, folder.key).claimed():
            raise AssertionError("two are inside")
    with RunFolder(folder.path, folder.key).claimed():
        pass


def test_where_nothing_was_written_nothing_is_left(folder: RunFolder, tmp_path: Path) -> None:
    with folder.claimed():
        assert folder.found().state is State.MISSING
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="bad data"), folder.claimed():
        raise RuntimeError("bad data")
    assert list(tmp_path.iterdir()) == []
    save(tmp_path / "results", made(seed=1))
    before = files(folder)
    with folder.claimed():
        pass
    assert files(folder) == before and not folder.path.exists() and folder.path.parent.is_dir()


def test_it_is_taken_again_when_the_folder_vanishes(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that wrote nothing removes the folders between their making and the lock's."""
    acquire, left = FileLock.acquire, [3]

    def late(lock: FileLock) -> object:
        if left[0]:
            left[0] -= 1
            for above in Path(lock.lock_file).parents[: 1 + left[0]]:
                above.rmdir()
            raise FileNotFoundError(2, "No such file or directory")
        return acquire(lock)

    monkeypatch.setattr("benchmark.record.claim.FileLock.acquire", late)
    assert run(folder) == "made" and left == [0]


def test_it_is_taken_again_when_the_folder_vanishes_while_it_is_made(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, left = os.mkdir, [3]

    def vanishing(path: str, *arguments: int) -> None:
        make(path, *arguments)
        if left[0] and Path(path) == folder.path.parents[1]:
            left[0] -= 1
            os.rmdir(path)

    monkeypatch.setattr(os, "mkdir", vanishing)
    assert run(folder) == "made" and left == [0]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for wrong in ("file", "file/deeper", "nowhere", "nowhere/deeper"):
        with pytest.raises(UserError, match="cannot be written") as caught, alone_in(tmp_path / wrong / "seed0-order0"):
            raise AssertionError("inside")
        assert str(tmp_path / wrong) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "nowhere"] and TRIES < 10_000


# Many at once

RACERS = """
import multiprocessing, os, random, sys, time
from pathlib import Path
from benchmark.errors import UserError
from benchmark.record.claim import alone_in
results, writes = Path(sys.argv[1]), sys.argv[2] == "writes"
folders = [results / "runs" / "three" / "ewc" / "0a" / f"seed{seed}-order0" for seed in (0, 1)]
def race(place, barrier):
    pause = random.Random(place)
    for turn in range(40):
        folder = folders[pause.randrange(2)]
        barrier.wait()
        time.sleep(pause.choice((0, 0, 0.001)))
        while True:
            try:
                with alone_in(folder):
                    inside = results.parent / f"inside {folder.name}"
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                    if writes:
                        folder.mkdir(parents=True, exist_ok=True)
                        count = folder / "count"
                        count.write_text(str(int(count.read_text()) + 1 if count.exists() else 1))
                    os.unlink(inside)
                break
            except UserError as error:
                assert "another process" in str(error), error
barrier = multiprocessing.get_context("fork").Barrier(4)
processes = [multiprocessing.get_context("fork").Process(target=race, args=(place, barrier)) for place in range(4)]
for process in processes:
    process.start()
for process in processes:
    process.join()
sys.exit(sum(process.exitcode != 0 for process in processes))
"""


@pytest.mark.parametrize("what", ["writes", "nothing"])
def test_many_processes_are_inside_one_after_the_other(tmp_path: Path, what: str) -> None:
    command = [sys.executable, "-c", RACERS, str(tmp_path / "results"), what]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    if what == "nothing":
        assert found == []
    else:
        assert {path.name for path in found} == {"count"}
        assert sum(int(path.read_text()) for path in found) == 4 * 40
