"""The CSV files of a stream that tell its tasks apart: score matrices, forgetting, transfer, recall per class, scores
per subgroup, missing inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from benchmark import metrics
from benchmark.compare.stats import deviation, mean
from benchmark.kinds import OWN
from benchmark.kinds.generation import ASIDE
from benchmark.record.files import csv_text, decimals
from benchmark.record.schema import PROTOCOLS, Record
from benchmark.record.summary import floats, missing_rows

FORMULAS = {"forgetting": metrics.forgetting_per_task, "bwt": metrics.backward_transfer_per_task}
SUFFIXES = (".matrix.csv", *(f".{name}.csv" for name in FORMULAS), ".recall.csv", ".sensitivity.csv",
            ".confusion.csv", ".subgroups.csv", ".missing.csv")  # fmt: skip

Lines = Callable[[Sequence[Record], str], Iterable[list[object]]]  # from the runs of a key and the protocol


def texts(keys: Sequence[Sequence[Record]]) -> dict[str, str]:
    """The content of the files by suffix, from the runs of each key of one stream; those of classes and subgroups where
    some kept them, ``.missing.csv`` where some were asked without an input."""
    measures = _measures(keys[0][0])
    found = {".matrix.csv": _text(("stage", "task"), measures, keys, _matrix_lines)}
    for name in FORMULAS:
        columns = (name, *(f"{measure}_{name}" for measure in measures[1:]))
        found[f".{name}.csv"] = _text(("task",), columns, keys, _lines_of(name))
    if any(run.class_recall for runs in keys for run in runs):
        found[".recall.csv"] = _text(("task", "class"), ("recall",), keys, _recall_lines)
    if any(run.class_confusion for runs in keys for run in runs):
        found[".sensitivity.csv"] = _text(("task", "class"), ("sensitivity",), keys, _sensitivity_lines)
        found[".confusion.csv"] = _text(("task", "class", "answered"), ("share",), keys, _confusion_lines)
    if any(run.subgroups for runs in keys for run in runs):
        named = ("task", "column", "value", "n_samples")
        found[".subgroups.csv"] = _text(named, measures[:1], keys, _subgroup_lines)
    asked = [runs for runs in keys if all(run.missing is not None for run in runs)]
    if asked:
        found[".missing.csv"] = _text(("missing", "rate"), measures[:1], asked, _missing_lines)
    return found


def _text(named: Sequence[str], numbers: Sequence[str], keys: Sequence[Sequence[Record]], lines: Lines) -> str:
    """A CSV with the mean and deviation of every number."""
    spread = (f"{name}_{what}" for name in numbers for what in ("mean", "std"))
    cells = (
        [runs[0].named, runs[0].key, protocol, *line]
        for runs in keys
        for protocol in PROTOCOLS
        for line in lines(runs, protocol)
    )
    return csv_text(("method", "key", "protocol", *named, *spread, "n_runs"), cells)


def _measures(run: Record) -> tuple[str, ...]:
    """The metrics of the tables, the primary one first."""
    beside = (name for name in run.kind.measures if name in run.scores and name != OWN)
    return tuple(dict.fromkeys((run.primary, *beside)))


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


def _recall_lines(runs: Sequence[Record], protocol: str) -> Iterator[list[object]]:
    """Task, class, mean and deviation of its recall over the runs that kept it, and n."""
    for (_, task, _, label), values in recalls(runs, protocol).items():
        yield [task, label, *_spread(values), len(values)]


def recalls(runs: Sequence[Record], protocol: str) -> dict[tuple[int, str, int, str], list[float | None]]:
    """(place of the task, its name, place of the class, its name) -> its recall in every run that kept it, the tasks in
    the stream's listed order and the classes in the task's."""
    return _of_classes((run, (run.class_recall or {}).get(protocol, {})) for run in runs)


def _of_classes(
    kept: Iterable[tuple[Record, Mapping[str, Sequence[float | None]]]],
) -> dict[tuple[int, str, int, str], list[float | None]]:
    """From runs, each with a number for each class of its tasks by name, as :func:`recalls`."""
    found: dict[tuple[int, str, int, str], list[float | None]] = {}
    for run, numbers in kept:
        for listed, task in zip(run.permutation, run.stream.tasks, strict=True):
            for place, (label, number) in enumerate(zip(task.labels, numbers.get(task.name, ()), strict=False)):
                found.setdefault((listed, task.name, place, label), []).append(number)
    return dict(sorted(found.items()))


def _sensitivity_lines(runs: Sequence[Record], protocol: str) -> Iterator[list[object]]:
    """Task, class, mean and deviation of its sensitivity over the runs that kept it, and n."""
    for (_, task, _, label), values in sensitivities(runs, protocol).items():
        yield [task, label, *_spread(values), len(values)]


def sensitivities(runs: Sequence[Record], protocol: str) -> dict[tuple[int, str, int, str], list[float | None]]:
    """As :func:`recalls`, the sensitivity of each class where the identity is given."""
    given = runs if protocol == PROTOCOLS[0] else ()
    return _of_classes(
        (run, {task: told.sensitivity for task, told in (run.class_confusion or {}).items()}) for run in given
    )


def _confusion_lines(runs: Sequence[Record], protocol: str) -> Iterator[list[object]]:
    """Task, class, answer, mean and deviation of the share of the class's samples with this answer, and n."""
    for (_, task, _, label, _, said), values in confusions(runs, protocol).items():
        yield [task, label, said, *_spread(values), len(values)]


def confusions(runs: Sequence[Record], protocol: str) -> dict[tuple[int, str, int, str, int, str], list[float | None]]:
    """(place of the task, its name, place of the class, its name, place of the answer, its name) -> the share of the
    class's samples with this answer in every run that kept it, None for a class without samples."""
    found: dict[tuple[int, str, int, str, int, str], list[float | None]] = {}
    for run in runs if protocol == PROTOCOLS[0] else ():
        kept = run.class_confusion or {}
        tasks = zip(run.permutation, run.stream.tasks, strict=True)
        for listed, task in ((listed, task) for listed, task in tasks if task.name in kept):
            for place, (label, row) in enumerate(zip(task.labels, kept[task.name].counts, strict=True)):
                for column, (said, count) in enumerate(zip(task.labels, row, strict=True)):
                    key = (listed, task.name, place, label, column, said)
                    found.setdefault(key, []).append(count / sum(row) if sum(row) else None)
    return dict(sorted(found.items()))


def _subgroup_lines(runs: Sequence[Record], protocol: str) -> Iterator[list[object]]:
    """Task, column, value, how many samples, mean and deviation of their score over the runs that kept it, and n."""
    for (_, task, column, value, n), values in subgroups(runs, protocol).items():
        yield [task, column, value, n, *_spread(values), len(values)]


def subgroups(runs: Sequence[Record], protocol: str) -> dict[tuple[int, str, str, str, int], list[float | None]]:
    """(place of the task, its name, column, value, samples) -> the score in every run that kept it, in that order.

    What a table says of its samples is no part of a run's key: runs that count them otherwise stand apart.
    """
    found: dict[tuple[int, str, str, str, int], list[float | None]] = {}
    for run in runs:
        kept = (run.subgroups or {}).get(protocol, {})
        for listed, task in zip(run.permutation, run.stream.task_names, strict=True):
            for column, values in kept.get(task, {}).items():
                for value, each in values.items():
                    found.setdefault((listed, task, column, value, each.n), []).append(each.score)
    return dict(sorted(found.items()))


def answers(runs: Sequence[Record], protocol: str) -> dict[tuple[int, str, int, str], list[float | None]]:
    """(place of the task, its name, place of the metric, its name) -> the last score in every run, of tasks answered in
    words: their own metric, then those that stand beside it where some run has a number."""
    found: dict[tuple[int, str, int, str], list[float | None]] = {}
    for run in runs:
        stream, last = run.stream, {metric: protocols[protocol][-1] for metric, protocols in run.scores.items()}
        for column, listed in enumerate(run.permutation):
            told = (stream.measures[column], *ASIDE, "distinct") if stream.kinds[column].speaks else ()
            for place, metric in enumerate(told):
                found.setdefault((listed, stream.task_names[column], place, metric), []).append(last[metric][column])
    measured = {cell for cell, values in found.items() if cell[2] == 0 or any(value is not None for value in values)}
    return {cell: found[cell] for cell in sorted(measured)}


def _missing_lines(runs: Sequence[Record], protocol: str) -> Iterator[list[object]]:
    """What is missing, at which rate, mean and deviation over runs of the final model's mean accuracy, and n."""
    tables = [[row for row in missing_rows(run) if row[0] == protocol] for run in runs]
    for rows in zip(*tables, strict=True):
        yield [*rows[0][1:3], *_spread([float(row[-1]) if row[-1] else None for row in rows]), len(rows)]
