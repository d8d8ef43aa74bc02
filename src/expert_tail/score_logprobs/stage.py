"""Score a samples artifact under a checkpoint."""

import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from expert_tail import artifacts
from expert_tail.errors import UserError
from expert_tail.policy.counting import counted_tokens
from expert_tail.policy.load import load_policy
from expert_tail.policy.logprobs import packed_passes
from expert_tail.policy.prompt import prompt_tokens
from expert_tail.policy.settings import PromptSettings, RuntimeSettings
from expert_tail.progress import progress
from expert_tail.tasks.stage import tasks_of


def run(
    prompt: PromptSettings,
    runtime: RuntimeSettings,
    tasks: Path,
    policy: Path,
    adapter: Path | None,
    samples: Path,
    output: Path,
) -> None:
    scores = score(prompt, runtime, tasks, policy, adapter, samples)
    rows = [row for row, _ in scores.rows]
    artifacts.write(output, "logprobs", rows, subset=artifacts.notes(samples)["subset"], **scores.spent)


class Scores(NamedTuple):
    """A row of the `logprobs` table for each sample, in the order of the artifact, beside the log-probs of its tokens.

    `spent` has the seconds that it took, without loading, and the tokens that went through the model, as notes.
    """

    rows: list[tuple[dict[str, Any], list[float]]]
    spent: dict[str, str]


def score(
    prompt: PromptSettings,
    runtime: RuntimeSettings,
    tasks: Path,
    policy: Path,
    adapter: Path | None,
    samples: Path,
    scorer: str = "",
) -> Scores:
    """The log-probs of every sample of an artifact under a checkpoint.

    `scorer` is what the rows call the checkpoint (left out: its own name). Raises `UserError` where one is not finite.
    """
    subset = artifacts.notes(samples)["subset"]
    rows = artifacts.read(samples, "samples", ["task_id", "seed", "sample", "token_ids"]).to_pylist()
    of_task: dict[int, list[dict]] = defaultdict(list)
    for row in rows:
        of_task[row["task_id"]].append(row)
    by_id = {task.task_id: task for task in tasks_of(tasks, subset)}
    loaded = load_policy(policy, runtime, adapter)
    prompts = [prompt_tokens(loaded.tokenizer, by_id[task_id].reference_source, prompt) for task_id in of_task]
    completions = [[row["token_ids"] for row in group] for group in of_task.values()]
    groups = list(of_task.values())
    began = time.monotonic()
    with (
        progress(f"scoring {subset} under {loaded.checkpoint}", len(rows)) as advance,
        counted_tokens(loaded.model) as computed,
        torch.no_grad(),
    ):
        for pairs, logprobs in packed_passes(loaded.model, prompts, completions):
            for (i, j), logprobs_T in zip(pairs, logprobs, strict=True):
                groups[i][j]["logprobs"] = logprobs_T.double().tolist()
            advance(len(pairs))
    spent = {"seconds": str(time.monotonic() - began), "computed_tokens": str(computed.tokens)}
    result = []
    for row in rows:
        nll, n_tokens = -sum(row["logprobs"]), len(row["token_ids"])
        if not math.isfinite(nll):
            where = ", ".join(f"{key} {row[key]}" for key in ("task_id", "seed", "sample"))
            raise UserError(
                f"{samples}, {where}: its log-probs under {adapter or policy} are not finite; the weights are damaged, "
                f"training has diverged, or `policy.dtype` ({runtime.dtype}) is too narrow for them"
            )
        scored = {key: row[key] for key in ("task_id", "seed", "sample")}
        scored |= {"scorer": scorer or loaded.checkpoint, "nll": nll, "nll_mean": nll / n_tokens, "n_tokens": n_tokens}
        result.append((scored, row["logprobs"]))
    return Scores(result, spent)
