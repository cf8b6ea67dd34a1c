"""What a record's matrices come to: the summary of a run, and accuracy where inputs are missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from benchmark import metrics
from benchmark.errors import shown
from benchmark.kinds import OWN, Kind
from benchmark.record.files import decimals
from benchmark.record.schema import PROTOCOLS, Matrix, Record, Row

ROUNDING = 1e-9  # other machines may add up in another order
MISSING_RATES = (0.3, 0.5, 0.7, 0.9, 1.0)


def summarise(
    kind: Kind,
    scores: Mapping[str, Mapping[str, Matrix]],
    missing: Mapping[str, Mapping[str, Row]] | None = None,
) -> dict[str, dict[str, float | None]]:
    """The record's ``summary``: for each protocol the numbers of ``metrics.summary`` on the matrix of each task's own
    metric, then what the kind adds; None where a needed cell is null or the metric was not measured.

    Where an input was withheld also what the final model loses without it.
    """
    own = OWN if OWN in scores else kind.primary  # the first records have no matrix of their own for it
    result: dict[str, dict[str, float | None]] = {}
    for protocol in PROTOCOLS:
        matrices = {metric: [floats(row) for row in protocols[protocol]] for metric, protocols in scores.items()}
        values = metrics.summary(matrices[own])
        for name, metric in kind.last_row.items():
            values[name] = metrics.last_accuracy(matrices[metric]) if metric in scores else None
        for name, (function, metric) in kind.of_matrix.items():
            values[name] = getattr(metrics, function)(matrices[metric]) if metric in scores else None
        if missing is not None:
            full = scores[own][protocol][-1]
            for name in kind.withheld:
                without = floats(missing[name][protocol])
                values[f"{name}_drop"] = metrics.modality_drop(floats(full), without)
            for name, (function, parts) in kind.of_numbers.items():
                values[name] = getattr(metrics, function)(*(values[part] for part in parts))
        result[protocol] = {name: None if v is None or math.isnan(v) else v for name, v in values.items()}
    return result


def disagreement(record: Record) -> str | None:
    """A number in the summary of a complete record that is not that of its matrices; None where all are."""
    recomputed = summarise(record.kind, record.scores, record.missing)
    for protocol, numbers in (record.summary or {}).items():
        for name, number in numbers.items():
            if protocol not in recomputed or name not in recomputed[protocol]:
                return f"summary.{shown(protocol)} has {shown(name)}, which is no number of it"
            again = recomputed[protocol][name]
            if (number is None) != (again is None) or abs((number or 0) - (again or 0)) > ROUNDING:
                return f"summary.{protocol}.{name} is {number}, of the matrices it is {again}"
    return None


def floats(row: Iterable[float | None]) -> list[float]:
    """A row with NaN for null."""
    return [math.nan if value is None else value for value in row]


def missing_rows(record: Record) -> Iterator[list[str]]:
    """Protocol, what is missing, at which rate, the final model's accuracy on every task, their mean.

    ``both``: a sample that lacks something lacks the image or the text, equally often.
    """
    assert record.missing is not None, "no input was withheld"
    for protocol in PROTOCOLS:
        full = floats(record.matrix(protocol)[-1])
        without = {name: floats(record.missing[name][protocol]) for name in record.kind.withheld}
        without["both"] = [sum(pair) / 2 for pair in zip(*without.values(), strict=True)]
        for name, rate in [("none", 0.0), *((name, rate) for name in without for rate in MISSING_RATES)]:
            row = metrics.at_missing_rate(full, without.get(name, full), rate).tolist()
            yield [protocol, name, f"{rate:.1f}", *map(decimals, row), decimals(sum(row) / len(row))]
