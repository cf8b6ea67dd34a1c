"""InfLoRA against the numbers of the released code, and against what it promises."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmark.stream import Budget
from methods.inflora import DualGPM, InfLoRA, design_reduction, released_schedule, threshold
from methods.parts.backbones import Block, Tower
from methods.parts.experts import Experts
from tests import tiny
from tests.golden_files import GOLDEN, close, golden

MEMORIES = sorted(f.stem for f in GOLDEN.glob("inflora_dualgpm_*.npz") if "first" not in f.stem)
SEQUENCES = sorted(f.stem for f in GOLDEN.glob("inflora_seq_*.npz"))


def stored(gpm: DualGPM) -> Tensor:
    return gpm.basis @ gpm.basis.mT


# ---- DualGPM ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*MEMORIES, "inflora_gpm_b5"])
def test_memory_after_every_task(name: str) -> None:
    g = golden(name)
    tasks, layers = g["dim"].shape
    lamb, lame, d = float(g["lamb"]), float(g["lame"]), int(g["d"])
    for layer in range(layers):
        gpm = DualGPM(d, flip="dualgpm" in name)
        for task in range(tasks):
            eps = threshold(task, tasks, lamb, lame)
            assert eps == pytest.approx(float(g["threshold"][task]), abs=1e-12)
            gpm.update(g[f"M_{task}_{layer}"], eps)
            assert gpm.basis.shape == (d, int(g["dim"][task, layer]))
            assert gpm.complement == bool(g["retain"][task, layer])
            close(stored(gpm), g[f"P_{task}_{layer}"], 1e-8)
            protected = torch.eye(d) - stored(gpm) if gpm.complement else stored(gpm)
            close(gpm.projector(), protected.to(gpm.basis), 1e-12)


def test_a_first_task_of_half_the_directions_is_protected_and_not_its_complement() -> None:
    """The released code labels the protected space as the free one; not here unless ``faithful`` asks for it."""
    g = golden("inflora_dualgpm_first_half")
    released = DualGPM(int(g["d"]), faithful=True)
    released.update(g["M"], float(g["threshold"]))
    assert released.complement and released.basis.shape[1] == int(g["k"])
    close(stored(released), g["P"], 1e-8)
    right = DualGPM(int(g["d"]))
    right.update(g["M"], float(g["threshold"]))
    leading = torch.linalg.svd(g["M"])[0][:, : int(g["k"])]
    close(right.projector(), leading @ leading.mT, 1e-8)
    close(right.projector() + released.projector(), torch.eye(int(g["d"]), dtype=torch.float64), 1e-8)


def test_a_first_task_of_more_than_half_stores_the_complement_where_the_released_code_stops() -> None:
    C = torch.diag(torch.tensor([1.0, 0.99, 0.98, 0.97, 0.96, 0.01, 0.01, 0.01], dtype=torch.float64))
    with pytest.raises(ValueError, match="stops the released code"):
        DualGPM(8, faithful=True).update(C, 0.99995)
    gpm = DualGPM(8)
    gpm.update(C, 0.99995)
    assert gpm.complement and gpm.basis.shape == (8, 3)
    close(gpm.projector(), torch.diag(torch.tensor([1.0] * 5 + [0.0] * 3, dtype=torch.float64)), 1e-10)


def covariances(count: int, d: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    decay = torch.exp(-torch.arange(d, dtype=torch.float64) / 2)
    inputs = [torch.randn(40, d, generator=generator, dtype=torch.float64) * decay for _ in range(count)]
    turns = [torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0] for _ in range(count)]
    return [(x @ turn).mT @ (x @ turn) / len(x) for x, turn in zip(inputs, turns, strict=True)]


@given(st.integers(2, 9), st.integers(1, 4), st.floats(0.5, 0.999), st.booleans(), st.integers(0, 10**6))
def test_the_memory_is_a_projector_that_holds_the_share_asked_for(
    d: int, tasks: int, eps: float, flip: bool, seed: int
) -> None:
    """With energies of the inputs the protected share of a task's energy is what the threshold says, or more."""
    gpm = DualGPM(d, energy="input", flip=flip)
    for task, C in enumerate(covariances(tasks, d, seed)):
        gpm.update(C, eps)
        P = gpm.projector()
        close(P @ P, P, 1e-8)
        assert gpm.basis.shape[1] <= (d / 2 if flip else d)
        if task and not gpm.complement:
            assert (P @ C).trace() / C.trace() >= eps - 1e-9


def test_energies_of_inputs_keep_more_directions_than_squared_covariances() -> None:
    (C,) = covariances(1, 12, 3)
    kept = {}
    for energy in ("cov_sq", "input"):
        gpm = DualGPM(12, energy=energy, flip=False)
        gpm.update(C, 0.95)
        kept[energy] = gpm.basis.shape[1]
    s = torch.linalg.svdvals(C)
    assert kept["cov_sq"] == int(((s**2).cumsum(0) / (s**2).sum() < 0.95).sum())
    assert kept["input"] == int((s.cumsum(0) / s.sum() < 0.95).sum()) > kept["cov_sq"]


# ---- between the tasks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEQUENCES)
def test_reduction_matrices_and_memories_of_a_stream(name: str) -> None:
    g = golden(name)
    tasks, layers, rank, d = (int(g[key]) for key in ("T", "layers", "rank", "d"))
    starved = 0
    for layer in range(layers):
        gpm = DualGPM(d, flip=not bool(g["b5"]))
        for task in range(tasks):
            tokens = g[f"X_{task}"][:, :, layer].reshape(-1, d)
            C = tokens.mT @ tokens / len(tokens)
            close(C, g[f"cov_{task}_{layer}"], 1e-12)
            free = C if gpm.first else (torch.eye(d) - gpm.projector()).to(C) @ C
            A, released = (design_reduction(C, gpm, rank, faithful) for faithful in (False, True))
            assert A.shape == released.shape == (rank, d)
            if torch.linalg.svdvals(free)[rank - 1] > 1e-10:
                close(3 * A.mT @ A, g[f"PA_{task}_{layer}"], 1e-9)
                assert torch.equal(A, released)
            else:  # the released rows leak into what is protected; ours are zero
                starved += 1
                assert (g[f"A_{task}_{layer}"] @ gpm.projector()).norm() > 0.1
                assert (released @ gpm.projector()).norm() > 0.1
            if not gpm.first:
                assert (A @ gpm.projector()).norm() < 1e-8
            gpm.update(C, threshold(task, tasks, float(g["lamb"]), float(g["lame"])))
            assert gpm.basis.shape[1] == int(g["dim"][task, layer])
            assert gpm.complement == bool(g["retain"][task, layer])
            close(stored(gpm), g[f"P_{task}_{layer}"], 1e-8)
    assert bool(starved) == ("starved" in name or "flip" in name)


class OneBlock(Tower):
    """A tower of one attention layer, to hang experts on."""

    def __init__(self, g: dict[str, Tensor]) -> None:
        super().__init__()
        weights, biases = g["qkv_W"].chunk(3), g["qkv_b"].chunk(3)
        pairs = dict(zip("qkv", zip(weights, biases, strict=True), strict=True)) | {"out": (g["proj_W"], g["proj_b"])}
        parts: dict[str, nn.Module] = {}
        for name, (weight, bias) in pairs.items():
            layer = parts[name] = nn.Linear(*weight.mT.shape, dtype=weight.dtype)
            layer.weight, layer.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        self.blocks = nn.ModuleList([Block(int(g["heads"]), parts)])

    def attend(self, x: Tensor) -> Tensor:
        return self.blocks[0].attend(x, None, None)


def expert(pool: Experts, name: str, A: Tensor, B_k: Tensor, B_v: Tensor) -> None:
    """Set k and v of a fresh expert; they share A."""
    pool.add(name)
    pool.tower.double()
    with torch.no_grad():
        for layer, B in zip(pool.layers, (B_k, B_v), strict=True):
            layer.lora_A[name].weight.copy_(A)
            layer.lora_B[name].weight.copy_(B)


def test_attention_with_branches_on_keys_and_values() -> None:
    g = golden("inflora_attention_f64")
    tower = OneBlock(g)
    close(tower.attend(g["x_0"]), g["out"][0], 1e-12)
    pool = Experts(tower, int(g["rank"]), int(g["rank"]), ("k", "v"))
    for t in range(int(g["T"])):
        pool.add(f"task{t}")
    tower.double()
    for t in range(int(g["T"])):  # here the released layer was given different A for k and v
        for layer, kind in zip(pool.layers, "kv", strict=True):
            layer.lora_A[f"task{t}"].weight.data.copy_(g[f"A_{kind}"][t])
            layer.lora_B[f"task{t}"].weight.data.copy_(g[f"B_{kind}"][t])
        with pool.blend(dict.fromkeys(pool.names[: t + 1], 1.0)):
            close(tower.attend(g["x_0"]), g["out"][t + 1], 1e-12)
        with pool.blend(dict.fromkeys(pool.names[:t], 1.0), live=f"task{t}"):
            close(tower.attend(g["x_0"]), g["out"][t + 1], 1e-12)


def test_learning_a_stream_end_to_end() -> None:
    """The released training loop (own linear heads, Adam, its schedule) rebuilt from this suite's parts."""
    g = golden("inflora_e2e_a")
    tasks, rank, epochs, d = (int(g[key]) for key in ("T", "rank", "epochs", "d"))
    tower, gpm, heads = OneBlock(g), DualGPM(d, faithful=True), []
    pool = Experts(tower, rank, rank, ("k", "v"))
    for t in range(tasks):
        X, y = g[f"X_{t}"], g[f"y_{t}"]
        tokens = X.reshape(-1, d)
        C = tokens.mT @ tokens / len(tokens)
        expert(pool, f"task{t}", design_reduction(C, gpm, rank, faithful=True), *torch.zeros(2, d, rank))
        head = nn.Linear(d, int(g["classes"]), dtype=torch.float64)
        head.weight.data, head.bias.data = g["head_W0"][t].clone(), g["head_b0"][t].clone()
        heads.append(head)
        with pool.blend(dict.fromkeys(pool.names[:-1], 1.0), live=pool.names[-1]):
            Bs = pool.factors(pool.names[-1])[1]
            optimizer = torch.optim.Adam([*Bs, *head.parameters()], lr=float(g["lr"]))
            losses = []
            for epoch in range(epochs):
                for group in optimizer.param_groups:
                    group["lr"] = float(g["lr"]) * released_schedule(epoch, epochs)
                for x, target in zip(X, y, strict=True):
                    loss = F.cross_entropy(head((x + tower.attend(x))[:, 0]), target)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.detach())
        close(torch.stack(losses), g[f"losses_{t}"], 1e-8)
        As, Bs = pool.factors(pool.names[-1])
        for A, B, kind in zip(As, Bs, "kv", strict=True):
            close((B @ A).detach(), g[f"dW{kind}_{t}"], 1e-8)
        close(head.weight.detach(), g[f"head_W_{t}"], 1e-8)
        gpm.update(C, threshold(t, tasks, float(g["lamb"]), float(g["lame"])))
        close(stored(gpm), g[f"P_{t}"], 1e-8)
        assert (gpm.basis.shape[1], gpm.complement) == (int(g[f"k_{t}"]), bool(g[f"retain_{t}"]))
        with torch.no_grad(), pool.blend(dict.fromkeys(pool.names, 1.0)):
            z = (g["x_test"] + tower.attend(g["x_test"]))[:, 0]
            close(torch.cat([head(z) for head in heads], dim=1), g[f"test_logits_{t}"], 1e-8)


def test_the_released_schedule_uses_its_first_rate_twice_and_does_not_end_at_zero() -> None:
    g = golden("inflora_cosine_schedule")
    for key, factors in g.items():
        epochs = int(key[1:])
        close(torch.tensor([released_schedule(e, epochs) for e in range(epochs)], dtype=factors.dtype), factors, 1e-12)
    assert released_schedule(0, 20) == released_schedule(1, 20) == 1 and released_schedule(19, 20) > 0.09
    assert released_schedule(0, 1) == 1


# ---- the method ---------------------------------------------------------------------------------------------------


def batch(seed: int, ids: list[int], task: int) -> dict[str, Tensor]:
    n = 6
    labels = torch.tensor([ids[i % len(ids)] for i in range(n)])
    return {"image": tiny.images(n, seed), "label": labels, "task": torch.full((n,), task), "index": torch.arange(n)}


def learned(method: InfLoRA, index: int) -> list[Tensor]:
    """Learn one task in a few steps; the change of the keys' weights that its branch makes."""
    ids = [2 * index, 2 * index + 1]
    data = batch(index, ids, index)
    method.begin_task(tiny.task(index, ids, of=3))
    with method.learning():
        method.prepare_task(method.tasks[-1], [data])
        optimizer = torch.optim.Adam(method.trainable_parameters(), lr=1e-2)
        for _ in range(5):
            optimizer.zero_grad()
            method.loss(data).backward()
            optimizer.step()
        method.end_task(method.tasks[-1], [data])
    As, Bs = method.experts.factors(method.experts.names[-1])
    return [(B @ A).detach() for A, B in zip(As, Bs, strict=True)]


def attached(**arguments: object) -> InfLoRA:
    method = InfLoRA(**arguments)  # type: ignore[arg-type]
    method.attach(tiny.backbone(), Budget(augment="none"))
    method.eval()
    return method


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_later_branch_does_not_act_on_what_is_protected(blocks: int) -> None:
    method = attached(rank=3, blocks=blocks)
    learned(method, 0)
    protected = [method._gpm(layer).projector() for layer in range(method.depth)]
    changes = learned(method, 1)
    assert len(changes) == 2 * method.depth == (2 if blocks else 2 * tiny.LAYERS)
    for i, change in enumerate(changes):
        P = protected[i // 2].float()
        assert change.norm() > 1e-4
        assert (change @ P).norm() < 1e-4 * change.norm()


def test_keys_and_values_share_the_reduction_matrix_and_only_b_is_trained() -> None:
    method = attached(rank=3)
    learned(method, 0)
    As, Bs = method.experts.factors("task0")
    for A_k, A_v in zip(As[::2], As[1::2], strict=True):
        assert torch.equal(A_k, A_v)
        close((A_k @ A_k.mT).detach(), torch.eye(3) / 3, 1e-5)
    assert {id(p) for p in method.trainable_parameters()} == {id(B) for B in Bs}
    with method.learning():
        assert all(not A.requires_grad for A in As) and all(B.requires_grad for B in Bs)


def test_the_covariance_is_that_of_the_normed_inputs_of_attention() -> None:
    method = attached(rank=2)
    method.begin_task(tiny.task(0, [0, 1], of=2))
    data = [batch(1, [0, 1], 0), batch(2, [0, 1], 0)]
    with torch.no_grad(), method.learning():
        covariances = method._covariances(data)
        x = torch.cat([method.backbone.image.embed(method.views(b["image"], False)) for b in data])
        tokens = method.backbone.image.blocks[0].norm1(x).flatten(0, 1).double()
    close(covariances[0], torch.einsum("ni,nj->ij", tokens, tokens) / len(tokens), 1e-5)
    assert len(covariances) == tiny.LAYERS


def test_the_faithful_schedule_is_stepped_by_epochs() -> None:
    method = attached(rank=2, faithful=True)
    method.begin_task(tiny.task(0, [0, 1], of=2))
    configured = method.configure_optimizers()
    scheduler = configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "epoch"
    assert scheduler.lr_lambdas[0](4) == released_schedule(4, method.budget.epochs)


@pytest.mark.parametrize("wrong", [{"energy": "squares"}, {"lamb": 0.0}, {"blocks": -1}])
def test_wrong_arguments_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        InfLoRA(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_without_a_free_direction_are_zero_in_any_precision_and_for_any_rank(dtype: torch.dtype) -> None:
    (C,) = (C.to(dtype) for C in covariances(1, 6, 0))
    gpm = DualGPM(6, flip=False)
    gpm.update(C, 1.0)
    A = design_reduction(C, gpm, rank=8)
    assert A.shape == (8, 6) and A.dtype == dtype
    assert (A @ gpm.projector().to(dtype)).norm() < 1e-5
    again = DualGPM(6, flip=False)
    for _ in range(3):  # nothing is left to add, and nothing is added
        again.update(C, 1.0)
        close(again.projector() @ again.projector(), again.projector(), 1e-4)
