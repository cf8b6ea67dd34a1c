"""MSLoRA-MoECR: with unit weights it is MSLoRA-CR to the last bit; otherwise what its mask and weights say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmark.stream import Budget, Task
from benchmark.testing import check_method
from benchmark.testing.bench import Bench, assert_same, state
from methods.mslora_cr import MSLoRACR
from methods.mslora_moecr import Gate, MSLoRAMoECR, parse_masks
from methods.parts import backbones
from tests import tiny

MODALITIES = ("pathology", "radiology", "pathology", "radiology")
LAYERS = 6 * tiny.LAYERS
SCOPES = [("shared", 1), ("layer", LAYERS)]  # and how many sets of weights


def test_all_experts_with_unit_weights_are_mslora_cr_to_the_last_bit(tmp_path: Path) -> None:
    theirs = Bench(MSLoRACR, tmp_path / "theirs").run()
    ours = Bench(tiny.given(MSLoRAMoECR, weights="unit"), tmp_path / "ours").run()
    assert ours.record.scores == theirs.record.scores
    assert_same(state(ours.method), state(theirs.method), "MSLoRA-MoECR and MSLoRA-CR")


@pytest.mark.parametrize(
    "weights, mask, scope",
    [
        pytest.param("mean", "modality", "shared", marks=pytest.mark.slow),  # the defaults: test_methods.py
        pytest.param("softmax", "list", "shared", marks=pytest.mark.slow),
        pytest.param("cls_gate", "list", "layer", marks=pytest.mark.slow),
    ],
)
def test_the_contract_is_kept(weights: str, mask: str, scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "load", lambda name: tiny.backbone())
    listed = "-;0" if mask == "list" else ""
    arguments = {"weights": weights, "mask": mask, "mask_list": listed, "scope": scope}
    check_method(tiny.given(MSLoRAMoECR, **arguments), raise_on_failure=True)


def task(index: int) -> Task:
    return tiny.task(index, [2 * index, 2 * index + 1], MODALITIES[index])


def grown(tasks: int, **arguments: object) -> MSLoRAMoECR:
    """A method in training after ``tasks`` begun tasks, its experts and newest gate away from where they began."""
    method = MSLoRAMoECR(rank=2, lora_alpha=4.0, **arguments)  # type: ignore[arg-type]
    method.attach(tiny.backbone(), Budget(augment="none"))
    with tiny.seeded():
        for index in range(tasks):
            method.begin_task(task(index))
            tiny.shake_all(method.trainable_parameters(), seed=index)
    return method.train()


def batch(index: int, seed: int = 0, n: int = 4) -> dict[str, Tensor]:
    labels = torch.tensor([2 * index + i % 2 for i in range(n)])
    return {"image": tiny.images(n, seed), "label": labels, "task": torch.full((n,), index), "index": torch.arange(n)}


def end(method: MSLoRAMoECR, *batches: dict[str, Tensor]) -> Tensor | None:
    """End the newest task; the (layers, experts) weights that are kept."""
    method.eval()
    with method.learning():
        method.end_task(method.tasks[-1], batches)
    method.train()
    return method.memory.get(f"weights_{len(method.tasks) - 1}")


def learned(cls: type, **arguments: object) -> MSLoRAMoECR:
    """Three tasks, three steps each; what is kept of the earlier ones must stay to the bit."""
    method, kept = cls(rank=2, **arguments), {}
    method.attach(tiny.backbone().double(), Budget(augment="none"))  # Adam makes much of a float's rounding
    with tiny.seeded():
        for index in range(3):
            method.begin_task(task(index))
            method.train()
            with method.learning():
                optimizer = torch.optim.Adam(method.trainable_parameters(), lr=1e-2)
                for step in range(3):
                    optimizer.zero_grad()
                    method.loss(batch(index, seed=step)).backward()
                    optimizer.step()
            end(method, batch(index))
            now = {k: v for k, v in state(method).items() if "lora_" in k or k.startswith(("gates", "weights_"))}
            assert_same(kept, {k: now[k] for k in kept}, "a later task")
            kept = now
    return method


@pytest.mark.parametrize(
    "arguments, same",
    [
        ({"weights": "unit"}, True),
        ({"weights": "unit", "mask": "list", "mask_list": "-;0;1,0"}, True),
        ({"weights": "unit", "mask": "modality"}, False),
        ({"weights": "unit", "mask": "list", "mask_list": "-;-;0"}, False),
        ({"weights": "mean"}, False),
        ({}, False),
        ({"weights": "cls_gate"}, False),
    ],
    ids=str,
)
def test_any_other_mask_or_weight_learns_something_else(arguments: dict[str, str], same: bool) -> None:
    """The first task is the same for all of them: where its one expert is computed apart, to rounding."""
    theirs, ours = learned(MSLoRACR), learned(MSLoRAMoECR, **arguments)
    for index in range(3):
        pairs = zip(theirs.experts.parameters(f"task{index}"), ours.experts.parameters(f"task{index}"), strict=True)
        furthest = [(p - q).abs().max() for p, q in pairs]
        assert all(not far if same else far < 1e-12 if not index else far > 1e-5 for far in furthest)
    assert len(ours.gates) == (3 if arguments.get("weights", "softmax") in ("softmax", "cls_gate") else 0)


@pytest.mark.parametrize(
    "arguments, begun, expected",
    [
        ({"mask": "all"}, 4, ["0", "01", "012", "0123"]),
        ({"mask": "modality"}, 4, ["0", "1", "02", "13"]),
        ({"mask": "list", "mask_list": "-;0;1;0,2"}, 4, ["0", "01", "12", "023"]),
        ({"mask": "list", "mask_list": "0; ;2, 0;3"}, 4, ["0", "1", "02", "3"]),  # its own acts in any case
        ({"mask": "all"}, 2, ["0", "01", "01", "01"]),  # a task not learned yet: what there is
        ({"mask": "modality"}, 2, ["0", "1", "0", "1"]),
        ({"mask": "modality"}, 1, ["0", "", "0", ""]),
        ({"mask": "list", "mask_list": "-;0;1"}, 2, ["0", "01", "1", ""]),
        ({"mask": "list", "mask_list": "-;0"}, 4, ["0", "01", "2", "3"]),  # alone after the end of the list
        ({"mask": "all"}, 0, ["", "", "", ""]),
    ],
)
def test_who_acts_for_a_task(arguments: dict[str, str], begun: int, expected: list[str]) -> None:
    for weights in ("unit", "mean", "softmax", "cls_gate"):  # without trained weights: evenly
        method = grown(begun, weights=weights, **arguments)
        for index, digits in enumerate(expected):
            share = 1.0 if weights == "unit" or not digits else 1 / len(digits)
            assert method.ingredients(task(index)) == {f"task{digit}": share for digit in digits}


@given(st.data(), st.integers(1, 6))
def test_masks_are_read_as_they_are_written(data: st.DataObject, tasks: int) -> None:
    masks = [tuple(data.draw(st.lists(st.integers(0, i - 1), unique=True)) if i else ()) for i in range(tasks)]
    space, none = st.sampled_from(["", " ", "  "]), st.sampled_from(["-", "", " - "])
    parts = [",".join(f"{data.draw(space)}{i}{data.draw(space)}" for i in mask) or data.draw(none) for mask in masks]
    assert parse_masks(";".join(parts)) == masks


@pytest.mark.parametrize("text", ["1", "-;2", "-;-1", "-;0,", "-;0,,0", "-;x", "-;0.0", "-;+0", "-;0-1", "--"])
def test_what_is_no_task_so_far_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"mask_list .* must name tasks from 0 to [01]"):
        MSLoRAMoECR(mask="list", mask_list=text)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mask": "list"},
        {"mask_list": "-;0"},
        {"scope": "layer", "weights": "unit"},
        {"scope": "layer", "weights": "mean"},
    ],
)
def test_arguments_that_nothing_would_read_are_refused(arguments: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"mask_list|not trained"):
        MSLoRAMoECR(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mask", "weights", "scope", "similarity", "router"])
def test_wrong_arguments_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} 'nearest': choose from"):
        MSLoRAMoECR(**{name: "nearest"})  # type: ignore[arg-type]


@pytest.mark.parametrize("scope, sets", SCOPES)
@pytest.mark.parametrize("weights", ["softmax", "cls_gate"])
def test_a_gate_begins_in_favour_of_its_own_expert(weights: str, scope: str, sets: int) -> None:
    method = grown(2, weights=weights, scope=scope)
    method.begin_task(task(2))
    assert torch.equal(method.gates["task2"].logits, torch.tensor([[0.0, 0.0, 2.0]]).expand(sets, 3))
    kept, total = end(method, batch(2), batch(2, seed=1)), math.exp(2) + 2
    assert kept.shape == (LAYERS, 3)
    assert torch.allclose(kept, torch.tensor([1 / total, 1 / total, math.exp(2) / total]))


@pytest.mark.parametrize("mask", ["all", "modality"])
@pytest.mark.parametrize("weights, scope", [("unit", ""), ("mean", ""), ("softmax", "shared"), ("softmax", "layer")])
@torch.no_grad()
def test_training_computes_what_will_be_answered(weights: str, scope: str, mask: str) -> None:
    method, data = grown(3, weights=weights, scope=scope or "shared", mask=mask), batch(2)
    with method.learning():
        learning, folded = method.outputs(data), set(method.experts.folded)
    assert folded == (set() if weights == "softmax" else set(method.members(task(2))) - {"task2"})
    end(method, data)
    method.eval()
    with method.experts.blend(method.ingredients(task(2))):
        answering = method.embed_image(data)
    with method.experts.blend({"task2": 1.0}):
        assert (method.embed_image(data) - answering).abs().max() > 1e-3
    assert (learning - answering).abs().max() <= 1e-5 * answering.abs().max()


@pytest.mark.parametrize("scope, sets", SCOPES)
@torch.no_grad()
def test_softmax_keeps_the_weights_it_was_trained_with(scope: str, sets: int) -> None:
    method = grown(3, weights="softmax", scope=scope)
    logits: Tensor = method.gates["task2"].logits
    assert logits.shape == (sets, 3) and len(logits.unique(dim=0)) == sets
    expected = logits.softmax(dim=1).expand(LAYERS, -1)
    assert torch.allclose(end(method, *[batch(2)] * 7), expected, atol=3e-7, rtol=0)
    assert torch.equal(end(method, batch(2)), expected)
    assert method.ingredients(task(2)) == {f"task{i}": tuple(w) for i, w in enumerate(expected.T.tolist())}


@pytest.mark.parametrize("scope, sets", SCOPES)
@torch.no_grad()
def test_cls_gate_weighs_by_sample_and_keeps_the_mean_over_the_training_set(scope: str, sets: int) -> None:
    method = grown(3, weights="cls_gate", scope=scope)
    gate, data = method.gates["task2"], [batch(2, seed=0), batch(2, seed=1), batch(2, seed=2, n=3)]
    gate.map.mul_(20)
    assert isinstance(gate, Gate) and gate.map.shape == (sets, 3, tiny.EMBED)
    with method.experts.blend({}):
        z = torch.cat([method.backbone.image(method.views(d["image"], False)) for d in data])
    z = z / z.norm(dim=1, keepdim=True)
    by_sample = torch.stack([(z @ W.T + b).softmax(dim=1) for W, b in zip(gate.map, gate.logits, strict=True)], dim=1)
    assert by_sample.std(dim=0).mean() > 1e-2
    method.budget = Budget(augment="crop")  # of training; what is kept is of the images as they are
    assert torch.allclose(end(method, *data), by_sample.mean(dim=0).expand(LAYERS, -1), atol=1e-6)
    method.budget = Budget(augment="none")
    with method.learning():
        features = method.outputs(data[0])
    for i, own in enumerate(by_sample[:4].expand(4, LAYERS, 3)):
        with method.experts.blend({f"task{e}": tuple(w) for e, w in enumerate(own.T.tolist())}):
            alone = method.backbone.image(method.views(data[0]["image"][i : i + 1], False))[0]
        assert (features[i] - alone).abs().max() <= 1e-5 * alone.abs().max()


@pytest.mark.parametrize("scope, sets", SCOPES)
@pytest.mark.parametrize("weights", ["softmax", "cls_gate"])
def test_every_set_of_weights_is_trained_and_nothing_else(weights: str, scope: str, sets: int) -> None:
    method = grown(3, weights=weights, scope=scope)
    with method.learning():
        method.loss(batch(2)).backward()
    gate = method.gates["task2"]
    assert all(len(p) == sets and (p.grad.flatten(1).abs().amax(dim=1) > 0).all() for p in gate.parameters())
    expected = {id(p) for p in (*method.experts.parameters("task2"), *gate.parameters())}
    assert {id(p) for p in method.trainable_parameters()} == expected
    assert {id(p) for p in method.parameters() if p.grad is not None} == expected
    assert {id(p) for p in method.parameters() if p.requires_grad} == {id(p) for p in gate.parameters()}


@pytest.mark.parametrize("weights", ["unit", "mean", "softmax", "cls_gate"])
@torch.no_grad()
def test_answering_costs_the_frozen_backbone(weights: str) -> None:
    def cost(method: MSLoRAMoECR) -> int:
        method.eval()
        with method.experts.blend(method.ingredients(task(3))), FlopCounterMode(display=False) as counter:
            method.embed_image(batch(3))
        return counter.get_total_flops()

    method = grown(4, weights=weights)
    end(method, batch(3))
    assert cost(method) == cost(grown(0)) > 0
