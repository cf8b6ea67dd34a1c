"""k-means of features.

Odd axes: N samples, K centres.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def k_means(features: Tensor, centres: int, steps: int = 100) -> Tensor:
    """(K, E) centres of features (N, E): k-means++ from a fixed seed, then Lloyd's steps, in double precision."""
    x_NE, generator = features.double().cpu(), torch.Generator().manual_seed(0)
    m_KE, nearest_N = x_NE[:0], torch.ones(len(x_NE), dtype=x_NE.dtype)
    for _ in range(centres):
        chosen = torch.multinomial(nearest_N + 1e-12, 1, generator=generator)  # with fewer points than centres: again
        m_KE = torch.cat([m_KE, x_NE[chosen]])
        nearest_N = torch.cdist(x_NE, m_KE).square().amin(dim=1)
    for _ in range(steps):
        own_NK = F.one_hot(torch.cdist(x_NE, m_KE).argmin(dim=1), centres).to(x_NE)
        count_K1 = own_NK.sum(dim=0)[:, None]
        moved_KE = torch.where(count_K1 > 0, own_NK.mT @ x_NE / count_K1.clamp_min(1), m_KE)
        if torch.equal(moved_KE, m_KE):
            break
        m_KE = moved_KE
    return m_KE.to(features)
