"""RAPF: the released numbers step by step, what it repairs, and that it forgets less than an adapter alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmark.stream import Budget
from methods.base import Batch
from methods.rapf import RAPF, fuse, hard_pairs, root, sample, shrink
from tests import tiny
from tests.golden_files import close, golden
from tests.lessons import batch, cross_entropy_by_hand, learn

seeds = st.integers(0, 10**6)
FILES = ("rapf_a", "rapf_shrink", "rapf_no_pairs")


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(seed: int, E: int, rank: int | None = None) -> Tensor:
    x = drawn(seed, E, rank or E + 2)
    return x @ x.mT


# ---- the pure functions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
def test_every_step_of_the_released_code(file: str) -> None:
    """Statistics, pairs, draws, loss with its gradient, fusion."""
    g = golden(f"c/{file}")
    old, x_NE, label_N = int(g["classes_old"]), g["stat_features"], g["stat_labels"]
    for c in range(old):
        mine_NE = x_NE[label_N == c]
        close(mine_NE.mean(dim=0), g["class_mean"][c], 1e-9)
        cov = torch.cov(mine_NE.mT) + 1e-4 * torch.eye(mine_NE.shape[1])
        close(cov, g["class_cov"][c], 1e-9)
        close(shrink(cov), g["shrunk_cov"][c], 1e-9)
    unit_CE = F.normalize(g["text"], dim=-1)
    pairs = hard_pairs(g["text"][:old], g["text"][old:], float(g["threshold"]))
    assert (pairs + torch.tensor([0, old])).tolist() == g["hard_pairs"].tolist()
    assert (torch.cdist(unit_CE[:old], unit_CE[old:]) - g["text_distance"]).abs().max() < 2e-7
    covs = g["shrunk_cov"] if g["shrink"] else g["class_cov"]
    samples = []
    for j, c in enumerate([*g["replay_classes"].tolist(), *pairs[:, 0].tolist()]):
        name = f"replay_{j}" if j < len(g["replay_classes"]) else f"edge_{j - len(g['replay_classes'])}"
        samples.append(g["class_mean"][c] + g[f"{name}_z"] @ root(covs[c]).mT)
        close(samples[-1], g[name], 1e-9)
    Wa, count = g["adapter"].clone().requires_grad_(True), len(g["targets"])
    z_NE = F.normalize(torch.cat([g["features"], *samples]) @ Wa.mT, dim=-1)
    logits_NC = 100 * z_NE[:count] @ unit_CE.mT
    close(logits_NC.detach(), g["logits"], 1e-9)
    loss = F.cross_entropy(logits_NC, g["targets"])
    close(loss.detach(), g["loss_ce"], 1e-9)
    if len(pairs):
        (o, c), z_NE = pairs[0], z_NE[count:]
        hinge = (0.1 - z_NE @ unit_CE[o] + z_NE @ unit_CE[old + c]).relu().mean()
        close(hinge.detach(), g["loss_hinge"], 1e-9)
        loss = loss + hinge
    close(torch.autograd.grad(loss, Wa)[0], g["grad_adapter"], 1e-9)
    close(fuse(g["old_adapter"], g["adapter"], float(g["mix_bias"])), g["fused"], 1e-9)


def test_what_the_released_code_cannot_do() -> None:
    g = golden("c/rapf_defects")
    assert float(g["shrunk_eigenvalues"].min()) < 0 < float(torch.linalg.eigvalsh(g["negative_cov"]).min())
    assert float(torch.linalg.eigvalsh(shrink(g["negative_cov"])).min()) > 0
    close(fuse(g["unchanged_weight"], g["unchanged_weight"], 0.6), g["unchanged_weight"], 1e-12)
    one_new = hard_pairs(torch.eye(3), torch.tensor([[0.0, 1.0, 0.1]]), 0.5)
    assert one_new.tolist() == [[1, 0]]
    none = torch.zeros(0, 3)
    assert hard_pairs(none, torch.eye(3), 9.0).shape == hard_pairs(torch.eye(3), none, 9.0).shape == (0, 2)


@given(seeds, st.integers(1, 6), st.booleans())
def test_shrinkage_is_positive_definite(seed: int, E: int, sparse: bool) -> None:
    cov = covariance(seed, E)
    if sparse:  # the mean is then over few, and may be far from 0
        keep = torch.arange(E) // 2
        cov = cov * (keep[:, None] == keep)
    shrunk = shrink(cov)
    assert float(torch.linalg.eigvalsh(shrunk).min()) > 0 and torch.equal(shrunk, shrunk.mT)
    assert torch.allclose(shrunk.diagonal(), cov.diagonal() + cov.diagonal().mean())
    beside = (shrunk - cov)[~torch.eye(E, dtype=torch.bool)]
    assert len(beside) == 0 or torch.allclose(beside, beside[0].expand_as(beside), atol=1e-10)


@given(seeds, st.integers(1, 6), st.integers(1, 5))
def test_a_root_of_any_covariance(seed: int, E: int, rank: int) -> None:
    cov = covariance(seed, E, rank)
    assert torch.allclose(root(cov) @ root(cov).mT, cov, atol=1e-8)
    assert torch.equal(root(torch.zeros(E, E)), torch.zeros(E, E))


@pytest.mark.parametrize("rank", [5, 2, 0])
def test_samples_have_the_mean_and_the_covariance(rank: int) -> None:
    mean, cov = drawn(1, 5), covariance(2, 5, rank) if rank else torch.zeros(5, 5, dtype=torch.float64)
    x_NE = sample(mean, cov, 40_000, torch.Generator().manual_seed(0))
    assert x_NE.shape == (40_000, 5) and x_NE.dtype == mean.dtype
    assert (x_NE.mean(dim=0) - mean).abs().max() < 0.05
    assert (torch.cov(x_NE.mT) - cov).abs().max() < 0.03 * max(1.0, float(cov.abs().max()))
    again = sample(mean, cov, 40_000, torch.Generator().manual_seed(0))
    assert torch.equal(x_NE, again)
    assert sample(mean.float(), cov, 3).dtype == torch.float32 and sample(mean, cov, 0).shape == (0, 5)


@given(seeds, st.integers(1, 6), st.integers(1, 6), st.floats(0, 2.5))
def test_pairs_by_a_loop(seed: int, old: int, new: int, tau: float) -> None:
    o, c = drawn(seed, old, 4), drawn(seed + 1, new, 4)
    unit_o, unit_c = (x / x.norm(dim=1, keepdim=True) for x in (o, c))
    expected = [[i, j] for i in range(old) for j in range(new) if float((unit_o[i] - unit_c[j]).norm()) < tau]
    assert hard_pairs(o, c, tau).tolist() == expected


@given(seeds, st.integers(2, 6), st.floats(0, 1))
def test_fusion_lies_between_the_two_in_the_old_basis(seed: int, E: int, b: float) -> None:
    old, new = drawn(seed, E, E), drawn(seed + 1, E, E)
    fused, U = fuse(old, new, b), torch.linalg.svd(old)[0]
    P, before, after = (U.mT @ x for x in (new, old, fused))
    share = (after - before) / (P - before)
    moved = (P - before).abs() / (P - before).abs().max()
    assert torch.allclose(share, (moved + b).clamp(max=1), atol=1e-6)
    assert torch.allclose(fuse(old, new, 1.0), new) and torch.allclose(fuse(old, old, b), old)
    assert fuse(old.float(), new.float(), b).dtype == torch.float32


# ---- the method ---------------------------------------------------------------------------------------------------


def learner(seed: int = 0, **arguments: object) -> RAPF:
    with tiny.seeded(seed):
        method = RAPF(**arguments)  # type: ignore[arg-type]
        method.attach(tiny.backbone(), Budget(augment="none"))
    return method


def test_it_begins_as_the_model_was_or_at_random() -> None:
    for start, like in (("identity", True), ("random", False)):
        method, task = learner(start=start), tiny.task(0, [0, 1])
        before = method.scores(batch(task), task.labels, None)
        method.begin_task(task)
        after = method.scores(batch(task), task.labels, None)
        bound = float(method.backbone.bound)
        assert ((after - before).abs().max() < 0.02 * bound) == like
        assert method.trainable_parameters() == [method.adapter.weight]
    assert float(method.adapter.weight.abs().max()) <= tiny.EMBED**-0.5


def test_the_loss_is_what_the_equations_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws of no noise: every sample of an old class is its mean, and every mean can be done by hand."""
    method, first, second = learner(tau=9.0, classes=2), tiny.task(0, [0, 1]), tiny.task(1, [2, 3])
    learn(method, first, steps=3)
    method.begin_task(second)
    method.train()
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: torch.zeros(*shape))
    data = batch(second, count=6)
    means = {c: method.memory[f"mean_{c}"] for c in (0, 1)}
    z = {c: F.normalize(method.adapted(mean_E), dim=-1) for c, mean_E in means.items()}
    text_CE = method.backbone.class_features([*first.labels, *second.labels])
    scale = method.backbone.logit_scale.exp()
    own = F.cross_entropy(scale * torch.stack([z[0], z[1]]) @ text_CE.mT, torch.tensor([0, 1]))
    of_batch = cross_entropy_by_hand(method, method.embed_image(data), data, "seen")
    ce = (6 * of_batch + 40 * own) / 46  # 20 samples of either class
    hinge = torch.stack([(0.1 - z[o] @ text_CE[o] + z[o] @ text_CE[c]).relu() for o in (0, 1) for c in (2, 3)]).mean()
    assert float(hinge) > 0
    close(method.loss(data).detach(), (ce + hinge).detach(), 1e-4)
    method.tau, method._old = 0.0, None
    close(method.loss(data).detach(), ce.detach(), 1e-4)


def test_own_candidates_are_those_of_each_samples_task() -> None:
    method, tasks = learner(candidates="own", tau=0.0), [tiny.task(i, [2 * i, 2 * i + 1]) for i in range(2)]
    learn(method, tasks[0], steps=2)
    method.begin_task(tasks[1])
    seen = []
    method.cross_entropy = lambda z_BE, told: seen.append(told) or z_BE.sum()  # type: ignore[method-assign,func-returns-value]
    method.loss(batch(tasks[1], count=4))
    (told,) = seen
    assert told["task"].tolist() == [1] * 4 + [0] * 40
    assert {tuple(told["label"][4:24].tolist()), tuple(told["label"][24:].tolist())} == {(0,) * 20, (1,) * 20}


@pytest.mark.parametrize("ids", [([0, 1], [2]), ([0], [1]), ([0, 1], [1, 2]), ([0, 1], [0, 1])])
@pytest.mark.parametrize("shrinkage", [False, True])
def test_few_new_classes_and_such_as_come_again(ids: tuple[list[int], list[int]], shrinkage: bool) -> None:
    method = learner(shrinkage=shrinkage, tau=9.0)
    for index, own in enumerate(ids):
        losses = learn(method, tiny.task(index, own), steps=3)
        assert torch.tensor(losses).isfinite().all()
    assert method.adapter.weight.isfinite().all()
    assert {int(name.split("_")[1]) for name in method.memory} == {c for own in ids for c in own}


def test_a_class_of_one_sample() -> None:
    method, tasks = learner(), [tiny.task(i, [2 * i, 2 * i + 1]) for i in range(2)]
    learn(method, tasks[0], batch(tasks[0], count=2), steps=2)
    assert not method.memory["cov_0"].any() and int(method.memory["count_0"]) == 1
    assert torch.tensor(learn(method, tasks[1], steps=2)).isfinite().all()


def test_what_is_kept_is_a_gaussian_of_each_class() -> None:
    method, task = learner(), tiny.task(0, [0, 1])
    data = batch(task, count=30)
    learn(method, task, data, steps=5)
    x_NE = method.features(data).double()
    for c in (0, 1):
        mine_NE = x_NE[data["label"] == c]
        close(method.memory[f"mean_{c}"].double(), mine_NE.mean(dim=0), 1e-5)
        close(method.memory[f"cov_{c}"].double(), torch.cov(mine_NE.mT), 1e-5)
    assert set(method.memory) == {f"{name}_{c}" for name in ("count", "mean", "cov") for c in (0, 1)}


def test_the_adapter_is_fused_with_what_it_was() -> None:
    method, tasks = learner(b=0.3), [tiny.task(i, [2 * i, 2 * i + 1]) for i in range(2)]
    learn(method, tasks[0], steps=5)
    before, trained = method.adapter.weight.detach().clone(), []
    ending = method.end_task

    def end(task: object, loader: object) -> None:
        trained.append(method.adapter.weight.detach().clone())
        ending(task, loader)  # type: ignore[arg-type]

    method.end_task = end  # type: ignore[method-assign]
    learn(method, tasks[1], steps=5)
    close(method.adapter.weight.detach().double(), fuse(before.double(), trained[0].double(), 0.3), 1e-5)
    assert not torch.equal(method.adapter.weight, trained[0])


class Forgetful(RAPF):
    """The adapter alone: neither replay nor fusion."""

    def loss(self, batch: Batch) -> Tensor:
        return self.cross_entropy(self.adapted(self.features(batch)), batch)


@torch.no_grad()
def test_it_forgets_less_than_the_adapter_alone() -> None:
    rises = {}
    for cls, b in ((RAPF, 0.6), (Forgetful, 1.0)):
        with tiny.seeded(0):
            method = cls(b=b)
            method.attach(tiny.backbone(), Budget(augment="none"))
        tasks, losses = [tiny.task(i, [2 * i, 2 * i + 1]) for i in range(3)], []
        seen = [label for task in tasks for label in task.labels]
        test = batch(tasks[0], 9)
        for task in tasks:
            with torch.enable_grad():
                learn(method, task, batch(task), lr=0.02)
            losses.append(float(F.cross_entropy(method.scores(test, seen, None), test["label"])))
        rises[cls] = losses[-1] - losses[0]
    assert rises[RAPF] < 0.5 * rises[Forgetful] and rises[Forgetful] > 0.3, rises


def test_arguments_are_checked() -> None:
    wrong = {"b": 1.5, "tau": -0.1, "beta": 0.01, "classes": 0, "start": "zero", "candidates": "all"}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"^{name} .*(must be in|need at least|choose from)"):
            RAPF(**{name: value})  # type: ignore[arg-type]
