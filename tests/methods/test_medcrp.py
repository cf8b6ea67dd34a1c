"""MedCRP: the released decisions and the repaired ones, the Fisher of a group, and what its groups share."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor

from benchmark.data import catalog
from benchmark.stream import Budget, Label, Task
from benchmark.testing import check_method
from benchmark.testing.bench import Bench
from methods.ewc import EWC, fisher_diagonal, quadratic_penalty
from methods.independent_lora import IndependentLora
from methods.medcrp import Assignment, MedCRP, running_mean
from methods.parts import backbones, language_models
from tests import tiny
from tests.golden_files import close, golden
from tests.lessons import batch, flat, learn, learner

seeds = st.integers(0, 10**6)
PHANTOM_CLIP = cache(lambda: backbones.load("phantom-clip"))
STREAMS = ("a", "alpha1", "clear", "collapse", "negative", "nonmonotone")


def unit(*numbers: float) -> Tensor:
    return F.normalize(torch.tensor(numbers, dtype=torch.float64), dim=0)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the restaurant process ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("faithful", [True, False])
def test_decisions(name: str, faithful: bool) -> None:
    """As released, and as repaired: groups, log posteriors (of the released its NaNs too), and what is kept."""
    g, own = golden(f"c/medcrp_assign_{name}"), golden("c/own_medcrp_repaired")
    groups, logs = (g["group"], g["log_probs"]) if faithful else (own[f"{name}_group"], own[f"{name}_log_probs"])
    assignment = Assignment(float(g["alpha"]), faithful)
    for t in range(int(g["T"])):
        close(F.normalize(F.normalize(g[f"prompts_{t}"], dim=1).mean(dim=0), dim=0), g["embedding"][t], 1e-9)
        before = len(assignment.groups)
        group, log_posteriors = assignment.decide(g["embedding"][t])
        assert group == int(groups[t]) and log_posteriors.shape == (before + 1,)
        assert (group == before) == (len(assignment.groups) == before + 1)
        if t:
            expected = torch.cat([logs[t, :before], logs[t, -1:]])
            number = ~expected.isnan()
            assert torch.equal(log_posteriors.isnan(), ~number)
            close(log_posteriors[number], expected[number], 1e-9)
        if faithful:
            for kept, name_ in ((assignment.inside, "intra"), (assignment.outside, "inter")):
                close(torch.tensor([kept.n, kept.mean, kept.squares], dtype=torch.float64), g[name_][t], 1e-9)
    if faithful:
        close(torch.stack([group.mean for group in assignment.groups]), g["group_mean"], 1e-9)
        assert [group.n for group in assignment.groups] == g["group_n"].tolist()


def likelier(s: float, inside: tuple[float, float], outside: tuple[float, float]) -> float:
    """log of the ratio of two Gaussian densities, the way a book has it."""
    (mu, sd), (mu_o, sd_o) = inside, outside
    return float(norm.logpdf(min(s, mu), mu, sd) - norm.logpdf(max(s, mu_o), mu_o, sd_o))


@given(seeds, st.integers(1, 12), st.integers(2, 6), st.floats(0.1, 20))
def test_the_repaired_rule_step_by_step(seed: int, tasks: int, E: int, alpha: float) -> None:
    """Against all earlier similarities and features, kept whole."""
    features = F.normalize(drawn(seed, tasks, E) + 0.7, dim=1)
    assignment, members = Assignment(alpha), []
    inside: list[float] = []
    outside: list[float] = []

    def moments(values: list[float]) -> tuple[float, float]:
        x = torch.tensor(values, dtype=torch.float64)
        return float(x.mean()), max(float(x.std()), 0.05) if len(values) > 1 else 0.1

    def evidence(s: float) -> float:
        if inside and outside:
            return likelier(s, moments(inside), moments(outside))
        s = min(max(s, 0.0), 1.0)
        return math.log((s + 1e-6) / (1 - s + 1e-6))

    for n, e in enumerate(features):
        group, logs = assignment.decide(e)
        means = [torch.stack(own).mean(dim=0) for own in members]
        s = [float(e @ m / m.norm()) for m in means]
        wanted = [math.log(len(own) / (n + alpha)) + evidence(x) for own, x in zip(members, s, strict=True)]
        wanted.append(math.log(alpha / (n + alpha)) - (evidence(max(s)) if s else 0.0))
        close(logs, torch.tensor(wanted, dtype=torch.float64), 1e-8)
        assert logs.isfinite().all() and group == int(logs.argmax())
        for g, x in enumerate(s):
            if g != group:
                outside.append(x)
            elif len(members[g]) > 1:
                inside.append(x)
        members = [*members, [e]] if group == len(members) else members
        if group < len(means):
            members[group].append(e)
    assert [group.n for group in assignment.groups] == list(map(len, members))


@given(seeds, st.floats(0.1, 20), st.integers(1, 8))
def test_equal_texts_stay_together(seed: int, alpha: float, times: int) -> None:
    """And a task with a group's own text is never more at home in a new group, which the released rule allows."""
    e, assignment = F.normalize(drawn(seed, 5), dim=0), Assignment(alpha)
    assert [assignment.decide(e)[0] for _ in range(times)] == [0] * times
    assert assignment.groups[0].n == times and torch.allclose(assignment.groups[0].mean, e)


@given(seeds, st.integers(3, 10))
def test_the_nearer_a_text_the_likelier_its_group(seed: int, tasks: int) -> None:
    assignment = Assignment(5.0)
    for e in F.normalize(drawn(seed, tasks, 4) + 0.5, dim=1):
        assignment.decide(e)
    steps = [assignment._evidence(s) for s in torch.linspace(-1, 1, 41).tolist()]
    assert all(a <= b + 1e-12 for a, b in pairwise(steps))


def test_odd_features() -> None:
    assignment = Assignment(1.0)
    assert assignment.decide(unit(1, 0, 0))[0] == 0 and assignment.decide(unit(-1, 0, 0))[0] == 1  # opposite: no NaN
    group, logs = assignment.decide(torch.zeros(3))  # of no text: as far from all
    assert logs.isfinite().all() and group == 2
    plain, half = Assignment(1.0), Assignment(1.0)
    for e in (unit(1, 2, 3), unit(1, 2, 2.9), unit(-3, 1, 0)):
        (a, b), (c, d) = plain.decide(e), half.decide(e.float())
        assert a == c and d.dtype == torch.float64 and torch.allclose(b, d, atol=1e-4)
    for wrong in (unit(1, 0), torch.ones(1, 3), torch.tensor([1.0, math.nan, 0.0])):
        with pytest.raises(ValueError, match=r"^feature"):
            assignment.decide(wrong)
    assert len(assignment.groups) == 3
    for alpha in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"^alpha {alpha}: must be above 0"):
            Assignment(alpha)


# ---- the Fisher of a group ----------------------------------------------------------------------------------------


def test_the_released_fisher_and_penalty_in_these_functions() -> None:
    """Theirs squares a batch's mean gradient, weighs it by the batch's size, and has no 1/2; the mean over tasks."""
    g = golden("c/medcrp_ewc_a")
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    counts: dict[int, int] = {}
    for t, group in enumerate(g["groups"].tolist()):
        w, b = (g[f"{name}_{t}"].clone().requires_grad_(True) for name in "wb")
        if group in kept:
            fisher, anchor = kept[group]
            penalty = 2 * float(g["lambda_base"]) * quadratic_penalty(flat([w, b]), anchor, fisher)
            close((g[f"loss_before_{t}"] + penalty).detach(), g[f"loss_{t}"] + g[f"loss_before_{t}"], 1e-12)
            grads = torch.autograd.grad(penalty, (w, b))
            close(grads[0], g[f"loss_grad_w_{t}"], 1e-12)
            close(grads[1], g[f"loss_grad_b_{t}"], 1e-12)
        rows, sizes = [], []
        for i in range(int(g[f"n_batches_{t}"])):
            x, y = g[f"x_{t}_{i}"], g[f"y_{t}_{i}"]
            loss = F.cross_entropy((x @ w + b).flatten(0, -2), y.flatten())
            rows.append(flat(torch.autograd.grad(loss, (w, b))))
            sizes.append(len(x))
            if sum(sizes) >= int(g["fisher_samples"]):
                break
        assert sum(sizes) == int(g[f"samples_used_{t}"])
        weights = torch.tensor(sizes, dtype=torch.float64) * len(sizes) / sum(sizes)
        fisher = fisher_diagonal(torch.stack(rows), weights)
        close(fisher, flat([g[f"task_fisher_w_{t}"], g[f"task_fisher_b_{t}"]]), 1e-12)
        counts[group] = counts.get(group, 0) + 1
        mean = kept[group][0] if group in kept else torch.zeros_like(fisher)
        kept[group] = running_mean(mean, fisher, counts[group]), flat([w, b]).detach()
        close(kept[group][0], flat([g[f"group_fisher_w_{t}"], g[f"group_fisher_b_{t}"]]), 1e-12)


# ---- the method ---------------------------------------------------------------------------------------------------


def said(index: int, modality: str, *prompts: str) -> Task:
    """Two classes with these prompts."""
    labels = tuple(Label(2 * index + c, f"class {2 * index + c}", prompts) for c in (0, 1))
    return Task(index, f"task{index}", modality, "classification", labels, 20)


MODALITIES = ("ct", "mri", "ct", "skin", "mri")


def grouped(grouping: str, **arguments: Any) -> MedCRP:
    method = learner(MedCRP, grouping=grouping, **arguments)
    for index, modality in enumerate(MODALITIES):
        method.begin_task(said(index, modality, f"{modality} of a thing"))
    return method


@pytest.mark.parametrize(
    ("grouping", "groups"),
    [("modality", [0, 1, 0, 2, 1]), ("none", [0] * 5), ("task", [0, 1, 2, 3, 4])],
)
def test_groups_of_each_sort(grouping: str, groups: list[int]) -> None:
    method = grouped(grouping)
    assert method.partition() == groups
    assert method.experts.names == [f"group{g}" for g in sorted(set(groups))]


def test_groups_by_text_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the mean of what the frozen text tower makes of a task's distinct prompts, in whatever order they stand."""
    method, found, decide = learner(MedCRP), [], Assignment.decide
    monkeypatch.setattr(Assignment, "decide", lambda self, e: found.append(e) or decide(self, e))
    tasks = [
        said(0, "ct", "lung", "liver", "lung"),
        said(1, "ct", "liver", "lung"),
        said(2, "ct", "a very other thing"),
    ]
    for task in tasks:
        method.begin_task(task)
    encode = method.backbone.text
    for task, e in zip(tasks, found, strict=True):
        prompts = sorted({prompt for label in task.labels for prompt in label.prompts})
        units = [F.normalize(encode(tiny.tokenize([prompt])).float(), dim=-1)[0] for prompt in prompts]
        close(e, F.normalize(torch.stack(units).mean(dim=0), dim=0).detach(), 1e-5)
    assert torch.equal(found[0], found[1]) and method.partition()[:2] == [0, 0]
    again = learner(MedCRP)
    for task in tasks:
        again.begin_task(task)
    assert again.partition() == method.partition()  # of the tasks and the arguments alone


def test_a_task_without_labels_joins_the_last_of_its_modality() -> None:
    with tiny.seeded():
        method = MedCRP()
        method.attach(language_models.load("tiny-llava"), Budget())
    asked = Task(0, "questions", "ct", "generation", (), 6)
    named = [said(1, "mri", "a chest x-ray"), said(2, "ct", "dense breast tissue"), said(3, "ct", "a chest X-ray")]
    tasks = [asked, *named, *(replace(asked, index=4 + i, modality=m) for i, m in enumerate(("ct", "skin", "mri")))]
    for task in tasks:
        method.begin_task(task)
    assert method.partition() == [0, 1, 2, 1, 1, 3, 1]
    assert method.experts.names == ["group0", "group1", "group2", "group3"]
    assert [group.n for group in method.assignment.groups] == [2, 1]  # of those with labels alone


def test_a_language_model_describes_a_text_by_its_words() -> None:
    with tiny.seeded():
        backbone = language_models.load("tiny-llava")
    features_NE = backbone.described(["a chest x-ray", "A chest X-ray", "dense breast tissue", ""])
    assert features_NE.shape == (4, backbone.width) and torch.equal(features_NE[0], features_NE[1])
    close(features_NE[:3].norm(dim=1), torch.ones(3), 1e-6)
    assert not features_NE[3].any() and float(features_NE[0] @ features_NE[2]) < 0.9
    ids = backbone.chat.tokenizer("dense breast tissue", add_special_tokens=False)["input_ids"]
    mean_E = backbone.adapted.get_input_embeddings().weight[ids].detach().mean(dim=0)
    close(features_NE[2], F.normalize(mean_E, dim=0), 1e-5)


@pytest.mark.parametrize(
    ("stream", "repaired", "released"),
    [
        ("phantom8", [0, 1, 2, 0, 3, 2, 0, 1], [0, 1, 0, 2, 0, 3, 4, 5]),
        ("phantom_notes6", [0, 1, 2, 0, 1, 2], [0, 1, 0, 0, 1, 2]),
        ("phantom_retrieval6", [0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2]),
    ],
)
def test_groups_of_made_streams(stream: str, repaired: list[int], released: list[int]) -> None:
    """Each repeat of a modality goes where its first task went, or opens a group; the released rule has a NaN here."""
    for faithful, groups in ((False, repaired), (True, released)):
        method = MedCRP(faithful=faithful)
        method.attach(PHANTOM_CLIP(), Budget())
        for task in catalog.load(stream, Path()).stream:
            method._groups.append(method._group(task))
            method.tasks.append(task)
        assert method.partition() == groups


def test_a_group_is_held_where_it_mattered() -> None:
    method = learner(MedCRP, grouping="modality", strength=50.0)
    tasks = [tiny.task(i, [2 * i, 2 * i + 1], modality) for i, modality in enumerate(MODALITIES)]
    fishers: dict[int, list[Tensor]] = {}
    for task, group in zip(tasks, [0, 1, 0, 2, 1], strict=True):
        method_before = {name: flat(method.experts.parameters(name)).detach() for name in method.experts.names}
        with tiny.seeded(task.index):
            method.begin_task(task)
        with method.learning():
            assert (float(method.penalty().detach()) == 0.0) and method.experts.live == f"group{group}"
            if fishers.get(group):
                tiny.shake_all(method.trainable_parameters(), 1)
                step = flat(method.trainable_parameters()).detach() - method.memory[f"anchor_{group}"]
                mean = torch.stack(fishers[group]).mean(dim=0)
                assert float(method.penalty().detach()) == pytest.approx(25 * float((mean * step**2).sum()), rel=1e-4)
            else:
                tiny.shake_all(method.trainable_parameters(), 2)
                assert float(method.penalty().detach()) == 0.0  # nothing to hold
            method.eval()
            method.end_task(task, [batch(task)])
        alone = learner(EWC)
        alone.begin_task(task)
        alone_parameters = alone.experts.parameters("shared")
        with torch.no_grad():
            for mine, theirs in zip(alone_parameters, method.experts.parameters(f"group{group}"), strict=True):
                mine.copy_(theirs)
        fishers.setdefault(group, []).append(alone._fisher(task, [batch(task)]))
        close(method.memory[f"fisher_{group}"], torch.stack(fishers[group]).mean(dim=0), 1e-5)
        for name, before in method_before.items():  # of the other groups nothing moves
            if name != f"group{group}":
                assert torch.equal(flat(method.experts.parameters(name)).detach(), before)
    kept = {f"{name}_{group}" for name in ("fisher", "anchor") for group in range(3)}
    assert {name for name in method.memory if not name.startswith("router")} == kept


def test_an_answer_changes_when_a_task_joins_the_group() -> None:
    method, seen, froms = learner(MedCRP, grouping="modality"), [], []
    tasks = [tiny.task(i, [2 * i, 2 * i + 1], modality) for i, modality in enumerate(("ct", "mri", "ct"))]
    for task in tasks:
        assert method.answers_from(task, "given") == ()  # the frozen model answers what is not learned
        learn(method, task, steps=3)
        seen.append(method.scores(batch(tasks[0]), tasks[0].labels, tasks[0]).detach())
        froms.append(method.answers_from(tasks[0], "given"))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    assert froms == [((0, 1),), ((0, 1),), ((0, 2),)] and method.answers_from(tasks[0], "hidden") is None
    same = method.answered(method.embed, batch(tasks[0]), tasks[2])
    assert torch.equal(method.answered(method.embed, batch(tasks[0]), tasks[0]), same)  # one expert for both


def scores(cls: Any, folder: Path, **arguments: Any) -> dict[str, Any]:
    record = Bench(lambda: cls(**arguments), folder).run().record  # type: ignore[arg-type]
    return {metric: protocols["given"] for metric, protocols in record.scores.items()} | {"partition": record.partition}


def learned(found: dict[str, Any]) -> dict[str, Any]:
    """Without the cells of tasks that are not learned yet, which the frozen model answers here."""
    return {metric: [row[:stage] for stage, row in enumerate(rows)] for metric, rows in found.items()}


@pytest.mark.slow
def test_each_task_alone_is_independent_lora_and_all_in_one_is_ewc(tmp_path: Path) -> None:
    """Of two tasks: in the second the mean Fisher of one task is held, as the sum is."""
    alone, apart = scores(MedCRP, tmp_path / "a", grouping="task"), scores(IndependentLora, tmp_path / "b")
    together, one = scores(MedCRP, tmp_path / "c", grouping="none"), scores(EWC, tmp_path / "d")
    groups = [each.pop("partition") for each in (alone, apart, together, one)]
    assert alone == apart and learned(together) == learned(one) != learned(alone)
    assert groups[1] is groups[3] is None
    assert (groups[0].groups, groups[0].agreement) == ([0, 1], 1.0)  # pathology and radiology
    assert (groups[2].groups, groups[2].agreement) == ([0, 0], 0.0)


class AllInOne(MedCRP):
    """The contract where a task joins a group, which the two of the smallest streams do not."""

    kinds = ("classification",)

    def __init__(self) -> None:
        super().__init__(grouping="none", strength=1e4)


class AskedTogether(AllInOne):
    kinds = ("generation",)


@pytest.mark.slow
def test_the_contract_where_a_task_joins_a_group() -> None:
    check_method(AllInOne, raise_on_failure=True)


@pytest.mark.slow
def test_the_contract_where_a_task_of_questions_joins_a_group() -> None:
    check_method(AskedTogether, raise_on_failure=True)


def test_arguments_are_checked() -> None:
    for name, value in (("grouping", "organ"), ("alpha", 0.0), ("strength", -1.0), ("router", "nearest")):
        with pytest.raises(ValueError, match=f"^{name} .*(choose from|must be above 0|need at least 0)"):
            MedCRP(**{name: value})
