"""Processes killed with SIGKILL at random moments, again and again: the same command comes to the same bytes.

A process is copied when all is imported, and has a cache of images of its own, which it makes first.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.cli import main
from tests.faults.small_runs import command, folder_of, forked, outcome

QUICK = [("sequential_lora", "classification", 2)]
SLOW = [
    ("mslora_cr", "classification", 12), ("er", "classification", 10), ("joint_lora", "classification", 10),
    ("ranpac", "classification", 10), ("l2p", "classification", 10), ("independent_lora", "fusion", 12),
    ("lwf", "classification", 10), ("sequential_lora", "retrieval", 12),
    ("lpi", "retrieval", 10), ("ewc", "fusion", 10), ("stacked_lora", "fusion", 10),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "kind", "kills"), [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)]
)
def test_killed_at_random_moments(
    method: str, kind: str, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable[..., None]
) -> None:
    monkeypatch.setenv("MBIL_CACHE", str(tmp_path / "cache"))
    assert main(command(tmp_path / "straight", method, kind)) == 0  # what is made once a process is made now
    begun = time.perf_counter()
    assert main(command(tmp_path / "straight", method, kind, "--force")) == 0
    length, expected = time.perf_counter() - begun, outcome(folder_of(tmp_path / "straight"))
    chance, killed, rounds = random.Random(method), 0, 0
    while killed < kills:
        rounds += 1
        results, cache = tmp_path / f"results{rounds}", tmp_path / f"cache{rounds}"
        monkeypatch.setenv("MBIL_CACHE", str(cache))
        line = command(results, method, kind)
        while killed < kills and (code := killed_after(chance.uniform(0, length), line)) != 0:
            assert code == -signal.SIGKILL, f"exit code {code}"
            killed += 1
        assert ended(forked(line)) == 0
        assert outcome(folder_of(results)) == expected
        assert not leftovers(results) + leftovers(cache)
        tally("runs brought to their end, the same bytes")
    tally("kills", killed)


def killed_after(seconds: float, line: list[str]) -> int:
    """The exit code of the command, which is killed if it has not ended by then."""
    process, until = forked(line), time.monotonic() + seconds
    while time.monotonic() < until:
        there, status = os.waitpid(process, os.WNOHANG)
        if there:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    return ended(process)


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def leftovers(folder: Path) -> list[str]:
    """Files and folders of the killed that are still there."""
    return [path.name for path in folder.rglob("*") if path.name.startswith(".") or path.name == "state"]
