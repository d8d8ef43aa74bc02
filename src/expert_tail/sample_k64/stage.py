"""Draw K samples of every task of a subset, all tasks in one batch."""

import time
from pathlib import Path

from expert_tail import artifacts
from expert_tail.policy.counting import counted_tokens
from expert_tail.policy.draw import draw
from expert_tail.policy.load import load_policy
from expert_tail.policy.settings import PromptSettings, RuntimeSettings
from expert_tail.progress import progress
from expert_tail.sample_k64.settings import SampleSettings
from expert_tail.tasks.stage import tasks_of


def run(
    sampling: SampleSettings,
    prompt: PromptSettings,
    runtime: RuntimeSettings,
    tasks: Path,
    policy: Path,
    adapter: Path | None,
    subset: str,
    seed: int,
    output: Path,
) -> None:
    chosen = tasks_of(tasks, subset)
    loaded = load_policy(policy, runtime, adapter)
    began = time.monotonic()
    with (
        progress(f"sampling {subset} seed {seed}", len(chosen) * sampling.k) as advance,
        counted_tokens(loaded.model) as computed,
    ):
        draws = draw(
            loaded,
            chosen,
            sampling.k,
            prompt,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=(seed,),
            advance=advance,
        )
    spent = {"seconds": str(time.monotonic() - began), "computed_tokens": str(computed.tokens)}
    rows = [
        {
            "task_id": one.task.task_id,
            "seed": seed,
            "sample": index,
            "checkpoint": loaded.checkpoint,
            "completion": one.text,
            "candidate_sha256": one.sha256,
            "token_ids": one.completion.token_ids,
            "logprobs": one.completion.logprobs,
            "tempered_logprobs": one.completion.tempered_logprobs,
            "n_tokens": len(one.completion.token_ids),
            "finish_reason": one.completion.finish_reason,
        }
        for of_task in draws
        for index, one in enumerate(of_task)
    ]
    settings = sampling.model_dump_json()
    artifacts.write(output, "samples", rows, subset=subset, action=prompt.action, settings=settings, **spent)
