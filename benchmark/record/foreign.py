"""A results folder that came from elsewhere: what in it is a run, and what of a run is copied.

Nothing in it is trusted. Links are not followed, pipes and devices are not opened, and what no run leaves stays there.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from benchmark.errors import UserError
from benchmark.record.answers import ANSWERS
from benchmark.record.files import write_text
from benchmark.record.schema import Record
from benchmark.record.stored import RECORD, csv_texts, path_of, read_record

HEAVY = ("predictions.npz", ANSWERS, "method.safetensors")
EXPERTS, OF_EXPERT = "experts", ("adapter_config.json", "adapter_model.safetensors")
LEVELS = ("stream", "method", "key", "run")


def runs_in(runs: Path) -> Iterator[tuple[Path, Record | str]]:
    """Every run's folder below ``runs`` with its record, or with the reason for leaving it out; sorted.

    A folder without a ``run.json`` is none, and what is hidden is passed over.
    """
    yield from _below(runs, len(LEVELS))


def _below(folder: Path, levels: int) -> Iterator[tuple[Path, Record | str]]:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        yield folder, f"{folder}: cannot be read ({error.strerror})"
        return
    for path in (folder / name for name in names):
        kind = path.lstat().st_mode
        if stat.S_ISLNK(kind):
            yield path, f"{path}: a symbolic link, which is not followed"
        elif stat.S_ISDIR(kind) and levels > 1:
            yield from _below(path, levels - 1)
        elif stat.S_ISDIR(kind) and os.path.lexists(path / RECORD):
            yield path, _record_of(path)


def _record_of(folder: Path) -> Record | str:
    file = folder / RECORD
    if (wrong := _no_plain_file(file)) is not None:
        return wrong
    try:
        record = read_record(file)
    except UserError as error:
        return str(error)
    if folder.parts[-4:] != path_of(Path(), record).parts[-4:]:
        return f"{file}: lies where another run belongs; this is {'/'.join(map(str, record.place))}"
    return next((wrong for path in _left(folder) if (wrong := _no_plain_file(path)) is not None), record)


def _left(folder: Path) -> Iterator[Path]:
    """What a run leaves beside its record and the CSVs made from it; of ``experts`` the folders first."""
    yield from (folder / name for name in HEAVY if os.path.lexists(folder / name))
    if os.path.lexists(experts := folder / EXPERTS):
        if experts.is_symlink() or not experts.is_dir():
            yield experts
            return
        for expert in sorted(experts.iterdir()):
            if expert.is_symlink():
                yield expert
            elif expert.is_dir():
                yield from (expert / name for name in OF_EXPERT if os.path.lexists(expert / name))


def _no_plain_file(path: Path) -> str | None:
    """Why a file is not read; None where it may be."""
    kind = path.lstat().st_mode
    if stat.S_ISREG(kind):
        return None
    what = "a symbolic link, which is not followed" if stat.S_ISLNK(kind) else "no regular file"
    return f"{path}: {what}"


def copied(source: Path, folder: Path, record: Record) -> None:
    """Make ``folder`` with what the run in ``source`` left, but for its ``run.json``; the CSVs anew from the record.

    Raises:
        UserError: the disk has no room for it, or something there is no regular file any more.
    """
    files = list(_left(source))
    size = sum(path.lstat().st_size for path in files)
    folder.mkdir(parents=True)
    if size > (free := shutil.disk_usage(folder).free):
        raise UserError(f"{source}: {size // 2**20:,} MiB to copy, and {free // 2**20:,} MiB are free")
    for path in files:
        if (wrong := _no_plain_file(path)) is not None:
            raise UserError(wrong)
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target, follow_symlinks=False)
    for name, text in csv_texts(record).items():
        write_text(folder / name, text)
