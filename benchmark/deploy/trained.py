"""A method as a run left it: grown again task by task, then loaded from ``method.safetensors``."""

from __future__ import annotations

import hashlib
from contextlib import suppress
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
from benchmark.record.schema import Configuration, Record
from benchmark.record.shelves import OWN, read_from
from benchmark.record.stored import RECORD, read_record
from benchmark.running.load import attached, quiet
from benchmark.stream import Budget, Stream, Task
from methods.base import IncrementalMethod

MOST_NAMED = 12  # runs in one line


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


def load(folder: Path, typed: str | None = None) -> Trained:
    """The method of a complete run.

    Args:
        typed: the plug-in that the user has named, ``package.module:Class``; no other is imported, whatever the record
            says.

    Raises:
        UserError: no complete run is there, its state was left on another machine, its method is another plug-in than
            the one typed, what it says cannot be built, or its stream's labels have changed.
    """
    quiet()
    if Path(folder).is_dir() and not (Path(folder) / RECORD).is_file():
        raise UserError(f"{folder}: no run itself{_below(Path(folder))}")
    record = read_record(folder)
    state, config = Path(folder) / METHOD, record.config
    if not record.complete:
        raise UserError(f"{folder}: the run is unfinished; the command that began it continues")
    if not state.is_file():
        raise UserError(f"{state}: not there (it stays on the machine that made the run): {_instead(Path(folder))}")
    name = config.method or record.method
    typed = None if typed is None else registry.named(typed)
    if typed not in (None, name):
        raise UserError(f"--method {typed}: the method of {folder} is {name}")
    registry.ours_or_typed(name, [] if typed is None else [typed])
    listed = catalog.load(config.stream, None).stream
    order = record.permutation if len(record.permutation) == len(listed) else range(len(listed))
    stream, learned = listed.reordered(order), [task.labels for task in record.stream.tasks]
    if [[label.name for label in task.labels] for task in stream] != learned:
        raise UserError(f"{folder}: the classes of stream {config.stream} are not those that were learned")
    method = _grown(registry.load(name), config, stream, folder, record.seed)
    tensors = _tensors(state, (record.files or {}).get(state.name))
    try:
        _, unexpected = method.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # tensors of other shapes
        raise UserError(f"{state}: cannot be loaded ({' '.join(str(error).split())[:300]})") from None
    lost = [*unexpected, *(set(method.state_dict()) - set(tensors))]
    if lost:
        raise UserError(f"{state}: does not fit this version of {record.method} ({', '.join(sorted(lost)[:3])})")
    return Trained(method.eval(), stream, record)


def _below(folder: Path) -> str:
    """Which runs a folder of runs has that left their method here."""
    found = sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob(METHOD))
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return f"; below it, to choose from: {', '.join(found[:MOST_NAMED])}{more}" if found else ", and none is below it"


def _instead(folder: Path) -> str:
    """What to do where a run left nothing here: of a stored run there may be one of the user's own."""
    with suppress(ValueError):
        below = folder.absolute().relative_to((read_from(Path(OWN))[0] / "runs").absolute())
        own = Path(OWN, "runs") / below
        return f"{own} was made here" if (own / METHOD).is_file() else f"make bench makes it here, in {own}"
    return "run it again with --force"


def _grown(
    cls: type[IncrementalMethod], config: Configuration, stream: Stream, folder: Path, seed: int
) -> IncrementalMethod:
    """A method on its backbone with the structure that all tasks of the stream have given it."""
    budget = Budget(**{field.name: getattr(config, field.name) for field in fields(Budget)})
    try:
        with torch.random.fork_rng():  # what grows is drawn at random, and then overwritten
            method = attached(cls, config, kinds.joined(stream.kinds), budget, seed)
            for task in stream:
                method.begin_task(task)
    except Exception as error:  # the record may be from elsewhere, and its arguments anything
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{folder}: its method cannot be built as its record says: {told}") from None
    return method


def _tensors(state: Path, told: str | None) -> dict[str, Tensor]:
    """The tensors of a file whose sha256 the record tells, but for the first records."""
    data = state.read_bytes()
    try:
        if told in (None, hashlib.sha256(data).hexdigest()):
            return loaded(data)
    except SafetensorError:
        pass
    raise UserError(f"{state}: damaged: the command that made the run makes it again")
