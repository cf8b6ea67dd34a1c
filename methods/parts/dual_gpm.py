"""DualGPM, what InfLoRA keeps of earlier tasks' inputs, and the reduction matrix that it leaves to a new task.

Liang and Li, *InfLoRA*, CVPR 2024, after Saha et al., *Gradient Projection Memory*, ICLR 2021. Symbols as in
:mod:`methods.inflora`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from methods.parts.checks import one_of

ENERGIES = ("cov_sq", "input")


class DualGPM:
    """The memory of one layer: an orthonormal basis of the inputs to protect, or of all the others.

    Args:
        dimension: d, width of the layer's input.
        energy: how much a direction counts: ``cov_sq`` squared singular values of the covariance C (released, s^4 of
            the inputs), ``input`` singular values of C (s^2 of the inputs, as in the GPM papers).
        flip: store the complement once the protected space has more than d/2 dimensions; False: plain GPM.
        faithful: a first task with k >= d/2 directions is labelled as its complement, as released.

    Attributes:
        basis: (d, k). complement: the basis spans the complement of the protected space.
    """

    def __init__(self, dimension: int, energy: str = "cov_sq", flip: bool = True, faithful: bool = False) -> None:
        """Raises ValueError: unknown energy."""
        one_of(ENERGIES, energy=energy)
        self.dimension, self.energy, self.flip, self.faithful = dimension, energy, flip, faithful
        self.basis = torch.zeros(dimension, 0, dtype=torch.float64)
        self.complement = False
        self.first = True

    def projector(self) -> Tensor:
        """(d, d) the orthogonal projector onto the protected space."""
        stored = self.basis @ self.basis.mT
        return torch.eye(self.dimension).to(stored) - stored if self.complement else stored

    def update(self, covariance: Tensor, threshold: float) -> None:
        """Protect the share ``threshold`` of a task's energy, from the (d, d) covariance of its inputs.

        Raises:
            ValueError: ``faithful``, and the released code stops: a first task with k > d/2.
        """
        first, self.first = self.first, False
        self.basis = self.basis.to(covariance)
        if first:
            U, energies = self._spectrum(covariance, torch.eye(self.dimension).to(covariance))
            k = max(1, int((energies.cumsum(0) < threshold).sum()))
            self.basis = U[:, :k]
            if self.faithful and self.flip and 2 * k >= self.dimension:
                if 2 * k > self.dimension:
                    raise ValueError(f"a first task of {k} of {self.dimension} directions stops the released code")
                self.complement = True
                return
        elif self.complement:
            self._shrink(covariance, threshold)
        else:
            self._grow(covariance, threshold)
        if self.flip and not self.complement and 2 * self.basis.shape[1] > self.dimension:
            k = self.basis.shape[1]
            self.basis = torch.linalg.svd(self.basis, full_matrices=True)[0][:, k:]
            self.complement = True

    def _spectrum(self, covariance: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        """(U (d, d), share of the whole energy along each column) of the part (d, d) of the inputs' space."""
        if self.energy == "cov_sq":
            U, s, _ = torch.linalg.svd(part @ covariance)
            return U, s**2 / (covariance**2).sum()
        U, s, _ = torch.linalg.svd(part @ covariance @ part)
        return U, s / covariance.trace()

    def _grow(self, covariance: Tensor, threshold: float) -> None:
        stored = self.basis @ self.basis.mT
        U, energies = self._spectrum(covariance, torch.eye(self.dimension).to(stored) - stored)
        known = 1 - energies.sum()
        reached = torch.cat([known[None], known + energies.cumsum(0)])
        noise = self.dimension * torch.finfo(energies.dtype).eps  # columns of no energy may lie in the protected space
        r = int(((reached[:-1] < threshold) & (energies > (noise**2 if self.energy == "cov_sq" else noise))).sum())
        self.basis = torch.cat([self.basis, U[:, :r]], dim=1)[:, : self.dimension]

    def _shrink(self, covariance: Tensor, threshold: float) -> None:
        U, energies = self._spectrum(covariance, self.basis @ self.basis.mT)
        left = energies.sum()
        remaining = torch.cat([left[None], left - energies.cumsum(0)])
        r, k = int((remaining[:-1] >= 1 - threshold).sum()), self.basis.shape[1]
        if r:
            taken = U[:, :r]
            self.basis = torch.linalg.svd(self.basis - taken @ (taken.mT @ self.basis))[0][:, : max(0, k - r)]


def design_reduction(covariance: Tensor, memory: DualGPM, rank: int, faithful: bool = False) -> Tensor:
    """(r, d) reduction matrix A_t of a task with the (d, d) input covariance C; a fresh ``memory`` protects nothing.

    Rows for which no free direction is left are zero; ``faithful``: whatever the SVD gives there.
    """
    basis = memory.basis.to(covariance)
    inside = basis @ (basis.mT @ covariance)
    U, s, _ = torch.linalg.svd(inside if memory.complement else covariance - inside)
    rows = U[:, :rank].mT / math.sqrt(3)
    if not faithful:
        noise = max(1e-8, len(s) * torch.finfo(s.dtype).eps)
        rows = rows * (s[:rank] > noise * torch.linalg.matrix_norm(covariance, 2))[:, None]
    return nn.functional.pad(rows, (0, 0, 0, rank - len(rows)))
