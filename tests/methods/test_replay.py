"""ER and DER++: the reservoir's indices and chances, rows that belong together, and the losses by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from methods.der import DER
from methods.er import ER, recall, remember, reservoir_slots
from methods.joint_lora import JointLora
from methods.parts.memory import Memory
from methods.sequential_lora import SequentialLora
from tests import tiny
from tests.golden_files import close, golden
from tests.lessons import (
    batch,
    cross_entropy_by_hand,
    flat,
    forgetting,
    learn,
    learner,
    logits,
    sequential_forgetting,
)

seeds = st.integers(0, 10**6)
pieces = st.lists(st.integers(1, 9), min_size=1, max_size=6)
TASKS = [tiny.task(0, [4, 5, 1]), tiny.task(1, [0, 2]), tiny.task(2, [3, 6])]  # labels not in the order of their ids


# ---- the reservoir ------------------------------------------------------------------------------------------------


def test_the_indices_are_the_official_ones() -> None:
    g = golden("er_reservoir")
    size, seed, expected = int(g["buffer_size"]), int(g["numpy_seed"]), g["index"].numpy()
    slots = reservoir_slots(len(expected), size, np.random.RandomState(seed))
    assert slots.dtype == np.int64 and np.array_equal(slots, expected)


@given(seeds, pieces, st.integers(1, 12), st.booleans())
def test_a_stream_in_pieces_is_one_stream(seed: int, lengths: list[int], size: int, legacy: bool) -> None:
    new: Callable[[int], Any] = np.random.RandomState if legacy else np.random.default_rng
    whole = reservoir_slots(sum(lengths), size, new(seed))
    rng, seen, parts = new(seed), 0, []
    for length in lengths:
        parts.append(reservoir_slots(length, size, rng, seen))
        seen += length
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(whole[:size], np.arange(min(size, len(whole))))
    assert whole.min() >= -1 and whole.max() < size


def chi_square(counts: np.ndarray, streams: int, size: int) -> float:
    """Of how often each of n items was kept, against M / n of the streams; about n - 1 on average if that is so."""
    n, expected = len(counts), streams * size / len(counts)
    return float(((counts - expected) ** 2).sum() / (expected * (1 - size / n)) * (n - 1) / n)


@pytest.mark.parametrize("new", [np.random.RandomState, np.random.default_rng])
def test_every_item_is_kept_with_equal_probability(new: Callable[[int], Any]) -> None:
    n, size, streams = 24, 5, 3000
    kept = np.zeros(n)
    for seed in range(streams):
        content: dict[int, int] = {}
        for item, slot in enumerate(reservoir_slots(n, size, new(seed))):
            if slot >= 0:
                content[int(slot)] = item
        assert len(content) == size
        kept[list(content.values())] += 1
    assert kept.sum() == streams * size
    assert chi_square(kept, streams, size) < 49.7  # the 0.999 quantile of chi-square with 23 degrees of freedom


def test_what_is_remembered_in_pieces_is_uniform_too() -> None:
    n, size, streams = 24, 5, 600
    kept = np.zeros(n)
    with tiny.seeded(0):
        for _ in range(streams):
            memory = Memory()
            for piece in torch.arange(n).split([3, 10, 1, 10]):
                remember(memory, size, {"item": piece})
            kept[memory["buffer_item"].numpy()] += 1
    assert kept.sum() == streams * size
    assert chi_square(kept, streams, size) < 49.7


# ---- the buffer ---------------------------------------------------------------------------------------------------


def numbered(items: Tensor) -> dict[str, Tensor]:
    """Samples that tell their number in every field."""
    image = items.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return {"image": image, "label": items + 1000, "task": items // 10, "logits": items[:, None] * torch.ones(4)}


def numbers(samples: dict[str, Tensor]) -> list[int]:
    """The numbers of the samples, each of which must say the same in every field."""
    items = samples["label"] - 1000
    for name, values in numbered(items).items():
        assert torch.equal(samples[name], values) and samples[name].dtype == values.dtype, name
    return items.tolist()


@given(seeds, pieces, st.integers(1, 12))
def test_the_buffer_holds_whole_samples_and_no_more_than_its_size(seed: int, lengths: list[int], size: int) -> None:
    memory, content, seen = Memory(), {}, 0
    memory["fisher"] = torch.ones(3)
    with tiny.seeded(seed):
        for length in lengths:
            state = torch.get_rng_state()
            slots = reservoir_slots(length, size, np.random.RandomState(int(torch.randint(2**31 - 1, (1,)))), seen)
            torch.set_rng_state(state)
            remember(memory, size, numbered(torch.arange(seen, seen + length)))
            for item, slot in enumerate(slots.tolist(), start=seen):  # one after another, as items come
                if slot >= 0:
                    content[slot] = item
            seen += length
            held = numbers({name: memory[f"buffer_{name}"] for name in ("image", "label", "task", "logits")})
            assert held == [content[slot] for slot in range(min(size, seen))]
            assert int(memory["buffer_seen"]) == seen
        drawn = recall(memory, 40)
    assert set(drawn) == {"image", "label", "task", "logits"}
    assert len(drawn["label"]) == 40 and set(numbers(drawn)) <= set(held)
    drawn["label"].zero_()
    assert numbers(recall(memory, 3))  # what is drawn is a copy


def test_nothing_is_recalled_before_something_was_kept() -> None:
    memory = Memory()
    memory["fisher"] = torch.ones(3)
    assert recall(memory, 4) == {}


def test_every_row_is_recalled_equally_often() -> None:
    memory = Memory()
    remember(memory, 8, {"item": torch.arange(8)})
    with tiny.seeded(0):
        counts = recall(memory, 8000)["item"].bincount(minlength=8)
    assert float(((counts - 1000.0) ** 2 / 1000).sum()) < 24.3  # the 0.999 quantile, 7 degrees of freedom


def test_the_buffer_survives_a_checkpoint() -> None:
    method = learner(ER, buffer_size=5)
    learn(method, TASKS[0], steps=0)
    other = learner(ER, buffer_size=5)
    other.begin_task(TASKS[0])
    other.load_state_dict(method.state_dict(), strict=False)
    for each in (method, other):
        learn(each, TASKS[1], steps=0)
    assert method.memory.keys() == other.memory.keys()
    assert all(torch.equal(method.memory[name], other.memory[name]) for name in method.memory)


# ---- experience replay --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [ER, DER])
def test_a_task_enters_the_buffer_at_its_end_as_it_is(cls: type[Any]) -> None:
    method, data = learner(cls, buffer_size=12, augment="crop"), [batch(task) for task in TASKS]
    assert cls.keeps_images
    assert learn(method, TASKS[0], data[0]) == learn(learner(SequentialLora, augment="crop"), TASKS[0], data[0])
    learn(method, TASKS[1], data[1])
    method.begin_task(TASKS[2])
    before = {name: tensor.clone() for name, tensor in method.memory.items()}
    with method.learning():
        method.train()
        method.loss(data[2]).backward()
    assert all(torch.equal(method.memory[name], before[name]) for name in before)
    stored = {name: method.memory[f"buffer_{name}"] for name in ("image", "label", "task")}
    assert len(stored["label"]) == 12 and int(method.memory["buffer_seen"]) == 64
    assert stored["image"].dtype == torch.uint8 and set(stored["task"].tolist()) == {0, 1}
    for image, label, index in zip(*stored.values(), strict=True):
        same_image = (data[int(index)]["image"] == image).flatten(1).all(dim=1)
        assert int(same_image.sum()) == 1 and int(data[int(index)]["label"][same_image]) == int(label)


CANDIDATES = [{}, {"candidates": "seen"}, {"candidates": "own"}]


@pytest.mark.parametrize("count", [5, 32])
@pytest.mark.parametrize("chosen", CANDIDATES, ids=str)
def test_replay_is_one_mean_over_the_batch_and_as_many_draws(count: int, chosen: dict[str, str]) -> None:
    """Each over the labels of all tasks so far, or over its own task's; both halves weigh the same."""
    method = learner(ER, buffer_size=20, **chosen)
    for task in TASKS[:2]:
        learn(method, task)
    method.begin_task(TASKS[2])
    data = batch(TASKS[2], count=count)
    with method.learning():
        method.train()
        with tiny.seeded(7):
            loss = method.loss(data)
        with tiny.seeded(7):
            drawn = recall(method.memory, count)
        assert len(set(drawn["task"].tolist())) == 2
        over = chosen.get("candidates", "seen")
        halves = [cross_entropy_by_hand(method, method.embed_image(part), part, over) for part in (data, drawn)]
        close(loss, torch.stack(halves).mean(), 1e-5)
        gradients = (torch.autograd.grad(x, method.trainable_parameters()) for x in (loss, sum(halves) / 2))
        close(*map(flat, gradients), 1e-4)


# ---- DER++ --------------------------------------------------------------------------------------------------------


def remembering(**arguments: Any) -> tuple[DER, list[Tensor]]:
    """In the third task; and the logits of both earlier tasks' images, each at that task's end over what was known."""
    method, answers, known = learner(DER, **arguments), [], []
    for task in TASKS[:2]:
        known += task.labels
        data = batch(task)
        learn(method, task, data)
        with torch.no_grad():
            answers.append(method.scores(data, known, None))
    method.begin_task(TASKS[2])
    return method, answers


def test_stored_logits_are_those_of_the_tasks_end_over_the_labels_known_then() -> None:
    method, answers = remembering(buffer_size=40)
    stored = method.memory["buffer_logits"]
    assert stored.shape == (40, 5) and stored.dtype == torch.float32
    rows = [0, 0]
    for image, index, logits_L in zip(method.memory["buffer_image"], method.memory["buffer_task"], stored, strict=True):
        row = int((batch(TASKS[index])["image"] == image).flatten(1).all(dim=1).nonzero())
        expected = answers[index][row]
        close(logits_L[: len(expected)], expected, 1e-4)
        assert (logits_L[len(expected) :] == torch.inf).all(), "a label that was not known has no logit"
        rows[index] += 1
    assert min(rows) > 10


@pytest.mark.parametrize(
    "alpha, beta, candidates", [(0.3, 0.5, "seen"), (0.3, 0.5, "own"), (0.02, 0.0, "seen"), (0.0, 2.0, "seen")]
)
def test_the_loss_by_hand_with_a_growing_set_of_labels(alpha: float, beta: float, candidates: str) -> None:
    """The squares are over the labels known when the logits were stored, whatever the candidates."""
    method, _ = remembering(buffer_size=20, alpha=alpha, beta=beta, candidates=candidates)
    assert learner(DER).candidates == "seen"
    known = [label for task in TASKS[:2] for label in task.labels]
    data = batch(TASKS[2], count=12)
    with method.learning():
        method.train()
        with tiny.seeded(3):
            loss = method.loss(data)
        with tiny.seeded(3):
            dark, labelled = recall(method.memory, 12), recall(method.memory, 12)
        assert not torch.equal(dark["image"], labelled["image"]), "two draws"
        assert set(dark["task"].tolist()) == {0, 1}
        squares = []
        for i, index in enumerate(dark["task"].tolist()):
            then = known[: 3 if index == 0 else 5]
            features = method.embed_image({"image": dark["image"][i : i + 1]})
            now = method.backbone.logits(features, method.backbone.class_features(then))[0]
            squares += [(a - b) ** 2 for a, b in zip(now, dark["logits"][i], strict=False)]
        expected = cross_entropy_by_hand(method, method.embed_image(data), data, candidates)
        expected = expected + alpha * torch.stack(squares).mean()
        again = cross_entropy_by_hand(method, method.embed_image(labelled), labelled, candidates)
        expected = expected + beta * again
        close(loss, expected, 1e-4)
        gradients = [flat(torch.autograd.grad(x, method.trainable_parameters())) for x in (loss, expected)]
        assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[1].norm()


def test_a_third_task_pads_the_logits_of_both_earlier_ones() -> None:
    method, _ = remembering(buffer_size=200)
    before = method.memory["buffer_logits"].clone()
    with method.learning():
        method.eval()
        method.end_task(TASKS[2], [batch(TASKS[2])])
        stored, kept = method.memory["buffer_logits"], method.memory["buffer_task"]
        assert stored.shape == (96, 7) and torch.equal(stored[:64, :5], before)
        assert torch.equal(stored.isfinite().sum(dim=1), torch.tensor([3, 5, 7])[kept])
        labels = [label for task in TASKS for label in task.labels]
        close(stored[64:], logits(method, batch(TASKS[2]), labels), 1e-4)


@pytest.mark.parametrize("cls", [ER, DER])
def test_it_forgets_less_than_one_lora_without_it(cls: type[Any]) -> None:
    assert forgetting(cls) < 0.5 * sequential_forgetting()


# ---- joint training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", CANDIDATES, ids=str)
def test_joint_training_scores_each_sample_over_its_candidates(chosen: dict[str, str]) -> None:
    method = learner(JointLora, **chosen)
    for task in TASKS:
        method.begin_task(task)
    parts = [batch(task, count=6) for task in TASKS]
    mixed = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    with method.learning():
        loss = method.loss(mixed)
        expected = cross_entropy_by_hand(method, method.embed_image(mixed), mixed, chosen.get("candidates", "seen"))
    close(loss, expected, 1e-5)


def test_one_label_space_leaves_nothing_to_choose() -> None:
    losses = []
    for candidates in ("own", "seen"):
        method = learner(JointLora, candidates=candidates)
        for index in (0, 1):
            method.begin_task(tiny.task(index, [0, 1, 2]))
        with method.learning():
            losses.append(method.loss(batch(tiny.task(1, [0, 1, 2]))))
    assert torch.equal(*losses)


def test_capacity_is_one_lora_or_that_of_one_a_task() -> None:
    ranks = {}
    for capacity in ("task", "stream"):
        method = learner(JointLora, rank=2, capacity=capacity)
        for index in range(3):
            method.begin_task(tiny.task(index, [2 * index, 2 * index + 1], of=3))
        ranks[capacity] = {min(parameter.shape) for parameter in method.trainable_parameters()}
        assert method.experts.scale == method.lora_alpha / (2 if capacity == "task" else 6)
    assert ranks == {"task": {2}, "stream": {6}}


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="buffer_size"):
        ER(buffer_size=0)
    for cls in (ER, DER, JointLora):
        with pytest.raises(ValueError, match=r"^candidates 'sene': choose from own, seen$"):
            cls(candidates="sene")
    with pytest.raises(ValueError, match=r"^capacity 'all': choose from task, stream$"):
        JointLora(capacity="all")
    for name, value in {"buffer_size": 0, "alpha": -0.1, "beta": -0.1}.items():
        with pytest.raises(ValueError, match=f"{name} {value}: need at least"):
            DER(**{name: value})
