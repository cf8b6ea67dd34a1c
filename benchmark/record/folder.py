"""A run's folder: what state it is in, whose turn it is, and the only place that deletes.

A run is in ``results/runs/<stream>/<method>/<key>/seed<k>-order<o>``. Files appear under their final name only when
they are whole, ``run.json`` last: where it says ``complete`` everything else is there. While a run is made, ``state``
holds what it needs to continue. A run that takes the place of a complete one is made in ``state/anew``, so that the one
that is there counts until the other is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from benchmark.errors import UserError
from benchmark.record.claim import alone_in
from benchmark.record.schema import Record
from benchmark.record.stored import RECORD, adopt, read_record, write_record

PREDICTIONS, STATE, ANEW = "predictions.npz", "state", "anew"


class State(Enum):
    """What is in a run's folder.

    ``elsewhere``: a complete record that came without what a run leaves on the machine that made it; it counts in
    tables, and the command that made it makes it again.
    """

    MISSING = "missing"
    UNFINISHED = "unfinished"
    WHOLE = "whole"
    ELSEWHERE = "elsewhere"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Found:
    """The state, and the record that it is told from; ``reason`` of a damaged one."""

    state: State
    record: Record | None = None
    reason: str = ""

    @property
    def complete(self) -> bool:
        """Whether a complete record is there, wherever it was made."""
        return self.state in (State.WHOLE, State.ELSEWHERE)

    @property
    def diverged(self) -> bool:
        """Whether it stopped for good."""
        return self.state is State.UNFINISHED and self.record is not None and self.record.diverged is not None

    @property
    def learned(self) -> int:
        """Tasks that are learned and evaluated."""
        return max(0, self.record.stages - 1) if self.record else 0


class RunFolder:
    """One run's folder, by its path.

    Args:
        path: as ``run_path`` gives it.
        key: of the run; a record of another one is damage.
    """

    def __init__(self, path: Path, key: str | None = None) -> None:
        self.path, self.key = Path(path), key

    # ---- looking --------------------------------------------------------------------------------------------------

    def found(self) -> Found:
        """What is there now; certain only inside :meth:`claimed`."""
        file = self.making / RECORD
        if not file.is_file():
            return Found(State.MISSING)
        try:
            record = read_record(file)
        except UserError as error:
            return Found(State.DAMAGED, None, str(error))
        if self.key is not None and record.key != self.key:
            return Found(State.DAMAGED, record, f"{file}: the record of another run, key {record.key}")
        if not record.complete or self.making != self.path:
            return Found(State.UNFINISHED, record)
        return Found(State.WHOLE if (self.path / PREDICTIONS).is_file() else State.ELSEWHERE, record)

    @property
    def making(self) -> Path:
        """Where the run that is being made, or was made last, has its files."""
        anew = self.path / STATE / ANEW
        return anew if (anew / RECORD).is_file() else self.path

    @property
    def state(self) -> Path:
        """What the run that is being made needs to continue."""
        return self.making / STATE

    # ---- making ---------------------------------------------------------------------------------------------------

    @contextmanager
    def claimed(self) -> Iterator[RunFolder]:
        """Inside, no other process of this machine is in this folder (:func:`alone_in`); to be taken before anything is
        decided.

        Raises:
            UserError: another process is there, or the folder cannot be written.
        """
        with alone_in(self.path):
            self._tidy()
            yield self

    def _tidy(self) -> None:
        """Remove what is left of the making of a run that is complete: it was killed between its record and the end."""
        if (self.path / STATE).exists() and self.found().complete:
            shutil.rmtree(self.path / STATE, ignore_errors=True)

    def begin(self, record: Record) -> None:
        """Start a run: what an unfinished one left is deleted, a complete one stays until this one is whole.

        Records go first: where this is killed half-way, nothing of the old run is taken for a part of the new one.
        """
        (self.path / STATE / ANEW / RECORD).unlink(missing_ok=True)
        complete = self.found().complete
        if not complete:
            (self.path / RECORD).unlink(missing_ok=True)
        shutil.rmtree(self.path / STATE if complete else self.path, ignore_errors=True)
        write_record(self.path / STATE / ANEW if complete else self.path, record)

    def write(self, record: Record) -> None:
        """The record as it is now, with the CSV of every matrix."""
        write_record(self.making, record)

    def finish(self, record: Record) -> None:
        """The run is whole: everything else that it leaves is in :attr:`making`, its record comes last.

        Then the state is gone. Where this is killed half-way, the same command comes here again.
        """
        making = self.making
        write_record(making, record)
        if making != self.path:
            self._make_room()
            for path in _beside_record(making):
                path.replace(self.path / path.name)
            (making / RECORD).replace(self.path / RECORD)
        shutil.rmtree(self.path / STATE, ignore_errors=True)

    def _make_room(self) -> None:
        """Put aside what the old run left beside its record, once: what comes there later is the new run's."""
        aside, done = self.path / STATE / "aside", self.path / STATE / "done"
        if not done.exists():
            aside.mkdir(exist_ok=True)
            for path in _beside_record(self.path):
                path.replace(aside / path.name)
            aside.rename(done)


def _beside_record(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name not in (RECORD, STATE)]


def replaced(folder: Path, source: Path, record: Record) -> None:
    """Put a complete run from elsewhere at ``folder``, whole from the first moment; one that is there makes room.

    To be called inside :meth:`RunFolder.claimed`. What belongs to the making of a run is left behind.
    """
    building = folder.parents[2] / f".merging-{folder.name}-{record.key}.tmp"  # where no reader looks for a run.json
    old, new = building / "old", building / "new"
    _put_back(old, folder)
    shutil.rmtree(building, ignore_errors=True)
    try:
        shutil.copytree(source, new, ignore=shutil.ignore_patterns(STATE, ".*"))
        adopt(new, source, record)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        _put_back(old, folder)
        shutil.rmtree(building, ignore_errors=True)


def _put_back(old: Path, folder: Path) -> None:
    """What made room for a run that did not come."""
    if old.exists() and not folder.exists():
        old.rename(folder)
