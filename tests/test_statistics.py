"""Every estimator against enumeration, exact fractions or SciPy; properties of the intervals."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from expert_tail.aggregate import statistics
from expert_tail.aggregate.statistics import Interval


def rng() -> np.random.Generator:
    return statistics.generator(0, "test")


n_c_k = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


def enumerated(outcomes: list[float], k: int) -> float:
    return float(np.mean([max(chosen) for chosen in combinations(outcomes, k)]))


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_mean_over_all_subsets(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            assert statistics.pass_at_k(n, c, k) == pytest.approx(enumerated([1.0] * c + [0.0] * (n - c), k), abs=1e-14)


@pytest.mark.parametrize("n", [64, 1024, 10_000])
def test_pass_at_k_matches_exact_fractions(n: int) -> None:
    for c in (0, 1, 2, n // 100, n // 3, n - 1, n):
        for k in (1, 2, 16, n // 2, n):
            exact = float(1 - Fraction(comb(n - c, k), comb(n, k)))
            assert statistics.pass_at_k(n, c, k) == pytest.approx(exact, rel=1e-11)


@given(n_c_k)
def test_pass_at_k_properties(nck: tuple[int, int, int]) -> None:
    n, c, k = nck
    value = statistics.pass_at_k(n, c, k)
    assert 0 <= value <= 1
    assert statistics.pass_at_k(n, c, 1) == pytest.approx(c / n)
    if k < n:
        assert statistics.pass_at_k(n, c, k + 1) >= value - 1e-12
    if c < n:
        assert statistics.pass_at_k(n, c + 1, k) >= value - 1e-12


@pytest.mark.parametrize("k", [0, 5])
def test_k_outside_the_samples_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k}"):
        statistics.pass_at_k(4, 2, k)


def test_pass_at_k_cells_takes_each_cells_own_n() -> None:
    n, c = np.array([[4, 8]]), np.array([[[1, 2], [3, 0]]])
    expected = [[[statistics.pass_at_k(4, 1, 2), statistics.pass_at_k(4, 2, 2)], [statistics.pass_at_k(8, 3, 2), 0]]]
    np.testing.assert_array_equal(statistics.pass_at_k_cells(n[..., None], c, 2), expected)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=7), st.data())
def test_expected_best_is_the_mean_over_all_subsets(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    found = statistics.expected_best(np.array(values), k)
    assert found == pytest.approx(enumerated(values, k), rel=1e-9, abs=1e-12)
    assert min(values) - 1e-9 <= found <= max(values) * (1 + 1e-9) + 1e-9


@given(n_c_k)
def test_weights_of_the_best_sum_to_one(nck: tuple[int, int, int]) -> None:
    n, _, k = nck
    weights = statistics.best_of_k_weights(n, k)
    assert weights.sum() == pytest.approx(1)
    assert (weights[: k - 1] == 0).all()


def test_std_over_seeds_is_of_the_means_over_tasks() -> None:
    # The paper's confidence-guided row: seed means 0.6 and 0.4, reported as 14.1 %.
    values = np.array([[1, 1], [1, 1], [1, 0], [0, 0], [0, 0]], dtype=float)
    assert statistics.std_over_seeds(values) == pytest.approx(0.1414, abs=1e-4)
    assert statistics.std_over_seeds(values[:, :1]) is None


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95]))
def test_wilson_interval_is_scipys(successes_n: tuple[int, int], confidence: float) -> None:
    successes, n = successes_n
    low, high = statistics.wilson_interval(successes, n, confidence)
    exact = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert (float(low), float(high)) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert low <= successes / n <= high


def test_hierarchical_weights_have_the_variance_of_two_stage_resampling() -> None:
    values = np.random.default_rng(1).normal(size=(6, 4))
    weights = statistics.hierarchical_weights(6, 4, 40_000, rng())
    np.testing.assert_allclose(weights.sum(axis=(1, 2)), 1)
    draws = np.einsum("bts,ts->b", weights, values)
    # Between-task variance of the means over T, plus the within-task variance over T·S.
    expected = values.mean(axis=1).var() / 6 + values.var(axis=1).mean() / 24
    assert draws.mean() == pytest.approx(values.mean(), abs=0.01)
    assert draws.var() == pytest.approx(expected, rel=0.05)


def test_resampled_counts_have_the_moments_of_resampled_samples() -> None:
    n, c = np.array([[10], [20]]), np.array([[[3, 0]], [[20, 5]]])
    n_draws, c_draws = statistics.resample_counts(n, c, 40_000, rng())
    assert (n_draws.shape, c_draws.shape) == ((40_000, 2, 1, 1), (40_000, 2, 1, 2))
    first = c_draws[:, 0, 0, 0][n_draws[:, 0, 0, 0] == 10]
    assert first.mean() == pytest.approx(3, abs=0.05)
    assert first.var() == pytest.approx(10 * 0.3 * 0.7, rel=0.05)
    assert (c_draws[..., 1][n_draws[..., 0] == 10] == 0).all()
    assert (c_draws[..., 0][n_draws[..., 0] == 20] == 20).all()
    assert (c_draws[..., 1] <= c_draws[..., 0]).all()


def test_nested_counts_have_the_moments_of_resampled_samples() -> None:
    _, draws = statistics.resample_counts(np.array([[10]]), np.array([[[6, 3]]]), 40_000, rng())
    fast, confident = draws[:, 0, 0].T
    assert confident.mean() == pytest.approx(3, abs=0.05)
    assert confident.var() == pytest.approx(10 * 0.3 * 0.7, rel=0.05)
    # Multinomial: Cov(fast, confident) = n (p_both − p_fast p_confident).
    assert np.cov(fast, confident)[0, 1] == pytest.approx(10 * (0.3 - 0.6 * 0.3), rel=0.05)
    assert (confident <= fast).all()


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=50), st.floats(-10, 10))
def test_percentile_interval_contains_its_estimate(draws: list[float], estimate: float) -> None:
    low, high = statistics.percentile_interval(np.array(draws), estimate, 0.95)
    assert low <= estimate <= high


def test_percentile_interval_is_numpys_quantiles() -> None:
    assert statistics.percentile_interval(np.arange(101.0), 50, 0.9) == pytest.approx((5, 95))


@pytest.mark.parametrize("value", [0.0, 1.0, 1.0 - 2**-52])  # the last is a sum of probabilities that is 1
def test_unanimous_outcomes_get_wilsons_interval_over_tasks(value: float) -> None:
    expected = binomtest(round(5 * value), 5).proportion_ci(method="wilson")
    found = statistics.proportion_interval(np.full(100, value), value, np.full((5, 2), value), 0.95)
    assert found == pytest.approx((expected.low, expected.high))
    sizes = np.full(5, 8)
    clustered = statistics.cluster_interval((sizes * value).round().astype(int), sizes, 100, 0.95, rng())
    assert clustered == pytest.approx((expected.low, expected.high))


def test_one_task_with_all_successes_leaves_the_upper_end_at_wilsons() -> None:
    rates = np.array([[0.0, 1 / 32], *[[0.0, 0.0]] * 4])
    draws = rng().choice(rates.mean(axis=1), (1000, 5)).mean(axis=1)
    (of_one, of_none) = (
        statistics.proportion_interval(draws, float(x.mean()), x, 0.95) for x in (rates, np.zeros((5, 2)))
    )
    assert (of_one.low, draws.max() < 0.1) == (0, True)
    assert of_one.high >= of_none.high  # one success more tells of no lower rate
    failures = statistics.proportion_interval(1 - draws, float(1 - rates.mean()), 1 - rates, 0.95)
    assert failures == pytest.approx((1 - of_one.high, 1 - of_one.low), abs=1e-6)


counts = st.lists(st.integers(1, 8).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1, max_size=8)


@given(counts)
def test_cluster_interval_contains_the_rate_and_lies_in_range(clusters: list[tuple[int, int]]) -> None:
    successes, sizes = np.array(clusters).T
    low, high = statistics.cluster_interval(successes, sizes, 100, 0.95, rng())
    assert 0 <= low <= successes.sum() / sizes.sum() <= high <= 1


def test_cluster_interval_enumerates_two_tasks() -> None:
    # Two tasks, 0/4 and 4/4: the resampled rate is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4.
    assert statistics.cluster_interval(np.array([0, 4]), np.array([4, 4]), 2000, 0.95, rng()) == (0, 1)
    # At 40 % coverage only the middle half remains.
    assert statistics.cluster_interval(np.array([0, 4]), np.array([4, 4]), 2000, 0.4, rng()) == (0.5, 0.5)


def test_cluster_interval_is_wider_than_independent_rollouts_would_be() -> None:
    successes, sizes = np.array([0, 8, 0, 8, 8, 0, 8, 0]), np.full(8, 8)
    low, high = statistics.cluster_interval(successes, sizes, 2000, 0.95, rng())
    independent = binomtest(32, 64).proportion_ci(method="wilson")
    assert high - low > 1.5 * (independent.high - independent.low)


def test_cluster_interval_of_one_task_is_wilsons() -> None:
    independent = binomtest(3, 8).proportion_ci(method="wilson")
    found = statistics.cluster_interval(np.array([3]), np.array([8]), 100, 0.95, rng())
    assert found == pytest.approx((independent.low, independent.high))


def test_difference_interval_is_newcombes() -> None:
    # Newcombe (1998), example (a): 56/70 − 48/80, method 10 without continuity correction: 0.0524 to 0.3339.
    last, first = 56 / 70, 48 / 80
    intervals = [Interval(*map(float, statistics.wilson_interval(*counts))) for counts in ((48, 80), (56, 70))]
    found = statistics.difference_interval(first, intervals[0], last, intervals[1])
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_streams_are_reproducible_and_named() -> None:
    first = statistics.generator(7, "scaling", "one").random(4)
    np.testing.assert_array_equal(statistics.generator(7, "scaling", "one").random(4), first)
    assert not np.array_equal(statistics.generator(7, "scaling", "two").random(4), first)
    assert not np.array_equal(statistics.generator(8, "scaling", "one").random(4), first)
