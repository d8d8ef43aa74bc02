"""Whether a device is at rest, told from times of one's own kernels. The device here is a list of what each flush takes."""

import itertools
from collections.abc import Iterable

import pytest
import torch

from expert_tail.evaluator.rest import BUSY_S, N_FLUSHES, Rest

FLUSH_S = 8.2e-5  # on an H200
OTHERS_S = 2.5e-4  # the least kernel of another process, with the two switches


class Device(Rest):
    """One whose windows take what they must and, each in turn, so much more."""

    def __init__(self, more_s: Iterable[float]) -> None:
        super().__init__(torch.device("cpu"))
        self.more_s = itertools.cycle(more_s)

    def _window_s(self, n_flushes: int) -> float:
        return n_flushes * FLUSH_S + next(self.more_s)


def test_the_least_work_of_another_shows() -> None:
    device = Device([1e-5, 3e-5, 0.0, 2e-5])
    device.calibrate()
    assert not any(device.is_disturbed(seconds) for seconds in (1.6e-3, 5e-3, 2e-2) for _ in range(4))
    device.more_s = itertools.cycle([OTHERS_S])
    assert device.is_disturbed(1.6e-3)
    assert device.is_disturbed(5e-3)


def test_it_is_learned_again_while_the_driver_still_clears_memory() -> None:
    device = Device([2e-3, 3e-3] * 20 + [1e-5] * 1000)
    device.calibrate()
    device.more_s = itertools.cycle([OTHERS_S])
    assert device.is_disturbed(1.6e-3)


def test_a_device_that_gets_slower_is_learned_again() -> None:
    device = Device([0.0])
    device.calibrate()
    device.more_s = itertools.cycle([N_FLUSHES * FLUSH_S * 0.1])
    assert device.is_disturbed(1.6e-3)
    device.calibrate()
    assert not device.is_disturbed(1.6e-3)


def test_what_always_disturbs_a_device_is_allowed_for() -> None:
    device = Device([0.0, 0.0, 0.0, 0.0, 4e-4])  # a display, say
    device.calibrate()
    assert not any(device.is_disturbed(1.6e-3) for _ in range(20))
    device.more_s = itertools.cycle([2e-3])
    assert device.is_disturbed(1.6e-3)


def test_others_work_is_not_allowed_for() -> None:
    device = Device([0.0, 2e-3])
    device.calibrate()
    assert any(device.is_disturbed(1.6e-3) for _ in range(2))


def test_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device([0.0])
    device.calibrate()
    device.more_s = itertools.chain([2e-3] * 3, itertools.cycle([0.0]))  # type: ignore[assignment]
    assert device.settles()
    assert not device.is_disturbed(1.6e-3)
    device.more_s = itertools.cycle([2e-3])
    monkeypatch.setattr("expert_tail.evaluator.rest.BUSY_WAIT_S", 0.05)
    assert not device.settles()


def test_a_device_that_stays_busy_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device([0.0])
    taken_s = iter([BUSY_S * 2, BUSY_S / 2])
    monkeypatch.setattr(device, "_fence_s", lambda: next(taken_s))
    device.wait()
    assert next(taken_s, None) is None
    monkeypatch.setattr(device, "_fence_s", lambda: BUSY_S * 2)
    monkeypatch.setattr("expert_tail.evaluator.rest.BUSY_WAIT_S", 0.05)
    with pytest.raises(Exception, match="the device is busy") as caught:
        device.wait()
    assert caught.value.reason == "busy_device"  # type: ignore[attr-defined]


@pytest.mark.gpu
def test_a_gpu_at_rest_is_told_from_one_that_is_not() -> None:
    rest = Rest(torch.device("cuda", 0))
    rest.calibrate()
    assert N_FLUSHES * rest._flush_s < 1.0
    assert sum(rest.is_disturbed(1.6e-3) for _ in range(100)) <= 2
