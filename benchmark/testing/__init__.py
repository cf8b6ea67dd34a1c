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
from benchmark.running.load import quiet
from benchmark.testing.bench import Bench
from benchmark.testing.contract import CHECKS
from methods.base import IncrementalMethod

__all__ = ["Result", "check_method"]


@dataclass(frozen=True)
class Result:
    """One check: its sentence, and why it failed if it did."""

    name: str
    passed: bool
    reason: str = ""


def check_method(
    cls: type[IncrementalMethod], raise_on_failure: bool = False, among: Sequence[str] | None = None
) -> list[Result]:
    """Hold a method's class against the contract, for every kind of task it learns; a result per check and kind.

    Args:
        among: of these kinds those that it learns; of all by default.

    Raises:
        AssertionError: with ``raise_on_failure``, naming every check that failed.
    """
    quiet()
    results = [result for kind in cls.kinds if among is None or kind in among for result in _check(cls, kind)]
    failed = [result for result in results if not result.passed]
    if raise_on_failure and failed:
        raise AssertionError("; ".join(f"{result.name}: {result.reason}" for result in failed))
    return results


def _check(cls: type[IncrementalMethod], kind: str) -> list[Result]:
    results = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(cls, Path(folder), kinds.of(kind))
        for check in CHECKS:
            name = check.__name__.replace("_", " ") + ("" if kind in IncrementalMethod.kinds else f" ({kind})")
            try:
                check(bench)
                results.append(Result(name, True))
            except AssertionError as error:
                results.append(Result(name, False, str(error)))
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                reason = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
                results.append(Result(name, False, reason))
    return results
