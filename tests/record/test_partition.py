"""Groups of tasks in a record: their agreement with the modalities against scikit-learn, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from benchmark.compare import repeats
from benchmark.record.partition import Partition, adjusted_rand
from benchmark.record.soundness import sound
from tests.made_records import made

MODALITIES = ["lung", "retina", "skin"]  # of the made records


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_agreement_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    left, right = zip(*pairs, strict=True)
    assert adjusted_rand(left, right) == pytest.approx(adjusted_rand_score(left, right), abs=1e-12)
    assert adjusted_rand(left, right) == adjusted_rand(right, left)
    assert adjusted_rand(left, left) == 1.0


def test_agreement_at_its_ends() -> None:
    assert adjusted_rand([0], ["ct"]) == adjusted_rand([0] * 4, ["ct"] * 4) == adjusted_rand(range(4), "abcd") == 1.0
    assert adjusted_rand([0, 0, 0], "abc") == adjusted_rand([0, 1, 2], "aaa") == 0.0
    assert adjusted_rand([0, 0, 1, 1], "abab") == pytest.approx(-0.5)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=3), st.permutations(range(4)))
def test_numbers_of_groups_do_not_matter(groups: list[int], names: list[int]) -> None:
    partition = Partition.of([names[group] for group in groups], MODALITIES)
    assert partition == Partition.of(groups, MODALITIES) and partition.fits(MODALITIES)
    assert partition.groups[0] == 0 and set(partition.groups) == set(range(len(set(groups))))
    record = made(partition=partition)
    value = json.loads(json.dumps(record.to_json()))
    assert sound(value) == record and list(value)[-1] == "partition"


@pytest.mark.parametrize(
    ("partition", "says"),
    [
        ({"groups": [0, 1], "agreement": 0.0}, "partition is not the groups of the tasks"),
        ({"groups": [0, 1, 1, 2], "agreement": 0.0}, "partition is not the groups of the tasks"),
        ({"groups": [1, 0, 0], "agreement": 0.0}, "partition is not the groups of the tasks"),
        ({"groups": [0, 2, 1], "agreement": 1.0}, "partition is not the groups of the tasks"),
        ({"groups": [0, 1, 2], "agreement": 0.5}, "partition is not the groups of the tasks"),
        ({"groups": [0, -1, 2], "agreement": 0.0}, ">= 0"),
        ({"groups": [0, 1, 2], "agreement": 7}, "<= 1"),
        ({"groups": [0, 1, 2]}, "missing required field"),
        ({"groups": {"a": 0}, "agreement": 0.0}, "Expected `array`"),
        ([0, 1, 2], "Expected `object"),
    ],
)
def test_other_partitions_are_refused(partition: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sound(made().to_json() | {"partition": partition})


def test_a_run_made_again_must_find_the_same_groups(tmp_path: Any) -> None:
    one, other = (made(partition=Partition.of(groups, MODALITIES)) for groups in ([0, 1, 2], [0, 1, 0]))
    assert repeats.difference(one, tmp_path, other, tmp_path) == "partition differ"
    assert repeats.difference(one, tmp_path, one, tmp_path) is None
    assert repeats.difference(replace(one, partition=None), tmp_path, one, tmp_path) is None  # a record made before
