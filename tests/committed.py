"""The stored records: all that git has, and that none is missing of those that the stored tables count."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).resolve().parents[1] / "results"


def committed() -> list[str]:
    """Their ``run.json``, relative to ``results/``: of every stream as many as its table counts runs."""
    asked = ["git", "-C", str(RESULTS), "ls-files", "-z", "runs/**/run.json"]
    names = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    stored = Counter(name.split("/")[1] for name in names)
    assert {"phantom8", "medical10", "phantom_mbiil8"} <= stored.keys()
    for stream, runs in stored.items():
        table = pd.read_csv(RESULTS / "leaderboards" / f"{stream}.csv", dtype=str)
        rows = table[table.protocol == "given"].drop_duplicates(["method", "key"])
        assert rows.n_runs.astype(int).sum() == runs, stream
    return names
