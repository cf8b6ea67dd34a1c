"""DualPrompt: general prompts for all tasks, expert prompts for each, as prefixes of attention.

Wang, Zhang, Ebrahimi, Sun, Zhang, Lee, Ren, Su, Perot, Dy and Pfister, *DualPrompt: Complementary Prompting for
Rehearsal-free Continual Learning*, ECCV 2022, arXiv 2204.04799.

A prompt is a prefix: keys and values that every token attends to besides the tokens' own. The G-prompt stands in the
first blocks and keeps learning through the stream (what tasks share); each task t has an E-prompt e_t in the next
blocks (what is its own), frozen once the task has ended, and a key k_t that is drawn to the task's images.

q      = f(x)                                                           frozen, no gradient
z      = f(x; g in layers 0, 1; e_t in layers 2, 3, 4),   h_l = Attention(Q, [p_K; K], [p_V; V]),  p = scale (g or e_t)
L      = CE(z) - pull * mean over images of cos(q, k_t)                 CE over the task's own labels

Training task t uses e_t. Told the identity, a learned task is answered with its own e_t. Otherwise each image takes
the e_t of the nearest key: that choice is also what the method reports as its router. A new e_t starts as a copy of the
last one (``copy``), as LAMDA-PILOT does.

Deviations from the paper and its releases:
- prefixes have the layout that the paper means. The released PyTorch codes reshape (keys or values, batch, ...) to
  (batch, keys or values, ...) without transposing: half of the batch gets key prompts as keys and as values.
- every image chooses for itself; the release lets the batch vote, so that an answer depends on the other images.
- q is CLIP's projected image feature, not the class token before the projection: it is what a tower returns.
- layers beyond the tower's depth are left out (a tower of 4 blocks has E-prompts in layers 2 and 3).
- what stands in the prefix is ``scale`` times the parameter, as LoRA has its alpha. The release also trains a
  classifier; here the prompts are all that learns, and at the common learning rate a plain prefix moves too slowly to
  leave zero-shot. Parameters and keys start in U(-init, init). The preset has the release's scale 1 and init 1.

    make bench METHOD=dualprompt                        # last accuracy 50.1 given, 29.7 hidden

Odd axes: L layers with a prompt, P prompt length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.stream import Budget, Label, Task
from methods.base import Batch, IncrementalMethod
from methods.l2p import select_prompts
from methods.parts.backbones import Backbone
from methods.parts.checks import at_least

PRESETS = {
    "official": {
        "epochs": 5,
        "batch_size": 24,
        "optimizer": "adam",
        "lr": 1e-3,
        "schedule": "constant",
        "method": {"g_length": 5, "e_length": 5, "pull": 0.1, "init": 1.0, "scale": 1.0, "copy": True},
    }
}


def prefix(prompts: Tensor, index: Tensor | int | None = None) -> tuple[Tensor, Tensor]:
    """Keys and values to put in front of a block's own, for each sample.

    Args:
        prompts: (pool, length, D), of every prompt the first half keys, the second half values; or
            (layers, 2, pool, length, ...), keys and values apart, ... = D or (heads, D / heads).
        index: (B,) the prompt of each sample, (B, k) its k prompts, put one behind the other; or one number for a
            batch of 1. None: prompt b is that of sample b, pool = B.

    Returns:
        keys, values, each (B, k length / 2, D); or (layers, B, k length, ...).

    Raises:
        ValueError: prompts of an odd length cannot be halved.
    """
    halved = prompts.ndim == 3
    if halved:
        if prompts.shape[1] % 2:
            raise ValueError(f"prompts of length {prompts.shape[1]} cannot be halved into keys and values")
        prompts = prompts.unflatten(1, (2, -1)).transpose(0, 1)[None]
    if index is not None:
        index = torch.as_tensor(index, device=prompts.device)
        index = index.reshape(-1, 1) if index.ndim < 2 else index
        prompts = prompts[:, :, index].flatten(3, 4)
    keys, values = prompts.unbind(1)
    return (keys[0], values[0]) if halved else (keys, values)


def layer_numbers(layers: str) -> list[int]:
    """``"2,3,4"`` -> [2, 3, 4], ``""`` -> []. Raises ValueError: not that."""
    names = [name.strip() for name in layers.split(",")] if layers.strip() else []
    if not all(name.isdecimal() for name in names):
        raise ValueError(f"layers {layers!r}: give block numbers from 0 on, such as '2,3,4'")
    return sorted({int(name) for name in names})


class DualPrompt(IncrementalMethod):
    """A G-prompt for the stream, an E-prompt and a key for each task.

    Args:
        g_length, e_length: key prompts, and as many value prompts, of a layer.
        g_layers, e_layers: blocks with a G-prompt (may be empty) and with an E-prompt.
        pull: weight of the term that draws a task's key to its queries.
        init: prompts and keys start uniform in +-init.
        scale: of a prompt parameter in the prefix.
        copy: a new E-prompt starts as the last one instead.
    """

    general: nn.Parameter

    search = {"pull": (0.025, 0.4), "scale": (2.5, 40.0)}

    def __init__(
        self,
        g_length: int = 5,
        e_length: int = 5,
        g_layers: str = "0,1",
        e_layers: str = "2,3,4",
        pull: float = 0.1,
        init: float = 0.02,
        scale: float = 10.0,
        copy: bool = True,
    ) -> None:
        super().__init__()
        at_least(1, g_length=g_length, e_length=e_length)
        if set(layer_numbers(g_layers)) & set(layer_numbers(e_layers)):
            raise ValueError(f"g_layers {g_layers!r} and e_layers {e_layers!r}: a layer has one kind of prompt")
        self.g_length, self.e_length, self.g_layers, self.e_layers = g_length, e_length, g_layers, e_layers
        self.pull, self.init, self.scale, self.copy = pull, init, scale, copy
        self.own, self.keys = nn.ParameterList(), nn.ParameterList()

    def attach(self, backbone: Backbone, budget: Budget) -> None:
        super().attach(backbone, budget)
        depth = len(backbone.image.blocks)
        self.g_at, self.e_at = (
            [layer for layer in layer_numbers(layers) if layer < depth] for layers in (self.g_layers, self.e_layers)
        )
        if not self.e_at:
            raise ValueError(f"e_layers {self.e_layers!r}: no block of the image tower's {depth} (from 0) is named")

    def begin_task(self, task: Task) -> None:
        width, embedding = self.backbone.width, self.backbone.class_features(task.labels).shape[1]
        if not self.tasks:
            self.general = self._fresh(len(self.g_at), 2, self.g_length, width)
        copied = self.copy and bool(self.tasks)
        self.own.requires_grad_(False)
        self.keys.requires_grad_(False)
        fresh = self._fresh(len(self.e_at), 2, self.e_length, width)
        self.own.append(nn.Parameter(self.own[-1].detach().clone()) if copied else fresh)
        self.keys.append(self._fresh(embedding))
        super().begin_task(task)

    def _fresh(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(*shape, device=self.device).uniform_(-self.init, self.init))

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [self.general, self.own[-1], self.keys[-1]] if self.tasks else []

    def query(self, images_BCHW: Tensor) -> Tensor:
        """(B, E) what the frozen model says of the images."""
        with torch.no_grad():
            return self.backbone.image(images_BCHW).float()

    def likeness(self, query_BE: Tensor) -> Tensor:
        """(B, T) the cosine of each query with the key of each task."""
        return select_prompts(query_BE, torch.stack(list(self.keys)), 1)[1]

    def prompted(self, images_BCHW: Tensor, own_L2TPD: Tensor, tasks_B: Tensor | None) -> Tensor:
        """(B, E) features with the G-prompt and, for each image, the E-prompt of its task (None: there is one)."""
        keys, values = prefix(self.scale * own_L2TPD, tasks_B)
        prefixes = {layer: (g[:1], g[1:]) for layer, g in zip(self.g_at, self.scale * self.general, strict=True)}
        prefixes |= dict(zip(self.e_at, zip(keys, values, strict=True), strict=True))
        return self.backbone.image(images_BCHW, prefix=prefixes.get)

    def loss(self, batch: Batch) -> Tensor:
        images_BCHW = self.views(batch["image"], self.training, batch["task"])
        image_BE = self.prompted(images_BCHW, self.own[-1].unsqueeze(2), None)
        cosine_B = F.cosine_similarity(self.query(images_BCHW), self.keys[-1], dim=-1)
        return self.cross_entropy(image_BE, batch) - self.pull * cosine_B.mean()

    def scores(self, batch: Batch, labels: Sequence[Label], task: Task | None, route: Tensor | None = None) -> Tensor:
        """With its own E-prompt for a learned task, else with that of the route or of the nearest key."""
        if not self.tasks:
            return super().scores(batch, labels, task)
        images_BCHW = self.views(batch["image"], self.training)
        if task is not None and task.index < len(self.tasks):
            image_BE = self.prompted(images_BCHW, self.own[task.index].unsqueeze(2), None)
        else:
            tasks_B = self.likeness(self.query(images_BCHW)).argmax(dim=1) if route is None else route
            image_BE = self.prompted(images_BCHW, torch.stack(list(self.own), dim=2), tasks_B)
        return self.backbone.logits(image_BE, self.backbone.class_features(labels))

    def task_scores(self, batch: Batch) -> Tensor:
        return self.likeness(self.query(self.views(batch["image"], self.training)))
