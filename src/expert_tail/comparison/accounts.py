"""What each way to spend compute took: rollouts, tokens as the paper counts them (prompt and completion), tokens computed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from expert_tail.adaptation_tables.trajectory import COMPUTED, SECONDS
from expert_tail.aggregate.loading import cells_of, spent
from expert_tail.comparison.adapted import Adapted

Row = dict[str, Any]
PromptTokens = Mapping[int, int]  # of each task; empty where the policy was not given to count them
NO_PROMPTS = "the policy was not given, so prompts were not counted"
NOT_NOTED = "an artifact does not say what it took; a run of the present version notes it"


def tokens_per_sample(samples: pl.DataFrame, prompts: PromptTokens) -> float | None:
    """Mean over all samples of the tokens of prompt and completion; None where prompts are not known."""
    if not prompts:
        return None
    lengths = pl.DataFrame({"task_id": list(prompts), "prompt": list(prompts.values())}).cast({"task_id": pl.Int32})
    found = samples.join(lengths, on="task_id", how="left")
    return float((found["n_tokens"] + found["prompt"]).mean())  # type: ignore[arg-type]


def noted(samples: Sequence[Path], evaluations: Sequence[Path]) -> pl.DataFrame:
    """What sampling and evaluating each subset and seed took, as noted beside its artifacts: what was known took no time.

    Columns: subset, seed, computed_tokens, seconds; null where an artifact notes nothing.
    """
    judged, rows = cells_of(evaluations), []
    for (subset, seed), path in cells_of(samples).items():
        sampling, evaluating = spent(path), spent(judged[subset, seed])
        is_known = sampling.seconds is not None and evaluating.seconds is not None
        seconds = sampling.seconds + evaluating.seconds if is_known else None  # type: ignore[operator]
        rows.append((subset, seed, sampling.tokens, seconds))
    schema = {"subset": pl.String, "seed": pl.Int64, "computed_tokens": pl.Float64, "seconds": pl.Float64}
    return pl.DataFrame(rows, schema, orient="row")


def best_of_n(samples: pl.DataFrame, prompts: PromptTokens, taken: pl.DataFrame) -> Row:
    """Best-of-N on a set of tasks, as it is for one seed: means over seeds, and the distinct candidates over all.

    `taken` are the rows of `noted` of its subsets.
    """
    seeds = samples["seed"].n_unique()
    each = tokens_per_sample(samples, prompts)
    row: Row = {"rollouts": samples.height / seeds, "teacher_tokens": 0, "fresh_tokens": 0}
    row["student_tokens"] = None if each is None else each * samples.height / seeds
    row["distinct_candidates"] = samples.select("task_id", "candidate").n_unique()
    for name in ("computed_tokens", "seconds"):
        row[name] = None if taken[name].has_nulls() else float(taken[name].sum()) / seeds
    reasons = [] if prompts else [NO_PROMPTS]
    if None in (row["computed_tokens"], row["seconds"]):
        reasons.append(NOT_NOTED)
    return row | {"reason": "; ".join(reasons) or None}


def adaptation(runs: Sequence[Adapted]) -> list[Row]:
    """Every run as a whole: all its steps."""
    rows = []
    for one in runs:
        total = {name: sum(row[name] for row in one.rows) for name in ("rollouts", "fresh_rollouts")}
        tokens = {
            name: sum(row[name] for row in one.rows) for name in ("student_tokens", "teacher_tokens", "fresh_tokens")
        }
        row: Row = {"run": one.name, "objective": one.run.objective, "subset": one.run.subset, "task_id": one.run.task}
        row |= {"seed": one.run.seed, "steps": one.run.steps, **total, **tokens}
        row["total_tokens"] = sum(tokens.values())
        row["computed_tokens"] = sum(step[name] for step in one.rows for name in COMPUTED)
        row["candidates_measured"] = sum(step["measured"] for step in one.rows)
        row["seconds"] = sum(step[name] for step in one.rows for name in SECONDS)
        rows.append(row)
    return rows
