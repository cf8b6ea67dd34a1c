"""Nearest class mean on frozen features: never trains, keeps one mean per class.

Mensink et al., *Distance-Based Image Classification*, TPAMI 2013; as a strong baseline of continual learning:
Janson et al., *A Simple Baseline that Questions the Use of Pretrained-Models in Continual Learning*, 2022.

mu_c = normalised mean of the unit features z of class c;   score(c) = exp(logit_scale) * cos(z, mu_c).
A class without a mean yet (its task is to come) is scored by its text, as in zero-shot.

    make bench METHOD=ncm                               # last accuracy 67.3 given, 48.0 hidden
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from benchmark.stream import Label, Task
from methods.base import Batch, IncrementalMethod
from methods.parts.features import class_means


class NCM(IncrementalMethod):
    """Class means of frozen CLIP features."""

    @torch.no_grad()
    def end_task(self, task: Task, loader: Iterable[Batch]) -> None:
        features = [(self.embed_image(batch).float(), batch["label"]) for batch in loader]
        means_KE, ids_K = class_means(torch.cat([f for f, _ in features]), torch.cat([y for _, y in features]))
        for mean_E, label_id in zip(means_KE, ids_K.tolist(), strict=True):
            self._remember(f"mean_{label_id}", mean_E, task)

    def _remember(self, name: str, mean_E: Tensor, task: Task) -> None:
        """A class that comes again (domain streams) has the mean of its tasks' means."""
        seen = self.memory.get(name)
        self.memory[name] = mean_E if seen is None else seen + (mean_E - seen) / (task.index + 1)

    def scores(self, batch: Batch, labels: Sequence[Label], task: Task | None) -> Tensor:
        text_CE = self.backbone.class_features(labels)
        prototypes_CE = torch.stack(
            [self.memory[f"mean_{x.id}"] if f"mean_{x.id}" in self.memory else text_CE[i] for i, x in enumerate(labels)]
        )
        return self.backbone.logits(self.embed_image(batch), prototypes_CE.to(text_CE))

    def answers_from(self, task: Task, protocol: str) -> tuple[object, ...]:
        """How often each of the task's labels has been averaged; other candidates' means are final once learned."""
        return tuple(sum(label in learned.labels for learned in self.tasks) for label in task.labels)
