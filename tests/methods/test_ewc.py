"""EWC: the released numbers, the Fisher information sample by sample, and what the penalty holds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods import ewc
from methods.ewc import EWC, fisher_diagonal, quadratic_penalty
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
    same,
    sequential_forgetting,
)

seeds = st.integers(0, 10**6)


def linear_gradients(W: Tensor, b: Tensor, X: Tensor, y: Tensor) -> Tensor:
    """(P,) of the mean log-likelihood of a linear classifier, flattened as [W, b]."""
    W, b = W.clone().requires_grad_(True), b.clone().requires_grad_(True)
    return flat(torch.autograd.grad((X @ W.mT + b).log_softmax(dim=1)[torch.arange(len(y)), y].mean(), (W, b)))


# ---- the pure functions -------------------------------------------------------------------------------------------


def test_fisher_and_penalty_of_libcontinual() -> None:
    """Its Fisher squares the mean gradient of a batch and weighs it by the batch's length."""
    g = golden("ewc_libcontinual")
    size = int(g["batch_size"])
    parts = zip(g["X"].split(size), g["y"].split(size), strict=True)
    grads = torch.stack([linear_gradients(g["W0"], g["b0"], X, y) for X, y in parts])
    weights = torch.tensor([len(y) / size for y in g["y"].split(size)], dtype=torch.float64)
    expected = flat([g["fisher_W"], g["fisher_b"]])
    close(fisher_diagonal(grads, weights), expected, 1e-12)
    W = g["W1"].clone().requires_grad_(True)
    penalty = quadratic_penalty([W, g["b0"]], [g["W0"], g["b0"]], [g["fisher_W"], g["fisher_b"]])
    close(penalty, g["penalty"], 1e-12)
    close(torch.autograd.grad(penalty, W)[0], g["fisher_W"] * (g["W1"] - g["W0"]), 1e-12)
    singles = zip(g["X"].split(1), g["y"].split(1), strict=True)
    samples = torch.stack([linear_gradients(g["W0"], g["b0"], x, y) for x, y in singles])
    assert float(fisher_diagonal(samples).sum()) > 2 * float(expected.sum())  # ours is not that small


@given(seeds, st.integers(1, 4), st.integers(1, 6), st.floats(0, 1))
@settings(max_examples=20)
def test_online_ewc_of_mammoth_in_these_functions(seed: int, batches: int, size: int, gamma: float) -> None:
    """Each sample times p(y|x), divided by batches * size; F <- gamma F + F_t; e_lambda sum F (w - w*)^2, no 1/2."""
    generator = torch.Generator().manual_seed(seed)
    W, b, W1, b1 = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((3, 5), 3, (3, 5), 3))
    official, ours = torch.zeros(18, dtype=torch.float64), torch.zeros(18, dtype=torch.float64)
    for _task in range(2):
        X = torch.randn(batches * size, 5, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (batches * size,), generator=generator)
        fisher, grads, probs = torch.zeros(18, dtype=torch.float64), [], []
        for x, label in zip(X, y, strict=True):
            gradient = linear_gradients(W, b, x[None], label[None])
            p = torch.softmax(W @ x + b, dim=0)[label]
            fisher += p * gradient**2
            grads.append(gradient)
            probs.append(p)
        official = gamma * official + fisher / (batches * size)
        ours = gamma * ours + fisher_diagonal(torch.stack(grads), torch.stack(probs))
    close(ours, official, 1e-12)
    e_lambda, weights, anchor = 0.7, flat([W1, b1]).requires_grad_(True), flat([W, b])
    penalty = 2 * e_lambda * quadratic_penalty(weights, anchor, ours)
    close(penalty.detach(), e_lambda * (official * (flat([W1, b1]) - anchor) ** 2).sum(), 1e-12)
    close(torch.autograd.grad(penalty, weights)[0], 2 * e_lambda * official * (weights - anchor).detach(), 1e-12)


@given(seeds, st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4), st.booleans())
def test_the_penalty_is_a_weighted_square(seed: int, shapes: list[tuple[int, int]], double: bool) -> None:
    generator, dtype = torch.Generator().manual_seed(seed), torch.float64 if double else torch.float32
    params, anchor, fisher = (
        [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes] for _ in range(3)
    )
    fisher = [f**2 for f in fisher]
    leaves = [p.clone().requires_grad_(True) for p in params]
    penalty = quadratic_penalty(leaves, anchor, fisher)
    tolerance = 1e-12 if double else 1e-5
    by_hand = sum(
        0.5 * float(f) * (float(p) - float(a)) ** 2
        for p, a, f in zip(flat(params), flat(anchor), flat(fisher), strict=True)
    )
    assert penalty.dtype == dtype and float(penalty) == pytest.approx(by_hand, rel=tolerance, abs=tolerance)
    for leaf, a, f, gradient in zip(leaves, anchor, fisher, torch.autograd.grad(penalty, leaves), strict=True):
        close(gradient, (f * (leaf - a)).detach(), tolerance)
    close(quadratic_penalty(flat(params), flat(anchor), flat(fisher)), penalty.detach(), tolerance)
    assert float(quadratic_penalty(params, params, fisher)) == 0
    with pytest.raises(ValueError):
        quadratic_penalty(params, anchor[:-1], fisher)


def test_fisher_of_given_gradients() -> None:
    grads_NP = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    assert fisher_diagonal(grads_NP).tolist() == [5.0, 2.0]
    assert fisher_diagonal(grads_NP, torch.tensor([0.5, 1.0])).tolist() == [4.75, 1.0]


# ---- the method ---------------------------------------------------------------------------------------------------


def test_the_fisher_is_that_of_single_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a loop of autograd, over the task's own labels; chunks and batches of any length change nothing."""
    monkeypatch.setattr(ewc, "CHUNK", 3)
    method, task = learner(EWC), tiny.task(1, [5, 2, 3])
    learn(method, tiny.task(0, [0, 1]), steps=5)
    learn(method, task, steps=5)
    data = batch(task, count=9)
    loader = [{k: v[:7] for k, v in data.items()}, {k: v[7:] for k, v in data.items()}]
    with method.learning():
        fisher = method._fisher(task, loader)
        parameters, squares, rows = method.trainable_parameters(), [], []
        for i in range(9):
            sample = {name: values[i : i + 1] for name, values in data.items()}
            loss = cross_entropy_by_hand(method, method.embed_image(sample), sample)
            rows.append(flat(torch.autograd.grad(loss, parameters)))
            squares.append(rows[-1] ** 2)
    expected = torch.stack(squares).mean(dim=0)
    assert ((fisher - expected).abs() / expected.max()).max() < 1e-5
    assert float((fisher - expected).abs().sum() / expected.sum()) < 1e-4
    of_the_mean = torch.stack(rows).mean(dim=0) ** 2
    assert float(of_the_mean.sum()) < 0.8 * float(expected.sum())  # what it would be from a batch's mean gradient


def test_A_moves_freely_while_B_is_zero() -> None:
    method = learner(EWC)
    learn(method, tiny.task(0, [0, 1]), steps=0)
    As, Bs = method.experts.factors("shared")
    of_A, of_B = method.memory["fisher"].split([sum(A.numel() for A in As), sum(B.numel() for B in Bs)])
    assert not of_A.any() and (of_B > 0).float().mean() > 0.9


@pytest.mark.parametrize("gamma", [1.0, 0.3, 0.0])
def test_one_running_fisher_and_the_last_anchor(gamma: float) -> None:
    method, running = learner(EWC, gamma=gamma), torch.zeros(())
    for index in range(3):
        task = tiny.task(index, [2 * index, 2 * index + 1])
        learn(method, task, steps=4)
        with method.learning():
            running = gamma * running + method._fisher(task, [batch(task)])
        assert torch.equal(method.memory["fisher"], running)
        assert torch.equal(method.memory["anchor"], flat(method.trainable_parameters()))
    assert set(method.memory) == {"fisher", "anchor"}  # two vectors, whatever the number of tasks


def test_the_loss_is_cross_entropy_plus_the_penalty() -> None:
    method, tasks = learner(EWC, strength=50.0), [tiny.task(i, [2 * i, 2 * i + 1]) for i in range(2)]
    assert learn(method, tasks[0]) == learn(learner(SequentialLora), tasks[0])  # nothing to hold in the first task
    method.begin_task(tasks[1])
    data = batch(tasks[1])
    with method.learning():
        parameters = method.trainable_parameters()
        assert float(method.penalty().detach()) == 0  # at the anchor
        tiny.shake_all(parameters, 1)
        step = flat(parameters).detach() - method.memory["anchor"]
        assert float(step.abs().max()) > 0.1  # the anchor is a copy
        expected = 50 * 0.5 * float((method.memory["fisher"] * step**2).sum())
        with torch.autocast("cpu", torch.bfloat16):
            penalty = method.penalty()
        assert penalty.dtype == torch.float32 and float(penalty) == pytest.approx(expected, rel=1e-5)
        close(flat(torch.autograd.grad(penalty, parameters)), 50 * method.memory["fisher"] * step, 1e-5)
        total = cross_entropy_by_hand(method, method.embed_image(data), data) + penalty
        close(method.loss(data), total, 1e-5)


def test_taking_the_fisher_changes_no_weight() -> None:
    method, task = learner(EWC, dropout=0.5), tiny.task(0, [0, 1])
    learn(method, task)
    before, fisher = copies(list(method.parameters())), method.memory["fisher"].clone()
    with method.learning():
        method.memory.clear()
        method.end_task(task, [batch(task)])
        assert all(p.requires_grad and p.grad is None for p in method.trainable_parameters())
    assert same(before, list(method.parameters()))
    assert torch.equal(method.memory["fisher"], fisher)  # no dropout in it: the same again


def test_it_forgets_less_than_one_lora_without_it() -> None:
    assert forgetting(EWC, strength=1e7) < 0.5 * sequential_forgetting()


def test_what_mattered_moves_less() -> None:
    moved = []
    for strength in (0.0, 1e6):
        method = learner(EWC, strength=strength)
        learn(method, tiny.task(0, [0, 1]))
        fisher, anchor = method.memory["fisher"], method.memory["anchor"]
        learn(method, tiny.task(1, [2, 3]))
        step = (flat(method.trainable_parameters()).detach() - anchor).abs()
        top = fisher >= fisher.quantile(0.9)
        moved.append(float(step[top].mean() / step[~top].mean()))
    assert moved[1] < 0.7 * moved[0]


def test_arguments_are_checked() -> None:
    for name, value in (("strength", -1.0), ("gamma", 1.5), ("gamma", -0.1)):
        with pytest.raises(ValueError, match=f"{name} {value}: (need at least 0|must be in)"):
            EWC(**{name: value})
