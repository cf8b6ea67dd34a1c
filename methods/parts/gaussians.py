"""A Gaussian for every class: number of samples, mean and covariance of its features, kept without a sample.

A class that comes again (domain streams) is merged with what is kept, exactly: as if all its samples had come at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.parts.memory import Memory


def learn_gaussians(memory: Memory, features_NE: Tensor, labels_N: Tensor) -> None:
    """Take in samples: ``count_c``, ``mean_c`` (E,) and ``cov_c`` (E, E), divided by n - 1, of every class c in them.

    The covariance of a class of one sample is 0.
    """
    for label_id in labels_N.unique().tolist():
        new_NE = features_NE[labels_N == label_id].double()
        count, mean_E = len(new_NE), new_NE.mean(dim=0)
        scatter_EE = (new_NE - mean_E).mT @ (new_NE - mean_E)
        if f"count_{label_id}" in memory:
            known, mean_before_E, cov_EE = _kept(memory, label_id)
            step_E, total = mean_E - mean_before_E, known + count
            scatter_EE = scatter_EE + (known - 1) * cov_EE + known * count / total * torch.outer(step_E, step_E)
            mean_E, count = mean_before_E + count / total * step_E, total
        memory[f"count_{label_id}"] = torch.tensor(count, device=features_NE.device)
        memory[f"mean_{label_id}"] = mean_E.float()
        memory[f"cov_{label_id}"] = (scatter_EE / max(1, count - 1)).float()


def _kept(memory: Memory, label_id: int) -> tuple[int, Tensor, Tensor]:
    count, mean, cov = (memory[f"{name}_{label_id}"] for name in ("count", "mean", "cov"))
    return int(count), mean.double(), cov.double()


def off_diagonal_mean(cov: Tensor, zeros: bool) -> Tensor:
    """Scalar: the mean of the entries (E, E) beside the diagonal; without ``zeros`` of those that are not 0, if any."""
    beside = cov - torch.diag(cov.diagonal())
    places = len(cov) * (len(cov) - 1) if zeros else (beside != 0).sum()
    return beside.sum() / max(1, int(places))


def shrunk(cov: Tensor, diagonal: Tensor, beside: Tensor) -> Tensor:
    """(E, E): a number added to every variance, and another one to all entries beside the diagonal."""
    identity_EE = torch.eye(len(cov), dtype=cov.dtype, device=cov.device)
    return cov + diagonal * identity_EE + beside * (1 - identity_EE)
