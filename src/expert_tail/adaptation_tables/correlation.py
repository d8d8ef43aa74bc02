"""Rank correlation of surprisal and speedup over samples, many of which are the same candidate.

At low temperature most samples are duplicates. A candidate is measured once, so its samples are one observation of a
speedup and not many: intervals resample candidates (within their task) and the null permutes speedups between candidates.
The p-value of independent samples, which papers print, is given beside them; it is too small.

Axes: N samples, C candidates, B resamples or permutations.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as student

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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
    surprisal_N, speedup_N, task_N, candidate_N = samples
    strata_N = task_N if within else np.zeros_like(task_N)
    first_C, candidate_N = np.unique(candidate_N, return_index=True, return_inverse=True)[1:]
    if len(first_C) < 3:
        return UNDEFINED
    rank_N, control_rank_N = _ranks(surprisal_N, strata_N), None
    if control_N is not None:
        control_rank_N = _ranks(control_N, strata_N)
    observed = _correlation(rank_N, _ranks(speedup_N, strata_N), control_rank_N)
    if not np.isfinite(observed):
        return UNDEFINED
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    weight_BN = bootstrap_weights(samples, resamples, rng)
    draws_B = _correlation(
        _weighted_ranks(surprisal_N, weight_BN, strata_N),
        _weighted_ranks(speedup_N, weight_BN, strata_N),
        None if control_N is None else _weighted_ranks(control_N, weight_BN, strata_N),
        weight_BN,
    )
    defined_B = draws_B[np.isfinite(draws_B)]
    low, high = np.quantile(defined_B, tails) if len(defined_B) else (observed, observed)
    permuted_BN = speedup_N[first_C][_permutations(strata_N[first_C], resamples, rng)][:, candidate_N]
    null_B = np.nan_to_num(_correlation(rank_N, _ranks(permuted_BN, strata_N), control_rank_N))
    null_low, null_high = np.quantile(null_B, tails)
    extreme = np.count_nonzero(np.abs(null_B) >= abs(observed) - 1e-12)
    return Association(
        rho=float(observed),
        low=float(min(low, observed)),
        high=float(max(high, observed)),
        null_low=float(null_low),
        null_high=float(null_high),
        p_permutation=(1 + extreme) / (1 + resamples),
        p_independent=None if within else _p_independent(float(observed), len(rank_N), control_N is not None),
    )


def bootstrap_weights(samples: Samples, resamples: int, rng: np.random.Generator) -> Floats:
    """`weight_BN`: how often each sample is drawn when candidates are drawn with replacement within their task."""
    first_C, candidate_N = np.unique(samples.candidate_N, return_index=True, return_inverse=True)[1:]
    task_C = samples.task_N[first_C]
    times_BC = np.empty((resamples, len(first_C)))
    for task in np.unique(task_C):
        own = np.flatnonzero(task_C == task)
        times_BC[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=resamples)
    return times_BC[:, candidate_N]


def _permutations(strata_C: Ints, count: int, rng: np.random.Generator) -> Ints:
    """`order_BC`: random permutations of the candidates that keep each within its stratum."""
    by_stratum_C = np.argsort(strata_C, kind="stable")
    keys_BC = strata_C[by_stratum_C] + rng.random((count, len(strata_C)))
    order_BC = np.empty((count, len(strata_C)), dtype=np.int64)
    order_BC[:, by_stratum_C] = by_stratum_C[np.argsort(keys_BC, axis=1)]
    return order_BC


def _ranks(values: Floats, strata_N: Ints) -> Floats:
    """Mid-ranks along the last axis within each stratum, as shares of its size."""
    ranks = np.empty(values.shape)
    for stratum in np.unique(strata_N):
        own = strata_N == stratum
        ranks[..., own] = rankdata(values[..., own], axis=-1) / own.sum()
    return ranks


def _weighted_ranks(values_N: Floats, weight_BN: Floats, strata_N: Ints) -> Floats:
    """Mid-ranks of samples that are there `weight_BN` times, within each stratum, as shares of its total weight."""
    ranks_BN = np.empty(weight_BN.shape)
    for stratum in np.unique(strata_N):
        own = np.flatnonzero(strata_N == stratum)
        value_of_own = np.unique(values_N[own], return_inverse=True)[1]
        weight_BU = np.stack(
            [weight_BN[:, own[value_of_own == u]].sum(axis=1) for u in range(value_of_own.max() + 1)], axis=1
        )
        middle_BU = weight_BU.cumsum(axis=1) - weight_BU + (weight_BU + 1) / 2
        ranks_BN[:, own] = (middle_BU / np.maximum(weight_BU.sum(axis=1, keepdims=True), 1))[:, value_of_own]
    return ranks_BN


def _p_independent(rho: float, count: int, is_partial: bool) -> float | None:
    """Two-sided p of ρ over independent samples: Student's t with a degree of freedom less for a control."""
    freedom = count - 2 - is_partial
    if freedom < 1:
        return None
    if abs(rho) >= 1:
        return 0.0
    return float(2 * student.sf(abs(rho) * np.sqrt(freedom / (1 - rho**2)), freedom))


def _correlation(x: Floats, y: Floats, control: Floats | None = None, weight: Floats | None = None) -> Floats:
    """Pearson's correlation along the last axis, less what follows `control`; NaN where one of the two is constant."""
    weight = np.ones(np.broadcast_shapes(x.shape, y.shape)) if weight is None else weight
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
