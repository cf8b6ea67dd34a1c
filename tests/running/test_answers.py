"""Grading of classification: what AUROC makes of misrouted samples, of rounding noise and of sure answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from torch import Tensor
from torchmetrics.functional.classification import multiclass_auroc

from benchmark.running.answers.classification import auroc, log_odds, sample_metrics
from tests import tiny


def drawn(samples: int, own: int, foreign: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """float32 logits over own labels, told apart well but not fully, then over foreign ones; the true labels."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(samples) % own
    logits_NC = 20 + 4 * torch.randn(samples, own + foreign, generator=generator)
    logits_NC[torch.arange(samples), labels_N] += 10
    logits_NC[:, own:] -= 200
    return logits_NC, labels_N


def macro_auroc(logits_NC: Tensor, labels_N: Tensor, own: int) -> float:
    return sample_metrics(logits_NC, labels_N, torch.arange(own))["macro_auroc"]


def counted(score_N: np.ndarray, positive_N: np.ndarray) -> float:
    """By scipy's U, with ties as they are."""
    statistic = mannwhitneyu(score_N[positive_N], score_N[~positive_N]).statistic
    return float(statistic / (positive_N.sum() * (~positive_N).sum()))


def test_where_a_sample_is_routed_does_not_change_how_its_own_classes_are_ranked() -> None:
    logits_NC, labels_N = drawn(2000, 4, 6)
    clean = macro_auroc(logits_NC, labels_N, 4)
    assert 0.95 < clean < 0.99
    misrouted_NC = logits_NC.clone()
    misrouted_NC[::19, :4] -= 200
    misrouted_NC[::19, 4:] += 200
    assert macro_auroc(misrouted_NC, labels_N, 4) == pytest.approx(clean, abs=1e-4)
    assert macro_auroc(logits_NC[:, :4], labels_N, 4) == pytest.approx(clean, abs=1e-4)


def test_constant_images_are_ties() -> None:
    """One image in batches of several sizes: its logits differ in their last digits, here in an order of the labels."""
    backbone = tiny.backbone()
    with torch.no_grad():
        text_CE = backbone.class_features([tiny.label(i) for i in range(3)])
        image = torch.full((1, 3, tiny.SIZE, tiny.SIZE), 0.5)
        logits_NC = torch.cat(
            [backbone.logits(backbone.image(image.expand(n, -1, -1, -1)), text_CE) for n in (1, 7, 64)]
        )
    labels_N = torch.arange(len(logits_NC)) % 3
    logits_NC = logits_NC * (1 + 2e-7 * torch.nn.functional.one_hot(labels_N, 3))
    assert len(logits_NC.unique(dim=0)) > 1
    assert macro_auroc(logits_NC, labels_N, 3) == 0.5


def test_sure_answers_keep_their_order() -> None:
    """Of samples that softmax in float32 gives 1 or 0 alike, the surer one still stands first."""
    logits_NC = torch.tensor([[90.0, 0.0], [70.0, 0.0], [50.0, 0.0], [0.0, 150.0], [0.0, 120.0], [0.0, 170.0]])
    assert macro_auroc(logits_NC, torch.tensor([0, 0, 1, 0, 1, 1]), 2) == pytest.approx(7 / 9)


@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(12, 60))
def test_ordinary_logits_give_what_torchmetrics_gives(seed: int, classes: int, samples: int) -> None:
    logits_NC, labels_N = drawn(samples, classes, 0, seed)
    probabilities_NC = logits_NC.double().softmax(dim=1)
    expected = multiclass_auroc(probabilities_NC, labels_N, num_classes=classes, average="macro")
    assert macro_auroc(logits_NC, labels_N, classes) == pytest.approx(float(expected), abs=2e-3)


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2), st.floats(0, 0.4), st.integers(0, 10**6))
def test_auroc_is_a_count_of_pairs_with_ties_as_halves(drawn: list[tuple[int, bool]], tie: float, seed: int) -> None:
    score_N, positive_N = np.array([x for x, _ in drawn], float), np.array([y for _, y in drawn])
    positive_N[:2] = True, False
    noise_N = np.random.default_rng(seed).uniform(0, tie, len(score_N))
    assert auroc(score_N + 0.999 * noise_N, positive_N, tie) == pytest.approx(counted(score_N, positive_N))


def test_many_close_scores_do_not_all_become_one() -> None:
    score_N = np.linspace(0, 1, 100_001)
    positive_N = np.random.default_rng(0).random(len(score_N)) < score_N
    assert auroc(score_N, positive_N, 1e-4) == pytest.approx(counted(score_N, positive_N), abs=1e-4)


@given(st.integers(0, 10**6), st.integers(2, 6), st.sampled_from([1.0, 10.0, 300.0]))
def test_log_odds_by_their_definition(seed: int, classes: int, scale: float) -> None:
    logits_NK = scale * torch.randn(5, classes, generator=torch.Generator().manual_seed(seed))
    for row, found in zip(logits_NK.double(), log_odds(logits_NK), strict=True):
        expected = [row[k] - row[torch.arange(classes) != k].logsumexp(dim=0) for k in range(classes)]
        assert torch.allclose(found, torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_a_class_that_all_samples_or_none_have_is_left_out() -> None:
    logits_NC, labels_N = drawn(20, 3, 0)
    assert np.isnan(macro_auroc(logits_NC, torch.zeros(20, dtype=torch.long), 3))
    two_N = labels_N.clamp_max(1)
    odds_NK = log_odds(logits_NC).numpy()
    expected = np.mean([counted(odds_NK[:, k], (two_N == k).numpy()) for k in range(2)])
    assert macro_auroc(logits_NC, two_N, 3) == pytest.approx(expected)
