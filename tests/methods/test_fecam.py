"""FeCAM: the released numbers, distances computed another way, and classes with few samples or none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis
from torch import Tensor

from benchmark.stream import Budget
from methods.fecam import FeCAM, correlation, inverse, mahalanobis, shrink, tukey
from tests import tiny
from tests.golden_files import GOLDEN, golden

seeds = st.integers(0, 10**6)
FILES = ("c/fecam_a", "c/fecam_few_samples")
VIT = {"vit_cifar": (1.0, 0.0), "vit_imagenet_r": (10.0, 10.0)}


def near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the pure functions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("script", VIT)
def test_the_script_for_signed_features(file: str, script: str) -> None:
    g, (g1, g2) = golden(file), VIT[script]
    for c in range(len(g["counts"])):
        R = correlation(shrink(torch.cov(g[f"vit_train_{c}"].mT), g1, g2))
        near(R, g[f"{script}_cov"][c], 1e-8)
        distance_N = mahalanobis(g[f"{script}_test"], g[f"{script}_mean"][c], inverse(R))
        near(distance_N, g[f"{script}_distance"][:, c], 1e-8)


def configurations() -> list[tuple[str, str]]:
    """Those with a covariance for each class."""
    found = []
    for file in FILES:
        with np.load(GOLDEN / f"{file}.npz", allow_pickle=False) as arrays:
            names = arrays["configs"].tolist()
            found += [(file, name) for name in names if bool(arrays[f"{name}_arg_per_class"])]
    return found


@pytest.mark.parametrize(("file", "name"), configurations())
def test_the_code_for_convolutional_networks(file: str, name: str) -> None:
    """Its covariances of powers, shrunk twice, and its distances between powers, the mean's taken after the mean."""
    g = golden(file)
    option = {key.removeprefix(f"{name}_arg_"): value for key, value in g.items() if key.startswith(f"{name}_arg_")}
    beta, alphas = float(option["beta"]) if option["tukey"] else 1.0, (float(option["alpha1"]), float(option["alpha2"]))
    for c, mean_E in enumerate(g["class_mean"].double()):
        cov = torch.cov(tukey(g[f"train_{c}"].double(), beta).mT)
        cov = shrink(shrink(cov, *alphas), *alphas) if option["shrink"] else cov
        if option["diagonal"]:
            cov = torch.diag(cov.diagonal()) / cov.diagonal().norm()
        elif option["norm_cov"]:
            cov = correlation(cov)
        near(cov, g[f"{name}_cov"][c], 1e-5)
        precision = torch.eye(len(cov), dtype=cov.dtype) if option["ncm"] else inverse(cov)
        x_NE, m_E = (F.normalize(tukey(x, beta), dim=-1) for x in (g["test"].double(), mean_E))
        near(mahalanobis(x_NE, m_E, precision), g[f"{name}_distance"][:, c].double(), 2e-4)


@given(seeds, st.integers(2, 6), st.integers(7, 12), st.booleans())
def test_the_distance_is_that_of_scipy_and_of_whitened_samples(seed: int, E: int, n: int, double: bool) -> None:
    dtype, tolerance = (torch.float64, 1e-8) if double else (torch.float32, 1e-3)
    train_NE, x_NE = drawn(seed, n, E), drawn(seed + 1, 3, E)
    R = correlation(shrink(torch.cov(train_NE.mT), 1.0, 0.0))
    precision, mean_E = torch.linalg.inv(R), train_NE.mean(dim=0)
    found_N = mahalanobis(*(t.to(dtype) for t in (x_NE, mean_E, inverse(R))))
    assert found_N.dtype == dtype
    for x_E, found in zip(x_NE, found_N.tolist(), strict=True):
        assert found == pytest.approx(scipy_mahalanobis(x_E, mean_E, precision) ** 2, rel=tolerance)
    whitened_NE = torch.linalg.solve_triangular(torch.linalg.cholesky(R), (x_NE - mean_E).mT, upper=False).mT
    assert torch.allclose(found_N.double(), whitened_NE.square().sum(dim=1), rtol=tolerance)


@given(seeds, st.integers(1, 6), st.floats(0, 10), st.floats(0, 10))
def test_shrinking_by_a_loop(seed: int, E: int, g1: float, g2: float) -> None:
    cov = torch.cov(drawn(seed, 4, E).mT).reshape(E, E)
    cov[0, 2:] = cov[2:, 0] = 0.0
    beside = [float(cov[i, j]) for i in range(E) for j in range(E) if i != j and cov[i, j] != 0]
    mean, variance = sum(beside) / max(1, len(beside)), float(cov.diagonal().mean())
    expected = [[float(cov[i, j]) + (g1 * variance if i == j else g2 * mean) for j in range(E)] for i in range(E)]
    assert torch.allclose(shrink(cov, g1, g2), torch.tensor(expected, dtype=torch.float64), atol=1e-12)


@given(seeds, st.integers(2, 6))
def test_a_correlation_is_free_of_scale(seed: int, E: int) -> None:
    data_NE = drawn(seed, 9, E)
    R = correlation(torch.cov(data_NE.mT))
    assert torch.allclose(R, torch.corrcoef(data_NE.mT), atol=1e-12)
    scale_E = drawn(seed + 1, E).exp()
    assert torch.allclose(correlation(torch.cov((data_NE * scale_E).mT)), R, atol=1e-9)


def test_what_never_varies_is_correlated_with_nothing() -> None:
    data_NE = drawn(0, 9, 4)
    data_NE[:, 2] = 5.0
    R = correlation(torch.cov(data_NE.mT))
    assert torch.equal(R[2], torch.eye(4, dtype=torch.float64)[2]) and torch.equal(R[:, 2], R[2])
    assert torch.equal(correlation(torch.zeros(3, 3)), torch.eye(3))
    assert torch.equal(shrink(torch.zeros(3, 3), 1.0, 1.0), torch.zeros(3, 3))
    assert shrink(torch.tensor([[2.0]]), 1.0, 1.0).tolist() == [[4.0]]  # nothing beside the diagonal


def test_a_singular_matrix_has_its_pseudo_inverse() -> None:
    low_NE = drawn(3, 3, 6)
    cov = low_NE.mT @ low_NE
    assert torch.allclose(inverse(cov), torch.linalg.pinv(cov), rtol=1e-6, atol=1e-9)
    regular = cov + torch.eye(6, dtype=torch.float64)
    assert torch.allclose(inverse(regular) @ regular, torch.eye(6, dtype=torch.float64), atol=1e-10)


def test_a_power_keeps_signs() -> None:
    x = torch.tensor([-4.0, 0.0, 9.0])
    assert tukey(x, 0.5).tolist() == [-2.0, 0.0, 3.0] and torch.equal(tukey(x, 1.0), x)
    assert torch.equal(tukey(torch.tensor([1.0, 2.0]), 0.0), torch.tensor([1.0, 2.0]).log())


# ---- the method ---------------------------------------------------------------------------------------------------


def batch(seed: int, ids: list[int], n: int) -> dict[str, Tensor]:
    return {
        "image": tiny.images(n, seed) // (seed % 5 + 1),
        "label": torch.tensor([ids[i % len(ids)] for i in range(n)]),
    }


def learned(*tasks: tuple[list[int], list[dict[str, Tensor]]], **arguments: float) -> FeCAM:
    method = FeCAM(**arguments)
    method.attach(tiny.backbone(), Budget())
    method.eval()
    for index, (ids, batches) in enumerate(tasks):
        method.begin_task(tiny.task(index, ids))
        method.end_task(method.tasks[-1], batches)
    return method


@torch.no_grad()
def by_hand(method: FeCAM, samples: list[dict[str, Tensor]], query: dict[str, Tensor], ids: list[int]) -> Tensor:
    """(B, C) scores from all samples at once, in numpy's linear algebra."""
    unit_NE = torch.cat([F.normalize(method.embed_image(each).double(), dim=1) for each in samples])
    label_N, query_BE = torch.cat([each["label"] for each in samples]), method.embed_image(query).double()
    columns = []
    for label in ids:
        z_NE = unit_NE[label_N == label]
        C = np.cov(z_NE.numpy().T) if len(z_NE) > 1 else np.zeros((z_NE.shape[1],) * 2)
        S = C + method.g1 * np.trace(C) / len(C) * np.eye(len(C))
        sd = np.sqrt(np.diag(S))
        R = S / np.outer(sd, sd) if sd.all() else np.eye(len(C))
        apart_BE = (F.normalize(query_BE, dim=1) - z_NE.mean(dim=0)).numpy()
        columns.append(1 - np.einsum("be,ef,bf->b", apart_BE, np.linalg.inv(R), apart_BE) / 2)
    return float(method.backbone.logit_scale.exp()) * torch.tensor(np.stack(columns, axis=1))


def test_the_scores_are_those_of_the_equations() -> None:
    ids, samples, query = [4, 1, 7], [batch(0, [4, 1, 7], 30)], batch(9, [4], 6)
    method = learned((ids, samples))
    found = method.scores(query, method.tasks[0].labels, None)
    assert (found - by_hand(method, samples, query, ids)).abs().max() < 1e-3 and found.dtype == torch.float32


@pytest.mark.parametrize("sizes", [(40, 6, 10), (4, 2, 2)])
def test_a_class_that_comes_again_is_all_its_samples_at_once(sizes: tuple[int, ...]) -> None:
    ids, domains = [0, 1], [batch(seed, [0, 1], n) for seed, n in enumerate(sizes)]
    method, query = learned(*((ids, [domain]) for domain in domains)), batch(3, ids, 12)
    found = method.scores(query, method.tasks[0].labels, None)
    assert (found - by_hand(method, domains, query, ids)).abs().max() < 2e-3
    assert method.answers_from(method.tasks[0], "given") == (3, 3)


def test_a_class_of_one_sample_and_one_without_any() -> None:
    samples, query = [batch(0, [0, 1], 2)], batch(3, [0], 5)
    method = learned(([0, 1], samples))
    labels = tiny.task(1, [0, 2]).labels
    found = method.scores(query, labels, None)
    assert found.isfinite().all()
    assert (found[:, :1] - by_hand(method, samples, query, [0])).abs().max() < 1e-3  # the distance of Euclid
    text_B2 = method.backbone.logits(method.embed_image(query), method.backbone.class_features(labels))
    assert torch.allclose(found[:, 1], text_B2[:, 1], atol=1e-4)


def test_a_power_of_signed_features_is_finite() -> None:
    query = batch(3, [0], 5)
    plain, powered = (learned(([0, 1], [batch(0, [0, 1], 20)]), beta=beta) for beta in (1.0, 0.5))
    labels = plain.tasks[0].labels
    assert bool((plain._unit(query) < 0).any())
    assert powered.scores(query, labels, None).isfinite().all()
    assert not torch.allclose(powered.scores(query, labels, None), plain.scores(query, labels, None))


def test_other_covariances_are_inverted_anew() -> None:
    """What is kept beside the memory is of the memory as it is, also where another state has been loaded."""
    method, query = learned(([0, 1], [batch(0, [0, 1], 20)])), batch(3, [0], 5)
    other, labels = learned(([0, 1], [batch(1, [0, 1], 20)])), tiny.task(0, [0, 1]).labels
    before = method.scores(query, labels, None)
    method.load_state_dict(other.state_dict(), strict=False)
    after = method.scores(query, labels, None)
    assert torch.equal(after, other.scores(query, labels, None)) and not torch.equal(after, before)


def test_nothing_is_trained_and_nothing_else_is_kept() -> None:
    method = learned(([0, 1], [batch(0, [0, 1], 8)]), ([2], [batch(1, [2], 8)]))
    assert method.trainable_parameters() == []
    assert set(method.memory) == {f"{name}_{label}" for name in ("count", "mean", "cov") for label in range(3)}
    assert method.memory["cov_2"].shape == (tiny.EMBED, tiny.EMBED) and method.memory["cov_2"].dtype == torch.float32


def test_arguments_are_checked() -> None:
    for name, value in (("g1", -1.0), ("g2", -0.5), ("beta", 0.0), ("beta", 1.5), ("g1", float("nan"))):
        with pytest.raises(ValueError, match=rf"^{name} {value}: (need at least 0|must be)"):
            FeCAM(**{name: value})
