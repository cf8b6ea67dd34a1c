"""Stacked LoRA: a new LoRA per task on top of the frozen sum of all earlier ones.

The ablation that the MSLoRA-CR code provides (no contrastive and no orthogonality term), and the most plausible reading
of the paper's "unconstrained incremental learning".

y = W x + b + s sum_{i<=t} B_i A_i x;  only (A_t, B_t) are trained; task t is answered with the experts 1..t, so its
answers never change after its training. A task not learned yet is answered with all experts so far.

    make bench METHOD=stacked_lora                      # last accuracy 63.8 given, 43.6 hidden
"""

from __future__ import annotations

from benchmark.stream import Task
from methods.independent_lora import IndependentLora
from methods.parts.experts import Blend


class StackedLora(IndependentLora):
    """The unweighted sum of the experts of tasks 1..t."""

    def ingredients(self, task: Task) -> Blend:
        return dict.fromkeys(self.experts.names[: task.index + 1], 1.0)
