"""What modalities have to do with forgetting: by hand, and against the metrics that sum up the same cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmark import metrics
from benchmark.report import modality

# Tasks: ct, mri, ct. Row 0 before training.
HAND = [[0.1, 0.2, 0.3], [0.8, 0.3, 0.4], [0.7, 0.9, 0.5], [0.4, 0.8, 0.6]]
matrices = st.integers(1, 6).flatmap(
    lambda tasks: arrays(float, (tasks + 1, tasks), elements=st.floats(0, 1, width=32))
)


def test_step_drops_by_hand() -> None:
    """mri costs the first ct 0.1; the second ct costs the first 0.3 and mri 0.1."""
    same, other = modality.step_drops(HAND, ["ct", "mri", "ct"])
    assert (same, other) == (pytest.approx(0.3), pytest.approx(0.1))
    same, other = modality.step_drops(HAND, ["ct", "ct", "ct"])
    assert same == pytest.approx((0.1 + 0.3 + 0.1) / 3) and math.isnan(other)
    same, other = modality.step_drops(HAND, ["ct", "mri", "us"])
    assert math.isnan(same) and other == pytest.approx(0.5 / 3)
    assert all(map(math.isnan, modality.step_drops([[0.1], [0.5]], ["ct"])))


def test_step_drops_take_no_cell_before_learning() -> None:
    """Row 0 and scores of tasks not learned yet never count, so the hidden matrix gives the same numbers."""
    hidden = np.array(HAND)
    hidden[np.triu_indices_from(hidden)] = np.nan
    assert modality.step_drops(hidden, ["ct", "mri", "ct"]) == modality.step_drops(HAND, ["ct", "mri", "ct"])
    hidden[3, 1] = np.nan
    assert [math.isnan(drop) for drop in modality.step_drops(hidden, ["ct", "mri", "ct"])] == [False, True]


@given(matrices, st.lists(st.sampled_from("abc"), min_size=6, max_size=6))
def test_steps_add_up_to_backward_transfer(matrix: np.ndarray, names: list[str]) -> None:
    """All steps of a task together are what lies between its own stage and the last one."""
    tasks = matrix.shape[1]
    pairs = [(i, j) for i in range(1, tasks) for j in range(i)]
    alike = sum(names[i] == names[j] for i, j in pairs)
    same, other = modality.step_drops(matrix, names[:tasks])
    total = (alike * same if alike else 0.0) + ((len(pairs) - alike) * other if len(pairs) > alike else 0.0)
    if tasks > 1:
        assert total == pytest.approx(-metrics.backward_transfer(matrix) * (tasks - 1), abs=1e-9)


@given(matrices)
def test_means_are_the_metrics(matrix: np.ndarray) -> None:
    tasks = matrix.shape[1]
    assert np.mean(modality.learned_so_far(matrix)) == pytest.approx(metrics.average_incremental_accuracy(matrix))
    numbers = modality.per_modality(matrix, ["ct"] * tasks)["ct"]
    if tasks > 1:
        assert np.mean(modality.forward_transfer_per_task(matrix)) == pytest.approx(metrics.forward_transfer(matrix))
        found = [float(np.mean(values)) for values in (numbers.forgetting, numbers.bwt, numbers.fwt)]
        expected = (metrics.forgetting(matrix), metrics.backward_transfer(matrix), metrics.forward_transfer(matrix))
        assert found == pytest.approx(list(expected))


def test_per_modality_by_hand() -> None:
    found = modality.per_modality(HAND, ["ct", "mri", "ct"])
    assert list(found) == ["ct", "mri"]
    assert found["ct"].forgetting == pytest.approx([0.4]) and found["mri"].forgetting == pytest.approx([0.1])
    assert found["ct"].bwt == pytest.approx([-0.4]) and found["ct"].fwt == pytest.approx([0.2])
    assert found["mri"].fwt == pytest.approx([0.1])


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(T\+1, T\)"):
        modality.step_drops(np.zeros((3, 3)), ["a"] * 3)
    with pytest.raises(ValueError, match="3 tasks have 2 modalities"):
        modality.step_drops(HAND, ["ct", "mri"])
