"""The checks of ``check_method``: each raises AssertionError with a sentence, for every kind that a method learns."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import is_dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.config import search
from benchmark.running.answers.question import Cell, unlabelled
from benchmark.running.load import built
from benchmark.running.loop import Loop
from benchmark.running.seeds import seeded
from benchmark.stream import Share, Task
from benchmark.testing.bench import CPU, Bench, asked, assert_same, state
from methods.base import Batch, IncrementalMethod

IN_ITS_BATCH = "the answer on a sample depends on what is in its batch, or where"


def same_cell(one: Cell | None, other: Cell | None) -> bool:
    """Whether two cells hold the same predictions."""
    if one is None or other is None:
        return one is other
    pairs = ((one.arrays[name], other.arrays[name]) for name in other.arrays)
    return one.arrays.keys() == other.arrays.keys() and all(
        np.array_equal(left, right, equal_nan=left.dtype.kind == "f") for left, right in pairs
    )


def builds_without_arguments(bench: Bench) -> None:
    built(bench.cls)


def its_search_is_of_its_arguments(bench: Bench) -> None:
    """What ``tune`` would try of it: arguments that there are, in ranges that contain their defaults."""
    said = search.wrong(bench.cls.search, defaults_of(bench.cls))
    assert said is None, f"search: {said}"


def defaults_of(cls: type) -> dict[str, object]:
    """The defaults of ``__init__``, with those of the bases where it passes ``**kwargs`` on."""
    found: dict[str, object] = {}
    for each in cls.__mro__:
        own = vars(each).get("__init__")
        if own is not None:
            parameters = inspect.signature(own).parameters.values()
            found = {p.name: p.default for p in parameters if p.default is not p.empty} | found
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return found


def runs_a_stream(bench: Bench) -> None:
    assert bench.straight.record.complete


def same_seed_gives_the_same_matrix(bench: Bench) -> None:
    """Two runs do: the straight one and the resumed one. Only where they differ does a third tell what it is due to."""
    with suppress(Exception):
        same_run(bench.straight, bench.resumed, "")
        return
    same_run(bench.straight, bench.again(), "two runs of one seed")


def same_run(straight: Loop, other: Loop, what: str) -> None:
    assert straight.record.scores == other.record.scores, f"{what}: other scores"
    for file in sorted(straight.folder.path.glob("*.csv")):
        assert (other.folder.path / file.name).read_bytes() == file.read_bytes(), f"{what}: {file.name} differs"
    assert_same(state(straight.method), state(other.method), what)


def reuse_equals_full_evaluation(bench: Bench) -> None:
    stages = bench.straight.record.stages
    assert len(bench.pairs) == stages
    for reused, full in bench.pairs:
        for protocol, cells in full.items():
            for known, cell in zip(reused[protocol], cells, strict=True):
                assert same_cell(known, cell), "answers_from says that an answer cannot have changed, and it has"


def stopped_and_resumed_equals_straight(bench: Bench) -> None:
    same_run(bench.straight, bench.resumed, "stopped and resumed against straight")


def only_trainable_parameters_change(bench: Bench) -> None:
    """While each task is trained; and what of the backbone was never trained is in the end as it was loaded."""
    trained = bench.straight.method
    for before, after in bench.frozen:
        assert_same(before, after, "training")
    loaded, now = pristine(bench.method()), pristine(trained)
    kept = [name for name in loaded if name in now and name not in bench.tuned]
    assert_same({n: loaded[n] for n in kept}, {n: now[n] for n in kept}, "the backbone after learning")


def pristine(method: IncrementalMethod) -> dict[str, Tensor]:
    """What a method holds of the backbone, by the names it was loaded with: LoRA puts a layer around a layer."""
    held = {name.replace(".base_layer.", "."): tensor for name, tensor in state(method).items()}
    return {name: tensor for name, tensor in held.items() if name.startswith("backbone.")}


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
        plain = ", self.".join(unkept(trained, regrown))
        lost = f"; what self.memory does not hold is lost: self.{plain}" if plain else ""
        assert torch.equal(*(torch.nan_to_num(x) for x in given)), f"regrown and loaded answers otherwise{lost}"


def unkept(trained: IncrementalMethod, regrown: IncrementalMethod) -> list[str]:
    """Names of plain attributes of the method that learning has changed, and loading does not bring back."""
    mine, theirs = ({k: v for k, v in vars(each).items() if not k.startswith("_")} for each in (trained, regrown))
    shared = {name for name in vars(IncrementalMethod()) if not name.startswith("_")} | {"backbone", "training"}
    return sorted(name for name in mine.keys() - shared if not same_value(mine[name], theirs.get(name)))


def same_value(one: object, other: object) -> bool:
    """Whether two plain values are the same; of objects that are known by their identity alone whether of one type."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same_value, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_value(one[key], other[key]) for key in one)
    if is_dataclass(one) and type(one) is type(other):
        return same_value(vars(one), vars(other))
    if type(one).__eq__ is object.__eq__:
        return type(one) is type(other)
    return bool(np.all(one == other))


def answers_are_right(bench: Bench) -> None:
    method = bench.straight.method
    for task in bench.stream:
        answers = bench.answers(method, task.index, given=True)
        asked_of = sum(len(batch["label"]) for batch in bench.shown(task.index))
        assert len(answers) == asked_of, f"{len(answers)} answers for {asked_of} samples"
        if bench.kind.labelled:
            assert answers.shape[1:] == (len(task.labels),), f"logits of shape {tuple(answers.shape)}"
        assert answers.isfinite().all(), f"the answers on the learned task {task.name} are not finite"
    fresh = bench.method()
    before = bench.answers(fresh, 0, given=True)
    finite_or_declared(bench, before, "before any training")


def finite_or_declared(bench: Bench, answers: Tensor, when: str) -> None:
    """An answer is finite; a method that declares that it abstains may have none."""
    if not answers.isfinite().all():
        assert answers.isnan().all(), f"{when}: finite, or NaN throughout"
        assert bench.cls.abstains, f"{when}: NaN, which the method does not declare (abstains = True)"


def hidden_identity_is_answered_or_declared(bench: Bench) -> None:
    method = bench.straight.method
    if method.requires_task_id:
        return
    answers = bench.answers(method, 0, given=False)
    finite_or_declared(bench, answers, "with the identity hidden")
    if bench.kind.labelled:
        assert answers.shape[1] == len(bench.stream.labels()), f"logits of shape {tuple(answers.shape)}"


def an_answer_depends_on_its_sample_alone(bench: Bench) -> None:
    """Neither on the order of the batch, nor on what else is in it, nor on the place of the sample in the test set."""
    method = bench.straight.method
    for task in bench.stream:
        for given in (True, False) if not method.requires_task_id else (True,):
            for batch in bench.shown(task.index):
                _same_in_any_batch(bench, method, batch, task, given)


def _same_in_any_batch(bench: Bench, method: IncrementalMethod, batch: Batch, task: Task, given: bool) -> None:
    among, told = bench.candidates(task.index, given), task if given else None

    def ask(rows: Tensor) -> Tensor:
        return asked(method, batch, among, told, bench.kind, rows)

    order = torch.randperm(len(batch["label"]), generator=torch.Generator().manual_seed(1))
    whole = ask(torch.arange(len(order)))
    parts = torch.empty_like(whole)
    for rows in (order[:1], *order[1:].split(-(-len(order) // 2))):
        parts[rows] = ask(rows)
    assert torch.allclose(whole, parts, atol=1e-3, equal_nan=True), IN_ITS_BATCH
    if bench.kind.speaks:
        words = written(method, batch, told, torch.arange(len(order)))
        for rows in (order[:1], *order[1:].split(-(-len(order) // 2))):
            assert written(method, batch, told, rows) == [words[row] for row in rows.tolist()], IN_ITS_BATCH


def written(method: IncrementalMethod, batch: Batch, told: Task | None, rows: Tensor) -> list[str]:
    """What is written of some rows of a batch."""
    shown = {name: values[rows] for name, values in unlabelled(batch, told is None).items()}
    with torch.no_grad():
        return [str(text) for text in method.answer(shown, told)]


def an_image_and_its_text_do_not_see_each_other(bench: Bench) -> None:
    """Of retrieval: what a batch of pairs embeds an image to must not change with the caption, nor the other way."""
    if not bench.kind.searches:
        return
    method = bench.straight.method.eval()
    batch = next(iter(bench.data[0].batches("test", CPU)))
    with torch.no_grad():
        for own, other, embed in (("image", "text", method.embed_image), ("text", "image", method.embed_text)):
            swapped = batch | {other: batch[other].roll(1, 0)}
            assert torch.equal(embed(batch), embed(swapped)), f"the feature of the {own} depends on its {other}"


def a_missing_input_is_answered(bench: Bench) -> None:
    """Of fusion: an image without its text and a text without its image still get an answer."""
    method = bench.straight.method
    for missing in bench.kind.withheld:
        for told in (bench.stream.tasks[0], None) if not method.requires_task_id else (bench.stream.tasks[0],):
            (there,) = (name for name in bench.kind.inputs if name != missing)
            batch = next(iter(bench.data[0].batches("test", CPU, there)))
            logits = asked(method, batch, bench.stream.labels(), told, bench.kind)
            finite_or_declared(bench, logits, f"from the {there} alone")


def features_are_free_of_the_task_if_declared(bench: Bench) -> None:
    """A method that declares ``task_free`` represents a sample alike, whether the task's identity is known or not."""
    method = bench.straight.method.eval()
    for task in bench.stream if method.task_free else ():
        for batch in bench.shown(task.index):
            with torch.no_grad():
                shown, told = unlabelled(batch, hidden=True), unlabelled(batch, hidden=False)
                if bench.kind.speaks:
                    among = bench.candidates(task.index, given=True)
                    given, hidden = method.likelihood(told, among, task), method.likelihood(shown, among, None)
                else:
                    given, hidden = method.represent(told, task), method.represent(shown, None)
            assert torch.equal(given, hidden), "a feature depends on the task's identity: set task_free = False"


def a_batch_may_be_shared_or_it_is_declared(bench: Bench) -> None:
    """Processes that each hold a part of a batch learn what one that holds all of it does, or ``ddp`` is False."""
    method, tasks = bench.method(), bench.stream.tasks
    if not method.ddp or bench.kind.whole_batch:
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
    method, seen = bench.straight.method, bench.flags
    assert all(learner and not backbone for _, learner, backbone in seen), "method in train mode, backbone in eval mode"
    trains = bool(method.trainable_parameters())  # some methods train in the first task only
    assert not trains or seen[-1][0] == len(bench.stream), "the last task was not trained"


def a_step_does_not_wait_for_the_device(bench: Bench) -> None:
    """No number is read in a training step, and no size depends on values: a device would stand still meanwhile."""
    assert bench.straight.record.complete
    waits = bench.operators.waits
    assert not waits, f"training steps wait for the device: {', '.join(waits)}"


def nothing_global_changes(bench: Bench) -> None:
    assert bench.straight.record.complete
    before, after = bench.worlds
    assert before == after, "default dtype, grad mode or the global generator changed"


CHECKS: tuple[Callable[[Bench], None], ...] = (
    builds_without_arguments,
    its_search_is_of_its_arguments,
    runs_a_stream,
    only_trainable_parameters_change,  # what is wrong with it makes most others fail
    same_seed_gives_the_same_matrix,
    reuse_equals_full_evaluation,
    stopped_and_resumed_equals_straight,
    evaluation_changes_nothing,
    regrown_and_loaded_answers_the_same,
    answers_are_right,
    hidden_identity_is_answered_or_declared,
    an_answer_depends_on_its_sample_alone,
    an_image_and_its_text_do_not_see_each_other,
    a_missing_input_is_answered,
    features_are_free_of_the_task_if_declared,
    a_batch_may_be_shared_or_it_is_declared,
    training_flags_are_right_in_task_2,
    a_step_does_not_wait_for_the_device,
    nothing_global_changes,
)
