"""CMA-MoE: the reference numbers of our reading, oracles computed another way, and what the method promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_files import close, files, golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmark.stream import Budget, Task
from methods.base import Batch, contrastive_loss, fused
from methods.cma_moe import CMAMoE, align, cross_adapter, distil, preserve, relations
from methods.parts.backbones import Backbone
from methods.parts.cross_modal import Joined, Mixing, freeze, in_step
from methods.parts.mixture import AdapterExpert, Stack, moe_block, stacked
from methods.parts.tower_experts import TowerExperts
from tests import tiny

EXACT = 1e-9
WORDS = ("dense nuclei", "pale nuclei", "wide heart", "small heart", "clear lung", "dim lung")
KINDS = ("classification", "fusion", "retrieval")
seeds = st.integers(0, 2**31 - 1)


def task(index: int, kind: str) -> Task:
    labels = () if kind == "retrieval" else (tiny.label(2 * index), tiny.label(2 * index + 1))
    return Task(index, f"task{index}", ("pathology", "radiology")[index % 2], kind, labels, 3)


def batch(index: int, kind: str, count: int = 8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(10 * seed + index)
    words = [WORDS[int(i)] for i in torch.randint(len(WORDS), (count,), generator=generator)]
    shade = 70 * index + 30 * (torch.arange(count) % 2)[:, None, None, None]
    made = {
        "image": (tiny.images(count, 10 * seed + index) // 4 + shade).to(torch.uint8),
        "text": tiny.tokenize([f"note {word} {'a ' * index}" for word in words]),
        "label": torch.arange(count) if kind == "retrieval" else 2 * index + torch.arange(count) % 2,
        "task": torch.full((count,), index),
        "index": torch.arange(count),
    }
    return made if kind != "classification" else without(made, "text")


def without(some: Batch, *names: str) -> Batch:
    return {name: values for name, values in some.items() if name not in names}


def learner(backbone: Backbone | None = None, budget: Budget | None = None, **arguments: Any) -> CMAMoE:
    with tiny.seeded(0):
        method = CMAMoE(**({"experts": 6, "bottleneck": 5} | arguments))
        method.attach((backbone or tiny.backbone()).with_text(), budget or Budget(augment="none"))
    return method.eval()  # type: ignore[return-value]


def begin(method: CMAMoE, index: int, kind: str, shake: bool = False) -> None:
    with tiny.seeded(index):
        method.begin_task(task(index, kind))
    if shake:
        tiny.shake_all(method.trainable_parameters(), 7 + index)


def train(method: CMAMoE, index: int, kind: str, steps: int = 3, data: Batch | None = None) -> list[float]:
    losses, data = [], data or batch(index, kind)
    with method.learning(), tiny.seeded(index):
        method.train()
        optimizer = torch.optim.Adam(method.trainable_parameters(), lr=0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = method.loss(data)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        method.eval()
        method.end_task(task(index, kind), [batch(index, kind)])
    return losses


def learn(method: CMAMoE, kind: str, tasks: int = 2, **options: Any) -> CMAMoE:
    for index in range(tasks):
        begin(method, index, kind, shake=index == 0)
        train(method, index, kind, **options)
    return method


@torch.no_grad()
def features(method: CMAMoE, data: Batch, at: Task | None = None) -> Tensor:
    return method.represent(data, at)


def deep(layers: int = 3) -> Backbone:
    """An image tower of three blocks beside a text tower of two."""
    return Backbone(tiny.clip(vision={"layers": layers}), tiny.tokenize, "tiny")


# ---- pure functions -----------------------------------------------------------------------------------------------


def golden_stack(f: dict[str, Tensor], m: str) -> Stack:
    names = ("down_w", "down_b", "up_w", "up_b")
    down, down_bias, up, up_bias = (f[f"{name}_{m}"] for name in names)
    return Stack(down.mT, down_bias, up.mT, up_bias, float(f["scale"]))


@pytest.mark.parametrize("file", files("chee_ref_adapter_*.npz"), ids=lambda file: file.stem)
def test_the_adapter_is_that_of_the_reading(file: Any) -> None:
    f = golden(file)
    routers = f["router"].split([f["Xa"].shape[2], f["Xb"].shape[2]])
    experts = [golden_stack(f, "a"), golden_stack(f, "b")]
    (Ya, Yb), gates = cross_adapter([f["Xa"], f["Xb"]], experts, routers, int(f["top_k"]))
    close(gates, f["gates"], EXACT)
    close(Ya, f["Ya"], EXACT)
    close(Yb, f["Yb"], EXACT)


@pytest.mark.parametrize("file", files("chee_ref_losses_*.npz"), ids=lambda file: file.stem)
def test_the_losses_are_those_of_the_reading(file: Any) -> None:
    f = golden(file)
    close(align(f["z_new"], f["y"], float(f["tau_align"])), f["align"], EXACT)
    old, new = (relations(f[name], float(f["tau_relation"])) for name in ("z_old", "z_new"))
    close(preserve(old, new), f["preserve"], EXACT)
    close(distil(f["logits_new"], f["logits_old"], float(f["T"])), f["distill"], EXACT)


def units(seed: int, modalities: int, count: int, width: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(modalities, count, width, dtype=torch.float64, generator=generator)
    return F.normalize(made, dim=-1)


@given(seeds, st.integers(1, 4), st.integers(1, 6), st.integers(1, 3))
def test_losses_equal_sums_over_every_pair(seed: int, modalities: int, count: int, classes: int) -> None:
    old, new = units(seed, modalities, count), units(seed + 1, modalities, count)
    labels = torch.arange(count) % classes
    kl, aligned, rows = [], [], []
    for m in range(modalities):
        for n in range(modalities):
            for i in range(count):
                others = [j for j in range(count) if m != n or j != i]
                p, q = ((z[n, others] @ z[m, i] / 0.1).softmax(0) for z in (old, new))
                if m <= n:
                    rows.append((m, n, i, others, q))
                    kl.append((p * (p / q).log()).sum())
                if m != n:
                    log_q = (new[n] @ new[m, i] / 0.07).log_softmax(0)
                    aligned.append(-log_q[labels == labels[i]].mean())
    related = relations(new, 0.1)
    assert related.shape == (modalities * (modalities + 1) // 2, count, count)
    for (_, _, i, others, q), row in zip(rows, related.flatten(0, 1), strict=True):
        expected = torch.zeros(count, dtype=torch.float64)
        expected[others] = q
        close(row, expected, EXACT)
        assert len(others) == count or row[i] == 0
    close(preserve(relations(old, 0.1), related), torch.stack(kl).mean(), EXACT)
    if modalities > 1:
        close(align(new, labels, 0.07), torch.stack(aligned).mean(), EXACT)


def test_alignment_of_two_modalities_is_the_contrast_that_retrieval_learns_by() -> None:
    z = units(3, 2, 7).float()
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 5])
    close(align(z, labels, 0.05), contrastive_loss(z[0], z[1], labels[:, None] == labels, 20.0), 1e-5)


@settings(max_examples=20)
@given(seeds, st.integers(1, 3), st.integers(2, 6))
def test_relations_do_not_see_a_common_rotation_and_preserving_them_is_a_divergence(
    seed: int, modalities: int, count: int
) -> None:
    old, new = units(seed, modalities, count), units(seed + 1, modalities, count)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]
    pinned = preserve(relations(old, 0.1), relations(new, 0.1))
    close(preserve(relations(old @ turn, 0.1), relations(new, 0.1)), pinned, 1e-8)
    close(preserve(relations(old, 0.1), relations(old @ turn, 0.1)), torch.zeros_like(pinned), 1e-12)
    assert pinned >= 0 and ((count == 2 and modalities == 1) or pinned > 0)


def test_gradients_of_the_losses_are_right_and_never_reach_the_old_model() -> None:
    old, new = units(0, 2, 4).requires_grad_(True), units(1, 2, 4).requires_grad_(True)
    labels = torch.tensor([0, 1, 0, 2])
    assert torch.autograd.gradcheck(lambda z: preserve(relations(old.detach(), 0.3), relations(z, 0.3)), (new,))
    assert torch.autograd.gradcheck(lambda z: align(z, labels, 0.3), (new,))
    (preserve(relations(old, 0.1), relations(new, 0.1)) + distil(new[0], old[0, :, :3], 2.0)).backward()
    assert old.grad is None and new.grad is not None and new.grad.isfinite().all() and new.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_sample_and_far_apart_samples_stay_finite(dtype: torch.dtype) -> None:
    for z in (units(0, 2, 1), torch.stack([torch.eye(4), -torch.eye(4)]).double()):
        new = z.to(dtype).requires_grad_(True)
        loss = preserve(relations(z.to(dtype), 0.004), relations(new.flip(0), 0.004))
        loss.backward()
        assert loss.isfinite() and loss.dtype == dtype and new.grad is not None and new.grad.isfinite().all()


def test_distillation_is_over_the_first_classes_alone() -> None:
    new, old = units(0, 1, 5, 6)[0] * 9, units(1, 1, 5, 4)[0] * 9
    p, q = (old / 2).softmax(1), (new[:, :4] / 2).softmax(1)
    close(distil(new, old, 2.0), 4 * (p * (p / q).log()).sum(1).mean(), EXACT)
    close(distil(torch.cat([old, new], 1), old, 2.0), torch.zeros((), dtype=torch.float64), 1e-12)


def made_block(seed: int, widths: tuple[int, ...], lengths: tuple[int, ...], count: int = 3, experts: int = 4) -> Any:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    hidden = [draw(count, length, width) for width, length in zip(widths, lengths, strict=True)]
    stacks = [Stack(draw(experts, 5, w), draw(experts, 5), draw(experts, w, 5), draw(experts, w), 0.3) for w in widths]
    return hidden, stacks, [draw(width, experts) for width in widths]


@settings(max_examples=15)
@given(seeds, st.sampled_from([(6,), (6, 4), (5, 4, 3)]), st.integers(1, 4), st.booleans())
def test_the_adapter_equals_a_loop_over_samples_and_experts(
    seed: int, widths: tuple[int, ...], k: int, attend: bool
) -> None:
    lengths = (4, 5, 2)[: len(widths)]
    hidden, stacks, routers = made_block(seed, widths, lengths)
    tokens: list[int | Tensor] = [0, torch.tensor([1, 4, 2]), 1][: len(widths)]
    masks: list[Tensor | None] = [None, torch.arange(5) <= torch.tensor([1, 4, 2])[:, None], None][: len(widths)]
    deltas, gates = cross_adapter(hidden, stacks, routers, k, tokens, attend, masks)
    for b in range(3):
        token = torch.cat([h[b, at if isinstance(at, int) else at[b]] for h, at in zip(hidden, tokens, strict=True)])
        logits = token @ torch.cat(routers)
        chosen = logits.argsort(descending=True)[:k].tolist()
        weights = logits[chosen].softmax(0)
        expected = torch.zeros(4, dtype=torch.float64)
        expected[chosen] = weights
        close(gates[b], expected, EXACT)
        for m in range(len(widths)):
            total = torch.zeros_like(hidden[m][b])
            for e, weight in zip(chosen, weights, strict=True):
                z = [h[b] @ s.down_EbD[e].T + s.down_bias_Eb[e] for h, s in zip(hidden, stacks, strict=True)]
                middle = z[m]
                if attend and len(widths) > 1:
                    rows = [z[o] if masks[o] is None else z[o][masks[o][b]] for o in range(len(widths)) if o != m]  # type: ignore[index]
                    other = torch.cat(rows)
                    middle = middle + (z[m] @ other.T / math.sqrt(5)).softmax(1) @ other
                total += weight * 0.3 * (middle.relu() @ stacks[m].up_EDb[e].T + stacks[m].up_bias_ED[e])
            close(deltas[m][b], total, EXACT)


def test_without_attention_an_expert_is_that_of_moe_adapters() -> None:
    made = [[AdapterExpert(width, 5).eval() for _ in range(4)] for width in (6, 4)]
    tiny.shake_all((p for experts in made for e in experts for p in e.parameters()), 2)
    hidden, _, routers = made_block(1, (6, 4), (4, 5))
    hidden, routers = [h.float() for h in hidden], [r.float() for r in routers]
    stacks = [stacked(experts) for experts in made]
    deltas, gates = cross_adapter(hidden, stacks, routers, 2, attend=False)
    for h, experts, delta in zip(hidden, made, deltas, strict=True):
        each = torch.stack([expert(h) for expert in experts], dim=1)
        close(delta, (gates[:, :, None, None] * each).sum(1), 1e-5)
    (alone,), gates = cross_adapter(hidden[:1], stacks[:1], routers[:1], 2)
    out, expected, _ = moe_block(hidden[0].transpose(0, 1), made[0], routers[0], torch.zeros_like(routers[0]), 2)
    close(gates, expected, 1e-6)
    close(alone, out.transpose(0, 1), 1e-5)
    assert not torch.allclose(cross_adapter(hidden, stacks, routers, 2)[0][0], deltas[0], atol=1e-3)


@given(seeds, st.integers(1, 6), st.integers(0, 7), st.integers(1, 6))
def test_the_most_influential_are_frozen_while_enough_stay_free(seed: int, experts: int, top: int, keep: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    influence, frozen = torch.rand(3, experts, generator=generator), torch.zeros(3, experts, dtype=torch.bool)
    for _ in range(3):
        after = freeze(influence, frozen, top, min(keep, experts))
        for row in range(3):
            expected = set(frozen[row].nonzero().flatten().tolist())
            for e in sorted(range(experts), key=lambda e, row=row: -influence[row, e])[:top]:  # type: ignore[misc]
                if len(expected | {e}) <= experts - min(keep, experts):
                    expected.add(e)
            assert set(after[row].nonzero().flatten().tolist()) == expected
        influence, frozen = influence.roll(1, 1), after


# ---- towers in lock step ------------------------------------------------------------------------------------------


def grown(backbone: Backbone, shaken: bool = True) -> list[TowerExperts]:
    towers = [TowerExperts(tower, 4, 5, 1.0) for tower in (backbone.image, backbone.text)]  # type: ignore[arg-type]
    for seed, tower in enumerate(towers):
        tower.add_router()
        if shaken:
            tiny.shake_all(tower.parameters(), seed)
    return towers


@torch.no_grad()
def run(backbone: Backbone, adapters: list[TowerExperts], images: Tensor, tokens: Tensor, **mixing: Any) -> Any:
    how = Mixing(**({"top_k": 2, "attend": True, "normed": True, "noise": 0.0} | mixing))
    seen: list[list[Tensor]] = [[], []]
    towers: list[Any] = [backbone.image, backbone.text]
    joined = [joint(*each) for each in zip(towers, [images, tokens], adapters, strict=True)]
    return in_step(joined, how, seen), seen


def joint(tower: Any, given_: Tensor, adapters: TowerExperts) -> Joined:
    none = torch.zeros(adapters.down.shape[:2], dtype=torch.bool)
    return Joined(tower, given_, adapters.blocks(none), adapters.routers[0])


def pictures(count: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_new_adapters_are_the_frozen_towers_to_the_bit_and_one_tower_alone_is_its_hook() -> None:
    backbone, tokens = deep(), tiny.tokenize(WORDS[:4])
    (image, text), _ = run(backbone, grown(backbone, shaken=False), pictures(), tokens)
    assert torch.equal(image, backbone.image(pictures())) and torch.equal(text, backbone.text(tokens))
    adapters, mixing = grown(backbone), Mixing(2, True, False, 0.0)
    for tower, adapter, given_, at in (
        (backbone.image, adapters[0], pictures(), 0),
        (backbone.text, adapters[1], tokens, tokens.argmax(-1)),
    ):
        part = joint(tower, given_, adapter)

        def beside(layer: int, h: Tensor, part: Joined = part, at: Any = at) -> Tensor:
            return cross_adapter([h], [part.experts[layer]], [part.router_LDE[layer]], 2, [at])[0][0]

        close(in_step([part], mixing)[0], tower(given_, beside_mlp=beside), 1e-5)


def test_the_last_blocks_are_paired_and_share_a_gate_the_first_see_their_own_tower_alone() -> None:
    backbone = deep()
    adapters = grown(backbone)
    one, other = tiny.tokenize(WORDS[:4]), tiny.tokenize(WORDS[2:])
    _, (image, text) = run(backbone, adapters, pictures(), one)
    assert len(image) == 3 and len(text) == 2
    assert all(torch.equal(a, b) for a, b in zip(image[1:], text, strict=True))
    _, (changed, _) = run(backbone, adapters, pictures(), other)
    assert torch.equal(image[0], changed[0]) and not torch.equal(image[1], changed[1])


def test_image_and_text_see_each_other_up_to_the_end_of_the_text() -> None:
    backbone, tokens = deep(), tiny.tokenize(WORDS[:4])
    adapters = grown(backbone)
    (image, text), _ = run(backbone, adapters, pictures(), tokens)
    behind = torch.arange(tiny.CONTEXT) > backbone.text.ends(tokens)[:, None]  # type: ignore[arg-type]
    (image_filled, text_filled), _ = run(backbone, adapters, pictures(), torch.where(behind, 7, tokens))
    close(image_filled, image, 1e-5)
    close(text_filled, text, 1e-5)
    (image_other, _), _ = run(backbone, adapters, pictures(), tiny.tokenize(WORDS[1:5]))
    (_, text_other), _ = run(backbone, adapters, pictures(seed=1), tokens)
    assert (image_other - image).abs().max() > 1e-2 and (text_other - text).abs().max() > 1e-2


def test_where_a_text_is_pooled() -> None:
    tower, tokens = tiny.backbone().text, tiny.tokenize(["a b", "a b c d"])
    assert tower.ends(tokens).tolist() == [2, 4]  # type: ignore[arg-type]
    tower.pool_type, tower.eos_id = "eos", 0  # type: ignore[assignment]
    assert tower.ends(tokens).tolist() == [3, 5]  # type: ignore[arg-type]
    tower.pool_type = "last"  # type: ignore[assignment]
    assert tower.ends(tokens).tolist() == [tiny.CONTEXT - 1] * 2  # type: ignore[arg-type]


# ---- the method ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_two_tasks_of_every_kind(kind: str) -> None:
    method = learner(align_weight=0.0)
    begin(method, 0, kind)
    towers = ["image"] if kind == "classification" else ["image", "text"]
    assert list(method.adapters) == towers
    losses = train(method, 0, kind, steps=25)
    assert losses[-1] < 0.9 * losses[0]
    begin(method, 1, kind)
    train(method, 1, kind)
    assert all(features(method, without(batch(1, kind), name)).isfinite().all() for name in ("text", "none"))


@pytest.mark.parametrize("routers", ["shared", "per_task"])
def test_in_retrieval_nothing_depends_on_what_an_item_is_paired_with(routers: str) -> None:
    method = learn(learner(routers=routers), "retrieval")
    data = batch(1, "retrieval")
    alone = {name: features(method, {name: data[name]}) for name in ("image", "text")}
    other = data | {"text": data["text"].roll(1, 0)}
    encoded = method._encode(method._inputs(other, False), 1)
    close(encoded["image"], method._encode(method._inputs(without(data, "text"), False), 1)["image"], 1e-6)
    assert not torch.allclose(encoded["text"], method._encode(method._inputs(data, False), 1)["text"])
    with torch.no_grad():
        plain = method._frozen_features({"image": data["image"]})
    assert alone["image"].isfinite().all() and not torch.allclose(alone["image"], plain)


@pytest.mark.parametrize("kind", ["fusion", "retrieval"])
def test_embedding_one_input_never_looks_at_the_other_but_a_fused_sample_does(kind: str) -> None:
    method = learn(learner(), kind)
    data, other = batch(1, kind), batch(1, kind) | {"text": batch(1, kind)["text"].roll(1, 0)}
    with torch.no_grad():
        assert torch.equal(method.embed_image(data), method.embed_image(other))
        assert not torch.equal(method.embed_text(data), method.embed_text(other))
        together = method._encode(method._inputs(data, False), 1)["image"]
        same = torch.allclose(together, method.embed_image(data), atol=1e-5)
    assert same == (kind == "retrieval")


def test_of_a_fusion_sample_with_an_input_missing_the_rest_answers_as_with_a_zero_token() -> None:
    method = learn(learner(normed=True), "fusion")
    data = batch(1, "fusion")
    for name in ("image", "text"):
        part = without(data, "text" if name == "image" else "image")
        with torch.no_grad():
            given_ = method._inputs(part, False)[name]
            tower = method._tower(name)
            live = method.adapters.joined(name, tower, given_, 0, method.memory)
            at = 0 if name == "image" else data["text"].argmax(-1)

            def beside(layer: int, h: Tensor, tower: Any = tower, live: Any = live, at: Any = at) -> Tensor:
                read = tower.blocks[layer].norm2(h)
                nothing = torch.zeros(len(h), 1, 3)
                none = Stack(torch.zeros(6, 5, 3), torch.zeros(6, 5), torch.zeros(6, 3, 5), torch.zeros(6, 3))
                routers = [live.router_LDE[layer], torch.ones(3, 6)]
                return cross_adapter([read, nothing], [live.experts[layer], none], routers, 2, [at, 0], attend=False)[
                    0
                ][0]

            close(features(method, part), tower(given_, beside_mlp=beside), 1e-5)
        method.train()
        loss = method.loss(part)
        method.eval()
        assert loss.isfinite()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("routers", ["shared", "per_task"])
def test_every_sample_is_answered_by_itself(kind: str, routers: str) -> None:
    method = learn(learner(routers=routers), kind)
    data = {n: torch.cat([batch(i, kind, 3, 5)[n] for i in (0, 1)]) for n in batch(0, kind)}
    parts = [data] if kind != "retrieval" else [without(data, "text"), without(data, "image")]
    for part in parts:
        whole = features(method, part)
        each = [features(method, {n: v[i : i + 1] for n, v in part.items()}) for i in range(6)]
        close(torch.cat(each), whole, 1e-4)


def test_frozen_experts_stay_to_the_bit_under_weight_decay_and_momentum_and_others_move() -> None:
    budget = Budget(augment="none", schedule="constant", weight_decay=0.1, lr=0.01)
    method = learn(learner(budget=budget), "fusion", tasks=1)
    begin(method, 1, "fusion")
    before = {n: [s.detach().clone() for s in method.adapters[n].stacks()] for n in method.adapters}
    with method.learning():
        method.train()
        optimizer = method.configure_optimizers()
        for _ in range(3):
            optimizer.zero_grad()
            method.loss(batch(1, "fusion")).backward()
            optimizer.step()
    for name, old in before.items():
        frozen = method.memory[f"frozen_{name}"]
        assert frozen.sum(1).tolist() == [2] * len(frozen)
        for was, now in zip(old, method.adapters[name].stacks(), strict=True):
            assert torch.equal(was[frozen], now[frozen])
            assert not torch.equal(was[~frozen], now[~frozen])


@pytest.mark.parametrize("influence", ["mass", "counts"])
def test_influence_is_of_the_whole_training_set_and_two_experts_freeze_per_task(influence: str) -> None:
    method = learner(influence=influence, experts=5)
    for index in range(3):
        begin(method, index, "fusion", shake=True)
        frozen = {name: method.memory[f"frozen_{name}"] for name in method.adapters}
        parts = [batch(index, "fusion", seed=seed) for seed in (1, 2)]
        gates: dict[str, list[Tensor]] = {"image": [], "text": []}
        with torch.no_grad():
            whole = {n: torch.cat([part[n] for part in parts]) for n in parts[0]}
            method._encode(method._inputs(whole, False), index, seen=gates)
        method.eval()
        method.end_task(task(index, "fusion"), parts)
        for name, seen in gates.items():
            mass = torch.stack([(g if influence == "mass" else (g > 0).float()).sum(0) for g in seen])
            assert torch.equal(method.memory[f"frozen_{name}"], freeze(mass, frozen[name], 2, 2))
        assert torch.equal(method.memory["frozen_image"], method.memory["frozen_text"])  # the same gates
    assert (method.memory["frozen_image"].sum(1) <= 3).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_is_the_model_as_it_was_and_does_not_move(kind: str) -> None:
    method = learn(learner(noise=0.0), kind, tasks=1)
    inputs = method._inputs(batch(1, kind), False)
    with torch.no_grad():
        before = method._encode(inputs, 0)
    begin(method, 1, kind)
    train(method, 1, kind)
    with torch.no_grad():
        after = method._encode(inputs, 1)
        begin(method, 2, kind, shake=True)
        old, now = method._encode(inputs, 1, teacher=True), method._encode(inputs, 2)
    for name in before:
        assert torch.equal(old[name], after[name])
        assert not torch.equal(before[name], old[name]) and not torch.equal(old[name], now[name])


def test_the_loss_is_the_sum_of_its_parts() -> None:
    weights = {"distil_weight": 0.7, "align_weight": 0.3, "preserve_weight": 0.9}
    for kind in KINDS:
        method = learn(learner(noise=0.0, **weights), kind, tasks=1)
        begin(method, 1, kind)
        tiny.shake_all(method.trainable_parameters(), 3)
        data = batch(1, kind)
        with method.learning(), torch.no_grad():
            method.train()
            loss = method.loss(data)
            inputs = method._inputs(data, False)
            old, new = method._encode(inputs, 0, teacher=True), method._encode(inputs, 1)
            expected = method.objective(data, new.get("image"), new.get("text"))
            unit_old, unit_new = (torch.stack([F.normalize(z, dim=-1) for z in of.values()]) for of in (old, new))
            expected += 0.9 * preserve(relations(unit_old, 0.1), relations(unit_new, 0.1))
            if kind != "retrieval":
                earlier = method.backbone.class_features(task(0, kind).labels)
                h_old, h_new = (fused(z.get("image"), z.get("text")) for z in (old, new))
                logits = [method.backbone.logits(h, earlier) for h in (h_new, h_old)]
                expected += 0.7 * distil(logits[0], logits[1], 2.0)
                own = method.backbone.class_features(task(1, kind).labels)
                pair = torch.stack([unit_new[0], own[data["label"] - 2]]) if kind == "classification" else unit_new
                expected += 0.3 * align(pair, data["label"], 0.07)
        close(loss, expected, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_preserved_drifts_less(kind: str) -> None:
    drifts = []
    for weight in (0.0, 5.0):
        method = learner(scale=1.0, noise=0.0, freeze_top=0, distil_weight=weight, preserve_weight=weight)
        begin(method, 0, kind)
        train(method, 0, kind, steps=10)
        part = without(batch(1, kind), "text") if kind == "retrieval" else batch(1, kind)
        before = F.normalize(features(method, part), dim=-1)
        begin(method, 1, kind)
        train(method, 1, kind, steps=20)
        after = F.normalize(features(method, part), dim=-1)
        drifts.append(float((before @ before.T - after @ after.T).abs().mean()))
    assert drifts[1] < 0.8 * drifts[0]


def test_one_router_answers_alike_with_and_without_the_identity() -> None:
    method = learn(learner(), "fusion")
    data = batch(0, "fusion", seed=3)
    labels = [label for index in (0, 1) for label in task(index, "fusion").labels]
    with torch.no_grad():
        hidden, own = method.scores(data, labels, None), method.scores(data, labels[:2], task(0, "fusion"))
        close(hidden[:, :2], own, 1e-4)
        assert method.route(data) is None
        assert torch.equal(features(method, data, task(2, "fusion")), features(method, data))


@pytest.mark.parametrize("kind", KINDS)
def test_a_router_each_is_chosen_by_the_sample_and_a_task_not_learned_is_the_frozen_models(kind: str) -> None:
    method = learn(learner(routers="per_task"), kind)
    assert [router.requires_grad for router in method.adapters["image"].routers] == [False, True]
    data = {n: torch.cat([batch(i, kind, 4, 5)[n] for i in (0, 1)]) for n in batch(0, kind)}
    data = without(data, "text") if kind == "retrieval" else data
    with torch.no_grad():
        route = method.route(data)
        assert route is not None and route.tolist() == [0] * 4 + [1] * 4
        hidden = method.represent(data, None)
        for row, index in enumerate(route.tolist()):
            alone = {name: values[row : row + 1] for name, values in data.items()}
            close(hidden[row], method.represent(alone, task(index, kind))[0], 1e-4)
        assert torch.equal(method.represent(data, task(2, kind)), method._frozen_features(data))
        if kind != "retrieval":
            labels = [label for index in (0, 1) for label in task(index, kind).labels]
            assert torch.equal(method.scores(data, labels, None).argmax(1) // 2, route)
            assert torch.equal(method.scores(data, labels, None, 1 - route).argmax(1) // 2, 1 - route)
        other = method.represent(data, None, 1 - route)
        assert torch.equal(method.represent(data, None, route), hidden) and not torch.equal(other, hidden)


def test_without_attention_the_towers_of_fusion_share_a_gate_and_nothing_else() -> None:
    method = learner(cross_attention=False)
    begin(method, 0, "fusion", shake=True)
    data = batch(0, "fusion")
    for name in method.adapters:  # all gates alike: nothing is left that could carry the text into the image
        nn.init.zeros_(method.adapters[name].routers[0])  # type: ignore[arg-type]
    with torch.no_grad():
        image = method._encode(method._inputs(data, False), 0)["image"]
        other = data | {"text": data["text"].roll(1, 0)}
        assert torch.equal(image, method._encode(method._inputs(other, False), 0)["image"])
        method.cross_attention = True
        assert not torch.allclose(image, method._encode(method._inputs(data, False), 0)["image"], atol=1e-3)


def test_the_routers_noise_acts_while_training_alone() -> None:
    method = learner(noise=5.0)
    begin(method, 0, "fusion", shake=True)
    inputs = method._inputs(batch(0, "fusion"), False)
    for mode in (True, False):
        method.train(mode)
        with torch.no_grad():
            twice = [method._encode(inputs, 0)["image"] for _ in range(2)]
        assert torch.equal(*twice) != mode


def test_a_run_can_be_taken_up_again_from_its_state() -> None:
    straight = learn(learner(routers="per_task"), "fusion")
    taken = learner(routers="per_task")
    for index in range(2):
        begin(taken, index, "fusion")
    saved = {name: value.clone() for name, value in straight.state_dict().items()}
    missing, unexpected = taken.load_state_dict(saved, strict=False)
    assert not unexpected and not set(missing) & set(saved)
    for method in (straight, taken):
        begin(method, 2, "fusion")
    assert train(straight, 2, "fusion") == train(taken, 2, "fusion")
    assert all(torch.equal(tensor, taken.memory[name]) for name, tensor in straight.memory.items())


def test_losses_stay_in_full_precision_under_autocast() -> None:
    method = learn(learner(), "fusion", tasks=1)
    begin(method, 1, "fusion")
    with method.learning():
        method.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = method.loss(batch(1, "fusion"))
        loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.trainable_parameters())


def test_a_text_encoder_without_blocks_is_refused_in_one_line() -> None:
    backbone = tiny.backbone()
    backbone.text = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="text encoder of backbone 'tiny'") as error:
        CMAMoE().attach(backbone, Budget())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"top_k": 17}, {"top_k": 0}, {"bottleneck": 0}, {"freeze_top": -1}, {"influence": "gates"}, {"routers": "one"},
        {"router": "nearest"}, {"noise": -1.0}, {"align_weight": -1.0}, {"distil_weight": -0.1},
        {"preserve_weight": -2.0}, {"align_temperature": 0.0}, {"distil_temperature": 0.0},
        {"relation_temperature": -1.0},
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        CMAMoE(**arguments)


def test_the_defaults_are_the_scales_of_the_reading() -> None:
    made = CMAMoE()
    assert (made.scale, made.normed, made.align_weight) == (0.1, False, 0.5)
