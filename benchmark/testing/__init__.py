"""``check_method``: the contract of a method, as code.

A new method passes ``make check METHOD=name`` before its numbers mean anything.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import kinds
from benchmark.errors import RunFailed, in_short, spot, through
from benchmark.running import mistakes
from benchmark.running.load import quiet
from benchmark.testing.bench import Bench
from benchmark.testing.contract import CHECKS
from methods.base import IncrementalMethod

__all__ = ["Result", "check_method"]


@dataclass(frozen=True)
class Result:
    """One check: its sentence, and why it failed if it did; ``ends``: no other check follows."""

    name: str
    passed: bool
    reason: str = ""
    ends: bool = False


def check_method(
    cls: type[IncrementalMethod],
    raise_on_failure: bool = False,
    among: Sequence[str] | None = None,
    first: bool = False,
) -> list[Result]:
    """Hold a method's class against the contract, for every kind of task it learns; a result per check and kind.

    A check in which the method cannot be run at all is the last result: what would follow is the same mistake.

    Args:
        among: of these kinds those that it learns; of all by default.
        first: whether any check that fails is the last result.

    Raises:
        AssertionError: with ``raise_on_failure``, naming every check that failed.
    """
    quiet()
    results: list[Result] = []
    for kind in cls.kinds:
        if (among is None or kind in among) and not any(result.ends for result in results):
            results += _check(cls, kind, first)
    failed = [result for result in results if not result.passed]
    if raise_on_failure and failed:
        raise AssertionError("; ".join(f"{result.name}: {result.reason}" for result in failed))
    return results


def _check(cls: type[IncrementalMethod], kind: str, first: bool) -> list[Result]:
    results = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(cls, Path(folder), kinds.of(kind))
        for check in CHECKS:
            name = check.__name__.replace("_", " ") + ("" if kind in IncrementalMethod.kinds else f" ({kind})")
            try:
                check(bench)
                results.append(Result(name, True))
            except AssertionError as error:
                results.append(Result(name, False, str(error), ends=first))
                if first:
                    break
            except Exception as error:
                results.append(Result(name, False, _reason(error, cls), ends=True))
                break
    return results


def _reason(error: Exception, cls: type[IncrementalMethod]) -> str:
    """What went wrong, in a line of the method's own file if it has one."""
    if isinstance(error, RunFailed):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    line = spot(place.filename, place.lineno or 0)
    return through(error, mistakes.files(cls)) or f"{in_short(error)} ({line})"
