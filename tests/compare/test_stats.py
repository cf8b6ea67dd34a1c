"""Intervals and tests of numbers: by hand, against scipy, statsmodels and scikit-posthocs, and by their error rates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
import scikit_posthocs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as oracle
from statsmodels.stats.multitest import multipletests

from benchmark.compare import stats
from tests.made_records import made

# Five blocks, methods a, b, c. Ranks: a 1 1.5 1 1 2, b 2 1.5 3 2 1, c 3 3 2 3 3.
TABLE = [[0.90, 0.85, 0.50], [0.80, 0.80, 0.60], [0.70, 0.60, 0.65], [0.90, 0.60, 0.52], [0.75, 0.90, 0.72]]

bits = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
seeds = st.integers(0, 2**32 - 1)


def tables(seed: int, blocks: int, methods: int, levels: int = 0) -> np.ndarray:
    """Random scores with real differences between methods; with ``levels`` rounded, so that some are equal."""
    generator = np.random.default_rng(seed)
    table = generator.random((blocks, methods)) + np.linspace(0, 0.8, methods)
    return np.round(table * levels) if levels else table


@pytest.fixture(autouse=True, scope="module")
def no_collection() -> Iterator[None]:
    """statsmodels collects garbage on every call, which takes half a second beside torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.collect", lambda *_: 0)
        yield


# One set of runs


def test_interval_is_nested() -> None:
    runs = [made(seed=seed, order=order) for order in (0, 1) for seed in (0, 1, 2)]
    between = stats.interval(runs, [0.4, 0.4, 0.4, 0.8, 0.8, 0.8])
    assert between == (pytest.approx(0.4), pytest.approx(0.8))  # two orders: seeds do not make them more
    low, high = stats.interval(runs, [0.4, 0.6, 0.8, 0.4, 0.6, 0.8])
    assert low is not None and high is not None and 0.4 < low < 0.6 < high < 0.8
    assert stats.interval(runs[:1], [0.5]) == stats.interval(runs[:2], [0.5, None]) == (None, None)
    assert stats.interval(runs[:4], [0.5, 0.5, 0.5, 0.5]) == (0.5, 0.5)


# Two methods on the same samples


def test_mcnemar_by_hand() -> None:
    a = [True] * 6 + [False] + [True] * 10 + [False] * 3
    b = [False] * 6 + [True] + [True] * 10 + [False] * 3
    assert stats.mcnemar(a, b) == pytest.approx(2 * (1 + 7) / 2**7)  # none or one of seven, either way
    assert stats.mcnemar(a, a) == 1.0
    with pytest.raises(ValueError, match="other samples"):
        stats.mcnemar(a, b[1:])


@given(bits)
def test_mcnemar_is_the_exact_binomial_test(pairs: list[tuple[bool, bool]]) -> None:
    a, b = (np.array(each) for each in zip(*pairs, strict=True))
    only, either = int((a & ~b).sum()), int((a != b).sum())
    expected = oracle.binomtest(only, either, 0.5).pvalue if either else 1.0
    assert stats.mcnemar(a, b) == pytest.approx(expected) == pytest.approx(stats.mcnemar(b, a))


def cells(seed: int, count: int, sizes: tuple[int, ...], accuracy: float) -> list[list[np.ndarray]]:
    generator = np.random.default_rng(seed)
    return [[generator.random(size) < accuracy for size in sizes] for _ in range(count)]


def test_every_task_and_cell_counts_the_same() -> None:
    a = [[np.array([1, 1, 0, 0], bool), np.array([1], bool)], [np.array([1, 0, 0, 0], bool), np.array([1], bool)]]
    b = [[np.array([0, 1, 1, 1], bool), np.array([0], bool)], [np.array([0, 0, 0, 1], bool), np.array([1], bool)]]
    found = stats.paired_bootstrap(a, b)
    assert found.difference == pytest.approx(((-1 / 4 + 1) / 2 + 0) / 2)
    assert stats.paired_bootstrap(a, a) == (0, 0, 0, 1)
    for other in ([], a[:1], [[*cell[:1], cell[1][:0]] for cell in a]):
        with pytest.raises(ValueError, match="same cells"):
            stats.paired_bootstrap(a, other)
    with pytest.raises(ValueError, match="same cells"):
        stats.paired_bootstrap([], [])


def test_one_cell_has_the_textbook_error_of_paired_proportions() -> None:
    """Agresti, Categorical Data Analysis: var = ((b + c) - (b - c)^2 / n) / n^2, tasks independent of each other."""
    (one,), (other,) = cells(1, 1, (400, 900), 0.7), cells(2, 1, (400, 900), 0.62)
    difference, variance = 0.0, 0.0
    for a, b in zip(one, other, strict=True):
        b_, c_, n = (a & ~b).sum(), (b & ~a).sum(), len(a)
        difference += (b_ - c_) / n / 2
        variance += ((b_ + c_) - (b_ - c_) ** 2 / n) / n**2 / 4
    found = stats.paired_bootstrap([one], [other])
    assert found.difference == pytest.approx(difference)
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.05)
    assert found.p == pytest.approx(2 * oracle.norm.sf(difference / math.sqrt(variance)), rel=0.3)


def test_runs_that_differ_have_the_interval_of_a_t_test() -> None:
    """Each run is all right or all wrong about a task, so samples say nothing and runs everything."""
    gaps = [0.75, 0.25, 0.5, 0.5, 0.0, 0.25]
    a = [[np.full(9, place < 4 * gap) for place in range(4)] for gap in gaps]
    b = [[np.zeros(9, bool)] * 4 for _ in gaps]
    found, expected = stats.paired_bootstrap(a, b), oracle.ttest_1samp(gaps, 0)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))
    assert found.p == pytest.approx(expected.pvalue, rel=0.2)


@settings(max_examples=15)
@given(seeds)
def test_a_run_copied_is_no_new_evidence_and_sides_may_be_swapped(seed: int) -> None:
    a, b = cells(seed, 1, (50, 80), 0.7), cells(seed + 1, 1, (50, 80), 0.6)
    once = stats.paired_bootstrap(a, b)
    assert stats.paired_bootstrap(a * 3, b * 3) == pytest.approx(once)
    swapped = stats.paired_bootstrap(b, a)
    assert swapped == pytest.approx((-once.difference, -once.high, -once.low, once.p))
    assert (once.p < 0.05) == (once.low > 0 or once.high < 0)


def test_equal_methods_are_seldom_called_different() -> None:
    """Two methods, equal on average over runs and samples, three runs of each: 5 % of the tables may say otherwise.

    Samples that suit one of them return in every run, and a run is good or bad for all samples."""
    generator = np.random.default_rng(0)
    wrong, trials = 0, 400
    for _ in range(trials):
        suits = generator.normal(0, 0.6, (2, 60))
        a, b = (
            [[suits[side] + luck + generator.normal(0, 1, 60) > 0] for luck in generator.normal(0, 0.3, 3)]
            for side in (0, 1)
        )
        wrong += stats.paired_bootstrap(a, b).p < 0.05
    assert 0.01 < wrong / trials < 0.07  # percentiles, with samples drawn anew in every cell: 0.16


# Many methods


def test_a_table_by_hand() -> None:
    statistic, p, ranks = stats.friedman(TABLE)
    assert ranks == stats.average_ranks(TABLE) == pytest.approx([1.3, 1.9, 2.8])
    # 12 * 5 / (3 * 4) * (1.3^2 + 1.9^2 + 2.8^2 - 3 * 4^2 / 4) = 5.7; one tie of two: 1 - (2^3 - 2) / (5 * 3 * 8) = 0.95
    assert statistic == pytest.approx(5.7 / 0.95) and p == pytest.approx(math.exp(-3))  # chi squared with two degrees
    critical, cliques = stats.critical_difference(TABLE)
    assert critical == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 5)), abs=1e-3)  # Demšar's table 5
    assert cliques == [(0, 1), (1, 2)]  # 1.3 and 2.8 lie further apart than 1.482
    # a - b: 0.05, 0, 0.1, 0.3, -0.15, so of four ranks the third is negative: 5 of 16 signings have a sum up to 3
    # a - c: all positive, 1 of 32; b - c: the smallest of five is negative, 2 of 32; each doubled
    assert stats.wilcoxon_holm(TABLE) == [
        (0, 1, pytest.approx(0.625), pytest.approx(0.625)),
        (0, 2, pytest.approx(0.0625), pytest.approx(3 * 0.0625)),
        (1, 2, pytest.approx(0.125), pytest.approx(2 * 0.125)),
    ]


def test_critical_difference_of_the_paper() -> None:
    """Demšar, JMLR 2006: four classifiers on 14 data sets; 2.569 and 2.291 are of table 5, and give 1.25 and 1.12."""
    table = tables(0, 14, 4)
    assert stats.critical_difference(table)[0] == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    assert stats.critical_difference(table, 0.1)[0] == pytest.approx(2.291 * math.sqrt(4 * 5 / (6 * 14)), abs=1e-3)


@given(seeds, st.integers(2, 8), st.integers(3, 7), st.sampled_from([0, 3]))
def test_friedman_is_scipys(seed: int, blocks: int, methods: int, levels: int) -> None:
    table = tables(seed, blocks, methods, levels)
    statistic, p, ranks = stats.friedman(table)
    assert ranks == pytest.approx(oracle.rankdata(-table, axis=1).mean(axis=0))
    if (table == table[:, :1]).all():
        assert math.isnan(statistic) and math.isnan(p)
    else:
        assert (statistic, p) == pytest.approx(tuple(oracle.friedmanchisquare(*table.T)))


@given(seeds, st.integers(3, 12), st.integers(2, 6))
def test_wilcoxon_holm_is_scikit_posthocs(seed: int, blocks: int, methods: int) -> None:
    table = tables(seed, blocks, methods)
    plain = scikit_posthocs.posthoc_wilcoxon(list(table.T)).to_numpy()
    adjusted = scikit_posthocs.posthoc_wilcoxon(list(table.T), p_adjust="holm").to_numpy()
    found = stats.wilcoxon_holm(table)
    assert [(a, b) for a, b, _, _ in found] == list(combinations(range(methods), 2))
    for a, b, p, corrected in found:
        assert (p, corrected) == (pytest.approx(plain[a, b]), pytest.approx(adjusted[a, b]))
        assert p > 2.0 ** (1 - blocks) - 1e-12


def test_equal_gaps_of_decimals_are_ties() -> None:
    """0.3 - 0.1 and 0.9 - 0.7 differ in the last bit, and are the same difference of scores."""
    table = np.array([[0.3, 0.1], [0.9, 0.7], [0.5, 0.4], [0.2, 0.6], [0.8, 0.3]])
    ((_, _, p, _),) = stats.wilcoxon_holm(table)
    whole = np.round(10 * table)
    assert p == pytest.approx(oracle.wilcoxon(whole[:, 0] - whole[:, 1]).pvalue)


def test_wilcoxon_of_equals_is_one() -> None:
    table = np.array(TABLE)[:, [0, 0, 1]]
    assert [found[2:] for found in stats.wilcoxon_holm(table)] == [(1, 1), *[(pytest.approx(0.625), 1)] * 2]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    assert stats.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())
    assert stats.holm([]) == []


@given(seeds, st.integers(5, 12), st.integers(2, 8), st.sampled_from([0, 3]), st.sampled_from([0.05, 0.1]))
def test_critical_difference_is_nemenyi(seed: int, blocks: int, methods: int, levels: int, alpha: float) -> None:
    table = tables(seed, blocks, methods, levels)
    critical, cliques = stats.critical_difference(table, alpha)
    ranks = stats.average_ranks(table)
    p = scikit_posthocs.posthoc_nemenyi_friedman(table).to_numpy()
    for a, b in combinations(range(methods), 2):
        apart = abs(ranks[a] - ranks[b])
        if abs(apart - critical) > 1e-6:
            assert (apart > critical) == (p[a, b] < alpha)
        assert (apart <= critical) == any({a, b} <= set(clique) for clique in cliques)
    assert all(len(clique) > 1 for clique in cliques)
    assert not any(set(one) <= set(other) for one in cliques for other in cliques if one is not other)


def test_too_few_blocks_or_methods() -> None:
    for table, test in (
        (np.zeros((4, 3)), stats.critical_difference),
        (np.zeros((5, 1)), stats.critical_difference),
        (np.zeros((5, 2)), stats.friedman),
        (np.zeros((1, 3)), stats.friedman),
    ):
        with pytest.raises(ValueError, match="needs"):
            test(table)
    assert math.isnan(stats.friedman(np.ones((3, 3)))[1])
