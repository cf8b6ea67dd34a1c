"""A stand-in for ``python -m benchmark run`` that takes no torch and half a second: same arguments, a whole record.

What it answers is a function of method, seed and order alone. Run as a program; ``engines.COMMAND`` names it in tests.
``CELLS_FAIL=ncm`` makes that method fail, ``CELLS_SECONDS`` is how long a cell takes between its two tasks, and every
start is a line of ``CELLS_LOG``.

``installed`` makes the stand-in the command of every process that a test starts, workers of clusters too.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.config import arguments
from benchmark.record import records
from benchmark.running import processes
from benchmark.running.execute import Plan, new_record, resolve, starts_anew
from benchmark.sweep import engines

PROGRAM = (sys.executable, str(Path(__file__).resolve()))
ROOT = Path(__file__).resolve().parents[1]


def installed(folder: Path) -> str:
    """The PYTHONPATH under which it is: with a module in ``folder`` that every Python imports when it starts."""
    code = f"from benchmark.sweep import engines\nengines.COMMAND = {PROGRAM!r}\n"
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    return f"{folder}:{ROOT}"


def finished(plan: Plan) -> records.Record:
    """The record of a complete run."""
    tasks, seed, order = len(plan.recipe.stream), plan.config.seed, plan.config.order
    generator = np.random.default_rng([seed, order, *plan.card.name.encode()])
    given = np.round(generator.random((tasks + 1, tasks)), 4)
    hidden = np.where(np.tri(tasks + 1, tasks, -1, dtype=bool), given, np.nan)
    matrices = {"given": records._plain(given), "hidden": records._plain(hidden)}
    record = new_record(plan, f"cpu ({len(engines.cores())} threads)")
    record["scores"] = {metric: matrices for metric in record["scores"]}
    record["cost"] = {
        "trainable_params": [8] * tasks, "stored_params": [8] * tasks, "stored_bytes": [2**20] * tasks,
        "train_seconds": [4.0] * tasks, "eval_seconds": [1.0] * (tasks + 1), "images_per_second": [9.0] * tasks,
        "peak_memory_mib": [100.0],
    }  # fmt: skip
    record |= {"status": "complete", "stages": tasks + 1, "summary": records.summarise(record["scores"])}
    record["provenance"]["finished"] = records.now()
    return record


# What a sweep leaves


COSTS = ("train_seconds_mean", "eval_seconds_mean", "peak_memory_mib")


def tables(results: Path) -> dict[str, list[dict[str, str]]]:
    """The leaderboards' cells but for what depends on the clock."""
    found = {}
    for path in sorted((results / "leaderboards").glob("*.csv")):
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        found[path.name] = [{name: row[name] for name in row if name not in COSTS} for row in rows]
    return found


def scores(results: Path) -> dict[str, Any]:
    """Every score matrix, by the run's folder below ``results``."""
    files = records.run_files(results)
    return {str(path.relative_to(results)): records.read_record(path)["scores"] for path in files}


def statuses(results: Path = Path("out")) -> list[str]:
    return [records.read_record(path)["status"] for path in records.run_files(results)]


def main(argv: list[str]) -> int:
    processes.follow_parent()
    config, card, _ = arguments.parse("run", argv, with_class=False)
    plan = resolve(config, card, cuda=False)
    going = (plan.folder / "run.json").exists() and records.read_record(plan.folder)["status"] == "running"
    anew = starts_anew(config, plan.folder)
    state = "anew" if anew else "continued" if going else "new"
    with open(os.environ.get("CELLS_LOG", os.devnull), "a", encoding="utf-8") as log:
        print(card.name, config.seed, config.order, state, file=log)
    print("a line before the last")
    if os.environ.get("CELLS_FAIL") == card.name:
        raise RuntimeError("the disk is full")
    with processes.alone(plan.folder):
        if anew:
            (plan.folder / "run.json").unlink()
        if not (plan.folder / "run.json").exists():
            records.write_record(plan.folder, new_record(plan, "cpu") | {"stages": 2})
        time.sleep(float(os.environ.get("CELLS_SECONDS", "0")))
        record = finished(plan)
        record["threads"] = os.environ["OMP_NUM_THREADS"]
        record["cores"] = engines.cores()
        record["gpu"] = os.environ.get("CUDA_VISIBLE_DEVICES")
        records.write_record(plan.folder, record)
    print(f"{card.name}: done")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
