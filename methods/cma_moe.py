"""CMA-MoE: mixtures of cross-modality adapters that join both towers, with relations between samples preserved.

Evelyn Chee, Wynne Hsu and Mong Li Lee, ECAI 2025 (pp. 1083-1090), arXiv 2511.06723. Frozen encoders of two modalities
are joined by adapters with a mixture-of-experts structure; experts that a task relied on are frozen when it ends; the
loss has classification, distillation, alignment of the modalities and preservation of the relations between samples.

THIS IS OUR READING, NOT OFFICIAL: there is no public code and we had the abstract only. Where adapters sit, what an
expert and its router are, how influence is measured, what is aligned and preserved and by which weights are this
suite's choices, and its numbers say nothing about the paper's.

Block l of modality m (o: the other one), H_m its state after attention, X_m = H_m, expert e of E:
Z_me = X_m Wdn_me + bdn_me
C_me = softmax(Z_me Z_oe^T / sqrt r) Z_oe                          fusion only
O_me = s (ReLU(Z_me + C_me) Wup_me + bup_me)                       Wup = 0 at first
w    = softmax over the k largest of [c_image ; c_text] R + eps    one gate for both modalities; R = 0 at first
H_m <- H_m + MLP(LN(H_m)) + sum_e w_e O_me

z_m      unit feature of modality m, of the fused sample the mean; classes by cosine with their frozen texts
R^mn_ij  = softmax_j(<z_mi, z_nj> / tau_r), j != i when m = n      all pairs m <= n
L_pres   = mean over m <= n and i of KL(R_old^mn_i || R_new^mn_i)
L_dist   = T^2 mean_i KL(softmax(o_old / T) || softmax(o_new / T)) over the labels of earlier tasks
L_align  = mean over m != n and i of -1/|P_i| sum over p in P_i of log softmax_j(<z_mi, z_nj> / tau)[p], same class
L        = objective + d L_dist + a L_align + p L_pres            old: adapters and router as before the task

Kinds of task. Fusion: as above; if a sample's image or text is missing there is no C and its part of the gate is that
of a zero vector. Retrieval: no C, each tower gates by itself, or an embedding would depend on what it is paired with;
the objective aligns already, so L_align is left out, and L_pres holds the similarities of images with texts, so L_dist
is too. Classification: the image tower alone; L_align is with the texts of the classes, L_pres within images.

Choices. c is the class token, of a text its end token: the start token of a causal tower is the same for all texts.
Towers of unlike depth are paired from the last block backwards, the blocks before have no C. Image tokens attend to a
text up to its end. Noise eps ~ N(0, noise^2) while training, not in the old model: without it a zero router never tries
other experts than the first. One router for all tasks; ``routers=per_task`` has one each, chosen by the suite's router
if the identity is hidden, and then the old model answers with the router of the task before. Influence is the gate mass
over the training set when a task ends (un-augmented, without noise) and not during its last epoch, which a method is
not told; halves of an expert freeze each by its own tower's mass, which in fusion is the same. k experts of every block
always stay free: in a long stream those go on learning, unprotected but by L_dist and L_pres. Nothing is replayed. A
text encoder without blocks to hang adapters on (BERT) is refused.

s, X_m and a are those that the reading began with, for towers of width 768 (``--preset large`` has its E and its budget
too). In a small tower others learn more: s = 1 and not 0.1, X_m = LN(H_m) (``normed``: an image's larger activations
drown the text's in C), a = 0.1 and not 0.5 (an image and a note that complete each other have little to align): on
validation samples of phantom_notes6 (one run each) 30.5 given and 6.3 hidden, and with the defaults 26.6 and 6.3.

Odd axes: M modalities, E experts (of features: the embedding), L blocks.

    make bench METHOD=cma_moe STREAM=phantom_notes6     # last accuracy 26.4 given, 5.2 hidden
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.stream import Budget, Label, Task
from methods.base import INPUTS, Batch, IncrementalMethod, fused
from methods.parts import router as selectors
from methods.parts.backbones import Backbone, TextTower, Tower
from methods.parts.checks import above, at_least, one_of, within
from methods.parts.cross_modal import Gates, JoinedTowers, Mixing, cross_adapter, freeze
from methods.parts.relations import align, distil, preserve, relations
from methods.parts.tower_experts import TowerExperts

__all__ = ["CMAMoE", "align", "cross_adapter", "distil", "preserve", "relations"]

PRESETS = {
    "large": {  # our reading for a tower of width 768
        "epochs": 20,
        "batch_size": 64,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "warmup": 0.1,
        "method": {"experts": 22, "top_k": 2, "bottleneck": 64, "scale": 0.1, "normed": False, "align_weight": 0.5},
    }
}


class CMAMoE(IncrementalMethod):
    """Cross-modality adapter experts in both towers, alignment, relation preservation, distillation.

    Args:
        experts: E of every block.
        top_k: k, how many experts a sample gets.
        bottleneck: r, the width of an expert's hidden layer.
        scale: s of an expert's output.
        normed: experts and router read LN(H_m), as the MLP does; False: H_m itself.
        noise: deviation of the router's noise while training.
        freeze_top: how many experts of a block are frozen after a task, the most influential; 0: none.
        influence: mass of the gates, or counts of the samples that chose an expert.
        routers: shared by all tasks, or per_task.
        router: of routers=per_task, what picks the task when the identity is hidden: ridge, mahalanobis or ncm.
        cross_attention: False leaves C out: experts as those of MoE-Adapters.
        distil_weight: d. align_weight: a. preserve_weight: p.
        distil_temperature: T. align_temperature: tau. relation_temperature: tau_r.
    """

    kinds = ("classification", "fusion", "retrieval")
    version = 2  # 1: scale 1, normed and align_weight 0.1 by default
    ddp = False  # samples of a batch are compared with each other
    search = {"scale": (0.025, 0.4), "align_weight": (0.125, 2.0), "distil_weight": (0.25, 4.0)}

    def __init__(
        self,
        experts: int = 16,
        top_k: int = 2,
        bottleneck: int = 64,
        scale: float = 0.1,
        normed: bool = False,
        noise: float = 0.7,
        freeze_top: int = 2,
        influence: str = "mass",
        routers: str = "shared",
        router: str = "ridge",
        cross_attention: bool = True,
        distil_weight: float = 1.0,
        align_weight: float = 0.5,
        preserve_weight: float = 1.0,
        distil_temperature: float = 2.0,
        align_temperature: float = 0.07,
        relation_temperature: float = 0.1,
    ) -> None:
        super().__init__()
        at_least(1, experts=experts, bottleneck=bottleneck)
        within(1, experts, top_k=top_k)
        at_least(0, freeze_top=freeze_top, noise=noise)
        at_least(0, distil_weight=distil_weight, align_weight=align_weight, preserve_weight=preserve_weight)
        above(0, distil_temperature=distil_temperature, align_temperature=align_temperature)
        above(0, relation_temperature=relation_temperature)
        one_of(("mass", "counts"), influence=influence)
        one_of(("shared", "per_task"), routers=routers)
        one_of(selectors.KINDS, router=router)
        self.experts, self.top_k, self.bottleneck = experts, top_k, bottleneck
        self.scale, self.normed, self.noise = scale, normed, noise
        self.freeze_top, self.influence = freeze_top, influence
        self.routers, self.router = routers, router
        self.cross_attention = cross_attention
        self.distil_weight, self.align_weight, self.preserve_weight = distil_weight, align_weight, preserve_weight
        self.distil_temperature, self.align_temperature = distil_temperature, align_temperature
        self.relation_temperature = relation_temperature
        self.adapters = JoinedTowers()
        self._earlier: Tensor | None = None

    @property
    def shared(self) -> bool:
        """Whether one router serves all tasks."""
        return self.routers == "shared"

    # ---- growing and learning -------------------------------------------------------------------------------------

    def attach(self, backbone: Backbone, budget: Budget) -> None:
        if not isinstance(backbone.text, TextTower):
            raise ValueError(
                f"cma_moe adapts the blocks of both towers, and the text encoder of backbone {backbone.name!r} "
                f"({type(backbone.text).__name__}) is no CLIP text transformer: choose another backbone"
            )
        super().attach(backbone, budget)

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        for name in ("image",) if task.kind == "classification" else INPUTS:
            if name not in self.adapters:
                experts = TowerExperts(self._tower(name), self.experts, self.bottleneck, self.scale)
                self.adapters.grow(name, experts.to(self.device), self.memory)
            if not self.shared or len(self.tasks) == 1:
                self.adapters[name].add_router()

    def learning(self) -> AbstractContextManager[None]:
        known = {label.id: label for task in self.tasks[:-1] for label in task.labels}
        self._earlier = self.backbone.class_features([known[id] for id in sorted(known)]) if known else None
        return super().learning()

    def trainable_parameters(self) -> list[nn.Parameter]:
        return self.adapters.trainable()

    def new_optimizer(self) -> torch.optim.Optimizer:
        """The budget's; its weight decay leaves frozen experts alone."""
        optimizer = super().new_optimizer()
        if self.budget.weight_decay and self.freeze_top:
            self.adapters.put_back_after(optimizer, self.memory)
        return optimizer

    def loss(self, batch: Batch) -> Tensor:
        inputs, old = self._inputs(batch, self.training), None
        new = self._encode(inputs, len(self.tasks) - 1)
        if len(self.tasks) > 1 and (self.distil_weight or self.preserve_weight):
            with torch.no_grad():
                old = self._encode(inputs, len(self.tasks) - 2, teacher=True)
        with torch.autocast(self.device.type, enabled=False):
            loss = self.objective(batch, new.get("image"), new.get("text"))
            if self.align_weight and self.tasks[-1].kind != "retrieval":
                loss = loss + self.align_weight * self._alignment(batch, _unit(new))
            if old is not None and self.preserve_weight:
                related = [relations(_unit(features), self.relation_temperature) for features in (old, new)]
                loss = loss + self.preserve_weight * preserve(*related)
            if old is not None and self.distil_weight and self._earlier is not None:
                logits = [self.backbone.logits(_fused(features), self._earlier).float() for features in (new, old)]
                loss = loss + self.distil_weight * distil(logits[0], logits[1], self.distil_temperature)
        return loss

    def _alignment(self, batch: Batch, unit_MBE: Tensor) -> Tensor:
        """Of classification with the texts of the classes; nothing where one modality is missing."""
        if len(self.adapters) == 1:
            table = self._table()
            text_BE = table["text_CE"][table["column_L"][batch["label"]]]
            unit_MBE = torch.stack([unit_MBE[0], text_BE.float()])
        if len(unit_MBE) < 2:
            return unit_MBE.new_zeros(())
        return align(unit_MBE, batch["label"], self.align_temperature)

    @torch.no_grad()
    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        """Freeze the most influential experts, keep the adapters as the next task's teacher, teach the selector."""
        influence = {name: torch.zeros_like(self.memory[f"frozen_{name}"].float()) for name in self.adapters}
        for batch in loader:
            seen: dict[str, list[Tensor]] = {name: [] for name in self.adapters}
            self._encode(self._inputs(batch, False), len(self.tasks) - 1, seen=seen)
            for name, gates in seen.items():
                if gates:
                    gates_LBE = torch.stack(gates)
                    influence[name] += (gates_LBE if self.influence == "mass" else gates_LBE > 0).sum(dim=1)
        for name, influence_LE in influence.items():
            frozen_LE = self.memory[f"frozen_{name}"]
            self.memory[f"frozen_{name}"] = freeze(influence_LE, frozen_LE, self.freeze_top, keep=self.top_k)
        self.adapters.keep_teacher(self.memory)
        if not self.shared:
            selectors.learn_task(self.memory, task, loader, self._frozen_features, self.router)

    # ---- the towers under a router --------------------------------------------------------------------------------

    def _tower(self, name: str) -> Tower:
        return cast(Tower, self.backbone.image if name == "image" else self.backbone.text)

    def _inputs(self, batch: Batch, train: bool) -> dict[str, Tensor]:
        """What the batch holds, as the towers want it: normalised images, augmented in training, and tokens."""
        inputs = {"image": self.views(batch["image"], train, batch.get("task"))} if "image" in batch else {}
        return inputs | ({"text": batch["text"]} if "text" in batch else {})

    def _encode(
        self, inputs: Mapping[str, Tensor], index: int, teacher: bool = False, seen: Gates | None = None
    ) -> dict[str, Tensor]:
        """Features (B, E) of each input under the router of task ``index``; -1: the frozen model's.

        Image and text run in lock step in fusion and apart in retrieval.
        """
        towers = {name: (self._tower(name), given) for name, given in inputs.items()}
        if index < 0:
            return {name: tower(given) for name, (tower, given) in towers.items()}
        noise = self.noise if self.training and not teacher else 0.0
        mixing = Mixing(self.top_k, self.cross_attention, self.normed, noise)
        route = None if teacher else 0 if self.shared else index
        return self.adapters.encode(towers, route, self.memory, mixing, self.tasks[-1].kind == "fusion", seen)

    def _frozen_features(self, batch: Batch) -> Tensor:
        return _fused(self._encode(self._inputs(batch, False), -1))

    # ---- answering ------------------------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> Tensor:
        return self._embed(batch, len(self.tasks) - 1)

    def embed_image(self, batch: Batch) -> Tensor:
        return self.embed({"image": batch["image"]})

    def embed_text(self, batch: Batch) -> Tensor:
        return self.embed({"text": batch["text"]})

    def _embed(self, batch: Batch, index: int) -> Tensor:
        return _fused(self._encode(self._inputs(batch, self.training), index))

    def represent(self, batch: Batch, task: Task | None, route: Tensor | None = None) -> Tensor:
        """Of a shared router the same for every task; of one each, a task not learned is the frozen model's."""
        if self.shared or not self.tasks:
            return self.embed(batch)
        if task is not None:
            return self._embed(batch, task.index if task.index < len(self.tasks) else -1)
        route_B = cast(Tensor, self.route(batch)) if route is None else route
        return selectors.by_route(route_B, batch, lambda index, part: self._embed(part, index))

    def scores(self, batch: Batch, labels: Sequence[Label], task: Task | None, route: Tensor | None = None) -> Tensor:
        """With routers=per_task and the identity hidden, labels of other tasks stand below the routed one's."""
        route_B = self.route(batch) if task is None and route is None else route
        logits_BC = self.backbone.logits(self.represent(batch, task, route_B), self.backbone.class_features(labels))
        if task is not None or route_B is None:
            return logits_BC
        return selectors.own_labels_first(logits_BC, route_B, labels, self.tasks, self.backbone.logit_scale.exp())

    def task_scores(self, batch: Batch) -> Tensor | None:
        if self.shared or not self.tasks:
            return None
        frozen_BE = self._frozen_features(batch)
        return selectors.task_scores(self.memory, frozen_BE, len(self.tasks), selectors.name_of(batch))


def _fused(features: Mapping[str, Tensor]) -> Tensor:
    return fused(features.get("image"), features.get("text"))


def _unit(features: Mapping[str, Tensor]) -> Tensor:
    """(M, B, E) unit features in full precision."""
    return torch.stack([F.normalize(feature.float(), dim=-1) for feature in features.values()])
