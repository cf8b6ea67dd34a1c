"""One run of a row made again, whole, with the working tree's code: does this machine reproduce the table?

The same bytes stamp the record as verified, which stands for all runs of its row that the same code made. Where bytes
differ, the record's own commit is run beside: if that gives here what the tree's code gives here, the machine is what
differs, and the record is stamped with that said; if not, the code changed the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmark.compare import leaderboard, repeats
from benchmark.compare.entries import by_key, counts, method_args
from benchmark.compare.tables import clock
from benchmark.config import arguments, registry
from benchmark.data import catalog
from benchmark.errors import UserError, unknown
from benchmark.record.files import now
from benchmark.record.folder import RunFolder
from benchmark.record.parts import Verified
from benchmark.record.schema import LATER, Record
from benchmark.record.stored import found_at, read_all, read_record
from benchmark.sweep import beside

Say = Callable[[str], None]


@dataclass(frozen=True)
class Verification:
    """How runs are verified.

    Args:
        data: the folder in which relative paths of cards are looked up.
        own_commit: whether the record's own commit is run beside where bytes differ.
        typed: the plug-ins and functions of sources that the user has typed; no others are imported.
        stored: the stored results, where these are not what was asked for by name: their records are not stamped.
    """

    data: str
    own_commit: bool
    say: Say
    typed: tuple[str, ...] = ()
    stored: Path | None = None

    def of(self, folders: Sequence[Path]) -> int:
        """Verify the records of these folders one after the other.

        Returns:
            0, or 1 where one of them is not reproduced.
        """
        failed = 0
        for at, folder in enumerate(folders, 1):
            record = read_record(folder)
            title = f"{record.method} on {record.stream.folder}, seed {record.seed}, order {record.order}"
            self.say(
                f"[{at}/{len(folders)}] {title}: it took {clock(record.cost.seconds)} on {record.provenance.device}"
            )
            with TemporaryDirectory(prefix="mbil-verify-") as scratch:
                try:
                    failed += not self._reproduced(record, folder, Path(scratch))
                except UserError as error:  # a method, a setting or data that are there no more; other rows go on
                    self.say(f"  cannot be made again: {error}")
                    failed += 1
        return 1 if failed else 0

    def _reproduced(self, record: Record, folder: Path, scratch: Path) -> bool:
        self._only_typed(record)
        argv = [*words(record), f"--data={self.data}"]
        wrong = repeats.contradiction(record, folder)
        if wrong is not None:
            self.say(f"  the record contradicts itself: {wrong}")
        again_at = made_here(argv, scratch / "tree")
        again = read_record(again_at)
        differing = repeats.difference(record, folder, again, again_at)
        if differing is None and wrong is None:
            self._stamp(folder, record, again)
            self.say(f"  the same bytes: verified with code {again.provenance.fingerprint}")
            return True
        other = repeats.surroundings(record.provenance, again.provenance)
        self.say(f"  not the same, the record's number first: {differing or wrong}")
        self.say(f"  differs: {'; '.join(other) if other else 'nothing that records say of versions and machine'}")
        sha = self._own_commit(record)
        if sha is None:
            return False
        try:
            own_at = beside.made_by(sha, argv, scratch / "own")
        except UserError as error:
            self.say(f"  {error}")
            return False
        own = read_record(own_at)
        changed = repeats.difference(own, own_at, again, again_at)
        if changed is not None:
            self.say(f"  the code changed the numbers: here commit {sha[:12]} and this tree's code differ: {changed}")
            return False
        self.say(f"  here the record's own commit {sha[:12]} gives the bytes of this tree's code")
        if wrong is not None or not other:
            self.say("  so neither the code nor the machine is what differs: the record is not what its commit makes")
            return False
        self._stamp(folder, record, again, sha)
        self.say(f"  so the machine is what differs, not the code: verified with code {again.provenance.fingerprint}")
        return True

    def _stamp(self, folder: Path, record: Record, again: Record, own_commit: str | None = None) -> None:
        runs = None if self.stored is None else (self.stored / "runs").resolve()
        if runs is not None and folder.resolve().is_relative_to(runs):
            self.say(f"  a stored record, which stays as it is: make verify RESULTS={self.stored} stamps it")
        else:
            stamp(folder, record, again, own_commit)

    def _only_typed(self, record: Record) -> None:
        """Raise UserError where a run would import what its record names and the user has not typed."""
        registry.ours_or_typed(record.config.method or record.method, [*map(registry.named, self.typed)])
        for source in catalog.load(record.config.stream or record.stream.name, None).sources:
            if source.kind == "function" and source.options["function"] not in self.typed:
                raise UserError(f"{source.where}: source {source.options['function']} is imported only if you type "
                                f"--method {source.options['function']}")  # fmt: skip

    def _own_commit(self, record: Record) -> str | None:
        """The commit to run beside; None, with the reason said, where there is none."""
        made = record.provenance
        if not self.own_commit:
            return None
        if made.git_sha is None or made.git_dirty is not False:
            self.say("  its own code cannot be run beside: the record names no commit without changes")
            return None
        if not beside.has_commit(made.git_sha):
            self.say(f"  its own code cannot be run beside: commit {made.git_sha[:12]} is not in this repository")
            return None
        return made.git_sha


def asked(results: Path, methods: Sequence[str], stream: str | None, run: Path | None) -> list[Path]:
    """The folders of the runs to make again: this one, or of each row the lowest order and seed of each code.

    Raises:
        UserError: no such run, method or stream has a record that counts.
    """
    if run is not None:
        record = read_record(run)
        if not record.complete:
            raise UserError(f"--run {run}: the run is not complete")
        return [Path(run) if Path(run).is_dir() else Path(run).parent]
    leaderboard.known_stream(results, stream)
    entering = list(filter(counts, read_all(results, stream)))
    known = {record.method for record in entering}
    for method in methods:
        if method not in known:
            raise unknown("method with records", method, known)
    entering = [record for record in entering if not methods or record.method in methods]
    found = list(_first_of_each_code(entering))
    if not found:
        raise UserError(f"{results / 'runs'}: no complete records")
    return [found_at(results, record) for record in found]


def _first_of_each_code(entering: Sequence[Record]) -> Iterator[Record]:
    for stream in sorted({record.stream.folder for record in entering}):
        for row in by_key(record for record in entering if record.stream.folder == stream):
            first: dict[str, Record] = {}
            for record in row:
                first.setdefault(record.provenance.fingerprint, record)
            yield from first.values()


def words(record: Record) -> list[str]:
    """The arguments of ``run`` that make a record again, every setting told: defaults may be others by now."""
    told = {name: value for name, value in asdict(record.config).items() if value != LATER["config"].get(name, ())}
    method = told.pop("method") or record.method
    for name in ("weights", "versions", "method_args"):
        told.pop(name, None)
    told |= {"seed": record.seed, "order": record.order}
    told |= {f"method.{name}": value for name, value in method_args(record).items()}
    return [f"--method={method}", *(f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
                                    for name, value in told.items())]  # fmt: skip


def made_here(argv: Sequence[str], results: Path) -> Path:
    """Make a run by the working tree's code, without a word; returns its folder."""
    from rich.console import Console

    from benchmark.running import execute

    config, card, cls = arguments.parse("run", argv, with_class=True)
    return execute.execute(replace(config, results=str(results), quiet=True), card, cls, Console(quiet=True))


def stamp(folder: Path, record: Record, again: Record, own_commit: str | None = None) -> None:
    """Write into the record that it was verified.

    Raises:
        UserError: the record has changed since it was read, or another process is there.
    """
    by = again.provenance
    verified = Verified(by.fingerprint, now(), by.device, by.processor, by.python, by.packages, by.git_sha, own_commit)
    with RunFolder(folder, record.key).claimed() as held:
        if held.found().record != record:
            raise UserError(f"{folder}: the record has changed while it was verified; the same command begins anew")
        held.write(replace(record, provenance=replace(record.provenance, verified=verified)))
