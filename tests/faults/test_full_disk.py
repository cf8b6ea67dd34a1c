"""A disk that is full, read-only, slow to come back or gone: one line with path and reason, exit code 2, nothing lost.

A real disk of a few hundred kilobytes, mounted for a copy of this process alone, where the machine lets one; limits of
the system; and the operations themselves, which fail from the n-th on.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import io
import os
import resource
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.cli import main
from benchmark.config import arguments, space
from benchmark.config.resolve import resolve
from tests.faults.disturbed import Process, at, command, continues, told

MS_RDONLY, MS_REMOUNT = 1, 32
NEW_NAMESPACE, NEW_USER = 0x20000, 0x10000000
OPERATIONS = ("replace", "rename", "mkdir", "fsync")
POINTS = 15  # of all operations of a run, from the first to the last
TALLY = "full or failing disks, told and continued to the same bytes"


def line_of(code: int, error: str, path: Path | str, reason: str) -> None:
    """One line that names a path below this one, and why."""
    assert code == 2 and error.count("\n") == 1, (code, error)
    assert error.startswith(f"error: {path}") and reason in error, error


@contextmanager
def failing(number: int, first: int, folder: Path) -> Iterator[list[str]]:
    """Inside, from the n-th on every operation that changes something below ``folder`` fails."""
    done: list[str] = []

    def tried(name: str, path: Any) -> None:
        below = isinstance(path, int) or str(os.fspath(path)).startswith(str(folder))
        if below:
            done.append(name)
        if below and len(done) >= first:
            raise OSError(number, os.strerror(number), *([] if isinstance(path, int) else [str(path)]))

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            tried(name, path)
            return original(path, *arguments, **options)

        return call

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode) & set("wxa+"):
            tried("open", file)
        return original(file, mode, *arguments, **options)

    original = builtins.open
    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, wrapped(name, getattr(os, name)))
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        yield done


def fails(number: int, first: int, results: Path, straight: dict[str, bytes]) -> bool:
    """A run whose n-th operation fails tells it; then it continues to the same end. False if it has fewer of them."""
    with failing(number, first, results) as done:
        code, error = told(*command(results))
    if len(done) < first:
        assert (code, error) == (0, "")
        return False
    line_of(code, error, results, os.strerror(number))
    continues(results, straight)
    return True


@pytest.mark.parametrize(("number", "first"), [(errno.EROFS, 20)])
def test_an_operation_that_fails_is_told(
    number: int, first: int, tmp_path: Path, straight: dict[str, bytes], tally: Callable[..., None]
) -> None:
    assert fails(number, first, tmp_path / "results", straight)
    tally(TALLY)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_operations_that_fail_are_told(tmp_path: Path, straight: dict[str, bytes], tally: Callable[..., None]) -> None:
    with failing(0, 10**9, tmp_path) as done:
        assert told(*command(tmp_path / "all")) == (0, "")
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ESTALE, errno.EIO, errno.EACCES)
    for count in range(POINTS):
        first = 1 + count * (len(done) - 1) // (POINTS - 1)
        assert fails(numbers[count % len(numbers)], first, tmp_path / str(first), straight), first
    tally(TALLY, POINTS)


# ---- limits of the system


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "value", "where", "reason"),
    [
        (resource.RLIMIT_FSIZE, 1000, "training", "File too large"),
        (resource.RLIMIT_FSIZE, 100, "finishing", "File too large"),
        (resource.RLIMIT_NOFILE, 0, "training", "Too many open files"),
    ],
)
def test_a_limit_of_the_system_is_told(
    limit: int, value: int, where: str, reason: str, tmp_path: Path, straight: dict[str, bytes],
    tally: Callable[..., None],
) -> None:  # fmt: skip
    results = tmp_path / "results"

    def run(_: Callable[[], None]) -> int:
        hard = resource.getrlimit(limit)[1]
        before = resource.getrlimit(limit)
        with at(where, lambda: resource.setrlimit(limit, (value, hard))):
            code, error = told(*command(results))
        resource.setrlimit(limit, before)
        line_of(code, error, "", reason)
        continues(results, straight)
        return 0

    assert Process(run, tmp_path / "error").wait() == 0, (tmp_path / "error").read_text()
    tally(TALLY)


# ---- a disk of its own


def mounted(where: Path, size: str, flags: int = 0) -> None:
    """A disk in memory of this size at ``where``, or there already and of another size from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", bytes(where), b"tmpfs", ctypes.c_ulong(flags), f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), "mount")


def alone() -> bool:
    """See mounts that no other process sees; False where this machine does not let one."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(NEW_NAMESPACE | (NEW_USER if user else 0)):
        return False
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return libc.mount(b"none", b"/", None, ctypes.c_ulong((1 << 18) | (1 << 14)), None) == 0  # private, all below


def on_a_disk(size: str, folder: Path, straight: dict[str, bytes], cache: bool = False) -> None:
    """A run on a disk that is too small is told, and continues once there is space."""
    results = folder / "disk" / "results"

    def run(_: Callable[[], None]) -> int:
        if not alone():
            return 77
        (folder / "disk").mkdir()
        mounted(folder / "disk", size)
        if cache:
            os.environ["MBIL_CACHE"] = str(folder / "disk" / "cache")
        code, error = told(*command(results))
        line_of(code, error, "", "")
        assert "No space left on device" in error or ": too little" in error, error
        assert str(folder / "disk") in error, error
        mounted(folder / "disk", "64m", MS_REMOUNT)
        continues(results, straight)
        return 0

    code = Process(run, folder / "error").wait()
    if code == 77:
        pytest.skip("this machine lets nobody mount a disk")
    assert code == 0, (folder / "error").read_text()


def test_a_full_disk(tmp_path: Path, straight: dict[str, bytes], tally: Callable[..., None]) -> None:
    on_a_disk("400k", tmp_path, straight)
    tally(TALLY)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["8k", "40k", "100k", "200k", "300k", "500k", "600k", "700k"])
def test_full_disks(size: str, tmp_path: Path, straight: dict[str, bytes], tally: Callable[..., None]) -> None:
    on_a_disk(size, tmp_path, straight)
    tally(TALLY)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["100k", "500k", "900k", "1500k"])
def test_a_full_disk_under_the_cache(
    size: str, tmp_path: Path, straight: dict[str, bytes], tally: Callable[..., None]
) -> None:
    on_a_disk(size, tmp_path, straight, cache=True)
    tally(TALLY)


# ---- what is gone, and what cannot be


@pytest.mark.slow
@pytest.mark.parametrize("where", ["evaluating", "writing a checkpoint"])
def test_a_results_folder_that_vanishes(
    where: str, tmp_path: Path, straight: dict[str, bytes], tally: Callable[..., None]
) -> None:
    """What was in it is lost; what is begun again is whole, or is told."""
    results = tmp_path / "results"
    with at(where, lambda: shutil.rmtree(results)):
        code, error = told(*command(results))
    if code:
        line_of(code, error, results, "No such file or directory")
    continues(results, straight, "--force")
    tally("vanished folders, told")


@pytest.mark.slow
def test_a_working_folder_that_vanishes(tmp_path: Path, tally: Callable[..., None]) -> None:
    gone = tmp_path / "gone"

    def run(_: Callable[[], None]) -> int:
        gone.mkdir()
        os.chdir(gone)
        with at("training", lambda: shutil.rmtree(gone)):
            code, error = told(*command(Path("results")))
        assert code == 2 and error.count("\n") == 1 and "No such file or directory" in error, error
        code, error = told(*command(Path("results")))
        assert code == 2 and error.count("\n") == 1, error
        return 0

    assert Process(run, tmp_path / "error").wait() == 0, (tmp_path / "error").read_text()
    tally("vanished folders, told")


@pytest.mark.parametrize("verb", ["run", "leaderboard", "report", "plan", "merge"])
def test_a_name_that_is_too_long(verb: str, tmp_path: Path, tally: Callable[..., None]) -> None:
    results = tmp_path / ("x" * 300)
    argv = {"run": command(results), "plan": ["plan", *command(results)[1:-1], str(results)]}
    other = {"leaderboard": [], "report": [], "merge": ["--from", str(tmp_path)]}
    code, error = told(*argv.get(verb, [verb, *other.get(verb, []), "--results", str(results)]))
    assert code in (0, 2) and error.count("\n") == (code == 2), error
    assert code == 2 or verb not in ("run",)
    assert not any(tmp_path.iterdir())
    tally("names too long, told")


# ---- space


Usage = namedtuple("Usage", "total used free")


def test_what_cannot_have_room_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tally: Callable[..., None]
) -> None:
    """Also where there is room enough for the cache and for the run, but not for both on their one disk."""
    cache, results = tmp_path / "cache", tmp_path / "results"
    monkeypatch.setenv("MBIL_CACHE", str(cache))
    free = [10**9]
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: Usage(10**10, 0, free[0]))
    argv = command(results)
    config, card, _ = arguments.parse("plan", argv[1:], with_class=False)
    images, run = (room.needed for room in space.rooms(resolve(config, card, False), 64))
    for free[0], said in (
        (1, "the image cache: "),
        (images - 1, "the image cache: "),
        (images, "the image cache and "),
    ):
        code, error = told(*argv)
        line_of(code, error, said, ": too little")
        assert main(["plan", *argv[1:]]) == 0
        assert f"space for {said}" in capsys.readouterr().out
        assert not list(tmp_path.rglob("run.json")) and not list(cache.rglob("*.npy"))
    free[0] = images + run
    assert told(*argv) == (0, "")
    made = sum(np.load(file, mmap_mode="r").nbytes for file in cache.rglob("*_images.npy"))
    left = sum(file.stat().st_size for file in results.rglob("predictions.npz"))
    assert made == images and left < run
    tally("runs without room, not begun", 3)
