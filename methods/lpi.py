"""LPI: low-rank prompts in both towers, the two modalities tied to each other through a shared factor.

Weicai Yan et al., *Low-rank Prompt Interaction for Continual Vision-Language Retrieval*, ACM MM 2024, arXiv 2501.14369.

Every task gets prompts of its own for the image tower and for the text tower, composed of low-rank factors of which one
is common to both modalities; nothing is shared by tasks, so nothing is forgotten. Two losses beside the task's own make
the layers of the two modalities match and keep unlike tasks apart. With the identity hidden, each item is answered by
the task of its nearest centre, images and texts by themselves.

V[l,p,d] = 1/r sum_k A[l,k] Bv[p,k] Cv[d,k],  T[l,p,d] = 1/r sum_k A[l,k] Bt[p,k] Ct[d,k]      all factors N(0, init^2)
image      x = LN_pre([class token; V[0]; patches]),      x[1..P] += V[l] before block l, 0 < l < depth
text       [start; T[0] + positions; words],              x[1..P] += T[l] before block l, 0 < l < depth
L          = L_objective + L_align + L_task
L_align    = 0.1 * 1/2 [CE(G, diag) + CE(G^T, diag)],  G = (v / 0.01)(t / 0.01)^T,  v_l = mean_d V[l,:,d],  t_l likewise
L_task     = 0.1 * 1/2 [h({vec V_j}) + h({vec T_j})]   over the tasks j so far, the earlier ones constant
h(X)       = mean_j [mean over related k of l_jk + mean over unrelated k of l_jk],  l_jk = BCE(s(cos(X_j, X_k) / 0.001))
task       = argmin_t min_k |z - m_tk|_1,  m_tk: 5 centres (k-means) of the task's unit features z without prompts
interaction (``interaction=prompts``, on the prompts of the layers 0 < l < depth, both from the old values)
  T[l] <- LN_t(0.9 T[l] + 0.1 (V[l] W_vt[:-1] + W_vt[-1])),  W_vt[l] = 1/r sum_k a[l,k] b[:,k] c[:,k]^T,  V[l] likewise

Objective: of retrieval CLIP's contrast, of fusion and classification the cross-entropy over the task's own labels. In
fusion the class prompts are read by the frozen text tower; in classification they are the texts and carry T.

Deviations. The released retrieval code has no interaction, and a guard that is never true keeps all prompts but the
first layer's out of the towers: ``prompt_depth=1`` is that, 3 what its configuration asks for. Only the current task's
factors are optimised. s in h is applied twice in the release (l is bounded, its optimum 1.006); ``task_loss=plain`` is
BCE(cos / 0.1). A task without unrelated ones has no second mean (the release: NaN). Which tasks are related: cosine of
the frozen text features of their class prompts, of retrieval of name and modality, above the 75 % quantile of the
pairs so far; or ``task_similarity`` above ``threshold`` (the release: embeddings of a language model, above 0.4).
Captions get no full stop of their own; those too long with the prompts lose their last words, never the end token. A
fused item goes to the task of the smallest sum of its image's and its text's distance. ``prompts`` is 8, for 16: in a
context of 48 tokens 16 cut captions off. The release trains the factors with SGD at 0.05; at the common rate Adam
hardly moves them from N(0, 0.5^2) within the common number of steps, and ``gain=10`` moves them at ten times the rate:
on validation items of phantom_retrieval6 (one run each) a mean recall of 27.2 given and 12.6 hidden, and 24.2 and 11.8
with the default. The released alignment is not normalised and explodes at rates much higher still;
``alignment=normalised`` is bounded.

Odd axes: L layers with prompts, P prompts, K centres.

    make bench METHOD=lpi STREAM=phantom_retrieval6     # last mean recall 17.7 given, 8.1 hidden
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.stream import Budget, Label, Task
from methods.base import Batch, IncrementalMethod, fused
from methods.parts import router as routers
from methods.parts.backbones import Backbone
from methods.parts.checks import above, at_least, one_of, within
from methods.parts.class_texts import ClassPrompts, ClassTexts
from methods.parts.clustering import k_means
from methods.parts.low_rank_prompts import (
    PromptFactors,
    PromptInteraction,
    alignment_loss,
    compose_prompts,
    composed,
    interact,
    mixed_behind_the_first,
    task_contrast,
)
from methods.parts.prompting import PromptedTowers

__all__ = ["LPI", "alignment_loss", "compose_prompts", "interact", "nearest_task", "task_contrast"]

PRESETS = {
    "official": {
        "epochs": 10,
        "batch_size": 64,
        "optimizer": "sgd",
        "lr": 0.05,
        "weight_decay": 2e-4,
        "schedule": "cosine",
        "warmup": 0.0,
        "augment": "crop",
        "method": {"prompts": 16, "rank": 4, "layers": 9, "prompt_depth": 1, "gain": 1.0},
    }
}
TEMPERATURES = {"released": 0.001, "plain": 0.1}  # of L_task


def nearest_task(features: Tensor, centres: Tensor, *others: tuple[Tensor, Tensor]) -> Tensor:
    """(B,) the task whose nearest centre is nearest in L1; of several modalities by the sum of their distances.

    Args:
        features: (B, E). centres: (T, K, E). others: the same of further modalities of the items.
    """
    return _distances((features, centres), *others).argmin(dim=1)


def _distances(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """(B, T) to each task's nearest centre, of :func:`nearest_task`."""
    each_BT = [torch.cdist(z_BE, m.flatten(0, 1), p=1).unflatten(1, m.shape[:2]).amin(dim=2) for z_BE, m in pairs]
    return torch.stack(each_BT).sum(dim=0)


class LPI(IncrementalMethod):
    """Low-rank prompts of each task in both towers; an item without a known task goes to the nearest centre's.

    Args:
        prompts: P, tokens of a prompt in either tower.
        rank: r of the factors, of the interaction's too.
        layers: rows of A, the layers whose prompts the auxiliary losses see.
        prompt_depth: in how many layers the prompts act; 1 as released.
        interaction: none (as released), or prompts: the two modalities' prompts mixed before they act.
        init: standard deviation of the factors at first.
        gain: the factors are this times the parameters, so that Adam moves them at this times the budget's rate.
        alignment: released, or normalised (as the method's other code, for grounding, has it).
        align_weight: of the alignment. task_weight: of the contrast of tasks.
        task_loss: form of that contrast, released or plain.
        related_quantile: two tasks are related if more alike than this share of all pairs so far.
        task_similarity: a matrix over the tasks, by index, to use instead; related is what exceeds ``threshold``.
        centres: K of each task and modality.
    """

    kinds = ("classification", "fusion", "retrieval")
    version = 2  # 1: a gain of 10 by default
    search = {"gain": (0.25, 4.0), "align_weight": (0.025, 0.4), "task_weight": (0.025, 0.4)}

    def __init__(
        self,
        prompts: int = 8,
        rank: int = 4,
        layers: int = 9,
        prompt_depth: int = 3,
        interaction: str = "none",
        init: float = 0.5,
        gain: float = 1.0,
        alignment: str = "released",
        align_weight: float = 0.1,
        task_weight: float = 0.1,
        task_loss: str = "released",
        related_quantile: float = 0.75,
        task_similarity: list[list[float]] | None = None,
        threshold: float = 0.4,
        centres: int = 5,
    ) -> None:
        super().__init__()
        at_least(1, prompts=prompts, rank=rank, centres=centres)
        within(1, layers, prompt_depth=prompt_depth)
        within(0, 1, related_quantile=related_quantile)
        at_least(0, align_weight=align_weight, task_weight=task_weight, init=init)
        above(0, gain=gain)
        one_of(("none", "prompts"), interaction=interaction)
        one_of(("released", "normalised"), alignment=alignment)
        one_of(TEMPERATURES, task_loss=task_loss)
        if task_similarity is not None and any(len(row) != len(task_similarity) for row in task_similarity):
            raise ValueError("task_similarity: need a square matrix, a list of its rows")
        self.prompts, self.rank, self.layers, self.prompt_depth = prompts, rank, layers, prompt_depth
        self.interaction, self.init, self.alignment, self.task_loss = interaction, init, alignment, task_loss
        self.gain, self.align_weight, self.task_weight = gain, align_weight, task_weight
        self.related_quantile, self.task_similarity, self.threshold = related_quantile, task_similarity, threshold
        self.centres = centres
        self.factors, self.interactions = nn.ModuleList(), nn.ModuleList()
        self._related: Tensor | None = None

    def attach(self, backbone: Backbone, budget: Budget) -> None:
        super().attach(backbone, budget)
        self.towers = PromptedTowers(backbone, self.prompts, self.prompt_depth)
        self.texts = ClassTexts(backbone, self.towers.with_room)

    # ---- growing and learning -------------------------------------------------------------------------------------

    def begin_task(self, task: Task) -> None:
        if self.task_similarity is not None and task.index >= len(self.task_similarity):
            raise ValueError(f"task_similarity has {len(self.task_similarity)} rows, none for task {task.index}")
        super().begin_task(task)
        self._related = None
        self.factors.requires_grad_(False)
        self.interactions.requires_grad_(False)
        factors = PromptFactors(self.layers, self.prompts, self.rank, *self.towers.widths, self.init / self.gain)
        self.factors.append(factors.to(self.device))
        if self.interaction == "prompts":
            interaction = PromptInteraction(self.prompt_depth, self.rank, *self.towers.widths)
            self.interactions.append(interaction.to(self.device))

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [p for modules in (self.factors, self.interactions) for p in (modules[-1:]).parameters()]

    def objective(self, batch: Batch, image_BE: Tensor | None, text_BE: Tensor | None) -> Tensor:
        """In classification the texts are the class prompts, read anew with the task's own prompts."""
        if self.tasks[-1].kind != "classification":
            return super().objective(batch, image_BE, text_BE)
        assert image_BE is not None
        prompts = self.texts.to_learn(self.tasks[-1].labels)
        logits_BC = self.backbone.logits(image_BE, self._read(prompts, len(self.tasks) - 1)).float()
        return F.cross_entropy(logits_BC, torch.searchsorted(prompts.ids_C, batch["label"]))

    def penalty(self) -> Tensor:
        """L_align + L_task on the prompts as composed, before any interaction."""
        with torch.autocast(self.device.type, enabled=False):
            now = composed(self.factors[-1:], self.gain)
            loss = alignment_loss(now[0][0], now[1][0], self.alignment, self.align_weight)
            if len(self.tasks) == 1 or not self.task_weight:
                return loss
            if self._related is None or self._related.device != self.device:
                self._related = self.related()
            with torch.no_grad():
                earlier = composed(self.factors[:-1], self.gain)
            for before_TLPD, now_1LPD in zip(earlier, now, strict=True):
                X_TLPD = torch.cat([before_TLPD, now_1LPD])
                h = task_contrast(X_TLPD, self._related, TEMPERATURES[self.task_loss], self.task_loss)
                loss = loss + self.task_weight * h / 2
            return loss

    def related(self) -> Tensor:
        """(T, T) bool: which of the tasks so far are related."""
        T, itself_TT = len(self.tasks), torch.eye(len(self.tasks), dtype=torch.bool, device=self.device)
        if self.task_similarity is not None:
            similarity_TT = torch.tensor(self.task_similarity, device=self.device)[:T, :T]
            return (similarity_TT > self.threshold) | itself_TT
        unit_TE = self.backbone.class_features([described(task) for task in self.tasks])
        similarity_TT = F.cosine_similarity(unit_TE[:, None], unit_TE, dim=-1)
        pairs = similarity_TT[*torch.triu_indices(T, T, 1, device=self.device)]
        return (similarity_TT > pairs.quantile(self.related_quantile)) | itself_TT

    @torch.no_grad()
    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        """The centres of the task's features, of its images and of its texts."""
        found: dict[str, list[Tensor]] = {}
        for batch in loader:
            for name, features_BE in self._unprompted(batch).items():
                found.setdefault(name, []).append(features_BE)
        for name, features in found.items():
            self.memory.append(f"centres_{name}", k_means(torch.cat(features), self.centres)[None])

    # ---- the towers with the prompts of a task, -1 for none ---------------------------------------------------------

    def _prompts(self, index: int) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """V and T of a task as they act, (L, P, D) each, in full precision."""
        if index < 0:
            return None, None
        with torch.autocast(self.device.type, enabled=False):
            visual, textual = (x[0] for x in composed(self.factors[index : index + 1], self.gain))
            if self.interaction == "none" or self.prompt_depth == 1:
                return visual, textual
            depth, interaction = self.prompt_depth, self.interactions[index]
            return mixed_behind_the_first(visual[:depth], textual[:depth], interaction)

    def _embed(self, batch: Batch, index: int) -> Tensor:
        visual_LPD, textual_LPD = self._prompts(index)
        image_BE = text_BE = None
        if "image" in batch:
            image_BE = self.towers.image(self.views(batch["image"], self.training, batch.get("task")), visual_LPD)
        if "text" in batch:
            tokens_BN = batch["text"] if index < 0 else self.towers.with_room(batch["text"])
            text_BE = self.towers.text(tokens_BN, textual_LPD)
        return fused(image_BE, text_BE)

    def embed_image(self, batch: Batch) -> Tensor:
        return self._embed({"image": batch["image"]}, len(self.tasks) - 1)

    def embed_text(self, batch: Batch) -> Tensor:
        return self._embed({"text": batch["text"]}, len(self.tasks) - 1)

    def _unprompted(self, batch: Batch) -> dict[str, Tensor]:
        """Unit features of what a batch holds, without prompts; texts with the bare dummies."""
        features = {}
        with torch.autocast(self.device.type, enabled=False):
            if "image" in batch:
                features["image"] = self.towers.image(self.views(batch["image"], False))
            if "text" in batch:
                features["text"] = self.towers.text(self.towers.with_room(batch["text"]))
            return {name: F.normalize(x.float(), dim=-1) for name, x in features.items()}

    def _read(self, prompts: ClassPrompts, index: int) -> Tensor:
        """(C, E) unit features of classes."""
        return prompts.averaged(self.towers.text(prompts.tokens_QN, self._prompts(index)[1]))

    def _class_features(self, labels: Sequence[Label], index: int) -> Tensor:
        if index < 0 or self.tasks[index].kind != "classification":
            return self.backbone.class_features(labels)
        parameters = [*self.factors.parameters(), *self.interactions.parameters()]
        return self.texts.features(labels, index, parameters, lambda prompts: self._read(prompts, index))

    # ---- answering ------------------------------------------------------------------------------------------------

    def _index(self, task: Task | None) -> int:
        return task.index if task is not None and task.index < len(self.tasks) else -1

    def represent(self, batch: Batch, task: Task | None, route: Tensor | None = None) -> Tensor:
        """The prompts of the task, or item by item of the nearest one's; none for a task not learned yet."""
        route_B = self.route(batch) if task is None and route is None else route
        if task is not None or route_B is None:
            return self._embed(batch, self._index(task))
        return routers.by_route(route_B, batch, lambda index, part: self._embed(part, index))

    def scores(self, batch: Batch, labels: Sequence[Label], task: Task | None, route: Tensor | None = None) -> Tensor:
        """With the identity hidden: the nearest task's answer, all other tasks' labels below its own."""

        def answer(index: int, part: Batch) -> Tensor:
            return self.backbone.logits(self._embed(part, index), self._class_features(labels, index))

        route_B = self.route(batch) if task is None and route is None else route
        if task is not None or route_B is None:
            return answer(self._index(task), batch)
        logits_BC = routers.by_route(route_B, batch, answer)
        return routers.own_labels_first(logits_BC, route_B, labels, self.tasks, self.backbone.logit_scale.exp())

    def task_scores(self, batch: Batch) -> Tensor | None:
        """(B, T) minus the distance to each task's nearest centre; None before any is learned."""
        if not any(name.startswith("centres_") for name in self.memory):
            return None
        found = [(z_BE, self.memory[f"centres_{name}"]) for name, z_BE in self._unprompted(batch).items()]
        return -_distances(*found)

    def answers_from(self, task: Task, protocol: str) -> tuple[object, ...] | None:
        """The task's own prompts, final once it has ended; the frozen model before it is learned."""
        return (task.name, self._index(task)) if protocol == "given" else None


def described(task: Task) -> Label:
    """What a task is about, as prompts for the frozen text tower: its classes, or its name and modality."""
    prompts = tuple(prompt for label in task.labels for prompt in label.prompts)
    return Label(-1, task.name, prompts or (f"{task.name.replace('_', ' ')}, {task.modality.replace('_', ' ')}",))
