"""``results/tuning.md``: what tuning found, what it costs and whether it holds, from the trials in ``results/tuning``.

It says what there is, and what is missing. The same trials give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from benchmark.compare import choice
from benchmark.compare.tables import markdown_table, percent
from benchmark.config import families, registry
from benchmark.errors import UserError
from benchmark.record import trials
from benchmark.record.files import write_text
from benchmark.record.trials import FOLDER, Trial
from benchmark.report import tuning_plots
from benchmark.report.figures import render
from benchmark.report.tuning_held import VALIDATED, held_against
from benchmark.report.tuning_lines import TunedLine, gain_of, in_points, lines_of, tau, values

NAME = "tuning.md"
ABOUT = """\
Made by `python -m benchmark tuning` from the trials in `tuning/`, which `make tune` leaves there.

- Every method that learns has the same trials: its default, then the points of one list over the learning rate
  (0.0005 to 0.02) and at most three arguments that its file declares (`search`), each a quarter to four times its
  value.
- A trial is an ordinary run on a stream made for it, whose classes and images no ranked stream has. Its **score** is
  the mean of the last scores on the validation split with the identity given and hidden, in per cent. The best is
  chosen, of equals the smaller rate; what diverged or failed is the worst.
- **Gain**: the best of the trials, the default among them, less the default. It is never negative and too large by the
  luck of the best; whether it holds is told below, on other images and seeds.
- **First task**: what the same trials say right after their first task alone, with the identity given and hidden.
  *Its choice* is the score after all tasks of the trial that the first task would choose, whatever becomes of it later;
  *its cost* what the trials took until then. Joint training has no first task.
- *tau*: Kendall's rank correlation of the methods; 1 is the same order, 0 none.
- Figures: score against learning rate, a circle a trial, full the chosen one, dashed the default, all panels as high in
  points; and what the best of the first k trials gains over the default, all panels on one scale."""


def write(results: Path) -> list[Path]:
    """Write ``tuning.md`` and its figures; returns what was written.

    Raises:
        UserError: there are no trials.
    """
    results = Path(results)
    names = [name for name in trials.methods_with(results) if name in registry.names()]
    known = {name: trials.read(results, name) for name in names}
    if not any(known.values()):
        raise UserError(f"no trials below {results / FOLDER} yet: make tune METHODS=ewc")
    page, drawn = text(known)
    written = [results / NAME, *(results / FOLDER / name for name in drawn)]
    for path, content in zip(written, [page, *drawn.values()], strict=True):
        write_text(path, content)
    return written


def text(known: Mapping[str, Sequence[Trial]]) -> tuple[str, dict[str, str]]:
    """The page, and its figures by file name.

    Args:
        known: method -> its trials, of every stream.
    """
    parts, drawn, missing = ["# Tuning", ABOUT], {}, []
    for kind, stream in choice.STREAMS.items():
        found = lines_of(known, kind)
        if not found:
            missing.append(f"no trials for {kind}: `make tune METHODS=all KINDS={kind}`")
            continue
        parts += [f"## {kind.capitalize()}, on `{stream}`", *_of_kind(found)]
        for name, figure in _figures(kind, found):
            drawn[name] = figure
            parts.append(f"![{name}]({FOLDER}/{name})")
        counts = {len(line.trials) for line in found if not choice.fixed(registry.card(line.method), line.trials)}
        if len(counts) > 1:
            missing.append(f"{kind}: methods have {' or '.join(map(str, sorted(counts)))} trials, not as many each")
        absent = [name for name in registry.names() if kind in registry.card(name).kinds and name not in
                  {line.method for line in found}]  # fmt: skip
        if absent:
            missing.append(f"{kind}: no trials of {', '.join(absent)}")
    more, lacking = held_against(known)
    parts += [f"## Does it hold? On the validation split of `{VALIDATED}`", *more]
    missing += lacking
    if missing:
        parts += ["## What is missing", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(parts) + "\n", drawn


def _of_kind(found: Sequence[TunedLine]) -> list[str]:
    note = families.note(found[0].default.backbone)
    headings = ("method", "trials", "failed", "default", "tuned", "gain", "chosen", "first task: its choice",
                "seconds", "first task: its cost")  # fmt: skip
    lines = []
    for line in found:
        gain = in_points(gain_of(line.best.score, line.default.score))
        lines.append((
            f"`{line.method}`", str(len(line.trials)), str(sum(t.status != "complete" for t in line.trials)),
            percent(line.default.score), percent(line.best.score), gain, values(line.best),
            "-" if line.first is None else _ended(line.first), f"{sum(t.seconds for t in line.trials):,.0f}",
            "-" if line.first is None else f"{sum(t.first_seconds for t in line.trials):,.0f}",
        ))  # fmt: skip
    whole = sum(t.seconds for line in found for t in line.trials)
    early = sum(t.first_seconds for line in found if line.first for t in line.trials)
    said = (f"{sum(len(line.trials) for line in found)} trials of {len(found)} methods took {whole / 60:,.0f} minutes "
            f"of training and evaluation, their first tasks {early / 60:,.0f}. "
            f"{tau('defaults and tuned', [(t.default.score, t.best.score) for t in found])}")  # fmt: skip
    return [*([note] if note else []), f"{said} {_at_ends(found)}", markdown_table(headings, lines)]


def _at_ends(found: Sequence[TunedLine]) -> str:
    """Of how many methods the best rate is the smallest or largest one tried, so that a better one may lie beyond."""
    tried = [(line.best.lr, sorted({t.lr for t in line.trials})) for line in found if line.best.trained]
    several = [(chosen, rates) for chosen, rates in tried if len(rates) > 1]
    smallest = sum(chosen == rates[0] for chosen, rates in several)
    largest = sum(chosen == rates[-1] for chosen, rates in several)
    return (f"The chosen rate is the smallest tried for {smallest} and the largest for {largest} of "
            f"{len(several)} methods: for these a better one may lie beyond.")  # fmt: skip


def _ended(trial: Trial) -> str:
    """The score of a trial, or what became of it."""
    return percent(trial.score) if trial.status == "complete" else trial.status


def _figures(kind: str, found: Sequence[TunedLine]) -> Iterable[tuple[str, str]]:
    """Of the methods that train: score against rate; of those with several trials: the best of the first k."""
    several = {line.method: line for line in found if len(line.trials) > 1}
    trained = {name: line for name, line in several.items() if line.best.trained and line.best.score is not None}
    panels = {
        name: ([(t.lr, t.score, t is line.best) for t in line.trials if t.score is not None and t.status == "complete"],
               line.default.score)
        for name, line in sorted(trained.items())
    }  # fmt: skip
    if panels:
        yield f"{kind}-rates.svg", render(f"{kind}-rates", tuning_plots.rates, panels)[0]
    curves = {
        name: list(accumulate((t.score if t.status == "complete" and t.score else 0.0 for t in line.trials), max))
        for name, line in sorted(several.items())
    }
    if curves:
        yield f"{kind}-best-of-k.svg", render(f"{kind}-best-of-k", tuning_plots.best_of, curves)[0]
