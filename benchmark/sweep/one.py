"""One run, as it is typed: what is wrong is said before torch is loaded, then it runs, then its table is made anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.compare import leaderboard
from benchmark.config import arguments
from benchmark.config.resolve import checked
from benchmark.config.run_config import RunConfig
from benchmark.record.stored import read_record
from benchmark.running import execute, processes
from benchmark.sweep.forecast import finds_cuda

if TYPE_CHECKING:
    from rich.console import Console


def run(argv: Sequence[str], console: Console) -> tuple[RunConfig, Path]:
    """Run what is typed, or continue it; one that is complete is not run again.

    Returns:
        What was asked for, and the run's folder.

    Raises:
        UserError: anything wrong with the input; nothing has been written then.
        RunFailed: the run has diverged, now or before, or the method breaks its contract.
    """
    config, card, _ = arguments.parse("run", argv, with_class=False)
    checked(config, card)  # this and the next are said before torch is loaded
    execute.refuse_diverged(config, card, finds_cuda(config))
    config, card, cls = arguments.parse("run", argv, with_class=True)
    folder = execute.execute(config, card, cls, console)
    if not processes.rank_here():
        record = read_record(folder)
        if record.ranked:
            leaderboard.build(Path(config.results), record.stream.folder)
    return config, folder
