"""The runs of a sweep, resolved before anything starts: streams x methods x seeds x orders. No torch."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.compare.entries import stale
from benchmark.config import arguments, families, registry
from benchmark.config.resolve import Plan, resolve
from benchmark.config.run_config import RunConfig, check_whole
from benchmark.data import catalog
from benchmark.errors import UserError, shown
from benchmark.kinds import joined
from benchmark.record.folder import Found, RunFolder, State
from benchmark.record.stored import RECORD, readable

INSTEAD = {
    "--method": "--methods",
    "--method.name": "--methods",
    "--stream": "--streams",
    "--seed": "--seeds",
    "--order": "--orders",
    "--force": "--redo all",
}
REDO = ("none", "stale", "all")


@dataclass(frozen=True)
class Grid:
    """What is asked for: every method on every stream, with every seed and order, under the same options of ``run``."""

    methods: tuple[str, ...]
    streams: tuple[str, ...]
    seeds: tuple[int, ...]
    orders: tuple[int, ...]
    options: tuple[str, ...]


@dataclass(frozen=True)
class GridRun:
    """One run of a grid; ``stale``: what is in its folder was neither made nor verified by the working tree's code."""

    plan: Plan
    argv: tuple[str, ...]
    found: Found
    stale: bool

    @property
    def state(self) -> str:
        """missing, unfinished, diverged, damaged, or done: the record is complete, wherever it was made."""
        if self.found.complete:
            return "done"
        return "diverged" if self.found.diverged else self.found.state.value

    @property
    def left(self) -> float:
        """The part of its tasks that is not learned yet."""
        if self.found.state is State.DAMAGED:
            return 1.0
        return 0.0 if self.found.complete else 1 - self.found.learned / len(self.plan.stream)

    def anew(self, redo: str) -> bool:
        """Whether what is there is thrown away. An unfinished run goes on, or is refused if other code began it."""
        return redo != "none" and (self.stale or (redo == "all" and (self.found.complete or self.found.diverged)))

    def runs(self, redo: str) -> bool:
        return not self.found.complete or self.anew(redo)


def parser(verb: str, about: str) -> argparse.ArgumentParser:
    """The options that make a grid; several values are separated by blanks or commas."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmark {verb}", description=about, allow_abbrev=False, exit_on_error=False
    )
    made.add_argument("--methods", nargs="+", default=[], help="methods, or 'all' that learn a stream's kind")
    made.add_argument("--streams", nargs="+", default=["phantom8"], help="streams (phantom8)")
    made.add_argument("--seeds", nargs="+", default=["0"], help="seeds (0)")
    made.add_argument("--orders", nargs="+", default=["0"], help="orders of the tasks (0)")
    return made


def parsed(parser: argparse.ArgumentParser, verb: str, argv: Sequence[str]) -> tuple[Grid, argparse.Namespace]:
    """The grid, and the parser's other values. What the parser does not know are options of ``run``.

    Raises:
        UserError: an argument that does not fit.
    """
    try:
        given, options = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise UserError(" ".join(str(error).split())) from None
    for option in options:
        if option.split("=")[0] in INSTEAD:
            raise UserError(f"{option.split('=')[0]}: {verb} takes {INSTEAD[option.split('=')[0]]}")
    if not " ".join(given.methods).strip():
        raise UserError(f'--methods is missing, for example: python -m benchmark {verb} --methods "mslora_cr ncm"')
    methods, streams = (split(name, getattr(given, name)) for name in ("methods", "streams"))
    seeds, orders = (numbers(name, getattr(given, name)) for name in ("seeds", "orders"))
    grid = Grid(methods, streams, seeds, orders, tuple(options))
    return grid, given


def split(name: str, words: Sequence[str]) -> tuple[str, ...]:
    """Values with blanks or commas between them, each once."""
    text = " ".join(words).strip()
    values = re.split(r"\s*,\s*|\s+", text)
    if not all(values):
        raise UserError(f"--{name}: expected values with blanks or commas between, such as 0,1,2, got {shown(text)}")
    return tuple(dict.fromkeys(values))


def numbers(name: str, words: Sequence[str]) -> tuple[int, ...]:
    values = split(name, words)
    if not all(re.fullmatch("-?[0-9]{1,40}", value) for value in values):
        raise UserError(f"--{name}: expected whole numbers such as 0,1,2, got {shown(' '.join(words))}")
    numbers = tuple(dict.fromkeys(map(int, values)))
    for number in numbers:
        check_whole(name.removesuffix("s"), number, name)
    return numbers


def runs(grid: Grid, cuda: Callable[[RunConfig], bool]) -> tuple[list[GridRun], list[str]]:
    """The runs method by method, and a line for every stream on which ``all`` leaves methods out.

    Args:
        cuda: whether a run of this configuration would find a CUDA device; the precision depends on it.

    Raises:
        UserError: anything that one of the runs would refuse.
    """
    every = registry.names() if "all" in grid.methods else []
    named = [name for name in grid.methods if name != "all"]
    found: dict[Path, GridRun] = {}
    skipped: dict[str, list[str]] = {}
    kinds: dict[tuple[str, str], tuple[str, ...]] = {}
    for method in dict.fromkeys([*named, *every]):
        for stream in grid.streams:
            argv = (*grid.options, "--method", _anywhere(method), "--stream", stream)
            config, card, _ = arguments.parse("run", argv, with_class=False)
            if method not in named:
                where = stream, config.data
                kinds[where] = kinds.get(where) or catalog.load(stream, Path(config.data)).stream.kinds
                backbone = families.by_default(config.backbone, joined(kinds[where]))
                if not families.learns(card.kinds, kinds[where], backbone):
                    skipped.setdefault(stream, []).append(method)
                    continue
            plan = resolve(config, card, cuda(config))
            for run in _replicates(grid, plan, argv):
                found.setdefault(run.plan.path, run)
    lines = [f"{stream}: left out, they do not learn its kind: {', '.join(out)}" for stream, out in skipped.items()]
    return list(found.values()), lines


def _anywhere(method: str) -> str:
    """A method as a process in another folder finds it."""
    return os.path.abspath(method) if method.partition(":")[0].endswith(".py") else method


def _replicates(grid: Grid, plan: Plan, argv: tuple[str, ...]) -> Iterator[GridRun]:
    """The seeds and orders of a run, whose key and stream are the same for all."""
    code = plan.code
    rows = [record for _, record in readable(sorted(plan.path.parent.glob(f"*/{RECORD}")))]
    other = {record.place for record in stale([record for record in rows if record.complete], code)}
    for order in grid.orders:
        for seed in grid.seeds:
            own = plan.replicate(seed, order)
            found = RunFolder(own.path, own.key).found()
            if found.state is State.FOREIGN:
                raise UserError(f"{found.reason}; run with --force puts this one in its place")
            made = found.record
            old = made is not None and (made.place in other if made.complete else made.provenance.fingerprint != code)
            yield GridRun(own, (*argv, "--seed", str(seed), "--order", str(order), "--quiet"), found, old)
