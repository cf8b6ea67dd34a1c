"""What the checks of a method run on: a tiny stream of one kind, a backbone, fresh methods, runs that are watched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmark.config.families import DRAWN, USUAL
from benchmark.config.run_config import RunConfig
from benchmark.data import catalog, identity
from benchmark.data.batches import TaskData, task_data
from benchmark.data.seen_once import seen
from benchmark.data.settle import settled
from benchmark.kinds import Kind, classification
from benchmark.record.folder import RunFolder, State
from benchmark.record.schema import SCHEMA, Provenance, Record, StreamEntry, TaskEntry, unmeasured
from benchmark.running.answers.question import unlabelled
from benchmark.running.evaluate import Cells, Evaluator
from benchmark.running.hardware import Hardware
from benchmark.running.load import built
from benchmark.running.loop import Loop
from benchmark.running.operators import Operators
from benchmark.running.progress import Display
from benchmark.running.seeds import seeded
from benchmark.stream import Label, Stream, Task
from methods.base import Batch, IncrementalMethod, with_route
from methods.parts import backbones, language_models

Tensors = dict[str, Tensor]
Candidates = Sequence[Label] | Sequence[str]  # of words the answers whose likelihood is asked for

CPU = torch.device("cpu")
CONFIG = RunConfig(epochs=2, batch_size=8, lr=1e-3, precision="32-true")
WORDS = replace(CONFIG, lr=1e-2)  # at which what is written changes with every task
WRITTEN = 12  # tokens of an answer, each of which takes a pass of the decoder: more show nothing else


class Stopped(BaseException):
    """Raised in the middle of a run to stop it; no mistake of the method's."""


@lru_cache
def _pretrained(speaks: bool) -> Any:
    """Read once; whoever changes it takes a copy."""
    with seeded(0, "backbone"):
        return language_models.load(DRAWN) if speaks else backbones.load(USUAL)


@lru_cache
def _stream(name: str, speaks: bool) -> tuple[Stream, tuple[TaskData, ...]]:
    recipe, backbone = settled(catalog.load(name, Path())), _pretrained(speaks)
    tokens, words = (None, backbone) if speaks else (backbone.tokenizer, None)
    tasks = tuple(replace(task, max_new_tokens=min(task.max_new_tokens, WRITTEN)) for task in recipe.stream)
    parts = zip(tasks, recipe.sources, identity.identities(recipe), strict=True)
    data = [task_data(task, source, sha, backbone.image_size, None, tokens, words=words) for task, source, sha in parts]
    stream = replace(recipe.stream, tasks=tasks)
    return stream, tuple(data if words is None else seen(data, ("train", "test"), words))


def world() -> tuple[object, ...]:
    """What a method must leave as it found it."""
    return torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_rng_state().sum().item()


class Bench:
    """A tiny stream of one kind and fresh methods on fresh backbones to run over it."""

    def __init__(self, cls: type[IncrementalMethod], folder: Path, kind: Kind = classification.KIND) -> None:
        self.cls, self.folder, self.kind = cls, folder, kind
        self.config = WORDS if kind.speaks else CONFIG
        self.pretrained = _pretrained(kind.speaks)
        self.stream, self.data = _stream(kind.smoke, kind.speaks)
        # of each whole run:
        self.pairs: list[tuple[Cells, Cells]] = []  # the row after each stage, and the same with nothing reused
        self.flags: list[tuple[int, bool, bool]] = []  # of each step (tasks, method.training, backbone.training)
        self.worlds: list[tuple[object, ...]] = []  # before and after
        self.frozen: list[tuple[Tensors, Tensors]] = []  # of each fit what is not trainable, before it and after it
        self.tuned: set[str] = set()  # names of all that was trainable
        self.operators = Operators()  # of each fit's steps but the first, with their backward passes

    def method(self) -> IncrementalMethod:
        reader = self.pretrained.chat if self.kind.speaks else self.pretrained.tokenizer  # never changes
        backbone = copy.deepcopy(self.pretrained, {id(reader): reader})  # in a third of the time of loading it
        if self.kind.reads_text:
            backbone.with_text()
        with seeded(0, "method"):
            method = built(self.cls)
            method.attach(backbone, self.config.budget)
        return method

    def loop(self, method: IncrementalMethod, folder: Path) -> Loop:
        """A run in a folder, or what is left of it there."""
        place = RunFolder(folder)
        found = place.found()
        assert found.state is not State.DAMAGED, found.reason
        record = found.record or self.record()
        display = Display(Console(), 1, quiet=True)
        return Loop(
            method,
            self.stream,
            list(self.data),
            self.config,
            self.config.precision,
            record,
            place,
            Hardware(CPU),
            display,
        )

    def record(self) -> Record:
        tasks = [TaskEntry.of(task, self.stream) for task in self.stream]
        stream = StreamEntry(self.stream.name, self.stream.name, tasks, kind=self.kind.name)
        return Record(
            schema=SCHEMA, key="0" * 12, method="checked", stream=stream, seed=self.config.seed,
            order=self.config.order, permutation=list(range(len(tasks))), provenance=Provenance(fingerprint="0" * 16),
            **unmeasured(stream),
        )  # fmt: skip

    def run(self) -> Loop:
        """A whole run of a fresh method, watched; every row of its matrix is evaluated in full as well."""
        loop = self.loop(self.method(), self.folder / "straight")
        reusing = loop.evaluator
        full = Evaluator(loop.method, self.stream, self.data, self.config, self.config.precision, CPU, full=True)
        answer = reusing.row

        def row(stage: int) -> Cells:
            with torch.random.fork_rng():
                complete = full.row(stage)
            self.pairs.append((answer(stage), complete))
            return self.pairs[-1][0]

        def note(method: IncrementalMethod) -> None:
            tasks = len(method.tasks)
            if not self.flags or self.flags[-1][0] != tasks:  # the first step of a fit
                trainable = set(map(id, method.trainable_parameters()))
                named = dict(method.named_parameters())
                self.tuned |= {name for name, value in named.items() if id(value) in trainable}
                still = {name: value.detach().clone() for name, value in named.items() if id(value) not in trainable}
                self.frozen.append((still, {}))
            self.flags.append((tasks, method.training, method.backbone.adapted.training))

        def after_fit(method: IncrementalMethod) -> None:
            if self.frozen and not self.frozen[-1][1]:
                named = dict(method.named_parameters())
                self.frozen[-1][1].update({name: named[name].detach().clone() for name in self.frozen[-1][0]})

        reusing.row = row  # type: ignore[method-assign]
        self.worlds.append(world())
        with (
            before("training_step", loop.method, note),
            before("end_task", loop.method, after_fit),
            inside("loss", loop.method, self.operators),
            inside("backward", loop.method, self.operators),
        ):
            loop.run()
        self.worlds.append(world())
        return loop

    @cached_property
    def straight(self) -> Loop:
        return self.run()

    def again(self) -> Loop:
        """A second run of the same seed: plain, in one go."""
        loop = self.loop(self.method(), Path(mkdtemp(dir=self.folder)))
        loop.run()
        return loop

    @cached_property
    def resumed(self) -> Loop:
        """The same run, stopped in epoch 2 of task 1 and in epoch 2 of task 2, each time taken up by a fresh method."""
        folder = Path(mkdtemp(dir=self.folder))
        per_epoch = -(-len(self.data[0].splits["train"]) // self.config.batch_size)
        loop = self.loop(self.method(), folder)
        tasks = len(self.stream) if loop.method.joint else 1
        for steps in (per_epoch * tasks + 1, per_epoch * tasks * 2 + per_epoch + 1):
            try:
                with stops_after(steps, loop.method):
                    loop.run()
                return loop  # it takes no step so late, or none at all
            except Stopped:
                assert not loop.damages, loop.damages[0]
                loop = self.loop(self.method(), folder)
        loop.run()
        assert not loop.damages, loop.damages[0]  # it would have begun again, and shown nothing
        return loop

    def shown(self, task: int) -> list[Batch]:
        """A task's test samples; where they are searched its images alone, then its texts alone."""
        data = self.data[task]
        if not self.kind.searches:
            return [next(iter(data.batches("test", CPU)))]
        return [next(iter(data.items("test", CPU, inputs))) for inputs in self.kind.inputs]

    def candidates(self, task: int, given: bool) -> Any:
        """The labels to choose from; in words some answers of the task whose likelihood is asked for; else none."""
        if self.kind.labelled:
            return self.stream.tasks[task].labels if given else self.stream.labels()
        told = self.data[task].splits["train"].references if self.kind.speaks else ()
        return sorted(set(told))[:4]

    def answers(self, method: IncrementalMethod, task: int, given: bool, rows: Tensor | slice = slice(None)) -> Tensor:
        """What a method answers on some of a task's test samples with the identity given or hidden, as it is asked.

        (N, C) logits over its own labels or over all labels, or log-likelihoods of :meth:`candidates`; of retrieval
        (N + M, E) features of images and texts.
        """
        told, among = self.stream.tasks[task] if given else None, self.candidates(task, given)
        return torch.cat([asked(method, batch, among, told, self.kind, rows) for batch in self.shown(task)])


def asked(
    method: IncrementalMethod, batch: Batch, among: Candidates, told: Task | None, kind: Kind,
    rows: Tensor | slice = slice(None),
) -> Tensor:  # fmt: skip
    """The answer on some rows of a batch, without what tells it; the router is asked before, as in a run."""
    if method.training:  # to tell every module costs as much as the answer
        method.eval()
    shown = {name: values[rows] for name, values in unlabelled(batch, told is None).items()}
    with torch.no_grad():
        route_B = method.route(shown) if told is None else None
        ask: Any = method.scores if kind.labelled else method.likelihood if kind.speaks else method.represent
        options = with_route(ask, route_B)
        return ask(shown, told, **options) if kind.searches else ask(shown, among, told, **options)


def state(method: IncrementalMethod) -> dict[str, Tensor]:
    """Every tensor a method holds, the frozen backbone's included, copied."""
    tensors = {**dict(method.named_parameters()), **dict(method.named_buffers()), **dict(method.memory)}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], what: str) -> None:
    assert left.keys() == right.keys(), f"{what}: other tensors: {sorted(left.keys() ^ right.keys())[:4]}"
    changed = [name for name in left if not torch.equal(left[name], right[name])]
    assert not changed, f"{what}: changed {', '.join(changed[:4])}"


@contextmanager
def before(name: str, method: IncrementalMethod, act: Callable[[IncrementalMethod], None]) -> Iterator[None]:
    """Inside, ``act`` is called with the method before each call of its function of this name."""
    original = getattr(method, name)

    def acting(*arguments: Any) -> Any:
        act(method)
        return original(*arguments)

    setattr(method, name, acting)
    try:
        yield
    finally:
        delattr(method, name)


@contextmanager
def inside(name: str, method: IncrementalMethod, mode: Operators) -> Iterator[None]:
    """Inside, each call of the method's function of this name, but a task's first, is made in ``mode``."""
    original, begun = getattr(method, name), [0]

    def acting(*arguments: Any, **options: Any) -> Any:
        tasks = len(method.tasks)
        with mode if begun[0] == tasks else nullcontext():
            begun[0] = tasks
            return original(*arguments, **options)

    setattr(method, name, acting)
    try:
        yield
    finally:
        delattr(method, name)


@contextmanager
def stops_after(steps: int, method: IncrementalMethod) -> Iterator[None]:
    """Inside, the method's loss raises :class:`Stopped` after so many calls."""
    left = [steps]

    def count(_: IncrementalMethod) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stopped

    with before("loss", method, count):
        yield
