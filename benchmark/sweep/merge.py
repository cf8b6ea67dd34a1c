"""Records of another machine brought here: what is missing is copied, what differs is named.

Of two runs with the same numbers the record of the one that finished first stays, so that merging in any order gives
the same tables; where two streams of one name differ, the name belongs to the one that was here first, as in ``run``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.compare import leaderboard
from benchmark.errors import UserError
from benchmark.record.folder import RunFolder, replaced
from benchmark.record.schema import Record
from benchmark.record.stored import adopt, path_of, read_all, read_record, renamed, stream_folder

PREFER = ("newest", "theirs")


@dataclass
class Merged:
    """What became of the records found there: run folders here, and a line for every conflict that is left."""

    copied: list[Path] = field(default_factory=list)
    same: list[Path] = field(default_factory=list)
    unfinished: int = 0
    conflicts: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        yield (
            f"{len(self.copied)} copied, {len(self.same)} here already, {self.unfinished} unfinished left out, "
            f"{len(self.conflicts)} in conflict"
        )
        yield from self.conflicts
        if self.conflicts:
            yield f"of these nothing was copied; --prefer {' or --prefer '.join(PREFER)} decides"


def merge(source: Path, results: Path, prefer: str | None = None) -> Merged:
    """Copy the complete records below ``source`` that ``results`` lacks, and rebuild the leaderboards.

    Args:
        source: another results folder, or the ``runs`` of one.
        prefer: which of two records in conflict to keep: the ``newest``, or ``theirs``; None keeps what is here.

    Raises:
        UserError: there are no records, or one of them cannot be read; nothing has been copied then.
    """
    source, results = Path(source), Path(results)
    runs = source / "runs" if (source / "runs").is_dir() else source
    found = [(path.parent, read_record(path)) for path in sorted(runs.glob("*/*/*/*/run.json"))]
    if not found:
        raise UserError(f"--from {source}: no records there (<stream>/<method>/<key>/<run>/run.json)")
    read_all(results)  # what is here must be readable too
    merged = Merged()
    for folder, record in found:
        if record.complete:
            _bring(folder, record, results, prefer, merged)
        else:
            merged.unfinished += 1
    leaderboard.build(results)
    return merged


def _bring(source: Path, record: Record, results: Path, prefer: str | None, merged: Merged) -> None:
    """One complete record: copied, skipped, or noted as a conflict."""
    own = renamed(record, stream_folder(results, record.stream.name, record.stream.hash))
    target = path_of(results, own)
    with ExitStack() as held:
        try:
            folder = held.enter_context(RunFolder(target, own.key).claimed())
        except UserError as error:
            merged.conflicts.append(f"conflict: {error}")
            return
        found = folder.found()
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
    """Which of scores and code differ between two records of one run; costs and times always do."""
    differing = ["scores"] if here.scores != there.scores else []
    return differing + (["code"] if here.provenance.fingerprint != there.provenance.fingerprint else [])


def _made(record: Record) -> str:
    made = record.provenance
    return f"finished {made.finished} on {made.device or 'an unknown device'} by code {made.fingerprint}"
