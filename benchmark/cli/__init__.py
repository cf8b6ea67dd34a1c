"""The command line. Every verb parses its arguments before anything heavy is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from benchmark import endings
from benchmark.cli import look_up, make_runs, take_away, tell, try_out, typed
from benchmark.errors import forget_notices, unknown
from benchmark.running import processes

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
  predict --run DIR --images DIR          task, class and probability of new images as a CSV, or an answer in words
  export --run DIR --task T --to DIR      a task's LoRA for PEFT, or folded into open_clip weights
  needs [--streams "A B"]   the extras of this package that a run needs and that are not installed: make installs them
  worker                    what a sweep keeps running to start its cells from; told on standard input
  pretrain [--model NAME]   train phantom-clip or phantom-llava, the default backbones, anew
"""

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


def worker(argv: Sequence[str]) -> int:
    """Run the cells of a sweep, as ``run`` would, in copies of this process."""
    from benchmark.sweep.engines import warm

    typed.parsed(typed.parser("worker"), argv)
    return warm.serve(main)


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": make_runs.run,
    "plan": make_runs.plan,
    "sweep": make_runs.sweep_,
    "tune": make_runs.tune_,
    "tuning": tell.tuning_,
    "worker": worker,
    "list": look_up.list_,
    "show": look_up.show,
    "data": look_up.data_,
    "needs": look_up.needs,
    "check": try_out.check,
    "speed": try_out.speed_,
    "verify": try_out.verify_,
    "leaderboard": tell.leaderboard_,
    "compare": tell.compare_,
    "claims": tell.claims_,
    "report": tell.report_,
    "merge": tell.merge_,
    "predict": take_away.predict_,
    "export": take_away.export_,
    "pretrain": take_away.pretrain_,
}
