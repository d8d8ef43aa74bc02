"""What sampling, scoring and evaluating cost, per task, from what the stages noted beside their artifacts.

- Tokens: sampling shares what samples have in common. Each prompt is computed once, and so is each distinct beginning of a
  completion; the last token of a completion is not computed. So the tokens of k samples are known exactly, in expectation
  over which k of the K: a beginning that c of K samples share is computed with probability 1 − C(K−c, k) / C(K, k).
- Seconds of sampling: the job's, in proportion to computed tokens. Scoring is of all K samples; its seconds and tokens are
  shared equally by the job's tasks.
- Seconds of evaluating: distinct candidates times the mean seconds a candidate, over all that were measured (known ones take
  none). It is what evaluating would take if nothing were known before; checking and timing are one job of the evaluator.

Loading the policy, and the training that came before, are the same for all and left out.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from expert_tail import artifacts
from expert_tail.aggregate.loading import Spent, spent
from expert_tail.aggregate.statistics import pass_at_k

COSTS = (
    *("rollouts", "evaluations", "tokens_sampled", "tokens_computed"),
    *("sampling_s", "scoring_s", "evaluating_s", "update_s", "seconds"),
)
PARTS = ("sampling_s", "scoring_s", "evaluating_s", "update_s")


class Sampling(NamedTuple):
    """Sampling and scoring of one task and seed: its job's notes, and what of them is this task's."""

    n: int
    n_tokens: float  # of all samples
    shared_C: np.ndarray  # how many samples share each distinct beginning
    prompt_tokens: float | None  # computed for the prompt; None where the job noted nothing
    seconds_per_token: float | None
    scoring: Spent

    def cost(self, k: int, scored: bool = False) -> dict[str, float | None]:
        """Of k samples (expected over which), and of scoring all of them."""
        tokens: float | None = None
        if self.prompt_tokens is not None:
            tokens = self.prompt_tokens + float(pass_at_k(self.n, self.shared_C, k).sum())
        seconds = None if tokens is None or self.seconds_per_token is None else tokens * self.seconds_per_token
        scoring = self.scoring if scored else Spent(0.0, 0.0)
        computed = None if tokens is None or scoring.tokens is None else tokens + scoring.tokens
        return {
            "rollouts": float(k),
            "tokens_sampled": self.n_tokens * k / self.n,
            "tokens_computed": computed,
            "sampling_s": seconds,
            "scoring_s": scoring.seconds,
            "update_s": 0.0,
        }


def samplings(samples: Path, logprobs: Path) -> dict[int, Sampling]:
    """The cost of sampling and scoring each task of one subset and seed."""
    rows = pl.DataFrame(artifacts.read(samples, "samples", ["task_id", "token_ids", "n_tokens"]))
    job, scoring = spent(samples), spent(logprobs)
    tasks = {task_id: of_task for (task_id,), of_task in rows.group_by("task_id", maintain_order=True)}
    shared = {task_id: beginnings(of_task["token_ids"].to_list()) for task_id, of_task in tasks.items()}
    prompts = None if job.tokens is None else max(0.0, job.tokens - sum(map(len, shared.values()))) / len(tasks)
    rate = None if not job.tokens or job.seconds is None else job.seconds / job.tokens
    per_task = Spent(*(None if part is None else part / len(tasks) for part in scoring))
    return {
        task_id: Sampling(
            of_task.height,
            float(of_task["n_tokens"].sum()),
            shared[task_id],
            prompts,
            rate,
            per_task,
        )
        for task_id, of_task in tasks.items()
    }


def beginnings(completions: Iterable[Sequence[int]]) -> np.ndarray:
    """How many of the completions share each distinct beginning that is computed: all that end before the last token."""
    counts = Counter(tuple(tokens[:end]) for tokens in completions for end in range(1, len(tokens)))
    return np.array(list(counts.values()), dtype=np.int64)


def seconds_per_candidate(evaluations: Iterable[Path], accounts: Iterable[pl.DataFrame]) -> float | None:
    """Mean seconds that a measured candidate took; None where nothing was measured, or nothing noted."""
    seconds, measured = 0.0, 0
    for path in evaluations:
        noted = artifacts.notes(path)
        if int(noted.get("measured", 0)):
            seconds, measured = seconds + float(noted["seconds"]), measured + int(noted["measured"])
    for account in accounts:
        for row in account.filter(pl.col("measured") > 0).iter_rows(named=True):
            seconds, measured = seconds + row["evaluating_s"], measured + row["measured"]
    return seconds / measured if measured else None


def completed(
    cost: dict[str, float | None], evaluations: float, per_candidate: float | None
) -> dict[str, float | None]:
    """Add what evaluating costs, and the sum of all seconds (None where a part is not known)."""
    cost = cost | {"evaluations": evaluations}
    cost["evaluating_s"] = None if per_candidate is None else evaluations * per_candidate
    parts = [cost[part] for part in PARTS]
    cost["seconds"] = None if None in parts else sum(part for part in parts if part is not None)
    return {name: cost[name] for name in COSTS}
