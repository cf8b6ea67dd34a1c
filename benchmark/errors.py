"""What a user did wrong, in one line; and what is left out of a command that goes on, in a line each."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # would act on a terminal, or end the line
_noticed: set[str] = set()


class UserError(Exception):
    """Bad input: the command line prints the message alone, writes nothing and exits with status 2."""

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """The text without line ends and what else moves a terminal's cursor: names of files may hold anything."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def notice(line: str) -> None:
    """Say on stderr what stops nothing, each line once a command."""
    if line not in _noticed:
        _noticed.add(line)
        print(one_line(line), file=sys.stderr)


def forget_notices() -> None:
    """A command begins: what was said before is said again."""
    _noticed.clear()


def unknown(what: str, given: object, valid: Iterable[object], where: str = "") -> UserError:
    """An error that names the nearest valid value: ``file.yaml: unknown key 'templat' (did you mean 'template'?)``."""
    names = sorted(str(name) for name in valid)
    begun = [name for name in names if given and name.startswith(str(given))]
    close = begun or get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(names)}"
    return UserError(f"{where + ': ' if where else ''}unknown {what} {str(given)!r} ({hint})")
