"""Augmentation on the device, of a whole batch with a draw per sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.stream import Share


def augment(images_BCHW: Tensor, crop: bool, share: Share | None = None, may_mirror_B: Tensor | None = None) -> Tensor:
    """Mirror each image with probability 1/2; with ``crop`` also cut out 70 to 100 % of its area and rescale it.

    With a share the draws are those of the whole batch, of which the images are a part.

    Args:
        may_mirror_B: bool, which images may be mirrored; None: all. What is drawn does not depend on it.
    """
    device = images_BCHW.device
    size, rows = (len(images_BCHW), slice(None)) if share is None else (share.size, slice(share.start, share.stop))
    mirrored_B = (torch.rand(size, device=device) < 0.5)[rows]
    if may_mirror_B is not None:
        mirrored_B = mirrored_B & may_mirror_B
    if not crop:
        return torch.where(mirrored_B.view(-1, 1, 1, 1), images_BCHW.flip(-1), images_BCHW)
    side_B = torch.empty(size, device=device).uniform_(0.7, 1).sqrt()[rows]
    shift_B2 = (torch.rand(size, 2, device=device)[rows] * 2 - 1) * (1 - side_B)[:, None]
    theta_B23 = torch.zeros(len(images_BCHW), 2, 3, device=device)
    theta_B23[:, 0, 0] = torch.where(mirrored_B, -side_B, side_B)
    theta_B23[:, 1, 1] = side_B
    theta_B23[:, :, 2] = shift_B2
    grid = F.affine_grid(theta_B23, list(images_BCHW.shape), align_corners=False)
    return F.grid_sample(images_BCHW, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
