"""Probing a checkpoint: a samples artifact scored as `nll_probe` does, against the padded batch of plain transformers.

    python benchmarks/probe.py --policy FOLDER --tasks artifacts/tasks/level1.parquet \
        --samples artifacts/samples/subset1/seed=42.parquet [--adapter artifacts/adapt/RUN/step=N]

The baseline is, for each task, a right-padded batch of all its samples with the prompt before each, in minibatches of
`--baseline-rows`, logits only where sample tokens are predicted. The packed arm runs before and after it. Prints JSON.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from shared_prefix import padded_logprobs, timed
from torch import Tensor

from expert_tail import artifacts
from expert_tail.policy.counting import counted_tokens
from expert_tail.policy.load import load_policy
from expert_tail.policy.logprobs import completion_logprobs
from expert_tail.policy.prompt import prompt_tokens
from expert_tail.policy.settings import PromptSettings, RuntimeSettings
from expert_tail.tasks.stage import tasks_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("policy", "tasks", "samples"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--first", type=int, default=1, help="tasks to score (default: 1, as the baseline is slow)")
    parser.add_argument("--baseline-rows", type=int, help="rows of a minibatch (default: 2 on a CPU, 32 on a GPU)")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    rows = args.baseline_rows or (2 if args.device == "cpu" else 32)

    policy = load_policy(args.policy, RuntimeSettings(device=args.device), args.adapter)
    of_task: dict[int, list[list[int]]] = defaultdict(list)
    for row in artifacts.read(args.samples, "samples", ["task_id", "token_ids"]).to_pylist():
        of_task[row["task_id"]].append(row["token_ids"])
    chosen = tasks_of(args.tasks, artifacts.notes(args.samples)["subset"])[: args.first]
    prompts = [prompt_tokens(policy.tokenizer, task.reference_source, PromptSettings()) for task in chosen]
    samples = [of_task[task.task_id] for task in chosen]

    @torch.no_grad()
    def packed() -> list[Tensor]:
        scored = completion_logprobs(policy.model, prompts, samples)
        return [logprobs_T for of_prompt in scored for logprobs_T in of_prompt]

    @torch.no_grad()
    def padded() -> list[Tensor]:
        return [
            logprobs_T
            for prompt, of_prompt in zip(prompts, samples, strict=True)
            for start in range(0, len(of_prompt), rows)
            for logprobs_T in padded_logprobs(policy.model, prompt, of_prompt[start : start + rows])
        ]

    with counted_tokens(policy.model) as few:
        ours = packed()
    with counted_tokens(policy.model) as many:
        theirs = padded()
    ratios, seconds = [], []
    for _ in range(args.repeats):
        before, between, after = timed(packed, args.device), timed(padded, args.device), timed(packed, args.device)
        ratios.append(2 * between / (before + after))
        seconds.append([(before + after) / 2, between])
    report: dict[str, Any] = {
        "samples": len(ours),
        "tasks": len(chosen),
        "ratio": round(statistics.median(ratios), 2),
        "packed_padded_seconds": [[round(x, 3) for x in pair] for pair in seconds],
        "packed_tokens": few.tokens,
        "padded_tokens": many.tokens,
        "largest_difference": max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
