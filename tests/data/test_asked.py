"""Samples of tasks that are asked in words: prompts, targets, batches of them, images that a tower has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.data import seen_once as module
from benchmark.data import sources
from benchmark.data.batches import TaskData, placed, task_data, training_batches
from benchmark.data.cache import resized
from benchmark.data.catalog import Source
from benchmark.data.seen_once import seen
from benchmark.data.sources.images import Images
from benchmark.stream import Label, Task
from tests.source_files import WHERE, fusion, in_table, pixels, save, written

CPU = torch.device("cpu")
NAMES = ("no", "yes")
ROWS = [
    {"file": f"{i // 2}.png", "asked": f"question{'x' * (i % 3)}", "told": ("yes", "no", "a ring")[i % 3],
     "finding": NAMES[i % 2], "part": part}
    for i, part in enumerate(["train"] * 12 + ["val"] * 4 + ["test"] * 6)
]  # fmt: skip


class Characters:
    """A token a character, and of an image its mean colour."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def prompts(self, texts: Sequence[str]) -> Tensor:
        width = max(map(len, texts))
        return torch.tensor([[*map(ord, text), *[-1] * (width - len(text))] for text in texts])

    targets = prompts

    def seen(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8 and images.ndim == 4
        self.calls.append(len(images))
        return images.float().mean(dim=(2, 3))[:, None]


def text(tokens: Tensor) -> str:
    kept = tokens[tokens >= 0]
    assert torch.equal(kept, tokens[: len(kept)])  # what is no token stands at the right end
    return "".join(map(chr, kept.tolist()))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for i in range(11):
        save(tmp_path / f"{i}.png", pixels(i, (8, 8, 3)))
    return written(tmp_path, ROWS)


def generation(path: Path) -> Source:
    columns = {"image": "file", "instruction": "asked", "answer": "told", "split": "part"}
    return Source(WHERE, "table", (), {"path": path, "columns": columns}, "generation", answers=("yes", "no", "a ring"))


def task(kind: str, index: int = 0, instruction: str = "") -> Task:
    labels = () if kind == "generation" else tuple(Label(7 + i, name, (name,)) for i, name in enumerate(NAMES))
    return Task(index, f"t{index}", "ct", kind, labels, 2, instruction=instruction)


def read(kind: str, source: Source, index: int = 0, limit: int | None = None, instruction: str = "") -> TaskData:
    made = task(kind, index, instruction)
    return task_data(made, source, sources.identity(source), 8, limit, words=Characters())


@pytest.mark.parametrize("limit", [None, 5])
def test_every_sample_has_its_image_question_and_answer(limit: int | None, files: Path) -> None:
    data = read("generation", generation(files), limit=limit)
    rows = [row for row in ROWS if row["part"] == "train"]
    rows = rows if limit is None else [rows[i] for i in (0, 1, 2, 3, 4)]
    train = data.splits["train"]
    assert train.instructions == tuple(row["asked"] for row in rows) and train.texts is None
    assert train.references == tuple(row["told"] for row in rows)
    assert train.closed is not None and train.closed.tolist() == [True] * len(rows)
    assert train.groups is not None and train.groups.tolist() == [i // 2 for i in range(len(rows))]
    assert train.images is not None and len(train.images) == len({row["file"] for row in rows})
    (batch,) = data.batches("train", CPU)
    assert set(batch) == {"image", "prompt", "target", "target_mask", "label", "task", "index"}
    expected = resized(Images([files.parent / row["file"] for row in rows]), 8)
    assert np.array_equal(batch["image"].numpy(), expected)
    assert [text(tokens) for tokens in batch["prompt"]] == [row["asked"] for row in rows]
    assert [text(tokens) for tokens in batch["target"]] == [row["told"] for row in rows]
    assert batch["target_mask"].sum(dim=1).tolist() == [len(row["told"]) for row in rows]
    assert batch["target_mask"].dtype == torch.bool and batch["label"].tolist() == [i % 3 for i in range(len(rows))]
    for name, values in {"prompt": train.prompts, "target": train.targets}.items():
        assert values is not None and torch.equal(values[train.rows(name)], batch[name])


def test_classes_are_answered_by_their_names(files: Path) -> None:
    columns = {"image": "file", "label": "finding", "split": "part"}
    source = replace(in_table(files, columns=columns), classes=NAMES)
    data = read("classification", source, instruction="Which?")
    (batch,) = data.batches("test", CPU)
    assert {text(tokens) for tokens in batch["prompt"]} == {"Which?"} and batch["label"].tolist() == [7, 8] * 3
    assert [text(tokens) for tokens in batch["target"]] == ["no", "yes"] * 3
    test = data.splits["test"]
    assert (test.closed, test.bare, test.references) == (None, None, ("no", "yes") * 3)
    alone = task_data(task("classification"), source, sources.identity(source), 8, None)  # and without words as ever
    assert alone.splits["test"].prompts is None and alone.splits["test"].pairs is None
    assert test.images is not None and alone.splits["test"].images is not None
    assert torch.equal(batch["image"], alone.splits["test"].images)


def test_the_text_of_fusion_stands_below_the_instruction_and_may_be_withheld(files: Path) -> None:
    columns = {"image": "file", "text": "asked", "label": "finding", "split": "part"}
    data = read("fusion", fusion(files, columns=columns), instruction="Which?")
    rows = [row for row in ROWS if row["part"] == "test"]
    (batch,) = data.batches("test", CPU)
    assert [text(tokens) for tokens in batch["prompt"]] == [f"Which?\n{row['asked']}" for row in rows]
    assert "text" not in batch and batch["label"].tolist() == [7 + NAMES.index(row["finding"]) for row in rows]
    (without,) = data.batches("test", CPU, "image")
    assert {text(tokens) for tokens in without["prompt"]} == {"Which?"}
    assert torch.equal(without["image"], batch["image"]) and torch.equal(without["target"], batch["target"])
    (blind,) = data.batches("test", CPU, "text")
    assert "image" not in blind and torch.equal(blind["prompt"], batch["prompt"])


def test_tasks_of_several_kinds_and_widths_are_learned_together(files: Path) -> None:
    columns = {"image": "file", "label": "finding", "split": "part"}
    classes = replace(in_table(files, columns=columns), classes=NAMES)
    both = [read("generation", generation(files)), read("classification", classes, 1, instruction="A longer question?")]
    expected = {
        (own.task.index, *told) for own in both
        for told in zip(own.splits["train"].instructions, own.splits["train"].references, strict=True)
    }  # fmt: skip
    found, widths = set(), set()
    for batch in training_batches(both, 5, CPU, lambda: 3):
        widths.add((batch["prompt"].shape[1], batch["target"].shape[1]))
        assert torch.equal(batch["target_mask"], batch["target"] >= 0)
        texts = [[text(tokens) for tokens in batch[name]] for name in ("prompt", "target")]
        found |= set(zip(batch["task"].tolist(), *texts, strict=True))
    assert found == expected and widths == {(18, 6)}


def test_a_tower_sees_every_image_once(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 4)
    data, words = read("generation", generation(files)), Characters()
    (looked,) = seen([data], {"train", "test"}, words)
    assert words.calls == [1, 4, 2, 3]  # the first tells the size
    for split in ("train", "test"):
        before, after = data.splits[split].images, looked.splits[split].images
        assert before is not None and after is not None and after.dtype == torch.float32
        assert torch.equal(after, words.seen(before))
    assert looked.splits["val"].images is data.splits["val"].images
    (batch,) = looked.batches("test", CPU)
    (pixel,) = data.batches("test", CPU)
    assert torch.equal(batch["image"], words.seen(pixel["image"])) and batch["image"].shape == (6, 1, 3)


def test_features_that_memory_has_no_room_for_are_not_kept(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, size = read("generation", generation(files)), 4 * 3 * (6 + 3)  # bytes of the features of train and test
    for room, kept in ((4 * size, True), (4 * size - 1, False)):
        monkeypatch.setattr(module, "machine_memory", lambda room=room: room)
        words = Characters()
        (looked,) = seen([data], ["train", "test"], words)
        images = looked.splits["test"].images
        assert images is not None and images.is_floating_point() == kept and (words.calls == [1]) != kept
    assert seen([TaskData(data.task, {"test": data.splits["test"].only("text")})], ["test"], Characters())


def test_prompts_and_targets_are_on_the_device(files: Path) -> None:
    (moved,) = placed([read("generation", generation(files))], {"train"}, torch.device("meta"))
    train, test = moved.splits["train"], moved.splits["test"]
    found = [train.images, train.prompts, train.targets, test.prompts]
    assert [str(values.device) for values in found if values is not None] == ["cpu", "meta", "meta", "cpu"]


def test_facts_come_from_the_reader(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read("generation", generation(files)).facts is None
    told = {"size": "large"}
    monkeypatch.setattr(sources.table, "facts", lambda source: lambda text: told, raising=False)
    facts = read("generation", generation(files)).facts
    assert facts is not None and facts("a large spot") == told
