"""Selection strategies: which of a task's correct samples to deploy (paper section 4.5).

Every strategy sees the samples that passed the correctness check; that check is shared by all of them. What they
differ in is how many samples they time before they choose (`evaluations`), and what the choice goes by. To add a
strategy, write one function and enter it in `STRATEGIES`.

Ties go to the lowest sample index, so that a pick depends on the samples and not on the order of rows. Equal surprisal
nearly always means an identical candidate, whose evaluation is the same: the rule fixes which index is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from expert_tail.success import CORRECT, FAST_1, FAST_1_CONFIDENT

if TYPE_CHECKING:  # the workflow reads the names of the strategies without loading polars
    import polars as pl

ORACLE = "best-correct"
SURPRISAL = {"sum": "nll", "mean": "nll_mean"}


class Pick(NamedTuple):
    """Samples that a strategy deploys with equal probability, and how many samples it timed to choose them."""

    samples: pl.DataFrame
    evaluations: int


Strategy = Callable[["pl.DataFrame"], Pick]


def best_correct(correct: pl.DataFrame) -> Pick:
    """Oracle: time every correct sample, deploy the fastest."""
    return Pick(_first(correct, "speedup", 1), correct.height)


def random_correct(correct: pl.DataFrame) -> Pick:
    """Deploy any correct sample: all of them with equal weight, so the outcome is the exact expectation of one draw."""
    return Pick(correct.sort("sample"), 1)


def confidence_guided(correct: pl.DataFrame) -> Pick:
    """Deploy the sample with the lowest surprisal."""
    return Pick(_first(correct, "surprisal", 1, descending=False), 1)


def surprisal_guided(correct: pl.DataFrame) -> Pick:
    """Deploy the sample with the highest surprisal."""
    return Pick(_first(correct, "surprisal", 1), 1)


def surprisal_guided_top3(correct: pl.DataFrame) -> Pick:
    """Time the three samples with the highest surprisal (duplicates count, as in the paper), deploy the fastest."""
    timed = _first(correct, "surprisal", 3)
    return Pick(_first(timed, "speedup", 1), timed.height)


STRATEGIES: dict[str, Strategy] = {
    ORACLE: best_correct,
    "random-correct": random_correct,
    "confidence-guided": confidence_guided,
    "surprisal-guided": surprisal_guided,
    "surprisal-guided-top3": surprisal_guided_top3,
}


def select(samples: pl.DataFrame, strategy: str, surprisal: str = "sum") -> dict[str, Any]:
    """What `strategy` picks from the samples of one (task, seed), and how the pick performs.

    `samples` has one row a sample: sample, nll, nll_mean (nats), status, speedup, speedup_low. Rows may come in any
    order. Returns samples (indices that may be deployed), fast_1 (probability that the deployed sample is correct and
    its speedup above 1), fast_1_confident (the same of the lower bound of its speedup; a missing bound counts as not
    above 1), speedup (expected), evaluations_used (samples timed). A task without a correct sample is a failure: [],
    0, 0, 0, 0.
    """
    correct = samples.filter(CORRECT)
    if correct.is_empty():
        return {"samples": [], "fast_1": 0.0, "fast_1_confident": 0.0, "speedup": 0.0, "evaluations_used": 0.0}
    picked, evaluations = STRATEGIES[strategy](correct.with_columns(correct[SURPRISAL[surprisal]].alias("surprisal")))
    fast, confident = picked.select(fast=FAST_1, confident=FAST_1_CONFIDENT)
    return {
        "samples": picked["sample"].to_list(),
        "fast_1": fast.mean(),
        "fast_1_confident": confident.mean(),
        "speedup": _mean(picked["speedup"]),
        "evaluations_used": float(evaluations),
    }


def _mean(values: pl.Series) -> float:
    """The mean, which of equal values is that value: a sum of many would differ from it in the last digit, as if it were better."""
    return float(values[0] + (values - values[0]).mean())


def _first(rows: pl.DataFrame, column: str, count: int, descending: bool = True) -> pl.DataFrame:
    return rows.sort(column, "sample", descending=[descending, False]).head(count)
