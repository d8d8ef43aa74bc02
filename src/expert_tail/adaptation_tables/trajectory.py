"""The table of one run's steps: how good each checkpoint is, what it cost, and which rules would deploy it.

Rates are over the rollouts that the checkpoint wrote; their intervals treat tasks as clusters, or, with a single task,
its rollouts as independent draws. `fresh_…` columns are of rollouts that no update was made from (empty without them):
where a rule chose a step by one set of rollouts, the other set reports it without bias. Both share the verdict on a
candidate that both contain, so what is luck of one measurement is the same in both; that takes `fast_1_confident`.
"""

from typing import Any

import numpy as np
import polars as pl

from expert_tail.adapt.settings import Run
from expert_tail.aggregate import statistics
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.best_of_adaptation.best import affordable, best_step, early_stop
from expert_tail.success import CORRECT, FAST_1, FAST_1_CONFIDENT

Row = dict[str, Any]
METRICS = ("fast_1", "fast_1_confident", "correct")
_RATES = [column for metric in METRICS for column in (metric, f"{metric}_low", f"{metric}_high")]
_PERFORMANCE = [*_RATES, "mean_speedup", "distinct_candidates", "entropy"]
_FRESH = [f"fresh_{column}" for column in _PERFORMANCE]
TOKENS = ("student_tokens", "fresh_tokens", "teacher_tokens")
COMPUTED = ("sampling_computed", "scoring_computed", "update_computed")
SECONDS = ("sampling_s", "evaluating_s", "scoring_s", "update_s")


def trajectory(
    name: str,
    run: Run,
    steps: list[dict[str, pl.DataFrame]],
    budget: int,
    patience: int,
    settings: AggregateSettings,
) -> list[Row]:
    """One row a step. Each of `steps` has the frames rollouts, evaluations, account and, with fresh validation,
    fresh_rollouts and fresh_evaluations, with the columns of these artifacts.

    is_boa marks the step that Best-of-Adaptation deploys, is_boa_at_budget the one it deploys if it may draw no more
    rollouts of a task than `budget`, is_early_stop the one that early stopping deploys, is_fresh_boa the best by fresh
    rollouts; `_confident` says the same for fast_1_confident. They are empty where a rule has nothing to go by. Columns in
    `_to_here` add up what it took to make this checkpoint and to score it.
    """
    rows = [_step(name, run, step, settings) for step in steps]
    _add_choices(rows, run, budget, patience)
    _add_costs(rows)
    return rows


def _step(name: str, run: Run, frames: dict[str, pl.DataFrame], settings: AggregateSettings) -> Row:
    account = frames["account"].row(0, named=True)
    row: Row = {
        "run": name,
        "objective": run.objective,
        "subset": run.subset,
        "task_id": run.task,
        "seed": run.seed,
        "lr": run.lr,
        "reward": run.reward,
        "step": account["step"],
    }
    row |= _performance("", frames["rollouts"], frames["evaluations"], settings)
    fresh: Row = dict.fromkeys(_FRESH)
    if "fresh_evaluations" in frames:
        fresh = _performance("fresh_", frames["fresh_rollouts"], frames["fresh_evaluations"], settings)
    row["mean_reward"] = frames["rollouts"]["reward"].mean()
    advantage = frames["rollouts"]["advantage"]
    row["zero_advantage"] = None if advantage.is_null().any() else float((advantage == 0).mean())  # type: ignore[arg-type]
    evaluator = frames["evaluations"]["evaluator"].unique(maintain_order=True).to_list()
    return row | fresh | account | {"evaluator": " ".join(evaluator)}


def _performance(prefix: str, rollouts: pl.DataFrame, evaluations: pl.DataFrame, settings: AggregateSettings) -> Row:
    judged = evaluations.with_columns(correct=CORRECT, fast_1=FAST_1, fast_1_confident=FAST_1_CONFIDENT)
    counts = judged.group_by("task_id").agg(pl.len(), pl.col(*METRICS).sum()).sort("task_id")
    sizes = counts["len"].to_numpy().astype(np.int64)
    row: Row = {}
    for metric in METRICS:
        successes = counts[metric].to_numpy().astype(np.int64)
        rng = statistics.generator(
            settings.seed, "adaptation", metric
        )  # the same for all: equal rates, equal intervals
        low, high = statistics.cluster_interval(successes, sizes, settings.bootstrap, settings.confidence, rng)
        row |= {metric: successes.sum() / sizes.sum(), f"{metric}_low": low, f"{metric}_high": high}
    row |= {
        "mean_speedup": judged.filter("correct")["speedup"].mean(),
        "distinct_candidates": rollouts.select("task_id", "candidate_sha256").n_unique(),
        "entropy": rollouts["entropy"].mean(),
    }
    return {prefix + key: value for key, value in row.items()}


def _add_choices(rows: list[Row], run: Run, budget: int, patience: int) -> None:
    steps_at_budget = affordable([run.rollouts] * len(rows), budget) if run.start is None else 0
    for metric, suffix in (("fast_1", ""), ("fast_1_confident", "_confident")):
        scores = [row[metric] for row in rows]
        chosen = {"is_boa": best_step(scores), "is_early_stop": early_stop(scores, patience).step}
        if steps_at_budget:
            chosen["is_boa_at_budget"] = best_step(scores[:steps_at_budget])
        if run.is_fresh:
            chosen["is_fresh_boa"] = best_step([row[f"fresh_{metric}"] for row in rows])
        for rule in ("is_boa", "is_boa_at_budget", "is_early_stop", "is_fresh_boa"):
            for step, row in enumerate(rows):
                row[rule + suffix] = int(chosen[rule] == step) if rule in chosen else None
    for step, row in enumerate(rows):
        row["is_within_budget"] = int(step < steps_at_budget)


def _add_costs(rows: list[Row]) -> None:
    """A teacher scores the rollouts of a step for the next update, so the step itself does not depend on it."""
    rollouts, tokens, seconds = 0, 0, 0.0
    scored = {"tokens": 0, "seconds": 0.0}
    for row in rows:
        rollouts += row["rollouts"] + row["fresh_rollouts"]
        tokens += row["student_tokens"] + row["fresh_tokens"] + scored["tokens"]
        seconds += row["sampling_s"] + row["evaluating_s"] + row["update_s"] + scored["seconds"]
        scored = {"tokens": row["teacher_tokens"], "seconds": row["scoring_s"]}
        row |= {"rollouts_to_here": rollouts, "tokens_to_here": tokens, "seconds_to_here": seconds}


COLUMNS = [
    *("run", "objective", "subset", "task_id", "seed", "lr", "reward", "step"),
    *_PERFORMANCE,
    *_FRESH,
    *("mean_reward", "zero_advantage", "loss", "gradient_norm", "logprob_gap_mean", "logprob_gap_max"),
    *("is_boa", "is_boa_at_budget", "is_early_stop", "is_fresh_boa"),
    *("is_boa_confident", "is_boa_at_budget_confident", "is_early_stop_confident", "is_fresh_boa_confident"),
    *("is_within_budget", "rollouts", "fresh_rollouts", "known", "measured"),
    *(*TOKENS, *COMPUTED, *SECONDS),
    *("rollouts_to_here", "tokens_to_here", "seconds_to_here", "evaluator"),
]
