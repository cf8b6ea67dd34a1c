"""The pool of experts: folding is the sum of live experts, leaves no trace, and costs nothing as the pool grows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import peft
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmark.stream import Budget
from methods.mslora_cr import MSLoRACR
from methods.parts.backbones import PLACES, Tower
from methods.parts.experts import Experts, lora_forward

RANK, ALPHA = 3, 6.0


def pixels(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(1), dtype=dtype)


def pool(count: int, dtype: torch.dtype = torch.float32, places: tuple[str, ...] = PLACES) -> Experts:
    """A tower with ``count`` experts e0, e1, ... that all do something."""
    experts = Experts(tiny.backbone().image.to(dtype), RANK, ALPHA, places)
    for i in range(count):
        experts.add(f"e{i}")
        tiny.shake_all(experts.parameters(f"e{i}"), seed=i)
    return experts


def base_weights(experts: Experts) -> list[Tensor]:
    """Everything in the tower that is no expert."""
    return [p.detach().clone() for n, p in experts.tower.named_parameters() if ".lora_" not in n]


def same(one: list[Tensor], two: list[Tensor]) -> bool:
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@torch.no_grad()
def summed_live(experts: Experts, weights: Mapping[str, float | Sequence[float]], inputs: Tensor) -> Tensor:
    """The tower's output with every expert computed apart, in every layer, by :func:`lora_forward`."""
    handles = []
    for i, layer in enumerate(experts.layers):
        factors = [experts.factors(name) for name in weights]
        ws = [w[i] if isinstance(w, Sequence) else w for w in weights.values()]
        As = [A[i] for A, _ in factors]
        Bs = [B[i] * w for (_, B), w in zip(factors, ws, strict=True)]
        W, b = layer.base_layer.weight.clone(), layer.base_layer.bias
        scale, mask = ALPHA / RANK, [True] * len(As)

        def replaced(module, args, out, W=W, b=b, As=As, Bs=Bs, scale=scale, mask=mask) -> Tensor:
            return lora_forward(args[0], W, b, As, Bs, scale, mask)

        handles.append(layer.register_forward_hook(replaced))
    try:
        return experts.tower(inputs)
    finally:
        for handle in handles:
            handle.remove()


def close(one: Tensor, two: Tensor, tolerance: float) -> None:
    assert (one - two).abs().max() <= tolerance * (1 + two.abs().max())


# ---- folding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@torch.no_grad()
def test_folded_is_the_sum_of_live_experts(dtype: torch.dtype, tolerance: float) -> None:
    experts, x = pool(4, dtype), pixels(dtype)
    plain = experts.tower(x)
    for weights in ({"e0": 1.0}, {"e3": 0.25}, {f"e{i}": 1.0 for i in range(4)}, {"e2": 0.5, "e0": -1.5, "e1": 0.0}):
        expected = summed_live(experts, weights, x)
        assert (expected - plain).abs().max() > 1e-3
        with experts.blend(weights):
            close(experts.tower(x), expected, tolerance)
        for live in weights:  # any one of them apart, at its full weight, the others folded
            others = {name: w for name, w in weights.items() if name != live}
            with experts.blend(others, live=live):
                close(experts.tower(x), summed_live_outside(experts, others | {live: 1.0}, x), tolerance)
        assert torch.equal(experts.tower(x), plain)


def summed_live_outside(experts: Experts, weights: dict[str, float], inputs: Tensor) -> Tensor:
    """:func:`summed_live` on the pristine weights, whatever is blended around it."""
    with experts.blend({}):
        return summed_live(experts, weights, inputs)


@torch.no_grad()
def test_the_base_comes_back_to_the_bit() -> None:
    experts, x = pool(3), pixels()
    before, plain = base_weights(experts), experts.tower(x)
    combinations = [c for n in (1, 2, 3) for c in itertools.permutations(experts.names, n)]
    for cycle in range(200):
        names = combinations[cycle % len(combinations)]
        with experts.blend({name: 0.1 + cycle / 7 for name in names}, live=experts.names[cycle % 3]):
            assert not same(base_weights(experts), before)
        assert same(base_weights(experts), before)
    assert torch.equal(experts.tower(x), plain)


@given(
    st.lists(
        st.tuples(st.dictionaries(st.sampled_from(["e0", "e1", "e2"]), st.floats(-2, 2)), st.booleans()), max_size=5
    )
)
def test_nested_blends_restore(nest: list[tuple[dict[str, float], bool]]) -> None:
    experts = SHARED
    states = []

    def state() -> tuple[list[Tensor], str | None, list[bool]]:
        return base_weights(experts), experts.live, [p.requires_grad for p in experts.tower.parameters()]

    def enter(level: int) -> None:
        states.append(state())
        if level < len(nest):
            weights, live = nest[level]
            with experts.blend(weights, live="e1" if live else None):
                assert experts.folded == weights
                enter(level + 1)
        weights_before, live_before, flags_before = states.pop()
        weights_now, live_now, flags_now = state()
        assert same(weights_now, weights_before) and (live_now, flags_now) == (live_before, flags_before)

    enter(0)


SHARED = pool(3)


def test_a_blend_is_left_also_by_an_error() -> None:
    experts = pool(2)
    before = base_weights(experts)
    with pytest.raises(RuntimeError, match="stop"), experts.blend({"e0": 1.0}, live="e1"):
        raise RuntimeError("stop")
    assert same(base_weights(experts), before) and experts.live is None and experts.folded == {}


@torch.no_grad()
def test_a_blend_may_weigh_every_layer_otherwise() -> None:
    experts, x = pool(3, torch.float64), pixels(torch.float64)
    before, drawn = base_weights(experts), layer_weights(experts, 2)[:, 0].T.tolist()
    with experts.blend({"e0": tuple(drawn[0]), "e1": 0.5, "e2": tuple(drawn[1])}):
        blended = experts.tower(x)
    close(blended, summed_live(experts, {"e0": drawn[0], "e1": 0.5, "e2": drawn[1]}, x), 1e-12)
    assert same(base_weights(experts), before)


def layer_weights(experts: Experts, count: int) -> Tensor:
    """(layers, 2 samples, count) weights of both signs."""
    generator = torch.Generator().manual_seed(7)
    return torch.randn(len(experts.layers), 2, count, generator=generator, dtype=torch.float64)


@torch.no_grad()
def test_a_dense_update_is_folded_and_nests_with_blends() -> None:
    """What acts inside is the frozen weight and the update, to the bit; around it comes back what was in force."""
    experts, before = pool(2), base_weights(pool(2))
    dense = [experts.scale * B @ A for A, B in zip(*experts.factors("e0"), strict=True)]
    weights = [layer.base_layer.weight.clone() for layer in experts.layers]

    def shown() -> list[Tensor]:
        return [layer.base_layer.weight.clone() for layer in experts.layers]

    with experts.blend({"e1": 0.5}, live="e0"):
        outside = shown()
        with experts.fold_dense(dense):
            assert same(shown(), [W + delta for W, delta in zip(weights, dense, strict=True)])
            assert experts.live is None and experts.folded == {}
            with experts.blend({"e1": 2.0}):
                other = shown()
            with experts.fold_dense([2 * delta for delta in dense]):
                assert same(shown(), [W + 2 * delta for W, delta in zip(weights, dense, strict=True)])
            experts.add("e2")
            assert same(shown(), [W + delta for W, delta in zip(weights, dense, strict=True)])
        assert same(shown(), outside) and experts.live == "e0" and experts.folded == {"e1": 0.5}
    with experts.blend({"e1": 2.0}):
        assert same(shown(), other)
    assert same(base_weights(experts), before)
    with pytest.raises(RuntimeError, match="stop"), experts.fold_dense(dense):
        raise RuntimeError("stop")
    assert same(base_weights(experts), before)
    for wrong in ([], dense[:-1], [delta.mT for delta in dense]):
        with pytest.raises(ValueError, match=f"need {len(dense)} of them"), experts.fold_dense(wrong):
            pass


@torch.no_grad()
def test_a_dense_update_is_what_its_expert_folded_is() -> None:
    experts, x = pool(1, torch.float64), pixels(torch.float64)
    dense = [experts.scale * B @ A for A, B in zip(*experts.factors("e0"), strict=True)]
    with experts.blend({"e0": 1.0}):
        folded = experts.tower(x)
    with experts.fold_dense(dense):
        close(experts.tower(x), folded, 1e-12)


def test_a_renewed_expert_is_as_a_fresh_one() -> None:
    experts, x = pool(2), pixels()
    kept = [factor.clone() for factor in experts.parameters("e0")]
    experts.renew("e1")
    As, Bs = experts.factors("e1")
    assert not any(B.any() for B in Bs)
    for A in As:
        bound = A.shape[1] ** -0.5
        assert 0.8 * bound < float(A.abs().max()) <= bound
    assert same(kept, [factor.detach() for factor in experts.parameters("e0")])
    with torch.no_grad(), experts.blend({"e1": 1.0}):
        folded = experts.tower(x)
    with torch.no_grad(), experts.blend({}):
        assert torch.equal(folded, experts.tower(x))


@torch.no_grad()
def test_a_fresh_expert_changes_nothing() -> None:
    experts, x = Experts(tiny.backbone().image, RANK, ALPHA), pixels()
    plain = experts.tower(x)
    for name in ("first", "second"):
        experts.add(name)
        assert torch.equal(experts.tower(x), plain)
        with experts.blend({}, live=name):
            assert torch.equal(experts.tower(x), plain)
        with experts.blend({name: 1.0}):
            assert torch.equal(experts.tower(x), plain)
        As, Bs = experts.factors(name)
        assert all((B == 0).all() for B in Bs)
        for A in As:
            bound = A.shape[1] ** -0.5
            assert bound * 0.8 < A.abs().max() <= bound
    assert not torch.equal(experts.factors("first")[0][0], experts.factors("second")[0][0])


@torch.no_grad()
def test_adding_inside_a_blend_keeps_it() -> None:
    experts, x = pool(2), pixels()
    with experts.blend({"e0": 1.0}, live="e1"):
        expected = experts.tower(x)
        experts.add("e2")
        assert torch.equal(experts.tower(x), expected)
        assert trainable(experts) == {"e1"}


def test_a_name_is_given_once() -> None:
    experts = pool(2)
    kept = [p.clone() for p in experts.parameters("e0")]
    with pytest.raises(ValueError, match="'e0' is there already"):
        experts.add("e0")
    assert same(list(experts.parameters("e0")), kept) and experts.names == ["e0", "e1"]


# ---- mixing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampled", [False, True], ids=["one for all samples", "per sample"])
@pytest.mark.parametrize("layered", [False, True], ids=["one for all layers", "per layer"])
@torch.no_grad()
def test_mixed_is_the_weighted_sum_of_live_experts(layered: bool, sampled: bool) -> None:
    experts, x = pool(3, torch.float64), pixels(torch.float64)
    drawn = layer_weights(experts, 2)
    drawn = drawn if layered else drawn[:1].expand_as(drawn)
    drawn = drawn if sampled else drawn[:, :1].expand_as(drawn)

    def of(expert: int) -> Tensor | list[Tensor]:
        columns = [w[:, expert, None, None] if sampled else w[0, expert] for w in drawn]
        return columns if layered else columns[0]

    with experts.blend({"e1": 1.0}):  # what is folded stays folded
        with experts.mix({"e0": of(0), "e2": of(1)}):
            mixed = experts.tower(x)
        for b in range(2):
            own = {"e0": drawn[:, b, 0].tolist(), "e2": drawn[:, b, 1].tolist()}
            close(mixed[b : b + 1], summed_live(experts, own, x[b : b + 1]), 1e-12)


def test_gradients_reach_the_weights_and_the_live_expert_also_after_the_mix_is_left() -> None:
    experts, x = pool(3, torch.float64), pixels(torch.float64)
    G = torch.randn(2, tiny.EMBED, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    weights = layer_weights(experts, 2)[:, 0].requires_grad_()
    live = experts.parameters("e2")
    gradients = []
    for inside in (True, False):
        with experts.blend({"e1": 0.5}, live="e2"):
            with experts.mix({"e0": list(weights[:, 0]), "e2": list(weights[:, 1])}):
                assert trainable(experts) == {"e2"}
                loss = (experts.tower(x) * G).sum()
                if inside:
                    gradients.append(torch.autograd.grad(loss, [weights, *live]))
            if not inside:
                loss.backward()
                gradients.append((weights.grad, *(p.grad for p in live)))
    assert same(*map(list, gradients)) and all(p.grad is None for p in experts.parameters("e0"))
    numeric = torch.zeros_like(weights)
    with torch.no_grad(), experts.blend({"e1": 0.5}):
        for index in itertools.product(*map(range, weights.shape)):
            for sign in (1, -1):
                moved = weights.detach().clone()
                moved[index] += sign * 1e-5
                shifted = summed_live(experts, {"e0": moved[:, 0].tolist(), "e2": moved[:, 1].tolist()}, x)
                numeric[index] += sign * (shifted * G).sum() / 2e-5
    assert torch.allclose(gradients[0][0], numeric, rtol=1e-6, atol=1e-8) and numeric.abs().min() > 1e-6


@torch.no_grad()
def test_an_empty_mix_switches_off_all_that_is_apart() -> None:
    experts, x = pool(3), pixels()
    plain = experts.tower(x)
    with experts.blend({"e0": 1.0}):
        folded = experts.tower(x)
    assert not torch.equal(folded, plain)
    for live in (None, "e1"):
        with experts.blend({"e0": 1.0}, live=live), experts.mix({}):
            assert torch.equal(experts.tower(x), folded)
        with experts.blend({}, live=live), experts.mix({}):
            assert torch.equal(experts.tower(x), plain)


@pytest.mark.parametrize("folded, live", [({}, None), ({"e0": 1.0}, None), ({}, "e1"), ({"e0": 0.5, "e2": 2.0}, "e1")])
@pytest.mark.parametrize("names", [(), ("e1",), ("e0", "e2")], ids=str)
def test_a_mix_leaves_no_trace(folded: dict[str, float], live: str | None, names: tuple[str, ...]) -> None:
    experts, x = pool(3), pixels()
    plain = experts.tower(x)
    with experts.blend(folded, live=live):
        before, flags = experts.tower(x), trainable(experts)
        with experts.mix({name: torch.tensor(0.3) for name in names}):
            assert torch.equal(experts.tower(x), before) == (not names and live is None)
        assert torch.equal(experts.tower(x), before) and trainable(experts) == flags
        with pytest.raises(RuntimeError, match="stop"), experts.mix({name: torch.tensor(0.3) for name in names}):
            raise RuntimeError("stop")
        assert torch.equal(experts.tower(x), before) and trainable(experts) == flags
    assert torch.equal(experts.tower(x), plain)
    with experts.blend({}, live="e0"):
        close(experts.tower(x), summed_live(experts, {"e0": 1.0}, x), 1e-5)


# ---- layers computed by a function -------------------------------------------------------------------------------


@torch.no_grad()
def test_a_computed_layer_is_what_the_function_says_and_leaves_no_trace() -> None:
    experts, x, seen = pool(3, torch.float64), pixels(torch.float64), []
    factors = [experts.factors(name) for name in ("e0", "e2")]

    def layer(i: int, x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        seen.append(i)
        As, Bs = ([lora[part][i] for lora in factors] for part in (0, 1))
        return lora_forward(x, W, b, As, Bs, ALPHA / RANK, [True, True])

    plain, keys = experts.tower(x), list(experts.tower.state_dict())
    with experts.blend({"e1": 1.0}, live="e0"):
        before = experts.tower(x)
        with experts.computed(layer):
            computed = experts.tower(x)
            with experts.computed(lambda i, x, W, b: torch.nn.functional.linear(x, W, b)), experts.blend({}):
                close(experts.tower(x), plain, 1e-12)  # kernels of another shape round otherwise
            assert torch.equal(experts.tower(x), computed)
        with pytest.raises(RuntimeError, match="stop"), experts.computed(layer):
            raise RuntimeError("stop")
        assert torch.equal(experts.tower(x), before)
    close(computed, summed_live(experts, {"e1": 1.0, "e0": 1.0, "e2": 1.0}, x), 1e-12)
    assert sorted(seen) == sorted(2 * list(range(len(experts.layers)))) and list(experts.tower.state_dict()) == keys
    assert torch.equal(experts.tower(x), plain)


# ---- two pools on one tower --------------------------------------------------------------------------------------


def two_pools() -> tuple[Experts, Experts]:
    """On block 0 two experts on every layer; on block 1 one on two layers, of another rank and scale."""
    tower = tiny.backbone().image.double()
    low, high = Experts(tower, RANK, ALPHA, blocks=[0]), Experts(tower, 2, 2.0, ("q", "fc1"), blocks=range(1, 2))
    for experts, name in ((low, "low0"), (high, "high0"), (low, "low1")):
        experts.add(name)
        tiny.shake_all(experts.parameters(name), seed=len(name))
    return low, high


def test_two_pools_adapt_their_own_blocks() -> None:
    low, high = two_pools()
    paths = {module: path for path, module in low.tower.named_modules()}
    assert {paths[layer] for layer in low.layers} == {f"blocks.0.{place}" for place in PLACES}
    assert {paths[layer] for layer in high.layers} == {"blocks.1.q", "blocks.1.fc1"}
    assert all(p.shape[0 if i < 2 else 1] == 2 for i, p in enumerate(high.parameters("high0")))
    low.activate("low1")
    assert trainable(low) == {"low1"}
    high.activate("high0")
    assert trainable(low) == {"low1", "high0"}
    low.activate(None)
    assert trainable(low) == {"high0"}


@torch.no_grad()
def test_two_pools_blend_and_mix_apart_from_each_other() -> None:
    (low, high), x = two_pools(), pixels(torch.float64)
    before, plain = base_weights(low), low.tower(x)
    with high.blend({"high0": 1.0}):
        expected = summed_live(low, {"low0": 1.0, "low1": 0.5}, x)
    assert (expected - plain).abs().max() > 1e-3
    with low.blend({"low0": 1.0, "low1": 0.5}):
        with high.blend({}, live="high0"):
            close(high.tower(x), expected, 1e-12)
        with high.mix({"high0": torch.tensor(1.0)}), low.blend({"low1": 0.5}, live="low0"):
            close(high.tower(x), expected, 1e-12)
        with high.mix({"high0": torch.tensor(1.0)}), low.mix({}):
            close(high.tower(x), expected, 1e-12)
    assert same(base_weights(low), before) and torch.equal(low.tower(x), plain)


# ---- who takes gradients -----------------------------------------------------------------------------------------


def trainable(experts: Experts) -> set[str]:
    """The names in the tower's parameters that take gradients: experts' names, or the parameter's own."""
    names = {n for n, p in experts.tower.named_parameters() if p.requires_grad}
    return {n.split(".")[-2] if ".lora_" in n else n for n in names}


def test_only_the_live_expert_is_trainable() -> None:
    experts = pool(4)
    assert trainable(experts) == set()
    for name in (*experts.names, None, *reversed(experts.names)):
        experts.activate(name)
        assert trainable(experts) == ({name} if name else set())
        if name:
            assert all(p.requires_grad for p in experts.parameters(name))
            experts.tower(pixels()).sum().backward()
            assert all(p.grad is not None for p in experts.parameters(name))
            assert [n for n, p in experts.tower.named_parameters() if p.grad is not None and f".{name}." not in n] == []
            experts.tower.zero_grad(set_to_none=True)


def test_whatever_peft_did_before() -> None:
    experts = pool(3)
    for layer in experts.layers:
        layer.set_adapter(["e0", "e1", "e2"])  # makes all three trainable
        layer.base_layer.weight.requires_grad_(False)
    assert trainable(experts) == {"e0", "e1", "e2"}
    experts.activate("e1")
    assert trainable(experts) == {"e1"}
    with torch.no_grad():
        close(experts.tower(pixels()), summed_live(experts, {"e1": 1.0}, pixels()), 1e-5)
    experts.add("e3")
    assert trainable(experts) == {"e1"}
    experts.activate(None)
    assert trainable(experts) == set()


def test_gradients_of_the_live_expert_are_those_of_the_sum() -> None:
    experts = pool(3, torch.float64)
    x = pixels(torch.float64)
    G = torch.randn(2, tiny.EMBED, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def loss() -> Tensor:
        return (experts.tower(x) * G).sum()

    with experts.blend({"e0": 1.0, "e2": 0.5}, live="e1"):
        grads = torch.autograd.grad(loss(), experts.parameters("e1"))
    for parameter, grad in list(zip(experts.parameters("e1"), grads, strict=True))[::5]:
        step = 1e-5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step)
                with experts.blend({"e0": 1.0, "e2": 0.5, "e1": 1.0}):
                    values.append(float(loss()))
                parameter.sub_(sign * step)
        assert (values[0] - values[1]) / 2 == pytest.approx(float((grad * step).sum()), rel=1e-5, abs=1e-11)


# ---- placement ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [("k", "v"), ("q", "v"), ("fc1",), PLACES], ids=",".join)
def test_only_the_placement_is_adapted(places: tuple[str, ...]) -> None:
    experts = pool(1, places=places)
    adapted = {n.split(".lora_")[0] for n, _ in experts.tower.named_parameters() if ".lora_" in n}
    assert adapted == {f"blocks.{i}.{place}" for i in range(tiny.LAYERS) for place in places}
    widths = {"fc1": (tiny.WIDTH, 4 * tiny.WIDTH), "fc2": (4 * tiny.WIDTH, tiny.WIDTH)}
    expected = sum(RANK * sum(widths.get(place, (tiny.WIDTH,) * 2)) for place in places) * tiny.LAYERS
    assert sum(p.numel() for p in experts.parameters("e0")) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"rank": 0},
        {"rank": -1},
        {"alpha": 0.0},
        {"dropout": 1.0},
        {"places": ()},
        {"places": ("q", "qkv")},
        {"places": ("",)},
    ],
    ids=str,
)
def test_wrong_arguments(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"need at least 1|must be|choose from q, k, v, out, fc1, fc2"):
        Experts(tiny.backbone().image, **({"rank": RANK, "alpha": ALPHA} | arguments))


# ---- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [PLACES, ("k", "v")], ids=",".join)
@torch.no_grad()
def test_peft_loads_what_is_saved(tmp_path: Path, places: tuple[str, ...]) -> None:
    experts, x = pool(2, places=places), pixels()
    with experts.blend({"e0": 1.0}):  # what is folded at the time does not matter
        experts.save("e1", tmp_path / "e1")
    with experts.blend({"e1": 1.0}):
        expected = experts.tower(x)
    fresh: Tower = tiny.backbone().image
    assert (fresh(x) - expected).abs().max() > 1e-3
    loaded = peft.PeftModel.from_pretrained(fresh, str(tmp_path / "e1")).eval()
    close(loaded(x), expected, 1e-5)
    assert sorted(f.name for f in (tmp_path / "e1").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@torch.no_grad()
def test_loading_back_is_exact(tmp_path: Path) -> None:
    experts = pool(2)
    experts.save("e0", tmp_path)
    stored = [p.clone() for p in experts.parameters("e0")]
    tiny.shake_all(experts.parameters("e0"), seed=9)
    other = [p.clone() for p in experts.parameters("e1")]
    assert not same(list(experts.parameters("e0")), stored)
    experts.load("e0", tmp_path)
    assert same(list(experts.parameters("e0")), stored) and same(list(experts.parameters("e1")), other)


@torch.no_grad()
def test_peft_loads_an_expert_of_some_blocks(tmp_path: Path) -> None:
    (low, high), x = two_pools(), pixels(torch.float64)
    for experts, name in ((low, "low1"), (high, "high0")):
        experts.save(name, tmp_path / name)
        with experts.blend({name: 1.0}):
            expected = experts.tower(x)
        fresh: Tower = tiny.backbone().image.double()
        assert (fresh(x) - expected).abs().max() > 1e-3
        close(peft.PeftModel.from_pretrained(fresh, str(tmp_path / name)).eval()(x), expected, 1e-12)
        stored = [p.clone() for p in experts.parameters(name)]
        tiny.shake_all(experts.parameters(name), seed=9)
        experts.load(name, tmp_path / name)
        assert same(list(experts.parameters(name)), stored)


@torch.no_grad()
def test_a_folded_expert_is_not_loaded(tmp_path: Path) -> None:
    experts = pool(2)
    experts.save("e0", tmp_path)
    stored = [p.clone() for p in experts.parameters("e0")]
    tiny.shake_all(experts.parameters("e0"), seed=9)
    shaken = [p.clone() for p in experts.parameters("e0")]
    with experts.blend({"e0": 1.0}):
        with pytest.raises(ValueError, match="'e0' is folded into the weights"):
            experts.load("e0", tmp_path)
        assert same(list(experts.parameters("e0")), shaken)
    with experts.blend({"e1": 1.0}, live="e0"):
        experts.load("e0", tmp_path)
    assert same(list(experts.parameters("e0")), stored)


@torch.no_grad()
def test_what_peft_saves_is_loaded(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=r"blocks\.\d+\.(q|k|v|out|fc1|fc2)")
    model = peft.get_peft_model(tiny.backbone().image, config).eval()
    tiny.shake(model, seed=4)
    expected = model(pixels())
    model.save_pretrained(tmp_path)
    experts = Experts(model.unload(), RANK, ALPHA)
    experts.add("theirs")
    experts.load("theirs", tmp_path)
    with experts.blend({"theirs": 1.0}):
        close(experts.tower(pixels()), expected, 1e-5)


# ---- cost --------------------------------------------------------------------------------------------------------


def step_cost(experts: Experts) -> int:
    """Floating point operations in matrix products of one forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        experts.tower(pixels()).square().sum().backward()
    return counter.get_total_flops()


def test_a_step_costs_the_same_at_task_20_as_at_task_2() -> None:
    costs = {}
    for tasks in (2, 20):
        experts = pool(tasks)
        with experts.blend({name: 1.0 for name in experts.names[:-1]}, live=experts.names[-1]):
            costs[tasks] = step_cost(experts)
    assert 0 < costs[20] <= 1.1 * costs[2]
    for layer in experts.layers:  # what the pool spares: every expert computed apart
        layer._disable_adapters = False
        layer.set_adapter(experts.names)
    assert step_cost(experts) > 1.5 * costs[2]


def method_costs(tasks: int) -> Iterator[int]:
    method = MSLoRACR(rank=RANK)
    method.attach(tiny.backbone(), Budget())
    batch = {
        "image": tiny.images(4),
        "task": torch.empty(4, dtype=torch.long),
        "label": torch.empty(4, dtype=torch.long),
    }
    for index in range(tasks):
        method.begin_task(tiny.task(index, [2 * index, 2 * index + 1], "radiology" if index % 2 else "pathology"))
        batch["task"].fill_(index)
        batch["label"].fill_(2 * index)
        with method.learning():
            method.loss(batch)  # what is kept for the task is made once
            with FlopCounterMode(display=False) as counter:
                method.loss(batch).backward()
        yield counter.get_total_flops()


def test_so_does_a_step_of_the_main_method() -> None:
    costs = list(method_costs(20))
    assert costs[19] <= 1.1 * costs[1]
