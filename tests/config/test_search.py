"""What tune tries: the same points for everybody, by golden values, and nothing of a search that is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmark.config import registry, search
from benchmark.errors import UserError

POINTS = [  # Sobol, unscrambled, without its first: Joe and Kuo's direction numbers
    [0.5, 0.5, 0.5, 0.5], [0.75, 0.25, 0.25, 0.25], [0.25, 0.75, 0.75, 0.75], [0.375, 0.375, 0.625, 0.875],
    [0.875, 0.875, 0.125, 0.375], [0.625, 0.125, 0.875, 0.625], [0.125, 0.625, 0.375, 0.125],
    [0.1875, 0.3125, 0.9375, 0.4375],
]  # fmt: skip
RATES = [0.005, 0.003162, 0.007953, 0.001257, 0.001994, 0.01261, 0.005015, 0.0007929, 0.0009985]


def test_the_list_of_points_is_fixed_and_goes_on() -> None:
    assert search.unit_points(8) == POINTS
    assert search.unit_points(20)[:8] == POINTS and search.unit_points(3) == POINTS[:3]
    assert search.unit_points(0) == []


def test_trials_are_the_default_and_then_everybodys_points() -> None:
    ewc, er = registry.card("ewc"), registry.card("er")
    assert [point.lr for point in search.points(er, 9)] == RATES == [point.lr for point in search.points(ewc, 9)]
    assert [point.args["strength"] for point in search.points(ewc, 4)] == [100.0, 100.0, 50.0, 200.0]
    assert search.points(ewc, 3)[2].options == ["--lr=0.007953", "--method.strength=50.0"]
    assert search.points(er, 1) == [search.SearchPoint(0.005, {})]
    assert search.points(ewc, 9)[:4] == search.points(ewc, 4)


@pytest.mark.parametrize("name", registry.names())
def test_what_methods_declare_is_of_their_arguments(name: str) -> None:
    card = registry.card(name)
    assert search.wrong(card.search, card.defaults) is None and len(search.points(card, 3)) == 3


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"strenght": (1, 2)}, "'strenght' is no argument"),
        ({"strength": (200.0, 400.0)}, "its default, 100.0, is not within"),
        ({"strength": (0.0, 400.0)}, "above 0"),
        ({"strength": (400.0, 25.0)}, "expected (low, high)"),
        ({"strength": 100.0}, "expected (low, high)"),
        ({"strength": ("a", "b")}, "expected (low, high)"),
        ({"placement": (1.0, 2.0)}, "its default"),
        ({"strength": (25.0, float("inf"))}, "expected (low, high)"),
        (dict.fromkeys("abcd", (1.0, 2.0)), "at most 3"),
    ],
)
def test_a_search_that_is_none_is_refused(declared: dict[str, Any], said: str) -> None:
    card = replace(registry.card("ewc"), search=declared)
    assert said in (search.wrong(declared, card.defaults) or "")
    with pytest.raises(UserError, match=r"ewc\.py: search: "):
        search.points(card, 2)


def test_a_whole_number_stays_one() -> None:
    card = replace(registry.card("l2p"), search={"pool": (3, 40)})
    assert [point.args["pool"] for point in search.points(card, 4)] == [10, 11, 6, 21]


def test_the_space_is_told_by_what_numbers_stand_for() -> None:
    card = registry.card("ewc")
    others = [replace(card, version=2), replace(card, search={}), replace(card, search={"strength": (20.0, 400.0)})]
    assert len({search.space(each) for each in (card, *others)}) == 4
    assert search.space(replace(card, doc="other")) == search.space(card)
