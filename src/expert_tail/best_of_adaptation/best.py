"""Rules that choose a checkpoint from the scores of a trajectory. Pure functions; step s has the score `scores[s]`.

A score that decides is no fair report of the choice, as the largest of several noisy ones is too large on average. Report
the chosen step by rollouts that had no part in the choice (`validation: fresh`).
"""

from collections.abc import Sequence
from typing import NamedTuple


class Stop(NamedTuple):
    """The step that is deployed, and the last one that had to be made to know it."""

    step: int
    last: int


def best_step(scores: Sequence[float]) -> int:
    """Best-of-Adaptation (arXiv 2602.07670, Algorithm 1): the step of the highest score, the earliest in a tie."""
    return max(range(len(scores)), key=lambda step: (scores[step], -step))


def early_stop(scores: Sequence[float], patience: int) -> Stop:
    """Stop after `patience` steps in a row that are no better than the best so far, and deploy that one.

    With a patience of 1 that is the paper's rule: go on while each score is higher than the one before.
    """
    best = 0
    for step in range(1, len(scores)):
        if scores[step] > scores[best]:
            best = step
        elif step - best >= patience:
            return Stop(best, step)
    return Stop(best, len(scores) - 1)


def affordable(rollouts: Sequence[int], budget: int) -> int:
    """How many steps, from the first, have drawn no more than `budget` rollouts together; `rollouts[s]` are step s's own."""
    total = 0
    for step, drawn in enumerate(rollouts):
        total += drawn
        if total > budget:
            return step
    return len(rollouts)
