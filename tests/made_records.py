"""Complete records without a run, for the tests of what is made from records."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.record import records

TASKS = ("lung_ct", "retina_oct", "skin")


def made(
    method: str = "ewc", key: str = "0123456789ab", seed: int = 0, order: int = 0, *, quality: float = 0.0,
    tasks: tuple[str, ...] = TASKS, given: Any = None, **changes: Any,
) -> records.Record:  # fmt: skip
    """A complete record, with random scores of its own unless ``given`` says them; order 1 is the reverse."""
    T = len(tasks)
    permutation = list(range(T))[:: 1 if order == 0 else -1]
    generator = np.random.default_rng([seed, order, int(key, 16), *method.encode()])
    matrix = np.array(given) if given is not None else np.round(generator.random((T + 1, T)) * 0.5 + quality, 4)
    hidden = matrix.copy()
    hidden[np.triu_indices_from(hidden)] = np.nan
    scores = {"accuracy": {"given": matrix.tolist(), "hidden": hidden.tolist()}}
    scores |= {name: scores["accuracy"] for name in ("balanced_accuracy", "macro_auroc", "macro_f1")}
    described = [
        {"name": tasks[place], "modality": tasks[place].split("_")[0], "labels": ["a"]} for place in permutation
    ]
    record = {
        "schema": 1, "key": key, "status": "complete", "method": method, "group": "plain",
        "stream": {"name": "three", "folder": "three", "version": 1, "hash": "ff", "kind": "classification",
                   "label_space": "own", "tasks": described},
        "config": {}, "settings": "", "backbone": "phantom-clip", "seed": seed, "order": order,
        "permutation": permutation, "limit": None, "split": "test", "primary": "accuracy", "scores": scores,
        "router_accuracy": None, "summary": records.summarise(scores),
        "cost": {"trainable_params": [10, 30, 20], "stored_params": [1, 2, 3], "stored_bytes": [100, 200, 300],
                 "train_seconds": [1.0, 2.0, 3.5 + seed], "eval_seconds": [0.25] * 4, "images_per_second": [1.0] * 3,
                 "peak_memory_mib": [100.0 + seed]},
        "provenance": {"fingerprint": "aa", "finished": f"2026-01-01T00:00:{seed:02d}+00:00"},
    }  # fmt: skip
    return record | changes


def save(results: Path, *many: records.Record) -> Path:
    for record in many:
        identity = (record[name] for name in ("method", "key", "seed", "order"))
        records.write_record(records.run_folder(results, record["stream"]["folder"], *identity), record)
    return results


def packed(bits: Sequence[int]) -> dict[str, Any]:
    """A task's hits as a record keeps them."""
    return {"n": len(bits), "bits": b64encode(np.packbits(np.array(bits, bool)).tobytes()).decode()}


def with_hits(record: records.Record, hits: Mapping[str, Sequence[int]]) -> records.Record:
    """The record with the same hits by name of the task for both protocols."""
    kept = {task: packed(bits) for task, bits in hits.items()}
    return record | {"hits": {"given": kept, "hidden": kept}}
