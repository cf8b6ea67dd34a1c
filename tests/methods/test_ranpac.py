"""RanPAC against the numbers of the released code, and against a regression on all samples at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor

from benchmark.stream import Budget
from methods.ranpac import RIDGES, RanPAC, choose_ridge, random_features, ridge_head
from tests import tiny
from tests.golden_files import GOLDEN, close


def test_heads_of_a_stream() -> None:
    with np.load(GOLDEN / "ranpac_a.npz", allow_pickle=False) as file:
        g = {name: torch.tensor(file[name]) for name in file.files}
    M, classes = int(g["M"]), int(g["classes"])
    G, Q = torch.zeros(M, M, dtype=torch.float64), torch.zeros(M, classes, dtype=torch.float64)
    for t in range(int(g["T"])):
        H = random_features(g[f"X_{t}"], g["W_rand"])
        Y = torch.nn.functional.one_hot(g[f"y_{t}"], classes).double()
        G, Q = G + H.mT @ H, Q + H.mT @ Y
        ridge = choose_ridge(H, Y)
        assert ridge == pytest.approx(float(g["ridge"][t]))
        seen = len(g[f"fc_{t}"])
        close(ridge_head(G, Q[:, :seen], ridge), g[f"fc_{t}"], 1e-6)
    close(G, g["G"], 1e-6)
    close(Q, g["Q"], 1e-6)


@given(st.integers(6, 30), st.integers(2, 12), st.integers(1, 4), st.integers(0, 10**6))
def test_the_chosen_ridge_is_that_of_an_exhaustive_search(samples: int, M: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    H = torch.randn(samples, M, generator=generator, dtype=torch.float64)
    Y = torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    ridges = [10.0**power for power in range(-3, 5)]
    cut = int(0.8 * samples)
    models = [Ridge(alpha=r, fit_intercept=False, solver="svd").fit(H[:cut].numpy(), Y[:cut].numpy()) for r in ridges]
    errors = [float(((m.predict(H[cut:].numpy()).reshape(-1, classes) - Y[cut:].numpy()) ** 2).mean()) for m in models]
    chosen = choose_ridge(H, Y, ridges)
    assert errors[ridges.index(chosen)] <= min(errors) * (1 + 1e-6)
    assert RIDGES[0] == 1e-8 and RIDGES[-1] == 1e8 and len(RIDGES) == 17


def batch(seed: int, ids: list[int], task: int, n: int = 24) -> dict[str, Tensor]:
    """Noise on a brightness that tells the class."""
    labels = torch.tensor([ids[i % len(ids)] for i in range(n)])
    images = tiny.images(n, seed) // 4 + 36 * labels[:, None, None, None].to(torch.uint8)
    return {"image": images, "label": labels, "task": torch.full((n,), task), "index": torch.arange(n)}


def learned(order: list[int], **arguments: object) -> RanPAC:
    torch.manual_seed(0)
    method = RanPAC(features=50, adapt_first=False, **arguments)  # type: ignore[arg-type]
    method.attach(tiny.backbone(), Budget(augment="none"))
    method.eval()
    for index, task in enumerate(order):
        ids = [2 * task, 2 * task + 1]
        method.begin_task(tiny.task(index, ids))
        with method.learning():
            method.end_task(method.tasks[-1], [batch(task, ids, index)])
    return method


def test_sums_and_head_are_those_of_all_samples_at_once_in_any_order() -> None:
    one, two = learned([0, 1, 2]), learned([2, 0, 1])
    position = [two.memory["classes"].tolist().index(c) for c in one.memory["classes"].tolist()]
    close(one.memory["G"], two.memory["G"], 1e-12)
    close(one.memory["Q"], two.memory["Q"][:, position], 1e-12)
    data = [batch(task, [2 * task, 2 * task + 1], 0) for task in range(3)]
    with torch.no_grad():
        H = torch.cat([one._features(b) for b in data]).double().numpy()
    Y = np.eye(6)[torch.cat([b["label"] for b in data]).numpy()]
    head = Ridge(alpha=float(one.memory["ridge"]), fit_intercept=False, solver="svd").fit(H, Y).coef_
    expected = torch.tensor(H @ head.T)
    actual = torch.tensor(H) @ one.memory["head"].double().mT
    assert (actual - expected).abs().max() < 1e-3
    assert one.memory["classes"].tolist() == [0, 1, 2, 3, 4, 5]


def test_tasks_add_up_in_float64() -> None:
    """Sums that are rounded to float32 after every task miss those of all samples by 1e-7, and the head by more."""
    method, tasks = learned([0, 1, 2, 0, 1, 2]), [0, 1, 2, 0, 1, 2]
    with torch.no_grad():
        data = [batch(task, [2 * task, 2 * task + 1], index) for index, task in enumerate(tasks)]
        H = torch.cat([method._features(b) for b in data]).double()
    Y = torch.nn.functional.one_hot(torch.cat([b["label"] for b in data]), 6).double()
    assert method.memory["G"].dtype == method.memory["Q"].dtype == torch.float64
    assert (method.memory["G"] - H.mT @ H).abs().max() <= 1e-13 * method.memory["G"].abs().max()
    close(method.memory["Q"], H.mT @ Y, 1e-12)
    head = ridge_head(H.mT @ H, H.mT @ Y, float(method.memory["ridge"].double()))
    close(method.memory["head"], head.float(), 1e-6)


def test_only_the_first_task_is_trained_and_only_if_asked() -> None:
    assert learned([0]).trainable_parameters() == []
    method = RanPAC(features=10)
    method.attach(tiny.backbone(), Budget())
    method.begin_task(tiny.task(0, [0, 1]))
    assert method.trainable_parameters() == method.experts.parameters("shared")
    method.begin_task(tiny.task(1, [2, 3]))
    assert method.trainable_parameters() == []


def test_a_class_that_comes_again_adds_to_its_column() -> None:
    method = learned([0, 0])
    assert method.memory["classes"].tolist() == [0, 1]
    once = learned([0])
    close(method.memory["Q"], 2 * once.memory["Q"], 1e-5)


def test_learned_samples_are_recognised_and_unlearned_classes_scored_by_text() -> None:
    method = learned([0, 1])
    labels = tiny.task(0, [0, 1, 2, 3]).labels
    data = batch(1, [2, 3], 1)
    with torch.no_grad():
        answers = method.scores(data, labels, None)
        assert (answers.argmax(1) == data["label"]).float().mean() > 0.8
        unknown = tiny.task(2, [8, 9]).labels
        text = method.backbone.logits(method.embed_image(data), method.backbone.class_features(unknown))
        assert torch.equal(method.scores(data, unknown, None), text)


def test_a_class_without_samples_among_learned_ones_scores_zero() -> None:
    method = learned([0])
    with torch.no_grad():
        answers = method.scores(batch(0, [0, 1], 0), tiny.task(0, [0, 1, 8]).labels, None)
    assert answers.shape == (24, 3) and (answers[:, 2] == 0).all() and answers[:, :2].abs().sum() > 0
