"""A GPU at rest: bring it there, and tell whether it is, though processes that are frozen may have left work on it.

Such work may begin later: a stream can wait for a word of memory to change, the input buffer's among them, and copies pass
the time without a multiprocessor. But the driver gives the device to one process at a time, by turns of some two
milliseconds, so whatever another one runs shows in the time of kernels of one's own, whose time alone is known. On an H200
the least kernel of another adds 0.25 ms; 1.6 ms of one's own, alone, vary by 0.04.
"""

import functools
import math
import time

import torch

from expert_tail.evaluator.process import BUSY_DEVICE, WorkerFailure

FLUSH_BYTES = 256 * 2**20  # several times the L2 cache of any GPU
BUSY_S = 7e-4  # a small kernel of the parent waits no longer unless another process keeps the device busy
BUSY_WAIT_S, BUSY_PAUSE_S = 2.0, 5e-3  # the driver clears the memory of processes that ended, for up to half a second
N_FLUSHES, N_WINDOWS, N_TRIES = 20, 12, 5  # to learn how long a device takes that is at rest
ALLOWANCE_S, ALLOWANCE = 1e-4, 0.01  # beside what windows were seen to differ by: absolute, and of the time
MAX_SPREAD_S = 5e-4  # what a display may do; more is others' work


class Rest:
    """A device, as far as this process can tell. What it runs for that is also what clears the device's cache.

    `calibrate` comes before `is_disturbed` and `settles`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._flush_s = math.nan  # one flush, on a device at rest
        self._spread_s = MAX_SPREAD_S  # what windows differ by then

    def flush(self) -> None:
        """Put out of the device's cache whatever was written last, inputs among them."""
        self._window_s(1)

    def wait(self) -> None:
        """Wait until no other process keeps the device busy. Raises `WorkerFailure` if that does not end."""
        deadline = time.monotonic() + BUSY_WAIT_S
        while self._fence_s() > BUSY_S:
            if time.monotonic() > deadline:
                raise WorkerFailure("rejected", "the device is busy while the process is frozen", BUSY_DEVICE)
            time.sleep(BUSY_PAUSE_S)

    def calibrate(self) -> None:
        """Learn how long flushes take now, when no candidate is there. What disturbs them even then is allowed for: a display."""
        self._window_s(N_FLUSHES)
        least_s = math.inf
        for _ in range(N_TRIES):
            taken_s = [self._window_s(N_FLUSHES) for _ in range(N_WINDOWS)]
            spread_s, least_s = max(taken_s) - min(taken_s), min(least_s, *taken_s)
            self._spread_s = min(self._spread_s, spread_s)
            if spread_s < ALLOWANCE_S:
                break
            time.sleep(BUSY_PAUSE_S)
        self._flush_s = least_s / N_FLUSHES

    def is_disturbed(self, seconds: float) -> bool:
        """Whether other work runs on the device while this process keeps it for so long."""
        n = max(1, round(seconds / self._flush_s))
        return self._window_s(n) > n * self._flush_s * (1 + ALLOWANCE) + self._spread_s + ALLOWANCE_S

    def settles(self) -> bool:
        """Wait until it is undisturbed again; whether that was soon."""
        deadline = time.monotonic() + BUSY_WAIT_S
        while self.is_disturbed(N_FLUSHES * self._flush_s):
            if time.monotonic() > deadline:
                return False
            time.sleep(BUSY_PAUSE_S)
        return True

    @functools.cached_property
    def _buffer(self) -> torch.Tensor:
        return torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=self.device)

    def _window_s(self, n_flushes: int) -> float:
        start = time.perf_counter()
        for _ in range(n_flushes):
            self._buffer.zero_()
        torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def _fence_s(self) -> float:
        """How long a kernel of nothing takes: where another process has work running, as long as its time slice."""
        start = time.perf_counter()
        self._buffer[:1].zero_()
        torch.cuda.synchronize(self.device)
        return time.perf_counter() - start
