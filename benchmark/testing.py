"""``check_method``: the contract of a method, as code.

Each check is a function of a :class:`Bench` (a tiny stream, a backbone, a way to run) that raises AssertionError with a
sentence. All of them run for every kind of task that the method learns. A new method passes ``make check METHOD=name``
before its numbers mean anything.
"""

from __future__ import annotations

import copy
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from benchmark.data import catalog, identity
from benchmark.data.batches import TaskData, task_data
from benchmark.record import records
from benchmark.running.evaluate import Cell, Evaluator
from benchmark.running.execute import quiet
from benchmark.running.loop import Hardware, Loop, seeded
from benchmark.running.progress import Display
from benchmark.stream import Budget, Share, Stream
from methods.base import IncrementalMethod
from methods.parts import backbones

CPU = torch.device("cpu")
Row = dict[str, list[Cell | None]]  # protocol -> a cell per task
STREAMS = {"classification": "smoke", "fusion": "smoke_fusion", "retrieval": "smoke_retrieval"}
BUDGET = Budget(epochs=2, batch_size=16, lr=1e-3)


class Stopped(Exception):
    """Raised in the middle of a run to stop it."""


@dataclass(frozen=True)
class Result:
    """One check: its sentence, and why it failed if it did."""

    name: str
    passed: bool
    reason: str = ""


@lru_cache(maxsize=len(STREAMS))
def _stream(kind: str, size: int) -> tuple[Stream, tuple[TaskData, ...]]:
    recipe, tokens = catalog.load(STREAMS[kind], Path()), backbones.load("phantom-clip").tokenizer
    parts = zip(recipe.stream, recipe.sources, identity.identities(recipe), strict=True)
    return recipe.stream, tuple(task_data(task, source, sha, size, None, CPU, tokens) for task, source, sha in parts)


def _same_answers(one: Cell | None, other: Cell | None) -> bool:
    if one is None or other is None:
        return one is other
    equal = (np.array_equal(one.arrays[name], other.arrays[name], equal_nan=True) for name in other.arrays)
    return one.arrays.keys() == other.arrays.keys() and all(equal)


def world() -> tuple[object, ...]:
    """What a method must leave as it found it."""
    return torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_rng_state().sum().item()


@dataclass(frozen=True)
class Observed:
    """A run, the (tasks, method.training, backbone.training) of its every step, and the world before and after it."""

    loop: Loop
    flags: list[tuple[int, bool, bool]]
    worlds: tuple[tuple[object, ...], tuple[object, ...]]


class Bench:
    """A tiny stream of one kind and fresh methods on fresh backbones to run over it."""

    def __init__(self, cls: type[IncrementalMethod], folder: Path, kind: str = "classification") -> None:
        self.cls, self.folder, self.kind = cls, folder, kind
        self.pretrained = backbones.load("phantom-clip")
        self.stream, self.data = _stream(kind, self.pretrained.image_size)
        self.pairs: list[tuple[Row, Row]] = []  # straight's row after each stage, and the same with nothing reused

    def method(self) -> IncrementalMethod:
        tokenizer = self.pretrained.tokenizer
        backbone = copy.deepcopy(self.pretrained, {id(tokenizer): tokenizer})  # in a third of the time of loading it
        if self.kind != "classification":
            backbone.with_text()
        with seeded(0, "method"):
            method = self.cls()
            method.attach(backbone, BUDGET)
        return method

    def loop(self, method: IncrementalMethod, folder: Path, record: records.Record | None = None) -> Loop:
        tasks = [{"name": task.name, "modality": task.modality, "labels": []} for task in self.stream]
        record = record or {
            "schema": records.SCHEMA, "key": "0" * 12, "method": "checked", "seed": 0, "order": 0, "split": "test",
            "stream": {"name": "smoke", "folder": "smoke", "hash": "", "tasks": tasks}, "provenance": {},
            "config": {"precision": "32-true", "sampling": "proportional"},
            **records.unmeasured(len(self.stream), self.kind),
        }  # fmt: skip
        display = Display(Console(), 1, quiet=True)
        return Loop(method, self.stream, list(self.data), record, folder, Hardware(CPU), display)

    def run(self) -> Loop:
        """A whole run of a fresh method; every row of its matrix is evaluated in full as well."""
        loop = self.loop(self.method(), self.folder / "straight")
        reusing, full = loop.evaluator, Evaluator(loop.method, self.stream, self.data, "test", CPU, None, full=True)
        answer = reusing.row

        def row(stage: int) -> Row:
            with torch.random.fork_rng():
                complete = full.row(stage)
            self.pairs.append((answer(stage), complete))
            return self.pairs[-1][0]

        reusing.row = row  # type: ignore[method-assign]
        loop.run()
        return loop

    @property
    @lru_cache(maxsize=1)  # noqa: B019
    def straight(self) -> Loop:
        return self.run()

    @property
    @lru_cache(maxsize=1)  # noqa: B019
    def again(self) -> Observed:
        """A second run, watched."""
        method, flags = self.method(), []
        original = method.loss

        def loss(batch: dict[str, Tensor]) -> Tensor:
            flags.append((len(method.tasks), method.training, method.backbone.image.training))
            return original(batch)

        method.loss = loss  # type: ignore[method-assign]
        before = world()
        loop = self.loop(method, self.folder / "again")
        loop.run()
        return Observed(loop, flags, (before, world()))

    def answers(self, method: IncrementalMethod, task: int, given: bool, count: int | None = None) -> Tensor:
        """What a method answers on a task's (first ``count``) test samples with the identity given or hidden.

        (N, C) logits over its own labels or over all labels; of retrieval (N + M, E) features of images and texts.
        """
        method.eval()
        chosen, data = self.stream.tasks[task], self.data[task]
        labels = chosen.labels if given else self.stream.labels()
        told = chosen if given else None
        with torch.no_grad():
            if self.kind == "retrieval":
                asked = [data.items("test", CPU, inputs) for inputs in ("image", "text")]
                return torch.cat([method.represent(_unlabelled(next(iter(items)), count), told) for items in asked])
            return method.scores(_unlabelled(next(iter(data.batches("test", CPU))), count), labels, told)


def _unlabelled(batch: dict[str, Tensor], count: int | None = None) -> dict[str, Tensor]:
    """The first ``count`` samples of a batch, or all, without what tells the answer."""
    return {name: values[:count] for name, values in batch.items() if name not in ("label", "task")}


def state(method: IncrementalMethod) -> dict[str, Tensor]:
    """Every tensor a method holds, the frozen backbone's included, copied."""
    tensors = {**dict(method.named_parameters()), **dict(method.named_buffers()), **dict(method.memory)}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], what: str) -> None:
    assert left.keys() == right.keys(), f"{what}: other tensors: {sorted(left.keys() ^ right.keys())[:4]}"
    changed = [name for name in left if not torch.equal(left[name], right[name])]
    assert not changed, f"{what}: changed {', '.join(changed[:4])}"


@contextmanager
def stops_after(steps: int, method: IncrementalMethod) -> Iterator[None]:
    """Inside, the method's loss raises :class:`Stopped` after so many calls."""
    original, left = method.loss, [steps]

    def loss(batch: dict[str, Tensor]) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        return original(batch)

    method.loss = loss  # type: ignore[method-assign]
    try:
        yield
    finally:
        del method.loss


# ---- the checks ---------------------------------------------------------------------------------------------------


def builds_without_arguments(bench: Bench) -> None:
    bench.cls()


def runs_a_stream(bench: Bench) -> None:
    assert bench.straight.record["status"] == "complete"


def same_seed_gives_the_same_matrix(bench: Bench) -> None:
    again = bench.again.loop
    assert again.record["scores"] == bench.straight.record["scores"], "two runs of one seed differ"
    assert_same(state(bench.straight.method), state(again.method), "two runs of one seed")


def reuse_equals_full_evaluation(bench: Bench) -> None:
    stages = bench.straight.record["stages"]
    assert len(bench.pairs) == stages
    for reused, full in bench.pairs:
        for protocol, cells in full.items():
            for known, cell in zip(reused[protocol], cells, strict=True):
                assert _same_answers(known, cell), "answers_from says that an answer cannot have changed, and it has"


def stopped_and_resumed_equals_straight(bench: Bench) -> None:
    folder, method = bench.folder / "stopped", bench.method()
    per_epoch = -(-len(bench.data[0].splits["train"]) // BUDGET.batch_size)
    tasks = len(bench.stream) if method.joint else 1
    for steps in (per_epoch * tasks + 1, per_epoch * tasks * 2 + per_epoch + 1):  # in epoch 2 of task 1, of task 2
        method = bench.method()
        known = records.read_record(folder) if (folder / "run.json").is_file() else None
        with stops_after(steps, method):
            try:
                bench.loop(method, folder, known).run()
            except Stopped:
                continue
            break
    if (folder / "state").is_dir():
        method = bench.method()
        loop = bench.loop(method, folder, records.read_record(folder))
        loop.run()
    straight = bench.straight
    for file in sorted(straight.folder.glob("*.csv")):
        assert (folder / file.name).read_bytes() == file.read_bytes(), f"{file.name} differs after a stop"
    assert_same(state(straight.method), state(method), "stopped and resumed against straight")


def only_trainable_parameters_change(bench: Bench) -> None:
    method = bench.method()
    pristine = state(method)
    method.begin_task(bench.stream.tasks[0])
    loop = bench.loop(method, bench.folder / "frozen")
    loop.state.mkdir(parents=True)
    with method.learning():
        method.prepare_task(bench.stream.tasks[0], bench.data[0].batches("train", CPU))
        trainable = {id(parameter) for parameter in method.trainable_parameters()}
        named = dict(method.named_parameters())
        before = {name: p.detach().clone() for name, p in named.items() if id(p) not in trainable}
        loop._fit([bench.data[0]], 0, "")
        assert_same(before, {name: named[name].detach() for name in before}, "training")
    kept = {name: tensor for name, tensor in state(method).items() if name in pristine and name.startswith("backbone.")}
    assert_same({name: pristine[name] for name in kept}, kept, "the backbone after learning")


def evaluation_changes_nothing(bench: Bench) -> None:
    loop = bench.straight
    before, flags = state(loop.method), {name: m.training for name, m in loop.method.named_modules()}
    loop.evaluator.row(len(bench.stream))
    assert_same(before, state(loop.method), "evaluation")
    assert flags == {name: m.training for name, m in loop.method.named_modules()}, "evaluation changed training flags"


def regrown_and_loaded_answers_the_same(bench: Bench) -> None:
    trained, regrown = bench.straight.method, bench.method()
    for task in bench.stream:
        with seeded(1, task.index, "another"):
            regrown.begin_task(task)
    saved = {name: value.clone() for name, value in trained.state_dict().items()}
    missing, unexpected = regrown.load_state_dict(saved, strict=False)
    assert not unexpected and not set(missing) & set(saved), f"does not fit: {unexpected}, {missing}"
    for index in range(len(bench.stream)):
        given = bench.answers(trained, index, given=True), bench.answers(regrown, index, given=True)
        assert torch.equal(*(torch.nan_to_num(x) for x in given)), "regrown and loaded answers otherwise"


def answers_are_right(bench: Bench) -> None:
    method = bench.straight.method
    for task in bench.stream:
        answers = bench.answers(method, task.index, given=True)
        test = bench.data[task.index].splits["test"]
        if bench.kind != "retrieval":
            assert answers.shape == (len(test), len(task.labels)), f"logits of shape {tuple(answers.shape)}"
        else:
            assert test.images is not None and test.texts is not None
            assert len(answers) == len(test.images) + len(test.texts), f"features of shape {tuple(answers.shape)}"
        assert answers.isfinite().all(), f"the answers on the learned task {task.name} are not finite"
    fresh = bench.method()
    before = bench.answers(fresh, 0, given=True)
    assert before.isfinite().all() or before.isnan().all(), "before any training: finite, or NaN throughout"


def hidden_identity_is_answered_or_declared(bench: Bench) -> None:
    method = bench.straight.method
    if method.requires_task_id:
        return
    answers = bench.answers(method, 0, given=False)
    width = len(bench.stream.labels())
    assert (bench.kind == "retrieval" or answers.shape[1] == width) and answers.isfinite().all(), (
        "no answer with the identity hidden"
    )
    one = bench.answers(method, 0, given=False, count=1)
    assert torch.allclose(one[0], answers[0], atol=1e-3), "the answer on a sample depends on its test batch"


def an_image_and_its_text_do_not_see_each_other(bench: Bench) -> None:
    """Of retrieval: what a batch of pairs embeds an image to must not change with the caption, nor the other way."""
    if bench.kind != "retrieval":
        return
    method = bench.straight.method.eval()
    batch = next(iter(bench.data[0].batches("test", CPU)))
    with torch.no_grad():
        for own, other, embed in (("image", "text", method.embed_image), ("text", "image", method.embed_text)):
            swapped = batch | {other: batch[other].roll(1, 0)}
            assert torch.equal(embed(batch), embed(swapped)), f"the feature of the {own} depends on its {other}"


def a_missing_input_is_answered(bench: Bench) -> None:
    """Of fusion: an image without its text and a text without its image still get an answer."""
    if bench.kind != "fusion":
        return
    method = bench.straight.method.eval()
    for there in ("image", "text"):
        for given in (True, False) if not method.requires_task_id else (True,):
            batch = _unlabelled(next(iter(bench.data[0].batches("test", CPU, there))))
            task = bench.stream.tasks[0] if given else None
            with torch.no_grad():
                logits = method.scores(batch, bench.stream.labels(), task)
            assert logits.isfinite().all(), f"no answer from the {there} alone"


def a_batch_may_be_shared_or_it_is_declared(bench: Bench) -> None:
    """Processes that each hold a part of a batch learn what one that holds all of it does, or ``ddp`` is False."""
    method, tasks = bench.method(), bench.stream.tasks
    if not method.ddp or bench.kind == "retrieval":
        return
    earlier, (task, data) = tasks[:-1], (tasks[-1], bench.data[-1])
    for task_before, data_before in zip(earlier, bench.data, strict=False):
        method.begin_task(task_before)
        with method.learning():
            method.eval()
            method.prepare_task(task_before, data_before.batches("train", CPU))
            method.end_task(task_before, data_before.batches("train", CPU))
    method.begin_task(task)
    with method.learning():
        method.prepare_task(task, data.batches("train", CPU))
        method.train()
        parameters = method.trainable_parameters()
        batch = {name: values[:11] for name, values in next(iter(data.batches("train", CPU))).items()}

        def gradients(share: Share | None) -> list[Tensor]:
            method.share = share
            rows = slice(None) if share is None else slice(share.start, share.stop)
            with seeded(0, "shared"):
                loss = method.training_step({name: values[rows] for name, values in batch.items()}, 0)
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            assert all(g is not None for g in found), (
                "a trainable parameter that the loss does not use: set ddp = False"
            )
            return list(found)

        if parameters:
            parts = [gradients(Share.of(11, rank, 2)) for rank in range(2)]
            for whole, *of in zip(gradients(None), *parts, strict=True):
                error = (whole - sum(of) / 2).abs().max() / whole.abs().max().clamp_min(1e-6)
                assert error < 1e-3, f"the gradient of a shared batch is off by {error:.1g}: set ddp = False"
    method.share = None


def training_flags_are_right_in_task_2(bench: Bench) -> None:
    seen = bench.again.flags
    assert all(method and not backbone for _, method, backbone in seen), "method in train mode, backbone in eval mode"
    trains = bool(bench.again.loop.method.trainable_parameters())  # some methods train in the first task only
    assert not trains or seen[-1][0] == len(bench.stream), "the last task was not trained"


def nothing_global_changes(bench: Bench) -> None:
    before, after = bench.again.worlds
    assert before == after, "default dtype, grad mode or the global generator changed"


CHECKS: tuple[Callable[[Bench], None], ...] = (
    builds_without_arguments,
    runs_a_stream,
    same_seed_gives_the_same_matrix,
    reuse_equals_full_evaluation,
    stopped_and_resumed_equals_straight,
    only_trainable_parameters_change,
    evaluation_changes_nothing,
    regrown_and_loaded_answers_the_same,
    answers_are_right,
    hidden_identity_is_answered_or_declared,
    an_image_and_its_text_do_not_see_each_other,
    a_missing_input_is_answered,
    a_batch_may_be_shared_or_it_is_declared,
    training_flags_are_right_in_task_2,
    nothing_global_changes,
)


def check_method(cls: type[IncrementalMethod], raise_on_failure: bool = False) -> list[Result]:
    """Hold a method's class against the contract, for every kind of task it learns; a result per check and kind.

    Raises:
        AssertionError: with ``raise_on_failure``, naming every check that failed.
    """
    quiet()
    results = [result for kind in cls.kinds for result in _check(cls, kind)]
    failed = [result for result in results if not result.passed]
    if raise_on_failure and failed:
        raise AssertionError("; ".join(f"{result.name}: {result.reason}" for result in failed))
    return results


def _check(cls: type[IncrementalMethod], kind: str) -> list[Result]:
    results = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(cls, Path(folder), kind)
        for check in CHECKS:
            name = check.__name__.replace("_", " ") + (f" ({kind})" if kind != "classification" else "")
            try:
                check(bench)
                results.append(Result(name, True))
            except AssertionError as error:
                results.append(Result(name, False, str(error)))
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                reason = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
                results.append(Result(name, False, reason))
    return results
