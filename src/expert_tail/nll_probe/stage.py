"""Score a samples artifact under a checkpoint of an adaptation run."""

from pathlib import Path

from expert_tail import artifacts
from expert_tail.policy.settings import PromptSettings, RuntimeSettings
from expert_tail.score_logprobs.stage import score


def run(
    prompt: PromptSettings,
    runtime: RuntimeSettings,
    tasks: Path,
    policy: Path,
    adapter: Path,
    samples: Path,
    output: Path,
) -> None:
    """Write the surprisal of every sample under the checkpoint in the folder `adapter`, …/RUN/step=N."""
    scorer = f"{adapter.parent.name}/{adapter.name}"
    scores = score(prompt, runtime, tasks, policy, adapter, samples, scorer)
    rows = [row | {"nll_tail": tail(logprobs)} for row, logprobs in scores.rows]
    artifacts.write(output, "probes", rows, subset=artifacts.notes(samples)["subset"], **scores.spent)


def tail(logprobs: list[float]) -> float:
    """Mean surprisal, in nats, of the quarter of the tokens (rounded up) that have the lowest log-probs."""
    lowest = sorted(logprobs)[: -(-len(logprobs) // 4)]
    return -sum(lowest) / len(lowest)
