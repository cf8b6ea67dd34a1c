"""What the report shows of a stream: nothing is drawn here, and nothing that ``leaderboard.rows`` has is computed
again. ``details`` has what it shows of one method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmark.compare import leaderboard
from benchmark.compare.entries import by_key, counts
from benchmark.compare.rows import LeaderboardRow
from benchmark.compare.tables import spoken
from benchmark.kinds import Kind
from benchmark.record.schema import PROTOCOLS, Record, StreamEntry, TaskEntry
from benchmark.report.details import MethodView, method_view
from benchmark.report.wording import slug


@dataclass(frozen=True)
class StreamView:
    """One stream: its tasks, its leaderboard rows, its methods.

    Attributes:
        name: of its folder.
        measure: the primary metric in words.
        tasks: in the stream's listed order. own: the metric of each in words.
        chance: protocol -> what guessing scores, see ``chance``.
        runs: the records that enter the leaderboard.
        left_out: reason -> how many records enter none.
        data: task -> the checksums of its data; more than one only if runs disagree.
        newest: when the last of the runs was finished.
    """

    name: str
    kind: Kind
    measure: str
    tasks: list[TaskEntry]
    own: list[str]
    chance: dict[str, float] | None
    hash: str
    rows: list[LeaderboardRow]
    methods: list[MethodView]
    runs: list[Record]
    left_out: dict[str, int]
    data: dict[str, list[str]]
    newest: str

    @property
    def id(self) -> str:
        """The name as part of addresses and of files' names."""
        return slug(self.name)

    def part(self, condition: str) -> str:
        """The name of files under a condition, what differs from the defaults."""
        return f"{self.id}-{slug(condition)}" if condition else self.id


def stream_view(records: Sequence[Record]) -> StreamView:
    """The view of one stream.

    Args:
        records: of one stream, at least one of which enters the leaderboard.
    """
    entering = [record for record in records if counts(record)]
    rows, head = leaderboard.rows(entering), entering[0]
    by_identity = {(row.method, row.key, row.protocol): row for row in reversed(rows)}  # of two presets the first
    by_place = dict(zip(head.permutation, zip(head.stream.tasks, head.stream.measures, strict=True), strict=True))
    listed = [by_place[place] for place in sorted(by_place)]
    return StreamView(
        name=head.stream.folder,
        kind=head.kind,
        measure=spoken(head.primary),
        tasks=[task for task, _ in listed],
        own=[spoken(metric) for _, metric in listed],
        chance=chance(head.stream),
        hash=head.stream.hash,
        rows=rows,
        methods=[
            method_view(runs, {protocol: by_identity[method, key, protocol] for protocol in PROTOCOLS})
            for (method, key), runs in _in_order(entering, rows)
        ],
        runs=entering,
        left_out=_left_out(records),
        data=_data(entering),
        newest=max(str(record.provenance.finished) for record in entering),
    )


def _in_order(
    entering: Iterable[Record], rows: Iterable[LeaderboardRow]
) -> list[tuple[tuple[str, str], list[Record]]]:  # fmt: skip
    """The runs of each (method, key) in the order of the leaderboard, identity given."""
    found = {(runs[0].named, runs[0].key): runs for runs in by_key(entering)}
    places = dict.fromkeys((row.method, row.key) for row in rows if row.protocol == PROTOCOLS[0])
    return [(place, found[place]) for place in places]


def chance(stream: StreamEntry) -> dict[str, float] | None:
    """What guessing scores after the last task: the mean over tasks of 1 / candidates; None without labels."""
    sizes = [len(task.labels) for task in stream.tasks]
    if not all(kind.labelled for kind in stream.kinds) or not all(sizes):
        return None
    every = sizes[0] if stream.label_space == "shared" else sum(sizes)
    return {"given": fmean(1 / size for size in sizes), "hidden": 1 / every}


def _left_out(records: Iterable[Record]) -> dict[str, int]:
    """How many records enter no leaderboard, by reason; those of limited data are not counted."""
    found: dict[str, int] = {}
    for record in records:
        if not counts(record) and record.limit is None:
            tuning = "a stream to tune on" if record.split == "test" else "validation split"
            reason = "not finished" if not record.complete else tuning
            found[reason] = found.get(reason, 0) + 1
    return found


def _data(runs: Iterable[Record]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for run in runs:
        for task, digest in run.provenance.data.items():
            found.setdefault(task, set()).add(digest)
    return {task: sorted(digests) for task, digests in found.items()}
