"""A run's folder: what state it is in, whose turn it is, and the only place that deletes.

A run is in ``results/runs/<stream>/<method>/<key>/seed<k>-order<o>``. Files appear under their final name only when
they are whole, ``run.json`` last: where it says ``complete`` everything else is there. While a run is made, ``state``
holds what it needs to continue. A run that takes the place of a complete one is made in ``state/anew``, so that the one
that is there counts until the other is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from benchmark.errors import UserError
from benchmark.record.claim import alone_in
from benchmark.record.files import csv_text, decimals, write_bytes, write_json, write_text
from benchmark.record.schema import Matrix, Record
from benchmark.record.summary import missing_rows

RECORD, PREDICTIONS, STATE, ANEW = "run.json", "predictions.npz", "state", "anew"


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


# Paths and records


def run_path(results: Path, stream_folder: str, method: str, key: str, seed: int, order: int) -> Path:
    """``results/runs/<stream>/<method>/<key>/seed<k>-order<o>``."""
    return Path(results) / "runs" / stream_folder / method / key / f"seed{seed}-order{order}"


def path_of(results: Path, record: Record) -> Path:
    """Where a record belongs."""
    return run_path(results, *record.place)


def stream_folder(results: Path, name: str, hashed: str) -> str:
    """The stream's name; with the start of its hash if records of another stream have that name."""
    for path in run_files(results, name):
        return name if read_record(path).stream.hash == hashed else f"{name}@{hashed[:6]}"
    return name


def run_files(results: Path, stream: str | None = None) -> list[Path]:
    """Every ``run.json``, of one stream's folder or of all, sorted."""
    runs = Path(results) / "runs"
    folders = [runs / stream] if stream is not None else runs.glob("*")
    return sorted(path for folder in folders for path in folder.glob(f"*/*/*/{RECORD}"))


def read_record(path: Path) -> Record:
    """The record in ``path``, a run's folder or its ``run.json``, in today's schema.

    Raises:
        UserError: naming the file, when it is missing, is no JSON or no record, or was written by a newer version.
    """
    file = Path(path) / RECORD if Path(path).is_dir() else Path(path)
    try:
        return _parsed(file, file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def _parsed(file: Path, data: bytes) -> Record:
    try:
        value = json.loads(data, parse_constant=lambda _: None)  # NaN is null, whoever wrote it
    except (ValueError, RecursionError) as error:  # of JSON and of UTF-8; of lists in lists without end
        raise UserError(f"{file}: not a JSON file ({error})") from None
    try:
        return Record.from_json(value)
    except ValueError as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}") from None


def read_all(results: Path, stream: str | None = None) -> list[Record]:
    """All records, unfinished ones too, sorted by (stream folder, method, key, seed, order).

    Raises:
        UserError: naming the file, for one that ``read_record`` refuses, and for two records of the same run.
    """
    found: dict[tuple[object, ...], tuple[Path, Record]] = {}
    for path in run_files(results, stream):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # started anew by another process since it was listed
            continue
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        record = _parsed(path, data)
        if record.place in found:
            raise UserError(f"{path}: the same run as {found[record.place][0]}; remove one of them")
        found[record.place] = (path, record)
    return [found[place][1] for place in sorted(found)]


def write_record(folder: Path, record: Record) -> None:
    """Write ``<metric>_<protocol>.csv`` for every score matrix of the record, then ``run.json``.

    A method that routes has ``router_accuracy_hidden.csv`` as well, a fusion stream ``missing_modality.csv``.
    """
    tasks = record.stream.task_names
    matrices: dict[str, Matrix] = {
        f"{metric}_{protocol}": matrix
        for metric, protocols in record.scores.items()
        for protocol, matrix in protocols.items()
    }
    routed = record.router_accuracy or []
    if any(value is not None for row in routed for value in row):
        matrices["router_accuracy_hidden"] = routed
    if record.missing is not None:
        text = csv_text(["protocol", "missing", "rate", *tasks, "mean"], missing_rows(record))
        write_text(Path(folder) / "missing_modality.csv", text)
    for name, matrix in matrices.items():
        rows = [[stage, *map(decimals, row)] for stage, row in zip(["before", *tasks], matrix, strict=True)]
        write_text(Path(folder) / f"{name}.csv", csv_text(["stage", *tasks], rows))
    write_json(Path(folder) / RECORD, record.to_json())


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


def adopt(folder: Path, source: Path, record: Record) -> None:
    """Put the record that stands in ``source`` into ``folder``: to the byte, unless its stream was renamed."""
    if record == read_record(source):
        write_bytes(folder / RECORD, (source / RECORD).read_bytes())
    else:
        write_record(folder, record)


def _put_back(old: Path, folder: Path) -> None:
    """What made room for a run that did not come."""
    if old.exists() and not folder.exists():
        old.rename(folder)


def renamed(record: Record, stream_folder: str) -> Record:
    """The record under another folder of its stream."""
    return replace(record, stream=replace(record.stream, folder=stream_folder))
