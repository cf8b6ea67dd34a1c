"""Which trial is the best: the rule on trials by hand, and the section that is made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmark.compare import choice
from benchmark.config import registry, tuned
from benchmark.record.trials import Trial


def trial(number: int, given: float | None, lr: float = 0.005, **changes: Any) -> Trial:
    made = Trial("ewc", "classification", "phantom_tune4", "ab", "phantom-clip", "cd", number, 0, lr, trained=8)
    return replace(made, given=given, **changes)


def numbers(*trials: Trial) -> int:
    assert choice.best(trials).trial == choice.best(trials[::-1]).trial
    return choice.best(trials).trial


def test_the_mean_of_given_and_hidden_decides_and_given_alone_where_hidden_is_not_possible() -> None:
    assert numbers(trial(0, 0.8, hidden=0.2), trial(1, 0.6, hidden=0.5)) == 1
    assert numbers(trial(0, 0.8), trial(1, 0.7)) == 0
    assert trial(0, None, hidden=0.5).score is None


def test_of_equals_the_smaller_rate_and_then_the_first() -> None:
    assert numbers(trial(0, 0.5), trial(1, 0.5, 0.002), trial(2, 0.5, 0.01)) == 1
    assert numbers(trial(1, 0.5), trial(2, 0.5)) == 1
    assert numbers(trial(0, 0.5, trained=0), trial(1, 0.5, 0.002, trained=0)) == 0  # no rate was of any use


def test_what_failed_is_the_worst() -> None:
    bad = [trial(1, 0.9, status="diverged"), trial(2, 0.9, status="failed"), trial(3, None)]
    assert numbers(trial(0, 0.0), *bad) == 0
    assert choice.section([trial(0, None, status="diverged"), trial(1, 0.1, 0.002)])["failed"] == 1


def test_the_first_task_may_choose_another() -> None:
    both = [trial(0, 0.5, first_given=0.6, first_hidden=0.6), trial(1, 0.4, first_given=0.9)]
    assert (choice.best(both).trial, choice.best(both, choice.first_task).trial) == (0, 1)
    later = trial(2, None, first_given=0.95, status="diverged")  # in a later task, of which the first knows nothing
    assert choice.best([*both, later], choice.first_task) is later and choice.best([*both, later]).trial == 0


def test_a_section_says_values_only_where_they_are_no_defaults() -> None:
    mine = [trial(0, 0.5, args={"strength": 100.0}), trial(1, 0.7, 0.002, args={"strength": 50.0})]
    section = choice.section(mine)
    assert section["values"] == {"lr": 0.002, "method": {"strength": 50.0}}
    assert (section["score"], section["default_score"], section["trials"], section["trial"]) == (0.7, 0.5, 2, 1)
    assert tuple(section) == tuned.KEYS
    assert choice.section(mine[:1])["values"] == {}
    assert choice.section([mine[0], replace(mine[1], trained=0)])["values"] == {"method": {"strength": 50.0}}


def test_trials_count_as_far_as_none_is_missing() -> None:
    card = registry.card("ewc")
    space = choice.space(card)
    mine = [replace(trial(n, 0.5), space=space) for n in (0, 1, 3)]
    others = [replace(mine[0], trial=2, space="ee"), replace(mine[0], trial=2, seed=1), replace(mine[0], trial=2,
              stream_hash="ac")]  # fmt: skip
    assert [t.trial for t in choice.on_stream([*mine, *others], card, "classification", "ab")] == [0, 1]
    assert choice.enough(card, mine, 3) and not choice.enough(card, mine[:2], 3)
    assert choice.enough(registry.card("ncm"), [replace(mine[0], trained=0)], 9)
    assert not choice.enough(registry.card("ncm"), [replace(mine[0], trained=0, status="failed")], 9)
