"""Score a samples artifact under a checkpoint."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from expert_tail import artifacts
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
    rows = [row for row, _ in score(prompt, runtime, tasks, policy, adapter, samples)]
    artifacts.write(output, "logprobs", rows, subset=artifacts.notes(samples)["subset"])


def score(
    prompt: PromptSettings,
    runtime: RuntimeSettings,
    tasks: Path,
    policy: Path,
    adapter: Path | None,
    samples: Path,
    scorer: str = "",
) -> list[tuple[dict[str, Any], list[float]]]:
    """A row of the `logprobs` table for each sample, in the order of the artifact, beside the log-probs of its tokens.

    `scorer` is what the rows call the checkpoint (left out: its own name).
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
    with progress(f"scoring {subset} under {loaded.checkpoint}", len(rows)) as advance, torch.no_grad():
        for pairs, logprobs in packed_passes(loaded.model, prompts, completions):
            for (i, j), logprobs_T in zip(pairs, logprobs, strict=True):
                groups[i][j]["logprobs"] = logprobs_T.double().tolist()
            advance(len(pairs))
    result = []
    for row in rows:
        nll, n_tokens = -sum(row["logprobs"]), len(row["token_ids"])
        scored = {key: row[key] for key in ("task_id", "seed", "sample")}
        scored |= {"scorer": scorer or loaded.checkpoint, "nll": nll, "nll_mean": nll / n_tokens, "n_tokens": n_tokens}
        result.append((scored, row["logprobs"]))
    return result
