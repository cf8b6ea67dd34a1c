"""The numbers of the official codes, and how near ours must come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def files(pattern: str) -> list[Path]:
    """The golden files of a family; at least one, so that a test over them cannot be empty."""
    found = sorted(GOLDEN.glob(pattern))
    assert found, pattern
    return found


def golden(file: str | Path) -> dict[str, Tensor]:
    """A file's arrays, by its path or its name; texts are left out."""
    path = file if isinstance(file, Path) else GOLDEN / f"{file}.npz"
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.tensor(arrays[name]) for name in arrays.files if arrays[name].dtype.kind in "fbi"}


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """|a - b| <= tolerance (1 + |b|) everywhere, of one shape and finite."""
    assert actual.shape == expected.shape
    assert torch.isfinite(actual).all()
    assert bool(((actual - expected).abs() <= tolerance * (1 + expected.abs())).all())


def leaf(tensor: Tensor) -> Tensor:
    """A copy that takes gradients."""
    return tensor.clone().requires_grad_(True)
