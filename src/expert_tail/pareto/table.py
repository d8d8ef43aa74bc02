"""The table of methods: one row a set of tasks and method, and which rows are on the Pareto front."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from expert_tail.aggregate import statistics
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.pareto.costs import COSTS
from expert_tail.pareto.front import on_front
from expert_tail.pareto.methods import VALUES, Method

RATES = ("fast_1", "fast_1_confident")
# In the table, `_low` and `_high` are ends of a mean's own interval; the mean lower bound of speedups is a value like others.
NAMES = dict(zip(VALUES, (*RATES, "mean_speedup", "mean_speedup_bound"), strict=True))
FRONT_COSTS = ("rollouts", "tokens_computed", "seconds")
COLUMNS = [
    *("set", "family", "method", "deploys", "k", "m", "step"),
    *(f"{name}{end}" for name in NAMES.values() for end in ("", "_low", "_high")),
    *COSTS,
    *(f"front_{name}_by_{cost}" for name in NAMES.values() for cost in FRONT_COSTS),
    *("n_tasks", "n_seeds"),
]
_LABELS = {"k": pl.Int64, "m": pl.Int64, "step": pl.Int64}


def pareto_table(methods: Mapping[str, list[Method]], settings: AggregateSettings) -> pl.DataFrame:
    """One row a set of tasks and method.

    fast_1 and mean_speedup are of what the method deploys (see `methods` and `adaptation`), means over tasks and seeds,
    0 where nothing correct was found; fast_1_confident and mean_speedup_bound say the same of the lower end of the measured
    interval. k is the samples of a task that were drawn, m those evaluated (empty: all), step that of an adaptation run.
    Costs are per task. front_VALUE_by_COST is 1 where no method of the same set costs no more and reaches more (or less and
    as much), by estimates, without regard to their intervals; empty where the cost is not known.

    Intervals resample tasks, then seeds; a set of one task has none.
    """
    rows = [_row(name, method, settings) for name, of_set in methods.items() for method in of_set]
    schema = _LABELS | dict.fromkeys(COSTS, pl.Float64)
    complete = [dict.fromkeys(COLUMNS) | row for row in rows]
    table = pl.DataFrame(complete, infer_schema_length=None, schema_overrides=schema)
    return pl.concat([_with_fronts(of_set) for _, of_set in table.group_by("set", maintain_order=True)]).select(COLUMNS)


def _row(name: str, method: Method, settings: AggregateSettings) -> dict[str, Any]:
    tasks, seeds = method.values_TSV.shape[:2]
    rng = statistics.generator(settings.seed, "pareto", name, str(seeds))
    weights_BTS = statistics.hierarchical_weights(tasks, seeds, settings.bootstrap, rng)
    row: dict[str, Any] = {"set": name, **method.labels, **method.costs, "n_tasks": tasks, "n_seeds": seeds}
    for i, (value, column) in enumerate(NAMES.items()):
        values_TS = method.values_TSV[..., i]
        row[column] = mean = float(values_TS.mean())
        if tasks > 1:
            draws = np.einsum("bts,ts->b", weights_BTS, values_TS)
            if value in RATES:
                interval = statistics.proportion_interval(draws, mean, values_TS, settings.confidence)
            else:
                interval = statistics.percentile_interval(draws, mean, settings.confidence)
            row |= {f"{column}_low": interval.low, f"{column}_high": interval.high}
    return row


def _with_fronts(of_set: pl.DataFrame) -> pl.DataFrame:
    marks = []
    for column in NAMES.values():
        for cost in FRONT_COSTS:
            known = of_set[cost].is_not_null().to_numpy()
            front = np.full(of_set.height, None, dtype=object)
            front[known] = on_front(of_set[cost].to_numpy()[known], of_set[column].to_numpy()[known]).astype(int)
            marks.append(pl.Series(f"front_{column}_by_{cost}", front.tolist(), dtype=pl.Int32))
    return of_set.with_columns(marks)
