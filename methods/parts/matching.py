"""Images and texts of a batch: one feature of both, which of them belong together, CLIP's loss between them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def fused(image_BE: Tensor | None, text_BE: Tensor | None) -> Tensor:
    """(B, E): the sum of the unit features of image and text; the one that is there where the other is missing."""
    if image_BE is None or text_BE is None:
        present = text_BE if image_BE is None else image_BE
        assert present is not None, "neither image nor text"
        return present
    return F.normalize(image_BE.float(), dim=-1) + F.normalize(text_BE.float(), dim=-1)


def belongs(batch: Mapping[str, Tensor]) -> Tensor:
    """(B, B) bool: which pairs of a retrieval batch belong together; the diagonal always does."""
    label_B, task_B = batch["label"], batch["task"]
    return (label_B[:, None] == label_B) & (task_B[:, None] == task_B)


def contrastive_loss(image_BE: Tensor, text_BE: Tensor, same_BB: Tensor, scale: Tensor | float) -> Tensor:
    """CLIP's symmetric cross-entropy between the images and the texts of a batch, a scalar.

    -1/2 mean_i 1/|P_i| sum_{p in P_i} ( log softmax_j(s cos(x_i, y_j))[p] + log softmax_j(s cos(y_i, x_j))[p] ),
    P_i = {j: same_ij}: one match each gives CLIP's loss, and what belongs together is no negative.
    """
    with torch.autocast(image_BE.device.type, enabled=False):
        unit_image_BE, unit_text_BE = (F.normalize(x.float(), dim=-1) for x in (image_BE, text_BE))
        logits_BB = scale * unit_image_BE @ unit_text_BE.mT
        target_BB = same_BB / same_BB.sum(dim=1, keepdim=True)
        return (F.cross_entropy(logits_BB, target_BB) + F.cross_entropy(logits_BB.mT, target_BB)) / 2
