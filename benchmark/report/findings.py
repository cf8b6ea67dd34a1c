"""The point of a stream's leaderboard in a few sentences, made from its rows alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean
from types import MappingProxyType

from benchmark.compare.entries import GROUPS, trial, trial_stream
from benchmark.compare.rows import LeaderboardRow, OverallRow, PairRow
from benchmark.compare.tables import percent
from benchmark.record.schema import PROTOCOLS
from benchmark.report.details import MethodView
from benchmark.report.views import StreamView
from benchmark.report.wording import p_value, per_cent, some_names

OPERATORS = "computing operators a step"  # of speed.csv
NOTHING = 0.0005  # less than this is 0.0 per cent as printed
GROWING = {"given": "", "hidden": ", where a growing list of candidates may count as loss too"}
Best = list[tuple[str, dict[str, LeaderboardRow | None]]]  # a group, and by protocol its best row
TOLD = ("Told which task it is", "Not told which task it is")  # how a sentence on each protocol begins


@dataclass(frozen=True)
class Lead:
    """The parts of a sentence on who is ahead."""

    told: str
    who: str
    score: str
    next: str


def best_of_groups(rows: Sequence[LeaderboardRow]) -> Best:
    """Of every group that is there, the default row with the highest mean last accuracy, by protocol."""
    found = []
    groups = {row.group for row in rows}
    for group in (*(name for name in GROUPS if name in groups), *sorted(groups - set(GROUPS))):
        best = {
            protocol: max((row for row in _answered(rows, protocol) if row.group == group), key=_score, default=None)
            for protocol in PROTOCOLS
        }
        found.append((group, best))
    return found


def conditions(rows: Sequence[LeaderboardRow]) -> list[str]:
    """Settings under which methods are drawn and set beside each other: the defaults, where there are none what most
    rows have instead; then every other change of the common budget that two methods have."""
    methods: dict[str, set[str]] = {}
    for row in rows:
        if "method." not in row.settings:
            methods.setdefault(row.settings, set()).add(row.method)
    order = sorted(methods, key=lambda settings: (settings != "", -len(methods[settings]), settings))
    return [*order[:1], *(settings for settings in order[1:] if len(methods[settings]) > 1)]


def defaults(rows: Sequence[LeaderboardRow], condition: str | None = None) -> list[LeaderboardRow]:
    """The rows with these settings, by default the first of :func:`conditions`, on the backbone that most have; each
    once, as default row where it stands under two presets."""
    chosen = next(iter(conditions(rows)), "") if condition is None else condition
    once: dict[tuple[str, str, str], LeaderboardRow] = {}
    for row in (row for row in rows if row.settings == chosen):
        place = row.method, row.key, row.protocol
        once[place] = row if row.default else once.get(place, row)
    backbones = [row.backbone for row in once.values()]
    main = max(sorted(set(backbones)), key=backbones.count, default=None)
    return [row for row in once.values() if row.backbone == main]


def told(rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    """Those of which something is said: of several runs, which learned for as long as the common budget has it."""
    return [row for row in defaults(rows) if row.n_runs > 1 and not trial(row.settings)]


def _answered(rows: Sequence[LeaderboardRow], protocol: str) -> list[LeaderboardRow]:
    """The default rows of a protocol that have a last score."""
    return [row for row in defaults(rows) if row.protocol == protocol and row.last_acc_mean is not None]


def _score(row: LeaderboardRow) -> float:
    assert row.last_acc_mean is not None, "only rows that answered are compared"
    return row.last_acc_mean


def _rivals(rows: Sequence[LeaderboardRow], protocol: str) -> list[LeaderboardRow]:
    """Of those that answered the ones of which something is said; where equals are ranked only these, for the others
    have other seeds or orders, and orders differ."""
    several = told(rows)
    mine = [row for row in _answered(rows, protocol) if row in several]
    ranked = {row.rank_class for row in mine if row.rank is not None}
    return [row for row in mine if row.rank is not None or row.rank_class not in ranked]


def lead(rows: Sequence[LeaderboardRow], pairs: Sequence[PairRow], measure: str) -> list[Lead]:
    """Who is ahead under each protocol, and whether the runner-up of the same group can be told from it.

    That is said by p after Holm's correction, of ``pairs``: intervals that overlap do not say that two are alike.
    """
    said = []
    for protocol, words in zip(PROTOCOLS, TOLD, strict=True):
        mine = sorted(_rivals(rows, protocol), key=lambda row: (-_score(row), row.method))
        if not mine:
            continue
        best = mine[0]
        equal = [row.method for row in mine[1:] if percent(_score(row)) == percent(_score(best))]
        names = _listed([best.method, *equal])
        score = percent(best.last_acc_mean, best.last_acc_std)
        rivals = [r for r in mine if r.rank_class == best.rank_class and r.method not in (best.method, *equal)]
        said.append(Lead(words, names, f"{score} % {measure}", _runner_up(best, rivals[:1], pairs)))
    return said


def _runner_up(best: LeaderboardRow, rivals: Sequence[LeaderboardRow], pairs: Sequence[PairRow]) -> str:
    if not rivals:
        return ""
    other = rivals[0]
    after = f"Next among equals is {other.method}, {percent(other.last_acc_mean, other.last_acc_std)} %"
    both = {(best.method, best.key), (other.method, other.key)}
    mine = [row for row in pairs if {(row.method_a, row.key_a), (row.method_b, row.key_b)} == both]
    pair = next((row for row in mine if row.protocol == best.protocol), None)
    if pair is None or math.isnan(pair.p_holm):
        return f"{after}; whether that is chance cannot be said of these records."
    told = "can" if pair.p_holm < 0.05 else "cannot"
    of = "two trained models" if pair.n_cells == 1 else "two"
    return f"{after}; the {of} {told} be told apart (p {p_value(pair.p_holm)} after Holm's correction over all pairs)."


def forgetting(rows: Sequence[LeaderboardRow]) -> list[str]:
    """Per protocol who forgets nothing and who most, with what they had learned, for who learns nothing has nothing to
    forget; joint training learns once and is left out."""
    said = []
    for protocol in PROTOCOLS:
        mine = [row for row in told(rows) if row.protocol == protocol and row.group != "joint"]
        known = [
            (row.forgetting_mean, f"{row.method}, learned {percent(row.learning_acc_mean)}")
            for row in mine if row.forgetting_mean is not None
        ]  # fmt: skip
        known.sort(key=itemgetter(0))
        if len(known) < 2:
            continue
        nothing = [method for value, method in known if value < NOTHING]
        (least, best), (most, worst) = known[0], known[-1]
        if nothing:
            first = f"{len(nothing)} of {len(known)} methods forget nothing ({some_names(nothing, joint='; ')})"
        else:
            first = f"least is forgotten by {best} ({percent(least)} points)"
        said.append(f"Identity {protocol}{GROWING[protocol]}: {first}; most by {worst} ({percent(most)}).")
    return said


def costs(rows: Sequence[LeaderboardRow], operators: Mapping[str, float] = MappingProxyType({})) -> list[str]:
    """The dearest and the cheapest method that trains, by parameters, memory kept and the operators of a step, as far
    as ``speed`` has counted these: seconds of runs depend on what else the machine did."""
    mine = [row for row in told(rows) if row.protocol == PROTOCOLS[0] and row.trainable_params]
    said = []
    for name, label, shown in (
        ("trainable_params", "Trained parameters", lambda value: f"{value:,.0f}"),
        ("stored_bytes", "Kept between tasks", lambda value: f"{value / 2**20:,.2f} MiB"),
        (OPERATORS, "Computing operators of a training step at the last task", lambda value: f"{value:,.0f}"),
    ):
        values = {row.method: operators.get(row.method) if name == OPERATORS else row.value(name) for row in mine}
        known = [(value, method) for method, value in values.items() if value is not None]
        known.sort(key=itemgetter(0))
        if len(known) > 1:
            (low, cheapest), (high, dearest) = known[0], known[-1]
            said.append(f"{label}: {shown(low)} ({cheapest}) to {shown(high)} ({dearest}).")
    idle = sorted({row.method for row in told(rows) if not row.trainable_params})
    return [*said, f"Without training: {some_names(idle)}."] if idle else said


def changed(view: StreamView) -> str:
    """What differs from the defaults in the rows of a stream that are set beside others."""
    return next(iter(conditions(view.rows)), "")


def steps(methods: Sequence[MethodView]) -> tuple[str, str]:
    """What tasks of one modality do to each other on average over the methods, or why it cannot be said."""
    first = next(iter(conditions([row for method in methods for row in method.rows.values()])), "")
    told_of = [method for method in methods if method.settings == first and len(method.provenance) > 1]
    mine = [method.steps for method in told_of if method.group != "joint" and not trial(first)]
    said = []
    for protocol in PROTOCOLS:
        pairs = [(same, other) for same, other in (each[protocol] for each in mine)
                 if same is not None and other is not None]  # fmt: skip
        if pairs:
            within, across = (per_cent(fmean(values)) for values in zip(*pairs, strict=True))
            said.append(f"{within} points if both show the same modality and {across} if not (identity {protocol})")
    if said:
        return f"On average over methods one more task costs an earlier task {', '.join(said)}.", ""
    if not methods:
        return "", "Of a stream for trials nothing is said."
    count = {task.modality for method in methods for task in method.tasks}
    why = "no two tasks share a modality" if len(count) > 1 else "all tasks show one modality"
    return "", f"The two cannot be told apart on this stream: {why}."


def overall(views: Sequence[StreamView], ranks: Sequence[OverallRow]) -> list[Lead]:
    """On how many streams which method ends highest, as printed, and who ranks best among the plain methods."""
    said = []
    for protocol, words in zip(PROTOCOLS, TOLD, strict=True):
        wins: dict[str, int] = {}
        for view in views:
            mine = [] if trial_stream(view.name) else _rivals(view.rows, protocol)
            best = percent(max(map(_score, mine), default=None))
            for row in mine:
                if percent(_score(row)) == best:
                    wins[row.method] = wins.get(row.method, 0) + 1
        order = sorted(wins, key=lambda name: (-wins[name], name))
        plain = [row for row in ranks if row.group == GROUPS[0] and row.protocol == protocol]
        if order:
            most = [name for name in order if wins[name] == wins[order[0]]]
            after = [f"{name} on {wins[name]}" for name in order[len(most) :]]
            rest = f"Then {', '.join(after)}." if after else ""
            if plain:
                rest += f" Best average rank of the plain methods, over {plain[0].n_streams} streams"
                rest += f": {_ahead(views, plain)}."
            many = sum(bool(_rivals(view.rows, protocol)) for view in views if not trial_stream(view.name))
            score = f"on {wins[order[0]]} of {many} streams with several runs of a method"
            score += " each" if len(most) > 1 else ""
            said.append(Lead(words, _listed(most), score, rest))
    return said


def _ahead(views: Sequence[StreamView], ranks: Sequence[OverallRow]) -> str:
    """Those of the best average rank, as printed, with the backbone of the first."""
    printed = [(rank.backbone, f"{rank.average_rank:.2f}") for rank in ranks]
    best = [rank for rank, said in zip(ranks, printed, strict=True) if said == printed[0]]
    return _listed([rank.method + _once(views, rank) for rank in best])


def _once(views: Sequence[StreamView], rank: OverallRow) -> str:
    """On how many of the streams of an average rank its method has a single run, in brackets; empty for none."""
    there = [row for view in views if view.name in rank.streams.split() for row in _answered(view.rows, rank.protocol)]
    single = sum(row.method == rank.method and row.n_runs == 1 for row in there)
    return f" ({single} of them with one run of it)" if single else ""


def _listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
