"""Reward and advantages of training rollouts. Pure NumPy."""

from collections import defaultdict, deque
from collections.abc import Iterable

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


def group_advantages(rewards_GK: np.ndarray) -> np.ndarray:
    """GRPO: (reward - mean) / standard deviation within each group (row); 0 where all rewards of a group are equal."""
    centred = rewards_GK - rewards_GK.mean(axis=1, keepdims=True)
    deviation = rewards_GK.std(axis=1, keepdims=True)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 1e-8)
