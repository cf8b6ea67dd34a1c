"""Where a run computes, and in which precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from benchmark.config.run_config import RunConfig
from benchmark.errors import UserError
from benchmark.running.processes import rank_here

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Hardware:
    """``device`` is this process's, one of ``devices`` of its kind that learn together.

    ``strategy`` is Lightning's; the process of rank 0 alone evaluates and writes.
    """

    device: torch.device
    devices: int = 1
    strategy: str = "auto"
    rank: int = 0

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def name(self) -> str:
        """In words, as records have it."""
        several = f"{self.devices} x " if self.devices > 1 else ""
        if self.device.type == "cuda":
            return several + torch.cuda.get_device_name(self.device)
        return f"{several}cpu ({torch.get_num_threads()} threads)"


def uses_cuda(config: RunConfig) -> bool:
    """Whether a run here computes on a CUDA device; ``sweep.forecast.finds_cuda`` tells it without torch."""
    return config.device != "cpu" and torch.cuda.is_available()


def chosen(config: RunConfig) -> Hardware:
    """What a run of this configuration has here.

    Raises:
        UserError: it asks for more than there is.
    """
    torch.set_float32_matmul_precision("high")
    cuda = uses_cuda(config)
    there = torch.cuda.device_count() if cuda else os.cpu_count() or 1
    if config.device == "cuda" and not cuda:
        raise UserError("--device cuda: no CUDA device is available")
    if config.devices > there:
        raise UserError(f"--devices {config.devices}: there are {there} {'CUDA devices' if cuda else 'CPU cores'}")
    rank = rank_here()
    strategy = "ddp" if config.devices > 1 and config.strategy == "auto" else config.strategy
    return Hardware(torch.device("cuda", rank) if cuda else torch.device("cpu"), config.devices, strategy, rank)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Lightning's precision for what computes outside its Trainer."""
    dtype = AUTOCAST[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, products of float32 matrices are float32 on every device: what methods add up there must not be TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
