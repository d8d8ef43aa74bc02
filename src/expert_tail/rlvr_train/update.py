"""One optimiser step on sampled completions, by importance sampling over shared-prefix passes.

    L = -(1/n) Σ_rollouts Σ_t exp(log π_θ(x_t) - log q(x_t)) A_t

with q the tempered distribution that was sampled from, π_θ at the same temperature, and n the number of rollouts (the
paper's loss is the sum; Adam does not see the factor). Rollouts with zero advantage have zero gradient and are not run.
"""

import math
from collections.abc import Sequence

import torch

from expert_tail.errors import UserError
from expert_tail.policy.logprobs import packed_passes
from expert_tail.policy.sampler import Completion
from expert_tail.progress import log


def importance_sampling_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Completion]],
    advantages: Sequence[Sequence[float]],
    *,
    temperature: float,
    where: str,
) -> float:
    """Accumulate the gradient over all passes, then step once. Returns the loss.

    `advantages[i][j]` belongs to `completions[i][j]`, one for all its tokens. A loss or gradient that is not finite
    raises a `UserError` that names `where`, before the step is taken.
    """
    used = [[j for j, advantage in enumerate(of_prompt) if advantage != 0.0] for of_prompt in advantages]
    if not any(used):
        log(f"{where}: all rewards are equal within each task, so there is nothing to learn from; the policy stays")
        return 0.0
    n = sum(len(of_prompt) for of_prompt in completions)
    tokens = [[completions[i][j].token_ids for j in js] for i, js in enumerate(used)]
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for pairs, logprobs in packed_passes(model, prompts, tokens, temperature=temperature):
        terms = []
        for (i, local), logprobs_T in zip(pairs, logprobs, strict=True):
            j = used[i][local]
            sampled_T = torch.tensor(
                completions[i][j].tempered_logprobs, dtype=logprobs_T.dtype, device=logprobs_T.device
            )
            terms.append(-(logprobs_T - sampled_T).exp().sum() * advantages[i][j])
        loss = torch.stack(terms).sum() / n
        loss.backward()
        total += loss.item()
    norm = torch.nn.utils.get_total_norm(
        [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    )
    if not math.isfinite(total) or not torch.isfinite(norm):
        raise UserError(
            f"{where}: loss {total} and gradient norm {norm.item()} are not finite; lower the learning rate"
        )
    optimizer.step()
    return total
