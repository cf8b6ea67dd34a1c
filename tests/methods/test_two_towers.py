"""Methods on image and text: LoRA in both towers, frozen class prompts, a router for what is there, EWC's pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.stream import Budget, Task
from methods.base import Batch, belongs, contrastive_loss, fused
from methods.er import ER
from methods.ewc import EWC
from methods.independent_lora import IndependentLora
from methods.l2p import L2P
from methods.mslora_cr import MSLoRACR
from methods.parts import router
from methods.parts.experts import Experts
from methods.parts.memory import Memory
from methods.sequential_lora import SequentialLora
from tests import tiny

WORDS = ("dense nuclei", "pale nuclei", "wide heart", "small heart", "clear lung", "dim lung")


def task(index: int, kind: str) -> Task:
    labels = () if kind == "retrieval" else (tiny.label(2 * index), tiny.label(2 * index + 1))
    return Task(index, f"task{index}", ("pathology", "radiology")[index % 2], kind, labels, 2)


def batch(index: int, kind: str, count: int = 8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(10 * seed + index)
    words = [WORDS[int(i)] for i in torch.randint(len(WORDS), (count,), generator=generator)]
    labels_B = torch.arange(count) if kind == "retrieval" else 2 * index + torch.arange(count) % 2
    shade = torch.tensor([200, 80])[index]
    return {
        "image": (tiny.images(count, 10 * seed + index) // 4 + shade // 2).to(torch.uint8),
        "text": tiny.tokenize([f"{word} {'a' * index}" for word in words]),
        "label": labels_B,
        "task": torch.full((count,), index),
        "index": torch.arange(count),
    }


def learner(cls: type[Any], **arguments: Any) -> Any:
    with tiny.seeded(0):
        method = cls(**arguments)
        method.attach(tiny.backbone().with_text(), Budget(augment="none"))
    return method


def learn(method: Any, kind: str, tasks: int = 2, steps: int = 3) -> None:
    for index in range(tasks):
        with tiny.seeded(index):
            method.begin_task(task(index, kind))
        with method.learning(), tiny.seeded(index):
            method.train()
            optimizer = torch.optim.Adam(method.trainable_parameters(), lr=0.01)
            for _ in range(steps):
                optimizer.zero_grad()
                method.loss(batch(index, kind)).backward()
                optimizer.step()
            method.eval()
            method.end_task(task(index, kind), [batch(index, kind)])


def without(some: Batch, *names: str) -> Batch:
    return {name: values for name, values in some.items() if name not in (*names, "label", "task")}


@pytest.mark.parametrize("kind", ["fusion", "retrieval"])
@pytest.mark.parametrize("cls", [SequentialLora, IndependentLora, MSLoRACR, ER, EWC])
def test_lora_moves_both_towers_and_no_class_prompt(cls: type[Any], kind: str) -> None:
    method = learner(cls)
    labels = [tiny.label(i) for i in range(4)]
    before = tiny.backbone().class_features(labels)
    learn(method, kind)
    factors = {name: p for name, p in method.backbone.named_parameters() if "lora_B" in name}
    moved = {name.split(".")[0] for name, p in factors.items() if p.abs().sum() > 0}
    assert moved == {"image", "text"} == {name.split(".")[0] for name in factors}
    with method.learning():
        assert torch.allclose(method.backbone.class_features(labels), before, atol=1e-6)


def test_the_image_tower_alone_is_adapted_where_text_is_no_input_or_has_no_blocks() -> None:
    backbone = tiny.backbone()
    assert backbone.adapted is backbone.image
    assert backbone.with_text().adapted is backbone
    other = tiny.backbone()
    other.text = other.frozen_text = nn.Identity()
    assert other.with_text().adapted is other.image


def test_an_expert_of_both_towers_is_saved_and_loaded(tmp_path: Path) -> None:
    backbone = tiny.backbone().with_text()
    pool = Experts(backbone.adapted, 4, 4.0)
    for name in ("one", "two"):
        pool.add(name)
        tiny.shake_all(pool.parameters(name), 3)
    pool.save("one", tmp_path)
    pool.load("two", tmp_path)
    assert len(pool.factors("one")[0]) == 6 * (tiny.LAYERS + 2)
    assert all(torch.equal(a, b) for a, b in zip(pool.parameters("one"), pool.parameters("two"), strict=True))
    some = batch(0, "fusion")
    pristine = tiny.backbone().text(some["text"])
    with pool.blend({"one": 1.0}):
        assert not torch.allclose(backbone.text(some["text"]), pristine, atol=1e-3)
    assert torch.equal(backbone.text(some["text"]), pristine)


def test_fused_is_the_sum_of_unit_features() -> None:
    image, text = torch.randn(3, 5), torch.randn(3, 5)
    expected = image / image.norm(dim=1, keepdim=True) + text / text.norm(dim=1, keepdim=True)
    assert torch.allclose(fused(image, text), expected)
    assert fused(image, None) is image and fused(None, text) is text


def test_what_is_there_decides_which_router_answers() -> None:
    memory = Memory()
    kinds = {"router": ["image"], "router_text": ["text"], "router_image_text": ["image", "text"]}
    for index in range(2):
        seen: list[set[str]] = []

        def embed(part: Batch, seen: list[set[str]] = seen, index: int = index) -> Tensor:
            seen.append(set(part))
            return F.one_hot(torch.full((8,), 2 * len(part) + index), 8).float() + 0.01 * torch.rand(8, 8)

        router.learn_task(memory, task(index, "fusion"), [batch(index, "fusion")], embed, "ncm")
        assert seen == [{"image"}, {"text"}, {"image", "text"}]
    for name, inputs in kinds.items():
        part = {each: batch(0, "fusion")[each] for each in inputs}
        assert router.name_of(part) == name
        for index in range(2):
            features = F.one_hot(torch.full((8,), 2 * len(part) + index), 8).float()
            assert router.task_scores(memory, features, 2, name).argmax(dim=1).tolist() == [index] * 8
    memory = Memory()
    router.learn_task(memory, task(0, "retrieval"), [batch(0, "retrieval")], lambda part: torch.rand(8, 4), "ncm")
    assert {name for name in memory if name.endswith("means")} == {"router_means", "router_text_means"}
    assert len(memory["router_means"]) == 1  # retrieval has no classes: a mean a task


@pytest.mark.parametrize("missing", [(), ("image",), ("text",)])
def test_hidden_answers_are_those_of_the_routed_task(missing: tuple[str, ...]) -> None:
    method = learner(IndependentLora)
    learn(method, "fusion")
    tasks = [task(index, "fusion") for index in range(2)]
    labels = [label for each in tasks for label in each.labels]
    some = {
        name: torch.cat([a, b])
        for (name, a), b in zip(batch(0, "fusion").items(), batch(1, "fusion").values(), strict=True)
    }
    some = without(some, *missing)
    route, hidden = method.route(some), method.scores(some, labels, None)
    for row, index in enumerate(route.tolist()):
        one = {name: values[row : row + 1] for name, values in some.items()}
        own = method.scores(one, tasks[index].labels, tasks[index])[0]
        assert torch.allclose(hidden[row, 2 * index : 2 * index + 2], own, atol=1e-3)
        assert hidden[row].argmax() // 2 == index


def test_by_route_puts_every_sample_back_in_its_place() -> None:
    route = torch.tensor([2, 0, -1, 2, 0])
    some = {"index": torch.arange(5)}
    answers = router.by_route(route, some, lambda index, part: part["index"].float()[:, None] + 100 * index)
    assert answers[:, 0].tolist() == [200.0, 1.0, -98.0, 203.0, 4.0]


def test_replay_keeps_texts() -> None:
    method = learner(ER, buffer_size=4)
    learn(method, "retrieval", tasks=1)
    assert set(method.memory) == {"buffer_image", "buffer_text", "buffer_label", "buffer_task", "buffer_seen"}
    kept, known = method.memory["buffer_text"], batch(0, "retrieval")
    for row, label in enumerate(method.memory["buffer_label"].tolist()):
        assert torch.equal(kept[row], known["text"][label])
        assert torch.equal(method.memory["buffer_image"][row], known["image"][label])


def test_ewc_holds_every_pair_by_its_own_gradient() -> None:
    """The Fisher of retrieval against autograd, pair by pair, the others' features constant."""
    method = learner(EWC)
    method.begin_task(task(0, "retrieval"))
    tiny.shake_all(method.experts.parameters("shared"), 5)
    some = batch(0, "retrieval", 5) | {"label": torch.tensor([0, 1, 1, 2, 3])}
    with method.learning():
        method.eval()
        method.end_task(task(0, "retrieval"), [some])
        parameters = method.trainable_parameters()
        fixed = {name: F.normalize(method.embed({name: some[name]}), dim=1).detach() for name in ("image", "text")}
        squares = []
        for row in range(5):
            target = belongs(some)[row].float()
            loss = torch.zeros(())
            for own, other in (("image", "text"), ("text", "image")):
                mine = F.normalize(method.embed({own: some[own][row : row + 1]}), dim=1)
                log_p = (method.backbone.logit_scale.exp() * mine @ fixed[other].T).log_softmax(1)[0]
                loss = loss - (target * log_p).sum() / target.sum() / 2
            grads = torch.autograd.grad(loss, parameters)
            squares.append(torch.cat([grad.flatten() for grad in grads]) ** 2)
    expected = torch.stack(squares).mean(0)
    assert torch.allclose(method.memory["fisher"], expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


def test_l2p_prompts_the_image_and_leaves_the_text() -> None:
    method = learner(L2P, pool=4, length=2, top_k=2)
    learn(method, "retrieval")
    some, pristine = batch(0, "retrieval"), tiny.backbone()
    with torch.no_grad():
        assert torch.equal(method.embed_text(some), pristine.text(some["text"]))
        assert not torch.allclose(method.embed_image(some), pristine.image(method.views(some["image"], False)))
        image, text = method.embed_image(some), method.embed_text(some)
        contrast = contrastive_loss(image, text, belongs(some), method.backbone.logit_scale.exp())
        assert torch.allclose(method.objective(some, image, text), contrast)
