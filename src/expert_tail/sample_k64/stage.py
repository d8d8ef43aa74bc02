"""Draw K samples of every task of a subset, all tasks in one batch."""

import time
from pathlib import Path

from expert_tail import artifacts
from expert_tail.policy.draw import draw, refusing_what_is_not_finite
from expert_tail.policy.engine import chosen_engine, engine_of_checkpoint
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
    chosen_engine(runtime)  # what cannot sample is said first
    chosen = tasks_of(tasks, subset)
    with (
        engine_of_checkpoint(policy, runtime, adapter) as engine,
        progress(f"sampling {subset} seed {seed}", len(chosen) * sampling.k) as advance,
    ):
        began = time.monotonic()
        with refusing_what_is_not_finite(str(adapter or policy), "its weights are damaged, or training has diverged"):
            draws = draw(
                engine,
                chosen,
                sampling.k,
                prompt,
                temperature=sampling.temperature,
                max_tokens=sampling.max_tokens,
                seed=(seed,),
                advance=advance,
            )
        spent = {"seconds": str(time.monotonic() - began), "computed_tokens": str(engine.computed_tokens)}
    rows = [
        {
            "task_id": one.task.task_id,
            "seed": seed,
            "sample": index,
            "checkpoint": engine.checkpoint,
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
    notes = {"subset": subset, "action": prompt.action, "engine": engine.name}
    artifacts.write(output, "samples", rows, **notes, **spent, settings=sampling.model_dump_json())
