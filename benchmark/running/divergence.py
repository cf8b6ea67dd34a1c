"""A run that has diverged: the first loss, parameter or kept tensor that is not finite ends it, and its record says so.

What is on disk is from before. The same command says again what happened, for it would come to the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from benchmark.errors import RunFailed
from benchmark.record.parts import Divergence


class Diverged(RunFailed):
    """``found``: where, as the record keeps it."""

    def __init__(self, found: Divergence) -> None:
        super().__init__(found.sentence)
        self.found = found


def first_not_finite(values: Iterable[float]) -> int | None:
    """The place of the first value that is NaN or infinite."""
    return next((place for place, value in enumerate(values) if not math.isfinite(value)), None)


def not_finite(tensors: Mapping[str, Tensor], infinite: bool = False) -> str | None:
    """The name of the first of these that holds a NaN, or an infinity unless that is allowed; one wait for the device.

    Whole numbers are finite, and an empty tensor is.
    """
    asked = {name: tensor.detach() for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}
    if not asked:
        return None
    wrong = [tensor.isnan().any() if infinite else ~tensor.isfinite().all() for tensor in asked.values()]
    found: list[bool] = torch.stack([each.to(wrong[0].device) for each in wrong]).tolist()
    return next((name for name, bad in zip(asked, found, strict=True) if bad), None)
