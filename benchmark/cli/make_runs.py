"""Runs: one, a grid of them, the trials of tuning, and what any of these would do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.cli import typed
from benchmark.running import processes


def run(argv: Sequence[str]) -> int:
    """Run (or continue) one method on one stream."""
    from benchmark.compare import standings, tables
    from benchmark.record.stored import read_record
    from benchmark.sweep import one

    processes.follow_parent()
    console = typed.console()
    config, folder = one.run(argv, console)
    if processes.rank_here():
        return 0
    record = read_record(folder)
    if config.quiet:
        console.print(tables.summary_line(record), highlight=False, soft_wrap=True)
        return 0
    for table in tables.after_run(record):
        console.print(table)
    console.print(tables.summary_line(record), highlight=False)
    typed.say_of_backbones(console, [record])
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
    console = typed.console()
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    return 0


def sweep_(argv: Sequence[str]) -> int:
    """Run the missing cells of a grid; exit status 1 if one failed."""
    from benchmark.sweep import sweep

    return sweep.run(sweep.planned(argv), typed.console())


def tune_(argv: Sequence[str]) -> int:
    """Try the same points for every method and freeze what is best; exit status 1 if a trial came to no end."""
    from benchmark.sweep import tune

    return tune.run(tune.planned(argv), typed.console())
