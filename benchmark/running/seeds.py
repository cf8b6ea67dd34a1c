"""Randomness without state: what is random is seeded from what it is for, and no state of a generator is ever saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*parts: object) -> int:
    """A seed in 0..2^63-1 from anything printable: equal parts, equal seed, on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Inside, torch's global generators are seeded from ``parts``; outside, they are as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(*parts))
        yield
