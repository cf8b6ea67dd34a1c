"""The harness: runs a method over a stream of tasks, records it, compares records.

For scripts and notebooks (:mod:`benchmark.api`), without torch until something is computed:

>>> import benchmark
>>> run = benchmark.run("ncm", "smoke", quiet=True)
>>> run.matrix("given")        # a DataFrame; so are run.summary and benchmark.leaderboard("phantom8")
>>> run.plot(); run.predict("folder/of/images")
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Run", "RunFailed", "UserError", "leaderboard", "load", "methods", "run", "streams"]

if TYPE_CHECKING:
    from benchmark.api import Run, RunFailed, UserError, leaderboard, load, methods, run, streams


def __getattr__(name: str) -> Any:
    """The names of :mod:`benchmark.api`, read when they are asked for: every room of this package imports this file."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from benchmark import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
