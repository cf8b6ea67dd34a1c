"""SD-LoRA against the numbers of the released code, and what its directions and magnitudes must do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmark.stream import Budget
from methods import sdlora
from methods.parts.experts import lora_forward
from methods.sdlora import SDLora, decomposed, parse_schedule
from tests import tiny
from tests.golden_files import GOLDEN, close

seeds = st.integers(0, 10**6)


# ---- the layer ----------------------------------------------------------------------------------------------------


def test_the_layer_is_the_official_one() -> None:
    with np.load(GOLDEN / "sdlora_t3.npz", allow_pickle=False) as file:
        g = {name: torch.tensor(file[name]) for name in file.files}
    learned = ("x", "A_q", "B_q", "A_v", "B_v", "oldA_q", "oldB_q", "s_cur", "s_prev")
    x, A_q, B_q, A_v, B_v, oldA_q, oldB_q, s_cur, s_prev = (g[name].requires_grad_(True) for name in learned)
    (W_q, W_k, W_v), (b_q, b_k, b_v) = g["qkv_W"].chunk(3), g["qkv_b"].chunk(3)
    q = decomposed(x, W_q, b_q, A_q, B_q, oldA_q, oldB_q, s_cur, s_prev)
    v = decomposed(x, W_v, b_v, A_v, B_v, g["oldA_v"], g["oldB_v"], s_cur, s_prev)
    y = torch.cat([q, x @ W_k.mT + b_k, v], dim=-1)
    close(y, g["y"], 1e-10)
    (g["G"] * y).sum().backward()
    for leaf, name in ((A_q, "dA_q"), (B_q, "dB_q"), (B_v, "dB_v"), (s_cur, "ds_cur"), (s_prev, "ds_prev"), (x, "dx")):
        close(leaf.grad, g[name], 1e-10)
    assert float((oldA_q.grad * oldA_q).sum()) == pytest.approx(0, abs=1e-10)  # the length of a direction is nothing


@given(seeds, st.integers(0, 4), st.floats(1e-3, 1e3))
def test_only_directions_of_earlier_tasks_count(seed: int, earlier: int, length: float) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, W, A, B, s_prev = draw(2, 3, 5), draw(4, 5), draw(2, 5), draw(4, 2), draw(earlier)
    old_A, old_B = [draw(1 + i, 5) for i in range(earlier)], [draw(4, 1 + i) for i in range(earlier)]  # other ranks
    y = decomposed(x, W, None, A, B, old_A, old_B, 0.7, s_prev)
    close(decomposed(x, W, None, A, B, [length * a for a in old_A], old_B, 0.7, s_prev), y, 1e-9)
    delta = W + 0.7 * B @ A
    for a, b, s in zip(old_A, old_B, s_prev, strict=True):
        delta = delta + s * np.linalg.norm(a.numpy()) ** -1 * np.linalg.norm(b.numpy()) ** -1 * b @ a
    close(y, x @ delta.mT, 1e-9)
    close(decomposed(x, W, None, A, B, [], [], 1.0, []), lora_forward(x, W, None, [A], [B], 1.0, [True]), 1e-10)


def test_a_direction_that_was_never_trained_adds_nothing() -> None:
    x, A, B = torch.ones(2, 3, requires_grad=True), torch.ones(1, 3), torch.ones(3, 1)
    y = decomposed(x, torch.eye(3), torch.zeros(3), A, B, [A], [torch.zeros(3, 1)], 0.0, torch.ones(1, 1))
    y.sum().backward()
    assert torch.equal(y, x) and x.grad.isfinite().all()


# ---- the method ---------------------------------------------------------------------------------------------------


def learner(**arguments: object) -> SDLora:
    method = SDLora(rank=3, **arguments)  # type: ignore[arg-type]
    method.attach(tiny.backbone(), Budget(augment="none"))
    return method


def batch(ids: list[int], task: int) -> dict[str, Tensor]:
    labels = torch.tensor([ids[i % len(ids)] for i in range(12)])
    return {"image": tiny.images(12, seed=task), "label": labels, "task": torch.full((12,), task)}


def learn(method: SDLora, index: int, steps: int = 6) -> list[float]:
    """A new task; the loss at every step."""
    ids = [2 * index, 2 * index + 1]
    with tiny.seeded(index):
        method.begin_task(tiny.task(index, ids))
    losses = []
    with method.learning():
        method.train()
        optimizer = torch.optim.AdamW(method.trainable_parameters(), lr=0.02, weight_decay=0.0)
        for _ in range(steps):
            loss = method.loss(batch(ids, index))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    method.eval()
    return losses


def copies(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_magnitudes_of_all_tasks_learn_and_old_directions_stay() -> None:
    method = learner()
    first = learn(method, 0)
    assert first[-1] < first[0]
    learn(method, 1, steps=0)
    old, fresh = copies(method.experts.parameters("task0")), copies(method.experts.parameters("task1"))
    assert torch.equal(method.scales, torch.full((2,), 0.8))
    assert all(float(factor.norm()) == pytest.approx(1, abs=1e-5) for factor in old)
    learn(method, 2)
    learned = method.scales.detach()
    assert learned.shape == (3,) and (learned[[0, 2]] != 0.8).all()  # task 1 never trained: B = 0, no direction
    assert learned[1] == pytest.approx(0.8)
    assert same(old, method.experts.parameters("task0")), "unit directions are made once"
    As, Bs = method.experts.factors("task1")
    assert all(float(A.norm()) == pytest.approx(1, abs=1e-5) for A in As) and not any(B.any() for B in Bs)
    assert not same(fresh, method.experts.parameters("task1"))
    assert {id(p) for p in method.trainable_parameters()} == {
        id(p) for p in (*method.experts.parameters("task2"), method.scales)
    }


def test_training_scoring_and_the_equation_agree() -> None:
    method = learner()
    learn(method, 0)
    raw = method.experts.factors("task0")
    old_A, old_B = copies(raw[0]), copies(raw[1])
    learn(method, 1)
    x = torch.randn(4, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    As, Bs = method.experts.factors("task1")
    c = method.scales.detach()
    with method.experts.blend(dict(zip(method.experts.names, c.tolist(), strict=True))):
        for i, layer in enumerate(method.experts.layers):
            W, b = method.experts._pristine[i], layer.base_layer.bias
            expected = decomposed(x, W, b, As[i], Bs[i], [old_A[i]], [old_B[i]], c[1], c[:1])
            close(layer(x), expected, 1e-5)
    images = batch([2, 3], 1)
    labels = [tiny.label(i) for i in range(4)]
    folded = method.scores(images, labels, None)
    with method.learning(), torch.no_grad():
        method.train()
        apart = method.embed_image(images)
    close(method.backbone.logits(apart, method.backbone.class_features(labels)), folded, 1e-4)


def test_every_adapted_layer_is_decomposed_while_it_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    method, calls = learner(), []
    for index in range(3):
        learn(method, index)
    monkeypatch.setattr(sdlora, "decomposed", lambda *call: calls.append(call) or decomposed(*call))
    seen = []
    handles = [layer.register_forward_hook(lambda *hook: seen.append(hook)) for layer in method.experts.layers]
    with method.learning():
        method.train()
        loss = method.loss(batch([4, 5], 2))
        grads = torch.autograd.grad(loss, method.trainable_parameters())
    assert all(grad.any() for grad in grads)
    for handle in handles:
        handle.remove()
    assert [layer for layer, _, _ in seen] == method.experts.layers and len(calls) == len(seen)
    factors = [method.experts.factors(name) for name in method.experts.names]
    for i, ((layer, (x,), y), call) in enumerate(zip(seen, calls, strict=True)):
        assert call[0] is x and call[1] is layer.base_layer.weight and call[2] is layer.base_layer.bias
        (As, Bs), old = factors[-1], factors[:-1]
        old_A, old_B = [A[i] for A, _ in old], [B[i] for _, B in old]
        scales = method.scales.detach()
        expected = decomposed(x, call[1], call[2], As[i], Bs[i], old_A, old_B, scales[-1], scales[:-1])
        assert torch.equal(y, expected)
    method.eval()
    method.scores(batch([4, 5], 2), [tiny.label(4), tiny.label(5)], None)
    assert len(calls) == len(seen), "an answer is folded"


def test_a_rank_schedule_leaves_later_directions_a_smaller_rank() -> None:
    method = learner(rank_schedule="2:2,3:1")
    for index, rank in enumerate((3, 2, 1)):
        learn(method, index)
        for A, B in zip(*method.experts.factors(f"task{index}"), strict=True):
            assert torch.linalg.matrix_rank(B @ A) == rank
            assert not A[rank:].any() and not B[:, rank:].any()


def test_schedules() -> None:
    assert parse_schedule("", 10) == [(1, 10)]
    assert parse_schedule("4:8,8:6", 10) == [(1, 10), (4, 8), (8, 6)]
    for wrong in ("4", "4:11", "8:6,4:8", "4:8,8:9", "2:0", "a:1", "1:2", ","):
        with pytest.raises(ValueError, match="rank_schedule"):
            parse_schedule(wrong, 10)
