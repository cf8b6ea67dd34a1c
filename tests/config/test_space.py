"""How much room a run's predictions are said to need."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from benchmark.config import space
from benchmark.data.catalog import Source
from benchmark.stream import Task


def test_answers_are_counted_by_questions_and_not_by_images(tmp_path: Path) -> None:
    """Of every task after every stage, twice, with a number and a head each."""
    (tmp_path / "0.png").touch()
    rows = [{"file": "0.png", "asked": f"question {i}", "told": "yes", "part": part}
            for part, count in (("train", 3), ("val", 1), ("test", 7)) for i in range(count)]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    columns = {"image": "file", "instruction": "asked", "answer": "told", "split": "part"}
    source = Source("s.yaml", "table", (), {"path": tmp_path / "table.csv", "columns": columns}, "generation")
    tasks = [Task(i, f"t{i}", "ct", "generation", (), 2, max_new_tokens=5) for i in range(2)]

    def needed(limit: int | None) -> int:
        config = SimpleNamespace(split="test", limit=limit)
        plan: Any = SimpleNamespace(stream=tasks, sources=[source] * 2, config=config)
        return space._predictions(plan)

    for limit, count in ((None, 7), (4, 4)):
        assert needed(limit) == 2 * 2 * 3 * (count * (8 * 5 + 8) + 2 * 1024)
