"""Who measures where on a machine: one process at a time on a device, and one on a core."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from expert_tail.progress import log

NO_CORE = -1


@contextlib.contextmanager
def alone_on(device: torch.device) -> Iterator[None]:
    """Wait until nobody else measures on a device. Jobs that see one GPU each all call theirs cuda:0."""
    name = f"cuda-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else str(device)
    lock = _lock(name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log(f"waiting for another evaluation on this machine's {device}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def core_to_share() -> Iterator[int]:
    """A core to time the workers of a GPU on that no other process times on; `NO_CORE` where there is none.

    The last ones first: interrupts prefer the first. Not the very last, which is that of workers that are timed on a CPU.
    """
    with contextlib.ExitStack() as stack:

        def is_free(core: int) -> bool:
            with contextlib.suppress(Timeout):
                stack.enter_context(_lock(f"core-{core}").acquire(timeout=0))
                return True
            return False

        yield next(filter(is_free, sorted(os.sched_getaffinity(0), reverse=True)[1:]), NO_CORE)


def _lock(name: str) -> FileLock:
    return FileLock(Path(tempfile.gettempdir()) / f"expert-tail-{os.getuid()}-{name}.lock")
