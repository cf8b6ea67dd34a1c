"""Claims held against the records: of each and every stream the paired difference in its favour, and whether it holds.

Two sides are compared in the runs that both have: of the same stream, order and seed. Of last accuracies the scores of
every test sample are compared where all these runs kept them, as in ``comparisons``; else, and of forgetting, a number
a run, and then the statement is about other runs on the same samples.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from benchmark.compare import samples, stats, variance
from benchmark.compare.claims import EVERY, Claim, ClaimedSide
from benchmark.compare.comparisons import Sitting
from benchmark.compare.entries import age, by_key, candidates, card_of, counts, trial_stream
from benchmark.compare.presets import TUNED, beside_tuned
from benchmark.compare.rows import DEFAULT
from benchmark.config import families
from benchmark.record.schema import Record

FEWEST_RUNS = 2  # a single run tells of that model, not of the method
FEWEST_ALONE = 3  # without other samples: two runs may differ by an image more or less, and seem not to vary
MOST_UNITS = 10_000  # of orders or seeds; what these do not tell none will
SAME = 1e-12
LEVEL, POWER = 0.05, 0.8
HOLDS, FAILS, UNTOLD = "holds", "fails", "cannot be told"


@dataclass(frozen=True)
class HeldClaim:
    """A claim on one stream and backbone.

    Attributes:
        rival: the method that it was held against; where it is about every other, the one that decides.
        runs: that both have.
        difference: in favour of the claim, a fraction; low, high: its 95 % interval; p: of no difference. All three
            are NaN where nothing is tested: of a single run, of two without the samples' scores, of two rows that are
            alike in every run.
        p_holm: after Holm over all claims that were tested.
        keys: of the rows on both sides.
        sampled: whether interval and p are about other test samples too.
        spread: how the difference varies by runs and by samples.
        needed: how many runs would tell a difference of the published size, or else of the observed one; None where no
            number would, or none can be said.
        notes: what else a reader has to know.
        preset: of the rows on both sides: tuned, or as the claim says its sides.
    """

    claim: Claim
    stream: str
    backbone: str
    rival: str
    runs: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    keys: tuple[str, str]
    sampled: bool
    spread: variance.Spread
    needed: int | None = None
    notes: tuple[str, ...] = ()
    preset: str = DEFAULT

    @property
    def verdict(self) -> str:
        """What can be said of the claim here."""
        if not self.p_holm < LEVEL:
            return UNTOLD
        return HOLDS if self.difference > 0 else FAILS


def held(claims: Sequence[Claim], records: Iterable[Record]) -> list[HeldClaim]:
    """Every claim on every stream and backbone of the records that can tell of it, in the order of the claims: where
    both sides were tuned first of their tuned rows, and then of those that the claim names.

    Backbones without trained weights tell of no method and are left out.
    """
    streams: dict[tuple[str, str], list[Record]] = {}
    for record in filter(counts, records):
        if not families.note(record.backbone) and not trial_stream(record.stream.name):
            streams.setdefault((record.stream.folder, record.backbone), []).append(record)
    rows = {place: by_key(streams[place]) for place in sorted(streams)}
    sides = {place: ((TUNED, tuned_rows(rows[place])), (DEFAULT, rows[place])) for place in rows}
    found: list[HeldClaim] = []
    for claim in claims:
        for place in rows:
            tuned, default = ([replace(one, preset=preset) for one in _on_stream(claim, mine)]
                              for preset, mine in sides[place])  # fmt: skip
            again = {one.keys for one in default}  # of both the default was best: the same runs, tested once
            found += [*(one for one in tuned if one.keys not in again), *default]
    corrected = stats.holm([one.p for one in found])
    tested = sum(not math.isnan(one.p) for one in found)
    return [
        replace(one, p_holm=p, needed=_needed(one, LEVEL / max(1, tested)))
        for one, p in zip(found, corrected, strict=True)
    ]


def tuned_rows(rows: list[list[Record]]) -> list[list[Record]]:
    """The rows with settings that say what they differ in from the tuned values, as if these were the defaults; none
    where these are the defaults throughout."""
    told = [(runs, beside_tuned(runs[0], card_of(runs[0]))) for runs in rows]
    chosen = [[replace(run, settings=settings) for run in runs] for runs, settings in told if settings is not None]
    same = all(runs[0].settings == "" for runs, settings in told if settings == "")
    return [] if same else chosen


def _on_stream(claim: Claim, rows: list[list[Record]]) -> Iterator[HeldClaim]:
    if not rows or not {kind.name for kind in rows[0][0].stream.kinds} <= claim.kinds:
        return
    above = _row(rows, claim.above)
    others = {runs[0].method for runs in rows} - {claim.above.method}
    sides = [ClaimedSide(name) for name in sorted(others)] if claim.below.method == EVERY else [claim.below]
    pairs = [_against(claim, above, below) for side in sides if above and (below := _row(rows, side))]
    known = [pair for pair in pairs if pair is not None]
    if claim.below.method == EVERY and known:
        yield _over_all(known)
    else:
        yield from known


def _row(rows: list[list[Record]], side: ClaimedSide) -> list[Record]:
    """The runs of a side; of several keys with equal settings those with the most runs, of equals the stored,
    then the newest."""
    fit = [runs for runs in rows if (runs[0].method, runs[0].settings) == (side.method, side.settings)]
    return max(fit, key=lambda runs: (len(runs), not runs[0].own, max(map(age, runs))), default=[])


def _against(claim: Claim, above: list[Record], below: list[Record]) -> HeldClaim | None:
    """Both sides in the runs that they share; None without one."""
    mine, its = (
        {_sitting(run): run for run in runs if run.number(claim.identity, claim.number) is not None}
        for runs in (above, below)
    )
    shared = sorted(mine.keys() & its.keys())
    if not shared:
        return None
    sides = [[side[cell] for cell in shared] for side in (mine, its)]
    kept = [[samples.kept(run, claim.identity) for run in runs] for runs in sides] if claim.number == "last_acc" else []
    sizes = {tuple(map(len, scores)) if scores else () for side in kept for scores in side}
    sampled = len(sizes) == 1 and () not in sizes
    scores = kept if sampled else [[_number(run, claim) for run in runs] for runs in sides]
    one, other = (
        samples.nested({(c.order, c.seed): score for c, score in zip(shared, side, strict=True) if score is not None})
        for side in scores
    )
    groups = samples.groups([*sides[0], *sides[1]]) if sampled else None
    gap, low, high, p = stats.difference(one, other, groups)
    spread = stats.paired(one, other, groups)
    untested = _untested(len(shared), gap, float(spread.error), sampled)
    if untested:
        low = high = p = math.nan
    notes = tuple(filter(None, (untested or ("" if sampled else "runs alone"),)))
    if claim.identity == "hidden" and above[0].stream.label_space != "shared":
        own = [runs[0].method for runs in sides if any(candidates(run) == "own" for run in runs)]
        notes += tuple(f"{name} learned over its own task's labels" for name in own)
    notes += tuple(f"of {runs[0].named}" for runs in sides if runs[0].own)
    return HeldClaim(
        claim, above[0].stream.folder, above[0].backbone, below[0].named, len(shared), gap, low, high, p, p,
        (above[0].key, below[0].key), sampled, spread, notes=notes,
    )  # fmt: skip


def _untested(runs: int, gap: float, error: float, sampled: bool) -> str:
    """Why a difference is not tested; empty if it is."""
    if runs < FEWEST_RUNS:
        return "a single run"
    if gap == 0 and error == 0:
        return "alike in every run"
    if not sampled and error < SAME:  # of what no seed changes there is one run, whatever their number
        return "the same in every run: a single run in effect"
    return "two runs alone: too few to test" if not sampled and runs < FEWEST_ALONE else ""


def _sitting(run: Record) -> Sitting:
    return Sitting(run.order, run.seed, run.stream.hash, tuple(run.permutation), ())


def _number(run: Record, claim: Claim) -> samples.Scores:
    """A run's number as the score of the one task with the one sample; the larger the better."""
    import numpy as np

    value = run.number(claim.identity, claim.number)
    return [np.array([-value if claim.number == "forgetting" and value is not None else value], dtype=np.float64)]


def _over_all(pairs: list[HeldClaim]) -> HeldClaim:
    """Of one method against every other the one that decides.

    Where it is above all, that with the largest p, for all of them have to be below; where it is not, that of those
    above it with the least p, which is multiplied by how many methods there are.
    """
    tested = [pair for pair in pairs if not math.isnan(pair.p)]
    if not tested:
        return min(pairs, key=lambda pair: pair.difference)
    ahead = [pair for pair in tested if pair.difference <= 0]
    if ahead:
        first = min(ahead, key=lambda pair: pair.p)
        p = min(1.0, len(tested) * first.p)
    else:
        first = max(tested, key=lambda pair: pair.p)
        p = first.p
    return replace(first, p=p, p_holm=p, notes=(*first.notes, f"decides among {len(tested)} methods"))


def _needed(one: HeldClaim, level: float) -> int | None:
    """The fewest runs whose test tells a difference of the size in question at this level with a probability of .8.

    More runs, with as many seeds of an order where there are several orders, make the runs' part of the variance less
    and its degrees of freedom more; the test samples stay those that there are. That the difference which is found
    varies normally about the true one is an approximation.
    """
    size = abs(one.difference) if one.claim.published is None else one.claim.published
    if math.isnan(one.p) or size == 0 or one.spread.error == 0:
        return None
    units = one.spread.freedom_of_runs + 1

    def tells(many: int) -> bool:
        then = replace(one.spread, runs=one.spread.runs * units / many, freedom_of_runs=many - 1)
        return bool((then.critical(level) + NormalDist().inv_cdf(POWER)) * then.error <= size)

    enough = FEWEST_RUNS + bisect_left(range(FEWEST_RUNS, MOST_UNITS + 1), True, key=tells)
    return None if enough > MOST_UNITS else math.ceil(enough * one.runs / units)
