"""``tune``: the same trials for every method, on streams made for it; the best of them becomes ``methods/tuned``.

A trial is an ordinary run on a validation split, by any engine of a sweep. When it has ended it becomes a line of
``results/tuning/<method>.jsonl`` and its folder goes: the lines say what is done, whoever stops this and wherever it
goes on.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import kinds
from benchmark.compare import choice
from benchmark.compare.tables import percent
from benchmark.config import families, registry
from benchmark.config.registry import MethodCard
from benchmark.config.search import TRIALS, SearchPoint, points, space
from benchmark.data.places import results_folder
from benchmark.disk import remove
from benchmark.errors import UserError, one_line, shown, unknown
from benchmark.record import trials
from benchmark.record.folder import RunFolder, State
from benchmark.record.trials import Trial
from benchmark.sweep import engines, grid, sweep
from benchmark.sweep.grid import GridRun

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1  # the exit code of a method's own error; what the machine or a user did has others
MOST = 512  # trials


@dataclass(frozen=True)
class AskedTrial:
    """One trial that is asked for: the point of that number of a method's list, on a stream."""

    card: MethodCard
    name: str
    kind: str
    stream: str
    number: int
    point: SearchPoint
    seed: int = choice.SEED

    @property
    def title(self) -> str:
        told = [f"lr {self.point.lr:g}", *(f"{name} {value:g}" for name, value in self.point.args.items())]
        return f"{self.card.name} on {self.stream}, trial {self.number} ({', '.join(told)}), seed {self.seed}"


@dataclass(frozen=True)
class Tuning:
    """What is asked for, checked."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    trials: int
    part: tuple[int, int]
    validate: bool
    seeds: tuple[int, ...]
    results: Path
    options: tuple[str, ...]
    given: argparse.Namespace
    engine: dict[str, Any]

    def learned(self) -> Iterator[tuple[str, MethodCard, str]]:
        """Each method with each kind that is asked for and that it learns."""
        for kind in self.kinds:
            for name in self.names:
                card = registry.card(name)
                if kind in card.kinds:
                    yield name, card, kind


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmark tune", description=__doc__, allow_abbrev=False,
                                   exit_on_error=False)  # fmt: skip
    made.add_argument("--methods", nargs="+", default=[], help="methods, or 'all'")
    made.add_argument("--kinds", nargs="+", default=[*choice.STREAMS], help="kinds of tasks to tune them for (all)")
    made.add_argument("--trials", default=str(TRIALS), help=f"of each method, the default with them ({TRIALS})")
    made.add_argument("--part", default="1/1", help="2/3: every third trial, from the second on; merge adds parts up")
    made.add_argument("--validate", action="store_true", help=f"instead: run what is tuned, the default and what the "
                      f"first task alone would choose, on {choice.VALIDATED[0]}'s validation split")  # fmt: skip
    made.add_argument("--seeds", nargs="+", default=["0,1,2"], help="of --validate (0,1,2)")
    made.add_argument("--results", default="results", help="folder of tuning/")
    made.add_argument("--data", default="data", help="as of run")
    made.add_argument("--device", default="auto", help="as of run")
    sweep.add_engine(made)
    return made


def planned(argv: Sequence[str]) -> Tuning:
    """Everything that can be wrong with the arguments is said here, before anything starts.

    Raises:
        UserError: an argument that does not fit.
    """
    try:
        given, others = parser().parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise UserError(" ".join(str(error).split())) from None
    if others:
        raise UserError(f"{others[0]}: no option of tune, whose trials have the common budget")
    if not " ".join(given.methods).strip():
        raise UserError('--methods is missing, for example: python -m benchmark tune --methods "ewc lwf"')
    typed, asked_kinds = grid.split("methods", given.methods), grid.split("kinds", given.kinds)
    names = tuple(dict.fromkeys(one for name in typed for one in (registry.names() if name == "all" else [name])))
    for kind in asked_kinds:
        if kind not in choice.STREAMS:
            raise unknown("--kinds", kind, choice.STREAMS)
    count = int(given.trials) if re.fullmatch("[0-9]{1,4}", given.trials) else 0
    if not 1 <= count <= MOST:
        raise UserError(f"--trials: expected a whole number from 1 to {MOST}, got {shown(given.trials)}")
    found = re.fullmatch("([0-9]{1,3})/([0-9]{1,3})", given.part)
    part = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part[0] <= part[1]:
        raise UserError(f"--part: expected k/n, such as 1/2 and 2/2, got {shown(given.part)}")
    results = Path(given.results)
    results_folder(given.results)
    options = ("--split", "val", "--data", given.data, "--device", given.device, "--results",
               str(results / trials.FOLDER))  # fmt: skip
    asked = Tuning(
        names, asked_kinds, count, part, given.validate, grid.numbers("seeds", given.seeds), results, options, given,
        sweep.engine_options(given),
    )  # fmt: skip
    for _, card, _ in asked.learned():
        points(card, 1)  # refuses a search that is none
    if not [*asked.learned()]:
        raise UserError(f"--methods {' '.join(names)}: none of them learns {', '.join(asked_kinds)}")
    return asked


def run(tuning: Tuning, console: Console) -> int:
    """Run the trials that have no line yet, and freeze what is best.

    Returns:
        0, or 1 if a trial came to no end that can be recorded; the same command runs it again.
    """
    work = _Work(tuning, console)
    if tuning.validate:
        return 1 if work.of([*_validation(tuning)]) else 0
    left = work.of([ask for ask in _listed(tuning) if ask.number == 0])  # it tells what has nothing to tune
    left += work.of([ask for ask in _listed(tuning) if ask.number and not _fixed(tuning, ask)])
    for name in tuning.names:
        card = registry.card(name)
        known = trials.read(tuning.results, card.name)
        frozen = choice.frozen(card, known, tuning.trials)
        for line in _told(card, known, tuning):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        if frozen is not None:
            console.print(str(frozen), highlight=False, markup=False, soft_wrap=True)
    return 1 if left else 0


def _listed(tuning: Tuning) -> Iterator[AskedTrial]:
    """Every trial of this part."""
    place, of = tuning.part
    for name, card, kind in tuning.learned():
        for number, point in enumerate(points(card, tuning.trials)):
            if number % of == place - 1:
                yield AskedTrial(card, name, kind, choice.STREAMS[kind], number, point)


def _fixed(tuning: Tuning, ask: AskedTrial) -> bool:
    known = _known(tuning, ask.card, ask.kind)
    return bool(known) and choice.fixed(ask.card, known)


def _known(tuning: Tuning, card: MethodCard, kind: str) -> list[Trial]:
    return choice.on_stream(trials.read(tuning.results, card.name), card, kind, choice.stream_hash(kind))


def _validation(tuning: Tuning) -> Iterator[AskedTrial]:
    """Of every tuned method the default, what was chosen, and what the first task alone would choose; each seed."""
    stream, kind = choice.VALIDATED
    for name in tuning.names:
        card = registry.card(name)
        known = _known(tuning, card, kind) if kind in card.kinds else []
        if known:
            listed = points(card, len(known))
            chosen = [0, choice.best(known).trial, choice.best(known, choice.first_task).trial]
            for seed in tuning.seeds:
                for number in dict.fromkeys(chosen):
                    yield AskedTrial(card, name, kind, stream, number, listed[number], seed)


def _told(card: MethodCard, known: Sequence[Trial], tuning: Tuning) -> Iterator[str]:
    for kind in tuning.kinds:
        mine = choice.on_stream(known, card, kind, choice.stream_hash(kind)) if kind in card.kinds else []
        if mine:
            chosen, failed = choice.best(mine), sum(trial.status != "complete" for trial in mine)
            values = [f"lr {chosen.lr:g}", *(f"{name} {value:g}" for name, value in chosen.args.items())]
            worst = f", {failed} failed" if failed else ""
            yield (f"{card.name}, {kind}: {percent(chosen.score)} with {', '.join(values)}; default "
                   f"{percent(mine[0].score)}; {len(mine)} of {tuning.trials} trials{worst}")  # fmt: skip


class _Work:
    """Trials run by a sweep's engine."""

    def __init__(self, tuning: Tuning, console: Console) -> None:
        self.tuning, self.console = tuning, console

    def of(self, asked: Sequence[AskedTrial]) -> int:
        """Run those that have no line yet; returns how many came to no end that can be recorded."""
        methods = {ask.card.name for ask in asked}
        done = {name: {trial.identity for trial in trials.read(self.tuning.results, name)} for name in methods}
        due = [ask for ask in asked if _begun(ask).identity not in done[ask.card.name]]
        self.console.print(f"{len(asked)} trials: {len(asked) - len(due)} done, {len(due)} to run", highlight=False)
        if not due:
            return 0
        cells = {cell.plan.path: (ask, cell) for ask in due for cell in self._cells(ask)}
        for ask, cell in cells.values():
            if cell.found.complete:  # and whoever ran it was stopped before it had its line
                self._kept(ask, cell, engines.Outcome(0, 0, ""))
        missing = [cell for _, cell in cells.values() if not cell.found.complete]
        made = sweep.arranged(missing, (), self.tuning.given, self.tuning.engine)
        left: list[str] = []

        def ended(outcome: engines.Outcome) -> str:
            cell = made.cells[outcome.place]
            ask, _ = cells[cell.plan.path]
            trial = self._kept(ask, cell, outcome)
            if trial is None:
                left.append(ask.title)
                return f"{ask.title}: NO END: {outcome.line.removeprefix('error: ')}"
            told = percent(trial.score) if trial.status == "complete" else f"{trial.status.upper()}: {trial.note}"
            return f"{ask.title}: {told}, {trial.seconds:.1f} s"

        sweep.attend(made, made.cells, self.console, ended)
        if left:
            self.console.print(f"{len(left)} trials came to no end; the same command runs them again", highlight=False)
        return len(left)

    def _kept(self, ask: AskedTrial, cell: GridRun, outcome: engines.Outcome) -> Trial | None:
        """The line of a trial that has ended, written; its folder goes then."""
        trial = _ended(ask, cell, outcome)
        if trial is not None:
            trials.add(self.tuning.results, [trial])
            _cleared(cell.plan.path)
        return trial

    def _cells(self, ask: AskedTrial) -> list[GridRun]:
        """The one cell of a trial."""
        options = (*self.tuning.options, *ask.point.options)
        cuda = sweep.cuda_of(self.tuning.given.engine, self.tuning.engine)
        return grid.runs(grid.Grid((ask.name,), (ask.stream,), (ask.seed,), (0,), options), cuda)[0]


def _begun(ask: AskedTrial) -> Trial:
    """The line of a trial before it has run."""
    backbone = families.by_default(families.AUTO, kinds.of(ask.kind))
    return Trial(
        ask.card.name, ask.kind, ask.stream, choice.hashed(ask.stream), backbone, space(ask.card), ask.number, ask.seed,
        ask.point.lr, dict(ask.point.args),
    )  # fmt: skip


def _ended(ask: AskedTrial, cell: GridRun, outcome: engines.Outcome) -> Trial | None:
    """The line of a trial that has run; None where it came to no end of its own, and is to be run again."""
    found = RunFolder(cell.plan.path, cell.plan.key).found()
    trial, record = _begun(ask), found.record
    if record is not None and found.state is not State.FOREIGN:
        trial = trials.of_run(trial, record)
    if found.counts:
        return trial
    if outcome.code != FAILED:
        return None
    if found.diverged and record is not None and record.diverged is not None:
        return replace(trial, status="diverged", note=record.diverged.sentence)
    return replace(trial, status="failed", note=one_line(outcome.line.removeprefix("error: ")[:200]))


def _cleared(folder: Path) -> None:
    """Remove a run's folder, and the folders around it that are empty then."""
    with suppress(OSError):
        remove(folder)
        for above in [*folder.parents][:4]:
            above.rmdir()
