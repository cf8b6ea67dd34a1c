"""Joint LoRA: all tasks' data shuffled together, one LoRA: the upper bound of the shared-LoRA methods.

Same layer and loss as sequential LoRA; every sample is scored over its own task's labels. The budget is the sum of all
tasks' steps. ``--sampling balanced`` draws every task equally often; the default is proportional to its size.
Capacity-matched with one LoRA per task: ``--method.rank`` times the number of tasks.

    make bench METHOD=joint_lora                        # last accuracy 63.2 given, 25.5 hidden
"""

from __future__ import annotations

from methods.sequential_lora import SequentialLora


class JointLora(SequentialLora):
    """One LoRA trained on all tasks at once."""

    joint = True
