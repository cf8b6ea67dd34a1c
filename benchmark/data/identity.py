"""What a stream's samples are, told from their sources alone. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from benchmark.data import sources
from benchmark.data.catalog import Recipe
from benchmark.kinds import joined
from benchmark.stream import Stream


def identities(recipe: Recipe) -> tuple[str, ...]:
    """What the samples of every task are, in listed order."""
    return tuple(sources.identity(source) for source in recipe.sources)


def stream_hash(stream: Stream, samples: Sequence[str]) -> str:
    """sha256 of the resolved tasks: labels, prompts, kinds and the identity of the samples, in listed order.

    ``mirror`` enters where it is not the default, so that older streams keep their hash.
    """
    digest = hashlib.sha256(f"{joined(stream.kinds).name}|{stream.label_space}".encode())
    for task, identity in zip(stream, samples, strict=True):
        digest.update(repr((task.name, task.modality, task.kind, identity)).encode())
        digest.update(repr([(label.id, label.name, label.prompts) for label in task.labels]).encode())
        if not task.mirror:
            digest.update(b"mirror: false")
    return digest.hexdigest()
