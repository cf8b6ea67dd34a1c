"""Records of another machine brought here: what is missing is copied, what differs is named.

Of two runs with the same numbers the record of the one that finished first stays, so that merging in any order gives
the same tables; where two streams of one name differ, the name belongs to the one that was here first, as in ``run``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.compare import leaderboard
from benchmark.errors import UserError
from benchmark.record import records
from benchmark.running import processes
from benchmark.running.execute import stream_folder

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
    found = [(path.parent, records.read_record(path)) for path in sorted(runs.glob("*/*/*/*/run.json"))]
    if not found:
        raise UserError(f"--from {source}: no records there (<stream>/<method>/<key>/<run>/run.json)")
    records.read_all(results)  # what is here must be readable too
    merged = Merged()
    for folder, record in found:
        if record["status"] == "complete":
            _bring(folder, record, results, prefer, merged)
        else:
            merged.unfinished += 1
    leaderboard.build(results)
    return merged


def _bring(source: Path, record: records.Record, results: Path, prefer: str | None, merged: Merged) -> None:
    """One complete record: copied, skipped, or noted as a conflict."""
    stream = record["stream"]
    own = record | {"stream": stream | {"folder": stream_folder(results, stream["name"], stream["hash"])}}
    identity = (own[name] for name in ("method", "key", "seed", "order"))
    target = records.run_folder(results, own["stream"]["folder"], *identity)
    with ExitStack() as held:
        try:
            held.enter_context(processes.alone(target))
        except UserError as error:
            merged.conflicts.append(f"conflict: {error}")
            return
        here = records.read_record(target) if (target / "run.json").is_file() else None
        if here is None or here["status"] != "complete":
            _copy(source, own, target)
            merged.copied.append(target)
        elif not (differing := differences(here, own)):
            if records.finished(own) < records.finished(here):
                records.write_record(target, own)
            merged.same.append(target)
        elif prefer == "theirs" or (prefer == "newest" and records.finished(own) > records.finished(here)):
            _copy(source, own, target)
            merged.copied.append(target)
        elif prefer == "newest" and records.finished(own) < records.finished(here):
            merged.same.append(target)
        else:
            merged.conflicts.append(
                f"conflict: {target}: other {' and '.join(differing)}; here {_made(here)}; there {_made(own)}"
            )


def differences(here: records.Record, there: records.Record) -> list[str]:
    """Which of scores and code differ between two records of one run; costs and times always do."""
    differing = ["scores"] if here["scores"] != there["scores"] else []
    codes = {record["provenance"]["fingerprint"] for record in (here, there)}
    return differing + (["code"] if len(codes) > 1 else [])


def _made(record: records.Record) -> str:
    made = record["provenance"]
    return f"finished {made['finished']} on {made.get('device', 'an unknown device')} by code {made['fingerprint']}"


def _copy(source: Path, record: records.Record, target: Path) -> None:
    """Put the run's folder at ``target``, whole from the first moment; one that is there makes room for it."""
    # two levels above the run folders, where no reader looks for a run.json
    building = Path(tempfile.mkdtemp(dir=target.parents[2], prefix=".merging-", suffix=".tmp"))
    try:
        ignored = shutil.ignore_patterns("state", ".*")
        shutil.copytree(source, building / "new", ignore=ignored)
        records.write_record(building / "new", record)
        if target.exists():
            target.rename(building / "old")
        (building / "new").rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
