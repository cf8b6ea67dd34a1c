"""Zero-shot: the frozen model answers, nothing is learned.

Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, ICML 2021.

score(c) = exp(logit_scale) * cos(image, text_c), text_c the normalised mean of the class's normalised prompts.
The lower bound of every stream: what the model knew before. Memory 0, one image pass. Questions are answered by the
frozen vision-language model.

    make bench METHOD=zero_shot                         # last accuracy 41.5 given, 23.5 hidden
"""

from __future__ import annotations

from benchmark.stream import Task
from methods.base import IncrementalMethod


class ZeroShot(IncrementalMethod):
    """The frozen model."""

    kinds = ("classification", "fusion", "retrieval", "generation")
    task_free = True

    def answers_from(self, task: Task, protocol: str) -> tuple[object, ...]:
        return ("frozen",)
