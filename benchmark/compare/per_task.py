"""The CSV files of a stream that tell its tasks apart: score matrices, forgetting, transfer, missing inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from benchmark import metrics
from benchmark.compare.stats import deviation, mean
from benchmark.record.files import csv_text, decimals
from benchmark.record.schema import PROTOCOLS, Record
from benchmark.record.summary import floats, missing_rows

FORMULAS = {"forgetting": metrics.forgetting_per_task, "bwt": metrics.backward_transfer_per_task}
SUFFIXES = (".matrix.csv", *(f".{name}.csv" for name in FORMULAS), ".missing.csv")

Lines = Callable[[Sequence[Record], str], Iterable[list[object]]]  # from the runs of a key and the protocol


def texts(keys: Sequence[Sequence[Record]]) -> dict[str, str]:
    """The content of the files by suffix, from the runs of each key of one stream; ``.missing.csv`` where some were
    asked without an input."""
    measures = _measures(keys[0][0])
    found = {".matrix.csv": _text(("stage", "task"), measures, keys, _matrix_lines)}
    for name in FORMULAS:
        columns = (name, *(f"{measure}_{name}" for measure in measures[1:]))
        found[f".{name}.csv"] = _text(("task",), columns, keys, _lines_of(name))
    asked = [runs for runs in keys if all(run.missing is not None for run in runs)]
    if asked:
        found[".missing.csv"] = _text(("missing", "rate"), measures[:1], asked, _missing_lines)
    return found


def _text(named: Sequence[str], numbers: Sequence[str], keys: Sequence[Sequence[Record]], lines: Lines) -> str:
    """A CSV with the mean and deviation of every number."""
    spread = (f"{name}_{what}" for name in numbers for what in ("mean", "std"))
    cells = (
        [runs[0].method, runs[0].key, protocol, *line]
        for runs in keys
        for protocol in PROTOCOLS
        for line in lines(runs, protocol)
    )
    return csv_text(("method", "key", "protocol", *named, *spread, "n_runs"), cells)


def _measures(run: Record) -> tuple[str, ...]:
    return tuple(name for name in run.kind.measures if name in run.scores)


def _spread(values: Sequence[float | None]) -> list[str]:
    return [decimals(mean(values)), decimals(deviation(values))]


def _matrix_lines(runs: Sequence[Record], protocol: str) -> Iterator[list[object]]:
    """Stage, task, mean and deviation of every measure, and n of every cell, over the runs of the lowest order."""
    alike = [run for run in runs if run.order == runs[0].order]
    scores = [[run.scores[name][protocol] for run in alike] for name in _measures(runs[0])]
    for stage in range(len(scores[0][0])):
        for place, task in enumerate(runs[0].stream.task_names):
            cells = [_spread([matrix[stage][place] for matrix in matrices]) for matrices in scores]
            yield [stage, task, *(text for cell in cells for text in cell), len(alike)]


def _lines_of(name: str) -> Lines:
    """Task, mean and deviation of every measure, and n over all runs in which the task was not the last, in the
    stream's listed order."""

    def lines(runs: Sequence[Record], protocol: str) -> Iterator[list[object]]:
        found: dict[tuple[int, str], list[list[float | None]]] = {}
        for run in runs:
            tasks = zip(run.permutation, run.stream.task_names, strict=True)
            matrices = ([floats(row) for row in run.scores[measure][protocol]] for measure in _measures(run))
            columns = [FORMULAS[name](matrix).tolist() for matrix in matrices]
            for (listed, task), *numbers in zip(tasks, *columns, strict=False):  # the last task has no number
                known = [None if number != number else number for number in numbers]
                found.setdefault((listed, task), []).append(known)
        for (_, task), rows in sorted(found.items()):
            measures = [list(values) for values in zip(*rows, strict=True)]
            yield [task, *(text for values in measures for text in _spread(values)), len(rows)]

    return lines


def _missing_lines(runs: Sequence[Record], protocol: str) -> Iterator[list[object]]:
    """What is missing, at which rate, mean and deviation over runs of the final model's mean accuracy, and n."""
    tables = [[row for row in missing_rows(run) if row[0] == protocol] for run in runs]
    for rows in zip(*tables, strict=True):
        yield [*rows[0][1:3], *_spread([float(row[-1]) if row[-1] else None for row in rows]), len(rows)]
