"""What came out, in words that are computed from the picks. Pure.

`picks` has one row per subset, task, seed and strategy, as `aggregate.tables` takes it; a complete grid.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy.stats import permutation_test

from expert_tail.aggregate import tables
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.select.strategies import ORACLE

METRICS = ("fast_1", "fast_1_confident")
_OF_ORACLE = "Not even the fastest correct sample of any task is: there was nothing to select."
_RESAMPLES = 9999  # sign flips drawn where there are too many to enumerate: beyond 13 tasks


@dataclass(frozen=True)
class Headline:
    """Of one subset: a sentence that says it all, further sentences, and a row of `aggregate.tables.strategies` each."""

    subset: str
    lead: str
    sentences: list[str]
    strategies: list[dict[str, Any]]
    leader: str | None  # the strategy to name first; None where none has a confident success


@dataclass(frozen=True)
class Comparison:
    beaten: Literal["all", "some", "none"] | None  # of the other strategies, significantly; None: there is no other
    sentences: list[str]


def headlines(picks: pl.DataFrame, unwinnable: set[int], settings: AggregateSettings) -> list[Headline]:
    """One for each subset, in the order in which subsets come in `picks`. `unwinnable`: tasks with nothing to be won."""
    table = tables.strategies(picks, settings)
    return [
        _headline(subset, picks.filter(pl.col("subset") == subset), table, unwinnable, settings)
        for subset in picks["subset"].unique(maintain_order=True)
    ]


def _headline(
    subset: str, picks: pl.DataFrame, table: pl.DataFrame, unwinnable: set[int], settings: AggregateSettings
) -> Headline:
    rows = table.filter(pl.col("subset") == subset).to_dicts()
    contenders = [row for row in rows if row["strategy"] != ORACLE]
    tasks = set(picks["task_id"].unique())
    lost = len(tasks & unwinnable)
    of_tasks = (
        [f"On {lost} of the {len(tasks)} tasks there is nothing to be won, whatever is selected."] if lost else []
    )
    if not contenders:
        return Headline(subset, "No strategy but the oracle was asked to choose.", of_tasks, rows, None)
    best = best_of(contenders, "fast_1_confident")
    if best[0]["fast_1_confident"] == 0:
        lead = "No strategy picked code that is confidently faster than the reference, on any task."
        oracle = next((row for row in rows if row["strategy"] == ORACLE), None)
        sentences = [_OF_ORACLE] if oracle and oracle["fast_1_confident"] == 0 else []
        best = best_of(contenders, "fast_1")
        if best[0]["fast_1"] == 0:
            sentences.append("By the point estimates alone (fast_1) none is faster, either.")
        else:
            rate = _rate(best[0], "fast_1", settings.confidence)
            sentences.append(f"By the point estimates alone (fast_1) {_leading(best, contenders)}, with {rate}.")
            sentences += compared(picks, "fast_1", best, contenders, settings.confidence).sentences
        return Headline(subset, lead, sentences + of_tasks, rows, None)
    found = compared(picks, "fast_1_confident", best, contenders, settings.confidence)
    sentences = [
        f"fast_1_confident is {_rate(best[0], 'fast_1_confident', settings.confidence)}; by point estimates alone, "
        f"fast_1 is {_rate(best[0], 'fast_1', settings.confidence)}."
    ]
    rate, whose = f"{best[0]['fast_1_confident']:.2f}", "its" if len(best) == 1 else "their"
    lead = f"{_leading(best, contenders)}: {rate} of {whose} picks are"
    lead += " confidently faster than the reference"
    lead += {
        "all": ", significantly more than with any other strategy",
        "none": ", but no difference is significant",
    }.get(found.beaten or "", "")
    return Headline(
        subset, f"{lead[0].upper()}{lead[1:]}.", sentences + found.sentences + of_tasks, rows, best[0]["strategy"]
    )


def best_of(rows: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """The rows that share the highest value."""
    highest = max(row[metric] for row in rows)
    return [row for row in rows if row[metric] == highest]


def paired_p_value(values_T: Any, others_T: Any) -> float:
    """Two-sided p-value of a paired permutation test (signs of the differences flipped) on the tasks' means.

    Exact up to 13 tasks. With T tasks it cannot be below 2 / 2^T, and so is 1 with one.
    """
    differences = np.asarray(values_T, dtype=np.float64) - np.asarray(others_T, dtype=np.float64)
    if len(differences) < 2 or not differences.any():
        return 1.0
    found = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=_RESAMPLES, rng=np.random.default_rng(0)
    )
    return float(found.pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = highest
    return adjusted


def compared(
    picks: pl.DataFrame, metric: str, best: list[dict[str, Any]], contenders: list[dict[str, Any]], confidence: float
) -> Comparison:
    """Which contenders the best are significantly better than, by paired tests over tasks of all pairs, corrected by Holm's
    method."""
    leader = best[0]["strategy"]
    others = [row["strategy"] for row in contenders if row not in best]
    if not others:
        return Comparison(None, [])
    by_task = picks.group_by("strategy", "task_id").agg(pl.col(metric).mean()).sort("task_id")
    names = [leader, *others]
    values = {name: by_task.filter(pl.col("strategy") == name)[metric].to_numpy() for name in names}
    # Who leads is seen in the same data, so that every pair counts as tested.
    pairs = list(combinations(names, 2))
    adjusted = holm([paired_p_value(values[one], values[other]) for one, other in pairs])[: len(others)]
    beaten = [name for name, p in zip(others, adjusted, strict=True) if p < 1 - confidence]
    if len(beaten) == len(others):
        return Comparison("all", [])
    rest = [name for name in others if name not in beaten]
    sentences = [f"That is significantly more than {_joined(beaten)} reaches."] if beaten else []
    sentences.append(f"The difference from {_joined(rest)} is not significant.")
    n_tasks = len(values[leader])
    if (least := min(1, len(pairs) * 2 / 2**n_tasks)) >= 1 - confidence:
        tests = "a paired test" if len(pairs) == 1 else f"{len(pairs)} paired tests, corrected for their number,"
        sentences.append(
            f"Over {n_tasks} task{'s' * (n_tasks > 1)} no difference could be: the least p-value of {tests} is {least:.2g}."
        )
    return Comparison("some" if beaten else "none", sentences)


def _rate(row: dict[str, Any], metric: str, confidence: float) -> str:
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return f"{row[metric]:.2f} ({100 * confidence:g} % interval {low:.2f} to {high:.2f})"


def _leading(best: list[dict[str, Any]], contenders: list[dict[str, Any]]) -> str:
    if len(best) == len(contenders) > 1:
        return "all strategies are equal"
    return f"{_joined([row['strategy'] for row in best])} {'lead' if len(best) > 1 else 'leads'}"


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
