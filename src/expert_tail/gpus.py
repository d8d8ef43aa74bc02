"""A GPU for each job, where several run at the same time on a machine with several: `snakemake --resources gpu=2`."""

import os
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

from expert_tail.progress import log

_INTERVAL_S = 0.5
_held: list[FileLock] = []  # until this process ends


def claim_gpu() -> None:
    """From now on this process sees one GPU, which no other process claims while this one lives; waits for one if it must.

    Does nothing where no more than one is visible. To be called before CUDA starts. GPUs go by the names that
    CUDA_VISIBLE_DEVICES gives them, else by their numbers: processes that name them differently may get the same one.
    """
    visible = _visible()
    if len(visible) < 2 or _held:
        return
    has_waited = False
    while not (taken := next((name for name in visible if _take(name)), None)):
        if not has_waited:
            log(f"waiting for one of the GPUs {', '.join(visible)}: other jobs have them")
            has_waited = True
        time.sleep(_INTERVAL_S)
    os.environ["CUDA_VISIBLE_DEVICES"] = taken
    log(f"on GPU {taken}")


def _visible() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch  # only where its answer is needed: it takes seconds

    return list(map(str, range(torch.cuda.device_count())))


def _take(name: str) -> bool:
    lock = FileLock(Path(tempfile.gettempdir()) / f"expert-tail-{os.getuid()}-job-on-gpu-{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    _held.append(lock)
    return True
