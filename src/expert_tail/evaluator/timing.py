"""How fast? Statistics of paired timings. Pure.

A pair is (baseline seconds, candidate seconds) on the same fresh inputs, one right after the other. The speedup is the
median of the paired ratios. Its interval is that of order statistics: if x_(1) <= … <= x_(n) are the ratios, the median
lies in [x_(k), x_(n+1-k)] unless k-1 or fewer of n fair coins come up heads, whatever the noise's distribution; k is the
largest for which that has at most 2.5 % on either side. It needs no resampling and holds its level at every n.

Timing stops once the interval is tight, which takes some of that back: with normal noise of 2 %, a precision of 0.02 and 12 to 48
pairs, some 3 % of the intervals of equal arms lay above 1, before a claim is replicated, and as many below.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

ALPHA = 0.025  # on either side


@dataclass(frozen=True)
class Speedup:
    median: float
    low: float | None  # None where the protocol gives no interval
    high: float | None
    kernel_ms: float
    baseline_ms: float
    trials: int

    def is_tight(self, precision: float) -> bool:
        """Whether high / low is below 1 + `precision`; far from 1, whether it is below a tenth of that distance."""
        if self.low is None or self.high is None:
            return False
        return math.log(self.high / self.low) <= max(math.log1p(precision), 0.1 * abs(math.log(self.median)))


def paired_speedup(baseline_s: Sequence[float], candidate_s: Sequence[float]) -> Speedup:
    """Speedup with its 95 % interval from n >= 6 paired times in seconds."""
    ratios = sorted(b / c for b, c in zip(baseline_s, candidate_s, strict=True))
    k = order_statistic(len(ratios))
    return Speedup(
        median=median(ratios),
        low=ratios[k - 1],
        high=ratios[-k],
        kernel_ms=1e3 * median(candidate_s),
        baseline_ms=1e3 * median(baseline_s),
        trials=len(ratios),
    )


def agreed(replicates: Sequence[Speedup]) -> Speedup:
    """One speedup from replicates with intervals, each in processes of its own: the middle one, or the lower of two, and all
    that any allows.

    What differs between processes (where their memory lies, above all) shifts every pair of one replicate by the same
    factor, which no interval over its pairs can show.
    """
    ordered = sorted(replicates, key=lambda one: one.median)
    middle = ordered[(len(ordered) - 1) // 2]
    return replace(
        middle,
        low=min(one.low for one in replicates if one.low is not None),
        high=max(one.high for one in replicates if one.high is not None),
        trials=sum(one.trials for one in replicates),
    )


@cache
def order_statistic(n: int) -> int:
    """Largest k with P(Binomial(n, 1/2) < k) <= ALPHA; `ValueError` for n < 6, where no interval reaches 95 %."""
    tail, k = 0.0, 0
    while (tail := tail + math.comb(n, k) * 0.5**n) <= ALPHA:
        k += 1
    if k == 0:
        raise ValueError(f"{n} pairs give no 95 % interval; at least 6 are needed")
    return k


def median(values: Sequence[float]) -> float:
    ordered, n = sorted(values), len(values)
    return 0.5 * (ordered[(n - 1) // 2] + ordered[n // 2])
