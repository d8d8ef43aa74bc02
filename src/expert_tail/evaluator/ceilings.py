"""What this machine's device reaches at best: memory bandwidth and matrix products, measured once and kept.

Measured in a process of its own under the conditions of timed workers (on the CPU one thread on their core): sums, fills,
copies and additions over working sets of rising size, always hot, and square matrix products in every precision that the
device is fast in. Of each the best of many runs counts, in rounds some time apart, since a busy machine is only ever slower.

The result is a file beside the evaluation cache, named by a digest of the hardware and of this code. `python -m
expert_tail.evaluator.ceilings DEVICE CORE` prints a fresh measurement.
"""

import contextlib
import functools
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from expert_tail.artifacts import replacing
from expert_tail.code_digest import code_digest
from expert_tail.evaluator.cache import cache_folder, key
from expert_tail.evaluator.roofline import Ceilings
from expert_tail.progress import log

ROUNDS = 3
TIMEOUT_S = 300.0
KIB = 1 << 10
# (smallest and largest working set in bytes, sides of matrices) for each device. The largest set is beyond every cache.
_SIZES = {
    "cpu": (256 * KIB, 64 * KIB * KIB, (256, 512, 1024)),
    "cuda": (KIB * KIB, 1024 * KIB * KIB, (2048, 4096, 8192)),
}
_RUN_S = {"cpu": 0.025, "cuda": 0.01}  # how long each operation is tried in a round
_CALLS = 20  # launches between two events: one launch alone would be mostly waiting
_NOT_MEASURING = ("evaluator/cache", "evaluator/roofline", "tasks")
_one_thread = threading.Lock()


def ceilings_of(device: str, core: int, hardware: str, folder: Path | None = None) -> Ceilings | None:
    """The ceilings of `hardware` (the row's text), measured on `device` where they are not known. None if that fails.

    `folder` is that of the evaluation cache. Any number of threads and processes may ask: one measures, the others wait.
    """
    folder = (folder or cache_folder()) / "ceilings"
    with _one_thread, contextlib.ExitStack() as stack:
        name = key(hardware=hardware, code=code_digest("evaluator.ceilings", without=_NOT_MEASURING))[:16]
        path: Path | None = folder / f"{name}.json"
        if known := _read(path):
            return known
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(folder / f"{name}.lock"))
        except OSError as error:
            log(f"cannot write {folder}: {error.strerror}; the ceilings of {device} are measured each time")
            path = None
        return _read(path) or _measured(device.partition(":")[0], core, hardware, path)


def _measured(device: str, core: int, hardware: str, path: Path | None) -> Ceilings | None:
    log(f"measuring what {device} reaches at best{f', once ({path})' if path else ''}")
    command = [sys.executable, "-P", "-m", "expert_tail.evaluator.ceilings", device, str(core)]
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        found = json.loads(done.stdout)
        ceilings = _checked(found)
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, KeyError) as error:
        reason = getattr(error, "stderr", None) or error
        log(f"the ceilings of {device} could not be measured, so no roofline is known: {str(reason).strip()[-500:]}")
        return None
    if path:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"hardware": hardware, **found}, indent=1))
    return ceilings


def _read(path: Path | None) -> Ceilings | None:
    """The ceilings in a file; None where there is none, or it is damaged."""
    if path is None:
        return None
    try:
        return _checked(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _checked(found: Any) -> Ceilings:
    bandwidth = tuple((int(size), float(rate)) for size, rate in found["bandwidth"])
    ceilings = Ceilings(bandwidth, float(found["peak"]))
    rates = [ceilings.peak, *(rate for _, rate in bandwidth)]
    if not bandwidth or list(bandwidth) != sorted(bandwidth) or not all(0 < r < math.inf for r in rates):
        raise ValueError("ceilings must be positive, and sizes rise")
    return ceilings


# --- in the measuring process ---------------------------------------------------------------------------------------


def measure(device: str) -> dict[str, Any]:
    """Bandwidth, bytes/s, by working set in bytes, and peak, FLOP/s, of `device` (cpu or cuda) in this process."""
    import torch

    torch.set_float32_matmul_precision("high")  # TF32 where there is such a thing
    smallest, largest, sides = _SIZES[device]
    sizes = [smallest << i for i in range((largest // smallest).bit_length())]
    memory = torch.rand(largest // 4, device=device)
    bandwidth = dict.fromkeys(sizes, 0.0)
    peak = 0.0
    for _ in range(ROUNDS):
        for size in sizes:
            rates = [size / _seconds(device, operation) for operation in _moving(memory[: size // 4])]
            bandwidth[size] = max(bandwidth[size], *rates)
        peak = max(peak, _matmul_rate(device, sides))
    return {"bandwidth": list(bandwidth.items()), "peak": peak}


def _moving(flat: Any) -> list[Callable[[], Any]]:
    """Operations that move each byte of a float32 vector once: two streams read; written; copied; added to a third."""
    import torch

    left, right = flat.tensor_split(2)
    left, right = left[: len(right)], right
    a, b, c = flat[: len(flat) // 3 * 3].view(3, -1)
    return [
        lambda: torch.dot(left, right),
        flat.zero_,
        lambda: left.copy_(right),
        lambda: torch.add(a, b, out=c),
    ]


def _matmul_rate(device: str, sides: tuple[int, ...]) -> float:
    """FLOP/s of the fastest square product, in float32 (on a GPU in TF32) or in half precision."""
    import torch

    best = 0.0
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for side in sides:
            a, b = torch.rand(2, side, side, device=device).to(dtype)
            out = torch.empty_like(a)
            rate = 2 * side**3 / _seconds(device, functools.partial(torch.mm, a, b, out=out))
            best = max(best, rate)
            if rate < best / 4:
                break  # larger products in this precision would take long for nothing
    return best


def _seconds(device: str, operation: Callable[[], Any]) -> float:
    """Least seconds of a call, over as many as fit into a fixed time."""
    once = _once_on_cuda if device == "cuda" else _once_on_cpu
    once(operation)
    best, end = math.inf, time.perf_counter() + _RUN_S[device]
    while best == math.inf or time.perf_counter() < end:
        best = min(best, once(operation))
    return best


def _once_on_cpu(operation: Callable[[], Any]) -> float:
    start = time.perf_counter_ns()
    operation()
    return (time.perf_counter_ns() - start) * 1e-9


def _once_on_cuda(operation: Callable[[], Any]) -> float:
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(_CALLS):
        operation()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / _CALLS


def main(device: str, core: int) -> None:
    """Measure on a processor core (-1: any) and print the result as JSON."""
    import torch

    if core >= 0:
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    print(json.dumps(measure(device)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
