"""A run's folder: what state it is in, whose turn it is, and the only place that deletes.

A run is in ``results/runs/<stream>/<method>/<key>/seed<k>-order<o>``. Files appear under their final name only when
they are whole, ``run.json`` last: where it says ``complete`` everything else is there, and is what its ``files`` say.
While a run is made, ``state`` holds what it needs to continue. A run that takes the place of a complete one is made in
``state/anew``, so that the one that is there counts until the other is whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from zipfile import ZipFile

from benchmark.disk import remove, sha256, sync
from benchmark.errors import UserError, warn
from benchmark.record.answers import ANSWERS
from benchmark.record.claim import alone_in
from benchmark.record.foreign import copied
from benchmark.record.schema import Record
from benchmark.record.stored import RECORD, adopt, path_of, read_record, write_csv, write_record, wrong_csvs

PREDICTIONS, METHOD, EXPERTS, STATE, ANEW = "predictions.npz", "method.safetensors", "experts", "state", "anew"
LEFT = (PREDICTIONS, ANSWERS, METHOD, EXPERTS)  # beside the record of a complete run, where it was made


class State(Enum):
    """What is in a run's folder.

    ``elsewhere``: a complete record that came without what a run leaves on the machine that made it; it counts in
    tables, and the command that made it makes it again, as it does with what is ``damaged``. ``foreign``: another run's
    record, which is not thrown away unasked.
    """

    MISSING = "missing"
    UNFINISHED = "unfinished"
    WHOLE = "whole"
    ELSEWHERE = "elsewhere"
    DAMAGED = "damaged"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Found:
    """The state, and the record that it is told from; ``reason``: which file is not as it should be, and why."""

    state: State
    record: Record | None = None
    reason: str = ""

    @property
    def complete(self) -> bool:
        """Whether a complete record is there, wherever it was made, and nothing beside it is damaged."""
        return self.state in (State.WHOLE, State.ELSEWHERE)

    @property
    def diverged(self) -> bool:
        """Whether it stopped for good."""
        return self.state is State.UNFINISHED and self.record is not None and self.record.diverged is not None

    @property
    def counts(self) -> bool:
        """Whether a complete record of this run is there, damaged files beside it or not."""
        return self.state is not State.FOREIGN and self.record is not None and self.record.complete

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
        """What is there now; certain only inside :meth:`claimed`. All files of a complete run are read."""
        file = self.making / RECORD
        if os.path.lexists(self.path) and not self.path.is_dir():
            return Found(State.DAMAGED, None, f"{self.path}: not a folder")
        if not os.path.lexists(file):
            left = self.path.is_dir() and any(self.path.iterdir())
            return Found(State.MISSING, None, f"{file}: not there, other files of a run are" if left else "")
        try:
            record = read_record(file)
        except UserError as error:
            return Found(State.DAMAGED, None, str(error))
        other = self._of_another(record)
        if other:
            return self._foreign(file, record, other)
        if not record.complete or self.making != self.path:
            return Found(State.UNFINISHED, record)
        if not any(os.path.lexists(self.path / name) for name in record.files or (PREDICTIONS,)):
            return Found(State.ELSEWHERE, record)
        reason = next(self._damages(record), None)
        return Found(State.WHOLE, record) if reason is None else Found(State.DAMAGED, record, reason)

    def _of_another(self, record: Record) -> str:
        """What tells the record from that of the run that belongs here; nothing where it is that one's."""
        names, places = ("stream", "method", "key", "seed", "order"), self.path.parts[-4:]
        if self.key is None:
            return ""
        if len(places) < 4 or not places[-1].startswith("seed"):  # a folder somewhere, by a name of its user's
            return "" if record.key == self.key else f"key {record.key}"
        own = (*places[:2], self.key, *places[-1].removeprefix("seed").split("-order"))
        return ", ".join(f"{n} {told}" for n, told, o in zip(names, record.place, own, strict=False) if str(told) != o)

    def _foreign(self, file: Path, record: Record, other: str) -> Found:
        """Another run's record: a copy may go, for it is there where it belongs as well."""
        own = path_of(_above(self.path, 5), record)
        try:
            if read_record(own) == record:
                return Found(State.DAMAGED, None, f"{file}: a copy of the record of {own}")
        except UserError:
            pass
        return Found(State.FOREIGN, record, f"{file}: the record of another run, {other}")

    def _damages(self, record: Record) -> Iterator[str]:
        """What is not as a complete record says, a line for each file."""
        for name, told in (record.files or {}).items():
            if not (self.path / name).is_file():
                yield f"{self.path / name}: not there"
            elif sha256(self.path / name) != told:
                yield f"{self.path / name}: damaged (its sha256 is not the one in {RECORD})"
        if record.files is None and not _archive(self.path / PREDICTIONS):  # made before there were digests
            yield f"{self.path / PREDICTIONS}: damaged (not a whole archive)"
        for name in wrong_csvs(self.path, record):
            yield f"{self.path / name}: not what {RECORD} says"

    @property
    def making(self) -> Path:
        """Where the run that is being made, or was made last, has its files."""
        anew = self.path / STATE / ANEW
        return anew if os.path.lexists(anew / RECORD) else self.path

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
        """Remove what processes left that were killed, and write what is derived from a complete record where it is not
        as it should be.
        """
        building = _building(self.path, self.path.parent.name)
        _put_back(building / "old", self.path)
        remove(building)
        for temporary in (*self.path.glob("*.tmp"), *self.path.rglob(".*.tmp")):
            remove(temporary)
        found = self.found()
        if not found.counts or self.making != self.path:
            return
        if found.complete:  # it was killed between its record and the end
            remove(self.path / STATE)
        if found.state is State.DAMAGED and found.record is not None:
            for name in wrong_csvs(self.path, found.record):
                warn(f"{self.path / name}: not what {RECORD} says: it is written again")
                write_csv(self.path / name, found.record)

    def begin(self, record: Record) -> None:
        """Start a run: what an unfinished one left is deleted, a complete one stays until this one is whole.

        Records go first: where this is killed half-way, nothing of the old run is taken for a part of the new one.
        """
        remove(self.path / STATE / ANEW / RECORD)
        stays = self.found().counts
        if stays:
            remove(self.path / STATE)
        elif self.path.is_dir():
            remove(self.path / RECORD)
            for path in self.path.iterdir():
                remove(path)
        else:
            remove(self.path)
        write_record(self.path / STATE / ANEW if stays else self.path, record)

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
            sync(self.path)
            (making / RECORD).replace(self.path / RECORD)
            sync(self.path)
        remove(self.path / STATE)

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

    To be called inside :meth:`RunFolder.claimed`. Of ``source`` only what a run leaves is taken.
    """
    building = _building(folder, record.key)
    old, new = building / "old", building / "new"
    _put_back(old, folder)
    remove(building)
    try:
        copied(source, new, record)
        adopt(new, source, record)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        _put_back(old, folder)
        remove(building)


def _building(folder: Path, key: str) -> Path:
    """Where a run from elsewhere is put together: no reader looks there for a run.json."""
    return _above(folder, 3) / f".merging-{folder.name}-{key}.tmp"


def _above(folder: Path, floors: int) -> Path:
    return [*folder.absolute().parents][:floors][-1]


def _put_back(old: Path, folder: Path) -> None:
    """What made room for a run that did not come."""
    if old.exists() and not folder.exists():
        old.rename(folder)


def _archive(path: Path) -> bool:
    """Whether this is a zip file of which every part fits its checksum."""
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged one raises anything
        return False
