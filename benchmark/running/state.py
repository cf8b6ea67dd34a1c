"""What a run that goes on needs of an earlier process: the method after its last finished phase, and predictions.

All of it is in the run's ``state``, and is verified before it is used; what stays is put beside the record when the run
is whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from benchmark.data.batches import TaskData
from benchmark.disk import Data, remove, write_bytes
from benchmark.kinds import of
from benchmark.record.answers import ANSWERS, AnswerLine, zipped
from benchmark.record.folder import EXPERTS, LEFT, METHOD, PREDICTIONS, RunFolder
from benchmark.record.schema import Record, blank
from benchmark.record.state_files import MANIFEST, StateFiles
from benchmark.record.stored import RECORD
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


def state_files(folder: RunFolder, record: Record) -> StateFiles:
    """What is there of the state of the run that is being made in this folder."""
    return StateFiles(folder.state, (*record.place, record.provenance.fingerprint))


def last_good(files: StateFiles, record: Record, joint: bool, device: torch.device) -> tuple[Phase | None, int]:
    """The last phase from which the run can go on, None for its start, and how many rows of its record stay.

    A row stays where those before it do and its predictions are there.
    """
    rows = 0
    while rows < record.stages and predictions(rows) in files.names:
        rows += 1
    for name in reversed(_phases(files)):
        if _known(name, rows, record, joint):
            return Phase(**torch.load(BytesIO(files.get(name)), map_location=device, weights_only=True)), rows
    return None, rows


def take_up(files: StateFiles, phase: Phase | None, rows: int) -> None:
    """Leave of the state only what the run goes on from."""
    now = (-1, False) if phase is None else (phase.task, phase.phase == ENDED)
    kept = [name for name in _phases(files) if _moment(name) <= now]
    kept += [predictions(row) for row in range(rows)]
    if phase is not None and phase.phase == BEGUN:
        kept += FitCheckpoints(files, phase.task).names
    files.keep(kept)


def damages(files: StateFiles, folder: RunFolder, record: Record, joint: bool) -> Iterator[str]:
    """A line for each file of the state that cannot be used as it is."""
    wrong = dict(files.damaged)
    if MANIFEST not in wrong:
        told = {*files.names, *wrong}
        lost = [predictions(row) for row in range(record.stages) if predictions(row) not in told]
        if lost and not told:
            wrong[MANIFEST] = "not there"
        else:
            wrong |= dict.fromkeys(lost, f"not in {MANIFEST}")
        if not all(_known(name, record.stages, record, joint) for name in files.names):
            yield f"{folder.making / RECORD}: of an earlier moment than its {folder.state.name}"
    yield from (f"{folder.state / name}: {reason}" for name, reason in wrong.items())


def _known(name: str, rows: int, record: Record, joint: bool) -> bool:
    """Whether a record of so many rows is of the moment when this file was written, or later.

    A method that has begun a task cannot answer as it did before, and what a task took is in the record when it ends. A
    row's predictions are written before it is.
    """
    kind, number = name.split(".")[0].split("-")[:2]
    task = int(number)
    if kind == "predictions":
        return task <= rows
    known = len(record.cost.train_seconds)
    return (0 if joint else task) < rows and learned(task, name.endswith(f"{ENDED}.pt"), joint) <= known


def learned(task: int, ended: bool, joint: bool) -> int:
    """How many tasks are learned when this one has begun, or ended; of a run that learns all at once none, or all."""
    if ended:
        return task + 1
    return 0 if joint else task


def cut_rows(record: Record, rows: int) -> Record:
    """The record as it was when it had so many rows."""
    if rows >= record.stages:
        return record
    none = blank(len(record.stream.tasks))
    scores = {
        metric: {protocol: [*matrix[:rows], *none[rows:]] for protocol, matrix in protocols.items()}
        for metric, protocols in record.scores.items()
    }
    router = [*(record.router_accuracy or none)[:rows], *none[rows:]]
    cost = replace(record.cost, eval_seconds=record.cost.eval_seconds[:rows])
    return replace(
        record, status="running", stages=rows, scores=scores, router_accuracy=router, cost=cost, summary=None,
        router_confusion=None, hits=None, groups=None, class_recall=None, class_confusion=None, subgroups=None,
        missing=None, samples=None, files=None,
    )  # fmt: skip


def save_phase(files: StateFiles, phase: Phase) -> None:
    """The one before stays, in case this one is damaged."""
    past = _phases(files)[:-1]
    if phase.phase == ENDED:
        past += FitCheckpoints(files, phase.task).names
    files.put(f"method-{phase.task}-{phase.phase}.pt", _bytes(vars(phase)), past)


def _phases(files: StateFiles) -> list[str]:
    """Names of the phases that are whole, the oldest first."""
    return sorted((name for name in files.names if name.startswith("method-")), key=_moment)


def _moment(name: str) -> tuple[int, bool]:
    """When a phase was: after so many tasks, and whether the next had ended too."""
    _, task, phase = name.removesuffix(".pt").split("-")
    return int(task), phase == ENDED


class FitCheckpoints(TorchCheckpointIO):
    """The states of a task's fit after its last two epochs, as Lightning writes and reads them."""

    def __init__(self, files: StateFiles, task: int) -> None:
        self.files, self.task = files, task

    @property
    def names(self) -> list[str]:
        """Those that are whole, the oldest first."""
        found = (re.fullmatch(rf"fit-{self.task}-(\d+)\.ckpt", name) for name in self.files.names)
        return [name[0] for name in sorted((one for one in found if one), key=lambda one: int(one[1]))]

    @property
    def last(self) -> Path | None:
        return self.files.folder / self.names[-1] if self.names else None

    def after(self, epoch: int) -> Path:
        """Where the state after an epoch belongs."""
        return self.files.folder / f"fit-{self.task}-{epoch}.ckpt"

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.files.put(Path(path).name, _bytes(checkpoint), self.names[:-1])

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(BytesIO(self.files.get(Path(path).name)), map_location="cpu", weights_only=True)


def _bytes(value: object) -> memoryview:
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getbuffer()


def restore(method: IncrementalMethod, state: dict[str, Tensor]) -> None:
    """Load a state into the method that has grown again."""
    missing, unexpected = method.load_state_dict(state, strict=False)
    own = method.state_dict()
    lost = [name for name in missing if name in own] + list(unexpected)
    if lost:
        raise RuntimeError(f"the saved state does not fit the method: {', '.join(lost[:5])}")


def predictions(stage: int) -> str:
    """The name of the file with a stage's predictions."""
    return f"predictions-{stage}.npz"


def write_predictions(
    files: StateFiles, stage: int, cells: Cells, stream: Stream, data: list[TaskData], split: str
) -> None:
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
    files.put(predictions(stage), _archived(arrays))


def all_predictions(files: StateFiles, stages: int) -> dict[str, NDArray[Any]]:
    """The arrays of :func:`write_predictions` of every stage."""
    arrays: dict[str, NDArray[Any]] = {}
    for stage in range(stages):
        with np.load(BytesIO(files.get(predictions(stage))), allow_pickle=False) as part:
            arrays.update(part)
    return arrays


def keep(
    folder: RunFolder, method: IncrementalMethod, arrays: Mapping[str, NDArray[Any]], answers: Sequence[AnswerLine],
    images: bool,
) -> dict[str, str]:  # fmt: skip
    """Put beside the record what stays: predictions and answers in words in a file each, the method, its experts in
    PEFT's format.

    Samples that the method has kept, images of patients perhaps, stay only with ``images``; it answers without them.

    Returns:
        Name -> sha256 of every file.
    """
    private = () if images else [f"memory.{name}" for name in method.kept_samples()]
    state = {name: tensor for name, tensor in method.state_dict().items() if name not in private}
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    left: dict[str, Data] = {PREDICTIONS: _archived(arrays), METHOD: save(own)}
    if answers:
        left[ANSWERS] = zipped(answers)
    experts: Any = getattr(method, "experts", None)
    for name in getattr(experts, "names", ()):
        left |= {f"{EXPERTS}/{name}/{file}": data for file, data in experts.stored(name).items()}
    for name in LEFT:
        remove(folder.making / name)
    for name, data in left.items():
        write_bytes(folder.making / name, data)
    return {name: hashlib.sha256(data).hexdigest() for name, data in left.items()}


def _archived(arrays: Mapping[str, NDArray[Any]]) -> memoryview:
    buffer = BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getbuffer()
