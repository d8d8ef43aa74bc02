"""Reward and advantages of training rollouts. Pure."""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

import numpy as np


class NormalisedReward:
    """max(0, speedup / running median of the last `window` correct speedups of that task); 1 for a task's first ones.

    Dividing by the median makes tasks comparable whose best possible speedups are worlds apart (paper, section 3).
    All rollouts of a step are rewarded by the median before that step, so their order does not matter.
    """

    def __init__(self, window: int) -> None:
        self._recent: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=window))

    def rewards(self, task_id: int, speedups: Iterable[float]) -> list[float]:
        """Rewards of one step's rollouts of a task; a speedup of 0 means not correct."""
        speedups = list(speedups)
        recent = self._recent[task_id]
        scale = float(np.median(recent)) if recent else None
        rewards = [0.0 if s <= 0 else 1.0 if scale is None else max(0.0, s / scale) for s in speedups]
        self.observe(task_id, speedups)
        return rewards

    def observe(self, task_id: int, speedups: Iterable[float]) -> None:
        """Take note of speedups that were rewarded before, when training resumes."""
        self._recent[task_id].extend(s for s in speedups if s > 0)


def standardised(rewards: Sequence[float]) -> list[float]:
    """GRPO: A = (G − mean) / s, s the sample standard deviation (n − 1) of the rewards G; zeros where all are equal.

    Over the rollouts of a task it is the update of training; over all rollouts of all tasks of a step the batch update of
    arXiv 2602.07670, section 3.4 (after TTRL).
    """
    if all(reward == rewards[0] for reward in rewards):
        return [0.0] * len(rewards)
    mean, deviation = fmean(rewards), stdev(rewards)
    return [(reward - mean) / deviation for reward in rewards]
