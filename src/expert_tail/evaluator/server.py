"""The parent's end of the fork server: where workers come from, ahead of time if wanted, and what they may use."""

import contextlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from expert_tail.errors import UserError
from expert_tail.evaluator.build import MAX_BYTES
from expert_tail.evaluator.process import MAX_MESSAGE, Worker, WorkerFailure, remove_folder
from expert_tail.evaluator.sandbox import Limits
from expert_tail.evaluator.settings import EvaluatorSettings

REFERENCE_MEMORY = 4.0  # times a candidate's, since it also holds a float64 copy
# Secrets of the user stay outside.
_ENVIRONMENT = re.compile(
    r"PATH|HOME|LANG|LC_\w+|LD_LIBRARY_PATH|PYTHON\w+|VIRTUAL_ENV|TZ|(OPENBLAS|OMP|MKL|TORCH|CUDA|NVIDIA|GOMP|KMP)_\w+"
)


def limits_of(
    settings: EvaluatorSettings,
    core: int,
    device: torch.device,
    is_reference: bool = False,
    writable: bool = False,
    compiles: bool = False,
) -> Limits:
    """Of a worker. The reference's holds a float64 copy; it and one that compiles write large files."""
    gib = settings.memory_gib + (settings.device_memory_gib if device.type == "cuda" else 0)
    trusted_more = is_reference or compiles
    return Limits(
        memory_bytes=int(gib * 2**30 * (REFERENCE_MEMORY if trusted_more else 1)),
        file_bytes=2**32 if is_reference else MAX_BYTES if compiles else int(settings.output_mib * 2**20),
        core=-1 if compiles else core,
        writable=trusted_more or writable,
        sandbox=settings.sandbox != "off",
        device=device.type,
        compiles=compiles,
    )


class ForkServer:
    """Starts workers by forking a process that has imported torch already. Use as a context manager; threads may share it.

    `gpu`: number of the one GPU that workers see, as CUDA counts them; None hides all.
    """

    def __init__(self, use_sandbox: bool = True, gpu: int | None = None) -> None:
        self.use_sandbox, self.gpu = use_sandbox, gpu
        self._lock = threading.RLock()
        self.has_read = False  # whether this machine lets the parent into a worker's memory
        self._sandbox: str | None = None

    def __enter__(self) -> "ForkServer":
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mode = "sandbox" if self.use_sandbox else "off"
        # -P: a candidate may read what is on sys.path, which must not be the working folder.
        command = [sys.executable, "-P", "-m", "expert_tail.evaluator.forkserver", str(theirs.fileno()), mode]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=_environment(self.gpu), stdin=subprocess.DEVNULL
        )
        theirs.close()
        self._exited: dict[int, int] = {}
        self._prepared: dict[Limits, deque[Worker]] = defaultdict(deque)
        self._folder = Path(tempfile.mkdtemp(prefix="expert-tail-"))
        self._started = 0
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with contextlib.suppress(UserError, OSError):  # it is gone already, and they with it
                self.discard()
        finally:
            self._socket.close()
            self._process.kill()
            self._process.wait()
            remove_folder(self._folder)

    @property
    def sandbox(self) -> str:
        """What workers are confined by, as in the evaluations' column `sandbox`. Waits for the server to be up."""
        with self._lock:
            if self._sandbox is None:
                first = self._receive()
                if "sandbox" not in first:
                    raise UserError(
                        f"the sandbox fails here ({first['broken']}); set evaluator.sandbox to off to do without"
                    )
                self._sandbox = first["sandbox"]
            return self._sandbox

    def prepare(self, wanted: Sequence[Limits]) -> None:
        """Start workers now that `start` hands out later: one that drives a GPU takes some tenths of a second to get ready.

        In random order, less what is prepared already; what is beyond that ends.
        """
        with self._lock:
            there = Counter({limits: len(prepared) for limits, prepared in self._prepared.items()})
            self._end([self._prepared[limits].pop() for limits in (there - Counter(wanted)).elements()])
            lacking = list((Counter(wanted) - there).elements())
            for limits in random.sample(lacking, len(lacking)):
                self._prepared[limits].append(self._new(limits))

    def settle(self) -> None:
        """Wait until those that are prepared are ready, so that nothing starts while others are timed."""
        with self._lock:
            for prepared in self._prepared.values():
                for worker in list(prepared):
                    try:
                        worker.await_start()
                    except WorkerFailure:  # nobody's fault: another is started when one is wanted
                        prepared.remove(worker)
                        worker.close()

    def discard(self) -> None:
        """End those that are prepared."""
        with self._lock:
            left = [worker for prepared in self._prepared.values() for worker in prepared]
            self._prepared.clear()
            self._end(left)

    def _end(self, workers: Sequence[Worker]) -> None:
        with contextlib.ExitStack() as stack:
            for worker in workers:
                worker.kill()
                stack.callback(worker.close)

    def start(self, limits: Limits, is_new: bool = False) -> "Worker":
        """A worker, ready or about to be: its first call waits for that. `is_new`: none that was prepared."""
        with self._lock:
            prepared = self._prepared[limits]
            while prepared and not is_new:
                worker = prepared.popleft()
                if worker.is_waiting():
                    return worker
                worker.close()  # it has ended, and nobody is to blame
            return self._new(limits)

    def _new(self, limits: Limits) -> "Worker":
        _ = self.sandbox
        with self._lock:
            self._started += 1
            scratch = self._folder / str(self._started)
            scratch.mkdir()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            output = os.open(scratch / "output.txt", os.O_RDWR | os.O_CREAT | os.O_APPEND)
            request = json.dumps({"scratch": str(scratch), "limits": asdict(limits)}).encode()
            socket.send_fds(self._socket, [request], [theirs.fileno(), output])
            theirs.close()
            return Worker(self, self._answer("pid"), ours, scratch, output, limits)

    def exit_status(self, pid: int) -> int:
        """Wait status of a worker that has ended (blocks until the fork server has reaped it)."""
        with self._lock:
            while pid not in self._exited:
                self._note_exit(self._receive())
            return self._exited.pop(pid)

    def _answer(self, key: str) -> int:
        while key not in (message := self._receive()):
            self._note_exit(message)
        return message[key]

    def _note_exit(self, message: dict[str, Any]) -> None:
        self._exited[message["exited"]] = message["status"]

    def _receive(self) -> dict[str, Any]:
        message = self._socket.recv(MAX_MESSAGE)
        if not message:
            raise UserError("the evaluator's fork server died; is `import torch` working, and is there memory left?")
        return json.loads(message)


def _environment(gpu: int | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name)}
    # One thread each: a worker is timed on one core. Freed memory stays with the process, as in a GPU's caching allocator,
    # so that holding on to an output buffer gains nothing.
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    warm = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "CUDA_VISIBLE_DEVICES": ""}
    if gpu is not None:
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        # Two queues of the device's, not eight: making and ending a context takes half as long, and two streams run at once.
        warm = {"CUDA_VISIBLE_DEVICES": visible[gpu] if visible else str(gpu), "CUDA_DEVICE_MAX_CONNECTIONS": "2"}
    # Programs that come with Python packages, such as ninja, which torch's load_inline calls, lie beside Python.
    programs = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    # Names that a candidate makes by hash() are the same when what it compiled is found again.
    return kept | one_thread | warm | programs | {"PYTHONHASHSEED": "0"}
