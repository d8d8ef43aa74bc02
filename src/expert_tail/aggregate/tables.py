"""The result tables. Every function takes checked frames and returns one table, sorted, in full precision.

`samples` has one row a sample: subset, task_id, seed, sample, status, speedup (0 unless correct), speedup_low,
speedup_high, kernel_ms, baseline_ms, roofline_ms, fast_1 and fast_1_confident (booleans), candidate (64-bit hash),
n_tokens. `picks` has one row per subset, task, seed and strategy: fast_1, fast_1_confident, speedup,
evaluations_used, and of the pick speedup_low, speedup_high, pick_nll and pick_nll_mean (null where nothing was picked).
Both are complete grids: every task of a subset has every seed. `names` has a task's name and headroom: winnable, not
winnable or unknown. Rates are fractions in 0..1, surprisal is in nats. In column names `_std` is the standard deviation
over seeds of the mean over tasks (empty with one seed), `_low` and `_high` bound the interval of the configured
confidence (see `statistics`).
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl

from expert_tail.aggregate import statistics
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.aggregate.statistics import Floats, Interval
from expert_tail.evaluator.evaluation import STATUSES
from expert_tail.select.strategies import ORACLE, STRATEGIES
from expert_tail.success import CORRECT, FAST_1, FAST_1_CONFIDENT

FAST = ["fast_1", "fast_1_confident"]
TASK = ["subset", "task_id"]
CELL = ["subset", "task_id", "seed"]
Row = dict[str, Any]


def strategies(picks: pl.DataFrame, settings: AggregateSettings) -> pl.DataFrame:
    """Table 1: the strategies on each subset (paper section 5.2).

    median_speedup is the median over tasks of the mean over seeds: the arithmetic mean may be one task's.
    The interval of mean_speedup is a percentile bootstrap over tasks: of lognormal speedups (σ = 0.5) it covers 0.76 with
    five tasks and 0.9 with ten or twenty, where 0.95 is asked.
    """
    rows: list[Row] = []
    for subset, of_subset in _each_subset(picks):
        tasks, seeds = of_subset["task_id"].n_unique(), of_subset["seed"].n_unique()
        rng = statistics.generator(settings.seed, "strategies", subset)
        weights = statistics.hierarchical_weights(tasks, seeds, settings.bootstrap, rng).reshape(settings.bootstrap, -1)
        for strategy in _in_order(of_subset["strategy"].unique()):
            of_strategy = of_subset.filter(pl.col("strategy") == strategy)
            row: Row = {"subset": subset, "strategy": strategy}
            for metric in [*FAST, "speedup"]:
                values = _grid(of_strategy, metric)
                draws, mean = weights @ values.ravel(), float(values.mean())
                if metric == "speedup":
                    row |= _summary(
                        "mean_speedup", values, statistics.percentile_interval(draws, mean, settings.confidence)
                    )
                    row["median_speedup"] = float(np.median(values.mean(axis=1)))
                else:
                    row |= _summary(
                        metric, values, statistics.proportion_interval(draws, mean, values, settings.confidence)
                    )
            row["evaluations_used"] = of_strategy["evaluations_used"].mean()
            rows.append(row | {"n_tasks": tasks, "n_seeds": seeds})
    return pl.DataFrame(rows, infer_schema_length=None)


def scaling(samples: pl.DataFrame, settings: AggregateSettings) -> pl.DataFrame:
    """Table 2: Best-of-N scaling (paper section 5.1), for K = 1, 2, 4, ... and all samples of a (task, seed).

    fast_1 is the probability that at least one of K samples is correct and faster than the baseline: the unbiased
    estimator, averaged over tasks and seeds. best_speedup is the expectation of the best of K, 0 where none is correct.
    """
    rows: list[Row] = []
    for subset, of_subset in _each_subset(samples):
        counts = of_subset.group_by("task_id", "seed").agg(pl.len(), *(pl.col(c).cast(pl.Int64).sum() for c in FAST))
        n = _grid(counts, "len")
        c = np.stack([_grid(counts, metric) for metric in FAST], axis=-1)
        rng = statistics.generator(settings.seed, "scaling", subset)
        n_draws, c_draws = statistics.resample_counts(n, c, settings.bootstrap, rng)
        speedups = [
            cell["speedup"].to_numpy() for cell in of_subset.sort("task_id", "seed").partition_by("task_id", "seed")
        ]
        for k in _budgets(int(n.min())):
            row: Row = {"subset": subset, "k": k}
            values = statistics.pass_at_k_cells(n[..., None], c, k)
            draws = statistics.pass_at_k_cells(n_draws, c_draws, k).mean(axis=(1, 2))
            for m, metric in enumerate(FAST):
                observed = values[..., m]
                row |= _summary(
                    metric,
                    observed,
                    statistics.proportion_interval(draws[:, m], float(observed.mean()), observed, settings.confidence),
                )
            best = np.reshape([statistics.expected_best(cell, k) for cell in speedups], n.shape)
            row |= {"best_speedup": float(best.mean()), "best_speedup_std": statistics.std_over_seeds(best)}
            row["best_speedup_median"] = float(np.median(best.mean(axis=1)))
            rows.append(row | {"n_tasks": n.shape[0], "n_seeds": n.shape[1]})
    return pl.DataFrame(rows, infer_schema_length=None)


def headline(picks: pl.DataFrame, samples: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """Table 3: every task by every strategy, and below each subset its mean over tasks (task_id empty, name `all`).

    Values are means over seeds. won is 1 for the strategy of the highest speedup (shared in a tie) among those that
    do not time every sample (empty for the oracle), and the share of tasks won in the rows `all`. best_speedup is the
    highest there was to pick. n_samples and n_correct count over all seeds; n_distinct_correct counts their different
    correct candidates. pick_nll is the surprisal of the pick, empty where no sample was correct; speedup_low and
    speedup_high are the ends of its measured interval, in the rows of tasks alone.
    """
    per_task = samples.group_by(TASK).agg(
        n_samples=pl.len(),
        n_correct=CORRECT.sum(),
        n_distinct_correct=pl.col("candidate").filter(CORRECT).n_unique(),
    )
    best = samples.group_by(CELL).agg(pl.col("speedup").max()).group_by(TASK).agg(best_speedup=pl.col("speedup").mean())
    values = ["fast_1", "fast_1_confident", "speedup"]
    averaged = ["evaluations_used", "pick_nll", "pick_nll_mean"]
    ends = ["speedup_low", "speedup_high"]
    contender = pl.when(pl.col("strategy") != ORACLE).then(pl.col("speedup"))
    rows = (
        picks.group_by([*TASK, "strategy"])
        .agg(pl.col([*values, *averaged, *ends]).mean(), pl.col(values).std().name.suffix("_std"), n_seeds=pl.len())
        .with_columns(won=((contender == contender.max().over(TASK)) & (contender > 0)).cast(pl.Float64))
        .join(names, on="task_id", how="left")
        .join(per_task, on=TASK, how="left")
        .join(best, on=TASK, how="left")
    )
    of_seed = picks.group_by("subset", "strategy", "seed").agg(pl.col(values).mean())
    spread = of_seed.group_by("subset", "strategy").agg(pl.col(values).std().name.suffix("_std"))
    means = (
        rows.group_by("subset", "strategy")
        .agg(
            pl.col([*values, *averaged, "won", "best_speedup"]).mean(),
            pl.col("n_samples", "n_correct", "n_distinct_correct").sum(),
            pl.col("n_seeds").first(),
            pl.lit("all").alias("name"),
        )
        .join(spread, on=["subset", "strategy"], how="left")
        .with_columns(task_id=pl.lit(None, dtype=pl.Int32))
    )
    table = pl.concat([rows, means], how="diagonal_relaxed").with_columns(_rank("strategy"))
    columns = [*TASK, "name", "headroom", "strategy"]
    columns += [column for value in values for column in (value, f"{value}_std")]
    columns += [*ends, "won", "best_speedup", "evaluations_used", "pick_nll", "pick_nll_mean"]
    columns += ["n_seeds", "n_samples", "n_correct", "n_distinct_correct"]
    return table.sort("subset", "task_id", "rank", nulls_last=True).select(columns)


def training(rollouts: pl.DataFrame, checkpoints: Iterable[int], settings: AggregateSettings) -> pl.DataFrame:
    """Table 5: reinforcement learning step by step, from its rollouts.

    The rollouts of step s come from the policy after s updates, and one more update follows them. checkpoint is the
    number of updates (the n of `step=n`) where the adapter was kept after this step, else empty. Intervals treat the
    tasks of a step as clusters. correct_gain is the change of the correct rate since the first step, with an interval
    for two independent sets of tasks. mean_speedup is over correct rollouts, entropy in nats per token. `rollouts`
    has step, task_id, candidate_sha256, status, speedup, speedup_low, reward, entropy.
    """
    rollouts = rollouts.with_columns(correct=CORRECT, fast_1=FAST_1, fast_1_confident=FAST_1_CONFIDENT)
    kept = set(checkpoints)
    rows: list[Row] = []
    first: tuple[float, Interval] | None = None
    for (step,), of_step in rollouts.sort("step").group_by("step", maintain_order=True):
        counts = of_step.group_by("task_id").agg(pl.len(), pl.col("correct", *FAST).sum()).sort("task_id")
        row: Row = {
            "step": step,
            "checkpoint": step + 1 if step + 1 in kept else None,
            "n_rollouts": of_step.height,
            "n_tasks": counts.height,
        }
        sizes = counts["len"].to_numpy().astype(np.int64)
        for metric in ("correct", *FAST):
            rng = statistics.generator(settings.seed, "training", str(step), metric)
            successes = counts[metric].to_numpy().astype(np.int64)
            interval = statistics.cluster_interval(successes, sizes, settings.bootstrap, settings.confidence, rng)
            rate = float(successes.sum() / sizes.sum())
            row |= {metric: rate, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
            if metric == "correct":
                gain = statistics.difference_interval(*first, rate, interval) if first else None
                first = first or (rate, interval)
                row["correct_gain"] = rate - first[0]
                row |= {"correct_gain_low": gain and gain.low, "correct_gain_high": gain and gain.high}
        row["mean_reward"] = of_step["reward"].mean()
        row["mean_speedup"] = of_step.filter("correct")["speedup"].mean()
        row["distinct_candidates"] = of_step.select("task_id", "candidate_sha256").n_unique()
        row["entropy"] = of_step["entropy"].mean()
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def best_of_k(samples: pl.DataFrame, names: pl.DataFrame, settings: AggregateSettings) -> pl.DataFrame:
    """Table 8: the fastest correct sample of each (task, seed), and what became of the others.

    fast_1 and fast_1_confident are of that sample, sample_fast_1 and sample_fast_1_confident the rates among all
    samples, with Wilson intervals: within one task and seed samples are independent draws. speedup_low and
    speedup_high are the measured interval of the best sample; choosing the best of many favours lucky measurements,
    and the interval does not correct for that. ceiling is the largest speedup that the device allows (baseline_ms /
    roofline_ms, empty where it is not known), ceiling_share how much of it was reached (speedup / ceiling). The last
    columns count the samples of each status.
    """
    ceiling = pl.when(pl.col("roofline_ms") > 0).then(pl.col("baseline_ms") / pl.col("roofline_ms"))
    best = (
        samples.filter(CORRECT)
        .sort("speedup", "sample", descending=[True, False])
        .unique(CELL, keep="first", maintain_order=True)
        .with_columns(pl.col(FAST).cast(pl.Int32), ceiling=ceiling)
        .with_columns(ceiling_share=pl.col("speedup") / pl.col("ceiling"))
    )
    measured = [
        "speedup",
        "speedup_low",
        "speedup_high",
        "kernel_ms",
        "baseline_ms",
        "ceiling",
        "ceiling_share",
    ]
    cells = samples.group_by(CELL).agg(
        pl.len().alias("k"),
        *(pl.col(metric).sum().alias(f"sample_{metric}") for metric in FAST),
        *((pl.col("status") == status).sum().alias(status) for status in STATUSES),
        n_distinct=pl.col("candidate").n_unique(),
        n_distinct_correct=pl.col("candidate").filter(CORRECT).n_unique(),
        mean_tokens=pl.col("n_tokens").mean(),
    )
    rates: list[str] = []
    cells = cells.with_columns(correct_rate=pl.col("correct"))
    for rate in ("correct_rate", "sample_fast_1", "sample_fast_1_confident"):
        low, high = statistics.wilson_interval(cells[rate].to_numpy(), cells["k"].to_numpy(), settings.confidence)
        cells = cells.with_columns(
            pl.col(rate) / pl.col("k"), pl.Series(f"{rate}_low", low), pl.Series(f"{rate}_high", high)
        )
        rates += [rate, f"{rate}_low", f"{rate}_high"]
    table = cells.join(best.select([*CELL, *FAST, *measured]), on=CELL, how="left").join(
        names, on="task_id", how="left"
    )
    columns = [*TASK, "name", "headroom", "seed", "k", *FAST, *measured, *rates]
    columns += ["n_distinct", "n_distinct_correct", "mean_tokens"]
    return table.with_columns(pl.col(*FAST, "speedup").fill_null(0)).sort(CELL).select(*columns, *STATUSES)


def _each_subset(rows: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    for subset in rows["subset"].unique().sort():
        yield subset, rows.filter(pl.col("subset") == subset)


def _grid(cells: pl.DataFrame, column: str) -> Any:
    """A column of one row per (task, seed) as an array (T, S)."""
    cells = cells.sort("task_id", "seed")
    # Counts arrive unsigned, and differences of them must not wrap around.
    dtype = np.float64 if cells[column].dtype.is_float() else np.int64
    return cells[column].to_numpy().astype(dtype).reshape(cells["task_id"].n_unique(), -1)


def _summary(name: str, values_TS: Floats, interval: Interval) -> Row:
    std = statistics.std_over_seeds(values_TS)
    return {
        name: float(values_TS.mean()),
        f"{name}_std": std,
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
    }


def _budgets(n: int) -> list[int]:
    return sorted({*(2**power for power in range(n.bit_length())), n})


def _in_order(names: Iterable[str]) -> list[str]:
    order = {name: i for i, name in enumerate(STRATEGIES)}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def _rank(column: str) -> pl.Expr:
    order = {name: i for i, name in enumerate(STRATEGIES)}
    return pl.col(column).replace_strict(order, default=len(order), return_dtype=pl.Int32).alias("rank")
