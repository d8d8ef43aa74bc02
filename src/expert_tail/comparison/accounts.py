"""What each way to spend compute took: rollouts, tokens as the paper counts them (prompt and completion), tokens computed."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from expert_tail.adaptation_tables.trajectory import COMPUTED, SECONDS
from expert_tail.comparison.adapted import Adapted

Row = dict[str, Any]
PromptTokens = Mapping[int, int]  # of each task; empty where the policy was not given to count them
NO_PROMPTS = "the policy was not given, so prompts were not counted"
NOT_TIMED = "not recorded by sampling"


def tokens_per_sample(samples: pl.DataFrame, prompts: PromptTokens) -> float | None:
    """Mean over all samples of the tokens of prompt and completion; None where prompts are not known."""
    if not prompts:
        return None
    lengths = pl.DataFrame({"task_id": list(prompts), "prompt": list(prompts.values())}).cast({"task_id": pl.Int32})
    found = samples.join(lengths, on="task_id", how="left")
    return float((found["n_tokens"] + found["prompt"]).mean())  # type: ignore[arg-type]


def best_of_n(samples: pl.DataFrame, prompts: PromptTokens) -> Row:
    """Best-of-N on a set of tasks, as it is for one seed: means over seeds, and the distinct candidates over all."""
    seeds = samples["seed"].n_unique()
    each = tokens_per_sample(samples, prompts)
    row: Row = {"rollouts": samples.height / seeds, "teacher_tokens": 0, "fresh_tokens": 0}
    row["student_tokens"] = None if each is None else each * samples.height / seeds
    row["distinct_candidates"] = samples.select("task_id", "candidate").n_unique()
    row |= {"computed_tokens": None, "seconds": None, "reason": NOT_TIMED if prompts else f"{NO_PROMPTS}; {NOT_TIMED}"}
    return row


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
