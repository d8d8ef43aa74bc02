"""Drawing candidates: from tasks to prompts, completions, and the candidates that they make."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from expert_tail.errors import UserError
from expert_tail.policy.action import candidate_sha256, candidate_source
from expert_tail.policy.engine import Engine
from expert_tail.policy.prompt import has_channels, prompt_tokens
from expert_tail.policy.settings import PromptSettings
from expert_tail.policy.token_draws import Completion
from expert_tail.progress import Advance
from expert_tail.tasks import Task


@contextlib.contextmanager
def refusing_what_is_not_finite(what: str, remedy: str) -> Iterator[None]:
    """Raise a `UserError` that names `what` was drawn, and the remedy, where the policy's logits are not finite."""
    try:
        yield
    except FloatingPointError as error:
        raise UserError(f"{what}: {error}; {remedy}") from error


@dataclass(frozen=True)
class Draw:
    """One sample of a task: what was drawn, its text, and the candidate it makes."""

    task: Task
    completion: Completion
    text: str
    source: str
    sha256: str


def draw(
    engine: Engine,
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
    completions = engine.sample(
        prompts_of(engine.tokenizer, tasks, prompt),
        n,
        temperature=temperature,
        max_tokens=max_tokens,
        seeds=[_combined((*seed, task.task_id)) for task in tasks],
        advance=advance,
    )
    return [
        [_made(engine.tokenizer, task, one, prompt.action) for one in of_task]
        for task, of_task in zip(tasks, completions, strict=True)
    ]


def prompts_of(tokenizer: Any, tasks: Sequence[Task], prompt: PromptSettings) -> list[list[int]]:
    return [prompt_tokens(tokenizer, task.reference_source, prompt) for task in tasks]


def _made(tokenizer: Any, task: Task, completion: Completion, action: str) -> Draw:
    ids = completion.token_ids[:-1] if completion.finish_reason == "stop" else completion.token_ids
    text = tokenizer.decode(ids, skip_special_tokens=not has_channels(tokenizer))
    source = candidate_source(task.reference_source, text, action)
    return Draw(task, completion, text, source, candidate_sha256(source))


def _combined(parts: tuple[int, ...]) -> int:
    seed = 0
    for part in parts:
        seed = (seed * 1_000_003 + part + 1) % 2**63
    return seed
