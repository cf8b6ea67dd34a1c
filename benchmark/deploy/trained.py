"""A method as a run left it: grown again task by task, then loaded from ``method.safetensors``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as loaded
from torch import Tensor

from benchmark import kinds
from benchmark.config import registry
from benchmark.data import catalog
from benchmark.errors import UserError, unknown
from benchmark.record.folder import METHOD
from benchmark.record.schema import Record
from benchmark.record.stored import read_record
from benchmark.running.load import attached, quiet
from benchmark.stream import Budget, Stream, Task
from methods.base import IncrementalMethod


@dataclass(frozen=True)
class Trained:
    """A method after the last task, in eval mode on the CPU, with the stream in the order of its run."""

    method: IncrementalMethod
    stream: Stream
    record: Record

    def task(self, name: str) -> Task:
        """A learned task by name.

        Raises:
            UserError: with the nearest name.
        """
        known = {task.name: task for task in self.stream}
        if name not in known:
            raise unknown("task", name, known, "--task")
        return known[name]


def load(folder: Path) -> Trained:
    """The method of a complete run.

    Raises:
        UserError: no complete run is there, its state was left on another machine, or its stream's labels have changed.
    """
    quiet()
    record = read_record(folder)
    state, config = Path(folder) / METHOD, record.config
    if not record.complete:
        raise UserError(f"{folder}: the run is unfinished; the command that began it continues")
    if not state.is_file():
        raise UserError(f"{state}: not there (it stays on the machine that made the run): run it again with --force")
    stream = catalog.load(config.stream, None).stream.reordered(record.permutation)
    learned = [task.labels for task in record.stream.tasks]
    if [[label.name for label in task.labels] for task in stream] != learned:
        raise UserError(f"{folder}: the classes of stream {config.stream} are not those that were learned")
    cls, kind = registry.load(config.method), kinds.of(stream.kind)
    budget = Budget(**{field.name: getattr(config, field.name) for field in fields(Budget)})
    with torch.random.fork_rng():  # what grows is drawn at random, and then overwritten
        method = attached(cls, config.method_args, config.backbone, config.pretrained, kind, budget)
        for task in stream:
            method.begin_task(task)
    tensors = _tensors(state, (record.files or {}).get(state.name))
    _, unexpected = method.load_state_dict(tensors, strict=False)
    lost = [*unexpected, *(set(method.state_dict()) - set(tensors))]
    if lost:
        raise UserError(f"{state}: does not fit this version of {record.method} ({', '.join(sorted(lost)[:3])})")
    return Trained(method.eval(), stream, record)


def _tensors(state: Path, told: str | None) -> dict[str, Tensor]:
    """The tensors of a file whose sha256 the record tells, but for the first records."""
    data = state.read_bytes()
    try:
        if told in (None, hashlib.sha256(data).hexdigest()):
            return loaded(data)
    except SafetensorError:
        pass
    raise UserError(f"{state}: damaged: the command that made the run makes it again")
