"""What a stream's samples are, told from their sources alone. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from benchmark.data import sources
from benchmark.data.catalog import Recipe
from benchmark.data.task_keys import INSTRUCTION, LIMIT
from benchmark.kinds import joined
from benchmark.stream import Stream

LATER = {  # and what stands there where a file says nothing
    "metric": ("",), "instruction": ("", INSTRUCTION), "answers": ((),), "max_new_tokens": (0, LIMIT),
}  # fmt: skip


def identities(recipe: Recipe) -> tuple[str, ...]:
    """What the samples of every task are, in listed order."""
    return tuple(sources.identity(source) for source in recipe.sources)


def stream_hash(stream: Stream, samples: Sequence[str]) -> str:
    """sha256 of the resolved tasks: labels, prompts, kinds and the identity of the samples, in listed order.

    What came later than the first streams enters where it is not the default, so that these keep their hash. A metric
    and legal answers enter as they are settled (:mod:`benchmark.data.settle`): whether the file names them or the
    samples tell the same is one stream.
    """
    digest = hashlib.sha256(f"{joined(stream.kinds).name}|{stream.label_space}".encode())
    for task, identity in zip(stream, samples, strict=True):
        digest.update(repr((task.name, task.modality, task.kind, identity)).encode())
        digest.update(repr([(label.id, label.name, label.prompts) for label in task.labels]).encode())
        if not task.mirror:
            digest.update(b"mirror: false")
        for name, default in LATER.items():
            value = getattr(task, name)
            if value not in default:
                digest.update(f"{name}: {sorted(value) if name == 'answers' else value!r}".encode())
    return digest.hexdigest()
