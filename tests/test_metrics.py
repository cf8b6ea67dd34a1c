"""Metrics: reference numbers, what they must say, and another way to compute them."""

from __future__ import annotations

import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmark import metrics

GOLDEN = Path(__file__).parent / "golden"
SCALAR = (
    metrics.last_accuracy,
    metrics.average_accuracy,
    metrics.average_incremental_accuracy,
    metrics.learning_accuracy,
    metrics.forgetting,
    metrics.backward_transfer,
    metrics.forward_transfer,
    metrics.transfer,
)
PER_TASK = (metrics.forgetting_per_task, metrics.backward_transfer_per_task)
OF_OTHERS = SCALAR[4:]
fractions = st.floats(0, 1, width=32)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@st.composite
def matrices(draw: st.DrawFn, least: int = 1) -> np.ndarray:
    tasks = draw(st.integers(least, 6))
    return draw(arrays(np.float64, (tasks + 1, tasks), elements=fractions))


def hide(matrix: np.ndarray) -> np.ndarray:
    """The matrix as it is when the identity is hidden."""
    hidden = matrix.copy()
    hidden[np.triu_indices_from(hidden)] = np.nan  # row i keeps the columns 0..i-1
    return hidden


def oracle(matrix: np.ndarray) -> dict[str, float]:
    """The formulas as loops over a dictionary of cells counted from 1."""
    T = matrix.shape[1]
    A = {(i, j): float(matrix[i, j - 1]) for i in range(T + 1) for j in range(1, T + 1)}

    def mean(values):
        values = list(values)
        return sum(values) / len(values) if values else float("nan")

    best = {j: sorted(A[i, j] for i in range(j, T))[-1] for j in range(1, T)}
    return {
        "last_acc": mean(A[T, j] for j in range(1, T + 1)),
        "avg_acc": mean(mean(A[i, j] for i in range(1, T + 1)) for j in range(1, T + 1)),
        "aia": mean(mean(A[i, j] for j in range(1, i + 1)) for i in range(1, T + 1)),
        "forgetting": mean(best[j] - A[T, j] for j in range(1, T)),
        "bwt": mean(A[T, j] - A[j, j] for j in range(1, T)),
        "fwt": mean(A[j - 1, j] - A[0, j] for j in range(2, T + 1)),
        "transfer": mean(mean(A[i, j] for i in range(1, j)) for j in range(2, T + 1)),
        "learning_acc": mean(A[j, j] for j in range(1, T + 1)),
        "worst_task": sorted(A[T, j] for j in range(1, T + 1))[0],
    }


def test_golden_classification() -> None:
    with np.load(GOLDEN / "metrics_classification_t5.npz", allow_pickle=False) as file:
        golden = dict(file)
    matrix = np.vstack([golden["A0"], golden["A"]])
    expected = {
        metrics.last_accuracy: "last",
        metrics.average_accuracy: "avg",
        metrics.average_incremental_accuracy: "AIA_MAA",
        metrics.learning_accuracy: "MFT",
        metrics.forgetting: "forgetting",
        metrics.backward_transfer: "BWT",
        metrics.forward_transfer: "FWT_zeroshot",
        metrics.transfer: "transfer",
    }
    for function, name in expected.items():
        assert function(matrix) == pytest.approx(float(golden[name]), rel=1e-12), name
    assert metrics.backward_transfer_per_task(matrix).sum() / 5 == pytest.approx(float(golden["BWT_coin"]))
    assert metrics.summary(matrix)["transfer"] == metrics.transfer(matrix)


def test_golden_missing_modality() -> None:
    with np.load(GOLDEN / "metrics_missing_modality.npz", allow_pickle=False) as file:
        golden = dict(file)
    image = metrics.modality_drop(golden["A_full"], golden["A_no_image"])
    text = metrics.modality_drop(golden["A_full"], golden["A_no_text"])
    assert image == pytest.approx(float(golden["MMD_image"]), rel=1e-12)
    assert text == pytest.approx(float(golden["MMD_text"]), rel=1e-12)
    assert metrics.dominance(image, text) == pytest.approx(float(golden["modality_dominance"]), rel=1e-12)
    assert metrics.modality_drop(golden["A_full"][-1], golden["A_no_image"][-1]) == image
    with_row_0 = (np.vstack([np.zeros(4), golden[name]]) for name in ("A_full", "A_no_image"))
    assert metrics.modality_drop(*with_row_0) == image
    assert metrics.dominance(0.2, 0.0) == 1 and metrics.dominance(0.0, 0.2) == -1
    assert np.isnan(metrics.dominance(0.0, 0.0))
    with pytest.raises(ValueError, match="4 and 3 tasks"):
        metrics.modality_drop(np.ones(4), np.ones(3))


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_complete_forgetting_is_one(tasks: int) -> None:
    matrix = np.vstack([np.zeros(tasks), np.eye(tasks)])
    assert metrics.forgetting(matrix) == 1.0
    assert metrics.backward_transfer(matrix) == -1.0
    assert metrics.forgetting_per_task(matrix).tolist() == [1.0] * (tasks - 1)
    assert metrics.forgetting(hide(matrix)) == 1.0


@given(arrays(np.float64, st.integers(2, 6), elements=fractions))
def test_a_model_that_never_changes(row: np.ndarray) -> None:
    matrix = np.tile(row, (len(row) + 1, 1))
    assert metrics.forgetting(matrix) == metrics.backward_transfer(matrix) == metrics.forward_transfer(matrix) == 0
    assert metrics.transfer(matrix) == pytest.approx(row[1:].mean())


def test_row_0_and_the_last_task_never_count_as_learned() -> None:
    matrix = np.array([[1.0, 1.0], [0.5, 0.0], [0.5, 0.9]])
    assert metrics.forgetting(matrix) == 0 and metrics.backward_transfer(matrix) == 0
    assert metrics.average_accuracy(matrix) == pytest.approx(1.9 / 4)


def test_a_task_best_at_the_end_has_negative_forgetting() -> None:
    matrix = np.array([[0.0, 0.0, 0.0], [0.4, 0.0, 0.0], [0.6, 0.5, 0.0], [0.9, 0.3, 0.5]])
    assert metrics.forgetting_per_task(matrix) == pytest.approx([-0.3, 0.2])
    assert metrics.backward_transfer_per_task(matrix) == pytest.approx([0.5, -0.2])


def test_one_task() -> None:
    matrix = np.array([[0.5], [0.9]])
    for function in SCALAR:
        assert np.isnan(function(matrix)) if function in OF_OTHERS else function(matrix) == 0.9
    assert all(function(matrix).shape == (0,) for function in PER_TASK)
    assert metrics.summary(matrix)["forgetting"] is None and metrics.summary(matrix)["aia"] == 0.9


@pytest.mark.parametrize("function", SCALAR + PER_TASK)
@pytest.mark.parametrize("shape", [(2, 2), (3, 4), (3,), (1, 0), (0, 0), (2, 2, 2), (5, 3)])
def test_other_shapes_are_refused(function, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(T\+1, T\)"):
        function(np.zeros(shape))


@given(matrices())
def test_against_the_oracle(matrix: np.ndarray) -> None:
    summary = metrics.summary(matrix)
    expected = oracle(matrix)
    assert list(summary) == list(expected)
    for name, value in expected.items():
        assert summary[name] is None if np.isnan(value) else summary[name] == pytest.approx(value, abs=1e-12), name


@given(matrices(least=2))
def test_hidden_identity(matrix: np.ndarray) -> None:
    given_, hidden = metrics.summary(matrix), metrics.summary(hide(matrix))
    assert [name for name, value in hidden.items() if value is None] == ["avg_acc", "fwt", "transfer"]
    assert all(value == given_[name] for name, value in hidden.items() if value is not None)


@given(matrices(least=2), st.data())
def test_a_missing_cell_spoils_what_needs_it(matrix: np.ndarray, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(matrix) - 1))
    column = data.draw(st.integers(0, len(matrix) - 2))
    broken = matrix.copy()
    broken[row, column] = np.nan
    for function in SCALAR:
        other = matrix.copy()
        other[row, column] += 10  # large enough to be the maximum, so every metric that reads the cell changes
        needs = function(other) != function(matrix)
        assert np.isnan(function(broken)) if needs else function(broken) == function(matrix), function


@given(matrices(least=2), st.floats(0, 1))
def test_ranges_and_invariances(matrix: np.ndarray, constant: float) -> None:
    for function in SCALAR:
        low = -1 if function in OF_OTHERS[:3] else 0
        assert low <= function(matrix) <= 1
        change = 0 if function in OF_OTHERS[:3] else constant
        assert function(matrix + constant) == pytest.approx(function(matrix) + change, abs=1e-9)
        assert function(100 * matrix) == pytest.approx(100 * function(matrix), abs=1e-9)
        assert function(matrix.tolist()) == function(matrix)
    assert metrics.forgetting(matrix) >= -metrics.backward_transfer(matrix) - 1e-12
    columns = np.random.default_rng(0).permutation(matrix.shape[1])
    for function in (metrics.last_accuracy, metrics.average_accuracy):
        assert function(matrix[:, columns]) == pytest.approx(function(matrix))


# Retrieval


def slow_recall(similarity: np.ndarray, positives: np.ndarray, k: int) -> float:
    """Sort each gallery, those that are no answer first among equals, and look at the first k."""
    hits = 0
    for scores, relevant in zip(similarity, positives, strict=True):
        gallery = sorted(zip(scores, relevant, strict=True), key=lambda item: (-item[0], item[1]))
        hits += any(answer for _, answer in gallery[:k])
    return hits / len(similarity)


@st.composite
def searches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    similarity = draw(arrays(np.float64, shape, elements=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0])))
    return similarity, draw(arrays(np.bool_, shape)), draw(st.integers(1, 9))


@given(searches())
def test_recall_against_sorting(search: tuple[np.ndarray, np.ndarray, int]) -> None:
    similarity, positives, k = search
    recall = metrics.recall_at_k(similarity, positives, k)
    assert recall == pytest.approx(slow_recall(similarity, positives, k))
    assert recall <= metrics.recall_at_k(similarity, positives, k + 1)
    queries, gallery = (np.random.default_rng(0).permutation(n) for n in similarity.shape)
    shuffled = similarity[queries][:, gallery], positives[queries][:, gallery]
    assert metrics.recall_at_k(*shuffled, k) == pytest.approx(recall)
    assert metrics.recall_at_k(3 * similarity - 7, positives, k) == recall


def test_recall_is_pessimistic() -> None:
    positives = np.eye(4, dtype=bool)
    assert metrics.recall_at_k(np.ones((4, 4)), positives, 1) == 0
    assert metrics.recall_at_k(np.ones((4, 4)), positives, 3) == 0
    assert metrics.recall_at_k(np.ones((4, 4)), positives, 4) == 1
    assert metrics.recall_at_k(np.ones((1, 3)), np.array([[True, True, False]]), 2) == 1
    assert metrics.recall_at_k(np.eye(4), positives, 1) == 1
    assert metrics.recall_at_k(np.eye(4), np.zeros((4, 4), dtype=bool), 9) == 0


def test_recall_refuses_nonsense() -> None:
    positives = np.eye(2, dtype=bool)
    assert np.isnan(metrics.recall_at_k(np.full((2, 2), np.nan), positives, 1))
    assert np.isnan(metrics.recall_at_k(np.zeros((0, 2)), np.zeros((0, 2), dtype=bool), 1))
    with pytest.raises(ValueError, match="k is 1"):
        metrics.recall_at_k(np.eye(2), positives, 0)
    with pytest.raises(ValueError, match=r"\(Q, G\)"):
        metrics.recall_at_k(np.eye(3), positives, 1)


# Calibration


def binned_by_hand(confidence: list[Fraction], right: list[bool], bins: int) -> Fraction:
    """Guo et al., section 2, sample by sample in exact fractions."""
    total = Fraction(0)
    for m in range(1, bins + 1):
        inside = [
            i for i, c in enumerate(confidence) if Fraction(m - 1, bins) < c <= Fraction(m, bins) or c == m - 1 == 0
        ]
        if inside:
            accuracy = Fraction(sum(right[i] for i in inside), len(inside))
            held = sum((confidence[i] for i in inside), Fraction(0)) / len(inside)
            total += Fraction(len(inside), len(confidence)) * abs(accuracy - held)
    return total


@given(st.lists(st.tuples(st.integers(0, 64), st.booleans()), min_size=1, max_size=40), st.sampled_from([1, 4, 16, 15]))
def test_calibration_error_against_fractions(samples: list[tuple[int, bool]], bins: int) -> None:
    """In 64ths, which floats hold exactly and among which are the ends of 4 and 16 bins."""
    confidence, right = [Fraction(c, 64) for c, _ in samples], [r for _, r in samples]
    found = metrics.expected_calibration_error([float(c) for c in confidence], right, bins)
    assert found == pytest.approx(float(binned_by_hand(confidence, right, bins)), abs=1e-12)


def test_calibration_error_by_hand() -> None:
    assert metrics.expected_calibration_error([1.0] * 4, [True] * 4) == 0
    assert metrics.expected_calibration_error([1.0] * 4, [False] * 4) == 1
    # 0.9 and 0.92 share a bin: |1/2 - 0.91| of two thirds; 0.5 is alone: |1 - 0.5| of a third
    error = metrics.expected_calibration_error([0.9, 0.92, 0.5], [True, False, True])
    assert error == pytest.approx(2 / 3 * 0.41 + 1 / 3 * 0.5)
    assert np.isnan(metrics.expected_calibration_error([], []))
    assert np.isnan(metrics.expected_calibration_error([0.5, np.nan], [True, True]))
    for confidence, right, bins in (([0.5], [1, 0], 15), ([[0.5]], [[1]], 15), ([1.5], [1], 15), ([0.5], [1], 0)):
        with pytest.raises(ValueError):
            metrics.expected_calibration_error(confidence, right, bins)
