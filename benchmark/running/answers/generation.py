"""Questions and reports: what a vision-language model writes, graded word by word, and of closed questions what it
finds likeliest beside it."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from benchmark.running.answers import verdicts
from benchmark.running.answers.question import Cell, Question


def answered(question: Question) -> Cell:
    """By sample ``answer`` and ``likeliest`` (text; empty of open questions), ``tokens`` int64, ``stopped`` bool."""
    own, samples = question.data[question.task.index], question.samples
    closed, legal = samples.closed, question.legal
    texts: list[str] = []
    likeliest: list[str] = []
    routed: list[Tensor | None] = []
    for number, batch in enumerate(own.batches(question.split, question.device)):
        written, route_B = question.texts(batch, number)
        texts += written
        routed.append(route_B)
        if closed is not None and closed.any() and legal:
            best_B = question.likelihoods(batch, legal).argmax(dim=1)
            likeliest += [legal[place] for place in best_B.tolist()]
    likeliest = likeliest or [""] * len(texts)
    answers = [
        verdicts.Answer(
            prompt, reference, str(text), bool(closed is not None and closed[place]), getattr(text, "tokens", None),
            getattr(text, "stopped", None), likeliest[place] or None,
        )
        for place, (prompt, reference, text) in enumerate(
            zip(samples.instructions, samples.references, texts, strict=True)
        )
    ]  # fmt: skip
    kept = {
        "answer": np.array([str(text) for text in texts]),
        "likeliest": np.array([best if answer.closed else "" for best, answer in zip(likeliest, answers, strict=True)]),
        "tokens": np.array([-1 if answer.tokens is None else answer.tokens for answer in answers], np.int64),
        "stopped": np.array([bool(answer.stopped) for answer in answers]),
    }
    metrics = verdicts.cell_metrics(answers, question.task.answers, own.splits["train"].references, own.facts)
    hits = verdicts.hits(answers, question.task.metric)
    return Cell(metrics, kept, hits, samples.groups, subgroups=samples.subgroups, **question.routes(routed))
