"""Statistics of paired timings: the interval of a speedup, and what replicates agree on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from expert_tail.evaluator.timing import Speedup, agreed, order_statistic, paired_speedup


@pytest.mark.parametrize("n", [*range(6, 60), 100, 499, 1000])
def test_order_statistic_is_that_of_the_binomial(n: int) -> None:
    k = order_statistic(n)
    assert binom.cdf(k - 1, n, 0.5) <= 0.025 < binom.cdf(k, n, 0.5)


@pytest.mark.parametrize("n", [1, 5])
def test_too_few_pairs_have_no_interval(n: int) -> None:
    with pytest.raises(ValueError, match="at least 6"):
        order_statistic(n)


times = st.floats(1e-6, 10.0)
pairs = st.lists(st.tuples(times, times), min_size=6, max_size=60)


@given(pairs, st.floats(0.01, 100.0))
def test_interval_holds_the_median_scales_and_inverts(values: list[tuple[float, float]], factor: float) -> None:
    baseline, measured = zip(*values, strict=True)
    found = paired_speedup(baseline, measured)
    assert found.low <= found.median * (1 + 1e-12)
    assert found.median <= found.high * (1 + 1e-12)
    assert found.trials == len(values)
    scaled = paired_speedup([factor * b for b in baseline], measured)
    assert (scaled.low, scaled.high) == pytest.approx((factor * found.low, factor * found.high))
    swapped = paired_speedup(measured, baseline)
    assert (swapped.low, swapped.high) == pytest.approx((1 / found.high, 1 / found.low))


@pytest.mark.parametrize("n", [6, 12, 48])
@pytest.mark.parametrize("noise", ["lognormal", "cauchy", "bursts"])
def test_interval_covers_the_true_ratio_whatever_the_noise(n: int, noise: str) -> None:
    rng, repeats, covered = np.random.default_rng(n), 2000, 0
    for _ in range(repeats):
        logs = {
            "lognormal": lambda: rng.normal(0.0, 0.2, n),
            "cauchy": lambda: np.clip(rng.standard_cauchy(n), -20, 20),
            "bursts": lambda: rng.normal(0.0, 0.01, n) + 3.0 * (rng.random(n) < 0.2) * rng.choice([-1, 1], n),
        }[noise]()
        found = paired_speedup(list(1.7 * np.exp(logs)), [1.0] * n)
        covered += found.low <= 1.7 <= found.high
    assert covered / repeats > 0.95 - 3 * np.sqrt(0.05 * 0.95 / repeats)


def test_replicates_agree_on_no_more_than_all_of_them_show() -> None:
    replicates = [Speedup(m, m - 0.02, m + 0.03, 1 / m, 1.0, 12) for m in (1.05, 1.01, 1.2)]
    found = agreed(replicates)
    assert (found.median, found.kernel_ms, found.trials) == (1.05, 1 / 1.05, 36)
    assert (found.low, found.high) == pytest.approx((0.99, 1.23))


def test_interval_may_be_wider_far_from_one() -> None:
    assert not Speedup(1.0, 0.97, 1.03, 1, 1, 12).is_tight(0.02)
    assert Speedup(1.0, 0.995, 1.005, 1, 1, 12).is_tight(0.02)
    assert Speedup(4.0, 3.8, 4.2, 1, 1, 12).is_tight(0.02)
    assert not Speedup(4.0, 3.0, 5.0, 1, 1, 12).is_tight(0.02)
