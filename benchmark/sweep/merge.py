"""Records of another machine brought here: what is missing is copied, what differs is named.

Of two runs with the same numbers the record of the one that finished first stays, so that merging in any order gives
the same tables; where two streams of one name differ, the name belongs to the one that was here first, as in ``run``.
What came from elsewhere is not trusted: a record that is none, or that would lead out of the results, is left there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmark.compare import choice, leaderboard
from benchmark.config import registry
from benchmark.errors import UserError, one_line
from benchmark.record import foreign, trials
from benchmark.record.agreement import Common, common
from benchmark.record.folder import RunFolder, replaced
from benchmark.record.schema import Record
from benchmark.record.shelves import OWN, stored_beside
from benchmark.record.stored import RECORD, adopt, path_of, read_all, read_record, renamed, stream_folder

PREFER = ("newest", "theirs")


@dataclass
class Merged:
    """What became of the records found there: run folders here, a line for every conflict that is left, and one for
    everything that was left out because it is no sound record.
    """

    copied: list[Path] = field(default_factory=list)
    same: list[Path] = field(default_factory=list)
    unfinished: int = 0
    trials: int | None = None  # of tuning that were not here, None where there are none
    conflicts: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        yield (
            f"{len(self.copied)} copied, {len(self.same)} here already, {self.unfinished} unfinished left out, "
            f"{len(self.conflicts)} in conflict, {len(self.left_out)} refused"
        )
        if self.trials is not None:
            yield f"{self.trials} trials of tuning added"
        yield from (f"left out: {one_line(line)}" for line in self.left_out)
        yield from self.conflicts
        if self.conflicts:
            yield f"of these nothing was copied; --prefer {' or --prefer '.join(PREFER)} decides"


def merge(source: Path, results: Path, prefer: str | None = None) -> Merged:
    """Copy the complete records below ``source`` that ``results`` lacks, and rebuild the leaderboards; likewise the
    trials of tuning there, and what methods are tuned to.

    Args:
        source: another results folder, whose ``local`` is brought too, or the ``runs`` of one. What is stored beside
            ``results`` with the same numbers is here already.
        prefer: which of two records in conflict to keep: the ``newest``, or ``theirs``; None keeps what is here.

    Raises:
        UserError: there are no records, or both are the same folder; nothing has been copied then.
    """
    source, results = Path(source), Path(results)
    folders = [runs for runs in _runs_of(source, results) if runs.is_dir()]
    merged, found = Merged(), [run for runs in folders for run in foreign.runs_in(runs)]
    merged.trials = _trials(source, results)
    if not found and merged.trials is not None:
        return merged
    if not found:
        raise UserError(f"--from {source}: no records there (<stream>/<method>/<key>/<run>/run.json)")
    here: dict[str, Common | None] = {}
    for folder, record in found:
        if isinstance(record, str):
            merged.left_out.append(record)
        elif record.complete:
            _bring(folder, record, results, prefer, merged, here)
        else:
            merged.unfinished += 1
    leaderboard.build(results)
    return merged


def _trials(source: Path, results: Path) -> int | None:
    """How many trials of tuning were added; None where there are none."""
    methods, added = trials.methods_with(source), 0
    for method in methods:
        added += trials.add(results, trials.read(source, method))
        if method in registry.names():
            choice.frozen(registry.card(method), trials.read(results, method))
    return added if methods else None


def _runs_of(source: Path, results: Path) -> list[Path]:
    """The folders of runs that are meant by ``source``: its own ones of ``local`` last, where it has such."""
    local = source / Path(OWN).name / "runs"
    runs = source / "runs" if (source / "runs").is_dir() or local.is_dir() else source
    here = (results / "runs").resolve()
    folders = [runs, *([local] if local.is_dir() and local.resolve() != here else [])]
    for folder in folders:
        if folder != source and (folder.is_symlink() or (folder is local and local.parent.is_symlink())):
            raise UserError(
                f"--from {source}: its runs are a symbolic link, which is not followed; give the folder itself"
            )
        there = folder.resolve()
        if there.is_relative_to(here) or here.is_relative_to(there):
            raise UserError(
                f"--from {source}: its runs and those of --results {results} are the same folder, or in each other"
            )
    return folders


def _bring(
    source: Path, record: Record, results: Path, prefer: str | None, merged: Merged, streams: dict[str, Common | None]
) -> None:
    """One complete record: copied, skipped, left out, or noted as a conflict.

    Args:
        streams: what the records here say of the streams that were looked at so far.
    """
    own = renamed(record, stream_folder(results, record.stream.name, record.stream.hash))
    target, name = path_of(results, own), own.stream.folder
    if name not in streams or streams[name] is None:
        streams[name] = common(read_all(results, name))
    known = streams[name]
    wrong = known.contradicted(own) if known is not None else None
    wrong = wrong or _no_place(target, results)
    if wrong is not None:
        merged.left_out.append(f"{source}: {wrong}")
        return
    stored = stored_beside(results)
    if stored is not None and _is_at(path_of(stored, own), own):
        merged.same.append(path_of(stored, own))
        return
    with ExitStack() as held:
        try:
            folder = held.enter_context(RunFolder(target, own.key).claimed())
        except UserError as error:
            merged.conflicts.append(f"conflict: {error}")
            return
        try:
            _decide(folder, source, own, prefer, merged)
        except UserError as error:  # of what is to be copied
            merged.left_out.append(str(error))


def _is_at(folder: Path, own: Record) -> bool:
    """Whether a whole record with these numbers lies there."""
    try:
        there = read_record(folder)
    except UserError:
        return False
    return there.complete and not differences(there, own)


def _no_place(target: Path, results: Path) -> str | None:
    """Why nothing can be put at ``target``: it lies elsewhere, or there is something that is no run."""
    if not target.resolve().is_relative_to((results / "runs").resolve()):
        return f"{target} is a symbolic link, or below one, and leads out of the results"
    if (
        os.path.lexists(target)
        and not (target / RECORD).is_file()
        and not (target.is_dir() and not any(target.iterdir()))
    ):
        return f"at {target} there is something that is no run, which stays"
    return None


def _decide(folder: RunFolder, source: Path, own: Record, prefer: str | None, merged: Merged) -> None:
    """What becomes of one record whose place is claimed."""
    target, found = folder.path, folder.found()
    here = found.record if found.complete else None
    if here is None:
        replaced(target, source, own)
        merged.copied.append(target)
    elif not (differing := differences(here, own)):
        if own.finished < here.finished:
            adopt(target, source, own)
        merged.same.append(target)
    elif prefer == "theirs" or (prefer == "newest" and own.finished > here.finished):
        replaced(target, source, own)
        merged.copied.append(target)
    elif prefer == "newest" and own.finished < here.finished:
        merged.same.append(target)
    else:
        merged.conflicts.append(
            f"conflict: {target}: other {' and '.join(differing)}; here {_made(here)}; there {_made(own)}"
        )


def differences(here: Record, there: Record) -> list[str]:
    """Which of scores, code and settings differ between two records of one run; costs and times always do."""
    differing = ["scores"] if here.scores != there.scores else []
    differing += ["code"] if here.provenance.fingerprint != there.provenance.fingerprint else []
    return differing + (["settings"] if _said(here) != _said(there) else [])


def _said(record: Record) -> tuple[object, ...]:
    """What a record says of the run itself; where weights lie is another matter on every machine."""
    config = replace(record.config, backbone="", pretrained=None)
    settings = record.settings if record.config.pretrained is None else ""
    return config, settings, record.group, record.permutation, record.limit, record.split


def _made(record: Record) -> str:
    made = record.provenance
    return f"finished {made.finished} on {made.device or 'an unknown device'} by code {made.fingerprint}"
