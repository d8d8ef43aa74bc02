"""Objectives of adaptation: from rewards, or from a teacher's log-probs, to advantages. Pure functions.

To add one, write a function and enter it in `OBJECTIVES`. Advantages weight the importance-sampling loss (training/update.py);
G is the rewards that are compared with one another, n of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from expert_tail.training.reward import standardised

ENTROPIC_KL = math.log(2)  # nats
_TIE = 1e-300  # of the range: what is less below the maximum counts as equal to it


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """TRLOO (Dr. Kernel, arXiv 2602.05885), of one turn: A = n/(n−1) (G − mean), the reward less the mean of the others.

    A rollout is no part of its own baseline, so the gradient is unbiased; there is no division by a deviation.
    """
    if _all_equal(rewards):
        return [0.0] * len(rewards)
    n, mean = len(rewards), fmean(rewards)
    return [n / (n - 1) * (reward - mean) for reward in rewards]


def entropic(rewards: Sequence[float], kl_target: float = ENTROPIC_KL) -> list[float]:
    """TTT-Discover (arXiv 2601.16175): A = w − 1, w_i = e^{βr_i} / (1/(n−1) Σ_{j≠i} e^{βr_j}), β from `entropic_beta`.

    Tends to the maximum where GRPO tends to the mean. Zeros where all rewards are equal. Raises `ValueError` where one
    reward is the highest and even its whole weight falls short of `kl_target`: that is, if ln n does.
    """
    beta = entropic_beta(rewards, kl_target)
    if beta == 0:
        return [0.0] * len(rewards)
    below, n = _below_highest(rewards), len(rewards)
    if math.isinf(beta):  # the limit: the highest share all the weight
        ties = sum(x == 0 for x in below)
        if ties == 1:
            raise ValueError(
                f"{n} rewards cannot reach a divergence of {kl_target} nats: it takes more than e^{kl_target}"
            )
        return [(n - 1) / (ties - 1) - 1 if x == 0 else -1.0 for x in below]
    terms = [math.exp(beta * (max(rewards) - min(rewards)) * x) for x in below]
    # Summed anew for each, since a difference from the whole sum would cancel for the highest.
    others = [math.fsum(terms[:i] + terms[i + 1 :]) for i in range(n)]
    return [(n - 1) * term / other - 1 for term, other in zip(terms, others, strict=True)]


def entropic_beta(rewards: Sequence[float], kl_target: float = ENTROPIC_KL) -> float:
    """β ≥ 0 with KL(softmax(β rewards) ‖ uniform) = `kl_target` nats, by bisection (TTT-Discover, section 3.2).

    The divergence rises with β from 0 to ln(n / m), m being the number of rewards that share the maximum. A target at or
    beyond that bound gives infinity, the limit, in which the m share all the weight. 0 where all rewards are equal.
    """
    if _all_equal(rewards):
        return 0.0
    below = _below_highest(rewards)
    if kl_target >= math.log(len(rewards) / sum(x == 0 for x in below)):
        return math.inf
    low, high = 0.0, 1.0
    while softmax_divergence(below, high) < kl_target:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:  # to the last bit
        low, high = (middle, high) if softmax_divergence(below, middle) < kl_target else (low, middle)
    return high / (max(rewards) - min(rewards))


def softmax_divergence(rewards: Sequence[float], beta: float) -> float:
    """KL(softmax(β rewards) ‖ uniform), nats."""
    highest = max(rewards)
    logits = [beta * (reward - highest) for reward in rewards]
    terms = [math.exp(logit) for logit in logits]
    total = math.fsum(terms)
    mean_logit = math.fsum(term * logit for term, logit in zip(terms, logits, strict=True) if term) / total
    return max(0.0, mean_logit - math.log(total) + math.log(len(rewards)))


def self_distilled(teacher_T: Sequence[float], student_T: Sequence[float], beta: float = 1.0) -> list[float]:
    """SDPO (arXiv 2602.07670, section 3.6): A_t = β (log p_teacher(x_t | context) − log p_student(x_t | prompt)).

    The log-probs are of the T sampled tokens, in nats, under the tempered distribution that they were drawn from: then
    the expected update is a step down KL(student ‖ teacher), token by token.
    """
    return [beta * (teacher - student) for teacher, student in zip(teacher_T, student_T, strict=True)]


def divergence_penalty(now_T: Sequence[float], start_T: Sequence[float], coefficient: float) -> list[float]:
    """−λ (log π_θ(x_t) − log π_θ0(x_t)), which TTT-Discover adds to each token's advantage to stay near the start θ0."""
    return [-coefficient * (now - start) for now, start in zip(now_T, start_T, strict=True)]


@dataclass(frozen=True)
class Objective:
    """How a run turns a step's rollouts into advantages.

    `estimate` takes rewards, or a teacher's and the student's log-probs where there is a `teacher` (what its context
    holds beyond the task), and the settings of a run that `parameters` names. `settings` are further ones that have a
    meaning here; a run that sets another one is refused.
    """

    estimate: Callable[..., list[float]]
    over: Literal["batch", "task"] = "task"
    teacher: Literal["prompt", "feedback"] | None = None
    parameters: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


_REWARD = ("reward", "reward_window", "threshold", "over", "kl_penalty")

OBJECTIVES: dict[str, Objective] = {
    "grpo": Objective(standardised, over="batch", settings=_REWARD),
    "trloo": Objective(leave_one_out, settings=_REWARD),
    "entropic": Objective(entropic, parameters=("kl_target",), settings=_REWARD),
    "sdpo_prompt": Objective(self_distilled, teacher="prompt", parameters=("beta",)),
    "sdpo_feedback": Objective(self_distilled, teacher="feedback", parameters=("beta",), settings=("solution",)),
}


def reward_advantages(
    objective: Objective, rewards: Sequence[Sequence[float]], over: str, **parameters: Any
) -> list[list[float]]:
    """Advantages of the rewards of each task, compared over the whole `batch` or within each `task`."""
    if over == "task":
        return [objective.estimate(of_task, **parameters) for of_task in rewards]
    flat = iter(objective.estimate([reward for of_task in rewards for reward in of_task], **parameters))
    return [[next(flat) for _ in of_task] for of_task in rewards]


def _below_highest(rewards: Sequence[float]) -> list[float]:
    """Rewards scaled to -1 … 0, the highest at exactly 0."""
    highest = max(rewards)
    scale = highest - min(rewards)
    scaled = [(reward - highest) / scale for reward in rewards]
    return [x if x < -_TIE else 0.0 for x in scaled]


def _all_equal(rewards: Sequence[float]) -> bool:
    return all(reward == rewards[0] for reward in rewards)
