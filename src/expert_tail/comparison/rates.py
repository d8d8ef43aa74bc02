"""Rates of success of two ways to spend compute, on the same tasks, and the interval of their difference.

Axes: B resamples, T tasks, S seeds, M metrics (fast_1, fast_1_confident; a success of the second is one of the first).

Both arms face the same tasks, so a resample draws tasks once for both; within each it draws samples anew. Seeds of
Best-of-N are no level of their own: they label independent draws from one policy. Seeds of adaptation are: each is a policy
of its own on all tasks, so where there are several, a resample draws them too (rows and columns independently, which is
conservative; Owen 2007, The pigeonhole bootstrap). What no resample sees is the luck of a measurement that samples of one
candidate share; that takes fast_1_confident.
"""

from typing import NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expert_tail.aggregate import statistics
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.aggregate.statistics import Floats, Interval

FAST = ("fast_1", "fast_1_confident")


class Arm(NamedTuple):
    """`n_TS` samples of each task and seed, of which `c_TSM` succeed; `tasks` are the ids, ascending.

    `evaluators` judged them, as the column of that name has it.
    """

    tasks: tuple[int, ...]
    n_TS: NDArray[np.int64]
    c_TSM: NDArray[np.int64]
    is_crossed: bool = False  # whether its seeds are policies of their own
    evaluators: frozenset[str] = frozenset()

    @classmethod
    def of(cls, samples: pl.DataFrame, by: str = "seed", is_crossed: bool = False) -> Self:
        """From one row a sample with task_id, `by` (the columns), evaluator and the metrics; every task must have every column."""
        counts = samples.group_by("task_id", by).agg(pl.len(), pl.col(*FAST).cast(pl.Int64).sum()).sort("task_id", by)
        tasks = counts["task_id"].unique().sort().to_list()
        shape = (len(tasks), -1)
        n_TS = counts["len"].to_numpy().astype(np.int64).reshape(shape)
        c_TSM = np.stack([counts[metric].to_numpy().reshape(shape) for metric in FAST], axis=-1)
        return cls(tuple(tasks), n_TS, c_TSM, is_crossed, frozenset(samples["evaluator"].unique()))

    @property
    def rates_TSM(self) -> Floats:
        rates: Floats = self.c_TSM / self.n_TS[..., None]
        return rates

    @property
    def rates_M(self) -> Floats:
        """Mean over tasks and seeds of the rate of success, one a metric."""
        rates: Floats = self.rates_TSM.mean(axis=(0, 1))
        return rates

    def only(self, task: int) -> Self:
        i = self.tasks.index(task)
        return self._replace(tasks=(task,), n_TS=self.n_TS[i : i + 1], c_TSM=self.c_TSM[i : i + 1])


def interval(arm: Arm, settings: AggregateSettings, *names: str) -> list[Interval]:
    """Interval of each metric's rate; Wilson's on a single task (`_wilson`). `names` choose the random stream."""
    if len(arm.tasks) == 1:
        return [_wilson(arm, m, settings.confidence) for m in range(len(FAST))]
    rng = statistics.generator(settings.seed, "rates", *names)
    draws_BM = _resampled(arm, _drawn_tasks(arm, settings, rng), rng)
    return [
        statistics.proportion_interval(draws_BM[:, m], float(rate), arm.rates_TSM[..., m], settings.confidence)
        for m, rate in enumerate(arm.rates_M)
    ]


def difference(first: Arm, second: Arm, settings: AggregateSettings, *names: str) -> list[tuple[float, Interval]]:
    """How much higher the rate of the second arm is, with its interval, one a metric.

    On a single task: Newcombe's method from Wilson's intervals of the pooled counts. That is used, too, where no resample
    differs from another, with tasks as trials: every sample of both arms succeeded, say.
    """
    if first.tasks != second.tasks:
        raise ValueError(f"arms on different tasks: {first.tasks} and {second.tasks}")
    if len(first.tasks) == 1:
        return [_of_two_proportions(first, second, m, settings.confidence) for m in range(len(FAST))]
    rng = statistics.generator(settings.seed, "difference", *names)
    tasks_BT = _drawn_tasks(first, settings, rng)
    draws_BM = _resampled(second, tasks_BT, rng) - _resampled(first, tasks_BT, rng)
    found = []
    for m, (a, b) in enumerate(zip(first.rates_M, second.rates_M, strict=True)):
        if np.ptp(draws_BM[:, m]) == 0:
            ends = [
                statistics.proportion_interval(draws_BM[:, m], rate, arm.rates_TSM[..., m], settings.confidence)
                for rate, arm in ((float(a), first), (float(b), second))
            ]
            found.append((float(b - a), statistics.difference_interval(float(a), ends[0], float(b), ends[1])))
        else:
            found.append((float(b - a), statistics.percentile_interval(draws_BM[:, m], b - a, settings.confidence)))
    return found


def _of_two_proportions(first: Arm, second: Arm, m: int, confidence: float) -> tuple[float, Interval]:
    rates = [float(arm.c_TSM[..., m].sum() / arm.n_TS.sum()) for arm in (first, second)]
    ends = [_wilson(arm, m, confidence) for arm in (first, second)]
    return rates[1] - rates[0], statistics.difference_interval(rates[0], ends[0], rates[1], ends[1])


def _wilson(arm: Arm, m: int, confidence: float) -> Interval:
    """Of the pooled counts; where seeds are policies of their own, of as many trials as these are worth.

    That is the effective sample size of clusters (Rao and Scott, 1992), p (1 - p) over the variance of the seeds' mean: all
    samples where seeds agree, and no fewer than there are seeds.
    """
    n, rate = float(arm.n_TS.sum()), float(arm.c_TSM[..., m].sum() / arm.n_TS.sum())
    seeds = arm.n_TS.shape[1]
    if arm.is_crossed and seeds > 1 and (variance := float(arm.rates_TSM[0, :, m].var(ddof=1)) / seeds) > 0:
        n = min(n, max(seeds, rate * (1 - rate) / variance))
    low, high = statistics.wilson_interval(rate * n, n, confidence)
    return Interval(float(low), float(high))


def _drawn_tasks(arm: Arm, settings: AggregateSettings, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.integers(len(arm.tasks), size=(settings.bootstrap, len(arm.tasks)))


def _resampled(arm: Arm, tasks_BT: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Rates (B, M) of resamples of samples within the drawn tasks, and of seeds where they are crossed."""
    seeds = arm.n_TS.shape[1]
    seeds_BS = np.broadcast_to(np.arange(seeds), (len(tasks_BT), seeds))
    if arm.is_crossed and seeds > 1:
        seeds_BS = rng.integers(seeds, size=seeds_BS.shape)
    drawn = (tasks_BT[:, :, None], seeds_BS[:, None, :])
    n_BTS = remaining = drawn_BTS = arm.n_TS[drawn]
    rates = []
    for m in range(len(FAST)):
        c_BTS = arm.c_TSM[..., m][drawn]
        drawn_BTS = rng.binomial(drawn_BTS, c_BTS / np.maximum(remaining, 1))
        rates.append((drawn_BTS / n_BTS).mean(axis=(1, 2)))
        remaining = c_BTS
    return np.stack(rates, axis=-1)
