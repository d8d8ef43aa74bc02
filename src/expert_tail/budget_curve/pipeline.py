"""The deployable pipeline on the samples of one task and seed: rank, evaluate the first m, deploy the fastest correct one.

Selection strategies check all K samples before they choose; this pipeline pays for m evaluations only. A ranking sees no
verdict: surprisal puts the highest NLL first, confidence the lowest, ties go to the lowest sample index. `distinct-…`
ranks each distinct candidate once, at its first place in that order, and puts duplicates after all of them. A random
order is not drawn: results are exact expectations over all orders, as P(the i-th slowest of n is the fastest of m) is
hypergeometric (`statistics.best_of_k_weights`). Of equally fast samples the one of the lowest index is deployed.

Axes: B bootstrap resamples, N samples, M budgets, Q outcomes, C distinct candidates.
"""

from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expert_tail.aggregate.statistics import Floats, best_of_k_weights, pass_at_k
from expert_tail.select.strategies import SURPRISAL

Integers = NDArray[np.int64]
OUTCOMES = ("fast_1", "fast_1_confident", "correct", "speedup", "speedup_low")
ALL_UP_TO = 16
_BLOCK = 2**20  # samples of all resamples that are worked on at once


class Ranking(NamedTuple):
    order: Literal["surprisal", "confidence", "random"]
    is_distinct: bool
    surprisal: str | None  # sum, mean; None where no surprisal is needed

    @property
    def name(self) -> str:
        return f"distinct-{self.order}" if self.is_distinct else self.order


RANKINGS = [
    *(Ranking(order, d, kind) for d in (False, True) for order in ("surprisal", "confidence") for kind in SURPRISAL),
    *(Ranking("random", d, None) for d in (False, True)),
]


class Cell:
    """The samples of one task and seed, as arrays in the order of their index.

    `samples` has sample, candidate_sha256, nll, nll_mean, status, and of `OUTCOMES` all but correct, 0 unless it is.
    """

    def __init__(self, samples: pl.DataFrame) -> None:
        samples = samples.sort("sample").with_columns(correct=pl.col("status") == "correct")
        self.n = samples.height
        self.candidate_N: Integers = samples["candidate_sha256"].rank("dense").to_numpy().astype(np.int64) - 1
        self.outcome_NQ: Floats = samples.select(pl.col(OUTCOMES).cast(pl.Float64)).to_numpy()
        self.nll_N = {kind: samples[column].to_numpy() for kind, column in SURPRISAL.items()}
        # Of evaluated samples the last in this order is deployed: incorrect ones come first, then the slow ones.
        correct_N, speedup_N = (self.outcome_NQ[:, OUTCOMES.index(name)] for name in ("correct", "speedup"))
        self.by_quality_N: Integers = np.lexsort((-np.arange(self.n), speedup_N, correct_N))
        self.quality_N = inverse(self.by_quality_N)


def budgets_up_to(n: int) -> list[int]:
    """1, 2, …, 16, then powers of two, and n."""
    powers = [2**i for i in range(ALL_UP_TO.bit_length(), n.bit_length())]
    return sorted({*range(1, min(n, ALL_UP_TO) + 1), *powers, n})


def deployed(cell: Cell, ranking: Ranking, budgets: list[int], rows_BN: Integers | None = None) -> Floats:
    """Expected outcomes (B, M, Q) of what is deployed after the first m samples of the ranking were evaluated.

    `rows_BN` are the samples to work with, as indices with repeats: bootstrap resamples. Left out: all samples once, so
    that B = 1. A repeated sample is a duplicate. Raises `ValueError` where a budget is not in 1..N.
    """
    rows_BN = np.arange(cell.n)[None] if rows_BN is None else rows_BN
    if not 1 <= min(budgets) <= max(budgets) <= rows_BN.shape[1]:
        raise ValueError(f"budgets {min(budgets)}..{max(budgets)} are not in 1..{rows_BN.shape[1]}")
    size = max(1, _BLOCK // rows_BN.shape[1])
    blocks = [rows_BN[start : start + size] for start in range(0, len(rows_BN), size)]
    of_block = _expected if ranking.order == "random" else _first
    return np.concatenate([of_block(cell, ranking, budgets, block) for block in blocks])


def _first(cell: Cell, ranking: Ranking, budgets: list[int], rows_BN: Integers) -> Floats:
    order_BN = ranked(cell, ranking, rows_BN)
    best_BN = np.maximum.accumulate(cell.quality_N[order_BN], axis=1)
    deployed_BM = cell.by_quality_N[best_BN[:, np.array(budgets) - 1]]
    outcomes: Floats = cell.outcome_NQ[deployed_BM]
    return outcomes


def ranked(cell: Cell, ranking: Ranking, rows_BN: Integers) -> Integers:
    """The samples `rows_BN` in the order of a ranking that is not random."""
    assert ranking.surprisal is not None
    nll_N = cell.nll_N[ranking.surprisal]
    order_N = np.lexsort((np.arange(cell.n), -nll_N if ranking.order == "surprisal" else nll_N))
    order_BN: Integers = order_N[np.sort(inverse(order_N)[rows_BN], axis=1)]
    if ranking.is_distinct:
        later_BN = ~is_first(cell.candidate_N[order_BN])
        order_BN = np.take_along_axis(order_BN, np.argsort(later_BN, axis=1, kind="stable"), axis=1)
    return order_BN


def _expected(cell: Cell, ranking: Ranking, budgets: list[int], rows_BN: Integers) -> Floats:
    rows_BN = np.sort(rows_BN, axis=1)
    kept_BN = is_first(cell.candidate_N[rows_BN]) if ranking.is_distinct else np.ones(rows_BN.shape, dtype=bool)
    quality_BN = np.sort(np.where(kept_BN, cell.quality_N[rows_BN], -1), axis=1)  # what is not kept comes first
    n_B = kept_BN.sum(axis=1)
    result = np.empty((len(rows_BN), len(budgets), len(OUTCOMES)))
    for n in np.unique(n_B).tolist():
        chosen = n_B == n
        outcome_bnQ = cell.outcome_NQ[cell.by_quality_N[quality_BN[chosen, -n:]]]
        weights_nM = np.stack([best_of_k_weights(n, min(m, n)) for m in budgets], axis=1)
        result[chosen] = np.einsum("bnq,nm->bmq", outcome_bnQ, weights_nM, optimize=True)
    return result


def distinct_evaluations(cell: Cell, ranking: Ranking, budgets: list[int]) -> Floats:
    """Expected distinct candidates (M,) among the first m samples: evaluations, as a duplicate's verdict is known."""
    counts_C = np.bincount(cell.candidate_N)
    if ranking.is_distinct:
        return np.minimum(budgets, len(counts_C)).astype(np.float64)
    if ranking.order == "random":
        return np.array([pass_at_k(cell.n, counts_C, m).sum() for m in budgets])
    order_BN = ranked(cell, ranking, np.arange(cell.n)[None])
    seen_N = np.cumsum(is_first(cell.candidate_N[order_BN])[0])
    return seen_N[np.array(budgets) - 1].astype(np.float64)


def is_first(candidate_BN: Integers) -> NDArray[np.bool_]:
    """Where in its row (B, N) each candidate occurs for the first time."""
    order_BN = np.argsort(candidate_BN, axis=1, kind="stable")
    sorted_BN = np.take_along_axis(candidate_BN, order_BN, axis=1)
    is_new_BN = np.ones(candidate_BN.shape, dtype=bool)
    is_new_BN[:, 1:] = sorted_BN[:, 1:] != sorted_BN[:, :-1]
    first_BN = np.empty_like(is_new_BN)
    np.put_along_axis(first_BN, order_BN, is_new_BN, axis=1)
    return first_BN


def inverse(permutation_N: Integers) -> Integers:
    result = np.empty_like(permutation_N)
    result[permutation_N] = np.arange(len(permutation_N))
    return result
