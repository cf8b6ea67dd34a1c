"""Whether a method keeps the contract, how fast it is here, and whether this machine reproduces a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.cli import typed
from benchmark.errors import UserError
from benchmark.record import shelves

if TYPE_CHECKING:
    from benchmark.sweep.grid import GridRun


def check(argv: Sequence[str]) -> int:
    """Check a method against the contract; exit status 1 if it fails."""
    from benchmark.config import families, registry

    parser = typed.parser("check")
    parser.add_argument(
        "--method", required=True, help="a file of methods/, package.module:Class or path/to/file.py; 'all' of methods/"
    )
    given = typed.parsed(parser, argv)
    cards = {name: registry.card(name) for name in (registry.names() if given.method == "all" else [given.method])}
    unread = registry.drafts() if given.method == "all" else {}
    lacking = families.missing(families.SPEAKING)
    if lacking and any("generation" in card.kinds for card in cards.values()):
        raise UserError(f"check: questions are answered with {' and '.join(lacking)}: "
                        f"pip install 'mbil-bench[{families.EXTRA}]'")  # fmt: skip
    from benchmark import testing

    console, failed = typed.console(), len(unread)
    for name, why in unread.items():
        console.print(f"[red]FAIL[/] {name}: it can be read", highlight=False)
        console.print(f"     {why}", markup=False, highlight=False, soft_wrap=True)
    for name in cards:
        for result in testing.check_method(registry.load(name), first=True):
            failed += not result.passed
            mark = "[green]ok[/]  " if result.passed else "[red]FAIL[/]"
            console.print(f"{mark} {name}: {result.name}", highlight=False)
            if not result.passed:
                console.print(f"     {result.reason}", markup=False, highlight=False, soft_wrap=True)
            if result.ends:
                console.print("     the other checks are made when this one passes", highlight=False)
    return 1 if failed else 0


def speed_(argv: Sequence[str]) -> int:
    """Time methods on this machine, and what the suite adds to a run; the tables stand when all are done."""
    from benchmark.config import registry
    from benchmark.sweep import grid
    from benchmark.sweep.forecast import finds_cuda

    about = "Time training steps and answers; all other options are those of run: --limit, --batch_size, ..."
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch's profiler, once loaded, writes lines of its own
    asked, _ = grid.parsed(grid.parser("speed", about), "speed", argv)
    cells, _ = grid.runs(asked, finds_cuda)
    from benchmark.record.files import write_text
    from benchmark.running import floors, hardware, speed

    console, found, held = typed.console(), [], []
    for cell in cells:
        console.print(f"{cell.plan.card.name} on {cell.plan.stream_folder}", highlight=False)
        cls, reference = registry.load(cell.plan.config.method), _reference(cell, cells)
        beside = None if reference is cell else (reference.plan, registry.load(reference.plan.config.method))
        found.append(speed.speed_of(cell.plan, cls, beside))
    console.print(speed.table(found))
    console.print(speed.operators_table(found))
    first = next((cell for cell in cells if cell.plan.card.name == speed.REFERENCE), None)
    if first is not None:
        console.print(
            f"a run of {speed.REFERENCE} and what is the least for it, in {floors.TURNS} turns", highlight=False
        )
        held = floors.held(first.plan, first.argv)
        console.print(floors.table(held))
    if cells:
        path = Path(cells[0].plan.config.results) / "speed.csv"
        write_text(path, speed.csv_of(found, held, hardware.chosen(cells[0].plan.config).name))
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def _reference(cell: GridRun, cells: Sequence[GridRun]) -> GridRun:
    """What a method is timed beside: the reference on its stream, or the first method there."""
    from benchmark.running import speed

    alike = [other for other in cells if other.plan.stream_folder == cell.plan.stream_folder]
    return next((other for other in alike if other.plan.card.name == speed.REFERENCE), alike[0])


def verify_(argv: Sequence[str]) -> int:
    """Make one run of each row again and compare; exit status 1 if one is not reproduced."""
    parser = typed.parser("verify")
    parser.add_argument("--methods", default="", help="of these methods, with blanks between; default: of all")
    parser.add_argument("--stream", default=None, help="of one stream; default: of all that have records")
    parser.add_argument("--run", default=None, help="this run's folder, instead of one run of each row")
    parser.add_argument("--results", default=shelves.OWN, help=typed.RESULTS)
    parser.add_argument("--data", default="data", help="folder in which relative paths of cards are looked up")
    parser.add_argument("--no_beside", action="store_true", help="where bytes differ, do not run the record's commit")
    parser.add_argument("--method", nargs="+", default=[], help="plug-ins that are imported if a record names them: "
                        "package.module:Class of a method, package.module:function of a stream's source")  # fmt: skip
    given = typed.parsed(parser, argv)
    from benchmark.compare import leaderboard
    from benchmark.data import places
    from benchmark.sweep import verify

    places.results_folder(given.results)
    places.data_folder(given.data)
    results, run, console = Path(given.results), Path(given.run) if given.run else None, typed.console()
    folders = verify.asked(results, given.methods.replace(",", " ").split(), given.stream, run)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    data = str(Path(given.data).absolute()) if Path(given.data).is_dir() else given.data  # a commit runs elsewhere
    stored = shelves.stored_beside(results)
    code = verify.Verification(data, not given.no_beside, say, tuple(given.method), stored).of(folders)
    if run is None:
        leaderboard.build(results, given.stream)
    return code
