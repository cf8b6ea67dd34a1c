"""A stand-in for ``python -m benchmark run`` that takes no torch and half a second: same arguments, a whole record.

What it answers is a function of method, seed and order alone. Run as a program; ``engines.COMMAND`` names it in tests.
``CELLS_FAIL=ncm`` makes that method fail, ``CELLS_SECONDS`` is how long a cell takes between its two tasks, and every
start is a line of ``CELLS_LOG``.

``installed`` makes the stand-in the command of every process that a test starts, workers of clusters too.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.config import arguments
from benchmark.config.resolve import Plan, resolve
from benchmark.record.files import now, write_json
from benchmark.record.folder import RunFolder, State
from benchmark.record.schema import Costs, Record
from benchmark.record.stored import read_record, run_files
from benchmark.record.summary import summarise
from benchmark.running import processes
from benchmark.running.execute import new_record, starts_anew
from benchmark.sweep import engines
from benchmark.sweep.engines import local

if TYPE_CHECKING:
    import pytest

PROGRAM = (sys.executable, str(Path(__file__).resolve()))
ROOT = Path(__file__).resolve().parents[1]


def installed(folder: Path) -> str:
    """The PYTHONPATH under which it is: with a module in ``folder`` that every Python imports when it starts."""
    code = f"from benchmark.sweep import engines\nengines.COMMAND = {PROGRAM!r}\n"
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    return f"{folder}:{ROOT}"


def finished(plan: Plan) -> Record:
    """The record of a complete run."""
    tasks, seed, order = len(plan.stream), plan.config.seed, plan.config.order
    generator = np.random.default_rng([seed, order, *plan.card.name.encode()])
    given = np.round(generator.random((tasks + 1, tasks)), 4)
    shown = np.tri(tasks + 1, tasks, -1, dtype=bool)
    hidden = [[cell if there else None for cell, there in zip(*pair, strict=True)]
              for pair in zip(given.tolist(), shown.tolist(), strict=True)]  # fmt: skip
    record = new_record(plan, f"cpu ({len(local.cores())} threads)")
    scores = {metric: {"given": given.tolist(), "hidden": hidden} for metric in record.scores}
    cost = Costs(
        trainable_params=[8] * tasks, stored_params=[8] * tasks, stored_bytes=[2**20] * tasks,
        train_seconds=[4.0] * tasks, eval_seconds=[1.0] * (tasks + 1), images_per_second=[9.0] * tasks,
        peak_memory_mib=[100.0],
    )  # fmt: skip
    made = replace(record.provenance, finished=now())
    return replace(
        record, scores=scores, cost=cost, status="complete", stages=tasks + 1, provenance=made,
        summary=summarise(record.kind, scores),
    )  # fmt: skip


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
    return {str(path.relative_to(results)): read_record(path).scores for path in run_files(results)}


def stand_ins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in this folder, where runs are stand-ins that log when they start."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CELLS_LOG", str(folder / "log"))
    monkeypatch.setattr(engines, "COMMAND", PROGRAM)


def statuses(results: Path = Path("out")) -> list[str]:
    return [read_record(path).status for path in run_files(results)]


def surroundings(folder: Path) -> dict[str, Any]:
    """In which threads, on which cores and GPU the run in this folder was computed."""
    return json.loads((folder / "surroundings.json").read_text())


def main(argv: list[str]) -> int:
    processes.follow_parent()
    config, card, _ = arguments.parse("run", argv, with_class=False)
    plan = resolve(config, card, cuda=False)
    with RunFolder(plan.path, plan.key).claimed() as folder:
        found = folder.found()
        anew = starts_anew(config, found)
        state = "anew" if anew else "continued" if found.state is State.UNFINISHED else "new"
        with open(os.environ.get("CELLS_LOG", os.devnull), "a", encoding="utf-8") as log:
            print(card.name, config.seed, config.order, state, file=log)
        print("a line before the last")
        if os.environ.get("CELLS_FAIL") == card.name:
            raise RuntimeError("the disk is full")
        if state != "continued":
            folder.begin(replace(new_record(plan, "cpu"), stages=2))
        folder.state.mkdir(exist_ok=True)
        time.sleep(float(os.environ.get("CELLS_SECONDS", "0")))
        threads, gpu = os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES")
        write_json(folder.making / "surroundings.json", {"threads": threads, "cores": local.cores(), "gpu": gpu})
        folder.finish(finished(plan))
    print(f"{card.name}: done")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
