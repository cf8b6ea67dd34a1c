"""MSLoRA-CR: reference numbers of the official code, what the equations must say, and the method's fast penalty."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.stream import Budget, Label, Task
from methods.mslora_cr import MSLoRACR, contrastive_penalty, lora_similarity, orthogonality_penalty
from methods.parts import backbones
from methods.parts.experts import lora_forward
from tests import tiny
from tests.golden_files import GOLDEN, close, files, golden, leaf

KINDS = ("exp_fro", "exp_rel", "cos_delta", "margin")
seeds = st.integers(0, 2**31 - 1)
shapes = st.lists(st.tuples(*[st.integers(1, 5)] * 3), min_size=1, max_size=4)  # (rank, D_in, D_out) per layer


# ---- golden numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", files("mslora_linear_*"), ids=lambda f: f.stem)
def test_the_layer_is_the_official_one(file: Path) -> None:
    g = golden(file)
    tolerance = 1e-12 if g["x"].dtype == torch.float64 else 1e-5
    As, Bs, scale = [leaf(A) for A in g["A"]], [leaf(B) for B in g["B"]], float(g["scaling"])
    bias = g["b"] if bool(g["has_bias"]) else None
    for mask, y in zip(g["masks"].tolist(), g["y"], strict=True):
        close(lora_forward(g["x"], g["W"], bias, As, Bs, scale, mask), y, tolerance)
    x = leaf(g["x"])
    (g["G"] * lora_forward(x, g["W"], bias, As, Bs, scale, [True] * len(As))).sum().backward()
    close(As[-1].grad, g["dA_cur"], tolerance)
    close(Bs[-1].grad, g["dB_cur"], tolerance)
    close(x.grad, g["dx"], tolerance)


@pytest.mark.parametrize("file", [f for f in files("mslora_sim_*") if "overflow" not in f.stem], ids=lambda f: f.stem)
def test_similarity_is_the_official_one(file: Path) -> None:
    g = golden(file)
    tolerance = 1e-12 if g["cur_0"].dtype == torch.float64 else 1e-6
    current, other = ([leaf(g[f"{side}_{i}"]) for i in range(int(g["n"]))] for side in ("cur", "oth"))
    similarity = lora_similarity(current, other)
    similarity.backward()
    close(similarity, g["sim"], tolerance)
    for i, matrix in enumerate(current):
        close(matrix.grad, g[f"grad_{i}"], tolerance)
    assert all(matrix.grad is None for matrix in other)


def test_similarity_of_far_loras_is_right_where_the_official_one_overflows() -> None:
    g = golden(GOLDEN / "mslora_sim_overflow_f32.npz")
    assert float(g["dist"]) > 150
    assert float(g["sim"]) == 0 and g["grad_0"].isnan().any()  # the defect
    current = leaf(g["cur_0"])
    similarity = lora_similarity([current], [g["oth_0"]])
    similarity.backward()
    assert torch.isfinite(similarity) and torch.isfinite(current.grad).all()
    wide = leaf(g["cur_0"].double())
    similarity = lora_similarity([wide], [g["oth_0"].double()])
    similarity.backward()
    distance = torch.linalg.norm(g["cur_0"].double() - g["oth_0"].double())
    assert float(similarity) == pytest.approx(math.exp(-float(distance)), rel=1e-10) and float(similarity) > 0
    assert float(wide.grad.norm()) == pytest.approx(float(similarity), rel=1e-10)  # the unit direction times exp(-d)


@pytest.mark.parametrize("file", files("mslora_ortho_*"), ids=lambda f: f.stem)
def test_orthogonality_is_the_official_one(file: Path) -> None:
    g = golden(file)
    As, Bs = ([leaf(g[f"{name}_{i}"]) for i in range(int(g["n"]))] for name in "AB")
    penalty = orthogonality_penalty(As, Bs)
    penalty.backward()
    close(penalty, g["R"], 1e-12)
    for i, (A, B) in enumerate(zip(As, Bs, strict=True)):
        close(A.grad, g[f"dA_{i}"], 1e-12)
        close(B.grad, g[f"dB_{i}"], 1e-12)


@pytest.mark.parametrize("file", files("mslora_total_*"), ids=lambda f: f.stem)
def test_the_objective_is_the_official_one(file: Path) -> None:
    g = golden(file)
    T, alpha, beta = int(g["T"]), g["alpha"], g["beta"]
    scale = float(g["lora_alpha"]) / float(g["rank"])
    factors = {name: [leaf(X) for X in g[name]] for name in ("l0_A", "l0_B", "l1_A", "l1_B")}
    h = g["x"]
    for layer in ("l0", "l1"):
        As, Bs = factors[f"{layer}_A"], factors[f"{layer}_B"]
        h = torch.tanh(lora_forward(h, g[f"{layer}_W"], g[f"{layer}_b"], As, Bs, scale, [True] * T))
    ce = F.cross_entropy(h @ g["head_W"].T + g["head_b"], g["y"])
    close(ce, g["ce"], 1e-11)
    total = ce
    if T > 1:
        tasks = [[factors[name][t] for name in ("l0_A", "l0_B", "l1_A", "l1_B")] for t in range(T)]
        flags = g["same"].bool().tolist()
        for task, expected in zip(tasks[:-1], g["sims"], strict=True):
            close(lora_similarity(tasks[-1], task), expected, 1e-11)
        R = orthogonality_penalty([X for t in tasks for X in t[0::2]], [X for t in tasks for X in t[1::2]])
        close(R, g["R"], 1e-11)
        total = ce + alpha * contrastive_penalty(tasks[-1], tasks[:-1], flags) + beta * R
    total.backward()
    close(total, g["total"], 1e-11)
    for name, matrices in factors.items():
        layer, factor = name.split("_")
        close(matrices[-1].grad, g[f"{layer}_d{factor}"], 1e-11)


def test_scale_free_variants_have_their_reference_numbers() -> None:
    g = golden(GOLDEN / "own_variants_sim.npz")
    for i in range(int(g["n"])):
        A, B = leaf(g[f"A_{i}"]), leaf(g[f"B_{i}"])
        relative = lora_similarity([A], [g[f"A2_{i}"]], "exp_rel")
        close(relative, g[f"rel_{i}"], 1e-10)
        close(torch.autograd.grad(relative, A)[0], g[f"rel_dA_{i}"], 1e-10)
        margin = lora_similarity([A], [g[f"A2_{i}"]], "margin")
        close(margin, 1 + torch.log(g[f"rel_{i}"]), 1e-10)
        cosine = lora_similarity([A, B], [g[f"A2_{i}"], g[f"B2_{i}"]], "cos_delta")
        close(cosine, g[f"cos_{i}"], 1e-10)
        dA, dB = torch.autograd.grad(cosine, (A, B))
        close(dA, g[f"cos_dA_{i}"], 1e-10)
        close(dB, g[f"cos_dB_{i}"], 1e-10)


# ---- what the similarities must say ---------------------------------------------------------------------------------


def draw_lora(layers: list[tuple[int, int, int]], seed: int, scale: float = 1.0) -> list[Tensor]:
    """A_1, B_1, A_2, B_2, ... in float64."""
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for rank, d_in, d_out in layers:
        for shape in ((rank, d_in), (d_out, rank)):
            draws.append(scale * torch.randn(shape, generator=generator, dtype=torch.float64))
    return draws


@pytest.mark.parametrize("kind", KINDS)
@given(layers=shapes, seed=seeds)
def test_similarity_is_symmetric_and_one_for_a_twin(kind: str, layers: list[tuple[int, int, int]], seed: int) -> None:
    one, two = draw_lora(layers, seed), draw_lora(layers, seed + 1)
    value = float(lora_similarity(one, two, kind))
    assert value == pytest.approx(float(lora_similarity(two, one, kind)), abs=1e-12)
    assert float(lora_similarity(one, [x.clone() for x in one], kind)) == pytest.approx(1, abs=1e-12)
    if kind.startswith("exp"):
        assert 0 < value <= 1
    assert (-1 if kind == "cos_delta" else 1 - math.sqrt(2)) - 1e-12 <= value <= 1 + 1e-12


@pytest.mark.parametrize("kind", KINDS)
@given(layers=shapes, seed=seeds)
def test_only_the_current_lora_takes_a_gradient(kind: str, layers: list[tuple[int, int, int]], seed: int) -> None:
    one, two = ([leaf(x) for x in draw_lora(layers, s)] for s in (seed, seed + 1))
    penalty = contrastive_penalty(one, [two, two], [True, False], kind) + lora_similarity(one, two, kind)
    penalty.backward()
    assert all(x.grad is None for x in two)
    assert all(torch.isfinite(x.grad).all() for x in one)
    constant = kind == "cos_delta" and all(d_in * d_out == 1 for _, d_in, d_out in layers)  # the cosine of two numbers
    assert constant or any(x.grad.abs().max() > 0 for x in one)


@given(layers=shapes, seed=seeds, scale=st.floats(1e-3, 1e3))
def test_invariances(layers: list[tuple[int, int, int]], seed: int, scale: float) -> None:
    one, two = draw_lora(layers, seed), draw_lora(layers, seed + 1)
    for kind in ("exp_rel", "margin", "cos_delta"):
        scaled = lora_similarity([scale * x for x in one], [scale * x for x in two], kind)
        assert float(scaled) == pytest.approx(float(lora_similarity(one, two, kind)), abs=1e-9)
    turned, generator = [], torch.Generator().manual_seed(seed)
    for A, B in zip(one[0::2], one[1::2], strict=True):
        G = torch.linalg.qr(torch.randn(len(A), len(A), generator=generator, dtype=torch.float64)).Q
        G = G * torch.linspace(0.5, 2, len(A), dtype=torch.float64)
        turned += [G @ A, B @ torch.linalg.inv(G)]
    expected = float(lora_similarity(one, two, "cos_delta"))
    assert float(lora_similarity(turned, two, "cos_delta")) == pytest.approx(expected, abs=1e-9)
    assert float(lora_similarity(two, turned, "cos_delta")) == pytest.approx(expected, abs=1e-9)


@given(layers=shapes, seed=seeds)
def test_cos_delta_is_the_cosine_of_the_weight_changes(layers: list[tuple[int, int, int]], seed: int) -> None:
    one, two = draw_lora(layers, seed), draw_lora(layers, seed + 1)
    deltas = ([(B @ A).flatten() for A, B in zip(x[0::2], x[1::2], strict=True)] for x in (one, two))
    cosines = [F.cosine_similarity(d, e, dim=0) for d, e in zip(*deltas, strict=True)]
    assert float(lora_similarity(one, two, "cos_delta")) == pytest.approx(float(torch.stack(cosines).mean()), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_or_equal_lora_gives_finite_gradients(kind: str) -> None:
    trained = draw_lora([(4, 6, 5)], 0)
    fresh = [leaf(trained[0]), leaf(torch.zeros_like(trained[1]))]
    for other in (trained, fresh, [torch.zeros_like(x) for x in trained]):
        for same in (True, False):
            value = contrastive_penalty(fresh, [other], [same], kind)
            assert torch.isfinite(value)
            assert all(torch.isfinite(grad).all() for grad in torch.autograd.grad(value, fresh))


@given(seed=seeds, margin=st.floats(0.1, 1.4))
def test_margin_pushes_only_within_the_margin_and_always_pulls(seed: int, margin: float) -> None:
    one, two = ([leaf(x) for x in draw_lora([(3, 7, 5)], s)] for s in (seed, seed + 1))
    distances = [float((x - y).norm() / (x.norm() ** 2 + y.norm() ** 2).sqrt()) for x, y in zip(one, two, strict=True)]
    different = contrastive_penalty(one, [two], [False], "margin", margin)
    expected = sum(max(0.0, margin - d) ** 2 for d in distances) / len(distances)
    assert float(different) == pytest.approx(expected, abs=1e-12)
    if min(distances) > margin:
        assert float(different) == 0
        assert all((g == 0).all() for g in torch.autograd.grad(different, one))
    same = contrastive_penalty(one, [two], [True], "margin", margin)
    assert float(same) == pytest.approx(sum(d**2 for d in distances) / len(distances), abs=1e-12)


def test_margin_is_zero_for_opposite_loras_of_different_modalities() -> None:
    one = [leaf(x) for x in draw_lora([(3, 7, 5), (2, 4, 4)], 1)]
    penalty = contrastive_penalty(one, [[-x for x in one]], [False], "margin")  # d = sqrt 2 > 1
    assert float(penalty) == 0
    assert all((g == 0).all() for g in torch.autograd.grad(penalty, one))


def test_contrastive_penalty_wants_a_flag_for_each_earlier_task() -> None:
    lora = draw_lora([(2, 3, 3)], 0)
    with pytest.raises(ValueError, match="2 earlier tasks but 1"):
        contrastive_penalty(lora, [lora, lora], [True])
    assert float(contrastive_penalty(lora, [], [])) == 0


@given(seed=seeds, size=st.integers(1, 4))
@settings(max_examples=20)
def test_orthonormal_factors_have_no_orthogonality_penalty(seed: int, size: int) -> None:
    Q = torch.linalg.qr(torch.randn(7, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q
    assert float(orthogonality_penalty([Q.T], [Q])) == pytest.approx(0, abs=1e-20)
    assert float(orthogonality_penalty([Q.T, 0 * Q.T], [Q, 0 * Q])) == pytest.approx(size, abs=1e-12)  # (0 + 2 r) / 2


# ---- the method's fast path -----------------------------------------------------------------------------------------

MODALITIES = ("pathology", "radiology", "pathology", "radiology")


def begin(method: MSLoRACR, index: int) -> None:
    labels = tuple(Label(2 * index + i, f"class {2 * index + i}", (f"class {2 * index + i}.",)) for i in range(2))
    method.begin_task(Task(index, f"task{index}", MODALITIES[index], "classification", labels, len(MODALITIES)))


def slow_penalty(tasks: list[tuple[list[Tensor], list[Tensor]]], kind: str, alpha: float, beta: float) -> Tensor:
    """alpha CR + beta R one matrix at a time, from the equations of the docstring and the specification's table."""
    (As, Bs), earlier = tasks[-1], tasks[:-1]
    CR = torch.zeros((), dtype=torch.float64)
    for i, (As_i, Bs_i) in enumerate(earlier):
        same = MODALITIES[i] == MODALITIES[len(tasks) - 1]
        terms = []
        if kind == "cos_delta":
            for A, B, A_i, B_i in zip(As, Bs, As_i, Bs_i, strict=True):
                norm = (B @ A).norm() * (B_i @ A_i).norm()
                sim = ((B @ A) * (B_i @ A_i)).sum() / norm if norm > 0 else torch.zeros((), dtype=torch.float64)
                terms.append(1 - sim if same else sim)
        else:
            for X, Y in zip([*As, *Bs], [*As_i, *Bs_i], strict=True):
                d = ((X - Y) ** 2).sum().sqrt()
                if kind != "exp_fro":
                    d = d / ((X**2).sum() + (Y**2).sum()).sqrt().detach()
                if kind == "margin":
                    terms.append(d**2 if same else torch.clamp(1 - d, min=0) ** 2)
                else:
                    terms.append(1 - torch.exp(-d) if same else torch.exp(-d))
        CR = CR + sum(terms) / len(terms)
    R = torch.zeros((), dtype=torch.float64)
    for As_i, Bs_i in tasks:
        for A, B in zip(As_i, Bs_i, strict=True):
            eye = torch.eye(len(A), dtype=torch.float64)
            R = R + ((A @ A.T - eye) ** 2).sum() + ((B.T @ B - eye) ** 2).sum()
    return alpha * CR + beta * R / (len(As) * len(tasks))


@pytest.mark.parametrize("kind", KINDS)
def test_the_methods_penalty_is_the_slow_one(kind: str) -> None:
    method = MSLoRACR(rank=4, lora_alpha=8.0, alpha=0.7, beta=0.3, similarity=kind)
    method.attach(backbones.load("phantom-clip"), Budget())
    generator = torch.Generator().manual_seed(0)
    for index in range(len(MODALITIES)):
        begin(method, index)
        current = method.trainable_parameters()
        with torch.no_grad():
            for parameter in current:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        with method.learning():
            for _ in range(2):  # twice: the second step reads what the first one stored
                penalty = method.penalty()
                if index == 0:
                    assert float(penalty) == 0 and not penalty.requires_grad
                    continue
                assert penalty.dtype == torch.float32
                factors = [method.experts.factors(name) for name in method.experts.names]
                wide = [([A.detach().double() for A in As], [B.detach().double() for B in Bs]) for As, Bs in factors]
                leaves = [leaf(x) for part in wide[-1] for x in part]
                wide[-1] = (leaves[: len(leaves) // 2], leaves[len(leaves) // 2 :])
                expected = slow_penalty(wide, kind, method.regulariser.alpha, method.regulariser.beta)
                assert float(penalty) == pytest.approx(float(expected), rel=1e-5)
                grads = torch.autograd.grad(penalty, current)
                for grad, slow in zip(grads, torch.autograd.grad(expected, leaves), strict=True):
                    assert (grad - slow).norm() <= 1e-4 * slow.norm() + 1e-7
                with torch.no_grad():
                    for parameter in current:
                        parameter.mul_(0.9)


@pytest.mark.parametrize("kind", ["exp_fro", "exp_rel", "cos_delta"])
def test_the_methods_penalty_is_made_of_the_papers_functions(kind: str) -> None:
    method = MSLoRACR(rank=4, alpha=0.7, beta=0.3, similarity=kind)
    method.attach(tiny.backbone(), Budget())
    for index in range(len(MODALITIES)):
        begin(method, index)
        tiny.shake_all(method.trainable_parameters(), index)
    current = method.trainable_parameters()
    with method.learning():
        penalty = method.penalty()
        loras = [method.experts.factors(name) for name in method.experts.names]
        *earlier, newest = ([X for pair in zip(As, Bs, strict=True) for X in pair] for As, Bs in loras)
        expected = 0.3 * orthogonality_penalty([A for As, _ in loras for A in As], [B for _, Bs in loras for B in Bs])
        for other, modality in zip(earlier, MODALITIES, strict=False):
            sim = lora_similarity(newest, other, kind)
            expected = expected + 0.7 * (1 - sim if modality == MODALITIES[-1] else sim)
        gradients = [torch.autograd.grad(value, current) for value in (penalty, expected)]
    assert float(penalty.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    for one, two in zip(*gradients, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-7)


def test_the_penalty_leaves_the_earlier_experts_alone_and_stays_wide_under_autocast() -> None:
    method = MSLoRACR(rank=2)
    method.attach(backbones.load("phantom-clip"), Budget())
    begin(method, 0)
    begin(method, 1)
    with method.learning():
        plain = method.penalty()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(method.penalty(), plain)
        plain.backward()
    assert all(p.grad is None for p in method.experts.parameters("task0"))
    assert all(p.grad is not None for p in method.experts.parameters("task1"))


def test_an_unknown_similarity_is_refused() -> None:
    with pytest.raises(ValueError, match="exp_fro, exp_rel, cos_delta, margin"):
        MSLoRACR(similarity="exp")


def test_flags_may_be_integers_and_what_cannot_be_compared_is_refused() -> None:
    """Flags as the golden files hold them; a missing or mis-shaped matrix must not be broadcast."""
    current, other = [torch.ones(2, 3), torch.ones(3, 2)], [torch.zeros(2, 3), torch.zeros(3, 2)]
    flags = torch.tensor([1, 0])
    assert torch.equal(
        contrastive_penalty(current, [other, other], flags),  # type: ignore[arg-type]
        contrastive_penalty(current, [other, other], [True, False]),
    )
    for wrong in (other[:1], [torch.zeros(1, 3), torch.zeros(3, 2)]):
        with pytest.raises(ValueError, match="pairwise of one shape"):
            lora_similarity(current, wrong)
        with pytest.raises(ValueError, match="pairwise of one shape"):
            contrastive_penalty(current, [wrong], [True])
    with pytest.raises(ValueError, match="choose from exp_fro"):
        lora_similarity(current, other, kind="nearest")


@pytest.mark.parametrize("kind", KINDS)
def test_the_penalty_is_in_float32_inside_autocast_too(kind: str) -> None:
    """What is frozen is gathered at a task's first step, which a trainer with mixed precision makes in autocast."""
    method = MSLoRACR(rank=4, similarity=kind)
    method.attach(tiny.backbone(), Budget())
    for index in range(3):
        begin(method, index)
        tiny.shake_all(method.trainable_parameters(), index)
    with method.learning():
        expected = method.penalty()
    with method.learning(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(method.penalty(), expected)
