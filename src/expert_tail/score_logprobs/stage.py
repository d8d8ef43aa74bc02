"""Score a samples artifact under a checkpoint."""

from collections import defaultdict
from pathlib import Path

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
                groups[i][j]["nll"] = -logprobs_T.double().sum().item()
            advance(len(pairs))
    artifacts.write(
        output,
        "logprobs",
        [
            {
                "task_id": row["task_id"],
                "seed": row["seed"],
                "sample": row["sample"],
                "scorer": loaded.checkpoint,
                "nll": row["nll"],
                "nll_mean": row["nll"] / len(row["token_ids"]),
                "n_tokens": len(row["token_ids"]),
            }
            for row in rows
        ],
        subset=subset,
    )
