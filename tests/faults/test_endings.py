"""A signal at any moment is told in one line and by the exit code; the same command continues to the same bytes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from benchmark import endings
from benchmark.cli import main
from tests.faults.disturbed import MOMENTS, Process, at, command, continues, told

SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
LINE = "interrupted: the same command continues\n"


def hearing() -> None:
    """What a script starts with ``&`` is deaf to SIGINT, and so is all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def signalled(where: str, number: int, folder: Path, straight: dict[str, bytes]) -> None:
    """A run that gets a signal at a moment tells it; the same command comes to the same end."""
    results, error = folder / "results", folder / "error"

    def run(reached: Callable[[], None]) -> int:
        if where == "decoding":
            os.environ["MBIL_CACHE"] = str(folder / "cache")
        with at(where, reached):
            return main(command(results))

    process = Process(run, error)
    assert process.end(number) == SIGNALS[number]
    assert error.read_text() == LINE
    continues(results, straight)


@pytest.mark.parametrize(("where", "number"), [("training", signal.SIGTERM)])
def test_a_signal_is_told_and_the_same_command_continues(
    where: str, number: int, tmp_path: Path, straight: dict[str, bytes], tally: Callable[..., None]
) -> None:
    signalled(where, number, tmp_path, straight)
    tally("signals told and continued to the same bytes")


@pytest.mark.slow
@pytest.mark.parametrize("number", list(SIGNALS))
@pytest.mark.parametrize("where", list(MOMENTS))
def test_a_signal_at_any_moment(
    where: str, number: int, tmp_path: Path, straight: dict[str, bytes], tally: Callable[..., None]
) -> None:
    signalled(where, number, tmp_path, straight)
    tally("signals told and continued to the same bytes")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "after"), [(number, after) for number in SIGNALS for after in (0.4, 1.0, 2.0)])
def test_a_signal_while_everything_is_imported(
    number: int, after: float, tmp_path: Path, tally: Callable[..., None]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark", *command(tmp_path)], stderr=subprocess.PIPE, preexec_fn=hearing, text=True
    )
    time.sleep(after)
    process.send_signal(number)
    begun = time.monotonic()
    error = process.communicate(timeout=30)[1]
    assert time.monotonic() - begun < 10
    assert (process.returncode, error) == (SIGNALS[number], LINE)
    tally("signals told during imports")


def test_more_signals_while_it_ends_change_nothing(tmp_path: Path, tally: Callable[..., None]) -> None:
    def run(reached: Callable[[], None]) -> int:
        with at("training", reached):
            return main(command(tmp_path))

    process = Process(run, tmp_path / "error")
    assert process.end(signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGTERM) == 129
    assert (tmp_path / "error").read_text() == LINE
    tally("several signals told once")


def endless(reached: Callable[[], None]) -> int:
    """Like a callback of a library, it loses whatever is raised in it."""
    while True:
        try:
            reached()
        except BaseException:
            continue


def in_c(reached: Callable[[], None]) -> int:
    """No Python code runs here for a long time."""
    threading.Timer(0.05, reached).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    return 0


@pytest.mark.parametrize("held_up", [endless, in_c])
def test_whatever_holds_it_up_it_ends_in_time(
    held_up: Callable[[Callable[[], None]], int], tmp_path: Path, tally: Callable[..., None]
) -> None:
    process = Process(lambda reached: endings.ended(lambda: held_up(reached), patience=0.3), tmp_path / "error")
    assert process.end(signal.SIGTERM, seconds=5) == 143
    assert (tmp_path / "error").read_text() == LINE
    tally("held up, and ended in time")


@pytest.mark.slow
def test_what_is_ignored_stays_ignored(tmp_path: Path, tally: Callable[..., None]) -> None:
    """Under nohup a run outlives its terminal."""

    def run(reached: Callable[[], None]) -> int:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with at("training", reached):
            code = main(command(tmp_path, "--limit", "8"))
        return code if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else 98

    assert Process(run, tmp_path / "error").end(signal.SIGHUP, seconds=60) == 0
    tally("ignored signals ignored")


@pytest.mark.slow
def test_a_caller_keeps_its_handlers(tmp_path: Path, tally: Callable[..., None]) -> None:
    """The command line gives them back; a thread of another program, and what it calls itself, never touch them."""

    def own(number: int, frame: object) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        before = {number: signal.signal(number, own) for number in SIGNALS}
        patch.setattr(signal, "set_wakeup_fd", signal.set_wakeup_fd)
        try:
            assert told("list", "nonsense")[0] == 2
            thread = threading.Thread(target=lambda: codes.append(main(command(tmp_path, "--limit", "8"))))
            codes: list[int] = []
            thread.start()
            thread.join()
            assert codes == [0] and all(signal.getsignal(number) is own for number in SIGNALS)
            assert signal.set_wakeup_fd(-1) == -1
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    tally("handlers given back")


@pytest.mark.slow
def test_ctrl_c_in_a_program_of_ones_own_is_what_it_always_is(tmp_path: Path) -> None:
    """Lightning would exit with status 1, and be deaf to it from then on."""
    from benchmark.config import arguments
    from benchmark.running.execute import execute

    argv = command(tmp_path)[1:]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    try:
        with at("training", stop), pytest.raises(KeyboardInterrupt):
            execute(*arguments.parse("run", argv, with_class=True), _console())
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def _console() -> Any:
    from rich.console import Console

    return Console(file=StringIO())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("number", "group"), [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGHUP, True)])
def test_processes_that_learn_together_end_together(
    number: int, group: bool, tmp_path: Path, tally: Callable[..., None]
) -> None:
    """A signal to the first one alone, as of a scheduler, or to all of them, as of a terminal."""
    argv = command(tmp_path, "--devices", "2", "--epochs", "200")
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark", *argv],
        stderr=subprocess.PIPE,
        preexec_fn=hearing,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("fit-0*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    others = _descendants(process.pid)
    assert others
    begun = time.monotonic()
    (os.killpg if group else os.kill)(process.pid, number)
    error = process.communicate(timeout=30)[1]
    assert (process.returncode, error) == (SIGNALS[number], LINE) and time.monotonic() - begun < 10
    ends = time.monotonic() + 10
    while any(Path(f"/proc/{each}").exists() for each in others):
        assert time.monotonic() < ends, "an orphan is left"
        time.sleep(0.05)
    tally("processes that learn together, ended together")


def _descendants(pid: int) -> list[int]:
    told = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    children = [int(child) for each in told for child in each]
    return [each for child in children for each in (child, *_descendants(child))]


@pytest.mark.slow
@pytest.mark.parametrize("number", list(SIGNALS))
def test_a_sweep_ends_its_cells_and_says_so(number: int, tmp_path: Path, tally: Callable[..., None]) -> None:
    """Warm workers and a cell that trains; the record of the cell goes on where it was."""
    argv = ["sweep", "--methods", "sequential_lora", "--streams", "smoke", "--epochs", "200", "--device", "cpu"]
    argv += ["--jobs", "1", "--results", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark", *argv],
        stderr=subprocess.PIPE,
        preexec_fn=hearing,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("fit-0*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    others = _descendants(process.pid)
    process.send_signal(number)
    error = process.communicate(timeout=20)[1]
    assert (process.returncode, error) == (SIGNALS[number], LINE)
    ends = time.monotonic() + 5
    while any(Path(f"/proc/{each}").exists() for each in others):
        assert time.monotonic() < ends, "an orphan is left"
        time.sleep(0.05)
    tally("sweeps ended with their cells")
