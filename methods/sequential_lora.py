"""Sequential LoRA: one LoRA for the whole stream, trained on one task after another ("SeqLoRA").

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022; as the lower bound of continual learning in
Liang and Li, *InfLoRA*, CVPR 2024.

y = W x + b + s B A x,  s = lora_alpha / r;  A ~ U(-1/sqrt(d), 1/sqrt(d)), B = 0 once, before the first task.
L = cross-entropy over the current task's labels; optimiser and schedule new for every task. No task id needed.

    make bench METHOD=sequential_lora                   # last accuracy 48.2 given, 19.0 hidden
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import nn

from benchmark.stream import Budget, Task
from methods.base import IncrementalMethod
from methods.parts.backbones import Backbone
from methods.parts.experts import Experts

PRESETS = {
    "inflora": {
        "epochs": 50,
        "batch_size": 128,
        "optimizer": "adam",
        "lr": 5e-4,
        "method": {"rank": 10, "lora_alpha": 10.0, "placement": "k,v"},
    }
}


class SequentialLora(IncrementalMethod):
    """One LoRA that keeps training, on the image tower; on both towers where text is an input; of a vision-language
    model on its language model alone, where fc1 is gate and up, fc2 is down.

    Args:
        rank: r of every adapted layer.
        lora_alpha: the update is scaled by lora_alpha / rank.
        placement: which linear layers of a block, of q, k, v, out, fc1, fc2.
        dropout: of the LoRA's input while training.
    """

    kinds: tuple[str, ...] = ("classification", "fusion", "retrieval", "generation")
    task_free = True

    def __init__(
        self, rank: int = 8, lora_alpha: float = 8.0, placement: str = "q,k,v,out,fc1,fc2", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.rank, self.lora_alpha, self.placement, self.dropout = rank, lora_alpha, placement, dropout

    def attach(self, backbone: Backbone, budget: Budget) -> None:
        super().attach(backbone, budget)
        self.experts = self.pool(self.rank)

    def pool(self, rank: int) -> Experts:
        """A pool of LoRAs of this rank, without any yet."""
        return Experts(self.backbone.adapted, rank, self.lora_alpha, self.placement.split(","), self.dropout)

    def expert(self, task: Task) -> str:
        """The name of the expert that a task trains: one for all of them."""
        return "shared"

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        if self.expert(task) not in self.experts.names:
            self.experts.add(self.expert(task))

    def learning(self) -> AbstractContextManager[None]:
        return self.experts.blend({}, live=self.expert(self.tasks[-1]))

    def trainable_parameters(self) -> list[nn.Parameter]:
        return self.experts.parameters(self.expert(self.tasks[-1])) if self.tasks else []

    def acting(self, task: Task | None) -> AbstractContextManager[None]:
        return self.experts.blend({"shared": 1.0} if self.tasks else {})
