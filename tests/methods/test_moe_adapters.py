"""MoE-Adapters: reference numbers of the official code, independent oracles, and what the method promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from open_clip.model import CLIP
from torch import Tensor, nn

from benchmark.stream import Budget
from methods.base import cosine
from methods.moe_adapters import AdapterExpert, MoEAdapters, balance_loss, moe_block, noisy_top_k, select_route
from methods.parts import ddas
from methods.parts.backbones import Backbone
from methods.parts.memory import Memory
from methods.parts.mixture import favourites, mixture_beside
from methods.parts.tower_experts import TowerExperts

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TOLERANCE = 2e-5  # of the golden README: relative to max(1, |max|), float32
seeds = st.integers(0, 2**31 - 1)


def files(pattern: str) -> list[Path]:
    found = sorted(GOLDEN.glob(pattern))
    assert found, f"no golden file {pattern}"
    return found


def golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
        return {k: torch.from_numpy(arrays[k]) for k in arrays.files}


def close(a: Tensor, b: Tensor, tolerance: float = TOLERANCE) -> None:
    assert a.shape == b.shape
    assert torch.isfinite(a).all()
    assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))


def leaf(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_(True)


# ---- gating -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f.stem for f in files("moe_gating_*")])
def test_gating_is_the_official_one(name: str) -> None:
    g = golden(name)
    clean, std = g["x"] @ g["w_gate"], F.softplus(g["x"] @ g["w_noise"]) + 0.01
    close(clean, g["clean_logits"])
    close(std, g["noise_std"])
    gates, load = noisy_top_k(clean, std, int(g["top_k"]), g["eps"] if bool(g["train"]) else None)
    close(gates, g["gates"])
    close(load.to(gates.dtype), g["load"].to(gates.dtype))
    close(gates.sum(0), g["importance"])
    close(balance_loss(gates, load), g["balance_loss"])


@given(seed=seeds, batch=st.integers(1, 6), experts=st.integers(1, 7), k=st.integers(1, 7))
def test_smooth_load_is_the_chance_of_being_chosen_on_another_draw(seed: int, batch: int, experts: int, k: int) -> None:
    k = min(k, experts)
    generator = torch.Generator().manual_seed(seed)
    clean, eps, raw = (torch.randn(batch, experts, generator=generator, dtype=torch.float64) for _ in range(3))
    std = F.softplus(raw) + 0.01
    logits = clean + eps * std
    gates, load = noisy_top_k(clean, std, k, eps)
    expected_gates, expected_load = torch.zeros_like(gates), torch.zeros(experts, dtype=torch.float64)
    for b in range(batch):
        order = sorted(range(experts), key=lambda e: -float(logits[b, e]))
        total = sum(float(logits[b, e].exp()) for e in order[:k])
        for e in range(experts):
            if e in order[:k]:
                expected_gates[b, e] = float(logits[b, e].exp()) / total
            if k == experts:
                expected_load[e] += 1
            else:
                bar = sorted((float(logits[b, o]) for o in range(experts) if o != e), reverse=True)[k - 1]
                normal = torch.distributions.Normal(clean[b, e], std[b, e])
                expected_load[e] += 1 - normal.cdf(torch.tensor(bar, dtype=torch.float64))
    close(gates, expected_gates, 1e-12)
    close(load.double(), expected_load, 1e-9)
    plain, counts = noisy_top_k(clean, std, k)
    assert torch.equal(counts, (plain > 0).sum(0)) and int(counts.sum()) == batch * k
    assert balance_loss(gates, load) >= 0 and (experts > 1 or balance_loss(gates, load) == 0)


def test_balance_is_per_block_and_its_gradient_is_right() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, raw, eps = (torch.randn(3, 5, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    clean, raw = leaf(clean), leaf(raw)

    def total(clean: Tensor, raw: Tensor) -> Tensor:
        parts = [noisy_top_k(c, F.softplus(r) + 0.01, 2, e) for c, r, e in zip(clean, raw, eps, strict=True)]
        return balance_loss(*(torch.stack(part) for part in zip(*parts, strict=True)))

    assert torch.autograd.gradcheck(total, (clean, raw))
    block = noisy_top_k(clean[1], F.softplus(raw[1]) + 0.01, 2, eps[1])
    assert float(total(clean, raw)[1]) == pytest.approx(float(balance_loss(*block)), rel=1e-12)


# ---- experts and blocks -------------------------------------------------------------------------------------------


def expert(down_w: Tensor, down_b: Tensor, up_w: Tensor, up_b: Tensor, scale: float = 0.1) -> AdapterExpert:
    made = AdapterExpert(down_w.shape[1], len(down_w), scale).to(down_w.dtype).eval()
    state = {"down_proj.weight": down_w, "down_proj.bias": down_b, "up_proj.weight": up_w, "up_proj.bias": up_b}
    made.load_state_dict(state)
    return made


@pytest.mark.parametrize("name", [f.stem for f in files("moe_expert_*")])
def test_an_expert_is_the_official_one(name: str) -> None:
    g = golden(name)
    made = expert(g["down_w"], g["down_b"], g["up_w"], g["up_b"], float(g["scale"]))
    close(made(g["x"]), g["out"])
    close(made(g["x"], add_residual=True), g["out_residual"])


def test_a_new_expert_is_silent_and_drops_out_in_training() -> None:
    fresh = AdapterExpert(48)
    assert fresh.down_proj.weight.shape == (64, 48) and fresh.down_proj.weight.abs().max() <= 1 / 48**0.5
    x = torch.randn(3, 48)
    assert fresh(x).abs().max() == 0
    nn.init.normal_(fresh.up_proj.weight)
    assert not torch.equal(fresh(x), fresh(x)) and torch.equal(fresh.eval()(x), fresh(x))


PROJECTIONS = ("down_proj.weight", "down_proj.bias", "up_proj.weight", "up_proj.bias")


class GoldenBlock:
    """A block of the golden files: attention and MLP written out here, experts as modules."""

    def __init__(self, g: dict[str, Tensor]) -> None:
        self.p = {name.removeprefix("param:"): value for name, value in g.items() if name.startswith("param:")}
        self.heads, self.causal = int(g["heads"]), bool(g.get("causal", False))
        count = sum(name.endswith("up_proj.bias") for name in self.p)
        self.experts = [expert(*(self.p[f"adaptmlp_list.{e}.{n}"] for n in PROJECTIONS)) for e in range(count)]
        self.trained = {
            f"adaptmlp_list.{e}.{name}": parameter
            for e, made in enumerate(self.experts)
            for name, parameter in made.named_parameters()
        }
        for name, value in self.p.items():
            if name.startswith(("router", "w_noise")):
                self.trained[name] = leaf(value)

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.p[f"{name}.weight"], self.p[f"{name}.bias"])

    def attend(self, x: Tensor) -> Tensor:
        attention = nn.MultiheadAttention(x.shape[-1], self.heads)
        attention.load_state_dict({k.removeprefix("attn."): v for k, v in self.p.items() if k.startswith("attn.")})
        mask = torch.full((len(x), len(x)), -torch.inf).triu(1) if self.causal else None
        normed = self.norm(x, "ln_1")
        return x + attention(normed, normed, normed, need_weights=False, attn_mask=mask)[0].detach()

    def mlp(self, h: Tensor) -> Tensor:
        hidden = F.linear(self.norm(h, "ln_2"), self.p["mlp.c_fc.weight"], self.p["mlp.c_fc.bias"])
        return F.linear(hidden * torch.sigmoid(1.702 * hidden), self.p["mlp.c_proj.weight"], self.p["mlp.c_proj.bias"])

    def moe(self, h: Tensor, task: int, k: int, eps: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        return moe_block(
            h, self.experts, self.trained[f"router_list.{task}"], self.trained[f"w_noise_list.{task}"], k, eps
        )


@pytest.mark.parametrize("name", [f.stem for f in files("moe_block_*")])
def test_a_block_is_the_official_one(name: str) -> None:
    g = golden(name)
    block = GoldenBlock(g)
    h = block.attend(g["x"])
    close(h, g["x_after_attn"])
    out, gates, load = block.moe(h, int(g["task"]), int(g["top_k"]), g["eps"] if bool(g["train"]) else None)
    close(gates, g["gates"])
    close(load.to(gates.dtype), g["load"].to(gates.dtype))
    close(out, g["moe_out"])
    assert torch.equal((gates != 0).sum(0), g["choose_map"].long())
    y = h + block.mlp(h) + out
    close(y, g["y"])
    loss = (y * g["R"]).sum()
    close(loss, g["loss"])
    loss.backward()
    reached = 0
    for parameter, value in block.trained.items():
        if bool(g[f"has_grad:{parameter}"]):
            close(value.grad, g[f"grad:{parameter}"])
            reached += 1
        else:
            assert value.grad is None or value.grad.abs().max() == 0
    assert reached > 0


def test_bookkeeping_of_counts_and_frozen_experts_is_the_official_one() -> None:
    g = golden("moe_freeze_bookkeeping")
    block = GoldenBlock(g)
    frozen = torch.zeros(len(block.experts), dtype=torch.bool)
    for task in range(3):
        counts = torch.zeros(len(frozen), dtype=torch.long)  # anew for every task
        for iteration in range(2):
            h = block.attend(g[f"x_task{task}_iter{iteration}"])
            counts += (block.moe(h, task, int(g["top_k"]), None)[1] != 0).sum(0)
        assert torch.equal(counts, g[f"choose_map_task{task}"].long())
        assert torch.equal(counts.topk(2).indices, g[f"top2_task{task}"])
        frozen = favourites(counts, frozen, 2)
        assert torch.equal(frozen, g[f"frozen_after_task{task}"])


@given(
    seed=seeds, tokens=st.integers(1, 4), batch=st.integers(1, 5), experts=st.integers(1, 6), k=st.integers(1, 6),
    train=st.booleans(), wide=st.booleans(), per_sample=st.booleans(),
)  # fmt: skip
def test_gathered_experts_equal_all_experts_weighted(
    seed: int, tokens: int, batch: int, experts: int, k: int, train: bool, wide: bool, per_sample: bool
) -> None:
    dtype, tolerance, width = (torch.float64, 1e-12, 5) if wide else (torch.float32, TOLERANCE, 5)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return leaf(torch.randn(shape, generator=generator, dtype=dtype))

    made = [AdapterExpert(width, 3, 0.7).to(dtype).eval() for _ in range(experts)]
    tiny.shake_all((p for e in made for p in e.parameters()), seed)
    h, router, w_noise = draw(tokens, batch, width), draw(width, experts), draw(width, experts)
    eps = draw(batch, experts).detach() if train else None
    token = torch.randint(tokens, (batch,), generator=generator) if per_sample else 0
    R = draw(tokens, batch, width).detach()
    leaves = [h, router, w_noise, *(p for e in made for p in e.parameters())]
    out, gates, load = moe_block(h, made, router, w_noise, k, eps, token)
    c = h[token, torch.arange(batch)] if per_sample else h[0]
    slow_gates, slow_load = noisy_top_k(c @ router, F.softplus(c @ w_noise) + 0.01, k, eps)
    slow = sum(slow_gates[:, e, None] * made[e](h) for e in range(experts))
    close(out, slow, tolerance)
    assert torch.equal(gates, slow_gates) and torch.equal(load, slow_load)
    fast_grads = torch.autograd.grad((out * R).sum(), leaves, allow_unused=True)
    slow_grads = torch.autograd.grad((slow * R).sum(), leaves, allow_unused=True)
    for fast, other in zip(fast_grads, slow_grads, strict=True):
        assert (fast is None) == (other is None)
        if fast is not None:
            close(fast, other, tolerance)


# ---- the whole CLIP -----------------------------------------------------------------------------------------------

BUDGET = Budget(epochs=1, batch_size=8, lr=1e-2, schedule="constant", augment="none")


def method(backbone: Backbone | None = None, budget: Budget = BUDGET, **arguments: Any) -> MoEAdapters:
    with tiny.seeded():
        made = MoEAdapters(**({"experts": 4, "bottleneck": 8} | arguments))
        made.attach(backbone or tiny.backbone(), budget)
    return made.eval()


def golden_clip(g: dict[str, Tensor]) -> tuple[MoEAdapters, Backbone]:
    """The golden CLIP on open_clip, its experts and routers in the method; prompts are numbers of golden tokens."""
    p = {name.removeprefix("param:"): value for name, value in g.items() if name.startswith("param:")}
    marks = ("adaptmlp", "router_list", "w_noise_list")
    vision = {"image_size": 32, "patch_size": 16, "width": 64, "head_width": 64, "layers": 2}
    text = {"context_length": 8, "vocab_size": 50, "width": 64, "heads": 1, "layers": 2}
    clip = CLIP(16, vision, text, quick_gelu=True)
    clip.load_state_dict({k: v for k, v in p.items() if not any(m in k for m in marks)}, strict=True)
    clip.visual.image_mean, clip.visual.image_std = tiny.MEAN, tiny.STD
    backbone = Backbone(clip.eval(), lambda texts: g["tokens"][[int(text) for text in texts]], "golden")
    made = method(backbone, experts=4, bottleneck=64)
    for index in range(2):
        made.begin_task(tiny.task(index, [index]))
    with torch.no_grad():
        for tower, prefix in (("image", "visual.transformer.resblocks"), ("text", "transformer.resblocks")):
            experts: Any = made.towers[tower]
            for stack, name in zip(experts.stacks(), PROJECTIONS, strict=True):
                for layer in range(2):
                    stack[layer] = torch.stack([p[f"{prefix}.{layer}.adaptmlp_list.{e}.{name}"] for e in range(4)])
            for part, name in ((experts.routers, "router_list"), (experts.noises, "w_noise_list")):
                for task in range(2):
                    part[task].copy_(torch.stack([p[f"{prefix}.{layer}.{name}.{task}"] for layer in range(2)]))
    return made.eval(), backbone


@pytest.mark.parametrize("route", [-1, 0, 1])
def test_both_towers_are_the_official_ones(route: int) -> None:
    g = golden("moe_clip_tiny")
    made, backbone = golden_clip(g)
    labels = [tiny.label(i, str(i)) for i in range(len(g["tokens"]))]
    with torch.no_grad():
        image = made._encode_image(g["image"], route)
        text = backbone.text(g["tokens"], beside_mlp=made._beside("text", route, 0, None))
        logits = made._answers(g["image"], labels, route)
    close(image, g[f"image_feat_task{route}"])
    close(text, g[f"text_feat_task{route}"])
    close(logits, g[f"logits_task{route}"], 5e-5)
    if route >= 0:  # and the experts do matter
        assert (g[f"logits_task{route}"] - g["logits_task-1"]).abs().max() > 1


def test_there_is_no_router_noise_at_evaluation_and_there_is_in_training() -> None:
    g = golden("moe_clip_tiny")
    made, _ = golden_clip(g)
    for tower in made.towers.values():
        tower.dropout = 0.0
        for noise in tower.noises:
            nn.init.constant_(noise, 1.0)
    with torch.no_grad():
        state = torch.get_rng_state()
        runs = [made._encode_image(g["image"], 0) for _ in range(2)]
        assert torch.equal(*runs) and torch.equal(state, torch.get_rng_state())
        made.train()
        runs = [made._encode_image(g["image"], 0) for _ in range(2)]
    assert (runs[0] - runs[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["mtil", "cil"])
def test_the_schedule_of_the_budget_is_the_official_one(name: str) -> None:
    g = golden("moe_cosine_schedule")
    base, warmup, steps = g[f"{name}_cfg"].tolist()
    ours = torch.tensor([base * cosine(i, int(warmup), int(steps)) for i in range(len(g[f"{name}_lr"]))])
    close(ours.double(), g[f"{name}_lr"], 1e-9)


# ---- the task selector --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f.stem for f in files("ddas_autoencoder_*")])
def test_an_auto_encoder_is_the_official_one(name: str) -> None:
    g = golden(name)
    weights = [leaf(g[part]) for part in ddas.PARTS]
    close(g["feat"].sigmoid(), g["target"])
    recon = ddas.autoencode(g["target"], *weights)
    close(recon, g["recon"])
    errors = ddas.reconstruction_errors(g["target"], *(weight[None] for weight in weights))
    close(errors[:, 0], g["loss_per_sample"])
    loss = errors.mean()
    close(loss, g["loss"])
    loss.backward()
    close(weights[0].grad, g["grad_enc_w"])
    close(weights[2].grad, g["grad_dec_w"])


@pytest.mark.parametrize("name", [f.stem for f in files("ddas_selection_*")])
def test_selection_over_batches_is_the_official_one(name: str) -> None:
    g = golden(name)
    assert torch.equal(select_route(g["batch_loss"], float(g["threshold"])), g["task_id"])
    weights = [g[part] for part in ddas.PARTS]
    per_batch = torch.stack([ddas.reconstruction_errors(u.sigmoid(), *weights).mean(0) for u in g["feat"]])
    close(per_batch, g["batch_loss"])
    assert torch.equal(select_route(per_batch, float(g["threshold"])), g["task_id"])


def test_a_route_is_the_least_error_below_the_threshold() -> None:
    inf = torch.inf
    errors = torch.tensor([[inf, 3.0, 1.0, 2.0], [inf, 9.0, 8.0, 7.0], [0.5, 3.0, 1.0, 2.0], [inf, 5.0, 6.0, 7.0]])
    assert select_route(errors, 5.0).tolist() == [1, -1, -1, 0]
    assert select_route(errors, inf).tolist() == [1, 2, -1, 0]
    assert select_route(errors[0], 5.0).item() == 1 and select_route(errors[None], 5.0).shape == (1, 4)


def test_the_learning_rate_falls_to_a_tenth_every_ten_epochs() -> None:
    rates = [ddas.learning_rate(epoch) for epoch in range(45)]
    assert rates == pytest.approx([1e-2] * 10 + [1e-3] * 10 + [1e-4] * 10 + [1e-5] * 10 + [1e-6] * 5)
    assert ddas.learning_rate(10, 0.003) == pytest.approx(0.0003)


def test_only_trained_auto_encoders_take_part_and_each_knows_its_own() -> None:
    memory, generator = tiny_memory(), torch.Generator().manual_seed(0)
    bases = [torch.randn(3, 24, generator=generator) for _ in range(3)]

    def batches(task: int, count: int, batch: int = 100) -> list[dict[str, Tensor]]:
        codes = torch.randn(count, 3, generator=generator)
        return [{"image": rows} for rows in (codes @ bases[task]).split(batch)]

    for task in range(3):
        with tiny.seeded(task):
            ddas.learn(memory, torch.sigmoid, batches(task, 640))
        assert memory["ddas_enc_w"].shape == (task + 1, ddas.CODE, 24)
        for old in range(task + 1):
            u = batches(old, 100)[0]["image"].sigmoid()
            routes = selected(memory, u, torch.inf, whole_batch=False)
            assert routes.max() <= task and (routes == old).float().mean() > 0.85
            alone = torch.cat([selected(memory, row[None], torch.inf, whole_batch=False) for row in u[:9]])
            assert torch.equal(alone, routes[:9])  # decided sample by sample
    mixed = torch.cat([batches(task, 40)[0]["image"][: 10 * (task + 1)] for task in range(3)]).sigmoid()
    assert len(selected(memory, mixed, torch.inf, whole_batch=True).unique()) == 1
    assert (selected(memory, mixed, 0.0, whole_batch=False) == -1).all()


def selected(memory: Memory, u: Tensor, threshold: float, whole_batch: bool) -> Tensor:
    errors = ddas.errors(memory, u, whole_batch)
    return select_route(F.pad(errors, (1, 0), value=torch.inf), threshold)


def tiny_memory() -> Any:
    return method().memory


def test_selector_training_draws_what_the_official_steps_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large set, features of no more images are computed than 300 steps of 64 see."""
    monkeypatch.setattr(ddas, "STEPS", 3)
    seen: list[int] = []

    def inputs(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images.sigmoid()

    memory = tiny_memory()
    ddas.learn(memory, inputs, [{"image": torch.randn(100, 5)} for _ in range(4)])
    assert sum(seen) == 3 * ddas.BATCH and memory["ddas_dec_w"].shape == (1, 5, ddas.CODE)


def test_alexnet_is_taken_from_the_hub_cache_and_never_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="features 'alexnet' need torchvision's weights at"):
        method(features="alexnet", selector="ddas_sample")
    channels = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    generator = torch.Generator().manual_seed(0)
    state = {"classifier.1.bias": torch.zeros(4096)}
    for layer, shape in channels.items():
        state[f"features.{layer}.weight"] = 0.05 * torch.randn(shape, generator=generator)
        state[f"features.{layer}.bias"] = torch.zeros(shape[0])
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / ddas.ALEXNET)
    made = method(features="alexnet", selector="ddas_sample")
    with torch.no_grad():
        u = made._selector_input(tiny.images(2))
    assert u.shape == (2, 43264) and u.min() < 0.4 and u.max() > 0.6  # before the last ReLU: of either sign
    assert not any("alexnet" in name for name in made.state_dict())


# ---- the method ---------------------------------------------------------------------------------------------------

TASKS = [tiny.task(0, [0, 1]), tiny.task(1, [2, 3], "pathology"), tiny.task(2, [4, 5, 6])]


def batch_of(task: int, count: int = 8, seed: int = 0) -> dict[str, Tensor]:
    ids = torch.tensor([label.id for label in TASKS[task].labels])
    labels = ids[torch.arange(count) % len(ids)]
    images = (tiny.images(count, seed + 10 * task).float() * 0.5 + 18 * labels.view(-1, 1, 1, 1)).byte()
    return {"image": images, "label": labels, "task": torch.full((count,), task)}


def begin(made: MoEAdapters, task: int) -> None:
    with tiny.seeded(100 + task):
        made.begin_task(TASKS[task])


def train(made: MoEAdapters, task: int, steps: int) -> None:
    made.train()
    optimizer = made.configure_optimizers()
    for step in range(steps):
        optimizer.zero_grad()
        made.loss(batch_of(task, seed=step)).backward()
        optimizer.step()
    made.eval()


def learn(made: MoEAdapters, task: int, steps: int = 4, seed: int = 0) -> None:
    """Begin, train without a Trainer, end: what the runner does."""
    with tiny.seeded(100 + seed):
        made.begin_task(TASKS[task])
        train(made, task, steps)
        made.end_task(TASKS[task], [batch_of(task, seed=50), batch_of(task, 3, seed=51)])


def stacks(made: MoEAdapters) -> dict[str, Tensor]:
    return {f"{name}.{i}": s.detach().clone() for name, t in made.towers.items() for i, s in enumerate(t.stacks())}


def answers(made: MoEAdapters, task: int, given: bool = True, count: int = 6) -> Tensor:
    labels = TASKS[task].labels if given else [label for t in TASKS[: len(made.tasks)] for label in t.labels]
    with torch.no_grad():
        return made.scores({"image": batch_of(task, count, 99)["image"]}, labels, TASKS[task] if given else None)


def test_training_lowers_the_loss_and_moves_both_towers() -> None:
    made = method(label_smoothing=0.0)
    begin(made, 0)
    start, batch = stacks(made), batch_of(0, seed=99)

    def error() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(made.scores(batch, TASKS[0].labels, TASKS[0]), batch["label"]))

    before = error()
    train(made, 0, steps=60)
    assert error() < 0.5 * before
    assert all(not torch.equal(start[name], now) for name, now in stacks(made).items())


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_frozen_experts_and_other_routers_stay_bit_equal(optimizer: str, weight_decay: float) -> None:
    budget = Budget(
        epochs=1, batch_size=8, lr=1e-2, schedule="constant", augment="none", optimizer=optimizer,
        weight_decay=weight_decay,
    )  # fmt: skip
    made = method(budget=budget, experts=6, freeze_top=2)
    learn(made, 0)
    assert all(
        int(made.memory[f"count_{name}"].sum()) == 4 * 2 * size * 2 for name, size in (("image", 8), ("text", 4))
    )
    for task in (1, 2):
        before, frozen = stacks(made), {name: made.memory[f"frozen_{name}"].clone() for name in made.towers}
        routers = [(t.routers[i], t.routers[i].detach().clone()) for t in made.towers.values() for i in range(task)]
        learn(made, task, seed=task)
        for name, now in stacks(made).items():
            mask, old = frozen[name.split(".")[0]], before[name]
            assert int(mask.sum(1).min()) >= 2
            assert torch.equal(now[mask].view(torch.int32), old[mask].view(torch.int32))
            assert (now[~mask] != old[~mask]).any()
        assert all(torch.equal(router, old) for router, old in routers)
        for name, old_mask in frozen.items():
            assert bool((made.memory[f"frozen_{name}"] | ~old_mask).all())  # cumulative


def test_a_step_is_adamw_on_separate_experts() -> None:
    """Three steps of the stacked experts against modules of their own, two of them frozen, injected noise."""
    generator = torch.Generator().manual_seed(0)
    width, experts, lr = 6, 4, 5e-3
    h, R = torch.randn(3, 40, width, generator=generator), torch.randn(3, 40, width, generator=generator)
    made = [AdapterExpert(width, 5).eval() for _ in range(experts)]
    tiny.shake_all((p for e in made for p in e.parameters()), 1)
    router, noise = (leaf(0.1 * torch.randn(width, experts, generator=generator)) for _ in range(2))
    backbone = tiny.backbone()
    tower = TowerExperts(backbone.image, experts, 5, 0.1)
    layers = len(backbone.image.blocks)
    for stack, name in zip(tower.stacks(), PROJECTIONS, strict=True):
        rows = torch.stack([dict(e.named_parameters())[name].detach() for e in made])
        stack.data = rows.expand(layers, *rows.shape).clone()
    tower.add_router(noise=True)
    tower.routers[0].data = router.detach().expand(layers, width, experts).clone()
    tower.noises[0].data = noise.detach().expand(layers, width, experts).clone()
    frozen = torch.tensor([True, False, True, False])
    for e, is_frozen in zip(made, frozen.tolist(), strict=True):
        e.requires_grad_(not is_frozen)
    slow = torch.optim.AdamW([router, noise, *(p for e in made for p in e.parameters())], lr=lr, weight_decay=0)
    fast = torch.optim.AdamW([*tower.stacks(), tower.routers[0], tower.noises[0]], lr=lr, weight_decay=0)
    for step in range(3):
        torch.manual_seed(step)
        live = tower.blocks(frozen.expand(layers, -1))
        beside = mixture_beside(live, tower.routers[0], tower.noises[0], 2)
        delta = beside(0, h.transpose(0, 1))
        fast.zero_grad()
        (delta.transpose(0, 1) * R).mean().backward()
        fast.step()
        torch.manual_seed(step)
        eps = torch.randn(40, experts)
        slow.zero_grad()
        (moe_block(h, made, router, noise, 2, eps)[0] * R).mean().backward()
        slow.step()
    for stack, name in zip(tower.stacks(), PROJECTIONS, strict=True):
        close(stack[0].detach(), torch.stack([dict(e.named_parameters())[name].detach() for e in made]), 2e-4)
    close(tower.routers[0][0].detach(), router.detach(), 2e-4)
    close(tower.noises[0][0].detach(), noise.detach(), 2e-4)


def test_with_all_experts_frozen_an_old_task_is_answered_to_the_bit_as_before() -> None:
    made = method(freeze_top=4)
    learn(made, 0)
    before = answers(made, 0)
    assert torch.equal(made.memory["frozen_mass"], torch.ones(1, 2))
    learn(made, 1)
    assert torch.equal(answers(made, 0), before)
    loose = method(freeze_top=0)
    learn(loose, 0)
    before = answers(loose, 0)
    learn(loose, 1)
    assert not torch.equal(answers(loose, 0), before)


def test_counts_are_of_the_current_task_and_frozen_mass_is_the_share_of_the_gates() -> None:
    made = method(experts=5, freeze_top=1)
    for task in range(3):
        learn(made, task, steps=2)
        assert int(made.memory["count_image"][0].sum()) == 2 * 8 * 2
        assert int(made.memory["count_text"][0].sum()) == 2 * 2 * 2 * len(TASKS[task].labels)
    assert made.memory["frozen_mass"].shape == (3, 2)
    frozen, seen = made.memory["frozen_image"], []
    assert set(frozen.sum(1).tolist()) <= {1, 2, 3}  # one a task, which may be frozen already
    images = torch.cat([batch_of(2, seed=50)["image"], batch_of(2, 3, seed=51)["image"]])
    with torch.no_grad():
        made._encode_image(made.views(images, False), 2, seen)
    shares = [(gates * mask).sum() / len(images) for (gates, _), mask in zip(seen, frozen, strict=True)]
    assert float(made.memory["frozen_mass"][2, 0]) == pytest.approx(float(torch.stack(shares).mean()), abs=1e-5)


def test_every_prompt_has_the_gate_of_the_start_token_unless_its_end_routes() -> None:
    for token, same in (("first", True), ("eot", False)):
        made = method(router_token=token)
        # texts begin with the same token in CLIP
        made.backbone.tokenizer = lambda texts: F.pad(tiny.tokenize(texts), (1, 0), value=1)[:, : tiny.CONTEXT]
        begin(made, 0)
        for tower in made.towers.values():
            nn.init.normal_(tower.routers[0])
        seen: Any = []
        with torch.no_grad():
            made._encode_text(made.texts.prompts(TASKS[0].labels), 0, seen)
        equal = [torch.allclose(gates, gates[:1].expand_as(gates), atol=1e-6) for gates, _ in seen]
        assert all(equal) if same else not any(equal)


@pytest.mark.parametrize("token", ["first", "eot"])
def test_prompts_cut_behind_their_ends_have_the_features_of_whole_ones(token: str) -> None:
    made = method(router_token=token)
    begin(made, 0)
    for tower in made.towers.values():
        tiny.shake_all(tower.parameters(), 3)
    prompts = made.texts.prompts(TASKS[0].labels)
    texts = [prompt for label in TASKS[0].labels for prompt in label.prompts]
    whole = tiny.tokenize(texts)
    assert prompts.tokens_QN.shape[1] < whole.shape[1]
    with torch.no_grad():
        plain = made._encode_text(prompts, -1)
        close(plain, made.backbone.class_features(TASKS[0].labels))
        close(made._encode_text(prompts, 0), made._encode_text(prompts._replace(tokens_QN=whole), 0))
        assert (made._encode_text(prompts, 0) - plain).abs().max() > 1e-3


def test_text_features_are_kept_until_the_experts_of_the_text_tower_change() -> None:
    made = method()
    learn(made, 0)
    first, calls = answers(made, 0), []
    forward = made._encode_text
    made._encode_text = lambda *a: calls.append(a) or forward(*a)  # type: ignore[method-assign, func-returns-value]
    assert torch.equal(answers(made, 0), first) and not calls
    with torch.no_grad():
        made.towers["text"].up.add_(0.3)  # type: ignore[union-attr, operator]
    assert not torch.equal(answers(made, 0), first) and len(calls) == 1
    state = {name: value.clone() for name, value in made.state_dict().items()}
    state["towers.text.up"] -= 0.3
    made.load_state_dict(state, strict=False)
    close(answers(made, 0), first)


def test_what_is_not_learned_yet_is_answered_by_plain_clip() -> None:
    made, plain = method(), method()
    learn(made, 0)
    assert torch.equal(answers(made, 1), answers(plain, 1))
    assert made.answers_from(TASKS[1], "given") == plain.answers_from(TASKS[1], "given") is not None
    assert not torch.equal(answers(made, 0), answers(plain, 0))
    assert made.answers_from(TASKS[0], "given") is made.answers_from(TASKS[0], "hidden") is None


def test_hidden_identity_router_ddas_and_oracle() -> None:
    for selector in ("router", "ddas_sample", "ddas_batch", "oracle"):
        made = method(selector=selector)
        learn(made, 0)
        learn(made, 1)
        batch = {"image": torch.cat([batch_of(task, 5, 99)["image"] for task in (0, 1)])}
        labels = [label for task in TASKS[:2] for label in task.labels]
        with torch.no_grad():
            routes, logits = made.route(batch), made.scores(batch, labels, None)
            assert routes is None or torch.equal(made.scores(batch, labels, None, routes), logits)
            forced = torch.arange(10) % 2
            assert torch.equal(made.scores(batch, labels, None, forced).argmax(1) // 2, forced)
        assert made.requires_task_id == (selector == "oracle")
        if selector == "oracle":
            assert routes is None and logits.isnan().all() and logits.shape == (10, 4)
            continue
        assert routes is not None and logits.isfinite().all()
        assert len(routes.unique()) == (1 if selector == "ddas_batch" else 2)
        for row, route in enumerate(routes.tolist()):
            assert int(logits[row].argmax()) // 2 == route  # an answer of the chosen task's
            with torch.no_grad():
                given = made.scores({"image": batch["image"][row : row + 1]}, TASKS[route].labels, TASKS[route])
            close(logits[row, 2 * route : 2 * route + 2], given[0], 5e-5)


def test_above_the_threshold_plain_clip_answers_over_all_candidates() -> None:
    made, plain = method(selector="ddas_sample", threshold=0.0), method()
    learn(made, 0)
    learn(made, 1)
    labels = [label for task in TASKS[:2] for label in task.labels]
    batch = {"image": batch_of(0, 5, 99)["image"]}
    with torch.no_grad():
        assert (made.route(batch) == -1).all()
        assert torch.equal(made.scores(batch, labels, None), plain.scores(batch, labels, None))


def test_the_class_incremental_variant_has_one_router_and_a_dense_mixture() -> None:
    made = method(experts=2, freeze_top=0, label_smoothing=0.0, shared_router=True)
    for task in range(2):
        learn(made, task)
        assert all(len(tower.routers) == 1 and tower.routers[0].requires_grad for tower in made.towers.values())
    assert made.route(batch_of(0)) is None and not made.memory["frozen_image"].any()
    labels = [label for task in TASKS[:2] for label in task.labels]
    batch = {"image": batch_of(0, 5, 99)["image"]}
    with torch.no_grad():
        hidden, own = made.scores(batch, labels, None), made.scores(batch, TASKS[0].labels, TASKS[0])
    close(hidden[:, :2], own, 5e-5)
    assert (made.memory["count_image"] == 4 * 8).all()  # dense: everyone gets both
    assert made.answers_from(TASKS[2], "given") is None  # the one router answers there too


def test_loss_is_smoothed_over_the_own_labels_and_the_balance_term_is_summed_over_blocks() -> None:
    batch = batch_of(0)
    losses = {}
    for weight in (0.0, 2.0):
        made = method(label_smoothing=0.2, balance_weight=weight, dropout=0.0)
        begin(made, 0)
        for tower in made.towers.values():
            tiny.shake_all(tower.parameters(), 5)
        made.train()
        with tiny.seeded(7):
            losses[weight] = made.loss(batch)
        with tiny.seeded(7), torch.no_grad():
            seen: dict[str, Any] = {"image": [], "text": []}
            image = made._encode_image(made.views(batch["image"], True), 0, seen["image"])
            text = made._encode_text(made.texts.prompts(TASKS[0].labels), 0, seen["text"])
    log_p = (made.backbone.logit_scale.exp() * F.normalize(image, dim=-1) @ text.T).log_softmax(-1)
    own = log_p[torch.arange(8), batch["label"]]
    close(losses[0.0].detach(), -(0.8 * own + 0.2 * log_p.mean(-1)).mean(), 5e-5)
    balance = sum(balance_loss(gates, load) for blocks in seen.values() for gates, load in blocks)
    close((losses[2.0] - losses[0.0]).detach(), 2 * balance, 5e-5)


def test_another_text_encoder_leaves_the_image_tower_alone_with_the_experts() -> None:
    class Text(nn.Module):
        def __init__(self, tower: nn.Module) -> None:
            super().__init__()
            self.inner = tower

        def forward(self, tokens: Tensor) -> Tensor:
            return self.inner(tokens)

    backbone = tiny.backbone()
    backbone.text = Text(backbone.text)
    made = method(backbone)
    learn(made, 0)
    learn(made, 1)
    assert list(made.towers) == ["image"] and made.memory["frozen_mass"].shape == (2, 1)
    assert answers(made, 0).isfinite().all() and answers(made, 1, given=False).isfinite().all()


def test_all_stays_in_full_precision_where_it_must_under_autocast() -> None:
    made = method()
    begin(made, 0)
    made.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = made.loss(batch_of(0))
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.trainable_parameters()[:4])


@pytest.mark.parametrize(
    "arguments",
    [
        {"top_k": 5}, {"top_k": 0}, {"bottleneck": 0}, {"freeze_top": -1}, {"dropout": 1.0}, {"label_smoothing": 1.0},
        {"balance_weight": -1.0}, {"router_token": "last"}, {"selector": "ddas"}, {"features": "vgg"},
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        method(**arguments)
