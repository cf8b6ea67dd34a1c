"""What ends a command before it is done, in one line: what a user did wrong, a run that failed, a signal; and what is
left out or made again by one that goes on, in a line each."""

from __future__ import annotations

import linecache
import os
import sys
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from reprlib import Repr

SHORT = Repr()
SHORT.maxlevel, SHORT.maxdict, SHORT.maxlist, SHORT.maxstring, SHORT.maxother = 2, 4, 6, 80, 80
NAMES = 40  # most names that a message lists
LONGEST = 2000  # characters of a message

_noticed: set[str] = set()


class UserError(Exception):
    """Bad input: the command line prints the message alone, writes nothing and exits with status 2.

    The message is one line of characters that can be printed, whatever names it was made of.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """The text without line ends and what else moves a terminal's cursor, and not longer than a reader bears."""
    line = "".join(char if char.isprintable() else _escaped(char) for char in text[:LONGEST])
    return line + ("..." if len(text) > LONGEST else "")


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def shown(value: object) -> str:
    """A value as a message shows it: as Python writes it, the middle of what is long or nested left out."""
    try:
        return SHORT.repr(value)
    except Exception:  # a user's own class may raise anything; so do whole numbers of too many digits
        return f"a {type(value).__name__}"


def notice(line: str) -> None:
    """Say on stderr what stops nothing, each line once a command."""
    if line not in _noticed:
        _noticed.add(line)
        print(one_line(line), file=sys.stderr)


def forget_notices() -> None:
    """A command begins: what was said before is said again."""
    _noticed.clear()


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


def spot(file: str | os.PathLike[str], number: int) -> str:
    """A line of a file as a message shows it: ``methods/mine.py:12: self.head(x)``, as seen from the working folder."""
    path = os.path.relpath(file)
    path = os.fspath(file) if path.startswith(os.pardir) else path
    return f"{path}:{number}: {linecache.getline(os.fspath(file), number).strip()[:200]}"


def through(error: BaseException, files: Iterable[str | os.PathLike[str]]) -> str | None:
    """An error in one line, with the innermost line of these files that it came through; None if it came through none.

    ``AttributeError: 'Mine' object has no attribute 'head' (methods/mine.py:12: self.head(x))``.
    """
    own = {os.path.realpath(file) for file in files}
    frames = [each for each in traceback.extract_tb(error.__traceback__) if os.path.realpath(each.filename) in own]
    if not frames or frames[-1].lineno is None:
        return None
    return f"{in_short(error)} ({spot(frames[-1].filename, frames[-1].lineno)})"


def in_short(error: BaseException) -> str:
    """The type of an error and what it says, in one line."""
    text = " ".join(str(error).split())
    return type(error).__name__ + (f": {text[:300]}" if text else "")


def warn(line: str) -> None:
    """Tell the user in one line what goes on otherwise than asked for; the command goes on."""
    print(one_line(f"warning: {line}"), file=sys.stderr, flush=True)


def unknown(what: str, given: object, valid: Iterable[object], where: str = "") -> UserError:
    """An error that names the nearest valid value: ``file.yaml: unknown key 'templat' (did you mean 'template'?)``."""
    names, text = sorted(str(name) for name in valid), given if isinstance(given, str) else shown(given)
    begun = [name for name in names if text and name.startswith(text)]
    close = begun or get_close_matches(text[:LONGEST], names[:LONGEST], n=1, cutoff=0.5)
    more = f", and {len(names) - NAMES} more" if len(names) > NAMES else ""
    hint = f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(names[:NAMES])}{more}"
    return UserError(f"{where + ': ' if where else ''}unknown {what} {shown(text)} ({hint})")
