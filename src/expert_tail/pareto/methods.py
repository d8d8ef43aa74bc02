"""Sampling and selection as methods: what is deployed, and what it cost, in every task and seed of a set.

- best-of-n: draw k samples, evaluate them all, deploy the fastest correct one; expectation over which k of the K.
- A strategy's name: draw K, score them where the strategy goes by surprisal, check all, deploy its pick. Its time counts the
  evaluation of all distinct candidates, since the evaluator times what it checks.
- ranked-…: draw K, rank them, evaluate the first m only (stage `budget_curve`).
"""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from expert_tail.aggregate.statistics import Floats
from expert_tail.budget_curve.pipeline import OUTCOMES, RANKINGS, Cell, Ranking, deployed, distinct_evaluations
from expert_tail.pareto.costs import Sampling, completed
from expert_tail.select.settings import SelectSettings
from expert_tail.select.strategies import select

VALUES = ("fast_1", "fast_1_confident", "speedup", "speedup_low")
SAMPLING, SELECTION, ADAPTATION = "sampling", "selection", "adaptation"
RANDOM = Ranking("random", False, None)
FASTEST, PICK = "fastest evaluated", "pick"
_QUALITY = [OUTCOMES.index(value) for value in VALUES]
_UNSCORED = ("best-correct", "random-correct")


class Method(NamedTuple):
    """A way to spend compute: its labels, its values (T, S, 4) in the order of `VALUES`, and its costs per task."""

    labels: dict[str, Any]
    values_TSV: Floats
    costs: dict[str, float | None]


class Task(NamedTuple):
    """The samples of one task and seed, for selection, ranking and cost."""

    samples: pl.DataFrame
    cell: Cell
    sampling: Sampling


def of_samples(grid: list[list[Task]], settings: SelectSettings, per_candidate: float | None) -> list[Method]:
    """All methods that need the samples of a set only; `grid` has its tasks and their seeds."""
    surprisal = settings.surprisal
    n = min(task.cell.n for row in grid for task in row)
    budgets = [2**i for i in range(n.bit_length())]
    methods = []
    for k in sorted({*budgets, n}):
        labels = {"family": SAMPLING, "method": "best-of-n", "deploys": FASTEST, "k": k}
        methods.append(_ranked(grid, RANDOM, k, labels, per_candidate, drawn=k))
    for strategy in settings.strategies:
        values = [[_picked(task.samples, strategy, surprisal) for task in row] for row in grid]
        costs = [
            completed(
                task.sampling.cost(task.cell.n, scored=strategy not in _UNSCORED),
                float(len(np.unique(task.cell.candidate_G))),
                per_candidate,
            )
            for row in grid
            for task in row
        ]
        labels = {"family": SELECTION, "method": strategy, "deploys": PICK, "k": n}
        methods.append(Method(labels, np.array(values), mean_costs(costs)))
    for ranking in RANKINGS:
        if ranking != RANDOM and ranking.surprisal in (None, surprisal):
            for m in budgets:
                labels = {"family": SELECTION, "method": f"ranked-{ranking.name}", "deploys": FASTEST, "k": n, "m": m}
                methods.append(_ranked(grid, ranking, m, labels, per_candidate))
    return methods


def _ranked(
    grid: list[list[Task]],
    ranking: Ranking,
    m: int,
    labels: dict[str, Any],
    per_candidate: float | None,
    drawn: int | None = None,
) -> Method:
    values = np.array([[deployed(task.cell, ranking, [m])[0, 0, _QUALITY] for task in row] for row in grid])
    costs = [
        completed(
            task.sampling.cost(drawn or task.cell.n, scored=ranking.surprisal is not None),
            float(distinct_evaluations(task.cell, ranking, [m])[0]),
            per_candidate,
        )
        for row in grid
        for task in row
    ]
    return Method(labels, values, mean_costs(costs))


def _picked(samples: pl.DataFrame, strategy: str, surprisal: str) -> Floats:
    """Expected values (4,) of a strategy's pick."""
    picked = samples.filter(pl.col("sample").is_in(select(samples, strategy, surprisal)["samples"]))
    values: Floats = picked.select(pl.col(VALUES).cast(pl.Float64)).to_numpy().reshape(-1, len(VALUES))
    return values.mean(axis=0) if len(values) else np.zeros(len(VALUES))


def mean_costs(costs: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean over tasks and seeds; None where it is not known of all."""
    found: dict[str, float | None] = {}
    for name in costs[0]:
        known = [cost[name] for cost in costs]
        found[name] = None if None in known else float(np.mean([value for value in known if value is not None]))
    return found
