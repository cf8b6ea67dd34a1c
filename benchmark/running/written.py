"""What stays of answers in words: every one of each task's own stage and of the last, and of made data some to look at.

Both come from the predictions of a run, which a run that goes on finds as the earlier process left them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from benchmark import kinds
from benchmark.data.batches import TaskData
from benchmark.record.answers import AnswerLine, shown_places
from benchmark.record.parts import PROTOCOLS, AnswerSample
from benchmark.stream import Stream

Arrays = Mapping[str, NDArray[Any]]  # as predictions.npz has them: <stage>/<task>/<protocol>_<name>
Verdict = Mapping[str, Any]  # the fields of AnswerLine that are found of an answer: exact, f1, format_kept
Judge = Callable[[TaskData, str, Arrays], Sequence[Verdict]]


def answer_lines(
    arrays: Arrays, stream: Stream, data: Sequence[TaskData], split: str, judge: Judge
) -> list[AnswerLine]:
    """By task, stage, protocol and sample; none of tasks that are not answered in words.

    Args:
        judge: gives the verdict on every answer of a cell (a task's data, the split, its arrays by name).
    """
    return [
        line
        for task in stream
        if kinds.of(task.kind).speaks
        for stage in dict.fromkeys((task.index + 1, len(stream)))
        for protocol in PROTOCOLS
        for line in _of_cell(arrays, data[task.index], split, stage, protocol, judge)
    ]


def _of_cell(
    arrays: Arrays, data: TaskData, split: str, stage: int, protocol: str, judge: Judge
) -> Iterator[AnswerLine]:  # fmt: skip
    start = f"{stage}/{data.task.name}/{protocol}_"
    cell = {name.removeprefix(start): values for name, values in arrays.items() if name.startswith(start)}
    if not cell:  # the method has no answer with the identity hidden
        return
    samples: Any = data.splits[split]
    for index, verdict in enumerate(judge(data, split, cell)):
        tokens = int(cell["tokens"][index])  # -1: not told
        yield AnswerLine(
            task=data.task.name,
            stage=stage,
            protocol=protocol,
            index=index,
            prompt=samples.instructions[index],
            reference=samples.references[index],
            answer=str(cell["answer"][index]),
            type="CLOSED" if samples.closed is not None and samples.closed[index] else "OPEN",
            tokens=tokens if tokens >= 0 else None,
            stopped=bool(cell["stopped"][index]),
            exact=float(verdict["exact"]),
            f1=float(verdict["f1"]),
            format_kept=bool(verdict["format_kept"]),
            likeliest=str(cell["likeliest"][index]),
        )


def shown_samples(
    arrays: Arrays, stream: Stream, data: Sequence[TaskData], split: str, made: Sequence[str]
) -> dict[str, list[AnswerSample]] | None:  # fmt: skip
    """Task -> at most eight test samples with the identity given, spread over the test set; None without such a task.

    Args:
        made: names of the tasks whose samples are drawn, not anybody's.
    """
    found: dict[str, list[AnswerSample]] = {}
    for task in stream:
        if task.name in made and kinds.of(task.kind).speaks:
            samples: Any = data[task.index].splits[split]
            own, last = (arrays[f"{stage}/{task.name}/given_answer"] for stage in (task.index + 1, len(stream)))
            found[task.name] = [
                AnswerSample.of(samples.instructions[at], samples.references[at], str(own[at]), str(last[at]))
                for at in shown_places(len(own))
            ]
    return found or None
