"""One optimiser step on sampled rollouts, by importance sampling over shared-prefix passes.

    L = -(1/n) Σ_rollouts Σ_t min(w_t, C) A_t,    w_t = exp(log π_θ(x_t) - log q(x_t)),    dL ∝ min(w_t, C) A_t d log π_θ(x_t)

with q the tempered distribution that was sampled from, as the engine that sampled computed it, π_θ at the same temperature,
and n the number of rollouts (the paper's loss is the sum; Adam does not see the factor). A is one number a rollout, or one a
token. Rollouts whose advantages are all zero have zero gradient and are not run.

Trainer and engine compute the same weights differently, so w is not quite 1 even before the first update. C truncates it: above
C the weight is C and the gradient is kept, so that a token to which the engine gave far too little probability cannot carry the
step (truncated importance sampling: Ionides, 2008, "Truncated Importance Sampling", JCGS 17(2); for an engine beside a
trainer: Yao et al., 2025, fengyao.notion.site/off-policy-rl, where C = 2).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch

from expert_tail.errors import UserError
from expert_tail.policy.logprobs import packed_passes
from expert_tail.progress import log
from expert_tail.training.processes import ALONE, Processes


class Rollout(NamedTuple):
    """A rollout as the loss sees it. Lists have one entry a token; log-probs are natural logarithms."""

    token_ids: Sequence[int]
    sampled_logprobs: Sequence[float]  # log q
    advantage: float | Sequence[float]  # one for all its tokens, or one a token


def rollouts_of(rows: Iterable[Mapping[str, Any]], task_ids: Sequence[int]) -> list[list[Rollout]]:
    """The rollouts of each task, in the order of `task_ids`, from rows of a rollouts table.

    Where a row has `token_advantages`, these are what it is weighted by, else its one `advantage`.
    """
    of_task: dict[int, list[Rollout]] = defaultdict(list)
    for row in rows:
        advantage = row.get("token_advantages")
        one = Rollout(row["token_ids"], row["sampled_logprobs"], row["advantage"] if advantage is None else advantage)
        of_task[row["task_id"]].append(one)
    return [of_task[task_id] for task_id in task_ids]


GAPS = ("logprob_gap_mean", "logprob_gap_max")


class Update(NamedTuple):
    """What a step did: its loss, and the norm of the gradient it followed. Both are 0 where no step was taken.

    `gaps` are mean and maximum, over the tokens it was made from, of |log π_θ - log q|, in nats, before the step; empty
    where none was taken. For rollouts of the policy as it is, that is how far trainer and engine disagree.
    """

    loss: float
    gradient_norm: float
    gaps: dict[str, float]


def importance_sampling_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    prompts: Sequence[Sequence[int]],
    rollouts: Sequence[Sequence[Rollout]],
    *,
    temperature: float,
    importance_cap: float,
    where: str,
    processes: Processes = ALONE,
) -> Update:
    """Accumulate the gradient over all passes, then step once.

    `rollouts[i]` are of `prompts[i]`; each of the processes runs its share of the passes. `importance_cap` is C.
    Where every advantage is zero, the model and the optimiser stay as they are. Raises `ValueError` for a rollout with
    another number of log-probs or advantages than tokens, and a `UserError` that names `where` for a loss or gradient that
    is not finite, before the step is taken.
    """
    used = [[one for one in of_prompt if not _is_zero(one)] for of_prompt in rollouts]
    if not any(used):
        log(f"{where}: all rewards are equal, so there is nothing to learn from; the policy stays as it is")
        return Update(0.0, 0.0, {})
    n = sum(len(of_prompt) for of_prompt in rollouts)
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    gaps: list[float] = []
    weighed = [i for i, of_prompt in enumerate(used) if of_prompt]
    tokens = [[one.token_ids for one in used[i]] for i in weighed]
    share = processes.rank, processes.size
    for pairs, logprobs in packed_passes(
        model, [prompts[i] for i in weighed], tokens, temperature=temperature, share=share
    ):
        if not pairs:  # of a policy divided over processes, all run their layers together
            (0 * torch.cat(logprobs).sum()).backward()
            continue
        rows = [used[weighed[i]][j] for i, j in pairs]
        log_weights = [_log_weights(logprobs_T, row) for row, logprobs_T in zip(rows, logprobs, strict=True)]
        terms = [_loss(w_T, row, importance_cap) for row, w_T in zip(rows, log_weights, strict=True)]
        loss = torch.stack(terms).sum() / n
        loss.backward()
        gaps += torch.cat(log_weights).detach().abs().tolist()
        total += loss.item()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    processes.sum_gradients(parameters)
    total, gaps = processes.sum(total), processes.all_of(gaps)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]).item()
    if not math.isfinite(total) or not math.isfinite(norm):
        raise UserError(f"{where}: loss {total} and gradient norm {norm} are not finite; lower the learning rate")
    optimizer.step()
    return Update(total, norm, dict(zip(GAPS, (fmean(gaps), max(gaps)), strict=True)))


def _is_zero(rollout: Rollout) -> bool:
    values = [rollout.advantage] if isinstance(rollout.advantage, float | int) else rollout.advantage
    return all(value == 0 for value in values)


def _log_weights(logprobs_T: torch.Tensor, rollout: Rollout) -> torch.Tensor:
    sampled_T = logprobs_T.new_tensor(rollout.sampled_logprobs)
    advantage_T = torch.as_tensor(rollout.advantage)
    if sampled_T.shape != logprobs_T.shape or advantage_T.shape not in ((), logprobs_T.shape):
        found = f"{len(sampled_T)} sampled log-probs and advantages of shape {tuple(advantage_T.shape)}"
        raise ValueError(f"a rollout of {len(logprobs_T)} tokens has {found}")
    return logprobs_T - sampled_T


def _loss(log_weight_T: torch.Tensor, rollout: Rollout, cap: float) -> torch.Tensor:
    excess_T = (log_weight_T.detach() - math.log(cap)).clamp(min=0)  # a constant, so that the gradient is kept
    truncated_T = (log_weight_T - excess_T).exp()
    return -(truncated_T * log_weight_T.new_tensor(rollout.advantage)).sum()
