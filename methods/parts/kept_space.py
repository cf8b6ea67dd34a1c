"""The directions of a layer's input that KeepLoRA keeps, and those that it leaves to a new task.

Luo et al., *KeepLoRA*, ICLR 2026. Symbols as in :mod:`methods.keeplora`: the kept space of a layer is the span of the
orthonormal columns of U (D_in, k).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def principal(W: Tensor, energy: float) -> Tensor:
    """(D_in, k) the leading left singular vectors of W^T that have less than the share ``energy`` of ||W||^2, or one.

    Args:
        W: (D_out, D_in).
    """
    U, s, _ = torch.linalg.svd(W.mT, full_matrices=False)
    shares = (s**2).cumsum(0) / (s**2).sum()
    return U[:, : max(1, int((shares < energy).sum()))]


def grow(kept: Tensor, matrix: Tensor, energy: float) -> Tensor:
    """(D_in, k') the kept space and the leading directions of ``matrix`` outside of it.

    As few as bring what the space holds of ||matrix||^2 to the share ``energy``; none without energy of their own.

    Args:
        kept: (D_in, k). matrix: (D_in, n), whose columns are inputs, or a gradient G^T.
    """
    kept = kept.to(matrix)
    free = _complement(kept)
    U, s, _ = torch.linalg.svd(free.mT @ matrix, full_matrices=False)
    whole = (matrix**2).sum()
    shares = s**2 / whole
    before = 1 - shares.sum() + shares.cumsum(0) - shares  # held before each is added; NaN of a matrix of zeros
    noise = max(matrix.shape) * torch.finfo(matrix.dtype).eps
    more = int(((before < energy) & (shares > noise**2)).sum())
    return torch.cat([kept, free @ U[:, :more]], dim=1)


def residual_basis(gradient: Tensor, kept: Tensor, rank: int, faithful: bool = False) -> Tensor:
    """(rank, D_in) rows A: the leading directions of R = (I - U U^T) G^T, orthonormal and outside of the kept space.

    Rows for which there is no free direction left with a gradient are zero.

    Args:
        gradient: G (D_out, D_in). kept: U (D_in, k).
        faithful: whatever the SVD of R gives there, which may lie in the kept space.
    """
    kept = kept.to(gradient)
    if faithful:
        U, _, _ = torch.linalg.svd(gradient.mT - kept @ (kept.mT @ gradient.mT), full_matrices=False)
        rows = U[:, :rank].mT
    else:
        free = _complement(kept)
        U, s, _ = torch.linalg.svd(free.mT @ gradient.mT, full_matrices=False)
        noise = max(1e-8, max(gradient.shape) * torch.finfo(gradient.dtype).eps)
        moves = s[:rank] > noise * torch.linalg.vector_norm(gradient)
        rows = (free @ U[:, :rank]).mT * moves[:, None]
    return F.pad(rows, (0, 0, 0, rank - len(rows)))


def _complement(kept: Tensor) -> Tensor:
    """(D_in, D_in - k) orthonormal columns of what is not kept: working in these, nothing leaks into what is."""
    return torch.linalg.qr(kept, mode="complete")[0][:, kept.shape[1] :]


class Covariances:
    """All inputs of some layers, as one (D_in, D_in) sum of x x^T each."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}

    def add(self, layer: int, x: Tensor, mask_BN: Tensor | None) -> None:
        """Take in x (B, N, D_in), as far as ``mask_BN`` says that there is something."""
        x_ND = (x.flatten(0, -2) if mask_BN is None else x[mask_BN]).double()
        known = self.sums.get(layer)
        self.sums[layer] = x_ND.mT @ x_ND if known is None else known + x_ND.mT @ x_ND

    def rows(self, layer: int) -> Tensor:
        """(D_in, D_in) rows with the sum that the inputs had: their leading directions and energies are the inputs'."""
        energies, directions = torch.linalg.eigh(self.sums[layer])
        return energies.clamp(min=0).sqrt()[:, None] * directions.mT


class Averages:
    """The inputs of some layers as the release for CLIP has them: batches of one shape averaged, place by place."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}

    def add(self, layer: int, x: Tensor, mask_BN: Tensor | None) -> None:
        """Take in x (B, N, D_in); a last batch that is smaller is left out."""
        known = self.sums.get(layer)
        if known is None or known.shape == x.shape:
            self.sums[layer] = x if known is None else known + x

    def rows(self, layer: int) -> Tensor:
        """(B N, D_in); how many batches it is the sum of changes no direction and no share."""
        return self.sums[layer].flatten(0, -2)
