"""The run folder: what one run leaves behind, written so that a killed process cannot damage it.

A record is the content of ``run.json``, a plain dict. Files appear under their final name only when they are whole,
``run.json`` last: where it says ``complete`` everything else is there. numpy and pandas are imported where they are
needed, because ``help``, ``list`` and ``plan`` read records too and should answer at once. Nothing is pickled.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError

if TYPE_CHECKING:
    import pandas

Record = dict[str, Any]

SCHEMA = 1
PROTOCOLS = ("given", "hidden")
INPUTS = ("image", "text")  # of fusion, either of which may be missing
SUMMARY = ("last_acc", "avg_acc", "aia", "forgetting", "bwt", "fwt", "transfer", "learning_acc")
LAST_ROW_OF = {"balanced_acc": "balanced_accuracy", "macro_auroc": "macro_auroc", "macro_f1": "macro_f1"}
RECALLS = tuple(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))
MATCHES = (*RECALLS, "i2t_mrr", "t2i_mrr", "i2t_forgetting", "t2i_forgetting", "i2t_bwt", "t2i_bwt")
DROPS = ("image_drop", "text_drop", "dominance")
MISSING_RATES = (0.3, 0.5, 0.7, 0.9, 1.0)
IDENTITY = ("schema", "key", "status", "method", "stream", "seed", "order")
COMPLETE = (*IDENTITY, "group", "config", "settings", "backbone", "permutation", "limit", "split", "primary",
            "scores", "summary", "cost", "provenance")  # fmt: skip
COSTS = ("trainable_params", "stored_params", "stored_bytes", "train_seconds", "eval_seconds", "images_per_second",
         "peak_memory_mib")  # fmt: skip


def unmeasured(tasks: int, kind: str = "classification") -> Record:
    """The part of a record that a run fills, before it has begun: matrices of nulls, costs of no task."""
    from benchmark import metrics

    def empty() -> list[list[float | None]]:
        return [[None] * tasks for _ in range(tasks + 1)]

    return {
        "status": "running",
        "stages": 0,
        "primary": metrics.METRICS[kind][0],
        "scores": {metric: {protocol: empty() for protocol in PROTOCOLS} for metric in metrics.METRICS[kind]},
        "router_accuracy": empty(),
        "summary": None,
        "cost": {name: [] for name in COSTS},
    }


def run_folder(results: Path, stream_folder: str, method: str, key: str, seed: int, order: int) -> Path:
    """``results/runs/<stream>/<method>/<key>/seed<k>-order<o>``."""
    return Path(results) / "runs" / stream_folder / method / key / f"seed{seed}-order{order}"


def now() -> str:
    """The time in UTC as the records write it: ``2026-05-09T07:35:25+00:00``."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# Writing


def write_bytes(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step: readers, and a process killed half-way, see the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` of UTF-8. What UTF-8 cannot hold (half a character of a file's name) becomes a ``\\u`` escape."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Write JSON: keys as given, floats by repr, NaN and infinity as null, a list of plain values on one line."""
    write_text(path, _json(_plain(value)) + "\n")


def _plain(value: object) -> object:
    """Numpy's scalars and arrays as Python's, tuples as lists, numbers that JSON lacks as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(value: object, indent: str = "") -> str:
    deeper = indent + " "
    if isinstance(value, dict) and value:
        lines = [f"{json.dumps(key, ensure_ascii=False)}: {_json(item, deeper)}" for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        lines = [_json(item, deeper) for item in value]
    else:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    start, end = "{}" if isinstance(value, dict) else "[]"
    return f"{start}\n{deeper}" + f",\n{deeper}".join(lines) + f"\n{indent}{end}"


def csv_text(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A CSV with ``\\n`` at line ends on every system."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def decimals(value: float | None, digits: int = 6) -> str:
    """``0.5`` as ``0.500000``, None and NaN as nothing, and never a negative zero."""
    if value is None or not math.isfinite(value):
        return ""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def write_record(folder: Path, record: Record) -> None:
    """Write ``<metric>_<protocol>.csv`` for every score matrix of the record, then ``run.json``.

    A method that routes has ``router_accuracy_hidden.csv`` as well, a fusion stream ``missing_modality.csv``.
    """
    tasks = [task["name"] for task in record["stream"]["tasks"]]
    stages = ["before", *tasks]
    scores = record.get("scores", {})
    matrices = {f"{metric}_{protocol}": scores[metric][protocol] for metric in scores for protocol in scores[metric]}
    routed = record.get("router_accuracy") or []
    if any(value is not None for row in routed for value in row):
        matrices["router_accuracy_hidden"] = routed
    if "missing" in record:
        text = csv_text(["protocol", "missing", "rate", *tasks, "mean"], missing_rows(record))
        write_text(Path(folder) / "missing_modality.csv", text)
    for name, matrix in matrices.items():
        rows = [[stage, *map(decimals, row)] for stage, row in zip(stages, matrix, strict=True)]
        write_text(Path(folder) / f"{name}.csv", csv_text(["stage", *tasks], rows))
    write_json(Path(folder) / "run.json", record)


# Reading


def read_record(path: Path) -> Record:
    """The record in ``path``, a run's folder or its ``run.json``, in today's schema.

    Raises:
        UserError: naming the file, when it is missing, is no JSON, lacks keys, or was written by a newer version.
    """
    file = Path(path) / "run.json" if Path(path).is_dir() else Path(path)
    try:
        return _parse(file, file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def _parse(file: Path, data: bytes) -> Record:
    try:
        record = json.loads(data, parse_constant=lambda _: None)  # NaN is null, whoever wrote it
    except ValueError as error:  # of JSON and of UTF-8
        raise UserError(f"{file}: not a JSON file ({error})") from None
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise UserError(f"{file}: not a record, it has no 'schema'")
    if record["schema"] > SCHEMA:
        raise UserError(f"{file}: schema {record['schema']} is newer than {SCHEMA}, the last one this version knows")
    try:
        record = migrate(record)
        _check(record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{file}: not a whole record: {reason}") from None
    return record


def migrate(record: Record) -> Record:
    """Bring a record of an older schema up to ``SCHEMA``, one version at a time. There is none older yet."""
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema {record['schema']} is not known")
    return record


def _check(record: Record) -> None:
    """Raise on what would break a reader: of an unfinished run only its identity is certain."""
    complete = record.get("status") == "complete"
    for name in COMPLETE if complete else IDENTITY:
        record[name]
    tasks = [task["name"] for task in record["stream"]["tasks"]]
    record["stream"]["folder"]
    if not complete:
        return
    record["scores"][record["primary"]]
    for metric, protocols in record["scores"].items():
        for protocol in PROTOCOLS:
            if [len(row) for row in protocols[protocol]] != [len(tasks)] * (len(tasks) + 1):
                raise ValueError(f"scores.{metric}.{protocol} is not {len(tasks) + 1} x {len(tasks)}")
            if not all(isinstance(cell, int | float | None) for row in protocols[protocol] for cell in row):
                raise ValueError(f"scores.{metric}.{protocol} holds something that is neither a number nor null")
    for protocol in PROTOCOLS:
        for name in (*SUMMARY, *(LAST_ROW_OF if record["primary"] == "accuracy" else MATCHES)):
            record["summary"][protocol][name]
    if len(record["permutation"]) != len(tasks):
        raise ValueError(f"permutation has {len(record['permutation'])} entries for {len(tasks)} tasks")
    record["provenance"]["fingerprint"]
    finished(record)


def finished(record: Record) -> datetime:
    """When the run ended; a time without a zone is taken as UTC.

    Raises:
        KeyError, TypeError, ValueError: ``provenance.finished`` is missing or no ISO 8601 time.
    """
    when = datetime.fromisoformat(record["provenance"]["finished"])
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def run_files(results: Path, stream: str | None = None) -> list[Path]:
    """Every ``run.json``, of one stream's folder or of all, sorted."""
    runs = Path(results) / "runs"
    folders = [runs / stream] if stream is not None else runs.glob("*")
    return sorted(path for folder in folders for path in folder.glob("*/*/*/run.json"))


def read_all(results: Path, stream: str | None = None) -> list[Record]:
    """All records, unfinished ones too, sorted by (stream folder, method, key, seed, order).

    Raises:
        UserError: naming the file, for one that ``read_record`` refuses, and for two records of the same run.
    """
    found: dict[tuple, tuple[Path, Record]] = {}
    for path in run_files(results, stream):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # started anew by another process since it was listed
            continue
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        record = _parse(path, data)
        identity = (record["stream"]["folder"], *(record[name] for name in ("method", "key", "seed", "order")))
        if identity in found:
            raise UserError(f"{path}: the same run as {found[identity][0]}; remove one of them")
        found[identity] = (path, record)
    return [found[identity][1] for identity in sorted(found)]


def to_frame(records: Iterable[Record]) -> pandas.DataFrame:
    """One row per record: what the run was, then its summary as ``given_last_acc`` ... ``hidden_macro_f1`` and on."""
    import pandas

    plain = ("method", "group", "key", "settings", "backbone", "seed", "order", "limit", "split", "status", "primary")
    records = list(records)
    known = {name for record in records for numbers in (record.get("summary") or {}).values() for name in numbers}
    names = (*SUMMARY, *LAST_ROW_OF, *(name for name in (*MATCHES, *DROPS) if name in known))
    summary = [(protocol, name) for protocol in PROTOCOLS for name in names]
    rows = []
    for record in records:
        row = {"stream": record["stream"]["folder"]} | {name: record.get(name) for name in plain}
        numbers = record.get("summary") or {}
        row |= {f"{protocol}_{name}": (numbers.get(protocol) or {}).get(name) for protocol, name in summary}
        rows.append(row | {name: record.get("provenance", {}).get(name) for name in ("fingerprint", "finished")})
    columns = ["stream", *plain, *(f"{protocol}_{name}" for protocol, name in summary), "fingerprint", "finished"]
    frame = pandas.DataFrame(rows, columns=columns)
    return frame.astype({f"{protocol}_{name}": float for protocol, name in summary})


def summarise(
    scores: Mapping[str, Mapping[str, Any]], primary: str = "accuracy", missing: Mapping[str, Any] | None = None
) -> dict[str, dict[str, float | None]]:
    """The record's ``summary``: for each protocol the numbers of ``metrics.summary`` on the primary metric's matrix,
    and the last row's mean of the other metrics; None where a needed cell is null or the metric was not measured.

    Of retrieval also forgetting and backward transfer of R@1 in both directions, where a modality was withheld what
    the final model loses without it.
    """
    from benchmark import metrics

    result: dict[str, dict[str, float | None]] = {}
    for protocol in PROTOCOLS:
        values = metrics.summary(scores[primary][protocol])
        last = LAST_ROW_OF if primary == "accuracy" else {name: name for name in MATCHES if name in scores}
        values |= {
            name: metrics.last_accuracy(scores[metric][protocol]) if metric in scores else None
            for name, metric in last.items()
        }
        for way in metrics.DIRECTIONS if primary != "accuracy" else ():
            matrix = scores[f"{way}_r1"][protocol]
            values |= {f"{way}_forgetting": metrics.forgetting(matrix), f"{way}_bwt": metrics.backward_transfer(matrix)}
        if missing is not None:
            full = scores[primary][protocol][-1]
            drops = [metrics.modality_drop(_floats(full), _floats(missing[name][protocol])) for name in INPUTS]
            values |= dict(zip(DROPS, (*drops, metrics.dominance(*drops)), strict=True))
        result[protocol] = {name: None if v is None or math.isnan(v) else v for name, v in values.items()}
    return result


def _floats(row: Iterable[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in row]


def missing_rows(record: Record) -> Iterator[list[str]]:
    """Protocol, what is missing, at which rate, the final model's accuracy on every task, their mean.

    ``both``: a sample that lacks something lacks the image or the text, equally often.
    """
    from benchmark import metrics

    for protocol in PROTOCOLS:
        full = _floats(record["scores"][record["primary"]][protocol][-1])
        without = {name: _floats(record["missing"][name][protocol]) for name in INPUTS}
        without["both"] = [sum(pair) / 2 for pair in zip(*without.values(), strict=True)]
        for name, rate in [("none", 0.0), *((name, rate) for name in without for rate in MISSING_RATES)]:
            row = metrics.at_missing_rate(full, without.get(name, full), rate).tolist()
            yield [protocol, name, f"{rate:.1f}", *map(decimals, row), decimals(sum(row) / len(row))]
