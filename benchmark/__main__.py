"""``python -m benchmark``, and ``mbil`` where the package is installed."""

import os
import sys
from contextlib import suppress
from pathlib import Path


def _leave_the_checkout() -> None:
    """A folder named ``datasets`` beside this package must not be found as Hugging Face's package of that name.

    The checkout's root leaves the import path once ``benchmark`` and ``methods`` resolve without it.
    """
    import methods

    root = Path(__file__).resolve().parent.parent
    if Path(next(iter(methods.__path__))).parent == root and Path(sys.path[0] or ".").resolve() == root:
        del sys.path[0]


def start() -> None:
    """Do what the command line says, and leave with its exit status."""
    _leave_the_checkout()
    from benchmark.cli import main

    code = main()
    if code > 128:  # a signal: what Python takes apart at its end must not hold it up
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    start()
