"""CL-LoRA: one LoRA that all tasks share in the first blocks, one per task in the last.

He et al., *CL-LoRA: Continual Low-Rank Adaptation for Rehearsal-Free Class-Incremental Learning*, CVPR 2025,
arXiv 2505.24816. LoRA on q and v, scale 1. The shared adapter's reduction A is random, orthonormal and fixed; its B
keeps training and is held by distillation from the previous task's B. Each task's own adapters, A and B, are scaled by
block weights w, one per layer, that learn to differ from those of earlier tasks.

first half of the blocks:   y = W x + b + B A x             A orthonormal rows, B trained on
second half:                y = W x + b + w_t B_t A_t x     w_t ~ U(0.5, 1.5)
L  = CE + 1e-4 mean_{i<t} |cos(w_t, w_i)|
KD = 5 distillation(T = 2) of e against the e of the previous shared adapter, e the feature after the first half

As in the released code KD is a step of its own, of the same optimiser, before that of L on every batch from task 2 on
(here with its own draw of the augmentation); row j of the gradient of B is weighted by the norm of row j of the
previous B over the mean of these norms.

Answering takes a pass of the second half for every task: a class is scored by the feature under its own task's
adapters, so no task id is needed and no router. Once learned, classes are scored by their prototypes, the unit mean
feature under their task's adapters (``head=prototype``, as released; ``text``: by their prompts, as while training).
The shared adapter moves on, the prototypes stay. A class of several tasks gets its best score. A class not learned yet
is scored by its prompts under the shared adapter alone. CLIP's text features stand in for the trained head, for L
and KD. The released code draws A from a QR of uniform numbers, here it is uniform among all orthonormal rows.

    make bench METHOD=cllora                            # last accuracy 64.0 given, 43.3 hidden
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.stream import Budget, Label, Task
from methods.base import Batch, IncrementalMethod
from methods.lwf import distillation
from methods.parts.backbones import Backbone
from methods.parts.checks import above, at_least, one_of
from methods.parts.experts import Experts
from methods.parts.features import class_means

PRESETS = {"official": {"epochs": 30, "batch_size": 64, "optimizer": "sgd", "lr": 0.03, "warmup": 0.0}}
HEADS = ("prototype", "text")
PLACES = ("q", "v")


def block_orthogonality(previous: Sequence[Tensor] | Tensor, current: Tensor) -> Tensor:
    """Scalar mean over the earlier tasks of |cos(previous_i, current)| of flattened weights; 0 without any.

    Args:
        previous: (T, ...) or a sequence of tensors of the shape of ``current``.
    """
    if len(previous) == 0:
        return current.new_zeros(())
    earlier = torch.stack([weights.flatten() for weights in previous])
    return torch.cosine_similarity(earlier, current.flatten()[None], dim=-1).abs().mean()


class CLLora(IncrementalMethod):
    """A shared, distilled adapter below and one weighted adapter per task above.

    Args:
        rank: r of every adapted layer.
        strength: weight of the distillation of the shared adapter.
        temperature: T of its soft targets.
        orthogonality: weight of the term that keeps block weights of tasks apart.
        head: what scores a class once it is learned: prototype or text.
    """

    ddp = False  # a training step takes an optimiser step of its own, on gradients that are not shared
    search = {"strength": (1.25, 20.0), "temperature": (0.5, 8.0), "orthogonality": (2.5e-05, 0.0004)}

    def __init__(
        self,
        rank: int = 8,
        strength: float = 5.0,
        temperature: float = 2.0,
        orthogonality: float = 1e-4,
        head: str = "prototype",
    ) -> None:
        super().__init__()
        at_least(0, strength=strength, orthogonality=orthogonality)
        above(0, temperature=temperature)
        one_of(HEADS, head=head)
        self.rank, self.strength, self.temperature, self.head = rank, strength, temperature, head
        self.orthogonality = orthogonality
        self.block_weights = nn.ParameterList()
        self._rows: list[Tensor] = []

    def attach(self, backbone: Backbone, budget: Budget) -> None:
        super().attach(backbone, budget)
        depth = len(backbone.image.blocks)
        if depth < 2:
            raise ValueError(f"backbone {backbone.name!r}: one block cannot be parted into shared and specific")
        self.middle = depth // 2
        self.shared = Experts(backbone.image, self.rank, self.rank, PLACES, blocks=range(self.middle))
        self.experts = Experts(backbone.image, self.rank, self.rank, PLACES, blocks=range(self.middle, depth))

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        if not self.shared.names:
            self.shared.add("shared")
            self.shared.add("teacher")
            orthonormal(self.shared.factors("shared")[0])
        name = f"task{task.index}"
        self.experts.add(name)
        orthonormal(self.experts.factors(name)[0])
        self.block_weights.requires_grad_(False)
        self.block_weights.append(nn.Parameter(torch.empty(len(self.experts.layers)).uniform_(0.5, 1.5)))

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Both live adapters computed apart; of the shared one only B takes gradients."""
        self._rows = [row_weights(B) for B in self.shared.factors("teacher")[1]]
        with self.shared.blend({}, live="shared"), self.experts.blend({}, live=self.experts.names[-1]):
            for A in self.shared.factors("shared")[0]:
                A.requires_grad_(False)
            yield

    def trainable_parameters(self) -> list[nn.Parameter]:
        if not self.experts.names:
            return []
        own = self.experts.parameters(self.experts.names[-1])
        return [*self.shared.factors("shared")[1], *own, self.block_weights[-1]]  # type: ignore[list-item]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if len(self.tasks) > 1 and self.strength:
            self._distil(self.views(batch["image"], True, batch["task"]))
        return super().training_step(batch, batch_idx)

    def _distil(self, images_BCHW: Tensor) -> None:
        """A step on KD; only the shared B have a gradient, so only they move."""
        text_CE = self.backbone.class_features(self.tasks[-1].labels)
        with torch.no_grad():
            x_BND = self.backbone.image.embed(images_BCHW)
            with self.shared.mix({"teacher": 1.0}):
                old_BC = self.backbone.logits(self._early(x_BND, images_BCHW), text_CE)
        new_BC = self.backbone.logits(self._early(x_BND, images_BCHW), text_CE)
        kd = self.strength * distillation(new_BC.float(), old_BC.float(), self.temperature)
        shared = self.shared.factors("shared")[1]
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        for B, gradient, rows_D1 in zip(shared, torch.autograd.grad(kd, shared), self._rows, strict=True):
            B.grad = rows_D1 * gradient
        optimizer.step()

    def _early(self, x_BND: Tensor, images_BCHW: Tensor) -> Tensor:
        """(B, E) the feature after the first half of the blocks."""
        return self.backbone.image.pool(self._blocks(x_BND, 0, self.middle), images_BCHW)

    def _late(self, x_BND: Tensor, images_BCHW: Tensor) -> Tensor:
        """(B, E) the feature, from the tokens after the first half."""
        tower = self.backbone.image
        return tower.pool(self._blocks(x_BND, self.middle, len(tower.blocks)), images_BCHW)

    def _blocks(self, x_BND: Tensor, start: int, stop: int) -> Tensor:
        """Some blocks of the tower: the first half serves KD alone and, when answering, the passes of all tasks."""
        tower = self.backbone.image
        for layer in range(start, stop):
            x_BND = tower.transformed(layer, tower.attended(layer, x_BND))
        return x_BND

    def embed_image(self, batch: Batch) -> Tensor:
        """Of the current task: its block weights act apart while they are trained, and are part of B afterwards."""
        if not self.training:
            return super().embed_image(batch)
        with self.experts.mix({self.experts.names[-1]: self.block_weights[-1].unbind()}):
            return super().embed_image(batch)

    def penalty(self) -> Tensor:
        *earlier, current = self.block_weights
        with torch.autocast(self.device.type, enabled=False):
            return self.orthogonality * block_orthogonality(earlier, current)

    @torch.no_grad()
    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        """The block weights become part of B, the shared adapter the next teacher, the classes get prototypes."""
        for B, weight in zip(self.experts.factors(f"task{task.index}")[1], self.block_weights[-1], strict=True):
            B.mul_(weight)
        for old, new in zip(self.shared.parameters("teacher"), self.shared.parameters("shared"), strict=True):
            old.copy_(new)
        if self.head == "prototype":
            pairs = [(self.embed_image(batch).float(), batch["label"]) for batch in loader]
            means_KE, ids_K = class_means(torch.cat([z for z, _ in pairs]), torch.cat([y for _, y in pairs]))
            head_CE = self.backbone.class_features(task.labels)  # a class without a sample keeps its text
            ids = [label.id for label in task.labels]
            head_CE[[ids.index(id) for id in ids_K.tolist()]] = means_KE
            self.memory[f"prototypes_{task.index}"] = head_CE

    def scores(self, batch: Batch, labels: Sequence[Label], task: Task | None) -> Tensor:
        """One pass through the second half for each task that has one of the labels."""
        images_BCHW = self.views(batch["image"], train=False)
        passes = self.tasks if task is None else self.tasks[task.index : task.index + 1]
        logits_BC = torch.full((len(images_BCHW), len(labels)), -torch.inf, device=images_BCHW.device)
        open_ids = {label.id for label in labels}
        with self.shared.blend({"shared": 1.0} if self.tasks else {}):
            x_BND = self._blocks(self.backbone.image.embed(images_BCHW), 0, self.middle)
            for learned in passes:
                rows = {label.id: row for row, label in enumerate(learned.labels)}
                columns = [column for column, label in enumerate(labels) if label.id in rows]
                if columns:
                    head_CE = self._head(learned)[[rows[labels[column].id] for column in columns]]
                    with self.experts.blend({f"task{learned.index}": 1.0}):
                        own_BC = self.backbone.logits(self._late(x_BND, images_BCHW), head_CE).float()
                    logits_BC[:, columns] = logits_BC[:, columns].maximum(own_BC)
                    open_ids -= rows.keys()
            if open_ids:
                columns = [column for column, label in enumerate(labels) if label.id in open_ids]
                text_CE = self.backbone.class_features([labels[column] for column in columns])
                logits_BC[:, columns] = self.backbone.logits(self._late(x_BND, images_BCHW), text_CE).float()
        return logits_BC

    def _head(self, task: Task) -> Tensor:
        """(C, E) unit rows that score a learned task's classes."""
        if self.head == "text":
            return self.backbone.class_features(task.labels)
        return self.memory[f"prototypes_{task.index}"]


@torch.no_grad()
def orthonormal(matrices: Sequence[Tensor]) -> None:
    """Random orthonormal rows, in place."""
    for matrix in matrices:
        nn.init.orthogonal_(matrix)


@torch.no_grad()
def row_weights(B: Tensor) -> Tensor:
    """(D, 1) of a (D, r): the norm of every row over their mean; ones for a B of zeros."""
    norms_D1 = B.norm(dim=1, keepdim=True)
    mean = norms_D1.mean()
    return torch.where(mean > 0, norms_D1 / mean, 1)
