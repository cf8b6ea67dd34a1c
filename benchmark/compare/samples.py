"""What records keep of every test sample, as ``stats`` asks for it.

Tasks stand by name, for runs of other orders have learned them in another order; runs stand by order, then seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from benchmark.record.schema import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = list[NDArray[np.float64]]  # of each task (N,)
    Nested = list[list[NDArray[np.float64]]]  # of each task, of each order (seeds, N)

ROUNDED = 0.002  # how far the mean of scores that are kept to 1/255 may be from what they are of


def kept(run: Record, protocol: str) -> Scores | None:
    """The final model's score of every sample; None where they were not kept or there was no answer.

    None as well where their mean is not the score of the task, as in old retrieval records, which kept R@1 alone.
    """
    known, found = (run.hits or {}).get(protocol, {}), {}
    for task, score in zip(run.stream.task_names, run.matrix(protocol)[-1], strict=True):
        scores = known.get(task)
        if scores is None or score is None:
            return None
        found[task] = scores.weighed()
        if abs(float(found[task].mean()) - score) > ROUNDED:
            return None
    return [found[task] for task in sorted(found)]


def groups(runs: Sequence[Record]) -> list[NDArray[np.int64] | None]:
    """Of each task which samples belong together, as the first of these runs that knows says it; None: none do."""
    known = next((run.groups for run in runs if run.groups), {})
    return [known[task].unpacked() if task in known else None for task in sorted(runs[0].stream.task_names)]


def nested(scores: Mapping[tuple[int, int], Scores]) -> Nested:
    """The scores of runs by (order, seed), which are all of the same samples: tasks, orders, seeds, samples."""
    import numpy as np

    cells = sorted(scores)
    orders = [[scores[cell] for cell in cells if cell[0] == order] for order in sorted({order for order, _ in cells})]
    return [[np.stack([run[task] for run in runs]) for runs in orders] for task in range(len(scores[cells[0]]))]
