"""LPI: reference numbers of the official code, oracles computed another way, and what the method promises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from golden_files import close, files, golden, leaf
from hypothesis import given
from hypothesis import strategies as st
from lessons import same
from open_clip.model import CLIP
from torch import Tensor, nn

from benchmark.stream import Budget, Task
from methods.base import contrastive_loss, fused
from methods.lpi import LPI, PRESETS, alignment_loss, compose_prompts, interact, nearest_task, task_contrast
from methods.parts.backbones import Backbone, TextTower
from methods.parts.clustering import k_means
from methods.parts.low_rank_prompts import PromptFactors, PromptInteraction, composed
from methods.parts.prompting import norm_before, prompted, with_room

seeds = st.integers(0, 2**31 - 1)


def normal(seed: int, *shapes: tuple[int, ...]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


# ---- the equations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", files("lpi_prompt_*"), ids=lambda file: file.stem)
def test_prompts_are_composed_as_released(file: Path) -> None:
    g = golden(file)
    f = {key: leaf(value) for key, value in g.items() if key.startswith("dim_")}
    V = compose_prompts(f["dim_1_share"], f["dim_2_visual"], f["dim_3_visual"])
    T = compose_prompts(f["dim_1_share"], f["dim_2_textual"], f["dim_3_textual"])
    close(V.detach(), g["V"], 2e-5)
    close(T.detach(), g["T"], 2e-5)
    ((V * g["RV"]).sum() + (T * g["RT"]).sum()).backward()
    for key, factor in f.items():
        close(factor.grad, g[f"grad:{key}"], 2e-5)


@given(seed=seeds, sizes=st.tuples(*[st.integers(1, 4)] * 4))
def test_prompts_are_the_mean_of_outer_products(seed: int, sizes: tuple[int, int, int, int]) -> None:
    L, P, D, r = sizes
    A, B, C = normal(seed, (L, r), (P, r), (D, r))
    outer = sum(A[:, k, None, None] * B[None, :, k, None] * C[None, None, :, k] for k in range(r))
    V = compose_prompts(A, B, C)
    close(V, outer / r, 1e-12)
    assert torch.equal(compose_prompts(A.expand(2, -1, -1), torch.stack([B, -B]), C.expand(2, -1, -1))[1], -V)


def prompts_of(g: dict[str, Tensor], task: int, factors: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    f = factors or {key.split(":")[1]: value for key, value in g.items() if key.startswith(f"prompt{task}:")}
    V = compose_prompts(f["dim_1_share"], f["dim_2_visual"], f["dim_3_visual"])
    return V, compose_prompts(f["dim_1_share"], f["dim_2_textual"], f["dim_3_textual"])


@pytest.mark.parametrize("file", files("lpi_losses_*"), ids=lambda file: file.stem)
def test_losses_and_gradients_are_the_released_ones(file: Path) -> None:
    g = golden(file)
    count = int(g["numtask"])
    current = {k.split(":")[1]: leaf(v) for k, v in g.items() if k.startswith(f"prompt{count - 1}:")}
    V, T = prompts_of(g, count - 1, current)
    image, text = g["image_features"], g["text_features"]
    base = contrastive_loss(image, text, torch.eye(len(image), dtype=torch.bool), g["logit_scale"].exp())
    close(base, g["loss:base_loss"], 2e-4)
    align = alignment_loss(V, T)
    close(align.detach(), g["loss:alignment_loss"], 2e-4)
    total = base + align
    if count > 1:
        earlier = [prompts_of(g, task) for task in range(count - 1)]
        related = g["task_sim"][:count, :count] > 0.4
        stacks = (torch.stack([*(pair[m] for pair in earlier), now]) for m, now in enumerate((V, T)))
        task = 0.1 * sum(task_contrast(X, related, 0.001) for X in stacks) / 2
        close(task.detach(), g["loss:task_loss"], 2e-4)
        total = total + task
    close(total.detach(), g["total"], 2e-4)
    total.backward()
    for key, factor in current.items():
        close(factor.grad, g[f"grad:{key}"], 2e-4)


@given(seed=seeds, layers=st.integers(1, 4), normalised=st.booleans())
def test_alignment_is_a_classification_of_layers(seed: int, layers: int, normalised: bool) -> None:
    V, T = (0.05 * x for x in normal(seed, (layers, 3, 5), (layers, 3, 2)))
    v, t = V.mean(2), T.mean(2)
    loss = 0.0
    for a, b in ((v, t), (t, v)):
        for i in range(layers):
            products = [float(a[i] @ b[j]) for j in range(layers)]
            lengths = [float(a[i].norm() * b[j].norm()) for j in range(layers)]
            logits = [100 * p / n if normalised else 1e4 * p for p, n in zip(products, lengths, strict=True)]
            loss += math.log(sum(math.exp(x - max(logits)) for x in logits)) + max(logits) - logits[i]
    form = "normalised" if normalised else "released"
    ours = alignment_loss(V, T, form)
    assert float(ours) == pytest.approx(0.1 * loss / 2 / layers, rel=1e-9, abs=1e-12)
    assert float(alignment_loss(v, t, form, weight=0.3)) == pytest.approx(3 * float(ours), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    "file", [file for file in files("lpi_nt_bxent_*") if "nan" not in file.stem], ids=lambda file: file.stem
)
def test_task_contrast_is_the_released_one(file: Path) -> None:
    g = golden(file)
    x = leaf(g["x"])
    loss = task_contrast(x, g["target"], float(g["temperature"]))
    loss.backward()
    close(loss.detach(), g["loss"], 2e-4)
    close(x.grad, g["grad_x"], 2e-4)


def test_a_task_without_unrelated_ones_has_no_nan_and_the_same_gradient() -> None:
    g = golden("lpi_nt_bxent_no_negative_nan")
    assert g["loss"].isnan()
    for guard in (True, False):
        x = leaf(g["x"])
        loss = task_contrast(x, g["target"], float(g["temperature"]), guard=guard)
        loss.backward()
        assert bool(loss.isfinite()) == guard
        close(x.grad, g["grad_x"], 2e-4)


@given(seed=seeds, tasks=st.integers(1, 5), plain=st.booleans())
def test_task_contrast_is_a_mean_of_binary_cross_entropies(seed: int, tasks: int, plain: bool) -> None:
    (X,) = normal(seed, (tasks, 2, 3))
    related = torch.rand(tasks, tasks, generator=torch.Generator().manual_seed(seed)) < 0.5
    related |= torch.eye(tasks, dtype=torch.bool)
    total = 0.0
    for j in range(tasks):
        parts: dict[bool, list[float]] = {True: [], False: []}
        for k in range(tasks):
            q = float(F.cosine_similarity(X[j].flatten(), X[k].flatten(), dim=0)) / 0.5
            if not plain:
                q = 1.0 if j == k else 1 / (1 + math.exp(-q))
            y = bool(related[j, k])
            parts[y].append(math.log(1 + math.exp(-q)) if y else math.log(1 + math.exp(q)))
        total += sum(sum(part) / len(part) for part in parts.values() if part)
    form = "plain" if plain else "released"
    assert float(task_contrast(X, related, 0.5, form)) == pytest.approx(total / tasks, rel=1e-9)
    assert torch.autograd.gradcheck(lambda x: task_contrast(x, related, 0.5, form), leaf(X))


def test_the_plain_contrast_pulls_cosines_where_the_released_one_stops() -> None:
    (start,) = normal(0, (3, 40))
    related, rows, cosines = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]), ([0, 0, 1], [1, 2, 2]), {}
    before = (F.normalize(start, dim=1) @ F.normalize(start, dim=1).T)[rows]
    for form, temperature in (("released", 0.001), ("plain", 0.1)):
        X = leaf(start)
        optimizer = torch.optim.SGD([X], lr=1.0)
        for _ in range(100):
            optimizer.zero_grad()
            task_contrast(X, related, temperature, form).backward()
            optimizer.step()
        unit = F.normalize(X.detach(), dim=1)
        cosines[form] = (unit @ unit.T)[rows]
    assert cosines["plain"][0] > 0.3 and (cosines["plain"][1:] < -0.3).all()
    close(cosines["released"], before, 1e-6)  # beyond +-0.02 a cosine has no gradient


@pytest.mark.parametrize("file", files("lpi_interact_*"), ids=lambda file: file.stem)
def test_interaction_is_the_released_one_at_every_layer(file: Path) -> None:
    g = golden(file)
    factors = {key.removeprefix("param:"): value for key, value in g.items() if key.startswith("param:")}
    layers = len(factors["dim_1_v2t"])
    together = interact(g["visual"][:, None], g["textual"][:, None], factors, float(g["a"]))
    for layer in range(layers):
        alone = interact(g["visual"], g["textual"], factors, layer=layer)
        for modality, own, all_layers in zip(("visual", "textual"), alone, together, strict=True):
            close(own, g[f"{modality}_out_layer{layer}"], 2e-5)
            close(all_layers[:, layer], g[f"{modality}_out_layer{layer}"], 2e-5)
    rank = factors["dim_1_v2t"].shape[1]
    module = PromptInteraction(layers, rank, g["visual"].shape[-1], g["textual"].shape[-1])
    assert {key: value.shape for key, value in module.named_parameters()} == {k: v.shape for k, v in factors.items()}


def test_interaction_without_a_share_is_a_norm_and_its_gradients_are_right() -> None:
    visual, textual = normal(0, (2, 3, 4), (2, 3, 5))
    with tiny.seeded():
        factors = dict(PromptInteraction(2, 2, 4, 5).double().named_parameters())
    apart = interact(visual, textual, factors, mix=0.0)
    close(apart[0].detach(), F.layer_norm(visual, (4,)), 1e-12)
    close(apart[1].detach(), F.layer_norm(textual, (5,)), 1e-12)
    names = list(factors)

    def together(*values: Tensor) -> tuple[Tensor, Tensor]:
        return interact(visual, textual, dict(zip(names, values, strict=True)))

    assert torch.autograd.gradcheck(together, tuple(factors.values()))


@pytest.mark.parametrize("file", files("lpi_task_id_*"), ids=lambda file: file.stem)
def test_the_nearest_task_is_the_released_one(file: Path) -> None:
    g = golden(file)
    assert torch.equal(nearest_task(g["features"], g["centres"]), g["task"])


@given(seed=seeds, sizes=st.tuples(*[st.integers(1, 5)] * 4))
def test_the_nearest_task_is_decided_item_by_item_in_l1(seed: int, sizes: tuple[int, int, int, int]) -> None:
    B, T, K, E = sizes
    features, centres, texts, around = normal(seed, (B, E), (T, K, E), (B, E + 1), (T, 2, E + 1))
    image, text = ((x[:, None, None] - m).abs().sum(3).amin(2) for x, m in ((features, centres), (texts, around)))
    assert nearest_task(features, centres).tolist() == image.argmin(1).tolist()
    assert nearest_task(features[:1], centres) == nearest_task(features, centres)[0]
    assert nearest_task(features, centres, (texts, around)).tolist() == (image + text).argmin(1).tolist()


# ---- k-means --------------------------------------------------------------------------------------------------------


def test_k_means_finds_separate_groups_and_is_deterministic() -> None:
    (groups,) = normal(0, (4, 6))
    noise = torch.randn(4, 30, 6, generator=torch.Generator().manual_seed(1))
    points = (10 * groups[:, None] + 0.1 * noise).flatten(0, 1).float()
    state = torch.get_rng_state()
    centres = k_means(points, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert centres.dtype == points.dtype and torch.equal(centres, k_means(points, 4))
    means = points.unflatten(0, (4, 30)).mean(1)
    nearest = torch.cdist(means, centres).argmin(1)
    assert sorted(nearest.tolist()) == [0, 1, 2, 3]
    close(centres[nearest], means, 1e-5)


@given(seed=seeds, points=st.integers(1, 12), count=st.integers(1, 5))
def test_every_centre_is_the_mean_of_its_own_points(seed: int, points: int, count: int) -> None:
    (x,) = normal(seed, (points, 3))
    centres = k_means(x, count)
    assert centres.shape == (count, 3) and centres.isfinite().all()
    nearest = torch.cdist(x, centres).argmin(1)
    for k in nearest.unique().tolist():
        close(centres[k], x[nearest == k].mean(0), 1e-9)
    if points <= count:  # each point has its centre, the others are twice there
        assert torch.cdist(x, centres).amin(1).max() < 1e-6


# ---- the towers -----------------------------------------------------------------------------------------------------

SMALL_TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}


def golden_vision(g: dict[str, Tensor]) -> CLIP:
    vision = {"image_size": 32, "patch_size": 16, "width": 48, "head_width": 48 // int(g["heads"]), "layers": 3}
    clip = CLIP(16, vision, SMALL_TEXT, quick_gelu=True)
    clip.visual.load_state_dict({k.removeprefix("param:"): v for k, v in g.items() if k.startswith("param:")})
    clip.visual.image_mean, clip.visual.image_std = tiny.MEAN, tiny.STD
    return clip.eval()


def hooked(visual: Any, image: Tensor, prompts: Tensor, depth: int) -> Tensor:
    """open_clip's own tower with hooks: prompts in front of its norm, later layers' added before their blocks."""
    length = prompts.shape[1]

    def insert(module: nn.Module, args: tuple[Tensor]) -> Tensor:
        return torch.cat([args[0][:, :1], prompts[0].expand(len(args[0]), -1, -1), args[0][:, 1:]], dim=1)

    def add(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> Any:
            x = args[0].clone()
            x[:, 1 : 1 + length] += prompts[layer]
            return (x, *args[1:])

        return hook

    handles = [visual.ln_pre.register_forward_pre_hook(insert)]
    handles += [visual.transformer.resblocks[i].register_forward_pre_hook(add(i)) for i in range(1, depth)]
    with torch.no_grad():
        out = visual(image)
    for handle in handles:
        handle.remove()
    return out


def test_the_image_tower_with_prompts_is_the_released_one() -> None:
    g = golden("lpi_visual_encoder")
    clip = golden_vision(g)
    expected = {depth: hooked(clip.visual, g["image"], g["prompts"], depth) for depth in (1, 2, 3)}
    tower = Backbone(clip, tiny.tokenize, "golden").image

    def ours(prompts: Tensor, depth: int) -> Tensor:
        first = norm_before(tower)(prompts[0])
        with torch.no_grad():
            return tower(g["image"], edit_tokens=prompted(first, prompts, depth, insert=True))

    close(tower(g["image"]).detach(), g["out_no_prompt"], 2e-5)
    close(ours(g["prompts"], 1), g["out_prompt"], 2e-5)
    close(ours(g["prompts_deep_changed"], 1), g["out_prompt_deep_changed"], 2e-5)  # the release: deep ones are dead
    for depth, features in expected.items():
        close(ours(g["prompts"], depth), features, 2e-5)
    assert (ours(g["prompts"], 3) - ours(g["prompts_deep_changed"], 3)).abs().max() > 1e-3


def test_the_text_tower_with_prompts_is_the_released_one() -> None:
    g = golden("lpi_text_encoder")
    p = {k.removeprefix("param:"): v for k, v in g.items() if k.startswith("param:")}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": int(g["heads"]), "layers": 2}
    vision = {"image_size": 32, "patch_size": 16, "width": 16, "head_width": 8, "layers": 1}
    clip = CLIP(16, vision, text, quick_gelu=True)
    assert not clip.load_state_dict(p, strict=False).unexpected_keys
    clip.visual.image_mean, clip.visual.image_std = tiny.MEAN, tiny.STD
    tower: Any = Backbone(clip.eval(), tiny.tokenize, "golden").text
    tokens, length = g["tokens"], int(g["n_ctx"])
    with torch.no_grad():
        tower.token_embedding.weight[tokens] = g["token_embeddings"]
    plain = torch.cat([tokens[:, :1], tokens[:, 1 + length :], tokens.new_zeros(len(tokens), length)], dim=1)
    moved = with_room(plain, tower, 343, length)
    assert torch.equal(moved, tokens)
    close(tower(moved).detach(), g["text_features_for_clustering"], 2e-5)
    seen = []

    def features(depth: int) -> Tensor:
        first = g["ctx"][0] + tower.positional_embedding[1 : 1 + length]
        hook = prompted(first, g["ctx"], depth, insert=False)

        def watched(layer: int, x: Tensor) -> Tensor:
            x = hook(layer, x)
            seen.append(x)
            return x

        with torch.no_grad():
            return tower(moved, edit_tokens=watched)

    close(features(1), g["text_features"], 2e-5)
    close(seen[0], g["prompted_embeddings"] + tower.positional_embedding.detach(), 2e-5)
    before = seen[1]
    assert (features(2) - g["text_features"]).abs().max() > 1e-3
    added = seen[3] - before
    close(added[:, 1 : 1 + length], g["ctx"][1].expand(len(tokens), -1, -1), 1e-4)
    assert added[:, 0].abs().max() < 1e-5 and added[:, 1 + length :].abs().max() < 1e-5


@given(data=st.data(), pool=st.sampled_from(["argmax", "eos", "last"]), length=st.integers(1, 4))
def test_room_in_a_text_moves_its_words_and_keeps_its_end(data: st.DataObject, pool: str, length: int) -> None:
    N, end, dummy = 9, 49, 7
    tower = SimpleNamespace(pool_type=pool, eos_id=end)
    tower.ends = partial(TextTower.ends, tower)
    words = data.draw(st.lists(st.integers(1, 48), min_size=1, max_size=N - 1))
    tokens = torch.zeros(1, N, dtype=torch.long)
    tokens[0, : len(words) + 1] = torch.tensor([*words, end])
    if pool == "last":
        tokens[tokens == 0] = end  # such texts are filled up with their end
    moved = with_room(tokens, tower, dummy, length)[0].tolist()
    expected = [*[words[0], *[dummy] * length, *words[1:]][: N - 1], end]
    assert moved[: len(expected)] == expected and len(moved) == N
    assert set(moved[len(expected) :]) <= {0, end}
    assert int(tower.ends(torch.tensor([moved]))) == (N - 1 if pool == "last" else len(expected) - 1)


# ---- the method -----------------------------------------------------------------------------------------------------

BUDGET = Budget(epochs=1, batch_size=8, lr=5e-2, schedule="constant", augment="none")
WORDS = ("left upper", "large round", "dark small", "pale oval", "striped", "two of")
KINDS = ("classification", "fusion", "retrieval")


def method(cls_backbone: Backbone | None = None, **arguments: Any) -> LPI:
    with tiny.seeded():
        made = LPI(**({"prompts": 3, "rank": 2, "layers": 4, "centres": 4} | arguments))
        made.attach(cls_backbone or tiny.backbone().with_text(), BUDGET)
    return made.eval()


def task_of(kind: str, index: int) -> Task:
    labels = () if kind == "retrieval" else tuple(tiny.label(2 * index + c) for c in (0, 1))
    return Task(index, f"task_{WORDS[index]}", "radiology", kind, labels, 20)


def batch_of(kind: str, index: int, seed: int = 0, count: int = 16) -> dict[str, Tensor]:
    """Each class has a pattern and words; of retrieval every item is a class of its own."""
    generator = torch.Generator().manual_seed(7)
    patterns = torch.randint(40, 216, (20, 3, tiny.SIZE, tiny.SIZE), generator=generator).float()
    generator.manual_seed(1000 * index + seed)
    classes = torch.arange(count) % (4 if kind == "retrieval" else 2)
    noise = 20 * torch.randn(count, *patterns.shape[1:], generator=generator)
    image = (patterns[4 * index + classes] + noise).clamp(0, 255).to(torch.uint8)
    batch = {"image": image, "task": torch.full((count,), index), "index": torch.arange(count)}
    batch["label"] = classes if kind == "retrieval" else 2 * index + classes
    if kind != "classification":
        batch["text"] = tiny.tokenize([f"{WORDS[index]} {WORDS[c]}" for c in classes.tolist()])
    return batch


def learn(made: LPI, kind: str, index: int, steps: int = 5) -> list[float]:
    task, losses = task_of(kind, index), []
    with tiny.seeded(100 + index):
        made.begin_task(task)
        made.train()
        optimizer = made.configure_optimizers()
        for step in range(steps):
            loss = made.loss(batch_of(kind, index, step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        optimizer.zero_grad()
        made.eval()
        made.end_task(task, [batch_of(kind, index, 50), batch_of(kind, index, 51, 6)])
    return losses


def items(batch: dict[str, Tensor], *inputs: str) -> dict[str, Tensor]:
    return {name: values for name, values in batch.items() if name in inputs}


def answers(made: LPI, kind: str, index: int, given: bool = True, *inputs: str) -> list[Tensor]:
    """What the method says on a task's items: features of images and of texts, or scores."""
    task, batch = task_of(kind, index), batch_of(kind, index, 99, 6)
    told = task if given else None
    with torch.no_grad():
        if kind == "retrieval":
            return [made.represent(items(batch, name), told) for name in inputs or ("image", "text")]
        labels = task.labels if given else [label for seen in made.tasks for label in seen.labels]
        return [made.scores(items(batch, *(inputs or ("image", "text"))), labels, told)]


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_in_every_kind_of_task(kind: str) -> None:
    made = method(prompts=6, rank=4)
    losses = learn(made, kind, 0, steps=100)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    with tiny.seeded(100):
        start = method(prompts=6, rank=4)
        start.begin_task(task_of(kind, 0))
    moved = dict(zip((n for n, _ in made.factors.named_parameters()), made.factors.parameters(), strict=True))
    assert all(not torch.equal(moved[name], value) for name, value in start.factors.named_parameters())


@pytest.mark.parametrize("interaction", ["none", "prompts"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_learned_task_is_answered_to_the_bit_as_before(kind: str, interaction: str) -> None:
    made = method(interaction=interaction)
    untouched = answers(made, kind, 2)
    learn(made, kind, 0)
    before, old = answers(made, kind, 0), [p.detach().clone() for p in made.factors.parameters()]
    frozen = {name: value.detach().clone() for name, value in made.backbone.named_parameters()}
    learn(made, kind, 1)
    assert same(answers(made, kind, 0), before) and not same(answers(made, kind, 1), untouched)
    assert all(torch.equal(p, q) for p, q in zip(made.factors[0].parameters(), old, strict=True))
    assert all(torch.equal(frozen[name], value) for name, value in made.backbone.named_parameters())
    assert same(answers(made, kind, 2), untouched)  # not learned yet: the frozen model
    assert made.answers_from(task_of(kind, 2), "given") == method().answers_from(task_of(kind, 2), "given") is not None
    assert made.answers_from(task_of(kind, 0), "hidden") is None
    parameters = {id(p) for p in made.trainable_parameters()}
    assert parameters == {id(p) for m in (made.factors, made.interactions) for p in m.parameters() if p.requires_grad}


def test_what_is_not_learned_is_answered_by_the_plain_backbone() -> None:
    made, batch = method(), batch_of("retrieval", 0)
    for task in (task_of("retrieval", 0), None):
        with torch.no_grad():
            assert torch.equal(
                made.represent(items(batch, "image"), task), made.backbone.image(made.views(batch["image"], False))
            )
            assert torch.equal(made.represent(items(batch, "text"), task), made.backbone.text(batch["text"]))
    assert made.route(batch) is None


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_identity_hidden_each_item_is_routed_by_itself(kind: str) -> None:
    made = method()
    for index in range(2):
        learn(made, kind, index)
    parts = [batch_of(kind, index, 99, 5) for index in (0, 1)]
    batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    inputs = ["image"] if kind == "classification" else ["image", "text"]
    for asked in [inputs] if kind == "fusion" else [[name] for name in inputs]:
        some = items(batch, *asked)
        with torch.no_grad():
            route = made.route(some)
            assert route is not None and (route == batch["task"]).all()
            if kind == "retrieval":
                hidden = made.represent(some, None)
                own = [made.represent({n: v[route == t] for n, v in some.items()}, task_of(kind, t)) for t in (0, 1)]
                close(hidden, torch.cat(own), 1e-5)
                single = [made.represent({n: v[i : i + 1] for n, v in some.items()}, None) for i in range(10)]
                close(torch.cat(single), hidden, 1e-5)
            else:
                labels = [label for task in made.tasks for label in task.labels]
                hidden = made.scores(some, labels, None)
                assert (hidden.argmax(1) // 2 == route).all()
                parts = [{n: v[route == t] for n, v in some.items()} for t in (0, 1)]
                own = [made.scores(p, t.labels, t) for p, t in zip(parts, made.tasks, strict=True)]
                close(torch.cat([hidden[:5, :2], hidden[5:, 2:]]), torch.cat(own), 5e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_route_is_taken_and_the_method_asks_no_other(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = method()
    for index in range(2):
        learn(made, kind, index)
    some, labels = items(batch_of(kind, 0, 99, 5), "image"), [label for task in made.tasks for label in task.labels]
    forced = torch.tensor([1, 0, 1, 0, 1])

    def ask(route: Tensor | None) -> Tensor:
        with torch.no_grad():
            return made.represent(some, None, route) if kind == "retrieval" else made.scores(some, labels, None, route)

    own, routed = ask(None), made.route(some)
    assert torch.equal(ask(routed), own)
    monkeypatch.setattr(made, "route", lambda batch: pytest.fail("asked again"))
    answer = ask(forced)
    torch.testing.assert_close(answer[forced == 0], own[forced == 0])  # groups of another size round otherwise
    assert not torch.allclose(answer, own, atol=1e-2)
    if kind != "retrieval":
        assert torch.equal(answer.argmax(1) // 2, forced)


def test_images_and_texts_are_routed_apart_and_a_fused_item_by_both() -> None:
    made = method()
    for index in range(2):
        learn(made, "fusion", index)
    left, right = (batch_of("fusion", index, 99, 4) for index in (0, 1))
    crossed = {"image": left["image"], "text": right["text"]}
    with torch.no_grad():
        assert made.route(items(crossed, "image")).tolist() == [0] * 4
        assert made.route(items(crossed, "text")).tolist() == [1] * 4
        unit = made._unprompted(crossed)
        centres = {name: made.memory[f"centres_{name}"] for name in unit}
        distances = sum((unit[name][:, None, None] - centres[name]).abs().sum(3).amin(2) for name in unit)
        assert torch.equal(made.route(crossed), distances.argmin(1))
    assert made.memory["centres_image"].shape == (2, 4, tiny.EMBED) == made.memory["centres_text"].shape


def test_a_missing_input_is_answered_by_the_other() -> None:
    made = method()
    learn(made, "fusion", 0)
    task, batch = task_of("fusion", 0), batch_of("fusion", 0, 99, 4)
    with torch.no_grad():
        image, text = (made.represent(items(batch, name), task) for name in ("image", "text"))
        assert torch.equal(made.represent(batch, task), fused(image, text))
        plain = made.backbone.logits(text, made.backbone.class_features(task.labels))
        assert torch.equal(made.scores(items(batch, "text"), task.labels, task), plain)


def test_gain_is_the_rate_of_the_factors_and_nothing_else() -> None:
    """Adam's first step moves every parameter by the rate, so every factor by gain times the rate."""
    start, moved = [], []
    for gain in (1.0, 10.0):
        made = method(gain=gain)
        with tiny.seeded(3):
            made.begin_task(task_of("retrieval", 0))
        start.append([gain * p.detach() for p in made.trainable_parameters()])
        optimizer = torch.optim.Adam(made.trainable_parameters(), lr=1e-3 / gain, eps=1e-12)
        made.loss(batch_of("retrieval", 0)).backward()
        optimizer.step()
        moved.append([gain * p.detach() for p in made.trainable_parameters()])
    for plain, scaled in (*zip(*start, strict=True), *zip(*moved, strict=True)):
        close(scaled, plain, 1e-5)
    assert not same(start[0], moved[0])


def test_prompts_act_as_deep_as_told_and_interaction_mixes_the_later_layers() -> None:
    seen = {}
    for depth, interaction in ((1, "none"), (2, "none"), (1, "prompts"), (2, "prompts")):
        made = method(prompt_depth=depth, interaction=interaction)
        with tiny.seeded(3):
            made.begin_task(task_of("retrieval", 0))
        seen[depth, interaction] = answers(made, "retrieval", 0)
        V, T = made._prompts(0)
        first = made.factors[0]
        assert torch.equal(V[0], compose_prompts(first.dim_1_share, first.dim_2_visual, first.dim_3_visual)[0])
        if (depth, interaction) == (2, "prompts"):
            raw = [x[0, :2] for x in composed(made.factors, made.gain)]
            mixed = interact(*raw, dict(made.interactions[0].named_parameters()))
            assert torch.equal(V[1], mixed[0][1]) and torch.equal(T[1], mixed[1][1]) and len(V) == 2
            made.loss(batch_of("retrieval", 0)).backward()
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.interactions.parameters())
    assert same(seen[1, "none"], seen[1, "prompts"])  # the first layer's are never mixed
    assert all(not same(seen[1, "none"], seen[2, name]) for name in ("none", "prompts"))
    assert not same(seen[2, "none"], seen[2, "prompts"])


def test_with_depth_one_the_auxiliary_losses_alone_train_the_later_rows() -> None:
    rows = {}
    for weight in (0.0, 0.1):
        made = method(prompt_depth=1, align_weight=weight, task_weight=weight)
        with tiny.seeded(3):
            made.begin_task(task_of("retrieval", 0))
        made.loss(batch_of("retrieval", 0)).backward()
        rows[weight] = made.factors[0].dim_1_share.grad.abs().sum(1)
    assert rows[0.0][0] > 0 and not rows[0.0][1:].any()
    assert (rows[0.1] > 0).all()


@pytest.mark.parametrize("task_loss", ["released", "plain"])
def test_the_penalty_is_alignment_and_contrast_with_earlier_tasks_constant(task_loss: str) -> None:
    made = method(task_loss=task_loss, task_similarity=[[1.0, 0.5, 0.1], [0.5, 1.0, 0.5], [0.1, 0.5, 1.0]])
    related = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]])
    temperature = {"released": 0.001, "plain": 0.1}[task_loss]
    for index in range(3):
        with tiny.seeded(index):
            made.begin_task(task_of("retrieval", index))
        V, T = composed(made.factors, made.gain)
        expected = alignment_loss(V[-1], T[-1])
        if index:
            own = related[: index + 1, : index + 1]
            expected = expected + 0.05 * sum(task_contrast(X, own, temperature, task_loss) for X in (V, T))
        loss = made.penalty()
        close(loss.detach(), expected.detach(), 1e-6)
        assert loss.isfinite()  # task 1 of 2 has no unrelated one
    loss.backward()
    assert all(p.grad is None for factors in made.factors[:2] for p in factors.parameters())
    assert all(p.grad.abs().sum() > 0 for p in made.factors[2].parameters())


@pytest.mark.parametrize("kind", ["classification", "retrieval"])
def test_related_are_the_most_alike_of_the_pairs_so_far(kind: str) -> None:
    made = method()
    made.begin_task(task_of(kind, 0))
    for index in range(1, 4):
        made.begin_task(task_of(kind, index))
        related = made.related()
        assert torch.equal(related, related.T) and related.diagonal().all()
        pairs = related[*torch.triu_indices(index + 1, index + 1, 1)]
        assert int(pairs.sum()) == (0, 0, 1, 2)[index]  # of 1, 3 and 6 pairs those above the upper quartile
    given = method(task_similarity=[[1.0, 0.9], [0.9, 1.0]])
    for index in range(2):
        given.begin_task(task_of(kind, index))
    assert given.related().all()
    with pytest.raises(ValueError, match="task_similarity"):
        given.begin_task(task_of(kind, 2))


def test_class_prompts_are_read_with_the_prompts_of_the_task_and_kept_while_those_stay() -> None:
    made = method()
    learn(made, "classification", 0)
    task, batch = task_of("classification", 0), batch_of("classification", 0, 99, 6)
    first, calls = answers(made, "classification", 0), []
    with torch.no_grad():
        texts = [{"text": tiny.tokenize(label.prompts)} for label in task.labels]
        features = [F.normalize(made.represent(text, task), dim=1).mean(0) for text in texts]
        image = made.represent(items(batch, "image"), task)
        close(first[0], made.backbone.logits(image, F.normalize(torch.stack(features), dim=1)), 1e-4)
    read = made._read
    made._read = lambda *a: calls.append(a) or read(*a)  # type: ignore[method-assign, func-returns-value]
    assert same(answers(made, "classification", 0), first) and not calls
    state = {name: value.clone() for name, value in made.state_dict().items()}
    with torch.no_grad():
        made.factors[0].dim_2_textual.add_(1.0)
    assert not same(answers(made, "classification", 0), first) and len(calls) == 1
    made.load_state_dict(state, strict=False)
    assert same(answers(made, "classification", 0), first)


def test_losses_stay_in_full_precision_under_autocast() -> None:
    for kind in KINDS:
        made = method(interaction="prompts")
        for index in range(2):
            with tiny.seeded(index):
                made.begin_task(task_of(kind, index))
        made.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = made.loss(batch_of(kind, 1))
        loss.backward()
        assert loss.dtype == torch.float32 and loss.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in made.trainable_parameters())


def test_a_text_encoder_without_tokens_to_edit_and_too_many_prompts_are_refused() -> None:
    backbone = tiny.backbone()
    with pytest.raises(ValueError, match="no room"):
        method(backbone, prompts=tiny.CONTEXT - 2)
    backbone.text = nn.Identity()
    with pytest.raises(ValueError, match="text encoder, Identity"):
        method(backbone)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompts": 0}, {"rank": 0}, {"prompt_depth": 5}, {"prompt_depth": 0}, {"centres": 0},
        {"interaction": "hidden"},
        {"task_loss": "nt"}, {"alignment": "cosine"}, {"align_weight": -1.0}, {"task_similarity": [[1.0, 0.5]]},
        {"related_quantile": 1.5}, {"gain": 0.0},
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        method(**arguments)


def test_the_official_preset_is_the_released_code() -> None:
    made = LPI(**PRESETS["official"]["method"])
    assert (made.prompts, made.rank, made.layers, made.prompt_depth, made.interaction) == (16, 4, 9, 1, "none")
    assert (made.init, made.gain, made.alignment, made.task_loss) == (0.5, 1.0, "released", "released")
    assert LPI().gain == 1.0
    with tiny.seeded():
        assert sum(p.numel() for p in PromptFactors(9, 16, 4, 768, 512, 0.5).parameters()) == 5284
        assert sum(p.numel() for p in PromptInteraction(12, 4, 768, 512).parameters()) == 12904
