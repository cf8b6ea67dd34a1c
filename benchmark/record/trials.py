"""Trials of tuning: what each ran with and how it ended, a line of JSON each in ``results/tuning/<method>.jsonl``.

Small enough to be committed, so that tuning goes on on another day or machine: of a trial with a line nothing else is
kept, and it is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Literal

import msgspec
from filelock import FileLock

from benchmark.errors import notice
from benchmark.record.files import write_text
from benchmark.record.parts import Amount, Count, Hex, Name, Setting, Share, Text, Time, Word
from benchmark.record.schema import PROTOCOLS, Record

FOLDER, SUFFIX = "tuning", ".jsonl"
DIGITS = 6  # of scores


@dataclass(frozen=True)
class Trial:
    """One trial: an ordinary run on a validation split.

    Attributes:
        kind: of the section that it is for.
        space: hash of what the trials' numbers stand for; trial: its number there, 0 for the default.
        args: of the method, those that are searched.
        status: failed: the method raised an error.
        given, hidden: last scores; first_given, first_hidden: of the first task right after it was learned.
        seconds: of training and evaluation; first_seconds: until the first task was learned and evaluated.
        trained: the most parameters trained in a task.
    """

    method: Name
    kind: Word
    stream: Name
    stream_hash: Hex
    backbone: Text
    space: Hex
    trial: Count
    seed: Count
    lr: Setting
    args: dict[Word, Setting] = field(default_factory=dict)
    status: Literal["complete", "diverged", "failed"] = "complete"
    note: Text = ""
    given: Share | None = None
    hidden: Share | None = None
    first_given: Share | None = None
    first_hidden: Share | None = None
    seconds: Amount = 0.0
    first_seconds: Amount = 0.0
    trained: Count = 0
    code: Word = ""
    device: Text | None = None
    finished: Time | None = None

    @property
    def identity(self) -> tuple[str, str, str, str, str, int, int]:
        """What tells it from all others of its method, and the order of a file."""
        return self.kind, self.stream, self.stream_hash, self.backbone, self.space, self.trial, self.seed

    @property
    def score(self) -> float | None:
        """The mean of the last scores with the identity given and hidden; given alone where hidden is not possible."""
        return _mean(self.given, self.hidden)

    @property
    def first_score(self) -> float | None:
        """Likewise of the first task alone."""
        return _mean(self.first_given, self.first_hidden)

    @property
    def rate(self) -> float:
        """The learning rate; 0 where nothing was trained, and so no rate was of any use."""
        return self.lr if self.trained else 0.0


def _mean(given: float | None, hidden: float | None) -> float | None:
    return None if given is None else given if hidden is None else fmean((given, hidden))


def of_run(trial: Trial, record: Record) -> Trial:
    """The trial with what its run measured, as far as it came."""
    cost, made = record.cost, record.provenance
    last = {protocol: record.number(protocol, "last_acc") if record.complete else None for protocol in PROTOCOLS}
    return replace(
        trial,
        given=_rounded(last["given"]),
        hidden=_rounded(last["hidden"]),
        first_given=_first(record, "given"),
        first_hidden=_first(record, "hidden"),
        seconds=round(cost.seconds, 2),
        first_seconds=round(sum(cost.train_seconds[:1]) + sum(cost.eval_seconds[:2]), 2),
        trained=max(cost.trainable_params, default=0),
        code=made.fingerprint,
        device=made.device,
        finished=made.finished or made.started,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _first(record: Record, protocol: str) -> float | None:
    """The score of the first task right after it was learned."""
    return _rounded(record.matrix(protocol)[1][0]) if record.stages > 1 else None


# Files


def file_of(results: Path, method: str) -> Path:
    return Path(results) / FOLDER / f"{method}{SUFFIX}"


def methods_with(results: Path) -> list[str]:
    """The methods that have trials, by name."""
    return sorted(file.name.removesuffix(SUFFIX) for file in (Path(results) / FOLDER).glob(f"[!.]*{SUFFIX}"))


def read(results: Path, method: str) -> list[Trial]:
    """The trials of a method; a line that is none is named on stderr and left out."""
    file, found = file_of(results, method), []
    if not file.is_file():
        return []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            trial = msgspec.json.decode(line, type=Trial)
        except (msgspec.MsgspecError, RecursionError) as error:
            notice(f"left out: {file}:{number}: no trial: {' '.join(str(error).split())}")
            continue
        if trial.method == method:
            found.append(trial)
        else:
            notice(f"left out: {file}:{number}: a trial of {trial.method}")
    return united(found)


def united(found: Iterable[Trial]) -> list[Trial]:
    """Each trial once, in order; of two records of one that which was finished first."""
    kept: dict[tuple[object, ...], Trial] = {}
    for trial in sorted(found, key=lambda trial: (trial.finished or "", _line(trial))):
        kept.setdefault(trial.identity, trial)
    return [kept[identity] for identity in sorted(kept)]  # type: ignore[type-var]


def add(results: Path, trials: Sequence[Trial]) -> int:
    """Put trials of one method beside those that are known, whoever else does so; returns how many were new."""
    if not trials:
        return 0
    method = trials[0].method
    file = file_of(results, method)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{method}.lock")):
        known = read(results, method)
        every = united([*known, *trials])
        if every != known:
            write_text(file, "".join(f"{_line(trial)}\n" for trial in every))
        return len(every) - len(known)


def _line(trial: Trial) -> str:
    return json.dumps(asdict(trial), ensure_ascii=True, allow_nan=False)
