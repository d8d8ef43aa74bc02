"""Rank correlation of surprisal and speedup over samples, many of which are the same candidate.

At low temperature most samples are duplicates. A candidate is measured once, so its samples are one observation of a
speedup and not many: intervals resample candidates (within their task) and the null permutes speedups between candidates.
The p-value of independent samples, which papers print, is given beside them; it is too small.

Axes: N samples, G groups of samples that are alike, C candidates, B resamples or permutations, U distinct values.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


RESOLUTION = 2e-5  # nats


class Samples(NamedTuple):
    """Samples of one or more tasks. Equal numbers in `candidate_N` mean one candidate, hence one task and one speedup."""

    surprisal_N: Floats
    speedup_N: Floats
    task_N: Ints
    candidate_N: Ints


class Association(NamedTuple):
    """Spearman's ρ, its interval, the central range of the null, and two-sided p-values; None where ρ is undefined."""

    rho: float | None
    low: float | None
    high: float | None
    null_low: float | None
    null_high: float | None
    p_permutation: float | None
    p_independent: float | None


UNDEFINED = Association(None, None, None, None, None, None, None)


def association(
    samples: Samples,
    resamples: int,
    confidence: float,
    rng: np.random.Generator,
    within: bool = False,
    control_N: Floats | None = None,
) -> Association:
    """ρ of surprisal and speedup, pooled over tasks; or of their ranks within each task, permuted within it (`within`).

    With `control_N` (the length of each sample, say) it is the partial ρ: of what a line through the ranks of the control
    leaves of both. Its null permutes speedups all the same, so it is that the speedup goes with neither of the two.
    Undefined with fewer than three candidates, or where one of the two is constant, or follows the control exactly.
    """
    first_C, candidate_N = np.unique(samples.candidate_N, return_index=True, return_inverse=True)[1:]
    if len(first_C) < 3:
        return UNDEFINED
    first_G, weight_G = _groups(candidate_N, samples.surprisal_N, control_N)
    surprisal_G, speedup_G = samples.surprisal_N[first_G], samples.speedup_N[first_G]
    strata_G = (samples.task_N if within else np.zeros_like(samples.task_N))[first_G]
    candidate_G = candidate_N[first_G]
    control_G = None if control_N is None else control_N[first_G]

    def correlation(weight: Floats, speedup_rank: Floats | None = None) -> Floats:
        control = None if control_G is None else _ranks(control_G, weight, strata_G)
        found = _ranks(speedup_G, weight, strata_G) if speedup_rank is None else speedup_rank
        return _correlation(_ranks(surprisal_G, weight, strata_G), found, control, weight)

    observed = correlation(weight_G)
    if not np.isfinite(observed):
        return UNDEFINED
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    draws_B = correlation(weight_G * times_drawn(samples.task_N[first_C], resamples, rng)[:, candidate_G])
    defined_B = draws_B[np.isfinite(draws_B)]
    low, high = np.quantile(defined_B, tails) if len(defined_B) else (observed, observed)
    strata_C = (samples.task_N if within else np.zeros_like(samples.task_N))[first_C]
    order_BG = _permutations(strata_C, resamples, rng)[:, candidate_G]
    null_ranks_BG = _permuted_ranks(samples.speedup_N[first_C], order_BG, weight_G, strata_G)
    null_B = np.nan_to_num(correlation(weight_G, null_ranks_BG))
    null_low, null_high = np.quantile(null_B, tails)
    extreme = np.count_nonzero(np.abs(null_B) >= abs(observed) - 1e-12)
    return Association(
        rho=float(observed),
        low=float(min(low, observed)),
        high=float(max(high, observed)),
        null_low=float(null_low),
        null_high=float(null_high),
        p_permutation=(1 + extreme) / (1 + resamples),
        p_independent=None if within else _p_independent(float(observed), len(candidate_N), control_N is not None),
    )


def resolved(surprisal_N: Floats) -> Floats:
    """Surprisal in which values that follow one another within `RESOLUTION` are equal, to the least of them.

    Float32 gives the same tokens a surprisal that differs by some 1e-6 nats from batch to batch, which must not rank them.
    """
    if len(surprisal_N) == 0:
        return surprisal_N
    order = np.argsort(surprisal_N, kind="stable")
    ascending = surprisal_N[order]
    starts = np.append(True, np.diff(ascending) > RESOLUTION)
    result = np.empty_like(ascending)
    result[order] = ascending[starts][starts.cumsum() - 1]
    return result


def times_drawn(task_C: Ints, resamples: int, rng: np.random.Generator) -> Floats:
    """`times_BC`: how often each candidate is drawn when candidates are drawn with replacement within their task."""
    times_BC = np.empty((resamples, len(task_C)))
    for task in np.unique(task_C):
        own = np.flatnonzero(task_C == task)
        times_BC[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=resamples)
    return times_BC


def resampled_means(value_N: Floats, share_N: Floats, place_N: Ints, times_BC: Floats) -> Floats:
    """Means of a bootstrap (B,): each sample counts by its share, and as often as its candidate `place_N` is drawn.

    Resamples in which none counts are left out. Sums over candidates come first: samples may be millions.
    """
    share_C, value_C = (np.bincount(place_N, of_N, times_BC.shape[1]) for of_N in (share_N, share_N * value_N))
    total_B = times_BC @ share_C
    means: Floats = (times_BC @ value_C)[total_B > 0] / total_B[total_B > 0]
    return means


def _groups(candidate_N: Ints, surprisal_N: Floats, control_N: Floats | None) -> tuple[Ints, Floats]:
    """The first of every group of samples that are alike in all that enters, and how many they are: G of N are left."""
    columns = [candidate_N, surprisal_N, *([] if control_N is None else [control_N])]
    _, first_G, count_G = np.unique(np.column_stack(columns), axis=0, return_index=True, return_counts=True)
    return first_G, count_G.astype(np.float64)


def _permutations(strata_C: Ints, count: int, rng: np.random.Generator) -> Ints:
    """`order_BC`: random permutations of the candidates that keep each within its stratum."""
    by_stratum_C = np.argsort(strata_C, kind="stable")
    keys_BC = strata_C[by_stratum_C] + rng.random((count, len(strata_C)))
    order_BC = np.empty((count, len(strata_C)), dtype=np.int64)
    order_BC[:, by_stratum_C] = by_stratum_C[np.argsort(keys_BC, axis=1)]
    return order_BC


def _ranks(values_G: Floats, weight: Floats, strata_G: Ints) -> Floats:
    """Mid-ranks of values that are there `weight` times ((G,) or (B, G)), within each stratum, as shares of its weight."""
    ranks = np.empty(weight.shape)
    for stratum in np.unique(strata_G):
        own = np.flatnonzero(strata_G == stratum)
        own = own[np.argsort(values_G[own], kind="stable")]
        new = np.append(True, np.diff(values_G[own]) != 0)
        middle = _middles(np.add.reduceat(weight[..., own], np.flatnonzero(new), axis=-1))
        ranks[..., own] = middle[..., new.cumsum() - 1]
    return ranks


def _permuted_ranks(speedup_C: Floats, order_BG: Ints, weight_G: Floats, strata_G: Ints) -> Floats:
    """Mid-ranks, as of `_ranks`, of other candidates' speedups: those of the candidates `order_BG`."""
    ranks_BG, resamples = np.empty(order_BG.shape), len(order_BG)
    for stratum in np.unique(strata_G):
        own = np.flatnonzero(strata_G == stratum)
        values, code = np.unique(speedup_C[order_BG[:, own]], return_inverse=True)
        code_BG = code.reshape(resamples, -1)
        place_BG = code_BG + len(values) * np.arange(resamples)[:, None]
        weight_BG = np.broadcast_to(weight_G[own], code_BG.shape)
        total = np.bincount(place_BG.ravel(), weight_BG.ravel(), resamples * len(values)).astype(np.float64)
        weight_BU = total.reshape(resamples, -1)
        ranks_BG[:, own] = np.take_along_axis(_middles(weight_BU), code_BG, axis=1)
    return ranks_BG


def _middles(weight: Floats) -> Floats:
    """Mid-rank of each distinct value (last axis, ascending) that has this weight, as a share of the total."""
    middle: Floats = weight.cumsum(axis=-1) - weight + (weight + 1) / 2
    return middle / np.maximum(weight.sum(axis=-1, keepdims=True), 1)


def _p_independent(rho: float, count: int, is_partial: bool) -> float | None:
    """Two-sided p of ρ over independent samples: Student's t with a degree of freedom less for a control."""
    freedom = count - 2 - is_partial
    if freedom < 1:
        return None
    if abs(rho) >= 1:
        return 0.0
    return float(2 * student.sf(abs(rho) * np.sqrt(freedom / (1 - rho**2)), freedom))


def _correlation(x: Floats, y: Floats, control: Floats | None, weight: Floats) -> Floats:
    """Weighted correlation along the last axis, less what follows `control`; NaN where one of the two is constant."""
    weight = np.broadcast_to(weight, np.broadcast_shapes(x.shape, y.shape))
    x, y = _centred(x, weight), _centred(y, weight)
    if control is not None:
        control = _centred(control, weight)
        x, y = _residual(x, control, weight), _residual(y, control, weight)
    spread = (weight * x * x).sum(axis=-1) * (weight * y * y).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-20, (weight * x * y).sum(axis=-1) / np.sqrt(spread), np.nan)


def _centred(x: Floats, weight: Floats) -> Floats:
    centred: Floats = x - (weight * x).sum(axis=-1, keepdims=True) / weight.sum(axis=-1, keepdims=True)
    return centred


def _residual(x: Floats, control: Floats, weight: Floats) -> Floats:
    """Of centred x, what is not along centred `control`; all of it where the control is constant."""
    along = (weight * x * control).sum(axis=-1, keepdims=True)
    size = (weight * control * control).sum(axis=-1, keepdims=True)
    residual: Floats = x - np.divide(along, size, out=np.zeros_like(along), where=size > 1e-12) * control
    return residual
