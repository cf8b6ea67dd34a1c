"""What the records say: tables, comparisons, claims, tuning, the report; and records of other machines beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.cli import typed
from benchmark.disk import write_bytes
from benchmark.errors import UserError, unknown
from benchmark.record import shelves


def leaderboard_(argv: Sequence[str]) -> int:
    from benchmark.compare import leaderboard, markdown, standings
    from benchmark.compare.entries import METRICS, alike, made_by_other_code
    from benchmark.data import places
    from benchmark.record.stored import read_all

    parser = typed.parser("leaderboard")
    parser.add_argument("--stream", default=None, help="of one stream; default: all that have records")
    parser.add_argument("--results", default=shelves.OWN, help=typed.RESULTS)
    parser.add_argument("--metric", default=None, help="by this one instead of each task's own, in a file beside: "
                        "balanced_accuracy or macro_auroc")  # fmt: skip
    parser.add_argument("--readme", nargs="+", default=[], help="Markdown files whose marked tables are written anew")
    given = typed.parsed(parser, argv)
    places.results_folder(given.results, shelves.OWN)
    if given.metric is not None and given.metric not in METRICS:
        raise unknown("--metric", given.metric, METRICS)
    results, console = Path(given.results), typed.console()
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
        typed.say_of_backbones(console, records)
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
    console, stream, results = typed.console(), asked.plan.stream_folder, Path(asked.plan.config.results)
    code = among.run(asked, options, console)
    mine, others = asked.sides()
    if not mine:
        return code
    every = leaderboard.rows(read_all(results, stream))
    console.print(standings.board(asked.standing(every, (mine, *others)), stream))
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
    parser = typed.parser("claims")
    parser.add_argument("--results", default=shelves.OWN, help=typed.RESULTS)
    given = typed.parsed(parser, argv)
    from benchmark.compare import claims_page
    from benchmark.data import places

    places.results_folder(given.results, shelves.OWN)
    typed.console().print(str(claims_page.write(Path(given.results))), highlight=False, markup=False, soft_wrap=True)
    return 0


def tuning_(argv: Sequence[str]) -> int:
    """What tuning found, from the trials."""
    parser = typed.parser("tuning")
    parser.add_argument("--results", default="results", help="folder of tuning/, beside which tuning.md is written")
    given = typed.parsed(parser, argv)
    from benchmark.data import places
    from benchmark.report import tuning_page

    places.results_folder(given.results, "results")
    for path in tuning_page.write(Path(given.results)):
        typed.console().print(str(path), highlight=False, markup=False, soft_wrap=True)
    return 0


def report_(argv: Sequence[str]) -> int:
    """One HTML page, figures and LaTeX tables from the records."""
    parser = typed.parser("report")
    parser.add_argument("--stream", nargs="+", default=[], help="of these streams; default: all that have records")
    parser.add_argument("--results", default=shelves.OWN, help=typed.RESULTS)
    parser.add_argument("--to", default=None, help="folder that is written; default: report/ in the results; with "
                        "--run the PNG, default: build/matrix.png")  # fmt: skip
    parser.add_argument("--run", default=None, help="instead of the page a picture of the matrix of the run in this "
                        "folder")  # fmt: skip
    parser.add_argument("--screen", default=None, help="a PNG of the page's first screen as well, by Chromium")
    parser.add_argument("--metric", default=None, help="by this one instead of each task's own: balanced_accuracy or "
                        "macro_auroc; default folder: report-METRIC/")  # fmt: skip
    parser.add_argument("--matrices", action="store_true", help="every method's score matrix as a figure as well")
    given = typed.parsed(parser, argv)
    from benchmark.data import places

    if given.run is not None:
        return _matrix_picture(Path(given.run), given.to or "build/matrix.png")
    places.results_folder(given.results, shelves.OWN)
    if given.to is not None:
        places.writable(Path(given.to), f"--to {given.to}", folder=True)
    from benchmark.compare.entries import METRICS
    from benchmark.report import build, screen

    if given.screen is not None:
        typed.check_picture("--screen", given.screen)
        screen.programs()

    if given.metric is not None and given.metric not in METRICS:
        raise unknown("--metric", given.metric, METRICS)
    to = Path(given.to) if given.to else None
    paths = build(Path(given.results), given.stream, to, given.matrices, given.metric)
    if given.screen is not None:
        write_bytes(Path(given.screen), screen.first_screen(paths[0]))
        paths.append(Path(given.screen))
    for path in paths:
        typed.console().print(str(path), highlight=False, markup=False, soft_wrap=True)
    return 0


def _matrix_picture(run: Path, to: str) -> int:
    from benchmark.record.stored import read_record
    from benchmark.report.matrix_picture import picture

    typed.check_picture("--to", to)
    write_bytes(Path(to), picture(read_record(run)))
    typed.console().print(to, highlight=False, markup=False, soft_wrap=True)
    return 0


def merge_(argv: Sequence[str]) -> int:
    """Copy another results folder's records; exit status 1 if some are in conflict or no sound records."""
    from benchmark.data import places
    from benchmark.sweep import merge

    parser = typed.parser("merge")
    parser.add_argument("--from", required=True, help="another results folder, or its runs/")
    parser.add_argument("--results", default=shelves.OWN, help=typed.RESULTS)
    parser.add_argument("--prefer", default=None, help="of two records in conflict keep the newest, or theirs")
    given = typed.parsed(parser, argv)
    if given.prefer is not None and given.prefer not in merge.PREFER:
        raise unknown("--prefer", given.prefer, merge.PREFER)
    places.writable(Path(given.results), f"--results {given.results}", folder=True)
    merged = merge.merge(Path(given["from"]), Path(given.results), given.prefer)
    console = typed.console()
    for line in merged.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 1 if merged.conflicts or merged.left_out else 0
