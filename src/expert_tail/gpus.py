"""GPUs for each job, where several run at the same time on a machine with several: `snakemake --resources gpu=2`."""

import os
import random
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from expert_tail.errors import UserError
from expert_tail.progress import log

_INTERVAL_S = 0.5
_held: list[FileLock] = []  # until this process ends


def claim_gpus(count: int = 1) -> None:
    """From now on this process sees `count` GPUs, which no other claims while this one lives; waits for them if it must.

    Does nothing where no more than one is visible. To be called before CUDA starts. GPUs go by the names that
    CUDA_VISIBLE_DEVICES gives them, else by their numbers: processes that name them differently may get the same one.
    Raises `UserError` where there are fewer.
    """
    visible = _visible()
    if visible and count > len(visible):
        raise UserError(
            f"`policy.shards` and `policy.processes` ask for {count} GPUs, and {len(visible)} are visible; lower them"
        )
    if len(visible) < 2 or _held:
        return
    has_waited = False
    while not (taken := _take(visible, count)):
        if not has_waited:
            log(f"waiting for {count} of the GPUs {', '.join(visible)}: other jobs have them")
            has_waited = True
        time.sleep(_INTERVAL_S * random.uniform(0.5, 1.5))  # or two that each want several might never meet
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    log(f"on GPU {','.join(taken)}")


def keep_claims() -> None:
    """Keep what is claimed when this process becomes another program."""
    for lock in _held:
        os.set_inheritable(lock._context.lock_file_fd, True)  # type: ignore[arg-type]


def _visible() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch  # only where its answer is needed: it takes seconds

    return list(map(str, range(torch.cuda.device_count())))


def _take(visible: list[str], count: int) -> list[str]:
    """The names of `count` GPUs that are locked from now on; none where fewer are free."""
    locks: dict[str, FileLock] = {}
    for name in visible:
        lock = FileLock(Path(tempfile.gettempdir()) / f"expert-tail-{os.getuid()}-job-on-gpu-{name}.lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
            locks[name] = lock
        if len(locks) == count:
            _held.extend(locks.values())
            return list(locks)
    for lock in locks.values():
        lock.release()
    return []
