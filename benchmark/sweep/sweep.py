"""A grid of runs, those that are missing: stop it at any time, start it again, it continues.

Nothing but the records says what is done, so any number of interruptions, machines and engines add up to one table.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.compare import leaderboard
from benchmark.compare.tables import clock, percent
from benchmark.config.run_config import RunConfig
from benchmark.errors import UserError
from benchmark.record.schema import PROTOCOLS
from benchmark.record.stored import read_record, run_files
from benchmark.sweep import engines, forecast, grid
from benchmark.sweep.engines import local, ray, slurm
from benchmark.sweep.grid import GridRun

if TYPE_CHECKING:
    from rich.console import Console

ENGINES = ("local", "slurm", "ray")
DEVICES = ("num_gpus", "gpus_per_node", "slurm_gpus_per_node", "slurm_gpus_per_task", "slurm_gres")


@dataclass(frozen=True)
class Sweep:
    """A resolved sweep: its cells, and where they are to run."""

    cells: tuple[GridRun, ...]
    skipped: tuple[str, ...]
    redo: str
    engine: str
    jobs: int | None
    options: dict[str, Any]
    slots: tuple[local.Slot, ...] = ()

    @property
    def width(self) -> int | None:
        """How many cells run at a time; None where only the cluster knows."""
        return len(self.slots) or self.jobs

    def cuda(self, config: RunConfig) -> bool:
        """Whether a cell finds a CUDA device where it runs."""
        return cuda_of(self.engine, self.options)(config)


def parser(verb: str) -> argparse.ArgumentParser:
    """The options of ``sweep``; all others are those of ``run``."""
    about = "Run the missing cells of a grid; all other options are those of run: --epochs, --limit, --results, ..."
    result = grid.parser(verb, about)
    result.add_argument("--redo", choices=grid.REDO, default="none", help="complete cells to run anew: those neither "
                        "made nor verified by this tree's code (stale), or all (none)")  # fmt: skip
    add_engine(result)
    return result


def add_engine(parser: argparse.ArgumentParser) -> None:
    """The options that say where cells run."""
    parser.add_argument("--engine", choices=ENGINES, default="local", help="where cells run (local)")
    parser.add_argument("--jobs", type=int, help="cells at a time (local: one per GPU, or one per core)")
    parser.add_argument("--engine_args", default="{}", help="JSON: of slurm those of submitit's executor and cluster, "
                        "of ray num_cpus, num_gpus and max_retries of a cell and those of ray.init")  # fmt: skip


def planned(argv: Sequence[str], verb: str = "sweep") -> Sweep:
    """Everything that can be wrong with the arguments is said here, before anything starts.

    Raises:
        UserError: an argument that does not fit, a stream or record that cannot be read.
    """
    asked, given = grid.parsed(parser(verb), verb, argv)
    options = engine_options(given)
    cells, skipped = grid.runs(asked, cuda_of(given.engine, options))
    return arranged(cells, skipped, given, options)


def engine_options(given: argparse.Namespace) -> dict[str, Any]:
    """What ``--engine_args`` says, checked as all that says where cells run.

    Raises:
        UserError: something does not fit.
    """
    try:
        options = json.loads(given.engine_args, object_pairs_hook=_different, parse_constant=_no_number)
        if not isinstance(options, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"""--engine_args: expected JSON such as '{{"num_cpus": 2}}' ({error})""") from None
    if given.jobs is not None and given.jobs < 1:
        raise UserError(f"--jobs: expected a whole number of at least 1, got {given.jobs}")
    if options and given.engine == "local":
        raise UserError(f"--engine_args: the local engine has none, got {', '.join(options)}")
    if given.engine != "local":
        {"slurm": slurm, "ray": ray}[given.engine].check(options)
    return options


def arranged(
    cells: list[GridRun], skipped: Sequence[str], given: argparse.Namespace, options: dict[str, Any]
) -> Sweep:  # fmt: skip
    """A sweep of these cells; those of a method that are expected to take longest come first.

    Args:
        given: the engine and the jobs of :func:`add_engine`, and ``redo`` where there is one.
        options: of the engine.
    """
    cuda = cuda_of(given.engine, options)
    places: list[local.Slot] = []
    if given.engine == "local":
        devices = local.gpus() if any(cuda(cell.plan.config) for cell in cells) else []
        places = local.slots(given.jobs, devices, max((cell.plan.config.devices for cell in cells), default=1))
    expected = forecast.expectation(cells, cuda)
    order = {method: at for at, method in enumerate(dict.fromkeys(cell.plan.card.name for cell in cells))}
    cells.sort(key=lambda cell: (order[cell.plan.card.name], -(expected(cell).seconds or 0.0)))
    redo = getattr(given, "redo", "none")
    return Sweep(tuple(cells), tuple(skipped), redo, given.engine, given.jobs, options, tuple(places))


def _different(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, refused where a name stands twice."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def cuda_of(engine: str, options: dict[str, Any]) -> Callable[[RunConfig], bool]:
    """Of a cluster its cells have a CUDA device if they ask for one; here they have what there is."""
    if engine == "local":
        return forecast.finds_cuda
    asked = any(options.get(name) for name in DEVICES)
    return lambda config: config.device == "cuda" or (config.device == "auto" and asked)


def lines(sweep: Sweep, measured: bool) -> Iterator[str]:
    """Lines of ``plan`` for a grid: what is missing of each method on each stream, and what all of it would take."""
    expected = forecast.expectation(sweep.cells, sweep.cuda)
    yield from sweep.skipped
    yield from forecast.standing_twice(cell.plan for cell in sweep.cells)
    for group in forecast.grouped(sweep.cells):
        yield forecast.group_line(group, sweep.redo, expected)
        if measured and any(cell.runs(sweep.redo) for cell in group):
            threads = min((slot.threads for slot in sweep.slots), default=None)
            yield from (f"  {line}" for line in forecast.measured_lines(group[0].plan, threads))
    yield from forecast.overview(sweep.cells, sweep.redo, expected, sweep.width)


def run(sweep: Sweep, console: Console) -> int:
    """Print the plan, run what is to run, print a line for every cell that ends, rebuild the leaderboards.

    Returns:
        0, or 1 if a cell failed; the others are not stopped by it.
    """
    due = [cell for cell in sweep.cells if cell.runs(sweep.redo)]
    expected = forecast.expectation(sweep.cells, sweep.cuda)
    twice = forecast.standing_twice(cell.plan for cell in sweep.cells)
    for line in (*sweep.skipped, *twice, *forecast.overview(sweep.cells, sweep.redo, expected, sweep.width)):
        console.print(line, highlight=False, soft_wrap=True)
    failed: dict[int, str] = {}

    def ended(outcome: engines.Outcome) -> str:
        cell = due[outcome.place]
        trouble = _trouble(cell, outcome)
        if trouble:
            failed[outcome.place] = trouble
        return f"{cell.plan.title}: {f'FAILED: {trouble}' if trouble else _scores(cell)}"

    attend(sweep, due, console, ended)
    for folder in dict.fromkeys(cell.plan.stream_folder for cell in sweep.cells):
        results = Path(sweep.cells[0].plan.config.results)
        if run_files(results, folder):
            leaderboard.build(results, folder)
    if failed:
        console.print(f"{len(failed)} of {len(due)} cells failed; the same command runs them again:", highlight=False)
        for place, trouble in sorted(failed.items()):
            console.print(f"  {due[place].plan.title}: {trouble}", highlight=False, markup=False, soft_wrap=True)
            command = shlex.join(due[place].argv)
            console.print(f"    python -m benchmark run {command}", highlight=False, markup=False, soft_wrap=True)
    return 1 if failed else 0


def attend(sweep: Sweep, due: Sequence[GridRun], console: Console, ended: Callable[[engines.Outcome], str]) -> None:
    """Run these cells to their ends.

    Args:
        ended: told of every one that has ended; what it returns is printed.
    """
    with _shown(console, len(due)) as show, closing(_started(sweep, due)) as outcomes:
        for outcome in outcomes:
            show(ended(outcome))


def _started(sweep: Sweep, due: Sequence[GridRun]) -> Generator[engines.Outcome]:
    """The engine at work on these cells."""
    # a time, not --force: a cell that an engine tries again continues what it has begun since
    anew, device = ("--force_before", datetime.now(UTC).isoformat()), {True: "cuda", False: "cpu"}
    argvs = [
        (*cell.argv, "--device", device[sweep.cuda(cell.plan.config)], *(anew if cell.anew(sweep.redo) else ()))
        for cell in due
    ]
    if sweep.engine == "local" or not due:
        return local.run(argvs, sweep.slots)
    if sweep.engine == "slurm":
        logs = Path(due[0].plan.config.results) / "sweep-logs"
        return slurm.run(argvs, sweep.jobs, sweep.options, logs)
    return ray.run(argvs, sweep.jobs, sweep.options)


def _trouble(cell: GridRun, outcome: engines.Outcome) -> str | None:
    """Why the cell is not done; None if it is."""
    if outcome.code != 0:
        return outcome.line.removeprefix("error: ")
    try:
        done = read_record(cell.plan.path).complete
    except UserError as error:
        return str(error)
    return None if done else f"it ended, but its record is not complete: {cell.plan.path}"


def _scores(cell: GridRun) -> str:
    record = read_record(cell.plan.path)
    last = (percent(record.number(protocol, "last_acc")) for protocol in PROTOCOLS)
    return f"{' / '.join(last)} given / hidden, {clock(record.cost.seconds)}"


@contextmanager
def _shown(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """A line for every cell that ends; in a terminal a bar below them."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not (console.is_terminal and total)) as bar:
        task, ended = bar.add_task("cells", total=total), 0

        def show(line: str) -> None:
            nonlocal ended
            ended += 1
            console.print(f"[{ended}/{total}] {line}", highlight=False, markup=False, soft_wrap=True)
            bar.advance(task)

        yield show
