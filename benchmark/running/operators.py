"""What a step asks of the device: how many operators compute, how many are dispatched, which wait for the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

ALLOCATES = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"}
WAITS = {  # the host needs the answer, or the size of it
    "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive",
    "equal", "bincount", "repeat_interleave",
}  # fmt: skip


class Operators(TorchDispatchMode):
    """Inside, counts operators as they reach a backend, of the backward pass too.

    Attributes:
        computing: those that are neither views nor allocations: on a device each starts a kernel.
        waits: by name those that wait for the device: numbers read, sizes that depend on values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.computing, self.waits = 0, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.computing += not func.is_view and name not in ALLOCATES
        if name in WAITS or (name in ("index", "index_put", "index_put_") and _by_mask(args[1])):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


def _by_mask(indices: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


def counted(step: Callable[[], object]) -> tuple[int, int]:
    """(computing, dispatched) operators of a step; the latter by torch's profiler, with all that operators call."""
    with Operators() as operators:
        step()
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        step()
    return operators.computing, sum(event.name.startswith("aten::") for event in watched.events())
