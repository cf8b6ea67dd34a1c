"""Whether what was chosen on the tuning stream holds: on a ranked stream's validation split, other images and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from benchmark.compare import choice
from benchmark.compare.tables import markdown_table, percent
from benchmark.config import registry, search
from benchmark.record.trials import Trial
from benchmark.report.tuning_lines import gain_of, in_points, lines_of, tau, values

VALIDATED, KIND = choice.VALIDATED


def held_against(known: Mapping[str, Sequence[Trial]]) -> tuple[list[str], list[str]]:
    """Default, tuned and first-task values held against each other, and what is missing for it."""
    found = {line.method: line for line in lines_of(known, KIND)}
    hashed, rows, pairs, firsts, agree, gains = choice.hashed(VALIDATED), [], [], [], [], []
    lacking: list[str] = []
    for method, line in sorted(found.items()):
        space = search.space(registry.card(method))
        runs = [t for t in known[method] if (t.stream_hash, t.space) == (hashed, space)]
        default, tuned, first = _of_shared_seeds(runs, line.default, line.best, line.first)
        if not default:
            lacking.append(method)
            continue
        gain = gain_of(line.best.score, line.default.score), gain_of(_score(tuned), _score(default))
        rows.append((f"`{method}`", str(len(default)), _mean(default), _mean(tuned), _mean(first),
                     " / ".join(map(in_points, gain)), values(line.best),
                     values(line.first) if line.first else "-"))  # fmt: skip
        gains.append(gain)
        pairs.append((_score(default), _score(tuned)))
        firsts.append((_score(tuned), _score(first)))
        agree.append((line.default.score, _score(default)))
    command = f'`python -m benchmark tune --methods "{" ".join(lacking)}" --validate`'
    absent = [f"no runs on {VALIDATED} of {', '.join(lacking)}: {command}"] if lacking else []
    if not rows:
        return ["No method has runs of its default and of its tuned values there yet."], absent
    said = " ".join((
        tau("defaults and tuned", pairs), tau("tuned and what the first task alone chose", firsts),
        tau(f"the defaults' scores on the tuning stream and on `{VALIDATED}`", agree), _kept(gains),
    ))  # fmt: skip
    headings = ("method", "seeds", "default", "tuned", "chosen by the first task", "gain there / here", "tuned to",
                "first task's choice")  # fmt: skip
    return [said, markdown_table(headings, rows)], absent


def _of_shared_seeds(runs: Sequence[Trial], *chosen: Trial | None) -> list[list[Trial]]:
    """The runs of each of these trials, of the seeds that all of them have; of a trial that there is not none."""
    by_seed = [{t.seed: t for t in runs if each is not None and t.trial == each.trial} for each in chosen]
    shared = set.intersection(*(set(known) for known, each in zip(by_seed, chosen, strict=True) if each is not None))
    return [[known[seed] for seed in sorted(shared & known.keys())] for known in by_seed]


def _score(runs: Sequence[Trial]) -> float | None:
    """The mean over seeds; None without a run, or where one has no score."""
    scores = [t.score if t.status == "complete" else None for t in runs]
    known = [score for score in scores if score is not None]
    return fmean(known) if known and len(known) == len(scores) else None


def _kept(gains: Sequence[tuple[float | None, float | None]]) -> str:
    """What becomes of the gain of tuning, in the mean of the methods that have both."""
    known = [(there, here) for there, here in gains if there is not None and here is not None]
    if not known:
        return ""
    there, here = map(fmean, zip(*known, strict=True))
    return f"The mean gain is {there:+.1f} points on the tuning stream and {here:+.1f} here."


def _mean(runs: Sequence[Trial]) -> str:
    scores = [t.score for t in runs if t.score is not None and t.status == "complete"]
    spread = stdev(scores) if len(scores) > 1 else None
    return percent(_score(runs), spread) if runs else "-"
