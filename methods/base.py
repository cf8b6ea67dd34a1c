"""The contract of a method: what the harness calls, in the order it calls it.

For each task: ``begin_task`` (grow), ``prepare_task`` (look at the data), training steps on ``loss`` inside
``learning``, ``end_task`` (consolidate); then ``scores`` (of retrieval ``represent``) on every task's test set, its
identity given and hidden.

A batch is a dict of tensors: ``image`` uint8 (B, 3, H, W), ``text`` int64 tokens (B, L), ``label`` (global ids; of
retrieval: what has the same label belongs together), ``task`` and ``index`` int64 (B,). Classification has no ``text``.
A batch to be answered holds the inputs alone: of fusion perhaps only one of them, of retrieval never both.

On a vision-language model every task is asked and answered in words: ``prompt`` (B, L) and, while it learns, ``target``
(B, M) with ``target_mask``, and ``image`` may be what the frozen tower made of the pixels, floats (B, N, D). Then
``outputs`` are the logits of the target's tokens, and ``answer`` and ``likelihood`` are asked for.

Suffixes say the axes of a tensor, in the whole repository; a file explains only what differs or is not here:
B batch, C classes (of an image: colours), H, W pixels, N samples or the tokens of a block, L tokens of a text or
layers, D width of a layer (D_in, D_out), E embedding, M random features, K class means, T tasks, P parameters, r rank,
and a digit for an axis of that size.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.stream import Budget, Label, Share, Task
from methods.parts.augmentation import augment
from methods.parts.backbones import Backbone
from methods.parts.language import LanguageBackbone
from methods.parts.matching import belongs, contrastive_loss, fused
from methods.parts.memory import Memory
from methods.parts.peft_layers import dropouts, is_factor

Batch = dict[str, Tensor]
INPUTS: tuple[str, ...] = ("image", "text")  # what a CLIP's batch may hold of a sample
AUGMENTATIONS = ("none", "flip", "crop")
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
SCHEDULES = ("cosine", "constant")
CANDIDATES = ("own", "seen")


def with_route(answer: Callable[..., Any], route: Tensor | None) -> dict[str, Tensor]:
    """``route`` as an option of a method's ``scores``, ``represent`` or ``answer``, which may leave it out."""
    if route is None or "route" not in inspect.signature(answer).parameters:
        return {}
    return {"route": route}


def _may_leave_out_route(answer: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """For the type checker: a subclass that does not route need not take ``route``."""
    return answer


class WrongLoss(TypeError):
    """A loss is no scalar that can be trained on."""


class IncrementalMethod(L.LightningModule):
    """A learner of one (modality, task) after another on a frozen CLIP or vision-language model.

    A subclass takes keyword arguments with defaults and stores them; it grows in ``begin_task`` from the task and its
    arguments alone, so that a resumed run can regrow and then load. What it keeps between tasks is its parameters and
    ``memory["name"] = tensor``. It never sees test data, later classes, the stream or the runner.
    """

    requires_task_id = False  # no answer when the identity is hidden and no router helps
    keeps_images = False  # stores raw training images (replay)
    needs_length = False  # reads task.of
    joint = False  # sees all tasks at once
    task_free = False  # represent does not look at ``task``: asked once for both protocols
    abstains = False  # may have no answer, all of a batch NaN, but on a learned task whose identity is given
    version = 1  # raised when what the method computes changes at the same arguments: part of its runs' key
    ddp = True  # the loss is a mean over the batch plus a term of the parameters: processes may share a batch
    kinds: tuple[str, ...] = ("classification",)  # of tasks it learns; also "fusion", "retrieval" and "generation"
    search: dict[str, tuple[float, float]] = {}  # arguments to tune, at most three, each with its range (make tune)
    candidates = "own"  # labels over which a sample's loss runs: its own task's, or those "seen", of all tasks begun

    backbone: Backbone
    share: Share | None = None  # of the training batch at hand, where several processes learn together

    strict_loading = False  # a checkpoint leaves the frozen backbone out

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.tasks: list[Task] = []
        self.budget = Budget()
        self._tuned: set[str] = set()  # names of the backbone's parameters that have been trainable
        self._cache: dict[str, Any] | None = None

    # ---- growing and learning -------------------------------------------------------------------------------------

    def attach(self, backbone: Backbone, budget: Budget) -> None:
        """Called once, before the first task: the frozen backbone and the common budget."""
        self.backbone, self.budget = backbone, budget

    @property
    def language(self) -> LanguageBackbone:
        """The backbone of a stream that is answered in words."""
        return cast(LanguageBackbone, self.backbone)

    def begin_task(self, task: Task) -> None:
        """Grow for a task, from the task and the hyper-parameters alone. Extend, and call this first."""
        self._note_trainable()
        self.tasks.append(task)

    def prepare_task(self, task: Task, loader: Iterable[Batch]) -> None:
        """Look at the training set (un-augmented, fixed order, eval mode, no autocast) before training."""

    def learning(self) -> AbstractContextManager[None]:
        """The state of the weights while the current task is learned: around prepare, training and end."""
        return nullcontext()

    def loss(self, batch: Batch) -> Tensor:
        """Scalar: how far what the model says of the batch is from what is right, plus :meth:`penalty`."""
        if self.backbone.speaks:
            return self.graded(self.outputs(batch), batch) + self.penalty()
        image_BE = self.embed_image(batch) if "image" in batch else None
        text_BE = self.embed_text(batch) if "text" in batch else None
        return self.objective(batch, image_BE, text_BE) + self.penalty()

    def outputs(self, batch: Batch) -> Tensor:
        """What the model says while it learns: features (B, E); in words logits (B, M + 1, V) of targets."""
        return self.language.spoken(batch) if self.backbone.speaks else self.embed(batch)

    def graded(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The scalar loss of :meth:`outputs`, of tasks with labels or answers in words."""
        if self.backbone.speaks:
            return self.language.graded(outputs, batch)
        return self.cross_entropy(outputs, batch)

    def sample_losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """(B,) the same, of each sample."""
        if self.backbone.speaks:
            return self.language.losses(outputs, batch)
        return self.cross_entropies(outputs, batch)

    def penalty(self) -> Tensor:
        """A scalar regulariser on the parameters, outside autocast; none by default."""
        return torch.zeros((), device=self.device)

    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        """Consolidate: freeze, Fisher, subspaces, prototypes, exemplars (gradients are allowed)."""

    def kept_samples(self) -> list[str]:
        """Names in ``memory`` of samples as they are, and what belongs to them: a finished run does not keep these.

        With ``keeps_images`` all of memory; a method that needs some of it to answer names the rest.
        """
        return list(self.memory) if self.keeps_images else []

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What training may change; all else stays bit-equal. Empty for a method that never trains."""
        return []

    # ---- answering ------------------------------------------------------------------------------------------------

    @_may_leave_out_route
    def scores(self, batch: Batch, labels: Sequence[Label], task: Task | None, route: Tensor | None = None) -> Tensor:
        """(B, C) finite logits over ``labels``; ``task`` None means the identity is hidden.

        A method that may have no answer declares it (``abstains``) and gives NaN throughout there.

        Args:
            route: (B,) what :meth:`route` said of this batch, where that was asked already; with it a method that
                routes does not pass the batch through the frozen model again. Others may leave this argument out.
        """
        if self.backbone.speaks:
            return self.likelihood(batch, [label.name for label in labels], task, route)
        routed = with_route(self.represent, route)
        return self.backbone.logits(self.represent(batch, task, **routed), self.backbone.class_features(labels))

    @_may_leave_out_route
    def represent(self, batch: Batch, task: Task | None, route: Tensor | None = None) -> Tensor:
        """(B, E) features to answer with, by cosine; ``task`` None means the identity is hidden, ``route`` as above.

        Of retrieval a batch holds images or texts, never both: no feature can depend on what the item is paired with.
        """
        return self.answered(self.embed, batch, task, route)

    def answer(self, batch: Batch, task: Task | None, route: Tensor | None = None) -> Sequence[str]:
        """Of every sample what a vision-language model writes, greedily, until it ends or reaches its task's limit."""
        limit = max(known.max_new_tokens for known in ([task] if task else self.tasks))
        return self.language.texts(self.answered(lambda part: self.language.written(part, limit), batch, task, route))

    def likelihood(
        self, batch: Batch, candidates: Sequence[str], task: Task | None, route: Tensor | None = None
    ) -> Tensor:
        """(B, C) the mean log-likelihood of the tokens of every candidate, in words, as the answer."""
        return self.answered(lambda part: self.language.likelihood(part, candidates), batch, task, route)

    def acting(self, task: Task | None) -> AbstractContextManager[None]:
        """The weights with which samples of a task are answered; None: of whatever task."""
        return nullcontext()

    def answered(
        self, ask: Callable[[Batch], Tensor], batch: Batch, task: Task | None, route: Tensor | None = None
    ) -> Tensor:
        """(B, ...) what ``ask`` gives of a batch under the weights that answer it."""
        with self.acting(task):
            return ask(batch)

    def embed(self, batch: Batch) -> Tensor:
        """(B, E) features, as the weights are now, of what the batch holds: images, texts, or both together.

        Of a vision-language model they are of its frozen parts, and no task is answered with them.
        """
        if self.backbone.speaks:
            return self.language.glance(batch)
        image_BE = self.embed_image(batch) if "image" in batch else None
        return fused(image_BE, self.embed_text(batch) if "text" in batch else None)

    def embed_image(self, batch: Batch) -> Tensor:
        """(B, E) image features, augmented while training; they must not depend on the batch's texts."""
        return self.backbone.image(self.views(batch["image"], self.training, batch.get("task")))

    def embed_text(self, batch: Batch) -> Tensor:
        """(B, E) text features; they must not depend on the batch's images."""
        return self.backbone.text(batch["text"])

    def forward(self, batch: Batch) -> Tensor:
        return self.embed(batch)

    def watch(self, batch: Batch, observe: Callable[[int, Tensor], None]) -> None:
        """``observe(layer, x)`` the inputs (..., D) of the attention of every block that LoRA adapts, unaugmented."""
        if self.backbone.speaks:
            self.language.watch(batch, observe)
        else:
            self.backbone.image(self.views(batch["image"], train=False), observe=observe)

    def answers_from(self, task: Task, protocol: str) -> tuple[object, ...] | None:
        """What the answer on a task depends on (names and versions of experts): equal tuples, equal answers.

        ``protocol`` is ``given`` or ``hidden``. None: may change any time.
        """
        return None

    def partition(self) -> list[int] | None:
        """Of every task so far the number of the group whose weights it shares; None where a method forms no groups."""
        return None

    def task_scores(self, batch: Batch) -> Tensor | None:
        """(B, T) how well each of the T tasks so far fits each sample when the identity is hidden, in its own scale.

        Larger is better. None without a router.
        """
        return None

    def route(self, batch: Batch) -> Tensor | None:
        """(B,) the task a router picks for each sample when the identity is hidden; None without a router.

        Asked once of every such batch; what it says is given to :meth:`scores` and :meth:`represent` if they take it.
        """
        scores_BT = self.task_scores(batch)
        return None if scores_BT is None else scores_BT.argmax(dim=1)

    # ---- what methods share ---------------------------------------------------------------------------------------

    def views(self, image: Tensor, train: bool, task: Tensor | None = None) -> Tensor:
        """uint8 (B, 3, H, W) -> normalised floats, augmented with a draw per sample if ``train``.

        Args:
            task: (B,) the batch's ``task``, which says which images may be mirrored; without it they are mirrored only
                if those of every task so far may be.
        """
        if self.backbone.speaks or image.is_floating_point():  # the tower has its own views; a view is one already
            return image
        images_BCHW = image.to(self.backbone.mean.dtype) / 255
        if train and self.budget.augment != "none":
            may_mirror_B = self._may_mirror(image, task)
            images_BCHW = augment(images_BCHW, self.budget.augment == "crop", self.share, may_mirror_B)
        return (images_BCHW - self.backbone.mean) / self.backbone.std

    def _may_mirror(self, image: Tensor, task: Tensor | None) -> Tensor | None:
        """(B,) bool: whose images may be mirrored; None where all may."""
        sided = [known.index for known in self.tasks if not known.mirror]
        if not sided:
            return None
        if task is None:
            return torch.zeros(len(image), dtype=torch.bool, device=image.device)
        return ~torch.isin(task, torch.tensor(sided, device=task.device))

    def objective(self, batch: Batch, image_BE: Tensor | None, text_BE: Tensor | None) -> Tensor:
        """The loss of the kind of task, on features of the batch: cross-entropy, or contrast for retrieval.

        Retrieval has no labels: what a pair is told from are the others of its batch, whatever ``candidates`` says.
        """
        if self.tasks[-1].kind != "retrieval":
            return self.cross_entropy(fused(image_BE, text_BE), batch)
        assert image_BE is not None and text_BE is not None
        return contrastive_loss(image_BE, text_BE, belongs(batch), self.backbone.logit_scale.exp())

    def cross_entropy(self, image_BE: Tensor, batch: Batch) -> Tensor:
        """The mean of :meth:`cross_entropies`."""
        return self.cross_entropies(image_BE, batch).mean()

    def cross_entropies(self, image_BE: Tensor, batch: Batch) -> Tensor:
        """(B,) cross-entropy of each sample over its own task's labels only ("local CE"), or over all labels seen.

        One product with the texts of all labels seen; of ``candidates`` own the other tasks' columns are at -inf: a
        mixed batch (joint training, replay) costs no more than a batch of one task, and nothing waits for the device.
        """
        table = self._table()
        logits_BC = self.backbone.logits(image_BE, table["text_CE"]).float()
        if self.candidates == "own":
            logits_BC = logits_BC.masked_fill(~table["own_TC"][batch["task"]], -torch.inf)
        return F.cross_entropy(logits_BC, table["column_L"][batch["label"]], reduction="none")

    def _table(self) -> dict[str, Tensor]:
        """Of the labels seen: their texts, the column of each label id, and which columns are a task's own."""
        if (
            self._cache is None
            or self._cache["tasks"] != len(self.tasks)
            or self._cache["own_TC"].device != self.device
        ):
            labels = sorted({label for task in self.tasks for label in task.labels}, key=lambda label: label.id)
            ids = {label.id: column for column, label in enumerate(labels)}
            own_TC = torch.zeros(max(task.index for task in self.tasks) + 1, len(ids), dtype=torch.bool)
            column_L = torch.zeros(max(ids) + 1, dtype=torch.long)
            for task in self.tasks:
                own_TC[task.index, [ids[label.id] for label in task.labels]] = True
            column_L[list(ids)] = torch.tensor(list(ids.values()))
            text_CE = self.backbone.class_features(labels)
            self._cache = {"tasks": len(self.tasks), "text_CE": text_CE}
            self._cache |= {"own_TC": own_TC.to(self.device), "column_L": column_L.to(self.device)}
        return self._cache

    # ---- Lightning ------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        if not isinstance(loss, Tensor):
            what = "None" if loss is None else f"a {type(loss).__name__}"
            raise WrongLoss(f"gives {what}, expected one floating-point number, a scalar tensor")
        if loss.ndim or not loss.is_floating_point():
            what = f"{loss.dtype} of shape {tuple(loss.shape)}".removeprefix("torch.")
            raise WrongLoss(f"gives {what}, expected one floating-point number, a scalar tensor")
        return loss if self.share is None else self.share.weight * loss

    def new_optimizer(self) -> torch.optim.Optimizer:
        """The budget's optimiser on the parameters of the current task."""
        options: dict[str, Any] = {"lr": self.budget.lr, "weight_decay": self.budget.weight_decay}
        if self.budget.optimizer == "sgd":
            options["momentum"] = 0.9
        options["fused"] = self.device.type in ("cuda", "cpu")
        return OPTIMIZERS[self.budget.optimizer](self.trainable_parameters(), **options)

    def new_schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR | None:
        """The budget's learning rate over so many steps; None where it is constant."""
        if self.budget.schedule == "constant":
            return None
        warmup = max(1, round(self.budget.warmup * steps))
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, warmup, steps))

    def configure_optimizers(self) -> Any:
        """The budget's optimiser and schedule, new for every task."""
        optimizer = self.new_optimizer()
        if self.budget.schedule == "constant":  # then no trainer need be attached, which counts the steps
            return optimizer
        schedule = self.new_schedule(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train(self, mode: bool = True) -> IncrementalMethod:
        """Training mode for all but the frozen backbone, whose own dropout stays off (the experts in it obey)."""
        self.training = mode
        for name, part in self.named_children():
            if name != "backbone":  # is in eval mode from the beginning, and large
                part.train(mode)
        for dropout in dropouts(self.backbone) if hasattr(self, "backbone") else ():
            dropout.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Everything but what is still as it was in the frozen backbone: what a checkpoint holds.

        Of the backbone that is the experts in it, and every parameter that has ever been trainable.
        """
        self._note_trainable()
        state = super().state_dict(*args, **kwargs)
        return {k: v for k, v in state.items() if not k.startswith("backbone.") or is_factor(k) or k in self._tuned}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """What a state holds of the backbone has been trainable, though this object may never have trained it."""
        loaded = super().load_state_dict(state_dict, *args, **kwargs)
        self._tuned |= {name for name in state_dict if name.startswith("backbone.") and not is_factor(name)}
        return loaded

    def _note_trainable(self) -> None:
        """Before it changes, and before it is saved: what of the backbone the current task may train."""
        trainable = {id(parameter) for parameter in self.trainable_parameters()} if self.tasks else set()
        self._tuned |= {
            name for name, p in self.named_parameters() if id(p) in trainable and name.startswith("backbone.")
        }


def cosine(step: int, warmup: int, steps: int) -> float:
    """Factor of the learning rate: linear over ``warmup`` steps, then a half cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
