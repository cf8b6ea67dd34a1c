"""What a run would do, from its arguments and from earlier records. No torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmark import records
from benchmark.config import RunConfig
from benchmark.registry import MethodCard
from benchmark.run import is_whole, resolve


def describe(config: RunConfig, card: MethodCard) -> Iterator[str]:
    """Lines: the cell and its state, its settings, the time and memory that earlier runs took."""
    cuda = config.device == "cuda" or (config.device == "auto" and shutil.which("nvidia-smi") is not None)
    plan = resolve(config, card, cuda)
    stream = plan.recipe.stream.reordered(plan.permutation)
    size = f"{len(stream)} tasks" + (f", {len(stream.labels())} classes" if stream.labels() else "")
    yield f"{card.name} on {plan.stream_folder}: {size}, order {list(plan.permutation)}"
    yield f"settings: {config.settings(card) or 'the defaults'}; group: {card.group}; precision {plan.precision}"
    yield f"record: {plan.folder}"
    yield f"state: {_state(plan.folder, len(stream))}"
    earlier = [r for r in records.read_all(Path(config.results)) if r["status"] == "complete" and r["limit"] is None]
    same = [r for r in earlier if (r["key"], r["method"]) == (plan.key, card.name)]
    like = same or [
        r for r in earlier if (r["method"], r["backbone"]) == (card.name, config.backbone) and r["config"]["epochs"]
    ]
    if not like:
        yield "time and memory: no earlier record of this method on this backbone"
        return
    if same:
        seconds = median(sum(r["cost"]["train_seconds"]) + sum(r["cost"]["eval_seconds"]) for r in same)
        yield f"time: {seconds:.0f} s without start-up (median of {len(same)} runs of this key)"
    else:
        rate = median(_seconds_per_task_epoch(r) for r in like)
        seconds = rate * len(stream) * config.epochs
        yield f"time: about {seconds:.0f} s (scaled by tasks and epochs from {len(like)} other runs of the method)"
    memory = max(max(r["cost"]["peak_memory_mib"]) for r in like)
    devices = ", ".join(sorted({r["provenance"]["device"] for r in like}))
    yield f"memory: up to {memory:,.0f} MiB in those runs ({devices})"


def _seconds_per_task_epoch(record: records.Record) -> float:
    cost = record["cost"]
    total = sum(cost["train_seconds"]) + sum(cost["eval_seconds"])
    return float(total / len(record["stream"]["tasks"]) / record["config"]["epochs"])


def _state(folder: Path, tasks: int) -> str:
    if not (folder / "run.json").is_file():
        return "missing: would run from the start"
    record = records.read_record(folder)
    if record["status"] == "complete":
        return "complete: nothing to do" if is_whole(folder) else "a record made elsewhere: would run from the start"
    return f"unfinished: would continue after {record['stages'] - 1} of {tasks} tasks"
