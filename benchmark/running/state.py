"""What a run that goes on needs of an earlier process: the method after its last finished phase, and predictions.

All of it is in the run's ``state``; what stays is put beside the record when the run is whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmark.data.batches import TaskData
from benchmark.kinds import of
from benchmark.record.folder import PREDICTIONS, RunFolder
from benchmark.running.evaluate import Cells
from benchmark.stream import Stream
from methods.base import IncrementalMethod

BEGUN, ENDED = "begun", "ended"  # phases of a task: prepared (epochs are in the fit's checkpoint), consolidated


@dataclass(frozen=True)
class Phase:
    """The last finished phase: ``seconds`` of the task's preparation, and the method's state then."""

    task: int
    phase: str
    seconds: float
    method: dict[str, Tensor]

    @property
    def finished(self) -> int:
        """Tasks that have ended."""
        return self.task + (self.phase == ENDED)


def save_phase(state: Path, phase: Phase) -> None:
    temporary = state / "method.tmp"
    torch.save(vars(phase), temporary)
    temporary.replace(state / "method.pt")


def load_phase(state: Path, device: torch.device) -> Phase | None:
    path = state / "method.pt"
    return Phase(**torch.load(path, map_location=device, weights_only=True)) if path.is_file() else None


def restore(method: IncrementalMethod, state: dict[str, Tensor]) -> None:
    """Load a state into the method that has grown again."""
    missing, unexpected = method.load_state_dict(state, strict=False)
    own = method.state_dict()
    lost = [name for name in missing if name in own] + list(unexpected)
    if lost:
        raise RuntimeError(f"the saved state does not fit the method: {', '.join(lost[:5])}")


def checkpoint(state: Path, task: int) -> Path:
    """Where the fit of a task has its state after each epoch."""
    return state / f"fit-{task}.ckpt"


def write_predictions(state: Path, stage: int, cells: Cells, stream: Stream, data: list[TaskData], split: str) -> None:
    """Per stage and task ``<stage>/<task>/<protocol>_<name>``; once per task its labels, of retrieval its pairs."""
    arrays: dict[str, Any] = {}
    for task in stream if stage == 0 else ():
        samples = data[task.index].splits[split]
        arrays[f"labels/{task.name}"] = samples.labels.numpy()
        if samples.pairs is not None:
            arrays[f"pairs/{task.name}"] = samples.pairs.numpy()
    for protocol, row in cells.items():
        for task, cell in zip(stream, row, strict=True):
            for name in of(task.kind).kept[protocol] if cell else ():
                assert cell is not None
                arrays[f"{stage}/{task.name}/{protocol}_{name}"] = cell.arrays[name]
    _save(state / f"predictions-{stage}.npz", arrays)


def keep(folder: RunFolder, method: IncrementalMethod, stages: int, images: bool) -> None:
    """Put beside the record what stays: predictions in one file, the method, its experts in PEFT's format.

    Samples that the method has kept, images of patients perhaps, stay only with ``images``; it answers without them.
    """
    arrays: dict[str, Any] = {}
    for stage in range(stages):
        with np.load(folder.state / f"predictions-{stage}.npz", allow_pickle=False) as part:
            arrays.update(part)
    _save(folder.making / PREDICTIONS, arrays)
    private = () if images else [f"memory.{name}" for name in method.kept_samples()]
    state = {name: tensor for name, tensor in method.state_dict().items() if name not in private}
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    temporary = folder.making / "method.tmp"
    save_file(own, temporary)
    temporary.replace(folder.making / "method.safetensors")
    experts: Any = getattr(method, "experts", None)
    for name in getattr(experts, "names", ()):
        experts.save(name, folder.making / "experts" / name)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    temporary.replace(path)
