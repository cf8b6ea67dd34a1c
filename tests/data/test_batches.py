"""LIMIT, the samples of a task as tensors, and batches of them in order, shuffled or balanced."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data import batches as module
from benchmark.data import sources
from benchmark.data.batches import Batches, Rows, Samples, TaskData, limited, placed, task_data, training_batches
from benchmark.data.cache import cached, resized
from benchmark.data.sources.images import Images
from benchmark.errors import UserError
from benchmark.stream import Label, Task
from tests.source_files import (
    COUNTS,
    QUESTIONS,
    YES_NO,
    arrays,
    fusion,
    in_table,
    npz_source,
    pixels,
    save,
    saved,
    written,
)

CPU = torch.device("cpu")


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 70))
def test_limited_takes_the_first_of_each_class_in_turn(labels: list[int], limit: int) -> None:
    given_labels = np.array(labels)
    kept = limited(given_labels, limit)
    assert kept.tolist() == sorted(set(kept.tolist())) and len(kept) == min(limit, len(labels))
    taken = {c: [i for i in kept.tolist() if labels[i] == c] for c in set(labels)}
    for c, indices in taken.items():
        assert indices == np.flatnonzero(given_labels == c)[: len(indices)].tolist()
    for c, d in itertools.permutations(taken, 2):  # a class has fewer only if it has no more
        assert len(taken[c]) >= min(len(taken[d]) - 1, labels.count(c))
    assert np.array_equal(kept, limited(given_labels.copy(), limit))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 39))
def test_a_larger_limit_keeps_what_a_smaller_one_took(labels: list[int], limit: int) -> None:
    few, more = (set(limited(np.array(labels), n).tolist()) for n in (limit, limit + 1))
    assert few <= more


def test_limited_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    assert limited(labels, 3).tolist() == [0, 4, 6]
    assert limited(labels, 5).tolist() == [0, 1, 4, 5, 6]
    assert limited(labels, 6).tolist() == [0, 1, 2, 4, 5, 6]
    assert limited(labels, None).tolist() == list(range(7))


def task(index: int, ids: list[int]) -> Task:
    return Task(index, f"t{index}", "ct", "classification", tuple(Label(i, f"c{i}", (f"c{i}",)) for i in ids), 2)


def test_a_column_of_groups_counts_where_the_images_are_cached_already(tmp_path: Path) -> None:
    rows = [
        {"file": f"{i}.png", "finding": "ab"[i % 2], "part": ("train", "val", "test", "test")[i % 4], "who": i // 8}
        for i in range(24)
    ]
    for i in range(24):
        save(tmp_path / f"{i}.png", pixels(i))
    columns = {"image": "file", "label": "finding", "split": "part"}
    found = []
    for more in ({}, {"group": "who"}):
        source = in_table(written(tmp_path, rows), columns=columns | more, values=["a", "b"], allow_leak=True)
        made = task_data(task(0, [0, 1]), source, sources.identity(source), 8, 8)
        found.append(made.splits["test"].groups)
        assert len(made.splits["test"]) == 8
    assert found[0] is None and found[1] is not None
    assert found[1].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]  # of twelve test images the first eight


@pytest.mark.parametrize("limit", [None, 3])
def test_task_data_has_global_ids_and_obeys_the_limit(limit: int | None, tmp_path: Path) -> None:
    content = arrays()
    source = npz_source(saved(tmp_path, content))
    data = task_data(task(4, [10, 11, 12]), source, sources.identity(source), 8, limit)
    for split, n in COUNTS.items():
        images, labels = data.splits[split].images, data.splits[split].labels
        assert images is not None
        expected = resized(content[f"{split}_images"], 8)[: limit or n]
        assert np.array_equal(images.numpy(), expected) and images.dtype == torch.uint8
        assert labels.tolist() == [10 + i % 3 for i in range(limit or n)]
    batch = next(iter(data.batches("test", CPU)))
    assert batch["task"].tolist() == [4] * len(batch["label"]) and batch["index"].tolist() == [*range(limit or 4)]


def test_labels_are_checked_against_the_classes_also_when_cached(tmp_path: Path) -> None:
    path = saved(tmp_path, arrays())
    told = sources.identity(npz_source(path))
    cached(npz_source(path), told, 8)
    with pytest.raises(UserError, match=r"train_labels: labels 0\.\.2 but .* lists 2 classes"):
        task_data(task(0, [0, 1]), npz_source(path, ("a", "b")), told, 8, None)


def parts(*counts: int) -> list[TaskData]:
    """Tasks whose images tell task and sample: every pixel is the sample, the label id too."""
    made = []
    for index, count in enumerate(counts):
        images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
        made.append(TaskData(task(index, [0]), {"train": Samples(images, torch.arange(count) + 100 * index)}))
    return made


def epoch(batches: Batches) -> dict[str, torch.Tensor]:
    found = list(batches)
    assert len(found) == len(batches)
    return {key: torch.cat([batch[key] for batch in found]) for key in found[0]}


@given(st.integers(1, 40), st.integers(1, 9))
def test_stored_order_has_every_sample_once(count: int, size: int) -> None:
    (data,) = parts(count)
    seen = epoch(Batches([(data.splits["train"], 0)], size, CPU))
    assert seen["index"].tolist() == seen["label"].tolist() == list(range(count))
    assert {key: value.dtype for key, value in seen.items()} == {
        "image": torch.uint8, "label": torch.int64, "task": torch.int64, "index": torch.int64,
    }  # fmt: skip


@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_has_every_sample_once_with_its_own_label(counts: list[int], size: int, seed: int) -> None:
    seen = epoch(training_batches(parts(*counts), size, CPU, lambda: seed))
    assert sorted(seen["index"].tolist()) == list(range(sum(counts)))
    assert seen["label"].tolist() == [
        100 * t + i for t, i in zip(seen["task"].tolist(), seen["image"][:, 0, 0, 0].tolist(), strict=True)
    ]


def test_the_epochs_seed_makes_the_order() -> None:
    seeds = iter([1, 2, 1])
    batches = training_batches(parts(30), 7, CPU, lambda: next(seeds))
    first, second, again = (epoch(batches)["index"].tolist() for _ in range(3))
    assert first == again != second
    torch.manual_seed(123)  # the global generator has no part in it
    assert epoch(training_batches(parts(30), 7, CPU, lambda: 1))["index"].tolist() == first


def test_balanced_draws_every_task_equally_often_in_as_many_steps() -> None:
    seeds = iter([3, 4])
    batches = training_batches(parts(5, 20, 8), 6, CPU, lambda: next(seeds), balanced=True)
    seen = epoch(batches)
    assert torch.bincount(seen["task"]).tolist() == [11, 11, 11] and len(batches) == -(-(5 + 20 + 8) // 6)
    times = torch.bincount(seen["index"], minlength=33)
    assert sorted(times[:5].tolist()) == [2, 2, 2, 2, 3]  # 5 samples, 11 draws
    assert sorted(times[5:25].tolist()) == [0] * 9 + [1] * 11 and sorted(times[25:].tolist()) == [1] * 5 + [2] * 3
    assert set(epoch(batches)["index"].tolist()) != set(seen["index"].tolist())  # the large task in turn


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 5))
def test_a_balanced_epoch_is_as_long_as_another(counts: list[int], size: int, seed: int) -> None:
    seen = epoch(training_batches(parts(*counts), size, CPU, lambda: seed, balanced=True))
    drawn = torch.bincount(seen["task"], minlength=len(counts))
    assert drawn.sum() == sum(counts) and drawn.max() - drawn.min() <= 1


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_rows_of_several_tensors_are_those_of_one(counts: list[int], data: st.DataObject) -> None:
    """Taken without putting the tensors together, which may be memory maps."""
    parts = [torch.arange(6 * count, dtype=torch.uint8).view(count, 2, 3) + 40 * i for i, count in enumerate(counts)]
    rows = torch.tensor(data.draw(st.lists(st.integers(0, sum(counts) - 1), min_size=1, max_size=12)))
    taken = Rows(parts).take(rows, CPU)
    assert torch.equal(taken, torch.cat(parts)[rows]) and taken.dtype == torch.uint8


@pytest.mark.parametrize("room", [True, False])
def test_what_is_on_the_device_is_decided_once_for_all_tasks(room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And for the splits that a run uses: else joint training would meet some tasks here and some there."""
    asked, away = [], torch.device("meta")
    monkeypatch.setattr(module, "fits", lambda size, device: (asked.append((size, device)), room)[1])
    tasks = [TaskData(d.task, d.splits | {"val": d.splits["train"], "test": d.splits["train"]}) for d in parts(5, 20)]
    found = placed(tasks, {"train", "test"}, away)
    assert asked == [(2 * 25 * 3 * 2 * 2, away)]
    devices = [{name: str(own.labels.device if own.images is None else own.images.device)
                for name, own in data.splits.items()} for data in found]  # fmt: skip
    where = "meta" if room else "cpu"
    assert devices == [{"train": where, "val": "cpu", "test": where}] * 2
    batches = training_batches(found, 7, away, lambda: 1)
    assert [(len(batch["image"]), str(batch["image"].device)) for batch in batches] == [
        (size, "meta") for size in (7, 7, 7, 4)
    ]


def with_texts(index: int) -> TaskData:
    """Two images and two texts in four samples; a text tells the task and its row."""
    pairs = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0]])
    texts = torch.tensor([2 * index, 2 * index + 1])
    images = texts.byte().view(2, 1, 1, 1).expand(2, 3, 2, 2).contiguous()
    samples = Samples(images, texts[pairs[:, 1]], texts[:, None], pairs)
    return TaskData(task(index, [0]), {"train": samples, "test": samples})


def test_batches_select_the_image_and_the_text_of_every_sample() -> None:
    data = with_texts(1)
    (batch,) = data.batches("test", CPU)
    assert batch["text"][:, 0].tolist() == [2, 3, 3, 2] == batch["label"].tolist()
    assert batch["image"][:, 0, 0, 0].tolist() == [2, 2, 3, 3] and batch["index"].tolist() == [0, 1, 2, 3]
    for inputs, other in (("image", "text"), ("text", "image")):
        (alone,) = data.batches("test", CPU, inputs)
        assert set(alone) == {"image", "text", "label", "task", "index"} - {other}
        assert torch.equal(alone[inputs], batch[inputs])
        (items,) = data.items("test", CPU, inputs)
        assert other not in items and items[inputs].flatten(1)[:, 0].tolist() == [2, 3]
        assert items["label"].tolist() == [0, 1] and items["task"].tolist() == [1, 1]


def test_an_epoch_of_several_tasks_keeps_their_pairs() -> None:
    seen = epoch(training_batches([with_texts(0), with_texts(1)], 3, CPU, lambda: 5))
    expected = {(0, 0), (0, 1), (1, 1), (1, 0), (2, 2), (2, 3), (3, 3), (3, 2)}
    assert set(zip(seen["image"][:, 0, 0, 0].tolist(), seen["text"][:, 0].tolist(), strict=True)) == expected
    assert torch.equal(seen["label"], seen["text"][:, 0]) and torch.equal(seen["label"] // 2, seen["task"])


def test_processes_take_their_part_of_every_batch() -> None:
    whole = [batch["index"].tolist() for batch in training_batches(parts(23), 5, CPU, lambda: 1)]
    halves = [training_batches(parts(23), 5, CPU, lambda: 1, part=(rank, 2)) for rank in range(2)]
    assert len(halves[0]) == len(halves[1]) == len(whole) == 5
    for batch, *both in zip(whole, *halves, strict=True):
        assert [index for half in both for index in half["index"].tolist()] == batch
    assert [share.size for number in range(5) if (share := halves[0].share(number))] == [5, 5, 5, 5, 3]


@pytest.mark.parametrize("limit", [None, 5])
def test_task_data_keeps_the_images_and_texts_that_its_samples_name(limit: int | None, twenty: Path) -> None:
    source = fusion(written(twenty, QUESTIONS))
    rows = [row for row in QUESTIONS if row["part"] == "train"]

    def tokenize(texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[int(text.split()[1])] for text in texts])

    train = task_data(task(0, [7, 8]), source, sources.identity(source), 8, limit, tokenize).splits["train"]
    assert train.images is not None and train.texts is not None and train.pairs is not None
    kept = limited(np.array([YES_NO.index(row["answer"]) for row in rows]), limit)
    for (image, text), label, row in zip(train.pairs.tolist(), train.labels.tolist(), kept, strict=True):
        expected = resized(Images([twenty / rows[row]["file"]]), 8)[0]
        assert np.array_equal(train.images[image].numpy(), expected)
        assert rows[row]["question"] == f"question {train.texts[text].item()}"
        assert label == 7 + YES_NO.index(rows[row]["answer"])
    assert len(train.images) == len({rows[row]["file"] for row in kept})


def test_a_subgroup_of_every_sample_that_is_kept(twenty: Path) -> None:
    source = fusion(written(twenty, QUESTIONS), subgroups=["kind"])

    def tokenize(texts: Sequence[str]) -> torch.Tensor:
        return torch.zeros(len(texts), 1, dtype=torch.long)

    for limit in (None, 5):
        train = task_data(task(0, [7, 8]), source, sources.identity(source), 8, limit, tokenize).splits["train"]
        rows = [row for row in QUESTIONS if row["part"] == "train"]
        kept = limited(np.array([YES_NO.index(row["answer"]) for row in rows]), limit)
        kind = train.subgroups["kind"]
        assert [kind.values[number] for number in kind.numbers] == [rows[row]["kind"] for row in kept]
