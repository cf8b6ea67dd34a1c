"""Methods against each other: in pairs on the same samples of one stream, and in ranks over many streams.

In pairs rows of one preset are compared, over streams default rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from benchmark.compare import samples, stats
from benchmark.compare.entries import by_key, card_of, counts, group_place, trial_stream
from benchmark.compare.presets import PRESETS, presets
from benchmark.compare.rows import OverallPairRow, OverallRow, PairRow
from benchmark.record.files import decimals
from benchmark.record.schema import PROTOCOLS, Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEWEST_STREAMS = 3


# Of one stream


class Sitting(NamedTuple):
    """What two runs must have in common for their samples to be the same, and to be compared one by one."""

    order: int
    seed: int
    stream_hash: str
    permutation: tuple[int, ...]  # orders are not in the hash
    sizes: tuple[int, ...]


def pairs(records: Iterable[Record], settings: str = "") -> list[PairRow]:
    """Every two methods of one stream and backbone with these settings, the defaults, and cells in common.

    ``difference`` is the mean of a - b over shared cells, tasks and samples, in the primary metric. ``p_holm`` is ``p``
    after Holm over all pairs of the protocol. Interval and p are NaN where they are undefined.
    """
    found = [runs for runs in by_key(filter(counts, records)) if runs[0].settings == settings]
    return [row for protocol in PROTOCOLS for row in _pairs_of(found, protocol)]


def pairs_by_preset(records: Iterable[Record]) -> list[PairRow]:
    """The same among the rows of each preset, default, tuned and official; Holm is over those of one."""
    rows = by_key(filter(counts, records))
    names = [presets(runs[0], card_of(runs[0])) for runs in rows]
    return [
        replace(row, preset=preset)
        for preset in PRESETS
        for protocol in PROTOCOLS
        for row in _pairs_of([runs for runs, own in zip(rows, names, strict=True) if preset in own], protocol)
    ]


def against(mine: Sequence[Record], others: Sequence[Sequence[Record]], protocol: str) -> list[PairRow]:
    """One row's runs against those of others in the cells that both have; ``p_holm`` is over these.

    Of runs that did not keep the score of each sample the last scores are compared, ``n_samples`` is 0, and interval
    and p are about other runs on the same samples; NaN where there is one, or no seed changes anything.
    """
    rows = [row for runs in others if (row := _against(mine, runs, protocol)) is not None]
    corrected = stats.holm([row.p for row in rows])
    return [replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True)]


def _against(mine: Sequence[Record], its: Sequence[Record], protocol: str) -> PairRow | None:
    for scores in (_kept, _last):
        sides = [dict(filter(None, (scores(run, protocol) for run in runs))) for runs in (mine, its)]
        row = _pair(mine, its, sides[0], sides[1], protocol)
        if row is not None:
            break
    if row is not None and not row.n_samples and row.difference and row.ci_low == row.ci_high:
        return replace(row, ci_low=math.nan, ci_high=math.nan, p=math.nan)  # no seed changes it: one run in effect
    return row


def _pair(
    mine: Sequence[Record], its: Sequence[Record], my_scores: Mapping[Sitting, samples.Scores],
    its_scores: Mapping[Sitting, samples.Scores], protocol: str,
) -> PairRow | None:  # fmt: skip
    """Two rows in the cells of which both have scores; None without one. Uncorrected: ``p_holm`` is ``p``."""
    shared = sorted(my_scores.keys() & its_scores.keys())
    if not shared:
        return None
    one, other = (samples.nested({(c.order, c.seed): side[c] for c in shared}) for side in (my_scores, its_scores))
    n_samples = sum(shared[0].sizes)
    gap, low, high, p = stats.difference(one, other, samples.groups([*mine, *its]) if n_samples else None)
    return PairRow("", protocol, mine[0].backbone, mine[0].named, its[0].named, len(shared), n_samples, gap, low, high,
                   p, p_holm=p, key_a=mine[0].key, key_b=its[0].key)  # fmt: skip


def _last(run: Record, protocol: str) -> tuple[Sitting, list[NDArray[np.float64]]] | None:
    """A run's last score as that of the one sample of the one task."""
    import numpy as np

    score = run.number(protocol, "last_acc")
    if score is None:
        return None
    return Sitting(run.order, run.seed, run.stream.hash, tuple(run.permutation), ()), [np.array([score])]


def _pairs_of(every: list[list[Record]], protocol: str) -> list[PairRow]:
    kept = [dict(filter(None, (_kept(run, protocol) for run in runs))) for runs in every]
    found = [
        _pair(a, b, kept_a, kept_b, protocol)
        for (a, kept_a), (b, kept_b) in combinations(zip(every, kept, strict=True), 2)
        if a[0].named != b[0].named and a[0].backbone == b[0].backbone
    ]
    rows = [row for row in found if row is not None]
    corrected = stats.holm([row.p for row in rows])
    return [replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True)]


def _kept(run: Record, protocol: str) -> tuple[Sitting, list[NDArray[np.float64]]] | None:
    found = samples.kept(run, protocol)
    if found is None:
        return None
    return Sitting(run.order, run.seed, run.stream.hash, tuple(run.permutation), tuple(map(len, found))), found


# Across streams


@dataclass(frozen=True)
class Across:
    """Methods x streams without holes: ``table_BM[b][m]`` is method m's mean last accuracy on stream b."""

    protocol: str
    group: str
    backbone: str
    streams: tuple[str, ...]
    methods: tuple[str, ...]
    table_BM: tuple[tuple[float, ...], ...]


def across(records: Iterable[Record]) -> list[Across]:
    """For each protocol, group and backbone the largest full table of methods x streams, if there is one.

    Largest: the most cells among those with five streams or more, from which on a critical difference exists; where
    no two methods share five, among those with three or more; of equals the one with more streams, then by name. A
    method's number is the mean over the runs of its default row, to 6 decimals.
    """
    found: dict[tuple[int, int, str, str], dict[str, dict[str, float]]] = {}
    for runs in _defaults(records):
        head = runs[0]
        for protocol in PROTOCOLS:
            value = decimals(stats.mean([run.number(protocol, "last_acc") for run in runs]))
            if value:
                place = (PROTOCOLS.index(protocol), *group_place(head.group), head.backbone)
                methods = found.setdefault(place, {})
                methods.setdefault(head.named, {})[head.stream.folder] = float(value)
    result = []
    for protocol_place, _, group, backbone in sorted(found):
        methods = found[protocol_place, *group_place(group), backbone]
        streams = _full(methods)
        if streams:
            names = tuple(sorted(name for name in methods if streams <= methods[name].keys()))
            blocks = tuple(sorted(streams))
            table = tuple(tuple(methods[name][block] for name in names) for block in blocks)
            result.append(Across(PROTOCOLS[protocol_place], group, backbone, blocks, names, table))
    return result


def _defaults(records: Iterable[Record]) -> list[list[Record]]:
    """The runs of the default row of each (stream, method, backbone); streams for trials are left out."""
    streams: dict[str, list[Record]] = {}
    for record in filter(counts, records):
        if not trial_stream(record.stream.name):
            streams.setdefault(record.stream.folder, []).append(record)
    return [runs for name in sorted(streams) for runs in by_key(streams[name]) if runs[0].settings == ""]


def _full(methods: dict[str, dict[str, float]]) -> frozenset[str]:
    """The streams of the largest full table, none if no two methods share three. Its streams are always those that
    some of the methods have in common, so only such sets are looked at."""
    common: set[frozenset[str]] = set()
    for mine in methods.values():
        common |= {frozenset(mine)} | {each.intersection(mine) for each in common}

    def size(streams: frozenset[str]) -> tuple[bool, int, int]:
        holders = sum(streams <= mine.keys() for mine in methods.values())
        return len(streams) >= stats.FEWEST_BLOCKS, holders * len(streams), len(streams)

    fit = [each for each in common if len(each) >= FEWEST_STREAMS and size(each)[1] >= 2 * len(each)]
    return max(sorted(fit, key=sorted), key=size, default=frozenset())


def overall(records: Iterable[Record]) -> list[OverallRow]:
    """The rows of every full table, a table after the other, best average rank first.

    Friedman's numbers are None for two methods, or when all are equal; the critical difference for fewer than five
    streams.
    """
    return [row for table in across(records) for row in _overall_of(table)]


def _overall_of(table: Across) -> Iterator[OverallRow]:
    statistic, p = stats.friedman(table.table_BM)[:2] if len(table.methods) > 2 else (None, None)
    many = len(table.streams) >= stats.FEWEST_BLOCKS
    critical = stats.critical_difference(table.table_BM)[0] if many else None
    ranks = stats.average_ranks(table.table_BM)
    for rank, method in sorted(zip(ranks, table.methods, strict=True)):
        yield OverallRow(
            table.protocol, table.group, table.backbone, method, len(table.streams), " ".join(table.streams), rank,
            statistic, p, critical,
        )  # fmt: skip


def overall_pairs(records: Iterable[Record]) -> list[OverallPairRow]:
    """Wilcoxon's test over the streams of every two methods of a full table, ``p_holm`` over the table; ``difference``
    is the mean of a - b over streams."""
    return [row for table in across(records) for row in _overall_pairs_of(table)]


def _overall_pairs_of(table: Across) -> Iterator[OverallPairRow]:
    for a, b, p, corrected in stats.wilcoxon_holm(table.table_BM):
        gap = fmean(block[a] - block[b] for block in table.table_BM)
        yield OverallPairRow(
            table.protocol, table.group, table.backbone, table.methods[a], table.methods[b], len(table.streams), gap, p,
            corrected,
        )  # fmt: skip
