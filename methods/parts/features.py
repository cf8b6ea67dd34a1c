"""What several learners make of features without training: class means, random features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def class_means(features_NE: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """(means_KE, ids_K): the unit mean of each class's unit features, ids ascending."""
    sums_KE, ids_K = class_sums(F.normalize(features_NE, dim=-1), labels_N)[:2]
    return F.normalize(sums_KE, dim=-1), ids_K


def class_sums(features_NE: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(sums_KE, ids_K, position_N) of each class, ids ascending; position is a sample's row."""
    ids_K, position_N = labels_N.unique(return_inverse=True)
    sums_KE = features_NE.new_zeros(len(ids_K), features_NE.shape[1])
    return sums_KE.index_add_(0, position_N, features_NE), ids_K, position_N


def random_features(features_NE: Tensor, projection_EM: Tensor) -> Tensor:
    """(N, M): h = relu(z W)."""
    return (features_NE @ projection_EM).relu()
