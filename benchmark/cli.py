"""The command line. Every verb parses its arguments before anything heavy is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmark import endings
from benchmark.disk import write_bytes
from benchmark.errors import UserError, forget_notices, shown, unknown
from benchmark.record import shelves
from benchmark.running import processes

if TYPE_CHECKING:
    from rich.console import Console

    from benchmark.record.schema import Record

USAGE = """usage: python -m benchmark VERB [options]        (VERB --help; installed: mbil VERB [options])

  run --method M            run a method over a stream, write its record, print the tables
  plan --method M           what would run, where, and how long it would take; --methods ...: of a grid
  sweep --methods "A B"     run what is missing of methods x streams x seeds x orders: here, on Slurm, on Ray
  tune --methods "A B"      the same trials for each, on streams made for it; run --preset tuned has the best
  tuning                    tuning.md: what tuning found, what it cost, whether it holds
  list [methods|streams|cards|backbones]
  show NAME                 a method, a stream or a card in full
  data [--stream S]         what data are here, and where the rest is had; of a stream what is in it, and a page of it
  check --method M          does a method keep the contract?
  speed --methods "A B"     samples a second, learned and answered, at the first and the last task
  verify [--methods "A B"]  run one cell of each row again: the same bytes, or what differs; --stream S, --run DIR
  leaderboard [--stream S]  rebuild the CSVs from the records and print them
  compare --method M        run M where a stream's table has runs, and its row among them; --with "A B", --stream S
  claims                    claims.md: what papers claim of methods, held against the records
  report [--stream S ...]   one HTML file of all results, figures and LaTeX tables
  merge --from DIR          copy the records of another results folder, its local/ too, that are missing here
  predict --run DIR --images DIR          task, class and probability of new images as a CSV; of a CLIP's run
  export --run DIR --task T --to DIR      a task's LoRA for PEFT, or folded into open_clip weights; of a CLIP's run
  needs [--streams "A B"]   the extras of this package that a run needs and that are not installed: make installs them
  worker                    what a sweep keeps running to start its cells from; told on standard input
  pretrain [--model NAME]   train phantom-clip or phantom-llava, the default backbones, anew
"""

RESULTS = "folder of runs/ and leaderboards/; default: results/local, with the stored ones of results/ beside"
PATIENCE = {  # seconds: cells are ended first; of what copies itself no thread may watch
    "sweep": 60.0, "tune": 60.0, "worker": None,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a check or a run that failed, 2 bad input, 128 + n a signal (:mod:`benchmark.endings`)."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    forget_notices()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if argv else 2

    def act() -> int:
        if argv[0] not in VERBS:
            raise unknown("verb", argv[0], VERBS)
        return VERBS[argv[0]](argv[1:])

    return endings.ended(act, PATIENCE.get(argv[0], endings.PATIENCE), silent=bool(processes.rank_here()))


def _console() -> Console:
    from benchmark.compare.tables import console

    return console()


def _parser(verb: str) -> Any:
    from jsonargparse import ArgumentParser

    return ArgumentParser(prog=f"python -m benchmark {verb}", exit_on_error=False, allow_abbrev=False)


def _parse(parser: Any, argv: Sequence[str]) -> Any:
    from benchmark.config import arguments

    given = arguments.parsed(parser, list(argv))
    options = {action.dest: action.option_strings for action in parser._actions}
    for name, value in vars(given).items():
        if isinstance(value, str) and value != parser.get_default(name) and (not value.strip() or "\0" in value):
            raise UserError(f"{'--' if options.get(name) else ''}{name}: expected a name, got {shown(value)}")
    return given


def _say_of_backbones(console: Any, records: Iterable[Record]) -> None:
    from benchmark.config import families

    for name in sorted({record.backbone for record in records}):
        if note := families.note(name):
            console.print(note, highlight=False)


def run(argv: Sequence[str]) -> int:
    """Run (or continue) one method on one stream."""
    from benchmark.compare import standings, tables
    from benchmark.record.stored import read_record
    from benchmark.sweep import one

    processes.follow_parent()
    console = _console()
    config, folder = one.run(argv, console)
    if processes.rank_here():
        return 0
    record = read_record(folder)
    if config.quiet:
        console.print(tables.summary_line(record), highlight=False)
        return 0
    for table in tables.after_run(record):
        console.print(table)
    console.print(tables.summary_line(record), highlight=False)
    _say_of_backbones(console, [record])
    if record.ranked:
        console.print(standings.table(Path(config.results), record.stream.folder))
    else:
        console.print("a run with --limit, --split val or on a stream to tune on is marked and enters no leaderboard")
    console.print(f"record {folder}/run.json, matrices {folder}/*.csv", highlight=False, soft_wrap=True)
    return 0


def plan(argv: Sequence[str]) -> int:
    """What would run, of a run or of a sweep, without running it; torch is imported to ``--measure`` alone."""
    from benchmark.config import arguments
    from benchmark.config.resolve import resolve
    from benchmark.sweep import forecast, sweep

    measured = "--measure" in argv
    argv = [word for word in argv if word != "--measure"]
    whole = {f"--{name}" for name in ("methods", "streams", "seeds", "orders")}
    if any(word.split("=")[0] in whole for word in argv):
        lines = sweep.lines(sweep.planned(argv, "plan"), measured)
    else:
        config, card, _ = arguments.parse("plan", argv, with_class=False)
        lines = forecast.of_run(resolve(config, card, forecast.finds_cuda(config)), measured)
    console = _console()
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    return 0


def sweep_(argv: Sequence[str]) -> int:
    """Run the missing cells of a grid; exit status 1 if one failed."""
    from benchmark.sweep import sweep

    return sweep.run(sweep.planned(argv), _console())


def tune_(argv: Sequence[str]) -> int:
    """Try the same points for every method and freeze what is best; exit status 1 if a trial came to no end."""
    from benchmark.sweep import tune

    return tune.run(tune.planned(argv), _console())


def tuning_(argv: Sequence[str]) -> int:
    """What tuning found, from the trials."""
    parser = _parser("tuning")
    parser.add_argument("--results", default="results", help="folder of tuning/, beside which tuning.md is written")
    given = _parse(parser, argv)
    from benchmark.data import places
    from benchmark.report import tuning_page

    places.results_folder(given.results)
    for path in tuning_page.write(Path(given.results)):
        _console().print(str(path), highlight=False, markup=False, soft_wrap=True)
    return 0


def worker_(argv: Sequence[str]) -> int:
    """Run the cells of a sweep, as ``run`` would, in copies of this process."""
    from benchmark.sweep.engines import warm

    _parse(_parser("worker"), argv)
    return warm.serve(main)


def list_(argv: Sequence[str]) -> int:
    from benchmark.config import listing

    parser = _parser("list")
    parser.add_argument("what", nargs="?", default="all", help="methods, streams, cards or backbones")
    parser.add_argument("--names", action="store_true", help="names only, one a line")
    given = _parse(parser, argv)
    listing.show_list(given.what, given.names, _console())
    return 0


def show(argv: Sequence[str]) -> int:
    from benchmark.config import listing

    parser = _parser("show")
    parser.add_argument("name", help="a method, a stream or a card")
    parser.add_argument("--data", default="data", help="folder in which relative paths of cards are looked up")
    given = _parse(parser, argv)
    listing.show_one(given.name, Path(given.data), _console())
    return 0


def data_(argv: Sequence[str]) -> int:
    """What data are on this machine; of one stream what is in them, counted, and a page that shows them."""
    from benchmark.config import families, space
    from benchmark.data import catalog, doubles, places, sources, survey

    parser = _parser("data")
    parser.add_argument("--stream", default=None, help="count and show the data of this stream; default: what is here")
    parser.add_argument(
        "--data", default=places.USUAL_DATA, help="folder in which relative paths of cards are looked up"
    )
    parser.add_argument("--backbone", default=families.USUAL, help="whose image size the page shows")
    parser.add_argument("--to", default="build/data", help="folder that the page is written to")
    parser.add_argument("--download", action="store_true", help="get what the stream's sources download")
    parser.add_argument("--sheet", default=None, help="a PNG that is written as well: a row of images per modality")
    given, console = _parse(parser, argv), _console()
    places.data_folder(given.data)
    if given.sheet is not None:
        _png("--sheet", given.sheet)
        if given.stream is None:
            raise UserError(f"--sheet {given.sheet}: of which stream? --stream NAME")
    data, to = Path(given.data), Path(given.to)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for name in [given.stream] if given.stream else catalog.names("streams"):
        lacking = [task for task in survey.readiness(name, data) if task.lacking]
        say(f"{name}: {f'{len(lacking)} tasks are not ready' if lacking else 'ready'}")
        if given.stream is None or not given.download:
            for task in lacking:
                say(f"  {task.task}: {task.lacking}" + (f"\n    {task.obtain}" if task.obtain else ""))
    if given.stream is None:
        return 0
    if lacking and not given.download:
        raise UserError(f"{given.stream}: {len(lacking)} tasks are not ready; --data DIR is where their files are, "
                        "--download gets what needs no hand")  # fmt: skip
    places.writable(to, f"--to {to}", folder=True)
    recipe = catalog.load(given.stream, data)
    found = [survey.surveyed(task, source) for task, source in zip(recipe.stream, recipe.sources, strict=True)]
    for line in survey.lines(found):
        say(line)
    twice = doubles.told(doubles.of_stream(recipe, [sources.identity(source) for source in recipe.sources]))
    say(f"stands twice: {twice}" if twice else "no image stands in two splits, or under two labels")
    from benchmark.record.files import write_text
    from benchmark.report.data_page import page

    size = space.image_size(given.backbone, None) or 224
    shown = page(recipe, found, twice, given.backbone, size, space.framing(given.backbone))
    write_text(to / f"{recipe.stream.name}.html", shown)
    say(str(to / f"{recipe.stream.name}.html"))
    if given.sheet is not None:
        from benchmark.report.contact_sheet import sheet

        write_bytes(Path(given.sheet), sheet(recipe, space.framing(given.backbone)))
        say(given.sheet)
    return 0


def needs(argv: Sequence[str]) -> int:
    """Print the extras of the package that runs of these streams need and that are not installed, one a line."""
    from benchmark import kinds
    from benchmark.config import families
    from benchmark.data import catalog

    parser = _parser("needs")
    parser.add_argument("--streams", default="phantom8", help="files of datasets/streams/ or paths of YAML files")
    parser.add_argument("--backbone", default=families.AUTO, help="as of run")
    parser.add_argument("--data", default="data", help="folder in which relative paths of cards are looked up")
    given = _parse(parser, argv)
    streams = [catalog.load(name, Path(given.data)).stream for name in given.streams.replace(",", " ").split()]
    backbones = [families.by_default(given.backbone, kinds.joined(stream.kinds)) for stream in streams]
    if any(map(families.missing, backbones)):
        print(families.EXTRA)
    return 0


def check(argv: Sequence[str]) -> int:
    """Check a method against the contract; exit status 1 if it fails."""
    from benchmark.config import families, registry

    parser = _parser("check")
    parser.add_argument(
        "--method", required=True, help="a file of methods/, package.module:Class or path/to/file.py; 'all' of methods/"
    )
    given = _parse(parser, argv)
    cards = {name: registry.card(name) for name in (registry.names() if given.method == "all" else [given.method])}
    unread = registry.drafts() if given.method == "all" else {}
    lacking = families.missing(families.SPEAKING)
    if lacking and any("generation" in card.kinds for card in cards.values()):
        raise UserError(f"check: questions are answered with {' and '.join(lacking)}: "
                        f"pip install 'mbil-bench[{families.EXTRA}]'")  # fmt: skip
    from benchmark import testing

    console, failed = _console(), len(unread)
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

    console, found, held = _console(), [], []
    for cell in cells:
        console.print(f"{cell.plan.card.name} on {cell.plan.stream_folder}", highlight=False)
        found.append(speed.speed_of(cell.plan, registry.load(cell.plan.config.method)))
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


def verify_(argv: Sequence[str]) -> int:
    """Make one run of each row again and compare; exit status 1 if one is not reproduced."""
    parser = _parser("verify")
    parser.add_argument("--methods", default="", help="of these methods, with blanks between; default: of all")
    parser.add_argument("--stream", default=None, help="of one stream; default: of all that have records")
    parser.add_argument("--run", default=None, help="this run's folder, instead of one run of each row")
    parser.add_argument("--results", default=shelves.OWN, help=RESULTS)
    parser.add_argument("--data", default="data", help="folder in which relative paths of cards are looked up")
    parser.add_argument("--no_beside", action="store_true", help="where bytes differ, do not run the record's commit")
    parser.add_argument("--method", nargs="+", default=[], help="plug-ins that are imported if a record names them: "
                        "package.module:Class of a method, package.module:function of a stream's source")  # fmt: skip
    given = _parse(parser, argv)
    from benchmark.compare import leaderboard
    from benchmark.data import places
    from benchmark.sweep import verify

    places.results_folder(given.results)
    places.data_folder(given.data)
    results, run, console = Path(given.results), Path(given.run) if given.run else None, _console()
    folders = verify.asked(results, given.methods.replace(",", " ").split(), given.stream, run)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    data = str(Path(given.data).absolute()) if Path(given.data).is_dir() else given.data  # a commit runs elsewhere
    stored = shelves.stored_beside(results)
    code = verify.Verification(data, not given.no_beside, say, tuple(given.method), stored).of(folders)
    if run is None:
        leaderboard.build(results, given.stream)
    return code


def leaderboard_(argv: Sequence[str]) -> int:
    from benchmark.compare import leaderboard, markdown, standings
    from benchmark.compare.entries import METRICS, alike, made_by_other_code
    from benchmark.data import places
    from benchmark.record.stored import read_all

    parser = _parser("leaderboard")
    parser.add_argument("--stream", default=None, help="of one stream; default: all that have records")
    parser.add_argument("--results", default=shelves.OWN, help=RESULTS)
    parser.add_argument("--metric", default=None, help="by this one instead of each task's own, in a file beside: "
                        "balanced_accuracy or macro_auroc")  # fmt: skip
    parser.add_argument("--readme", nargs="+", default=[], help="Markdown files whose marked tables are written anew")
    given = _parse(parser, argv)
    places.results_folder(given.results)
    if given.metric is not None and given.metric not in METRICS:
        raise unknown("--metric", given.metric, METRICS)
    results, console = Path(given.results), _console()
    if given.readme:
        markdown.rewrite([Path(file) for file in given.readme], shelves.read_from(results)[0])  # never of own runs
    streams = [given.stream] if given.stream is not None else leaderboard.with_records(results)
    if given.stream is not None:
        leaderboard.records_of(results, given.stream)
    if not streams:
        line = f"no records below {results / 'runs'} yet: make bench METHOD=mslora_cr"
        console.print(line, highlight=False, markup=False)
    built = leaderboard.build(results, given.stream)
    if given.metric is not None and streams:
        built = leaderboard.build_by(results, given.metric, given.stream)
        streams = [path.name.removesuffix(f".{given.metric}.csv") for path in built]
    for path in built:
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
    for stream in streams:
        console.print(standings.table(results, stream, given.metric))
        records = read_all(results, stream)
        _say_of_backbones(console, records)
        for a, b in alike(records):
            line = f"equal answers in every cell on {stream}: {a.method} {a.key} and {b.method} {b.key}"
            console.print(line, highlight=False, soft_wrap=True)
        changed = made_by_other_code(records)
        if changed:
            names = ", ".join(changed)
            console.print(f"neither made nor verified by this tree's code (make verify): {names}", highlight=False)
    return 0


def compare_(argv: Sequence[str]) -> int:
    """Run a method in the cells of a stream's table; its row among the others, the differences from each, a figure."""
    import argparse

    from benchmark.compare import leaderboard, standings, tables
    from benchmark.record.stored import read_all
    from benchmark.sweep import among

    parser = argparse.ArgumentParser(prog="python -m benchmark compare", allow_abbrev=False, exit_on_error=False,
                                     description="All other options are those of run.")  # fmt: skip
    parser.add_argument("--method", help="a file of methods/ or package.module:Class")
    parser.add_argument("--stream", default="phantom8", help="of whose table")
    parser.add_argument("--with", nargs="+", default=[], help="methods to compare with; default: all with runs there")
    try:
        given, options = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise UserError(" ".join(str(error).split())) from None
    if not given.method:
        raise UserError("--method is missing, for example: python -m benchmark compare --method mslora_cr")
    rivals = " ".join(vars(given)["with"]).replace(",", " ").split()
    asked = among.asked(given.method, given.stream, rivals, options)
    console, stream, results = _console(), asked.plan.stream_folder, Path(asked.plan.config.results)
    code = among.run(asked, options, console)
    mine, others = asked.sides()
    if not mine:
        return code
    names = {(runs[0].named, runs[0].key) for runs in (mine, *others)}
    every = leaderboard.rows(read_all(results, stream))
    console.print(standings.board([row for row in every if (row.method, row.key) in names], stream))
    found, measure = among.differences(mine, others), tables.spoken(mine[0].primary)
    for protocol in sorted({row.protocol for row in found}):
        console.print(standings.pairs_table([row for row in found if row.protocol == protocol], stream, measure))
    if any(not row.n_samples for row in found):
        console.print("* the score of each sample was not kept: by last scores, about other runs on the same samples")
    if found:
        from benchmark.report import forest

        for path in forest.write(found, results / "compare", stream, measure):
            console.print(str(path), highlight=False, markup=False, soft_wrap=True)
    return code


def claims_(argv: Sequence[str]) -> int:
    """What papers claim, held against the records."""
    parser = _parser("claims")
    parser.add_argument("--results", default=shelves.OWN, help=RESULTS)
    given = _parse(parser, argv)
    from benchmark.compare import claims_page
    from benchmark.data import places

    places.results_folder(given.results)
    _console().print(str(claims_page.write(Path(given.results))), highlight=False, markup=False, soft_wrap=True)
    return 0


def report_(argv: Sequence[str]) -> int:
    """One HTML page, figures and LaTeX tables from the records."""
    parser = _parser("report")
    parser.add_argument("--stream", nargs="+", default=[], help="of these streams; default: all that have records")
    parser.add_argument("--results", default=shelves.OWN, help=RESULTS)
    parser.add_argument("--to", default=None, help="folder that is written; default: report/ in the results; with "
                        "--run the PNG, default: build/matrix.png")  # fmt: skip
    parser.add_argument("--run", default=None, help="instead of the page a picture of the matrix of the run in this "
                        "folder")  # fmt: skip
    parser.add_argument("--screen", default=None, help="a PNG of the page's first screen as well, by Chromium")
    parser.add_argument("--metric", default=None, help="by this one instead of each task's own: balanced_accuracy or "
                        "macro_auroc; default folder: report-METRIC/")  # fmt: skip
    parser.add_argument("--matrices", action="store_true", help="every method's score matrix as a figure as well")
    given = _parse(parser, argv)
    from benchmark.data import places

    if given.run is not None:
        return _matrix_picture(Path(given.run), given.to or "build/matrix.png")
    places.results_folder(given.results)
    if given.to is not None:
        places.writable(Path(given.to), f"--to {given.to}", folder=True)
    from benchmark.compare.entries import METRICS
    from benchmark.report import build, screen

    if given.screen is not None:
        _png("--screen", given.screen)
        screen.programs()

    if given.metric is not None and given.metric not in METRICS:
        raise unknown("--metric", given.metric, METRICS)
    to = Path(given.to) if given.to else None
    paths = build(Path(given.results), given.stream, to, given.matrices, given.metric)
    if given.screen is not None:
        write_bytes(Path(given.screen), screen.first_screen(paths[0]))
        paths.append(Path(given.screen))
    for path in paths:
        _console().print(str(path), highlight=False, markup=False, soft_wrap=True)
    return 0


def _matrix_picture(run: Path, to: str) -> int:
    from benchmark.record.stored import read_record
    from benchmark.report.matrix_picture import picture

    _png("--to", to)
    write_bytes(Path(to), picture(read_record(run)))
    _console().print(to, highlight=False, markup=False, soft_wrap=True)
    return 0


def _png(option: str, file: str) -> None:
    """Refuse what is no place for a picture."""
    from benchmark.data import places

    if not file.lower().endswith(".png"):
        raise UserError(f"{option}: expected a file that ends in .png, got {shown(file)}")
    places.writable(Path(file), f"{option} {shown(file)}", folder=False)


def merge_(argv: Sequence[str]) -> int:
    """Copy another results folder's records; exit status 1 if some are in conflict or no sound records."""
    from benchmark.sweep import merge

    parser = _parser("merge")
    parser.add_argument("--from", required=True, help="another results folder, or its runs/")
    parser.add_argument("--results", default=shelves.OWN, help=RESULTS)
    parser.add_argument("--prefer", default=None, help="of two records in conflict keep the newest, or theirs")
    given = _parse(parser, argv)
    if given.prefer is not None and given.prefer not in merge.PREFER:
        raise unknown("--prefer", given.prefer, merge.PREFER)
    merged = merge.merge(Path(given["from"]), Path(given.results), given.prefer)
    console = _console()
    for line in merged.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 1 if merged.conflicts or merged.left_out else 0


def predict_(argv: Sequence[str]) -> int:
    """Task, class and probability of new images, or an answer in words, by the method of a run."""
    from benchmark.data import places

    parser = _parser("predict")
    parser.add_argument("--run", required=True, help="folder of a run that was made on this machine")
    parser.add_argument("--images", required=True, help="folder of images, or one image")
    parser.add_argument("--task", default=None, help="whose classes to choose from; default: the method finds the task")
    parser.add_argument("--inputs", type=Literal["image"] | None, default=None,
                        help="of a fusion run: answer from the image alone, without the text")  # fmt: skip
    parser.add_argument("--instruction", default=None, help="of a run that answers in words: what is asked of every "
                        "image; default: what the task itself asks")  # fmt: skip
    parser.add_argument("--to", default="predictions.csv", help="CSV that is written")
    parser.add_argument("--overwrite", action="store_true", help="replace the CSV if it is there")
    parser.add_argument("--top", "--top-k", type=int, default=1, help="rows for an image, likeliest class first")
    parser.add_argument("--abstain", type=float, default=0.0, help="no class below this probability")
    parser.add_argument("--calibrate", action="store_true", help="probabilities by the temperature that fits the "
                        "validation samples of the run's stream")  # fmt: skip
    parser.add_argument("--data", default=places.USUAL_DATA, help="with --calibrate: folder of these samples")
    parser.add_argument("--method", default=None, help="of a run whose method is a plug-in: package.module:Class, "
                        "which is imported then; never because a record says so")  # fmt: skip
    given = _parse(parser, argv)
    places.writable(Path(given.to), f"--to {given.to}", folder=False)
    if given.calibrate:
        places.data_folder(given.data)
    from benchmark.deploy.predict import Request, predict

    calibrate = Path(given.data) if given.calibrate else None
    asked = Request(given.task, given.top, given.inputs, given.instruction, given.abstain, calibrate)
    said = predict(Path(given.run), Path(given.images), asked, Path(given.to), given.method, given.overwrite)
    _console().print(said, highlight=False, markup=False, soft_wrap=True)
    return 0


def export_(argv: Sequence[str]) -> int:
    """The LoRA that answers a task, for PEFT or folded into open_clip weights."""
    parser = _parser("export")
    parser.add_argument("--run", required=True, help="folder of a run that was made on this machine")
    parser.add_argument("--task", required=True, help="a task of its stream")
    parser.add_argument("--to", required=True, help="folder that is made")
    parser.add_argument("--format", type=Literal["peft", "open_clip"], default="peft", help="an adapter, or weights")
    parser.add_argument("--method", default=None, help="of a run whose method is a plug-in: package.module:Class, "
                        "which is imported then; never because a record says so")  # fmt: skip
    given = _parse(parser, argv)
    from benchmark.data import places

    places.writable(Path(given.to), f"--to {given.to}", folder=True)
    from benchmark.deploy.export import export

    line = export(Path(given.run), given.task, Path(given.to), given.format, given.method)
    _console().print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def pretrain_(argv: Sequence[str]) -> int:
    """A shipped backbone, trained anew on made images; of phantom-llava a stopped training goes on."""
    from benchmark.config import families

    parser = _parser("pretrain")
    parser.add_argument("--model", type=Literal["phantom-clip", "phantom-llava"], default=families.USUAL,
                        help="which; phantom-llava has the image tower of the shipped phantom-clip")  # fmt: skip
    parser.add_argument("--to", type=str | None, default=None, help="folder that it is written to; default: its name")
    parser.add_argument("--samples", type=int | None, default=None, help="images to make (90,000; 60,000)")
    parser.add_argument("--epochs", type=int | None, default=None, help="passes over them (8; 3)")
    given = _parse(parser, argv)
    to = given.model if given.to is None else given.to
    told = {name: given[name] for name in ("samples", "epochs") if given[name] is not None}
    if told.get("samples", 1000) < 1000 or told.get("epochs", 1) < 1:
        raise UserError("--samples must be at least 1000, --epochs at least 1")
    families.equipped(given.model, f"--model {given.model}")
    from benchmark.data import places

    places.writable(Path(to), f"--to {to}", folder=True)
    if given.model == families.SPEAKING:
        from benchmark.pretrain.phantom_llava import pretrain
    else:
        from benchmark.pretrain.phantom_clip import pretrain
    measured = pretrain(Path(to), **told, console=_console())
    print("  ".join(f"{name} {value:,.0f}" for name, value in measured.items()))
    print(f"use it: --backbone local-dir:{to}")
    return 0


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": run,
    "plan": plan,
    "sweep": sweep_,
    "tune": tune_,
    "tuning": tuning_,
    "worker": worker_,
    "list": list_,
    "show": show,
    "data": data_,
    "needs": needs,
    "check": check,
    "speed": speed_,
    "verify": verify_,
    "leaderboard": leaderboard_,
    "compare": compare_,
    "claims": claims_,
    "report": report_,
    "merge": merge_,
    "predict": predict_,
    "export": export_,
    "pretrain": pretrain_,
}
