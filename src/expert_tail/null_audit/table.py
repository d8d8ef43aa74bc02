"""The table of the audit, from one row a repeat. Pure."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl
from scipy.stats import binomtest

from expert_tail.success import CORRECT, FAST_1, FAST_1_CONFIDENT

NOMINAL = 0.025  # how often the lower end of a 95 % interval may lie above the truth
CONFIDENCE = 0.95
ALL = "all"  # name of the rows that have no task_id


class Binomial(NamedTuple):
    """What k of n successes say of their probability."""

    low: float  # Clopper and Pearson's interval, of at least the confidence `CONFIDENCE`
    high: float
    p_value: float  # P(k or more of n) if the probability is `NOMINAL`


def binomial(k: int, n: int) -> Binomial:
    interval = binomtest(k, n).proportion_ci(CONFIDENCE, method="exact")
    at_nominal = binomtest(k, n, NOMINAL, alternative="greater")
    return Binomial(float(interval.low), float(interval.high), float(at_nominal.pvalue))


def audit(repeats: pl.DataFrame, names: dict[int, str]) -> pl.DataFrame:
    """One row per protocol and task, and below those of each protocol one for all of them (task_id empty, name `all`).

    `repeats` has one row a repeat: protocol, task_id, status, speedup (0 unless correct), speedup_low, hardware, evaluator.
    correct, fast_1 and fast_1_confident are rates among the repeats; fast_1_confident, its interval (95 %, Clopper and
    Pearson), p_value and within_nominal are empty for a protocol that gives no interval. within_nominal is false where
    the confident ones are so many that at the nominal rate of 2.5 % there would be as many or more with a probability
    (p_value) below 2.5 %; in the rows of tasks below 2.5 % divided by the number of tasks, because many are looked at.
    Speedups are of the correct repeats.
    """
    rows = []
    for (protocol,), of_protocol in repeats.group_by("protocol", maintain_order=True):
        n_tasks = of_protocol["task_id"].n_unique()
        has_interval = of_protocol.filter(CORRECT)["speedup_low"].is_not_null().any()
        for task_id, name, found in _cells(of_protocol, names):
            level = NOMINAL if task_id is None else NOMINAL / n_tasks
            rows.append(
                {"protocol": protocol, "task_id": task_id, "name": name, **_row(found, level if has_interval else None)}
            )
    return pl.DataFrame(rows, schema_overrides={"task_id": pl.Int32}, infer_schema_length=None)


def _cells(repeats: pl.DataFrame, names: dict[int, str]) -> Iterator[tuple[int | None, str, pl.DataFrame]]:
    for (task_id,), found in repeats.sort("task_id", maintain_order=True).group_by("task_id", maintain_order=True):
        yield task_id, names[task_id], found
    yield None, ALL, repeats


def _row(repeats: pl.DataFrame, level: float | None) -> dict[str, Any]:
    """`level`: the p_value below which the rate is above the nominal one; None: the protocol gives no interval."""
    correct = repeats.filter(CORRECT)
    n = repeats.height
    row: dict[str, Any] = {
        "repeats": n,
        "correct": correct.height / n,
        "fast_1": correct.filter(FAST_1).height / n,
        "fast_1_confident": None,
        "fast_1_confident_low": None,
        "fast_1_confident_high": None,
        "p_value": None,
        "within_nominal": None,
        "largest_speedup": correct["speedup"].max(),
        "median_speedup": correct["speedup"].median(),
    }
    if level is not None:
        k = correct.filter(FAST_1_CONFIDENT).height
        found = binomial(k, n)
        row |= {
            "fast_1_confident": k / n,
            "fast_1_confident_low": found.low,
            "fast_1_confident_high": found.high,
            "p_value": found.p_value,
            "within_nominal": found.p_value >= level,
        }
    return row | {name: "; ".join(repeats[name].unique().sort()) for name in ("hardware", "evaluator")}
