"""Answers to read: made test samples, each with what every method answered just after learning its task and at the end.

What was answered rightly then and is not at the end is forgetting in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmark import texts
from benchmark.compare.tables import spoken
from benchmark.record.parts import LONGEST_SAID, AnswerSample
from benchmark.report import pictures
from benchmark.report.details import MethodView
from benchmark.report.views import StreamView

WHOLE = ("exact",)  # metrics of which an answer has all or nothing
RIGHT = 0.5  # of the task's own metric from which on an answer counts as right: exact match is 0 or 1
NOWHERE = (
    "No answers stand in these records. They hold those of made data alone; all others stay, every one of each task's "
    "own stage and of the end, in answers.jsonl.gz beside the record on the machine that made the run."
)


@dataclass(frozen=True)
class Reply:
    """An answer; ``score`` by the task's own metric, None where the record has only the beginning of the answer."""

    text: str
    score: float | None

    @property
    def right(self) -> bool | None:
        return None if self.score is None else self.score >= RIGHT


@dataclass(frozen=True)
class Replies:
    """What a method (a row of the leaderboard) answered to one question."""

    method: str
    settings: str
    key: str
    own: Reply
    last: Reply

    @property
    def forgotten(self) -> bool:
        """Right just after the task was learned, wrong at the end."""
        return self.own.right is True and self.last.right is False


@dataclass(frozen=True)
class Shot:
    """A test sample; ``picture``: the address of its image, empty where that cannot be drawn again."""

    picture: str
    question: str
    reference: str
    replies: list[Replies] = field(default_factory=list)


@dataclass(frozen=True)
class TaskReading:
    """A task; ``metric`` in words; ``graded``: whether an answer may be partly right."""

    task: str
    metric: str
    graded: bool
    shots: list[Shot]

    @property
    def forgotten(self) -> int:
        return sum(each.forgotten for shot in self.shots for each in shot.replies)

    @property
    def replies(self) -> int:
        return sum(len(shot.replies) for shot in self.shots)


def of_stream(view: StreamView) -> list[TaskReading]:
    """The tasks whose answers stand in the records, in listed order; of each method those of its first run."""
    telling = min((run for run in view.runs if run.samples), key=lambda run: (run.order, run.seed), default=None)
    if telling is None:
        return []
    images = pictures.addresses(telling)
    metrics = dict(zip(telling.stream.task_names, telling.stream.measures, strict=True))
    read = []
    for task in (task.name for task in view.tasks):
        told = [(method, method.samples[task]) for method in view.methods if task in method.samples]
        if told:
            shots = _shots(told, metrics[task], images.get(task, []))
            read.append(TaskReading(task, spoken(metrics[task]), metrics[task] not in WHOLE, shots))
    return read


def _shots(told: Sequence[tuple[MethodView, Sequence[AnswerSample]]], metric: str, images: Sequence[str]) -> list[Shot]:
    """One for each sample, by its place and what is asked and right there: runs on other data stand apart."""
    found: dict[tuple[int, str, str], Shot] = {}
    for method, samples in told:
        for place, each in enumerate(samples):
            shot = found.setdefault(
                (place, each.question, each.reference),
                Shot(images[place] if place < len(images) else "", each.question, each.reference),
            )
            own, last = (Reply(text, _score(each.reference, text, metric)) for text in (each.own, each.last))
            shot.replies.append(Replies(method.method, method.settings, method.key, own, last))
    return [found[place] for place in sorted(found)]


def _score(reference: str, text: str, metric: str) -> float | None:
    if LONGEST_SAID in (len(reference), len(text)):  # perhaps no more than the beginning
        return None
    return float(texts.exact(reference, text)) if metric in WHOLE else texts.f1(reference, text)[0]
