"""L2P: prompts from one shared pool, chosen for each image by key and query.

Wang, Zhang, Lee, Zhang, Sun, Ren, Su, Perot, Dy and Pfister, *Learning to Prompt for Continual Learning*, CVPR 2022,
arXiv 2112.08654.

A pool of M prompts P_m (length, D) stands beside a frozen model, each with a key k_m. An image asks with the feature q
that the frozen model gives it (a second forward pass, without gradients), takes the k prompts whose keys are nearest,
and carries them along as tokens. The whole pool keeps learning through the stream; nothing in it belongs to a task, so
no identity is needed: what keeps tasks apart is only that their images ask differently.

q      = f(x)                                      frozen, no gradient
K(x)   = the k indices m of largest cos(q, k_m)
z      = f([class token; P_m for m in K(x); patch tokens])
L      = CE(z) - pull * mean over images of sum over m in K(x) of cos(q, k_m)      CE over the task's own labels

Deviations from the paper and its releases:
- z is the class token's feature, not the mean of the prompt tokens: the class token is what CLIP's texts align with.
- q is CLIP's projected image feature, not the class token before the projection: it is what a tower returns.
- prompts stand behind the class token of the first block; a tower that averages its patch tokens averages them as well.
- where text is an input it goes through the frozen text tower: prompts are the image's.
- every image chooses for itself, always. LAMDA-PILOT gives the whole batch the prompts that most of it chose, at test
  time too, so that an answer depends on the other images (``select_prompts(..., batchwise=True)`` is that choice).

    make bench METHOD=l2p                               # last accuracy 46.4 given, 24.2 hidden

Odd axes: M pool, k chosen, P prompt length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.stream import Task
from methods.base import Batch, IncrementalMethod
from methods.parts.checks import at_least, within

PRESETS = {
    "official": {
        "epochs": 5,
        "batch_size": 16,
        "optimizer": "adam",
        "lr": 1.875e-3,
        "schedule": "constant",
        "method": {"pool": 10, "length": 5, "top_k": 5, "pull": 0.1, "init": 1.0},
    }
}


def select_prompts(query: Tensor, keys: Tensor, k: int, batchwise: bool = False) -> tuple[Tensor, Tensor]:
    """The k keys of largest cosine with each query.

    Args:
        query: (B, E). keys: (M, E).
        batchwise: give every sample the k indices that the samples of the batch chose most often.

    Returns:
        indices (B, k), nearest first; similarity (B, M), all the cosines: those of the chosen are
        ``similarity.gather(1, indices)``.
    """
    similarity_BM = F.normalize(query, dim=-1) @ F.normalize(keys, dim=-1).mT
    indices_Bk = similarity_BM.topk(k, dim=-1).indices
    if batchwise:
        counts_M = torch.bincount(indices_Bk.flatten(), minlength=len(keys))
        chosen_first_M = (counts_M == 0).long().argsort(stable=True)
        indices_Bk = chosen_first_M[counts_M[chosen_first_M].topk(k).indices].expand(len(query), -1)
    return indices_Bk, similarity_BM


class L2P(IncrementalMethod):
    """A pool of prompts with keys, all of it trained on every task.

    Args:
        pool: number of prompts.
        length: tokens of a prompt.
        top_k: prompts that an image takes.
        pull: weight of the term that draws chosen keys to the queries.
        init: prompts and keys start uniform in +-init.
    """

    kinds = ("classification", "fusion", "retrieval")
    task_free = True

    prompts: nn.Parameter
    keys: nn.Parameter

    search = {"pull": (0.025, 0.4), "init": (0.25, 4.0)}

    def __init__(self, pool: int = 10, length: int = 5, top_k: int = 5, pull: float = 0.1, init: float = 1.0) -> None:
        super().__init__()
        at_least(1, pool=pool, length=length)
        within(1, pool, top_k=top_k)
        self.pool, self.length, self.top_k, self.pull, self.init = pool, length, top_k, pull, init

    def begin_task(self, task: Task) -> None:
        if not self.tasks:
            for name, shape in (("prompts", (self.length, self.backbone.width)), ("keys", (self.backbone.embedding,))):
                values = torch.empty(self.pool, *shape, device=self.device).uniform_(-self.init, self.init)
                self.register_parameter(name, nn.Parameter(values))
        super().begin_task(task)

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [self.prompts, self.keys] if self.tasks else []

    def prompted(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(B, E) features of the images with their prompts, (B, k) cosines of the keys that were chosen."""
        with torch.no_grad():
            query_BE = self.backbone.image(images_BCHW).float()
        with torch.autocast(images_BCHW.device.type, enabled=False):
            indices_Bk, similarity_BM = select_prompts(query_BE, self.keys, self.top_k)
        prompts_BPD = self.prompts[indices_Bk].flatten(1, 2)

        def insert(layer: int, x_BND: Tensor) -> Tensor:
            return x_BND if layer else torch.cat([x_BND[:, :1], prompts_BPD, x_BND[:, 1:]], dim=1)

        return self.backbone.image(images_BCHW, edit_tokens=insert), similarity_BM.gather(1, indices_Bk)

    def loss(self, batch: Batch) -> Tensor:
        if "image" not in batch:
            return super().loss(batch)
        image_BE, cosine_Bk = self.prompted(self.views(batch["image"], self.training, batch.get("task")))
        text_BE = self.embed_text(batch) if "text" in batch else None
        return self.objective(batch, image_BE, text_BE) - self.pull * cosine_Bk.sum(dim=1).mean()

    def embed_image(self, batch: Batch) -> Tensor:
        if not self.tasks:
            return super().embed_image(batch)
        return self.prompted(self.views(batch["image"], self.training, batch.get("task")))[0]
