"""What is learned of an answer in words: its tokens, and the loss over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

UNLEARNED = -100  # the label of a token that is read and not learned


def token_loss(logits: Tensor, labels: Tensor, over: str = "samples") -> Tensor:
    """Cross-entropy of the next token, a scalar; 0 where nothing is learned.

    l_bt = -log softmax(logits_b(t-1))[labels_bt] at each learned t >= 1, the first token having nothing before it.
    ``samples``: mean_b mean_t l_bt, samples without a learned token left out, so that a report weighs as much as an
    answer of one word. ``tokens``: the mean over all learned tokens of the batch, as the MSLoRA-CR release has it.

    Args:
        logits: (B, L, V), at least float32 in what is computed of them.
        labels: (B, L) the ids themselves, -100 where nothing is learned.

    Raises:
        ValueError: another ``over``.
    """
    if over not in ("samples", "tokens"):
        raise ValueError(f"a mean is over samples or over tokens, not over {over!r}")
    next_BL = F.pad(labels[:, 1:], (0, 1), value=UNLEARNED)  # labels move, for logits are large
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    with torch.autocast(logits.device.type, enabled=False):
        each_BL = F.cross_entropy(logits.flatten(0, 1), next_BL.flatten(), ignore_index=UNLEARNED, reduction="none")
    sum_B, count_B = each_BL.view_as(next_BL).sum(dim=1), (next_BL != UNLEARNED).sum(dim=1)
    if over == "tokens":
        return sum_B.sum() / count_B.sum().clamp(min=1)
    return (sum_B / count_B.clamp(min=1)).sum() / (count_B > 0).sum().clamp(min=1)


def answer_labels(ids: Tensor, start: int | Sequence[int], end: int | Sequence[int]) -> Tensor:
    """Labels of conversations: every answer with the marker that ends it, all else -100.

    An answer lies between a ``start`` and the next ``end``, in each round of a conversation; of one that is cut off
    what is there is learned. An id below 0 (an image, no token) never is. A token of the answer that is also the one
    for padding is learned like any other: the release drops such a sample.

    Args:
        ids: (..., L) tokens of whole conversations.
        start: the marker before an answer, such as that of the answering role: an id, or the ids of one after another.
        end: the marker behind it, likewise; it is learned, for it is how a model stops.

    Returns:
        (..., L) int64.
    """
    ids = torch.as_tensor(ids)
    place_L = torch.arange(ids.shape[-1], device=ids.device)
    # The last place before each token at which a marker was complete, -1 before the first one.
    begun, ended = (
        F.pad(torch.where(_complete(ids, marker), place_L, -1).cummax(dim=-1).values, (1, 0), value=-1)[..., :-1]
        for marker in (start, end)
    )
    return torch.where((begun > ended) & (ids >= 0), ids, UNLEARNED)


def _complete(ids: Tensor, marker: int | Sequence[int]) -> Tensor:
    """(..., L) bool: whether the marker's last token stands here, behind its others."""
    tokens = torch.as_tensor(marker).flatten().tolist()
    complete = torch.ones_like(ids, dtype=torch.bool)
    for back, token in enumerate(reversed(tokens)):
        complete &= F.pad(ids, (back, 0), value=-1)[..., : ids.shape[-1]] == token
    return complete
