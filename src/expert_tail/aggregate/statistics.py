"""Estimators and intervals. Axes: B bootstrap resamples, T tasks, S seeds, N samples of one (task, seed), M metrics.

Three sources of uncertainty lie behind a mean over tasks: which tasks, which samples, and (only for strategies) which
of them was picked. The bootstrap is hierarchical: tasks are drawn with replacement, then what lies within each drawn
task. A draw of a task takes all its seeds along, because its difficulty is common to them. Seeds are no level of
their own: a seed labels an independent draw of samples, no more.

A percentile interval is widened where needed to contain its estimate (the bootstrap of pass@K is biased down for K
near N). Where no variation was observed at all, every outcome 0 or every outcome 1, resampling reports none either;
the interval is then Wilson's with the tasks as the trials, which is conservative.
"""

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]
_DIGITS = 9  # of a rate: sums of probabilities that are 1 come out as 1 up to rounding


class Interval(NamedTuple):
    low: float
    high: float


def generator(seed: int, *names: str) -> np.random.Generator:
    """A random stream for `names`: one that adding another subset or table does not shift."""
    return np.random.default_rng([seed, zlib.crc32("/".join(names).encode())])


def best_of_k_weights(n: int, k: int) -> Floats:
    """P(the i-th smallest of n values is the largest of a random k-subset) = C(i−1, k−1) / C(n, k), for i = 1..n;
    shape (n,).

    By recursion from the largest value, w_n = k/n and w_(i−1) = w_i (i−k)/(i−1): exact to rounding, without large
    numbers.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} is not in 1..n = {n}")
    i = np.arange(n, 1, -1, dtype=np.float64)
    factors = np.maximum(i - k, 0) / (i - 1)
    weights: Floats = k / n * np.cumprod(np.concatenate(([1.0], factors)), dtype=np.float64)
    return weights[::-1]


def pass_at_k(n: int, c: ArrayLike, k: int) -> Floats:
    """Unbiased P(at least one of k samples succeeds) = 1 − C(n−c, k) / C(n, k), where c (any shape) of n succeeded."""
    table = np.concatenate(([0.0], np.cumsum(best_of_k_weights(n, k)[::-1])))
    table[n - k + 1 :] = 1.0  # fewer than k failures: certain, without rounding
    return np.minimum(table, 1.0)[np.asarray(c)]


def pass_at_k_cells(n: NDArray[np.integer], c: NDArray[np.integer], k: int) -> Floats:
    """`pass_at_k` where the number of samples n differs between cells; n broadcasts to the shape of c."""
    n = np.broadcast_to(n, c.shape)
    result = np.empty(c.shape)
    for size in np.unique(n):
        cells = n == size
        result[cells] = pass_at_k(int(size), c[cells], k)
    return result


def expected_best(values: Floats, k: int) -> float:
    """Exact expectation of the largest of k of the values (N,), drawn without replacement."""
    return float(np.sort(values) @ best_of_k_weights(len(values), k))


def std_over_seeds(values_TS: Floats) -> float | None:
    """Sample standard deviation (ddof = 1) over seeds of the mean over tasks; None with one seed."""
    if values_TS.shape[1] < 2:
        return None
    return float(values_TS.mean(axis=0).std(ddof=1))


def hierarchical_weights(tasks: int, seeds: int, resamples: int, rng: np.random.Generator) -> Floats:
    """Weights (B, T, S), summing to 1 over (T, S), of a bootstrap over tasks, then over the seeds within a task.

    A strategy makes one pick from a seed's samples, so seeds are the independent observations within a task. A task
    drawn m times draws m·S of its seeds. A weighted sum of outcomes (T, S) is a bootstrap mean; sharing the weights
    keeps the resamples of all strategies and metrics paired.
    """
    times_BT = rng.multinomial(tasks, np.full(tasks, 1 / tasks), size=resamples)
    counts_BTS = rng.multinomial(times_BT * seeds, np.full(seeds, 1 / seeds))
    return counts_BTS / (tasks * seeds)


def resample_counts(
    n_TS: NDArray[np.integer], c_TSM: NDArray[np.integer], resamples: int, rng: np.random.Generator
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Bootstrap over tasks, then over the samples within each (task, seed): n* (B, T, S, 1) and c* (B, T, S, M).

    The number of successes among n samples drawn with replacement from n of which c succeeded is Binomial(n, c/n), so
    no sample is touched. Metrics are nested: the successes of each are among those of the one before it.
    """
    tasks_BT = rng.integers(len(n_TS), size=(resamples, len(n_TS)))
    n = drawn = n_TS[tasks_BT]
    observed = n
    counts = []
    for c in np.moveaxis(c_TSM, -1, 0):
        c = c[tasks_BT]
        drawn = rng.binomial(drawn, c / np.maximum(observed, 1))
        counts.append(drawn)
        observed = c
    return n[..., None], np.stack(counts, axis=-1)


def percentile_interval(draws: Floats, estimate: float, confidence: float) -> Interval:
    """Percentile interval of bootstrap draws (B,), widened where needed to contain the estimate."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(min(low, estimate)), float(max(high, estimate)))


def wilson_interval(successes: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson's score interval of a proportion, elementwise."""
    n = np.asarray(n, dtype=np.float64)
    p = np.asarray(successes, dtype=np.float64) / n
    z2 = norm.ppf((1 + confidence) / 2) ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # Exactly 0 or 1 at the ends, where rounding would leave 1e-17.
    return np.where(p == 0, 0.0, centre - half).clip(0, 1), np.where(p == 1, 1.0, centre + half).clip(0, 1)


def proportion_interval(draws: Floats, estimate: float, outcomes: Floats, confidence: float) -> Interval:
    """Interval of a mean over tasks of proportions, from its bootstrap draws (B,).

    `outcomes` (T, ...) are the observed rates behind it: Wilson's interval over the T tasks where all are 0 or all
    are 1, up to rounding. Where a single task has all successes, or all failures, that end is no nearer than
    Wilson's: resamples of tasks cannot tell how often others would have some.
    """
    of_tasks = _unanimous_interval(round(estimate, _DIGITS), len(outcomes), confidence)
    outcomes = outcomes.round(_DIGITS)
    if (outcomes == 0).all() or (outcomes == 1).all():
        return of_tasks
    low, high = percentile_interval(draws, estimate, confidence)
    rest = tuple(range(1, outcomes.ndim))
    if len(outcomes) > 1 and (outcomes > 0).any(axis=rest).sum() == 1:
        high = max(high, of_tasks.high)
    if len(outcomes) > 1 and (outcomes < 1).any(axis=rest).sum() == 1:
        low = min(low, of_tasks.low)
    return Interval(low, high)


def cluster_interval(
    successes: NDArray[np.integer],
    sizes: NDArray[np.integer],
    resamples: int,
    confidence: float,
    rng: np.random.Generator,
) -> Interval:
    """Interval of Σ successes / Σ sizes over clusters (T,): the training rollouts of one task share its difficulty.

    Whole tasks are drawn with replacement; the rate of a resample is a ratio, because tasks may have unequal numbers of
    rollouts. Of a single task it is Wilson's interval over the rollouts, which is about that task alone.
    """
    clusters = len(sizes)
    if clusters == 1:
        low, high = wilson_interval(float(successes.sum()), float(sizes.sum()), confidence)
        return Interval(float(low), float(high))
    estimate = float(successes.sum() / sizes.sum())
    if estimate in (0, 1):
        return _unanimous_interval(estimate, clusters, confidence)
    times_BT = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    return percentile_interval((times_BT @ successes) / (times_BT @ sizes), estimate, confidence)


def _unanimous_interval(estimate: float, tasks: int, confidence: float) -> Interval:
    low, high = wilson_interval(estimate * tasks, tasks, confidence)
    return Interval(float(low), float(high))


def difference_interval(first: float, first_interval: Interval, last: float, last_interval: Interval) -> Interval:
    """Interval of last − first for independent estimates, from their own intervals (Newcombe's method 10, MOVER)."""
    gain = last - first
    low = gain - np.hypot(last - last_interval.low, first_interval.high - first)
    high = gain + np.hypot(last_interval.high - last, first - first_interval.low)
    return Interval(float(low), float(high))
