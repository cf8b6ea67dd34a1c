"""LoRA merging: the numbers of PEFT, MagMax and OPCM, each rule entry by entry, and one model for every task."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmark.testing import check_method
from methods.lora_merge import SCALES, LoraMerge, elect, merge, opcm_step
from methods.parts.merging import RULES, truncated, whole_norm
from methods.sequential_lora import SequentialLora
from tests import tiny
from tests.golden_files import close, files, golden
from tests.lessons import batch, copies, flat, learn, learner, same, with_defaults

MERGED = files("c/lora_merge_*.npz")
seeds = st.integers(0, 10**6)
TASKS = [tiny.task(i, [2 * i, 2 * i + 1]) for i in range(3)]


def layers(g: dict[str, Tensor]) -> range:
    return range(int(g["n_layers"]))


# ---- the pure functions against the official codes -----------------------------------------------------------------


@pytest.mark.parametrize("file", MERGED, ids=lambda f: f.stem)
def test_every_rule_is_the_official_one(file: Path) -> None:
    g = golden(file)
    weights, density = g["weights"].tolist(), float(g["density"])
    for i in layers(g):
        deltas = g["scale"] * g[f"B_{i}"] @ g[f"A_{i}"]
        close(deltas, g[f"delta_{i}"], 1e-12)
        for rule in ("task_arithmetic", "magnitude_prune", "magmax"):
            close(merge(deltas, rule, weights, density), g[f"{rule}_{i}"], 1e-12)
        for how in ("total", "frequency"):
            close(merge(deltas, "ties", weights, density, elect=how), g[f"ties_{how}_{i}"], 1e-12)
        for rule in ("dare_linear", "dare_ties"):
            close(merge(deltas, rule, weights, density, g[f"{rule}_mask_{i}"]), g[f"{rule}_{i}"], 1e-12)


def opcm(g: dict[str, Tensor], alpha: float) -> tuple[list[list[Tensor]], list[float]]:
    """M of every layer after each task, and lambda."""
    deltas = [g[f"delta_{i}"] for i in layers(g)]
    merged, lams, norms = [[each[0] for each in deltas]], [1.0], [float(whole_norm([each[0] for each in deltas]))]
    for t in range(1, int(g["T"])):
        pairs = zip(merged[-1], deltas, strict=True)
        steps = [opcm_step(M, each[t], lams[-1], alpha) for M, each in pairs]
        norms.append(float(whole_norm([each[t] for each in deltas])))
        lams.append(float(whole_norm(steps)) / (sum(norms) / len(norms)))
        merged.append([N / lams[-1] for N in steps])
    return merged, lams


@pytest.mark.parametrize("file", MERGED, ids=lambda f: f.stem)
@pytest.mark.parametrize("name", ["opcm", "opcm_alpha0"])
def test_opcm_is_the_official_one(file: Path, name: str) -> None:
    g = golden(file)
    merged, lams = opcm(g, float(g[f"{name}_alpha"]))
    close(torch.tensor(lams, dtype=torch.float64), g[f"{name}_lambda"], 1e-9)
    for i in layers(g):
        close(torch.stack([stage[i] for stage in merged]), g[f"{name}_{i}"], 1e-9)


@pytest.mark.parametrize("file", MERGED, ids=lambda f: f.stem)
def test_ties_of_the_magmax_release_is_ours_on_one_vector_with_one_entry_more(file: Path) -> None:
    """But where the elected sum is 0: there it takes the sign of the sum of all signs."""
    g = golden(file)
    flat_TP = g["flat"]
    kept = int(g["kept_by_topk"][0])
    assert kept == int(flat_TP.shape[1] * int(g["topk_percent"]) / 100) + 1
    ours = merge(flat_TP, "ties", [1.0] * len(flat_TP), (kept + 0.5) / flat_TP.shape[1])
    mean, total = g["ties_magmaxrepo_mean"], g["ties_opcmrepo_sum"]
    close(ours, mean, 1e-6)
    pruned = torch.stack([merge(each[None], "magnitude_prune", [1.0], (kept + 0.5) / len(each)) for each in flat_TP])
    agree = (pruned.sign() == elect(pruned)).sum(0)
    close(ours * agree.clamp(min=1), total, 1e-6)


def test_peft_merges_the_factors_apart_which_is_another_model() -> None:
    for file in MERGED:
        g = golden(file)
        right = merge(g["delta_0"], "task_arithmetic", g["weights"].tolist(), 1.0)
        close(right, g["peft_svd"], 1e-5)
        close(right, g["peft_cat"], 1e-5)
        assert (right - g["peft_linear"]).abs().max() > 0.1


# ---- the rules entry by entry --------------------------------------------------------------------------------------


def drawn(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Small whole numbers, so that magnitudes are equal, sums are zero, and some entries are zero."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_hand(D: list[list[float]], rule: str, w: list[float], density: float, mask: list[list[bool]], how: str) -> list:
    """A rule on T lists of n numbers."""
    tasks, n = len(D), len(D[0])
    if rule == "magmax":
        return [max((abs(D[t][j]), t, D[t][j]) for t in range(tasks))[2] for j in range(n)]
    if rule in ("magnitude_prune", "ties"):
        for t in range(tasks):
            order = sorted(range(n), key=lambda j: -abs(D[t][j]))  # stable: of equal ones the first
            D[t] = [D[t][j] if j in order[: int(density * n)] else 0.0 for j in range(n)]
    if "dare" in rule:
        D = [
            [d / density if kept else 0.0 for d, kept in zip(*pair, strict=True)] for pair in zip(D, mask, strict=True)
        ]
    merged = []
    for j in range(n):
        column = [D[t][j] for t in range(tasks)]
        if "ties" in rule:
            votes = sum(column) if how == "total" else sum((d > 0) - (d < 0) for d in column)
            voters = [t for t in range(tasks) if (column[t] > 0 if votes >= 0 else column[t] < 0)]
            merged.append(sum(w[t] * column[t] for t in voters) / max(1, len(voters)))
        else:
            merged.append(sum(w[t] * column[t] for t in range(tasks)))
    return merged


@given(
    seeds, st.integers(1, 5), st.integers(1, 4), st.integers(1, 5), st.sampled_from(RULES),
    st.sampled_from([0.05, 0.3, 0.5, 0.77, 1.0]), st.sampled_from(["total", "frequency"]), st.booleans(),
)  # fmt: skip
def test_every_rule_entry_by_entry(
    seed: int, tasks: int, rows: int, columns: int, rule: str, density: float, how: str, double: bool
) -> None:
    dtype = torch.float64 if double else torch.float32
    deltas = drawn(seed, (tasks, rows, columns), dtype)
    weights = drawn(seed + 1, (tasks,)).tolist()
    mask = drawn(seed + 2, (tasks, rows, columns)) > 0
    before = deltas.clone()
    ours = merge(deltas, rule, weights, density, mask, how)
    lists = deltas.flatten(1).tolist(), mask.flatten(1).tolist()
    expected = by_hand(lists[0], rule, weights, density, lists[1], how)
    assert ours.dtype == dtype and torch.equal(deltas, before)
    close(ours.double(), torch.tensor(expected, dtype=torch.float64).view(rows, columns), 1e-12 if double else 1e-5)


@given(seeds, st.integers(1, 4), st.sampled_from([r for r in RULES if r != "magmax"]))
def test_where_nothing_is_kept_nothing_is_left_and_of_all_the_rules_are_few(seed: int, tasks: int, rule: str) -> None:
    deltas, weights = drawn(seed, (tasks, 3, 4)), [1.0] * tasks
    if rule != "task_arithmetic":
        assert not merge(deltas, rule, weights, 0.0).any()
    plain = "ties" if "ties" in rule else "task_arithmetic"
    close(merge(deltas, rule, weights, 1.0), merge(deltas, plain, weights, 1.0), 1e-12)


@given(seeds, st.sampled_from(RULES), st.floats(0.01, 1))
def test_one_task_alone_or_the_same_one_again(seed: int, rule: str, density: float) -> None:
    """Nothing to elect: what is pruned and drawn apart, the merge is the task; of a sum, as often as it comes."""
    D = drawn(seed, (1, 4, 5))
    one = merge(D, rule, [1.0], 1.0)
    assert torch.equal(one, D[0])
    mask = drawn(seed + 1, (1, 4, 5)) > 0
    once = merge(D, rule, [1.0], density, mask)
    thrice = merge(D.expand(3, -1, -1), rule, [1.0] * 3, density, mask.expand(3, -1, -1))
    counted = rule in ("task_arithmetic", "magnitude_prune", "dare_linear")
    close(thrice, 3 * once if counted else once, 1e-12)


@given(seeds, st.sampled_from(RULES))
def test_zeros_stay_zeros(seed: int, rule: str) -> None:
    assert not merge(torch.zeros(3, 2, 5), rule, drawn(seed, (3,)).tolist(), 0.4).any()


def test_what_dare_keeps_is_drawn_with_the_density_and_keeps_the_mean() -> None:
    with tiny.seeded(0):
        drawn_once = merge(torch.ones(1, 200, 500), "dare_linear", [1.0], 0.3)
    assert drawn_once.unique().tolist() == [0.0, pytest.approx(1 / 0.3)]
    assert float(drawn_once.mean()) == pytest.approx(1.0, abs=0.02)


def test_of_equal_magnitudes_the_later_task_and_the_positive_sign_win() -> None:
    deltas = torch.tensor([[[2.0, -1.0]], [[-2.0, 1.0]], [[1.0, 0.0]]])
    assert merge(deltas, "magmax", [1.0] * 3, 1.0).tolist() == [[-2.0, 1.0]]
    assert elect(deltas[:2], "total").tolist() == [[1.0, 1.0]] == elect(deltas[:2], "frequency").tolist()
    assert elect(torch.tensor([[3.0], [-1.0], [-1.0]]), "total").tolist() == [1.0]
    assert elect(torch.tensor([[3.0], [-1.0], [-1.0]]), "frequency").tolist() == [-1.0]


@given(seeds, st.integers(1, 6), st.integers(1, 6), st.floats(0, 0.999), st.floats(0.1, 3))
def test_opcm_leaves_alone_what_the_leading_directions_share(
    seed: int, rows: int, columns: int, alpha: float, lam: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    M, D = torch.randn(2, rows, columns, generator=generator, dtype=torch.float64)
    added = opcm_step(M, D, lam, alpha) - lam * M
    U, s, Vh = torch.linalg.svd(M)
    k = next(i for i in range(len(s)) if float(s[: i + 1].sum() / s.sum()) > alpha)
    left, right = torch.eye(rows).double() - U[:, :k] @ U[:, :k].mT, torch.eye(columns).double() - Vh[:k].mT @ Vh[:k]
    close(U[:, :k].mT @ added @ Vh[:k].mT, torch.zeros(k, k, dtype=torch.float64), 1e-9)
    close(left @ added, left @ D, 1e-9)
    close(added @ right, D @ right, 1e-9)


def test_opcm_of_an_update_of_nothing_is_a_sum_and_of_an_alpha_of_one_shares_nothing() -> None:
    M, D = drawn(0, (4, 3)), drawn(1, (4, 3))
    assert torch.equal(opcm_step(torch.zeros_like(M), D, 1.0, 0.5), D)
    added = opcm_step(M, D, 1.0, 1.0) - M
    U, _, Vh = torch.linalg.svd(M, full_matrices=False)
    close(U.mT @ added @ Vh.mT, torch.zeros(3, 3, dtype=torch.float64), 1e-9)


@given(seeds, st.integers(1, 5), st.integers(1, 5), st.integers(1, 8))
def test_truncation_is_the_best_of_its_rank(seed: int, rows: int, columns: int, rank: int) -> None:
    delta = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    A, B = truncated(delta, rank)
    assert len(A) == B.shape[1] == min(rank, rows, columns)
    lost = torch.linalg.svdvals(delta)[rank:].norm()
    assert float((delta - B @ A).norm()) == pytest.approx(float(lost), abs=1e-10)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"rule": "average"}, "rule 'average'"),
        ({"elect": "mass"}, "elect 'mass'"),
        ({"density": 1.5}, r"density 1.5: must be in \[0, 1\]"),
        ({"density": math.nan}, "density nan"),
        ({"weights": [1.0]}, "2 deltas and 1 weights"),
        ({"deltas": torch.zeros(0, 2, 2), "weights": []}, "0 deltas"),
    ],
)
def test_a_merge_of_what_cannot_be_merged_is_refused(wrong: dict, message: str) -> None:
    arguments = {"deltas": torch.ones(2, 2, 2), "rule": "ties", "weights": [1.0, 1.0], "density": 0.5} | wrong
    with pytest.raises(ValueError, match=message):
        merge(**arguments)


# ---- the method ----------------------------------------------------------------------------------------------------


def taught(steps: int = 3, tasks: int = 3, **arguments: object) -> LoraMerge:
    method = learner(LoraMerge, **arguments)
    for task in TASKS[:tasks]:
        learn(method, task, steps=steps)
    return method


def acting_weights(method: LoraMerge) -> list[Tensor]:
    with method.acting(None):
        return copies([layer.base_layer.weight for layer in method.experts.layers])


def deltas_of(method: LoraMerge, layer: int) -> Tensor:
    pairs = [method.experts.factors(name) for name in method.experts.names]
    return torch.stack([method.experts.scale * Bs[layer] @ As[layer] for As, Bs in pairs]).detach()


@pytest.mark.parametrize("rule", ["task_arithmetic", "magnitude_prune", "ties", "magmax"])
def test_the_model_is_the_frozen_one_and_the_merged_update(rule: str) -> None:
    method = taught(rule=rule, lora_alpha=8.0)
    pristine = copies([layer.base_layer.weight for layer in method.experts.layers])
    for i, W in enumerate(acting_weights(method)):
        scale = SCALES[rule]
        expected = pristine[i] + scale * merge(deltas_of(method, i), rule, [1.0] * 3, 0.2)
        close(W, expected, 1e-6)
        assert (W - pristine[i]).abs().max() > 1e-4
    assert same(pristine, [layer.base_layer.weight for layer in method.experts.layers])


def test_one_task_at_full_density_is_that_tasks_model() -> None:
    method = taught(tasks=1, rule="ties", density=1.0, scale=1.0)
    alone = learner(SequentialLora)
    learn(alone, TASKS[0], steps=3)
    data = batch(TASKS[0])
    with torch.no_grad():
        close(method.represent(data, None), alone.represent(data, None), 1e-5)


def test_a_sequential_chain_is_sequential_lora_after_each_task() -> None:
    chain, shared = learner(LoraMerge, train="sequential", rule="magmax"), learner(SequentialLora)
    for task in TASKS:
        for method in (chain, shared):
            learn(method, task, steps=4)
        assert same(chain.experts.parameters(f"task{task.index}"), shared.experts.parameters("shared"))
    first, last = chain.experts.parameters("task0"), chain.experts.parameters("task2")
    assert float((flat(first) - flat(last)).abs().max()) > 1e-3


@pytest.mark.parametrize("train", ["independent", "sequential"])
def test_opcm_keeps_one_lora_and_the_norm_of_an_average_task(train: str) -> None:
    method, deltas, began = learner(LoraMerge, rule="opcm", train=train), [], []
    for task in TASKS:
        learn(method, task, steps=6)
        deltas.append([method._delta("shared", i).detach() for i in range(len(method.experts.layers))])
        began.append(flat(method.experts.factors("shared")[0]))
        norms = [float(whole_norm(each)) for each in deltas]
        kept = [method.memory[f"merged_{i}"] for i in range(len(method.experts.layers))]
        assert float(whole_norm(kept)) == pytest.approx(sum(norms) / len(norms), rel=1e-4)
    assert method.experts.names == ["shared"]
    with torch.no_grad():
        method.begin_task(tiny.task(3, [6, 7]))
        fresh = not flat(method.experts.factors("shared")[1]).any()
    assert fresh == (train == "independent")


def test_masks_of_dare_are_drawn_once_per_task_and_differ_between_tasks_and_layers() -> None:
    method = learner(LoraMerge, rule="dare_linear", density=0.5)
    seen = []
    for task in TASKS:
        learn(method, task, steps=1)
        stack = torch.zeros(task.index + 1, *method.experts.layers[0].weight.shape)
        seen.append([method._mask(i, stack) for i in (0, 1)])
    assert torch.equal(seen[0][0], seen[2][0][:1]) and torch.equal(seen[1][1], seen[2][1][:2])
    masks = [*seen[2][0], seen[2][1][0]]
    assert all(0.4 < float(mask.float().mean()) < 0.6 for mask in masks)
    assert not any(torch.equal(masks[i], masks[j]) for i in range(4) for j in range(i))
    other = learner(LoraMerge, rule="dare_linear", density=0.5)
    with torch.no_grad(), tiny.seeded(99):
        other.begin_task(TASKS[0])
        other.end_task(TASKS[0], [batch(TASKS[0])])
    assert not torch.equal(other._mask(0, stack[:1]), seen[0][0])


def test_a_task_may_count_by_its_size() -> None:
    method = learner(LoraMerge, rule="task_arithmetic", weights="samples")
    for task, count in zip(TASKS, (16, 32, 48), strict=True):
        learn(method, task, batch(task, count=count), steps=3)
    weights = torch.tensor([0.5, 1.0, 1.5])[:, None, None]
    close(method.memory["merged_0"], (weights * deltas_of(method, 0)).sum(0), 1e-5)


def test_a_merged_rank_keeps_factors_and_says_what_they_lose() -> None:
    dense, small = taught(tasks=2, rule="task_arithmetic"), taught(tasks=2, rule="task_arithmetic", merged_rank=3)
    lost = whole = 0.0
    for i in range(len(dense.experts.layers)):
        M, B, A = dense.memory[f"merged_{i}"], small.memory[f"merged_B_{i}"], small.memory[f"merged_A_{i}"]
        assert A.shape == (3, M.shape[1]) and B.shape == (M.shape[0], 3)
        lost, whole = lost + float((M - B @ A).norm() ** 2), whole + float(M.norm() ** 2)
    assert 0.01 < lost / whole < 0.9 and float(small.memory["lost"]) == pytest.approx(lost / whole, rel=1e-3)
    assert small.memory.bytes() < 0.5 * dense.memory.bytes()


def test_a_new_task_changes_all_answers_and_says_so() -> None:
    method = learner(LoraMerge)
    data, answers, said = batch(TASKS[0]), [], []
    for task in TASKS:
        learn(method, task, steps=5)
        with torch.no_grad():
            answers.append(method.represent(data, TASKS[0]))
            assert torch.equal(answers[-1], method.represent(data, None))
        said.append(method.answers_from(TASKS[0], "given"))
    assert len(set(said)) == 3 and all(3 - i in said[2 - i] for i in range(3))
    assert not any(torch.equal(answers[i], answers[j]) for i in range(3) for j in range(i))


def test_an_untrained_task_changes_nothing_of_a_sum() -> None:
    method = taught(rule="task_arithmetic", scale=1.0)
    before = acting_weights(method)
    learn(method, tiny.task(3, [6, 7]), steps=0)
    assert all(torch.equal(*pair) for pair in zip(before, acting_weights(method), strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rule": "mean"}, {"density": -0.1}, {"scale": -1.0}, {"train": "joint"}, {"weights": "mean"},
        {"elect": "mass"}, {"alpha": 1.0}, {"merged_rank": -1},
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values()))).replace("0", ".?")):
        LoraMerge(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"rule": "opcm"},
        {"rule": "opcm", "train": "sequential", "merged_rank": 2},
        {"rule": "dare_ties", "weights": "samples", "train": "sequential"},
    ],
    ids=str,
)
def test_other_arguments_keep_the_contract(arguments: dict[str, object]) -> None:
    check_method(with_defaults(LoraMerge, ("classification",), **arguments), raise_on_failure=True)
