"""Tables made from the records alone: CSV files per stream, and two over all streams.

Only complete records of the test split without a ``limit`` enter. The same records give the same bytes, in whatever
order and on whatever machine they are read: sums are exact (``fsum``), and nothing is drawn. What the working
tree's code has to do with it is whether a row is ``stale``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmark.compare import comparisons, per_task
from benchmark.compare.aggregate import aggregated
from benchmark.compare.entries import METRICS, by_key, card_of, code_of, counts, group_place, seen_by
from benchmark.compare.presets import presets
from benchmark.compare.rows import DEFAULT, LEADERBOARD, OVERALL, OVERALL_PAIRS, PAIRS, LeaderboardRow
from benchmark.compare.stats import average_ranks
from benchmark.errors import UserError, shown, unknown
from benchmark.record.files import csv_text, decimals, write_text
from benchmark.record.schema import PROTOCOLS, Record
from benchmark.record.shelves import read_from
from benchmark.record.soundness import ACROSS
from benchmark.record.stored import read_all

DIGITS = {"rank": 2, "train_seconds_mean": 2, "eval_seconds_mean": 2, "peak_memory_mib": 1}


# Rows


def rows(records: Iterable[Record]) -> list[LeaderboardRow]:
    """The leaderboard of one stream, in the order of the file: a row per (method, key, protocol) and preset of it.

    ``rank`` is given only to rows of a preset and counts among the same preset, group, protocol and backbone:
    ``cell_ranks`` of the last accuracies as printed. ``stale`` compares with the code of the working tree. Own rows
    beside stored ones are ranked among them and change no stored rank.
    """
    entering = [record for record in records if counts(record)]
    found: list[LeaderboardRow] = []
    rivals: dict[tuple[str, str, str, str], dict[int, dict[tuple[int, int], float]]] = {}
    methods: dict[int, str] = {}  # without the mark of own ones
    for runs in by_key(entering):
        code, names = code_of(runs[0]), presets(runs[0], card_of(runs[0]))
        for protocol in PROTOCOLS:
            made = aggregated(runs, protocol, code)
            for row in (replace(made, preset=name) for name in names or ("",)):
                if row.preset and row.last_acc_mean is not None:
                    scores = {(run.order, run.seed): decimals(run.number(protocol, "last_acc")) for run in runs}
                    cells = {cell: float(score) for cell, score in scores.items()}
                    rivals.setdefault(row.rank_class, {})[len(found)] = cells
                    methods[len(found)] = runs[0].method
                found.append(row)
    for places in rivals.values():
        stored = {methods[place]: place for place in places if not found[place].own}
        for place in places:
            new = {methods[other]: other for other in places if found[other].own and methods[other] not in stored}
            others = {**stored, **new} if found[place].own else stored
            beside = [places[other] for method, other in others.items() if method != methods[place]]
            found[place] = replace(found[place], rank=cell_ranks([places[place], *beside])[0])
    return sorted(found, key=_place)


def rows_of(results: Path, stream: str, metric: str | None = None) -> list[LeaderboardRow]:
    """The leaderboard of a stream, see :func:`rows`; ``metric``: by another one than each task's own.

    Raises:
        UserError: no record of that stream, or none that was measured so.
    """
    if metric is not None and metric not in METRICS:
        raise unknown("--metric", metric, METRICS)
    records = records_of(results, stream)
    return rows(records if metric is None else seen_by(metric, records))


def cell_ranks(rivals: Sequence[Mapping[tuple[int, int], float]]) -> list[float | None]:
    """Of each rival, a score per cell (order, seed): its rank in every reference cell (1 is best, equals share the mean
    of their ranks), averaged over them.

    Reference cells are those that more than half of the rivals have; who lacks one of them has no rank. With fewer
    than two reference cells, or fewer than two rivals that have them all, nobody has.
    """
    reference = reference_cells(rivals)
    placed = [place for place, each in enumerate(rivals) if all(cell in each for cell in reference)]
    ranks: list[float | None] = [None] * len(rivals)
    if len(reference) > 1 and len(placed) > 1:
        table_BM = [[rivals[place][cell] for place in placed] for cell in reference]
        for place, rank in zip(placed, average_ranks(table_BM), strict=True):
            ranks[place] = rank
    return ranks


def reference_cells(rivals: Sequence[Iterable[tuple[int, int]]]) -> list[tuple[int, int]]:
    """The cells (order, seed) that more than half of the rivals have, sorted."""
    had = Counter(cell for each in rivals for cell in set(each))
    return sorted(cell for cell, number in had.items() if 2 * number > len(rivals))


def _place(row: LeaderboardRow) -> tuple[int, int, str, bool, float, float, str, str, str]:
    """Of a group the tuned and official rows last; best average rank first, then without one; equals by mean last
    accuracy as printed, then by name."""
    rank = float("inf") if row.rank is None else row.rank
    last = -float(decimals(row.last_acc_mean) or "-inf")
    group = PROTOCOLS.index(row.protocol), *group_place(row.group)
    return *group, row.preset not in ("", DEFAULT), rank, last, row.method, row.key, row.preset


# Files


def build(results: Path, stream: str | None = None) -> list[Path]:
    """Write ``results/leaderboards/<stream>.csv`` and beside it ``.matrix.csv``, ``.forgetting.csv`` and ``.bwt.csv``.
    Where runs kept them there are ``.recall.csv``, the recall of every class, and ``.subgroups.csv``. A fusion stream
    has ``.missing.csv`` as well: accuracy where a part of the samples lacks the image or the text; a stream whose runs
    kept their hits ``.pairs.csv``. ``overall.csv`` and ``overall.pairs.csv`` are over all streams, whichever was named.
    For a user's own results these are of the streams that have own runs, with the stored rows beside; stored files stay
    as they are.

    ``matrix.csv`` is the mean matrix of the primary metric over the runs of each key's lowest order only: stages of
    different orders have learned different tasks. The other two are per task name over all runs in which the task was
    not the last. A stream with no record that counts gets no file, and without a comparison to show neither do the
    last three; a file that is there already is left with its header.

    Any number of processes may build at once: each reads again after writing and repeats if the records that count
    have changed meanwhile, so whoever writes last has seen every record.

    Returns:
        The files written.

    Raises:
        UserError: no runs of that stream.
    """
    results = Path(results)
    known_stream(results, stream)
    entering = list(filter(counts, read_all(results)))
    for _ in range(10):
        written = _write(results, entering, stream)
        before, entering = entering, list(filter(counts, read_all(results)))
        if entering == before:
            break
    return written


def build_by(results: Path, metric: str, stream: str | None = None) -> list[Path]:
    """Write ``results/leaderboards/<stream>.<metric>.csv``, the leaderboard by another metric, beside the one by each
    task's own; of the streams that were measured by it.

    Returns:
        The files written.

    Raises:
        UserError: no runs of that stream, or none that was measured by it.
    """
    known_stream(results, stream)
    seen: dict[str, list[Record]] = {}
    for record in seen_by(metric, read_all(results, stream)):
        seen.setdefault(record.stream.folder, []).append(record)
    texts = {results / "leaderboards" / f"{name}.{metric}.csv": _board(rows(seen[name])) for name in sorted(seen)}
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def known_stream(results: Path, stream: str | None) -> None:
    """Raise UserError where there are no runs of that stream."""
    names = _names(results)
    if stream is not None and stream not in names:
        raise unknown("stream", stream, names, f"{results / 'runs'}") if names else UserError(f"no runs in {results}")


def records_of(results: Path, stream: str) -> list[Record]:
    """The records of a stream.

    Raises:
        UserError: there are none.
    """
    found = read_all(results, stream) if stream in _names(results) else []
    if not found:
        others = with_records(results)
        nothing = UserError(f"no records of {shown(stream)}, nor of any other stream, below {results / 'runs'}")
        raise unknown("stream with records", stream, others) if others else nothing
    return found


def with_records(results: Path) -> list[str]:
    """The streams that have records, by name."""
    return [name for name in _names(results) if read_all(results, name)]


def _names(results: Path) -> list[str]:
    """Of the streams that have a folder where ``results`` are read from."""
    return sorted({name for place in read_from(results) for name in _streams(place)})


def _streams(results: Path) -> list[str]:
    """The folders of runs by name; one that has the name of the tables over all streams is none."""
    names = sorted(path.name for path in (results / "runs").glob("[!.]*") if path.is_dir())
    return [name for name in names if name.casefold() != ACROSS]


def _write(results: Path, entering: list[Record], stream: str | None) -> list[Path]:
    """The files of one stream or of all, then those over all streams; all texts are made before a file is written."""
    streams: dict[str, list[Record]] = {name: [] for name in _streams(results)}
    kept = {record.stream.folder for record in entering if record.own or len(read_from(results)) == 1}
    for record in entering:
        if record.stream.folder in kept:
            streams.setdefault(record.stream.folder, []).append(record)
    entering = entering if kept else []
    texts: dict[str, str] = {}
    for folder in sorted(streams):
        if stream in (None, folder):
            mine = _headers(results / "leaderboards", folder) | (_texts(streams[folder]) if streams[folder] else {})
            texts |= {f"{folder}{suffix}": text for suffix, text in mine.items()}
    texts[f"{ACROSS}.csv"] = _table_text(OVERALL, map(asdict, comparisons.overall(entering)))
    texts[f"{ACROSS}.pairs.csv"] = _table_text(OVERALL_PAIRS, map(asdict, comparisons.overall_pairs(entering)))
    written = []
    for name, text in texts.items():
        path = results / "leaderboards" / name
        compares = name.endswith(".pairs.csv") or name == f"{ACROSS}.csv"
        if not compares or text.count("\n") > 1 or path.exists():
            write_text(path, text)
            written.append(path)
    return written


def _headers(folder: Path, stream: str) -> dict[str, str]:
    """The first line of a stream's files that are there, by suffix; for those that no record has a line for."""
    files = {suffix: folder / f"{stream}{suffix}" for suffix in (".csv", *per_task.SUFFIXES, ".pairs.csv")}
    known = {suffix: file.read_text(encoding="utf-8") for suffix, file in files.items() if file.exists()}
    return {suffix: text.partition("\n")[0] + "\n" for suffix, text in known.items()}


def _texts(entering: list[Record]) -> dict[str, str]:
    """The content of a stream's files by suffix."""
    return {
        ".csv": _board(rows(entering)),
        **per_task.texts(by_key(entering)),
        ".pairs.csv": _table_text(PAIRS, map(asdict, comparisons.pairs_by_preset(entering))),
    }


def _board(every: Sequence[LeaderboardRow]) -> str:
    columns = (*LEADERBOARD, *dict.fromkeys(name for row in every for name in row.more))
    return _table_text(columns, (row.cells for row in every))


def _table_text(columns: Sequence[str], found: Iterable[Mapping[str, object]]) -> str:
    return csv_text(columns, ([_cell(name, row.get(name)) for name in columns] for row in found))


def _cell(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) or value is None:
        return decimals(value, DIGITS.get(name, 6))
    return str(value)
