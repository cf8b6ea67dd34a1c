"""Tables of odd inputs: each is refused in one line, or accepted with the right meaning, and nothing is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmark.errors import UserError

Case = tuple[str, Any, str | None]  # name, input, a part of the line it is refused with; None: it is accepted


def written_below(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every path below a folder, with what changes when it is written."""
    found = {}
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            state = os.lstat(f"{top}/{name}")
            folder_size = 0 if name in folders else state.st_size
            found[f"{top}/{name}"] = (state.st_mode, folder_size, 0 if name in folders else state.st_mtime_ns)
    return found


def check(cases: Iterable[Case], run: Callable[[Any], object], tally: Callable[..., None], folder: Path) -> None:
    """Give every input to ``run``, which raises a UserError where it refuses; ``folder`` stays as it is."""
    wrong, before = [], written_below(folder)
    for name, given, says in cases:
        try:
            run(given)
            line = None
        except UserError as error:
            line = str(error)
        except BaseException as error:  # what a user would see as a traceback
            wrong.append(f"{name}: {type(error).__name__}: {error}"[:500])
            continue
        if (line is None) != (says is None) or (line is not None and says is not None and says not in line):
            wrong.append(f"{name}: {line!r} instead of {says!r}"[:700])
        elif line is not None and (not line.isprintable() or len(line) > 2100):
            wrong.append(f"{name}: not a line: {line!r}"[:500])
        else:
            tally("refused in one line" if line is not None else "accepted as meant")
    after = written_below(folder)
    wrong += [f"written: {path}" for path in after.keys() | before.keys() if after.get(path) != before.get(path)]
    assert not wrong, "\n".join(wrong)
