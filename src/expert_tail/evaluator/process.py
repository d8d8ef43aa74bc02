"""The parent's side of workers: start, freeze, read and write their memory, enforce limits, kill.

What the parent knows of a candidate rests on three things that the candidate cannot reach: the parent's clock, the
values that the parent reads out of the frozen process, and the kernel's report of how it ended.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from expert_tail.errors import UserError

MAX_MESSAGE = 1 << 16
FAILURES = ("compile_error", "runtime_error", "out_of_memory")  # what a worker may say of itself
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class WorkerFailure(Exception):
    """A worker failed: `status` as in the evaluations table, `error` for the reader, `reason` for rejections."""

    def __init__(self, status: str, error: str, reason: str = "") -> None:
        super().__init__(error)
        self.status, self.error, self.reason = status, error, reason


class ForkServer:
    """Starts workers by forking a process that has imported torch already. Use as a context manager."""

    def __enter__(self) -> "ForkServer":
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "expert_tail.evaluator.forkserver", str(theirs.fileno())]
        # One thread each: a worker is timed on one core.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)
        theirs.close()
        self._exited: dict[int, int] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="expert-tail-"))
        self._started = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, limits: dict[str, float]) -> "Worker":
        self._started += 1
        scratch = self._folder / str(self._started)
        scratch.mkdir()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output = os.open(scratch / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        request = json.dumps({"scratch": str(scratch), "limits": limits}).encode()
        socket.send_fds(self._socket, [request], [theirs.fileno(), output])
        theirs.close()
        os.close(output)
        return Worker(self, self._answer("pid"), ours, scratch)

    def exit_status(self, pid: int) -> int:
        """Wait status of a worker that has ended (blocks until the fork server has reaped it)."""
        while pid not in self._exited:
            self._note_exit(self._receive())
        return self._exited.pop(pid)

    def _answer(self, key: str) -> int:
        while key not in (message := self._receive()):
            self._note_exit(message)
        return message[key]

    def _note_exit(self, message: dict[str, int]) -> None:
        self._exited[message["exited"]] = message["status"]

    def _receive(self) -> dict[str, int]:
        message = self._socket.recv(MAX_MESSAGE)
        if not message:
            raise UserError("the evaluator's fork server died; is `import torch` working, and is there memory left?")
        return json.loads(message)


class Worker:
    """One process with one module in it. Frozen except while it owes an answer."""

    def __init__(self, server: ForkServer, pid: int, channel: socket.socket, scratch: Path) -> None:
        self._server, self.pid, self._channel, self.scratch = server, pid, channel, scratch
        self._alive = True

    def call(self, command: dict[str, Any], expect: str, timeout_s: float) -> Any:
        """Send a command, let the worker run until it answers, freeze it; the answer's `expect`. Raises `WorkerFailure`."""
        self._send(command)
        self._signal(signal.SIGCONT)
        return self._answer(expect, timeout_s)

    def timed_go(self, timeout_s: float) -> tuple[float, Any]:
        """Release a worker that has answered "ready"; seconds until its answer, and its outputs. Frozen afterwards."""
        self._send({"go": True})
        start = time.perf_counter_ns()
        self._signal(signal.SIGCONT)
        readable, _, _ = select.select([self._channel], [], [], timeout_s)
        seconds = (time.perf_counter_ns() - start) * 1e-9
        self._freeze()
        return seconds, self._answer("outputs", 0.0) if readable else self._timed_out(timeout_s)

    def write(self, address: int, data: np.ndarray) -> None:
        """Copy `data` into the worker's memory."""
        self._transfer("process_vm_writev", address, data)

    def read(self, address: int, n_bytes: int) -> np.ndarray:
        """Copy `n_bytes` out of the worker's memory, as uint8."""
        data = np.empty(n_bytes, np.uint8)
        self._transfer("process_vm_readv", address, data)
        return data

    def threads(self) -> int:
        """Threads of the worker's process, as the kernel counts them."""
        with contextlib.suppress(OSError):
            return len(os.listdir(f"/proc/{self.pid}/task"))
        return 0

    def close(self) -> None:
        if self._alive:
            self._alive = False
            self._signal(signal.SIGKILL)
            self._channel.close()
            self._server.exit_status(self.pid)
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _send(self, command: dict[str, Any]) -> None:
        try:
            self._channel.send(json.dumps(command).encode())
        except OSError:
            raise self._death() from None

    def _answer(self, expect: str, timeout_s: float) -> Any:
        readable, _, _ = select.select([self._channel], [], [], timeout_s)
        if not readable:
            return self._timed_out(timeout_s)
        message = self._channel.recv(MAX_MESSAGE)
        if not message:
            raise self._death()
        self._freeze()
        try:
            answer = json.loads(message)
            if answer.get("failed") in FAILURES:
                raise WorkerFailure(answer["failed"], str(answer["error"]))
            wanted = answer[expect]
        except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
            raise self._forged() from None
        with contextlib.suppress(BlockingIOError):
            if self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise self._forged()
        return wanted

    def _forged(self) -> WorkerFailure:
        return WorkerFailure("rejected", "an answer on the evaluator's channel that is not its own", "forged_answer")

    def _timed_out(self, timeout_s: float) -> Any:
        raise WorkerFailure("timeout", f"no answer within {timeout_s:g} s")

    def _death(self) -> WorkerFailure:
        self._alive = False
        status = self._server.exit_status(self.pid)
        tail = ""
        with contextlib.suppress(OSError):
            tail = (self.scratch / "output.txt").read_bytes()[-2000:].decode(errors="replace").strip()
        shutil.rmtree(self.scratch, ignore_errors=True)
        how = (
            signal.Signals(os.WTERMSIG(status)).name
            if os.WIFSIGNALED(status)
            else f"exit code {os.waitstatus_to_exitcode(status)}"
        )
        return WorkerFailure("crash", f"the process ended ({how}){': ' + tail if tail else ''}")

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _freeze(self) -> None:
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            try:
                tasks = os.listdir(f"/proc/{self.pid}/task")
                states = [
                    Path(f"/proc/{self.pid}/task/{task}/stat").read_text().rpartition(")")[2].split()[0]
                    for task in tasks
                ]
            except OSError:
                return  # it ended, or a thread did: the next call tells
            if all(state in "TtZX" for state in states):
                return
        raise WorkerFailure("rejected", "the process could not be frozen", "unfreezable")

    def _transfer(self, function: str, address: int, data: np.ndarray) -> None:
        done, flat = 0, data.reshape(-1).view(np.uint8)
        while done < flat.nbytes:
            ours = _Iovec(flat.ctypes.data + done, flat.nbytes - done)
            theirs = _Iovec(address + done, flat.nbytes - done)
            moved = getattr(_LIBC, function)(self.pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
            if moved <= 0:
                code = ctypes.get_errno()
                if code == 1:  # EPERM
                    raise UserError(
                        f"this machine forbids {function}, by which the evaluator reads a candidate's outputs; "
                        "allow ptrace of own children (kernel.yama.ptrace_scope <= 1, or CAP_SYS_PTRACE in a container)"
                    )
                raise WorkerFailure(
                    "rejected", f"no memory at the address answered ({os.strerror(code)})", "bad_address"
                )
            done += moved
