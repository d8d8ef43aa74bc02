"""Reward by the running median of a task, and advantages within a group, against values worked out by hand."""

import numpy as np

from expert_tail.training.reward import NormalisedReward, standardised


def test_first_correct_rollouts_of_a_task_get_one_and_wrong_ones_nothing() -> None:
    reward = NormalisedReward(window=4)
    assert reward.rewards(7, [0.0, 3.0, 0.5]) == [0.0, 1.0, 1.0]
    assert reward.rewards(8, [2.0]) == [1.0]  # of another task


def test_later_ones_are_divided_by_the_median_before_their_step() -> None:
    reward = NormalisedReward(window=3)
    reward.rewards(7, [1.0, 0.0, 2.0])
    assert reward.rewards(7, [3.0, 0.0, 6.0]) == [2.0, 0.0, 4.0]  # median of 1 and 2: 1.5
    assert reward.rewards(7, [3.0]) == [1.0]  # of the last three correct ones, 2, 3 and 6
    assert reward.rewards(7, [4.0]) == [4.0 / 3.0]  # 3, 6 and 3


def test_what_was_rewarded_before_a_restart_counts() -> None:
    straight, resumed = NormalisedReward(window=5), NormalisedReward(window=5)
    straight.rewards(7, [1.0, 0.0, 4.0])
    for speedup in (1.0, 0.0, 4.0):
        resumed.observe(7, [speedup])
    assert resumed.rewards(7, [5.0]) == straight.rewards(7, [5.0]) == [2.0]


def test_advantages_by_hand() -> None:
    # Mean 2, variance 6/3 = 2; a group of equals teaches nothing.
    np.testing.assert_allclose(standardised([1.0, 1.0, 2.0, 4.0]), np.array([-1, -1, 0, 2]) / np.sqrt(2))
    assert standardised([3.0, 3.0, 3.0, 3.0]) == [0, 0, 0, 0]
