"""What goes wrong around a run, provoked: kills, damage, foreign records, bad input, full disks.

A group is a file; its long half is marked ``slow``. ``make test-faults`` runs both and prints what each group counted,
summed over all tests and processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from benchmark.cli import main
from tests.faults.disturbed import command, tables

COUNTED = "counted"


@pytest.fixture
def tally(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """``tally("killed")``: one more of these in the group of this test's file; ``tally("killed", 3)``: three."""
    group = request.path.stem.removeprefix("test_").replace("_", " ")

    def count(outcome: str, number: int = 1) -> None:
        record_property(COUNTED, [group, outcome, number])

    return count


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The matrices of the run of ``tests.faults.disturbed.command`` that nothing disturbs."""
    results = tmp_path_factory.mktemp("straight")
    assert main(command(results)) == 0
    return tables(results)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts: dict[str, Counter[str]] = {}
    for group, outcome, number in _counted(terminalreporter.stats.get("passed", ())):
        counts.setdefault(group, Counter())[outcome] += number
    for group, outcomes in sorted(counts.items()):
        said = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
        terminalreporter.write_line(f"faults, {group}: {said}")


def _counted(reports: Iterable[Any]) -> Iterable[tuple[str, str, int]]:
    for report in reports:
        for name, value in report.user_properties if report.when == "call" else ():
            if name == COUNTED:
                yield value
