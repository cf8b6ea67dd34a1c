"""KeepLoRA: the released spaces and bases, what they promise, and both releases' way of learning a task."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmark.testing import check_method
from methods.base import Batch
from methods.keeplora import ANCHOR, KeepLora, grow, principal, residual_basis
from methods.parts.kept_space import Averages, Covariances
from tests import tiny
from tests.golden_files import close, golden
from tests.lessons import batch, copies, flat, learner, opposed, same, with_defaults

LLAVA = ["c/keeplora_llava_a", "c/keeplora_llava_ratio"]
seeds = st.integers(0, 10**6)
TASKS = [tiny.task(i, [2 * i, 2 * i + 1]) for i in range(3)]


def projector(U: Tensor) -> Tensor:
    return U @ U.mT


# ---- the pure functions against the official codes -----------------------------------------------------------------


def network(x: Tensor, W_0: Tensor, W_1: Tensor) -> Tensor:
    return torch.tanh(x @ W_0.mT) @ W_1.mT


def gradient(g: dict[str, Tensor], Ws: list[Tensor], task: int) -> list[Tensor]:
    """The mean over int(ratio n) samples at equal distances, from all weights at once."""
    x, y = g[f"x_{task}"], g[f"y_{task}"]
    chosen = max(1, int(float(g["data_ratio"]) * len(x)))
    rows = [i * (len(x) - 1) // (chosen - 1) for i in range(chosen)]
    leaves = [W.clone().requires_grad_() for W in Ws]
    loss = F.cross_entropy(network(x[rows], *leaves).flatten(0, 1), y[rows].flatten())
    return list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("name", LLAVA)
def test_the_side_for_llava_from_weights_to_grown_spaces(name: str) -> None:
    """Over all tasks: the gradient, a basis as good as the released one, the fold, the gradient again, the space."""
    g = golden(name)
    Ws, rank = [g["W_0"], g["W_1"]], int(g["rank"])
    kept = [principal(W, float(g["w_energy"])) for W in Ws]
    for i, U in enumerate(kept):
        close(projector(U), g[f"space_0_{i}"], 1e-7)
        assert U.shape[1] == int(g[f"space_rank_0_{i}"])
    for t in range(1, int(g["tasks"]) + 1):
        for i, G in enumerate(gradient(g, Ws, t)):
            close(G, g[f"grad_{t}_{i}"], 1e-10)
            A, P = residual_basis(G, kept[i], rank), projector(kept[i])
            R = G.mT - P @ G.mT
            best, theirs = (float((basis @ R).norm() ** 2) for basis in (A, g[f"A_{t}_{i}"]))
            assert best >= theirs - 1e-15 and best == pytest.approx(
                float((torch.linalg.svdvals(R)[:rank] ** 2).sum()), rel=1e-9
            )
            if int((torch.linalg.svdvals(R) > 1e-10 * R.norm()).sum()) >= rank:
                close(A @ A.mT, torch.eye(rank).double(), 1e-10)
            close(A @ P, torch.zeros_like(A), 1e-10)
        Ws = [W + g["scale"] * g[f"B_{t}_{i}"] @ g[f"A_{t}_{i}"] for i, W in enumerate(Ws)]
        for i, G in enumerate(gradient(g, Ws, t)):
            close(G, g[f"post_grad_{t}_{i}"], 1e-10)
            kept[i] = grow(kept[i], G.mT, float(g["g_energy"]))
            close(projector(kept[i]), g[f"space_{t}_{i}"], 1e-7)
            assert kept[i].shape[1] == int(g[f"space_rank_{t}_{i}"])


def test_the_side_for_clip_grows_as_released_from_its_own_first_space() -> None:
    g = golden("c/keeplora_clip_mtil")
    dim, rank = int(g["dim"]), int(g["rank"])
    for i in range(int(g["layers"])):
        values, vectors = torch.linalg.eigh(g[f"space_0_{i}"])
        kept = vectors[:, values > 0.5]
        energy = next(
            e for e in (float(g["threshold"]), float(g["threshold2"]))
            if principal(g[f"W_{i}"].mT, e).shape[1] == kept.shape[1]
        )  # fmt: skip
        close(projector(principal(g[f"W_{i}"].mT, energy)), g[f"space_0_{i}"], 2e-3)
        assert (projector(principal(g[f"W_{i}"], energy)) - g[f"space_0_{i}"]).abs().max() > 0.1
        for t in range(1, int(g["tasks"]) + 1):
            G = g[f"grad_{t}_{i}"][:dim]  # of q, which stands first
            A, P = residual_basis(G, kept, rank), projector(kept)
            theirs = g[f"A_{t}_{i}"].mT
            assert float((A @ G.mT).norm()) >= 0.98 * float((theirs @ (G.mT - P @ G.mT)).norm())
            close(A @ kept, torch.zeros(rank, kept.shape[1]).double(), 1e-8)
            close((G @ A.mT) @ A, g[f"B_{t}_{i}"].mT @ theirs, 1e-3)
            features = g[f"features_{t}_{i}"]
            by_covariance = Covariances()
            by_covariance.add(0, features.mT[None], None)
            kept = grow(kept, features, float(g["threshold"]))
            close(projector(kept), g[f"space_{t}_{i}"], 2e-3)
            assert kept.shape[1] == int(g[f"space_rank_{t}_{i}"])


# ---- what they promise ---------------------------------------------------------------------------------------------


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def columns(seed: int, d: int, k: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linalg.qr(drawn(seed, d, d, dtype=dtype))[0][:, : min(k, d)]


@given(seeds, st.integers(1, 7), st.integers(1, 7), st.floats(0, 1))
def test_the_first_space_is_one_direction_short_of_the_energy(seed: int, d_out: int, d_in: int, energy: float) -> None:
    W = drawn(seed, d_out, d_in)
    U = principal(W, energy)
    k, shares = U.shape[1], (torch.linalg.svdvals(W) ** 2).cumsum(0) / (W**2).sum()
    close(U.mT @ U, torch.eye(k).double(), 1e-10)
    held = float((U.mT @ W.mT).norm() ** 2 / W.norm() ** 2)
    assert held == pytest.approx(float(shares[k - 1]), abs=1e-10)
    assert k == 1 or held < energy
    assert energy > 1 - 1e-9 or k == len(shares) or float(shares[k]) >= energy


@given(
    seeds, st.integers(1, 7), st.integers(0, 8), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.booleans()
)
def test_a_space_grows_by_the_fewest_directions(
    seed: int, d: int, k: int, n: int, rank: int, energy: float, double: bool
) -> None:
    dtype, tolerance = (torch.float64, 1e-9) if double else (torch.float32, 1e-4)
    kept, M = columns(seed, d, k, dtype), drawn(seed + 1, d, rank, dtype=dtype) @ drawn(seed + 2, rank, n, dtype=dtype)
    grown = grow(kept, M, energy)
    new = grown.shape[1] - kept.shape[1]
    assert grown.dtype == dtype and torch.equal(grown[:, : kept.shape[1]], kept) and grown.shape[1] <= d
    close(grown.mT @ grown, torch.eye(grown.shape[1], dtype=dtype), tolerance)

    def held(U: Tensor) -> float:
        return float((U.mT @ M).norm() ** 2 / M.norm() ** 2)

    assert held(grown) >= energy - tolerance
    assert new == 0 or held(grown[:, :-1]) < energy + tolerance
    outside = M - projector(kept) @ M
    best = (torch.linalg.svdvals(outside)[:new] ** 2).sum() / M.norm() ** 2
    assert held(grown) - held(kept) == pytest.approx(float(best), abs=tolerance)


@given(seeds, st.integers(1, 7), st.integers(1, 7), st.integers(0, 8), st.integers(1, 9), st.booleans())
def test_a_basis_is_orthonormal_outside_of_what_is_kept_and_takes_the_most(
    seed: int, d_out: int, d: int, k: int, rank: int, double: bool
) -> None:
    dtype, tolerance = (torch.float64, 1e-9) if double else (torch.float32, 1e-4)
    kept, G = columns(seed, d, k, dtype), drawn(seed + 1, d_out, d, dtype=dtype)
    A = residual_basis(G, kept, rank)
    there = min(rank, d_out, d - kept.shape[1])
    assert A.shape == (rank, d) and A.dtype == dtype
    close(A @ A.mT, torch.diag(torch.tensor([1.0] * there + [0.0] * (rank - there), dtype=dtype)), tolerance)
    close(A @ kept, torch.zeros(rank, kept.shape[1], dtype=dtype), tolerance)
    R = G.mT - projector(kept) @ G.mT
    most = float((torch.linalg.svdvals(R)[:rank] ** 2).sum())
    assert float((A @ R).norm() ** 2) == pytest.approx(most, rel=1e-3, abs=10 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_nothing_comes_nothing(dtype: torch.dtype) -> None:
    zeros, kept = torch.zeros(5, 4, dtype=dtype), columns(0, 4, 2, dtype)
    assert not residual_basis(zeros, kept, 3).any()
    assert torch.equal(grow(kept, zeros.mT, 0.99), kept)
    assert principal(zeros, 0.6).shape == (4, 1) and principal(zeros, 0.6).isfinite().all()
    inside = drawn(1, 5, 2, dtype=dtype) @ kept.mT  # a gradient that the kept space has all of
    assert not residual_basis(inside, kept, 3).any()
    assert torch.equal(grow(kept, inside.mT, 0.99), kept)
    assert torch.equal(grow(columns(0, 4, 4, dtype), drawn(2, 4, 6, dtype=dtype), 1.0), columns(0, 4, 4, dtype))


def test_the_released_surplus_rows_lie_in_the_kept_space() -> None:
    G, kept = drawn(0, 6, 5), columns(1, 5, 3)
    ours, released = (residual_basis(G, kept, 4, faithful) for faithful in (False, True))
    close(projector(ours[:2].mT), projector(released[:2].mT), 1e-9)
    assert not ours[2:].any() and (released @ kept).norm() > 0.9


@given(seeds, st.integers(1, 4))
def test_covariances_have_the_directions_and_energies_of_the_inputs(seed: int, batches: int) -> None:
    inputs, x = Covariances(), [drawn(seed + i, 3, 2, 5) for i in range(batches)]
    for part in x:
        inputs.add(7, part, None)
    whole, rows = torch.cat(x).flatten(0, 1), inputs.rows(7)
    close(rows.mT @ rows, whole.mT @ whole, 1e-9)
    kept = columns(seed, 5, 1)
    close(projector(grow(kept, rows.mT, 0.9)), projector(grow(kept, whole.mT, 0.9)), 1e-7)
    masked = Covariances()
    masked.add(0, x[0], torch.tensor([[True, False]] * 3))
    close(masked.sums[0], x[0][:, 0].mT @ x[0][:, 0], 1e-12)


def test_averages_of_batches_leave_a_smaller_last_one_out() -> None:
    inputs, x = Averages(), [drawn(i, size, 2, 5) for i, size in enumerate((4, 4, 3))]
    for part in x:
        inputs.add(0, part, None)
    close(inputs.rows(0), (x[0] + x[1]).flatten(0, 1), 1e-12)


# ---- the method ----------------------------------------------------------------------------------------------------


def prepared(data: Batch, task: int = 0, **arguments: object) -> KeepLora:
    method = learner(KeepLora, **arguments)
    for earlier in TASKS[:task]:
        taught(method, earlier, batch(earlier))
    with tiny.seeded(task):
        method.begin_task(TASKS[task])
    with method.learning():
        method.eval()
        method.prepare_task(TASKS[task], [data])
    return method


def taught(method: KeepLora, task: object, data: Batch, lr: float = 0.01, steps: int = 3) -> None:
    """Begin, prepare, train and end a task."""
    with tiny.seeded(0):
        method.begin_task(task)
    with method.learning():
        method.eval()
        method.prepare_task(task, [data])
        method.train()
        optimizer = torch.optim.Adam(method.trainable_parameters(), lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            method.loss(data).backward()
            optimizer.step()
        optimizer.zero_grad()
        method.eval()
        method.end_task(task, [data])


def by_finite_differences(method: KeepLora, layer: int, data: Batch, where: list[tuple[int, int]]) -> Tensor:
    """dL/dW of some entries of a layer."""
    W, slopes, step = method.experts.layers[layer].base_layer.weight, [], 1e-2
    for i, j in where:
        losses = []
        for sign in (1, -1):
            W.data[i, j] += sign * step
            losses.append(float(method.loss(data)))
            W.data[i, j] -= sign * step
        slopes.append((losses[0] - losses[1]) / (2 * step))
    return torch.tensor(slopes)


def test_the_gradient_is_that_of_the_mean_loss_and_of_the_portion() -> None:
    data = batch(TASKS[0], count=20)
    method = prepared(data)
    method.budget = method.budget.__class__(augment="none", batch_size=8)
    with method.experts.blend({}):
        gradients = method._gradients([data])
        places = [(0, 0), (3, 5), (10, 2)]
        with torch.no_grad():
            for layer in (0, 4):
                expected = by_finite_differences(method, layer, data, places)
                close(torch.stack([gradients[layer][place] for place in places]), expected, 2e-3)
        method.portion = 0.25
        rows = [0, 4, 9, 14, 19]
        part = {name: values[rows] for name, values in data.items()}
        some = method._gradients([{name: values[:11] for name, values in data.items()},
                                  {name: values[11:] for name, values in data.items()}])  # fmt: skip
        method.portion = 1.0
        assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(some, method._gradients([part]), strict=True))
        assert not torch.allclose(some[0], gradients[0], atol=1e-4)
    assert not any(layer.base_layer.weight.requires_grad for layer in method.experts.layers)
    assert all(layer.base_layer.weight.grad is None for layer in method.experts.layers)


def test_only_b_is_trained_and_the_model_is_at_first_what_it_was() -> None:
    data = batch(TASKS[1])
    for start in ("zero", "gradient"):
        method = prepared(data, task=1, start=start)
        As, Bs = method.experts.factors("task1")
        assert {id(p) for p in method.trainable_parameters()} == {id(B) for B in Bs}
        with method.experts.blend({"task0": 1.0}), torch.no_grad():
            before = method.embed_image(data)
        with method.learning():
            assert not any(A.requires_grad for A in As) and all(B.requires_grad for B in Bs)
            with torch.no_grad():
                close(method.embed_image(data), before, 1e-4)
        assert bool(flat(Bs).any()) == (start == "gradient")


def test_starting_from_the_gradient_is_undone_when_the_task_ends() -> None:
    """Without a step nothing is learned; and the factors kept are what was learned beyond the start."""
    data, method = batch(TASKS[0]), learner(KeepLora, start="gradient")
    taught(method, TASKS[0], data, steps=0)
    assert not flat(method.experts.factors("task0")[1]).any()
    taught(method, TASKS[1], data)
    assert flat(method.experts.factors("task1")[1]).any() and not flat(method.experts.factors(ANCHOR)[1]).any()
    with torch.no_grad(), method.learning():
        learned = method.embed_image(data)
    with torch.no_grad():
        close(method.represent(data, None), learned, 1e-4)


@pytest.mark.parametrize("after", ["gradient", "features"])
def test_a_later_task_leaves_alone_what_is_kept_and_the_weights_come_back(after: str) -> None:
    method = learner(KeepLora, rank=3, after=after)
    taught(method, TASKS[0], batch(TASKS[0]))
    pristine = copies([layer.base_layer.weight for layer in method.experts.layers])
    kept = [method.memory[f"kept_{i}"].clone() for i in range(len(method.experts.layers))]
    taught(method, TASKS[1], batch(TASKS[1]))
    As, Bs = method.experts.factors("task1")
    for i, (A, B) in enumerate(zip(As, Bs, strict=True)):
        change = (B @ A).detach()
        assert (change @ kept[i].mT.float()).norm() <= 1e-5 * change.norm()
        U, grown = kept[i].mT, method.memory[f"kept_{i}"].mT
        close(projector(grown) @ U, U, 1e-9)  # what is kept stays kept
    assert flat(Bs).any()
    assert same(pristine, [layer.base_layer.weight for layer in method.experts.layers])
    with method.acting(None):
        for i, layer in enumerate(method.experts.layers):
            pairs = [[side[i] for side in method.experts.factors(name)] for name in ("task0", "task1")]
            update = sum(method.experts.scale * B @ A for A, B in pairs)
            close(layer.base_layer.weight, pristine[i] + update, 1e-6)


def test_the_first_space_is_of_the_frozen_weights_also_where_no_task_is_first() -> None:
    method = prepared(batch(TASKS[0]), w_energy=0.8)
    for i, layer in enumerate(method.experts.layers):
        U = principal(layer.base_layer.weight.detach().double(), 0.8)
        close(projector(method.memory[f"kept_{i}"].mT), projector(U), 1e-9)


def test_features_are_the_inputs_of_every_adapted_layer() -> None:
    data = batch(TASKS[0], count=6)
    method = prepared(data, after="features", placement="q,fc1")
    with torch.no_grad(), method.experts.blend({}):
        rows = method._features([data])
        block = method.backbone.image.blocks[0]
        x = method.backbone.image.embed(method.views(data["image"], False))
        attended = method.backbone.image.attended(0, x)
        for i, inputs in enumerate((block.norm1(x), block.norm2(attended))):
            x_ND = inputs.flatten(0, 1).double()
            close((rows[i].mT @ rows[i]) / len(x_ND), x_ND.mT @ x_ND / len(x_ND), 1e-4)


def test_the_released_first_space_is_of_outputs_and_needs_square_weights() -> None:
    with pytest.raises(ValueError, match=r"square weights.*choose from q, k, v, out"):
        learner(KeepLora, faithful=True, after="features")
    data = batch(TASKS[0])
    method = prepared(data, faithful=True, after="features", placement="q,k")
    W = method.experts.layers[0].base_layer.weight.detach().double()
    close(projector(method.memory["kept_0"].mT), projector(principal(W.mT, 0.6)), 1e-9)
    learner(KeepLora, faithful=True, after="gradient")  # there it is of inputs, as released


def test_what_is_kept_is_not_forgotten() -> None:
    """Of the inputs: the two tasks share pixels, and learning the second disturbs the first where nothing is kept."""
    rises = []
    for energy in (0.0, 0.99):
        method, losses = learner(KeepLora, w_energy=0.0, after="features", energy=energy), []
        test = batch(opposed(0), 9)
        for task in (opposed(0), opposed(1)):
            taught(method, task, batch(task, 1, count=16), steps=12)
            with torch.no_grad():
                losses.append(float(F.cross_entropy(method.scores(test, opposed(0).labels, None), test["label"])))
        rises.append(losses[1] - losses[0])
    assert rises[1] < 0.5 * rises[0], rises


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"after": "inputs"}, "after 'inputs'"),
        ({"start": "random"}, "start 'random'"),
        ({"portion": 0.0}, "portion 0.0"),
        ({"energy": 1.2}, "energy 1.2"),
        ({"w_energy": -0.1}, "w_energy -0.1"),
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeepLora(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds, arguments",
    [
        (("classification", "generation"), {"after": "features", "start": "gradient", "portion": 0.3}),
        (("classification",), {"after": "features", "faithful": True, "placement": "q,v"}),
        (("retrieval",), {"start": "gradient", "dropout": 0.1}),
    ],
    ids=str,
)
def test_other_arguments_keep_the_contract(kinds: tuple[str, ...], arguments: dict[str, object]) -> None:
    check_method(with_defaults(KeepLora, kinds, **arguments), raise_on_failure=True)
