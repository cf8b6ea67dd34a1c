"""The lean layers against PEFT's own forward: the same outputs and gradients, whichever way they are computed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmark.stream import Budget
from methods.parts import lean_layers
from methods.parts.backbones import Backbone
from methods.parts.experts import Experts
from methods.parts.lean_layers import LeanLinear
from methods.parts.towers import PLACES
from methods.sequential_lora import SequentialLora
from tests.tiny import backbone, images, seeded, shake_all, task

PLACEMENTS = [places for size in (1, 2, 6) for places in combinations(PLACES, size)] + [
    ("q", "k", "v"),
    ("q", "k", "fc1"),
]
Act = Callable[[Experts], AbstractContextManager[None]]


def pool(places: tuple[str, ...], rank: int = 3, dropout: float = 0.0) -> tuple[Backbone, Experts]:
    """Two shaken experts on a tiny tower."""
    made = backbone()
    with seeded(1):
        experts = Experts(made.image, rank, 2.0 * rank, places, dropout)
        for name in ("a", "b"):
            experts.add(name)
    shake_all((factor for name in experts.names for factor in experts.parameters(name)), seed=3)
    return made, experts


@contextmanager
def by_peft(yes: bool) -> Iterator[None]:
    """Inside, PEFT's own forward computes every layer."""
    with pytest.MonkeyPatch.context() as patch:
        if yes:
            patch.setattr(lean_layers, "DEVICES", ())
        yield


def found(made: Backbone, experts: Experts, act: Act, peft: bool, train: bool = False) -> list[Tensor]:
    """Features and the gradient of every factor that takes one."""
    made.eval()
    for layer in experts.layers:
        layer.lora_dropout.train(train)
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with by_peft(peft), act(experts), seeded(7):
        features = made.image(pixels)
        factors = [p for name in experts.names for p in experts.parameters(name) if p.requires_grad]
        gradients = torch.autograd.grad((features * features.detach().cos()).sum(), factors) if factors else ()
    return [features.detach(), *gradients]


def assert_agree(made: Backbone, experts: Experts, act: Act, train: bool = False) -> None:
    lean, reference = (found(made, experts, act, peft, train) for peft in (False, True))
    assert len(lean) == len(reference)
    for mine, theirs in zip(lean, reference, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6 * max(1.0, theirs.abs().max().item()))


ACTS: dict[str, Act] = {
    "live": lambda experts: experts.blend({}, live="a"),
    "live beside folded": lambda experts: experts.blend({"b": 0.5}, live="a"),
    "folded": lambda experts: experts.blend({"a": 1.0, "b": 0.5}),
    "frozen": lambda experts: experts.blend({}),
    "several": lambda experts: experts.mix({"a": 0.3, "b": 1.5}),
    "by sample": lambda experts: experts.mix({"a": torch.linspace(0, 1, 5).view(5, 1, 1), "b": 1.0}),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_agrees_with_peft_in_every_placement(act: Act) -> None:
    for places in PLACEMENTS:
        assert_agree(*pool(places), act)


@pytest.mark.parametrize("rank", [1, 2, 8, 40])
def test_agrees_with_peft_at_every_rank(rank: int) -> None:
    for act in ACTS.values():
        assert_agree(*pool(PLACES, rank), act)


def test_agrees_with_peft_under_dropout() -> None:
    made, experts = pool(PLACES, dropout=0.4)
    for act in (ACTS["live"], ACTS["several"]):
        assert_agree(made, experts, act, train=True)
        dropped, plain = (found(made, experts, act, False, train)[0] for train in (True, False))
        assert not torch.allclose(dropped, plain)


def test_agrees_in_double_precision_and_under_autocast() -> None:
    made, experts = pool(PLACES)
    pixels = torch.randn(5, 3, 32, 32)
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with experts.blend({}, live="a"), context:
            lean = made.image(pixels)
            with by_peft(True):
                torch.testing.assert_close(lean, made.image(pixels), rtol=2e-2, atol=2e-2)
    made.double()
    with experts.blend({}, live="a"):
        lean = made.image(pixels.double())
        with by_peft(True):
            torch.testing.assert_close(lean, made.image(pixels.double()), rtol=1e-12, atol=1e-12)


def test_q_k_v_are_one_product_where_all_are_adapted_alike() -> None:
    for places, products in ((("q", "k", "v"), 1), (PLACES, 1), ((), 1), (("q", "v"), 3), (("k",), 3)):
        made = backbone()
        experts = Experts(made.image, 2, 2.0, places) if places else None
        if experts is not None:
            experts.add("a")
        block, x = made.image.blocks[0], torch.randn(2, 5, made.width)
        layers = [block.q, block.k, block.v]
        with experts.blend({}, live="a") if experts is not None else nullcontext():
            assert (1 if block._side_by_side(layers, x) is not None else 3) == products


def test_what_is_written_into_a_weight_is_computed_with() -> None:
    """Folding, loading, a move and a copy: the joint product never lags behind the layers' own weights."""
    made, experts = pool(PLACES)
    x = torch.randn(2, 5, made.width)

    def check(block: nn.Module) -> None:
        layers = [block.q, block.k, block.v]
        outputs = block._side_by_side(layers, x.to(block.q.weight.dtype))
        for output, layer in zip(outputs, layers, strict=True):
            torch.testing.assert_close(output, layer(x.to(block.q.weight.dtype)), rtol=1e-6, atol=1e-6)

    block = made.image.blocks[0]
    check(block)
    with experts.blend({"a": 2.0}):
        check(block)
    with torch.no_grad():
        block.k.base_layer.weight.mul_(3)
        block.v.base_layer.bias.add_(1)
    check(block)
    block.q.base_layer.weight = nn.Parameter(torch.randn_like(block.q.base_layer.weight), requires_grad=False)
    check(block)
    other = copy.deepcopy(block)
    with torch.no_grad():
        other.q.base_layer.weight.zero_()
    check(other)
    check(block)
    assert block.q.base_layer.weight.abs().sum() > 0
    check(block.double())


def test_layers_that_are_watched_or_trained_are_asked_one_by_one() -> None:
    made, experts = pool(PLACES)
    block, x, seen = made.image.blocks[0], torch.randn(2, 5, made.width), []
    handle = block.k.register_forward_hook(lambda *_: seen.append(1))
    made.image(images(2).float())
    assert seen
    handle.remove()
    with experts.computed(lambda i, x, W, b: nn.functional.linear(x, W, b) * 0):
        assert block._side_by_side([block.q, block.k, block.v], x) is None
    block.k.base_layer.weight.requires_grad_(True)
    assert block._side_by_side([block.q, block.k, block.v], x) is None
    assert all(isinstance(layer, LeanLinear) for layer in experts.layers)


def test_gradients_of_each_sample_can_be_taken() -> None:
    """Functional transforms see through the layers, and give what a loop over the samples gives."""
    made, experts = pool(PLACES)
    with experts.blend({}, live="a"):
        names = {name: p for name, p in made.image.named_parameters() if p.requires_grad}
        pixels = torch.randn(3, 3, 32, 32)

        def loss(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
            return torch.func.functional_call(made.image, parameters, (one[None],)).pow(2).sum()

        each = torch.func.vmap(torch.func.grad(loss), (None, 0))(dict(names), pixels)
        for sample in range(3):
            own = torch.autograd.grad(loss(names, pixels[sample]), list(names.values()))
            for name, gradient in zip(names, own, strict=True):
                torch.testing.assert_close(each[name][sample], gradient, rtol=1e-4, atol=1e-5)


def test_a_step_dispatches_half_of_what_pefts_layers_do() -> None:
    made = SequentialLora()
    made.attach(backbone(), Budget())
    made.begin_task(task(0, [0, 1]))
    batch = {"image": images(4), "label": torch.tensor([0, 1, 0, 1]), "task": torch.zeros(4, dtype=torch.long)}
    counts = {}
    with made.learning():
        optimizer = made.new_optimizer()
        for peft in (False, True):
            with by_peft(peft):
                for _ in range(2):
                    with profile(activities=[ProfilerActivity.CPU]) as watched:
                        optimizer.zero_grad()
                        made.loss(batch).backward()
                        optimizer.step()
                counts[peft] = sum(event.name.startswith("aten::") for event in watched.events())
    assert counts[False] < 0.62 * counts[True]
