"""Two strategies on the same tasks and seeds: effect size, tests, and who wins.

A pair is one task and seed. The two seeds of a task are not independent of each other, so every test comes twice: over pairs
(`pairs`), as the paper has it, and over tasks (`tasks`), with the mean over seeds of each.
"""

from typing import Any

import numpy as np
import polars as pl
from scipy.stats import binomtest, wilcoxon

from expert_tail.aggregate.statistics import Floats
from expert_tail.comparison.rates import FAST

# The paper's code takes this for the speedup of a pick that is not correct, before the logarithm.
FLOOR = 1e-6
Result = dict[str, Any]


def cohens_h(first: float, second: float) -> float:
    """Cohen's h of two proportions: 2 asin √first − 2 asin √second (Cohen 1988, chapter 6); at most π in size."""
    return float(2 * np.arcsin(np.sqrt(first)) - 2 * np.arcsin(np.sqrt(second)))


def sign_test(first: Floats, second: Floats) -> Result:
    """Exact sign test over the pairs that differ: `p_one_sided` of the first being higher more often, `p_two_sided`."""
    wins, losses = int((first > second).sum()), int((first < second).sum())
    result: Result = {"n": len(first), "wins": wins, "losses": losses, "ties": len(first) - wins - losses}
    if wins + losses == 0:
        return result | {"p_one_sided": None, "p_two_sided": None, "reason": "no pair differs"}
    one = binomtest(wins, wins + losses, alternative="greater").pvalue
    return result | {"p_one_sided": float(one), "p_two_sided": float(binomtest(wins, wins + losses).pvalue)}


def signed_rank_test(first: Floats, second: Floats) -> Result:
    """Wilcoxon's signed-rank test, two-sided, of ln(first / second), as SciPy does it: pairs without a difference drop out.

    A speedup of 0 (nothing correct to pick) counts as `FLOOR`, so such a pair has the largest rank; `zeros` counts them.
    """
    log_ratio = np.log(np.maximum(first, FLOOR)) - np.log(np.maximum(second, FLOOR))
    result: Result = {
        "n": len(log_ratio),
        "n_different": int(np.count_nonzero(log_ratio)),
        "zeros": int(((first <= 0) | (second <= 0)).sum()),
        "median_ratio": float(np.exp(np.median(log_ratio))),
    }
    if result["n_different"] == 0:
        return result | {"statistic": None, "p": None, "reason": "no pair differs"}
    found = wilcoxon(log_ratio)
    return result | {"statistic": float(found.statistic), "p": float(found.pvalue)}


def compare(picks: pl.DataFrame, first: str, second: str) -> Result:
    """The first strategy against the second; `picks` has one row a task, seed and strategy of one set of tasks.

    random-correct enters with its expected success and speedup.
    """
    chosen = [
        picks.filter(pl.col("strategy") == name).sort("task_id", "seed").select("task_id", "seed", *FAST, "speedup")
        for name in (first, second)
    ]
    result: Result = {"first": first, "second": second}
    for metric in FAST:
        a, b = (rows[metric].to_numpy().astype(np.float64) for rows in chosen)
        by_task = [rows.group_by("task_id").agg(pl.col(metric).mean()).sort("task_id")[metric] for rows in chosen]
        result[metric] = {
            "first": float(a.mean()),
            "second": float(b.mean()),
            "cohens_h": cohens_h(a.mean(), b.mean()),
            "sign_test": {"pairs": sign_test(a, b), "tasks": sign_test(*(rows.to_numpy() for rows in by_task))},
        }
    a, b = (rows["speedup"].to_numpy() for rows in chosen)
    floored = pl.col("speedup").clip(FLOOR).log().mean().exp()  # the mean over seeds of logarithms
    by_task = [rows.group_by("task_id").agg(floored).sort("task_id")["speedup"] for rows in chosen]
    result["wilcoxon"] = {
        "pairs": signed_rank_test(a, b),
        "tasks": signed_rank_test(*(rows.to_numpy() for rows in by_task)),
    }
    return result


def head_to_head(picks: pl.DataFrame, strategies: list[str]) -> list[Result]:
    """Of every two strategies, over pairs of task and seed: how often each is strictly better, by speedup and by success."""
    rows = []
    for i, first in enumerate(strategies):
        for second in strategies[i + 1 :]:
            row: Result = {"first": first, "second": second}
            for value in ("speedup", *FAST):
                a, b = (
                    picks.filter(pl.col("strategy") == name).sort("task_id", "seed")[value].to_numpy()
                    for name in (first, second)
                )
                wins, losses = int((a > b).sum()), int((a < b).sum())
                row[value] = {"wins": wins, "losses": losses, "ties": len(a) - wins - losses}
            rows.append(row)
    return rows
