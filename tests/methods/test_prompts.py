"""L2P, DualPrompt and CODA-Prompt: reference numbers of the released code, slow oracles, what the methods claim."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmark.stream import Budget
from methods.base import Batch, IncrementalMethod
from methods.coda_prompt import CodaPrompt, attend, gram_schmidt, orthogonality
from methods.dualprompt import DualPrompt, prefix
from methods.l2p import L2P, select_prompts
from methods.parts.backbones import Backbone
from tests.golden_files import close, golden, leaf

seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 5)
METHODS = {
    "l2p": lambda: L2P(pool=4, length=3, top_k=2),
    "dualprompt": lambda: DualPrompt(g_layers="0", e_layers="1,2"),
    "coda_prompt": lambda: CodaPrompt(pool=9, length=4),
}


def draw(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def grown(name: str, tasks: int = 1, **arguments: Any) -> IncrementalMethod:
    """A method on the tiny CLIP after so many tasks of two classes were begun."""
    with tiny.seeded(3):
        method = METHODS[name]() if not arguments else type(METHODS[name]())(**arguments)
        method.attach(tiny.backbone(), Budget(augment="none"))
        for index in range(tasks):
            method.begin_task(tiny.task(index, (2 * index, 2 * index + 1), of=3))
    return method.eval()


def batch_of(task: int, count: int = 6) -> Batch:
    """A task's images: the first class dark, the second bright, both tinted by the task."""
    label = torch.arange(count) % 2
    level = torch.tensor([60, 190])[label].view(-1, 1, 1, 1)
    image = tiny.images(count, seed=task) // 4 + level.to(torch.uint8) // 2
    image[:, task % 3] //= 2
    return {"image": image, "label": label + 2 * task, "task": torch.full((count,), task), "index": torch.arange(count)}


def learn(method: IncrementalMethod, batch: Batch, steps: int, lr: float = 0.02) -> list[float]:
    """The losses of some steps of Adam."""
    optimizer, losses = torch.optim.Adam(method.trainable_parameters(), lr=lr), []
    method.train()
    for _ in range(steps):
        loss = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    method.eval()
    return losses


# ---- L2P ------------------------------------------------------------------------------------------------------------


def test_l2p_selects_as_the_released_code_does_sample_by_sample() -> None:
    g = golden("l2p_pilot_samplewise")
    keys = leaf(g["key"])
    indices, similarity = select_prompts(g["cls"], keys, int(g["top_k"]))
    assert torch.equal(indices, g["idx"])
    close(similarity, g["similarity"], 1e-12)
    reduced = similarity.gather(1, indices).sum(dim=1).mean()
    reduced.backward()
    close(reduced, g["reduce_sim"], 1e-12)
    close(keys.grad, g["dkey"], 1e-12)
    close(torch.cat([g["prompt"][indices].flatten(1, 2), g["x"]], dim=1), g["out"], 1e-12)


@given(batch=sizes, pool=st.integers(1, 7), width=sizes, seed=seeds, data=st.data())
def test_selection_is_the_slow_one(batch: int, pool: int, width: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, pool))
    query, keys = draw(seed, (batch, width), (pool, width))
    indices, similarity = select_prompts(query, keys, k)
    voted, _ = select_prompts(query, keys, k, batchwise=True)
    votes = [0] * pool
    for b in range(batch):
        cosines = [float(query[b] @ key / query[b].norm() / key.norm()) for key in keys]
        assert similarity[b].tolist() == pytest.approx(cosines, abs=1e-12)
        chosen = similarity[b][indices[b]].tolist()
        assert chosen == sorted(similarity[b].tolist(), reverse=True)[:k] and len(set(indices[b].tolist())) == k
        for index in indices[b].tolist():
            votes[index] += 1
    assert (voted == voted[0]).all() and len(set(voted[0].tolist())) == k
    assert [votes[index] for index in voted[0].tolist()] == sorted(votes, reverse=True)[:k]


def timm_backbone(**arguments: Any) -> Backbone:
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": tiny.SIZE}
    with tiny.seeded():
        model = tiny.custom_clip(vision)
        model.visual.trunk = timm.models.vision_transformer.VisionTransformer(
            num_classes=0, patch_size=8, embed_dim=32, depth=2, num_heads=4, img_size=tiny.SIZE, **arguments
        )
        model.visual.head.proj = nn.Linear(32, tiny.EMBED, bias=False)
    return Backbone(tiny.prepared(model), tiny.tokenize, "timm")


@pytest.mark.parametrize("make", [tiny.backbone, timm_backbone], ids=["open_clip", "timm"])
def test_l2p_pools_the_class_token_of_the_nearest_prompts(make: Any) -> None:
    method = L2P(pool=5, length=3, top_k=2)
    with tiny.seeded(1):
        method.attach(make(), Budget())
        method.begin_task(tiny.task(0, (0, 1)))
    method.eval()
    images, tower = method.views(tiny.images(4), False), method.backbone.image
    nearest = F.cosine_similarity(tower(images)[:, None], method.keys[None], dim=-1).argsort(dim=1, descending=True)
    expected = []
    for image, best in zip(images, nearest, strict=True):
        extra = torch.cat([method.prompts[best[0]], method.prompts[best[1]]])[None]
        # attention does not see where a token stands: behind the patches is as good as behind the class token
        expected.append(tower(image[None], edit_tokens=lambda i, x, e=extra: x if i else torch.cat([x, e], dim=1))[0])
    features, cosines = method.prompted(images)
    close(features, torch.stack(expected), 1e-4)
    assert (features - tower(images)).norm() > 0.1 * features.norm()
    assert cosines.shape == (4, 2) and (cosines[:, 0] >= cosines[:, 1]).all()


def test_l2p_draws_the_chosen_keys_and_leaves_the_others() -> None:
    method = grown("l2p")
    batch = batch_of(0, 2)
    before = method.keys.detach().clone()
    query = method.backbone.image(method.views(batch["image"], False))
    indices, similarity = select_prompts(query, before, 2)
    features, cosines = method.prompted(method.views(batch["image"], False))
    expected = method.cross_entropy(features, batch) - 0.1 * similarity.gather(1, indices).sum() / 2
    assert float(method.loss(batch)) == pytest.approx(float(expected), rel=1e-5)
    optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.5)
    method.loss(batch).backward()
    optimizer.step()
    chosen = torch.zeros(4, dtype=torch.bool)
    chosen[indices.unique()] = True
    assert not chosen.all()
    assert torch.equal(method.keys[~chosen], before[~chosen])
    assert (method.keys[chosen] != before[chosen]).any(dim=1).all()
    assert method.prompted(method.views(batch["image"], False))[1].sum() > cosines.sum()


# ---- DualPrompt -----------------------------------------------------------------------------------------------------


def test_dualprompt_is_the_released_one_of_the_coda_repository() -> None:
    g = golden("dualprompt_codarepo_t1")
    task, keys = int(g["task"]), leaf(g["K"])
    _, similarity = select_prompts(g["q"], keys, 1)
    loss = (1 - similarity[:, task]).sum()
    loss.backward()
    close(loss.double(), g["loss"].double(), 1e-4)
    close(keys.grad, g["dK"], 1e-4)
    for index, name in ((torch.full((len(g["q"]),), task), ""), (select_prompts(g["q"], keys, 1)[0], "_eval")):
        for part, expected in zip(prefix(g["P"], index), (g[f"Ek{name}"], g[f"Ev{name}"]), strict=True):
            close(part, expected, 1e-6)
    for part, expected in zip(prefix(g["P"], task), (g["Ek"], g["Ev"]), strict=True):
        close(part, expected[:1], 1e-6)


@given(layers=sizes, batch=sizes, pool=sizes, k=sizes, length=sizes, heads=sizes, seed=seeds)
def test_prefix_is_what_a_loop_gathers(
    layers: int, batch: int, pool: int, k: int, length: int, heads: int, seed: int
) -> None:
    (prompts,) = draw(seed, (layers, 2, pool, length, heads, 3))
    index = torch.randint(pool, (batch, k), generator=torch.Generator().manual_seed(seed))
    keys, values = prefix(prompts, index)
    assert keys.shape == values.shape == (layers, batch, k * length, heads, 3)
    for part, tensor in enumerate((keys, values)):
        for layer in range(layers):
            for b in range(batch):
                assert torch.equal(tensor[layer, b], torch.cat([prompts[layer, part, m] for m in index[b].tolist()]))
    halves = torch.cat([prompts[0, 0], prompts[0, 1]], dim=1).flatten(2)  # (pool, 2 length, D)
    for tensor, expected in zip(prefix(halves, index), (keys, values), strict=True):
        assert torch.equal(tensor, expected[0].flatten(2))
    for tensor, expected in zip(prefix(halves), prefix(halves, torch.arange(pool)), strict=True):
        assert torch.equal(tensor, expected)


def test_prefix_does_not_mix_keys_and_values_as_the_released_reshape_does() -> None:
    prompts = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1, 1).expand(1, 2, 3, 4, 2, 5)  # keys are 1, values are 2
    index = torch.tensor([[0], [1], [2], [0]])
    released = prompts[:, :, index].reshape(1, 4, 2, 4, 2, 5)
    assert (released[0, :2] == 1).all() and (released[0, 2:] == 2).all()  # the defect
    keys, values = prefix(prompts, index)
    assert (keys == 1).all() and (values == 2).all()


def test_prefix_refuses_prompts_that_have_no_halves() -> None:
    with pytest.raises(ValueError, match="length 5"):
        prefix(torch.zeros(2, 5, 4), 0)


def test_dualprompt_answers_with_the_own_prompt_or_that_of_the_nearest_key() -> None:
    method = grown("dualprompt", tasks=3, g_layers="0", e_layers="1", copy=False, scale=1.0, init=1.0)
    labels = [label for task in method.tasks for label in task.labels]
    image = tiny.images(12)
    answers = torch.stack([method.scores({"image": image}, labels, task) for task in method.tasks], dim=1)
    assert (answers[:, 0] - answers[:, 1]).abs().min(dim=1).values.max() > 1e-3
    query = F.normalize(method.backbone.image(method.views(image, False)), dim=-1)
    mean = F.normalize(query.mean(dim=0), dim=0)
    with torch.no_grad():  # keys that split these images: what sets three of them apart from the mean
        for row, key in enumerate(method.keys):
            key.copy_(3 * (query[row] - (query[row] @ mean) * mean))
    nearest = F.cosine_similarity(query[:, None], torch.stack(list(method.keys))[None], dim=-1).argmax(dim=1)
    assert len(nearest.unique()) == 3
    assert torch.equal(method.route({"image": image}), nearest)
    hidden = method.scores({"image": image}, labels, None)
    close(hidden, answers[torch.arange(12), nearest], 1e-4)
    forced = torch.arange(12) % 3
    close(method.scores({"image": image}, labels, None, forced), answers[torch.arange(12), forced], 1e-4)
    assert torch.equal(method.scores({"image": image}, labels, tiny.task(7, (0, 1))), hidden)  # not learned yet


def test_dualprompt_keeps_the_earlier_prompts_and_copies_the_last() -> None:
    method = grown("dualprompt")
    first = learn(method, batch_of(0), 40)
    assert first[-1] < first[0] - 0.1
    kept, key, general = (p.detach().clone() for p in (method.own[0], method.keys[0], method.general))
    method.begin_task(tiny.task(1, (2, 3)))
    assert torch.equal(method.own[1], kept)
    learn(method, batch_of(1), 3)
    assert torch.equal(method.own[0], kept) and torch.equal(method.keys[0], key)
    assert not torch.equal(method.own[1], kept) and not torch.equal(method.general, general)


def test_dualprompt_learns_keys_that_tell_the_tasks_apart() -> None:
    method = grown("dualprompt", tasks=0)
    batches = [batch_of(index) for index in range(2)]
    for index, batch in enumerate(batches):
        batch["image"] = batch["image"][torch.full((6,), index)] ^ tiny.images(6, seed=index) // 16  # dark, then bright
        method.begin_task(tiny.task(index, (2 * index, 2 * index + 1)))
        before = (method.backbone.image(method.views(batch["image"], False)), method.keys[-1].detach().clone())
        learn(method, batch, 40)
        query, key = before
        cosine = F.cosine_similarity(query, method.keys[-1], dim=-1).mean()
        assert cosine > F.cosine_similarity(query, key, dim=-1).mean() + 0.3
        best = F.normalize(F.normalize(query, dim=-1).mean(dim=0), dim=0)  # where the mean cosine is largest
        assert F.cosine_similarity(best, method.keys[-1], dim=0) > 0.95
    routes = torch.stack([method.route(batch) for batch in batches])
    assert (routes == torch.tensor([[0], [1]])).float().mean() > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"g_layers": "0,1", "e_layers": "1,2"}, "one kind of prompt"),
        ({"e_layers": "2;3"}, "block numbers"),
        ({"e_length": 0}, "at least 1"),
    ],
)
def test_dualprompt_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DualPrompt(**arguments)


def test_dualprompt_needs_a_block_for_its_own_prompts() -> None:
    with pytest.raises(ValueError, match="tower's 2"):
        DualPrompt().attach(tiny.backbone(), Budget())
    method = grown("dualprompt", g_layers="", e_layers="0,1,9")  # no general prompt, a deeper layer left out
    assert method.e_at == [0, 1] and len(learn(method, batch_of(0), 2)) == 2


# ---- CODA-Prompt ----------------------------------------------------------------------------------------------------


def test_coda_is_the_released_one() -> None:
    g = golden("coda_t0")
    start, stop = int(g["start"]), int(g["stop"])
    leaves = [leaf(g[name]) for name in "KAP"]
    K, A, P = (torch.cat([x[:start].detach(), x[start:stop]]) for x in leaves)
    Ek, Ev = attend(g["q"], K, A, P).chunk(2, dim=1)
    close(Ek, g["Ek"], 1e-5)
    close(Ev, g["Ev"], 1e-5)
    loss = float(g["mu"]) * sum(orthogonality(X.flatten(1)) for X in (K, A, P))
    assert float(loss) == pytest.approx(float(g["loss"]), abs=1e-5)
    ((Ek + Ev) * g["G"]).sum().add(loss).backward()
    for x, name in zip(leaves, "KAP", strict=True):
        close(x.grad, g[f"d{name}"], 1e-5)
    Ek, Ev = attend(g["q"], *(g[name][:stop] for name in "KAP")).chunk(2, dim=1)
    close(Ek, g["Ek_eval"], 1e-5)
    close(Ev, g["Ev_eval"], 1e-5)


@given(layers=sizes, batch=sizes, pool=sizes, width=sizes, seed=seeds)
def test_attend_is_the_slow_one_with_its_gradients(layers: int, batch: int, pool: int, width: int, seed: int) -> None:
    shapes = (batch, width), (layers, pool, width), (layers, pool, width), (layers, pool, 4, 3)
    leaves = [leaf(x) for x in draw(seed, *shapes)]
    query, K, A, P = leaves
    rows = []
    for layer in range(layers):
        for b in range(batch):
            cosines = F.cosine_similarity(query[b] * A[layer], K[layer], dim=-1)
            rows.append(sum(weight * prompt for weight, prompt in zip(cosines, P[layer], strict=True)))
    expected = torch.stack(rows).unflatten(0, (layers, batch))
    result = attend(query, K, A, P)
    close(result, expected, 1e-9)
    (upstream,) = draw(seed + 1, tuple(expected.shape))
    for fast, slow in zip(
        *(torch.autograd.grad((x * upstream).sum(), leaves) for x in (result, expected)), strict=True
    ):
        assert (fast - slow).norm() <= 1e-8 * (1 + slow.norm())
    close(attend(query, K[0], A[0], P[0]), expected[0], 1e-9)


def test_attend_of_a_component_that_sees_nothing_is_zero_and_finite() -> None:
    query, keys, prompts = (leaf(x) for x in draw(0, (3, 4), (2, 4), (2, 2, 5)))
    attention = leaf(torch.zeros(2, 4, dtype=torch.float64))
    result = attend(query, keys, attention, prompts)
    assert (result == 0).all()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(result.sum(), (query, keys, attention, prompts)))


@given(old=st.integers(0, 6), count=st.integers(1, 5), width=st.integers(1, 9), seed=seeds)
def test_new_components_are_orthonormal_and_away_from_the_old(old: int, count: int, width: int, seed: int) -> None:
    (known,) = draw(seed, (2, old, width))
    with tiny.seeded(seed):
        fresh = gram_schmidt(known, count)
    assert fresh.shape == (2, count, width)
    close(fresh.norm(dim=-1), torch.ones(2, count, dtype=torch.float64), 1e-12)
    room = max(0, min(count, width - old))
    eye = torch.eye(room, dtype=torch.float64)
    assert ((fresh[:, :room] @ fresh[:, :room].mT - eye).abs() < 1e-9).all()
    assert ((fresh[:, :room] @ known.mT).abs() < 1e-9).all()  # though the old ones are not orthogonal


def test_coda_trains_only_the_components_of_the_task() -> None:
    method = grown("coda_prompt")
    assert [p.shape for p in method.trainable_parameters()] == [(2, 3, 24), (2, 3, 24), (2, 3, 4, 32)]
    learn(method, batch_of(0), 3)
    first = [part[0].detach().clone() for part in (method.keys, method.attention, method.prompts)]
    before = method.scores({"image": tiny.images(3)}, method.tasks[0].labels, None)
    method.begin_task(tiny.task(1, (2, 3), of=3))
    for part, old in zip((method.keys, method.attention, method.prompts), first, strict=True):
        assert ((part[1].flatten(2) @ old.flatten(2).mT).abs() < 1e-5).all()
    learn(method, batch_of(1), 3)
    parts = (method.keys, method.attention, method.prompts)
    assert all(torch.equal(part[0], old) for part, old in zip(parts, first, strict=True))
    assert not any(part[0].requires_grad for part in parts)
    assert all((p.grad != 0).any() for p in method.trainable_parameters())
    after = method.scores({"image": tiny.images(3)}, method.tasks[0].labels, None)
    assert (after - before).abs().max() > 1e-4  # the new components act on every task


def test_coda_gives_each_layer_its_own_halves() -> None:
    method = grown("coda_prompt", tasks=2)
    images = method.views(tiny.images(3), False)
    query, parts = method.backbone.image(images), method.components()
    given = []
    for layer in range(2):
        prompts = attend(query, *(part[layer] for part in parts))
        given.append((prompts[:, :2], prompts[:, 2:]))
    expected = method.backbone.image(images, prefix=lambda layer: given[layer])
    close(method.embed_image({"image": tiny.images(3)}), expected, 1e-5)
    assert (expected - query).norm() > 1e-3 * query.norm()


def test_codas_penalty_is_the_sum_over_layers_and_parts() -> None:
    method = grown("coda_prompt", tasks=2, pool=9, length=4, mu=0.7)
    tiny.shake_all((p.data for p in method.trainable_parameters()), 0)
    expected = 0.0
    for part in method.components():
        for X in part.detach().double().flatten(2):
            expected += 0.7 * float(((X @ X.T - torch.eye(len(X), dtype=torch.float64)) ** 2).mean())
    assert expected > 0.01 and float(method.penalty()) == pytest.approx(expected, rel=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(method.penalty(), method.penalty().float())
        assert float(method.penalty()) == pytest.approx(expected, rel=1e-4)
    assert float(grown("coda_prompt").penalty()) == 0


def test_coda_gives_every_task_at_least_one_component() -> None:
    assert len(grown("coda_prompt", tasks=2, pool=2, length=2).keys[1][0]) == 1
    with pytest.raises(ValueError, match="even length"):
        CodaPrompt(length=5)


# ---- all three ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_prompt_method_learns(name: str) -> None:
    method, batch = grown(name), batch_of(0, 8)
    before = float(method.cross_entropy(method.backbone.image(method.views(batch["image"], False)), batch))
    learn(method, batch, 80)
    logits = method.scores({"image": batch["image"]}, method.tasks[0].labels, method.tasks[0])
    assert float(F.cross_entropy(logits, batch["label"])) < 0.5 * before
    assert (logits.argmax(dim=1) == batch["label"]).float().mean() > 0.8


@pytest.mark.parametrize("name", METHODS)
def test_an_answer_does_not_depend_on_its_batch(name: str) -> None:
    method = grown(name, tasks=3)
    image, labels = tiny.images(8), [label for task in method.tasks for label in task.labels]
    together = method.scores({"image": image}, labels, None)
    alone = torch.cat([method.scores({"image": one[None]}, labels, None) for one in image])
    close(together, alone, 1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_under_autocast_the_choice_stays_wide_and_gradients_arrive(name: str) -> None:
    method, batch = grown(name, tasks=2), batch_of(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.loss(batch)
    loss.backward()
    assert float(loss) == pytest.approx(float(method.loss(batch)), abs=0.1)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in method.trainable_parameters())
    assert all((p.grad != 0).any() for p in method.trainable_parameters())


def test_l2p_refuses_more_prompts_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"top_k 3: must be in \[1, 2\]"):
        L2P(pool=2, top_k=3)
