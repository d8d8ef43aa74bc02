"""Drawing candidates: from tasks to prompts, completions, and the candidates that they make."""

from collections.abc import Sequence
from dataclasses import dataclass

from expert_tail.policy.action import candidate_sha256, candidate_source
from expert_tail.policy.load import Policy
from expert_tail.policy.prompt import has_channels, prompt_tokens
from expert_tail.policy.sampler import Completion, sample
from expert_tail.policy.settings import PromptSettings
from expert_tail.progress import Advance
from expert_tail.tasks import Task


@dataclass(frozen=True)
class Draw:
    """One sample of a task: what was drawn, its text, and the candidate it makes."""

    task: Task
    completion: Completion
    text: str
    source: str
    sha256: str


def draw(
    policy: Policy,
    tasks: Sequence[Task],
    n: int,
    prompt: PromptSettings,
    *,
    temperature: float,
    max_tokens: int,
    seed: tuple[int, ...],
    advance: Advance | None = None,
) -> list[list[Draw]]:
    """`n` draws of each task, all in one batch. A task's draws depend on `seed` and its id, not on the other tasks."""
    completions = sample(
        policy.model,
        prompts_of(policy, tasks, prompt),
        n,
        stop_ids=policy.stop_ids,
        temperature=temperature,
        max_tokens=max_tokens,
        seeds=[_combined((*seed, task.task_id)) for task in tasks],
        advance=advance,
    )
    return [
        [_made(policy, task, one, prompt.action) for one in of_task]
        for task, of_task in zip(tasks, completions, strict=True)
    ]


def prompts_of(policy: Policy, tasks: Sequence[Task], prompt: PromptSettings) -> list[list[int]]:
    return [prompt_tokens(policy.tokenizer, task.reference_source, prompt) for task in tasks]


def _made(policy: Policy, task: Task, completion: Completion, action: str) -> Draw:
    ids = completion.token_ids[:-1] if completion.finish_reason == "stop" else completion.token_ids
    text = policy.tokenizer.decode(ids, skip_special_tokens=not has_channels(policy.tokenizer))
    source = candidate_source(task.reference_source, text, action)
    return Draw(task, completion, text, source, candidate_sha256(source))


def _combined(parts: tuple[int, ...]) -> int:
    seed = 0
    for part in parts:
        seed = (seed * 1_000_003 + part + 1) % 2**63
    return seed
