"""The deployable pipeline on the samples of one task and seed: rank, evaluate the first m, deploy the fastest correct one.

Selection strategies check all K samples before they choose; this pipeline pays for m evaluations only. A ranking sees no
verdict: surprisal puts the highest NLL first, confidence the lowest, ties go to the lowest sample index. `distinct-…`
ranks each distinct candidate once, at its first place in that order, and puts duplicates after all of them. A random
order is not drawn: results are exact expectations over all orders, as P(the i-th slowest of n is the fastest of m) is
hypergeometric (`statistics.best_of_k_weights`). Of equally fast candidates the one whose hash comes first is deployed.

Samples that are alike in all that counts here are one group with a count, which makes a bootstrap of thousands of samples one of
their few dozen groups.

Axes: B bootstrap resamples, N samples, G groups, M budgets, Q outcomes, C distinct candidates.
"""

from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expert_tail.aggregate.statistics import Floats, best_of_k_weights, pass_at_k
from expert_tail.select.strategies import SURPRISAL
from expert_tail.success import CORRECT

Integers = NDArray[np.int64]
OUTCOMES = ("fast_1", "fast_1_confident", "correct", "speedup", "speedup_low")
ALL_UP_TO = 16
_BLOCK = 2**22  # groups of all resamples and budgets that are worked on at once


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
    """The samples of one task and seed, in groups of equal ones, in the order of the first sample of each.

    `samples` has sample, candidate_sha256, nll, nll_mean, status, and of `OUTCOMES` all but correct, 0 unless it is. A sample is
    a group of its own where its index decides: where another candidate has the same surprisal.
    """

    def __init__(self, samples: pl.DataFrame) -> None:
        samples = samples.sort("sample").with_columns(correct=CORRECT)
        n_alike = [pl.col("candidate_sha256").n_unique().over(column) for column in SURPRISAL.values()]
        is_tied = pl.any_horizontal(n > 1 for n in n_alike)
        same = ["candidate_sha256", *SURPRISAL.values(), pl.when(is_tied).then("sample").alias("tied")]
        groups = samples.group_by(same, maintain_order=True).agg(pl.first("sample", *OUTCOMES), pl.len().alias("count"))
        self.n = samples.height
        self.sample_G: Integers = groups["sample"].to_numpy()  # the first of each
        self.count_G: Integers = groups["count"].to_numpy().astype(np.int64)
        self.candidate_G: Integers = groups["candidate_sha256"].rank("dense").to_numpy().astype(np.int64) - 1
        self.outcome_GQ: Floats = groups.select(pl.col(OUTCOMES).cast(pl.Float64)).to_numpy()
        self.nll_G = {kind: groups[column].to_numpy() for kind, column in SURPRISAL.items()}
        # Of evaluated samples the last in this order is deployed: incorrect ones come first, then the slow ones.
        correct_G, speedup_G = (self.outcome_GQ[:, OUTCOMES.index(name)] for name in ("correct", "speedup"))
        self.by_quality_G: Integers = np.lexsort((-self.candidate_G, speedup_G, correct_G))

    def resampled(self, n_resamples: int, rng: np.random.Generator) -> Integers:
        """How often each group is drawn (B, G) when as many samples are drawn with replacement."""
        return rng.multinomial(self.n, self.count_G / self.n, size=n_resamples)


def budgets_up_to(n: int) -> list[int]:
    """1, 2, …, 16, then powers of two, and n."""
    powers = [2**i for i in range(ALL_UP_TO.bit_length(), n.bit_length())]
    return sorted({*range(1, min(n, ALL_UP_TO) + 1), *powers, n})


def deployed(cell: Cell, ranking: Ranking, budgets: list[int], counts_BG: Integers | None = None) -> Floats:
    """Expected outcomes (B, M, Q) of what is deployed after the first m samples of the ranking were evaluated.

    `counts_BG` are the samples to work with, of each group so many: `Cell.resampled`. Left out: all samples once, so that
    B = 1. A repeated sample is a duplicate. Raises `ValueError` where a budget is not in 1..N.
    """
    counts_BG = cell.count_G[None] if counts_BG is None else counts_BG
    if not 1 <= min(budgets) <= max(budgets) <= cell.n:
        raise ValueError(f"budgets {min(budgets)}..{max(budgets)} are not in 1..{cell.n}")
    size = max(1, _BLOCK // (counts_BG.shape[1] * len(budgets)))
    blocks = [counts_BG[start : start + size] for start in range(0, len(counts_BG), size)]
    of_block = _expected if ranking.order == "random" else _first
    return np.concatenate([of_block(cell, ranking, budgets, block) for block in blocks])


def _first(cell: Cell, ranking: Ranking, budgets: list[int], counts_BG: Integers) -> Floats:
    counts_BG, order_G = ranked(cell, ranking, counts_BG)
    before_BG = np.cumsum(counts_BG, axis=1) - counts_BG
    quality_BG = np.where(counts_BG > 0, inverse(cell.by_quality_G)[order_G], -1)
    best_BG = np.maximum.accumulate(quality_BG, axis=1)
    last_BM = np.stack([(before_BG < m).sum(axis=1) - 1 for m in budgets], axis=1)
    outcomes: Floats = cell.outcome_GQ[cell.by_quality_G[np.take_along_axis(best_BG, last_BM, axis=1)]]
    return outcomes


def ranked(cell: Cell, ranking: Ranking, counts_BG: Integers) -> tuple[Integers, Integers]:
    """Counts in the order of a ranking that is not random, and the groups in that order. Of a distinct ranking only the first
    sample of each candidate counts: those after them change nothing."""
    assert ranking.surprisal is not None
    nll_G = cell.nll_G[ranking.surprisal]
    order_G: Integers = np.lexsort((np.arange(len(nll_G)), -nll_G if ranking.order == "surprisal" else nll_G))
    counts_BG = counts_BG[:, order_G]
    return (first_of_each(cell.candidate_G[order_G], counts_BG) if ranking.is_distinct else counts_BG), order_G


def _expected(cell: Cell, ranking: Ranking, budgets: list[int], counts_BG: Integers) -> Floats:
    if ranking.is_distinct:
        counts_BG = first_of_each(cell.candidate_G, counts_BG)
    up_to_BG = np.cumsum(counts_BG[:, cell.by_quality_G], axis=1)
    result = np.empty((len(counts_BG), len(budgets), len(OUTCOMES)))
    for n in np.unique(up_to_BG[:, -1]).tolist():
        chosen = up_to_BG[:, -1] == n
        # Of n samples, how likely the best of m is one of the worst 0, 1, …, n.
        weights_nM = np.stack([best_of_k_weights(n, min(m, n)) for m in budgets], axis=1)
        within_nM = np.concatenate([np.zeros((1, len(budgets))), np.cumsum(weights_nM, axis=0)])
        weights_bGM = np.diff(within_nM[up_to_BG[chosen]], axis=1, prepend=0.0)
        result[chosen] = np.einsum("bgm,gq->bmq", weights_bGM, cell.outcome_GQ[cell.by_quality_G], optimize=True)
    return result


def distinct_evaluations(cell: Cell, ranking: Ranking, budgets: list[int]) -> Floats:
    """Expected distinct candidates (M,) among the first m samples: evaluations, as a duplicate's verdict is known."""
    counts_C = np.bincount(cell.candidate_G, weights=cell.count_G).astype(np.int64)
    if ranking.is_distinct:
        return np.minimum(budgets, len(counts_C)).astype(np.float64)
    if ranking.order == "random":
        return np.array([pass_at_k(cell.n, counts_C, m).sum() for m in budgets])
    counts_1G, order_G = ranked(cell, ranking, cell.count_G[None])
    before_G = (np.cumsum(counts_1G, axis=1) - counts_1G)[0]
    is_first_G = first_of_each(cell.candidate_G[order_G], counts_1G)[0] == 1
    return np.array([(before_G[is_first_G] < m).sum() for m in budgets], dtype=np.float64)


def first_of_each(candidate_G: Integers, counts_BG: Integers) -> Integers:
    """1 for the first group of each candidate that has a sample, else 0, as (B, G)."""
    together_G = np.argsort(candidate_G, kind="stable")
    is_there_BG = counts_BG[:, together_G] > 0
    so_far_BG = np.cumsum(is_there_BG, axis=1)
    start_G = np.searchsorted(candidate_G[together_G], candidate_G[together_G])  # where its candidate begins
    before_BG = np.concatenate([np.zeros((len(counts_BG), 1), dtype=np.int64), so_far_BG], axis=1)[:, start_G]
    return (is_there_BG & (so_far_BG - before_BG == 1))[:, inverse(together_G)].astype(np.int64)


def inverse(permutation_N: Integers) -> Integers:
    result = np.empty_like(permutation_N)
    result[permutation_N] = np.arange(len(permutation_N))
    return result
