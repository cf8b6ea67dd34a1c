"""CODA-Prompt: prompts composed for each image from components that grow with the tasks.

Smith, Karlinsky, Gutta, Cascante-Bonilla, Kim, Arbelle, Panda, Feris and Kira, *CODA-Prompt: COntinual Decomposed
Attention-based Prompting for Rehearsal-Free Continual Learning*, CVPR 2023, arXiv 2211.13218.

A prompt is a prefix of attention (keys and values that every token attends to besides the tokens' own). It is a
weighted sum of components P_m; the weight of a component is the cosine of its key K_m and the image's query seen
through its attention vector A_m, so the whole choice is differentiable. Each task adds ``pool / T`` components to every
layer and trains only those, on top of the earlier ones; no identity is needed.

q      = f(x)                                                        frozen, no gradient
w_m    = cos(q * A_m, K_m)                                           elementwise product, no softmax
p      = sum over components m of tasks 1..t of w_m P_m              (length, D) for each image and layer
h_l    = Attention(Q, [p_K; K], [p_V; V])                            p_K, p_V the halves of p; layers 0 to 4
L      = CE + mu * sum over layers and X in (K, A, P) of mean((X X^T - I)^2)     CE over the task's own labels

New components are drawn orthonormal, and orthogonal to the earlier ones (Gram-Schmidt), as far as the space has room;
what is beyond it is drawn as random unit vectors.

Deviations from the paper and its release:
- q is CLIP's projected image feature, not the class token before the projection: it is what a tower returns.
- new components are orthogonal to the *span* of the earlier ones. The release subtracts the projections on the earlier
  ones one by one, which is that only while training leaves those orthogonal.
- ``pool`` need not be a multiple of T: each task gets the integer part of pool / T as in the release, but at least one.
- layers beyond the tower's depth are left out.
- mu = 0 by default as in the released runs; the schedule is the budget's.

    make bench METHOD=coda_prompt                       # last accuracy 55.4 given, 33.7 hidden

Odd axes: L layers, M components, P prompt length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.stream import Budget, Task
from methods.base import Batch, IncrementalMethod
from methods.parts.backbones import Backbone
from methods.parts.checks import at_least

PRESETS = {
    "official": {
        "epochs": 20,
        "batch_size": 128,
        "optimizer": "adam",
        "lr": 1e-3,
        "schedule": "cosine",
        "method": {"pool": 100, "length": 8, "layers": 5, "mu": 0.0},
    }
}


def attend(query: Tensor, keys: Tensor, attention: Tensor, prompts: Tensor) -> Tensor:
    """The prompt of each sample: sum over components m of cos(query * attention_m, keys_m) prompts_m.

    Args:
        query: (B, E). keys, attention: (..., M, E). prompts: (..., M, length, D); ... = layers, or nothing.

    Returns:
        (..., B, length, D): along the length, the first half is for the keys, the second for the values.
    """
    # two products instead of the (B, M, E) tensor of all query * attention_m
    inner = query @ (attention * F.normalize(keys, dim=-1)).mT
    norm = (query.square() @ attention.square().mT).clamp_min(1e-24).sqrt()
    return ((inner / norm) @ prompts.flatten(-2)).unflatten(-1, prompts.shape[-2:])


def orthogonality(X: Tensor) -> Tensor:
    """(...): mean((X X^T - I)^2) of components (..., M, n)."""
    return (X @ X.mT - torch.eye(X.shape[-2], dtype=X.dtype, device=X.device)).square().mean((-2, -1))


def gram_schmidt(old: Tensor, count: int) -> Tensor:
    """(..., count, n) random unit rows, orthogonal to each other and to the rows of ``old`` (..., M, n).

    Where M + count > n the rows that find no room are random unit vectors.
    """
    fresh = torch.randn(*old.shape[:-2], count, old.shape[-1], dtype=old.dtype, device=old.device)
    rows = torch.linalg.qr(torch.cat([old, fresh], dim=-2).mT).Q.mT[..., old.shape[-2] :, :]
    return torch.cat([rows, F.normalize(fresh[..., rows.shape[-2] :, :], dim=-1)], dim=-2)


class CodaPrompt(IncrementalMethod):
    """Prompt components with keys and attention vectors, ``pool / T`` more with each task.

    Args:
        pool: components of a layer at the end of the stream.
        length: of a prompt, even: half of it goes to the keys, half to the values.
        layers: the first so many blocks get prompts.
        mu: weight of the orthogonality penalty.
    """

    needs_length = True
    task_free = True

    def __init__(self, pool: int = 100, length: int = 8, layers: int = 5, mu: float = 0.0) -> None:
        super().__init__()
        at_least(1, pool=pool, layers=layers)
        at_least(2, length=length)
        if length % 2:
            raise ValueError(f"length {length}: need an even length, half of it keys and half values")
        self.pool, self.length, self.layers, self.mu = pool, length, layers, mu
        self.keys, self.attention, self.prompts = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()

    def attach(self, backbone: Backbone, budget: Budget) -> None:
        super().attach(backbone, budget)
        self.depth = min(self.layers, len(backbone.image.blocks))

    def begin_task(self, task: Task) -> None:
        count = max(1, self.pool // task.of)
        embedding, shape = self.backbone.class_features(task.labels).shape[1], (self.length, self.backbone.width)
        for part, size in ((self.keys, (embedding,)), (self.attention, (embedding,)), (self.prompts, shape)):
            part.requires_grad_(False)
            old = [parameter.detach() for parameter in part]
            old_LMn = torch.cat([torch.empty(self.depth, 0, *size, device=self.device), *old], dim=1).flatten(2)
            part.append(nn.Parameter(gram_schmidt(old_LMn, count).unflatten(-1, size)))
        super().begin_task(task)

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [part[-1] for part in (self.keys, self.attention, self.prompts)] if self.tasks else []

    def components(self) -> tuple[Tensor, ...]:
        """Keys and attention vectors (L, M, E), prompts (L, M, P, D) so far; only the last task's take gradients."""
        return tuple(torch.cat(list(part), dim=1) for part in (self.keys, self.attention, self.prompts))

    def embed_image(self, batch: Batch) -> Tensor:
        if not self.tasks:
            return super().embed_image(batch)
        images_BCHW = self.views(batch["image"], self.training, batch.get("task"))
        with torch.no_grad():
            query_BE = self.backbone.image(images_BCHW).float()
        with torch.autocast(images_BCHW.device.type, enabled=False):
            prompts_LBPD = attend(query_BE, *self.components())
        halves = [tuple(prompts_BPD.chunk(2, dim=1)) for prompts_BPD in prompts_LBPD]
        return self.backbone.image(images_BCHW, prefix=dict(enumerate(halves)).get)

    def penalty(self) -> Tensor:
        if not self.mu:
            return super().penalty()
        with torch.autocast(self.device.type, enabled=False):
            return self.mu * torch.stack([orthogonality(X_LM.flatten(2)) for X_LM in self.components()]).sum()
