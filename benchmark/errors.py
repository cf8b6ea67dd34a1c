"""What ends a command before it is done, in one line: what a user did wrong, a run that failed, a signal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input: the command line prints the message alone, writes nothing and exits with status 2."""


class RunFailed(Exception):
    """A method computes nonsense or breaks its contract: the command line prints the message alone and exits with 1."""


class Interrupted(BaseException):
    """A signal asks this process to end; no ``except Exception`` catches it.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def warn(line: str) -> None:
    """Tell the user in one line what goes on otherwise than asked for; the command goes on."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def unknown(what: str, given: object, valid: Iterable[object], where: str = "") -> UserError:
    """An error that names the nearest valid value: ``file.yaml: unknown key 'templat' (did you mean 'template'?)``."""
    names = sorted(str(name) for name in valid)
    begun = [name for name in names if given and name.startswith(str(given))]
    close = begun or get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(names)}"
    return UserError(f"{where + ': ' if where else ''}unknown {what} {str(given)!r} ({hint})")
