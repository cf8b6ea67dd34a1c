"""Questions and reports: what a vision-language model writes, graded word by word, and of closed questions what it
finds likeliest beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.batches import TaskData
from benchmark.running.answers import verdicts
from benchmark.running.answers.question import Cell, Question
from benchmark.running.answers.verdicts import Answer


def answered(question: Question) -> Cell:
    """By sample ``answer`` and ``likeliest`` (text; empty of open questions), ``tokens`` int64, ``stopped`` bool."""
    own, samples, legal = question.data[question.task.index], question.samples, question.legal
    closed_N = np.zeros(len(samples), bool) if samples.closed is None else samples.closed
    texts: list[str] = []
    best: list[str] = []
    routed: list[Tensor | None] = []
    for number, batch in enumerate(own.batches(question.split, question.device)):
        written, route_B = question.texts(batch, number)
        texts += written
        routed.append(route_B)
        chosen_B = question.likelihoods(batch, legal).argmax(dim=1).tolist() if legal and closed_N.any() else None
        best += [""] * len(written) if chosen_B is None else [legal[place] for place in chosen_B]
    kept = {
        "answer": np.array([str(text) for text in texts]),
        "likeliest": np.where(closed_N, np.array(best), ""),
        "tokens": np.array([getattr(text, "tokens", -1) for text in texts], np.int64),
        "stopped": np.array([getattr(text, "stopped", True) for text in texts], bool),
    }
    answers = _answers(own, question.split, kept)
    metrics = verdicts.cell_metrics(answers, question.task.answers, own.splits["train"].references, own.facts)
    hits = verdicts.hits(answers, question.task.metric)
    return Cell(metrics, kept, hits, samples.groups, subgroups=samples.subgroups, **question.routes(routed))


def judged(data: TaskData, split: str, arrays: Mapping[str, NDArray[Any]]) -> Sequence[Mapping[str, Any]]:
    """The verdict on each answer of a cell with these predictions."""
    longest = verdicts.most_words(data.splits["train"].references)
    return [verdicts.verdict(answer, data.task.answers, longest) for answer in _answers(data, split, arrays)]


def guessed(data: TaskData, split: str) -> float | None:
    """The task's own metric of answers that are guessed from the question alone, without a look at the image."""
    told, asked = (
        list(zip(samples.instructions, samples.references, strict=True))
        for samples in (data.splits["train"], data.splits[split])
    )
    score = verdicts.blind(told, asked, data.task.metric)
    return None if np.isnan(score) else score


def _answers(data: TaskData, split: str, arrays: Mapping[str, NDArray[Any]]) -> list[Answer]:
    samples = data.splits[split]
    closed_N = np.zeros(len(samples), bool) if samples.closed is None else samples.closed
    columns = (samples.instructions, samples.references, arrays["answer"].tolist(), closed_N.tolist(),
               arrays["tokens"].tolist(), arrays["stopped"].tolist(), arrays["likeliest"].tolist())  # fmt: skip
    return [
        Answer(prompt, reference, answer, closed, tokens, stopped, likeliest or None)
        for prompt, reference, answer, closed, tokens, stopped, likeliest in zip(*columns, strict=True)
    ]
