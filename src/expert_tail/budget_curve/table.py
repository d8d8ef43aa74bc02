"""The table of the pipeline: each ranking against the budget, for every set of tasks and every single task."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from expert_tail.aggregate import statistics
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.aggregate.statistics import Floats
from expert_tail.budget_curve.pipeline import OUTCOMES, RANKINGS, Cell, budgets_up_to, deployed, distinct_evaluations

RATES = ("fast_1", "fast_1_confident", "correct")
REPORTED = {**{rate: rate for rate in RATES}, "speedup": "mean_speedup"}
Row = dict[str, Any]
COLUMNS = [
    *("set", "task_id", "ranking", "surprisal", "m", "distinct_evaluations"),
    *(f"{column}{end}" for column in REPORTED.values() for end in ("", "_low", "_high")),
    *("n_tasks", "n_seeds", "n_samples", "resampled"),
]


def budget_curve(samples: pl.DataFrame, sets: Mapping[str, Sequence[str]], settings: AggregateSettings) -> pl.DataFrame:
    """One row a set of tasks (task_id empty), ranking and budget m; below them one a task. See `pipeline` for the method.

    `samples` is what `loading.scored_samples` gives, `sets` names lists of subsets. Values are means over tasks and seeds
    of what is deployed; mean_speedup counts 0 where nothing correct was evaluated. m is how many samples of a task are
    looked at, distinct_evaluations how many distinct candidates those are: the evaluations that they cost. Intervals of a
    set resample tasks, then seeds; those of a single task resample its samples under each seed (`resampled` says which),
    and say nothing about other tasks. A rate that is 0, or 1, everywhere has Wilson's interval over tasks, or seeds.
    """
    cells = {key: Cell(of_cell) for key, of_cell in samples.group_by("subset", "task_id", "seed")}
    by_task: dict[str, dict[int, list[Cell]]] = {}
    for subset, task_id, seed in samples.select("subset", "task_id", "seed").unique().sort(pl.all()).rows():
        by_task.setdefault(subset, {}).setdefault(task_id, []).append(cells[subset, task_id, seed])
    rows: list[Row] = []
    for name, subsets in sets.items():
        rows += _of_set(name, [of_task for subset in subsets for of_task in by_task[subset].values()], settings)
    for name in filter(by_task.__contains__, sets):
        for task_id, of_task in by_task[name].items():
            rows += _of_task(name, task_id, of_task, settings)
    return pl.DataFrame(rows, schema_overrides={"task_id": pl.Int32, "surprisal": pl.String}).select(COLUMNS)


def _of_set(name: str, grid: list[list[Cell]], settings: AggregateSettings) -> list[Row]:
    tasks, seeds = len(grid), len(grid[0])
    rng = statistics.generator(settings.seed, "budget_curve", name)
    weights_BTS = statistics.hierarchical_weights(tasks, seeds, settings.bootstrap, rng)
    budgets = budgets_up_to(min(cell.n for of_task in grid for cell in of_task))
    rows = []
    for ranking in RANKINGS:
        values_TSMQ = np.array([[deployed(cell, ranking, budgets)[0] for cell in of_task] for of_task in grid])
        evaluations = np.array([[distinct_evaluations(cell, ranking, budgets) for cell in row] for row in grid])
        draws_BMQ = np.einsum("bts,tsmq->bmq", weights_BTS, values_TSMQ, optimize=True)
        for i, m in enumerate(budgets):
            row: Row = {"set": name, "task_id": None, "ranking": ranking.name, "surprisal": ranking.surprisal, "m": m}
            row["distinct_evaluations"] = float(evaluations[..., i].mean())
            row |= _summaries(values_TSMQ[:, :, i], draws_BMQ[:, i], settings.confidence)
            rows.append(row | _sizes(grid) | {"resampled": "tasks, then seeds"})
    return rows


def _of_task(subset: str, task_id: int, cells: list[Cell], settings: AggregateSettings) -> list[Row]:
    rng = statistics.generator(settings.seed, "budget_curve", subset, str(task_id))
    resamples = [cell.resampled(settings.bootstrap, rng) for cell in cells]  # the same for all rankings
    budgets = budgets_up_to(min(cell.n for cell in cells))
    rows = []
    for ranking in RANKINGS:
        values_SMQ = np.array([deployed(cell, ranking, budgets)[0] for cell in cells])
        draws_BMQ = np.mean([deployed(c, ranking, budgets, r) for c, r in zip(cells, resamples, strict=True)], axis=0)
        evaluations = np.mean([distinct_evaluations(cell, ranking, budgets) for cell in cells], axis=0)
        for i, m in enumerate(budgets):
            row = {"set": subset, "task_id": task_id, "ranking": ranking.name, "surprisal": ranking.surprisal, "m": m}
            row["distinct_evaluations"] = float(evaluations[i])
            row |= _summaries(values_SMQ[:, i], draws_BMQ[:, i], settings.confidence)
            rows.append(row | _sizes([cells]) | {"resampled": "samples"})
    return rows


def _summaries(values: Floats, draws_BQ: Floats, confidence: float) -> Row:
    """Mean and interval of each outcome; `values` (..., Q) are those of the tasks, or of the seeds of one task."""
    row: Row = {}
    for outcome, column in REPORTED.items():
        q = OUTCOMES.index(outcome)
        observed, draws = values[..., q], draws_BQ[:, q]
        mean = float(observed.mean())
        if outcome in RATES:
            interval = statistics.proportion_interval(draws, mean, observed, confidence)
        else:
            interval = statistics.percentile_interval(draws, mean, confidence)
        row |= {column: mean, f"{column}_low": interval.low, f"{column}_high": interval.high}
    return row


def _sizes(grid: list[list[Cell]]) -> Row:
    smallest = min(cell.n for of_task in grid for cell in of_task)
    return {"n_tasks": len(grid), "n_seeds": len(grid[0]), "n_samples": smallest}
