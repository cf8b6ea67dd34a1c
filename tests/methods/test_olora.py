"""O-LoRA: the released objective, its penalty entry by entry, and subspaces that stay apart."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from methods.olora import OLora, overlap_penalty
from methods.parts.experts import lora_forward
from methods.sequential_lora import SequentialLora
from tests import tiny
from tests.golden_files import close, golden
from tests.lessons import (
    batch,
    copies,
    cross_entropy_by_hand,
    flat,
    forgetting,
    learn,
    learner,
    logits,
    same,
    sequential_forgetting,
)

seeds = st.integers(0, 10**6)
TASKS = [tiny.task(i, [2 * i, 2 * i + 1]) for i in range(3)]


# ---- the pure function --------------------------------------------------------------------------------------------


def test_the_objective_is_the_official_one() -> None:
    g = golden("olora_a")
    A, B = g["A_new"].requires_grad_(True), g["B_new"].requires_grad_(True)
    task_loss = sum(((g["x"] @ a.mT @ b.mT) ** 2).mean() for a, b in zip(A, B, strict=True))
    close(task_loss, g["task_loss"], 1e-11)
    norms = sum(factor.norm() for factor in (*A, *B))
    total = task_loss + g["lam1"] * overlap_penalty(g["A_old"], A) + g["lam2"] * norms
    close(total, g["total"], 1e-11)
    dA, dB = torch.autograd.grad(total, (A, B))
    close(dA, g["dA_new"], 1e-11)
    close(dB, g["dB_new"], 1e-11)


@given(seeds, st.integers(1, 3), st.integers(1, 7), st.integers(1, 4), st.integers(1, 6), st.booleans())
def test_the_overlap_entry_by_entry(seed: int, layers: int, r_sum: int, r: int, d: int, double: bool) -> None:
    generator, dtype = torch.Generator().manual_seed(seed), torch.float64 if double else torch.float32
    A_old, A_new = (torch.randn(layers, rows, d, generator=generator, dtype=dtype) for rows in (r_sum, r))
    A_new.requires_grad_(True)
    expected, slope, tolerance = 0.0, torch.zeros_like(A_new), 1e-11 if double else 1e-4
    for layer in range(layers):
        for i in range(r_sum):
            for j in range(r):
                product = float(A_old[layer, i] @ A_new[layer, j].detach())
                expected += abs(product)
                slope[layer, j] += A_old[layer, i] if product > 0 else -A_old[layer, i]
    penalty = overlap_penalty(A_old, A_new)
    assert float(penalty) == pytest.approx(expected, rel=tolerance)
    close(torch.autograd.grad(penalty, A_new)[0], slope.detach(), tolerance)
    apart = sum(overlap_penalty(A_old[layer], A_new[layer]) for layer in range(layers))  # of one layer: (r_sum, d)
    close(penalty.detach(), apart.detach(), tolerance)


def test_orthogonal_subspaces_cost_nothing() -> None:
    basis = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    assert float(overlap_penalty(basis[:5], basis[5:])) < 1e-14
    assert float(overlap_penalty(basis[:5], basis[4:])) == pytest.approx(1)


# ---- the method ---------------------------------------------------------------------------------------------------


def by_hand(method: OLora, lam1: float, lam2: float) -> float:
    """lam1 and lam2 terms, layer by layer and row by row."""
    *earlier, current = method.experts.names
    As, Bs = method.experts.factors(current)
    total = lam2 * sum(float(factor.norm()) for factor in (*As, *Bs))
    for name in earlier:
        for old, new in zip(method.experts.factors(name)[0], As, strict=True):
            total += lam1 * sum(abs(float(row @ column)) for row in old for column in new)
    return total


@pytest.mark.parametrize("lam1, lam2", [(0.5, 0.0), (0.2, 0.3), (0.0, 0.1)])
def test_the_loss_is_cross_entropy_and_both_terms(lam1: float, lam2: float) -> None:
    method = learner(OLora, lam1=lam1, lam2=lam2)
    for task in TASKS:
        method.begin_task(task)
        data = batch(task)
        with method.learning():
            image_BE = method.embed_image(data)
            fresh = method.loss(data)
            assert flat(torch.autograd.grad(fresh, method.trainable_parameters())).isfinite().all()  # at B = 0
            close(fresh, cross_entropy_by_hand(method, image_BE, data) + by_hand(method, lam1, lam2), 1e-5)
            tiny.shake_all(method.trainable_parameters(), task.index)
            with torch.autocast("cpu", torch.bfloat16):
                penalty = method.penalty()
            assert penalty.dtype == torch.float32
            assert float(penalty) == pytest.approx(by_hand(method, lam1, lam2), rel=1e-5)


def test_the_first_task_is_one_lora() -> None:
    assert learn(learner(OLora), TASKS[0]) == learn(learner(SequentialLora), TASKS[0])


def test_only_the_new_expert_learns() -> None:
    method = learner(OLora, lam2=0.1)
    frozen: dict[str, list[Tensor]] = {}
    for task in TASKS:
        learn(method, task, steps=4)
        for name, factors in frozen.items():
            assert same(factors, method.experts.parameters(name)), f"{name} changed in task {task.index}"
            assert all(p.grad is None and not p.requires_grad for p in method.experts.parameters(name))
        name = f"task{task.index}"
        assert [id(p) for p in method.trainable_parameters()] == [id(p) for p in method.experts.parameters(name)]
        frozen[name] = copies(method.experts.parameters(name))
    assert list(frozen) == method.experts.names


def test_all_experts_act_and_no_identity_is_needed() -> None:
    method = learner(OLora, lora_alpha=8.0)
    for task in TASKS:
        learn(method, task, steps=6)
    names, x = method.experts.names, torch.randn(5, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    factors = [method.experts.factors(name) for name in names]
    with method.learning(), torch.no_grad():  # as it is trained: the earlier ones folded, the last one live
        for i, layer in enumerate(method.experts.layers):
            if layer.in_features == tiny.WIDTH:
                As, Bs = ([pair[k][i] for pair in factors] for k in (0, 1))
                W, b = method.experts._pristine[i], layer.base_layer.bias
                close(layer(x), lora_forward(x, W, b, As, Bs, 2.0, [True] * 3), 1e-5)
        labels = [label for task in TASKS for label in task.labels]
        data = batch(TASKS[0])
        trained = logits(method, data, labels)
    with torch.no_grad():
        answers = method.scores(data, labels, None)
        close(answers, trained, 1e-4)
        for task in TASKS:
            assert torch.equal(method.scores(data, labels, task), answers)
        for name in names:
            for B in method.experts.factors(name)[1]:
                B.zero_()
            fewer = method.scores(data, labels, None)
            assert float((fewer - answers).abs().max()) > 1e-2, f"{name} does not act"
            answers = fewer
        frozen = method.backbone.logits(method.embed_image(data), method.backbone.class_features(labels))
        close(answers, frozen, 1e-5)  # none left


def cosines(method: OLora) -> Tensor:
    """|cos| of every row of the last A with every row of the earlier ones, layer by layer."""
    *earlier, current = (method.experts.factors(name)[0] for name in method.experts.names)
    values = []
    for old in earlier:
        for one, two in zip(old, current, strict=True):
            values.append(F.normalize(one, dim=1) @ F.normalize(two, dim=1).mT)
    return torch.cat([value.detach().abs().flatten() for value in values])


def test_a_large_lam1_makes_the_new_subspace_orthogonal_to_all_earlier_ones() -> None:
    overlaps = []
    for lam1 in (0.0, 20.0):
        method = learner(OLora, lam1=lam1)
        learn(method, TASKS[0], steps=10)
        learn(method, TASKS[1], steps=10)
        learn(method, TASKS[2], steps=60, lr=0.003)
        overlaps.append(float(cosines(method).mean()))
    assert overlaps[1] < 0.05 < 0.1 < overlaps[0], overlaps


def test_it_forgets_less_than_one_lora() -> None:
    assert forgetting(OLora) < 0.7 * sequential_forgetting()


@pytest.mark.parametrize("wrong", [{"lam1": -0.1}, {"lam2": -1.0}])
def test_negative_weights_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        OLora(**wrong)
