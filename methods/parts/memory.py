"""What a method keeps between tasks, besides its parameters."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Memory(nn.Module, MutableMapping[str, Tensor]):
    """A dictionary of tensors of any size that follows the device and the checkpoint, and is counted in bytes.

    ``memory["fisher"] = F``; loading a checkpoint restores whatever names and sizes it holds.
    """

    __hash__ = nn.Module.__hash__
    __eq__ = object.__eq__  # a module is itself, not its content

    def __init__(self) -> None:
        super().__init__()
        self._tensors: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self._tensors[name] = tensor.detach().clone()

    def __delitem__(self, name: str) -> None:
        del self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __bool__(self) -> bool:
        return True

    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors.values())

    def append(self, name: str, rows: Tensor) -> None:
        """Put ``rows`` below what is kept under this name (along the first dimension)."""
        known = self._tensors.get(name)
        self[name] = rows if known is None else torch.cat([known, rows.to(known)])

    def _apply(self, fn: Any, recurse: bool = True) -> Memory:
        super()._apply(fn, recurse)
        self._tensors = {name: fn(tensor) for name, tensor in self._tensors.items()}
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination.update({prefix + name: tensor for name, tensor in self._tensors.items()})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        device = next((tensor.device for tensor in self._tensors.values()), None)
        self._tensors = {
            key.removeprefix(prefix): value.detach().clone().to(device or value.device)
            for key, value in state_dict.items()
            if key.startswith(prefix)
        }


def one_width(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts below each other; behind rows of tokens that are shorter than others stands -1 (False)."""
    width = max(part.shape[-1] for part in parts)
    if parts[0].ndim != 2 or all(part.shape[-1] == width for part in parts):
        return torch.cat(list(parts))
    blank = False if parts[0].dtype == torch.bool else -1
    return torch.cat([F.pad(part, (0, width - part.shape[-1]), value=blank) for part in parts])
