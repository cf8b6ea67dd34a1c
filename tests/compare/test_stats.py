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

from benchmark.compare import stats, variance

# Five blocks, methods a, b, c. Ranks: a 1 1.5 1 1 2, b 2 1.5 3 2 1, c 3 3 2 3 3.
TABLE = [[0.90, 0.85, 0.50], [0.80, 0.80, 0.60], [0.70, 0.60, 0.65], [0.90, 0.60, 0.52], [0.75, 0.90, 0.72]]

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


# Runs and test samples


def hits(seed: int, runs: tuple[int, int], sizes: tuple[int, ...] = (40, 90), score: float = 0.7) -> list[np.ndarray]:
    """Of each task (orders, seeds, samples), drawn independently."""
    generator = np.random.default_rng(seed)
    return [(generator.random((*runs, size)) < score).astype(float) for size in sizes]


def test_a_single_run_has_the_textbook_error_of_proportions() -> None:
    tasks = hits(0, (1, 1))
    mean, low, high = stats.interval(tasks)
    parts = [(task.mean(), task.size) for task in tasks]
    error = math.sqrt(sum(share * (1 - share) / (size - 1) for share, size in parts)) / 2
    assert mean == pytest.approx(sum(share for share, _ in parts) / 2)
    assert high - mean == pytest.approx(mean - low) == pytest.approx(1.96 * error, rel=0.02)
    # difference: Agresti, Categorical Data Analysis: var = ((b + c) - (b - c)^2 / n) / n^2
    other = hits(1, (1, 1), score=0.6)
    variance = sum(
        (((a != b).sum() - (a - b).sum() ** 2 / a.size) / a.size / (a.size - 1)) / 4
        for a, b in zip(tasks, other, strict=True)
    )
    gap, low, high, p = stats.difference(tasks, other)
    assert high - gap == pytest.approx(1.96 * math.sqrt(variance), rel=0.02)
    assert p == pytest.approx(2 * oracle.norm.sf(gap / math.sqrt(variance)), rel=0.15)


def test_runs_alone_have_the_interval_of_a_t_test() -> None:
    """Each run is all right or all wrong about a task, so samples say nothing and runs everything."""
    gaps = [0.75, 0.25, 0.5, 0.5, 0.0, 0.25]
    tasks = [np.array([[np.full(9, float(place < 4 * gap)) for gap in gaps]]) for place in range(4)]
    for scores in (tasks, [np.array(gaps).reshape(1, -1, 1)]):  # and a number for each run, nothing known of samples
        expected = oracle.ttest_1samp(gaps, 0)
        low, high = expected.confidence_interval(0.9)
        assert stats.interval(scores, level=0.9) == pytest.approx((np.mean(gaps), max(low, 0.0), high))
        nothing = [np.zeros_like(task) for task in scores]
        found = stats.difference(scores, nothing, level=0.9)
        assert found == pytest.approx((np.mean(gaps), low, high, expected.pvalue))


def test_variance_by_hand() -> None:
    """Three seeds on four samples: the two-way table's mean squares, chance of a run on a sample counted once."""
    table = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 0, 0, 0]], float)
    rows, columns, mean = table.mean(1), table.mean(0), table.mean()
    left = table - rows[:, None] - columns + mean
    chance = (left**2).sum() / (2 * 3) / 12
    runs, samples = rows.var(ddof=1) / 3, columns.var(ddof=1) / 4
    found = variance.spread([table], [1, 1, 1], [None])
    assert (float(found.runs), float(found.samples)) == (pytest.approx(runs), pytest.approx(samples - chance))
    assert (found.freedom_of_runs, float(found.freedom_of_samples)) == (2, pytest.approx(3))
    share = runs / (runs + samples - chance)
    critical = oracle.t.ppf(0.975, 3) + share**1.25 * (oracle.t.ppf(0.975, 2) - oracle.t.ppf(0.975, 3))
    assert float(found.critical(0.05)) == pytest.approx(critical)
    half = critical * math.sqrt(runs + samples - chance)
    gap, low, high, _ = stats.difference([table[None]], [np.zeros((1, 3, 4))])
    assert (gap, low, high) == pytest.approx((mean, max(mean - half, -1), min(mean + half, 1)))


def test_orders_are_what_was_drawn_where_there_are_several() -> None:
    """Seeds do not make orders more: two orders have one degree of freedom. Orders may have unequally many seeds."""
    levels = np.array([[0.4, 0.4, 0.4], [0.8, 0.8, 0.8]])[..., None]
    low, high = oracle.ttest_1samp([0.4, 0.8], 0).confidence_interval(0.95)
    gap = stats.difference([levels], [np.zeros_like(levels)])
    assert gap[:3] == pytest.approx((0.6, max(low, -1.0), min(high, 1.0)))
    assert stats.interval([[levels[0], levels[1, :1]]])[0] == pytest.approx((3 * 0.4 + 0.8) / 4)
    tasks = hits(3, (2, 3))
    assert stats.interval([[*task] for task in tasks]) == stats.interval(tasks)
    one = stats.interval([task.reshape(1, 6, -1) for task in tasks])
    assert one[0] == pytest.approx(stats.interval(tasks)[0]) and one[1:] != stats.interval(tasks)[1:]


def test_samples_of_a_group_are_one() -> None:
    """A sample copied four times is no new evidence, if the copies are told to belong together."""
    tasks, groups = hits(4, (1, 1)), [np.arange(size) for size in (40, 90)]
    copied = [task.repeat(4, axis=-1) for task in tasks]
    named = [100 - group.repeat(4) for group in groups]
    assert stats.interval(copied, named) == pytest.approx(stats.interval(tasks))
    narrower = stats.interval(copied)
    assert narrower[2] - narrower[1] < 0.75 * (stats.interval(tasks)[2] - stats.interval(tasks)[1])
    assert stats.interval(copied, [named[0], None])[0] == pytest.approx(stats.interval(tasks)[0])


def test_what_is_undefined_is_said() -> None:
    one = np.full((1, 1, 1), 0.5)
    assert stats.interval([one]) == pytest.approx((0.5, math.nan, math.nan), nan_ok=True)
    assert stats.difference([one], [one]) == pytest.approx((0.0, math.nan, math.nan, math.nan), nan_ok=True)
    some = hits(0, (1, 3))
    assert np.isnan(stats.interval([*some, some[0][..., :1]])[1:]).all()  # one task of three has one sample
    hole = [some[0], some[1].copy()]
    hole[1][0, 1, 7] = np.nan
    assert np.isnan(stats.interval(hole)).all() and np.isnan(stats.difference(hole, some)).all()
    assert np.isnan(stats.interval([np.zeros((1, 3, 0))])).all()
    assert stats.difference(some, some) == (0, 0, 0, 1)
    assert stats.difference([np.ones((1, 2, 5))], [np.zeros((1, 2, 5))]) == (1, 1, 1, 0)
    for wrong in ([], [some[0], some[1][:, :2]], [np.zeros((0, 3, 4))]):
        with pytest.raises(ValueError, match="same runs"):
            stats.interval(wrong)
    with pytest.raises(ValueError, match="same samples"):
        stats.difference(some, [some[0], some[1][..., :5]])


@settings(max_examples=25)
@given(seeds, st.integers(1, 3), st.integers(1, 3))
def test_p_agrees_with_the_interval_and_sides_may_be_swapped(seed: int, orders: int, runs: int) -> None:
    a, b = hits(seed, (orders, runs), (12, 20)), hits(seed + 1, (orders, runs), (12, 20), 0.6)
    gap, low, high, p = stats.difference(a, b)
    assert (p < 0.05) == (low > 0 or high < 0)
    assert stats.difference(b, a) == pytest.approx((-gap, -high, -low, p))
    touching = stats.difference(a, b, level=1 - p)  # the interval of that level ends at zero
    assert min(abs(touching[1]), abs(touching[2])) == pytest.approx(0, abs=1e-6) or p in (0.0, 1.0)
    assert all(0 <= end <= 1 for end in stats.interval(a)[1:])


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
    assert stats.holm([0.01, math.nan, 0.02]) == pytest.approx([0.02, math.nan, 0.02], nan_ok=True)


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
