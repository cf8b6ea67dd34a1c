"""Records on disk: where each belongs, and how it is read and written. What state a run is in, ``folder`` says."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmark.disk import below, make_room, write_bytes
from benchmark.errors import UserError, notice
from benchmark.kinds import OWN
from benchmark.record.agreement import common
from benchmark.record.files import csv_text, decimals, plain, write_json, write_text
from benchmark.record.schema import Matrix, Record
from benchmark.record.shelves import home, read_from
from benchmark.record.soundness import shallow, sound
from benchmark.record.summary import disagreement, missing_rows

RECORD, DIGEST = "run.json", "digest"
LARGEST = 64 * 2**20  # bytes of a record; those of the largest streams have some hundred thousand


def run_path(results: Path, stream_folder: str, method: str, key: str, seed: int, order: int) -> Path:
    """``results/runs/<stream>/<method>/<key>/seed<k>-order<o>``."""
    return runs_of(results, stream_folder, method) / key / f"seed{seed}-order{order}"


def runs_of(results: Path, stream_folder: str, method: str) -> Path:
    """Where the runs of a method on a stream are, with a folder for every key."""
    return Path(results) / "runs" / stream_folder / method


def path_of(results: Path, record: Record) -> Path:
    """Where a record belongs."""
    return run_path(results, *record.place)


def found_at(results: Path, record: Record) -> Path:
    """Where a record lies that was read for ``results``: there, or among the stored ones beside it."""
    return path_of(home(results, record.own), record)


def stream_folder(results: Path, name: str, hashed: str) -> str:
    """The stream's name; with the start of its hash if records of another stream have that name, here or stored."""
    for file in (file for place in read_from(results) for file in run_files(place, name)):
        with suppress(UserError):  # told where it counts
            return name if read_record(file).stream.hash == hashed else f"{name}@{hashed[:6]}"
    return name


def run_files(results: Path, stream: str | None = None) -> list[Path]:
    """Every ``run.json``, of one stream's folder or of all, sorted."""
    runs = Path(results) / "runs"
    folders = [runs / stream] if stream is not None else below(runs, "*")
    return sorted(path for folder in folders for path in below(folder, f"*/*/*/{RECORD}"))


def read_record(path: Path) -> Record:
    """The record in ``path``, a run's folder or its ``run.json``, in today's schema.

    Raises:
        UserError: naming the file, when it is missing, is no JSON or no record, contradicts itself, or was written by a
            newer version.
    """
    file = Path(path) / RECORD if Path(path).is_dir() else Path(path)
    try:
        return _record(_content(file))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}") from None


@lru_cache(maxsize=1024)
def _record(data: bytes) -> Record:
    """The record that a file of this content holds; a command reads most files several times.

    Raises:
        ValueError: it holds none, or one that contradicts itself.
    """
    try:
        value = json.loads(data.decode(), parse_constant=lambda _: None, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # of JSON and of UTF-8; of lists in lists without end
        raise ValueError(f"not a JSON file ({error})") from None
    told = value.pop(DIGEST, None) if isinstance(value, dict) else None
    shallow(value)
    record = sound(value)
    if told != _digest(value) and (told is not None or record.files is not None):  # the first records have none
        raise ValueError(f"damaged: what it says does not fit its {DIGEST!r}")
    wrong = disagreement(record) if record.complete else None
    if wrong is not None:
        raise ValueError(f"contradicts itself: {wrong}")
    return record


def _digest(value: dict[str, Any]) -> str:
    """sha256 of a record's JSON, however it is laid out."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _content(file: Path) -> bytes:
    """What is in a file; of a pipe, which would be waited for, or a device nothing is read."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise UserError(f"{file}: no regular file")
    with file.open("rb") as opened:
        data = opened.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise UserError(f"{file}: larger than {LARGEST // 2**20} MiB, which no record is")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no key stands twice: readers would differ in which of the two counts."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return value


def readable(files: Iterable[Path]) -> Iterator[tuple[Path, Record]]:
    """These ``run.json`` with the records in them; one that ``read_record`` refuses is named on stderr and left out."""
    for file in files:
        try:
            yield file, read_record(file)
        except UserError as error:
            if not isinstance(error.__context__, FileNotFoundError):  # started anew by another process since listed
                notice(f"left out: {error}")


def read_all(results: Path, stream: str | None = None) -> list[Record]:
    """All records, unfinished ones too, sorted by (stream folder, method, key, seed, order); for a user's own results
    the stored ones as well, and before own ones of the same run. Own ones are marked ``own`` there.

    One that cannot be read, that lies where another run belongs, or that contradicts the others of its stream, is named
    on stderr and left out.
    """
    streams: dict[str, dict[Path, Record]] = {}
    *stored, mine = read_from(results)
    for place in (*stored, mine):
        own = bool(stored) and place is mine
        for file, record in readable(run_files(place, stream)):
            if file.parent == path_of(place, record):
                marked = record if record.own == own else replace(record, own=own)
                streams.setdefault(record.stream.folder, {})[file] = marked
            else:
                notice(f"left out: {file}: lies where another run belongs; this is {'/'.join(map(str, record.place))}")
    found = []
    for records in streams.values():
        said = common(records.values())
        for file, record in records.items():
            wrong = said.contradicted(record) if said is not None and record.complete else None
            if wrong is None:
                found.append(record)
            else:
                notice(f"left out: {file}: {wrong}")
    return sorted(found, key=lambda record: (record.place, record.own))


def write_record(folder: Path, record: Record) -> None:
    """Write ``<metric>_<protocol>.csv`` for the primary metric and every other of which some cell is known, then
    ``run.json`` with its digest.

    A method that routes has ``router_accuracy_hidden.csv`` as well, a fusion stream ``missing_modality.csv``.
    """
    for name in wrong_csvs(folder, record):
        write_csv(Path(folder) / name, record)
    value = plain(record.to_json())
    write_json(make_room(Path(folder) / RECORD), value | {DIGEST: _digest(value)})


def wrong_csvs(folder: Path, record: Record) -> list[str]:
    """Names of the CSV files of a record that are not there, or say something else than it does."""
    texts = csv_texts(record).items()
    return [name for name, text in texts if not _says(Path(folder) / name, text)]


def _says(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode("utf-8", "backslashreplace")
    except OSError:
        return False


def write_csv(path: Path, record: Record) -> None:
    """Write one of the files of :func:`csv_texts`."""
    write_text(make_room(path), csv_texts(record)[path.name])


def csv_texts(record: Record) -> dict[str, str]:
    """The CSV files beside a record, by name."""
    tasks = record.stream.task_names
    matrices: dict[str, Matrix] = {
        f"{metric}_{protocol}": matrix
        for metric, protocols in record.scores.items()
        for protocol, matrix in protocols.items()
        if metric in (record.primary, OWN) or _known(protocols.values())
    }
    routed = record.router_accuracy or []
    if _known([routed]):
        matrices["router_accuracy_hidden"] = routed
    texts = {}
    if record.missing is not None:
        header = ["protocol", "missing", "rate", *tasks, "mean"]
        texts["missing_modality.csv"] = csv_text(header, missing_rows(record))
    for name, matrix in matrices.items():
        rows = [[stage, *map(decimals, row)] for stage, row in zip(["before", *tasks], matrix, strict=True)]
        texts[f"{name}.csv"] = csv_text(["stage", *tasks], rows)
    return texts


def _known(matrices: Iterable[Matrix]) -> bool:
    """Whether some cell is."""
    return any(value is not None for matrix in matrices for row in matrix for value in row)


def adopt(folder: Path, source: Path, record: Record) -> None:
    """Put the record that stands in ``source`` into ``folder``: to the byte, unless its stream was renamed."""
    if record == read_record(source):
        write_bytes(folder / RECORD, (source / RECORD).read_bytes())
    else:
        write_record(folder, record)


def renamed(record: Record, stream_folder: str) -> Record:
    """The record under another folder of its stream."""
    return replace(record, stream=replace(record.stream, folder=stream_folder))
