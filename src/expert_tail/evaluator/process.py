"""The parent's side of a worker: freeze it, read and write its memory, enforce limits, kill it.

What the parent knows of a candidate rests on four things that the candidate cannot reach: the parent's clock, the values
that the parent reads out of the process while it is frozen or the clock runs, and the kernel's reports of how much processor
time it took and how it ended.
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
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from expert_tail.errors import UserError
from expert_tail.evaluator.sandbox import Limits

if TYPE_CHECKING:
    from expert_tail.evaluator.server import ForkServer

Outputs = TypeVar("Outputs")  # where a run's outputs can be read
MAX_MESSAGE = 1 << 17
# Reasons that may be others' doing, so that a candidate is evaluated again by itself. The first is never cached.
BUSY_DEVICE, INPUT_MUTATED = "busy_device", "input_mutated"
FAILURES = ("compile_error", "runtime_error", "out_of_memory")  # what a worker may say of itself
START_S = 120.0  # how long a worker may take to be ready: a driver makes the contexts of many one by one, 0.2 s each
SPIN_S = 0.25  # how long a run's answer is awaited without sleeping
GRACE_S = 0.2  # how long a thread that has done its work may take to vanish
FREEZE_PAUSE_S = 2e-5  # one that shares this thread's core can only stop while this one sleeps
RELEASE_NS = 50_000  # most that a wait for a processor counts for, beside processor time
_OUTPUT_TAIL = 2000
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class WorkerFailure(Exception):
    """A worker failed: `status` as in the evaluations table, `error` for the reader, `reason` for rejections."""

    def __init__(self, status: str, error: str, reason: str = "") -> None:
        super().__init__(error)
        self.status, self.error, self.reason = status, error, reason


@dataclass(frozen=True)
class Run(Generic[Outputs]):
    """One run of a worker: how long it took, what it answered, and where its outputs can be read."""

    seconds: float
    outputs: Any
    spans: Any
    source: Outputs


class Worker:
    """One process with one module in it. From its first answer on it is frozen, except while it owes another."""

    def __init__(
        self, server: "ForkServer", pid: int, channel: socket.socket, scratch: Path, output: int, limits: Limits
    ) -> None:
        self._server, self.pid, self._channel, self.scratch, self._output = server, pid, channel, scratch, output
        self._core = limits.core  # -1: any
        self._on_device = limits.device != "cpu"
        self.first_run_s = (
            0.0  # how long its first run may take, if longer than others: what was compiled is loaded then
        )
        self.own_parameters = False  # whether its model's parameters fit the reference's in no way
        self._is_ready = False
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._alive, self._killed = True, False
        self._frozen_ns = 0  # processor time of the worker when it was frozen

    def call(self, command: dict[str, Any], expect: str, timeout_s: float) -> Any:
        """Send a command, let the worker run until it answers, freeze it; the answer's `expect`. Raises `WorkerFailure`."""
        self.await_start()
        self._send(json.dumps(command).encode())
        self._signal(signal.SIGCONT)
        if not self._poll.poll(timeout_s * 1e3):
            raise self._timed_out(timeout_s)
        self._freeze()
        return self._answer(expect)[0]

    def is_waiting(self) -> bool:
        """Whether it waits for its first command, or is about to: not where it has ended since it was ready."""
        return not self._is_ready or not self._poll.poll(0)

    def run(self, command: bytes, timeout_s: float, outputs: Callable[[Any], Outputs]) -> Run[Outputs]:
        """Release the worker for one run. Frozen afterwards. `outputs`: its outputs' memory, from the spans it answers.

        On a CPU its time is the longer of two: by the parent's clock until it answers; and the processor time it took until
        it was frozen, plus what it waited to be released, so that what is still computed after the answer is paid for. On a
        device it is the time until `outputs` returns, which copies them: what is computed later is not in the copy; and its
        threads run where this one may. If that is one core, neither waits for another to wake up.
        Raises `WorkerFailure`, also where it was not frozen before.
        """
        self._require_alive()
        if self._processor_ns() not in (0, self._frozen_ns):  # 0: it was killed, as sending will tell
            raise WorkerFailure("rejected", "the process went on while it was frozen", "not_frozen")
        if self.threads() > 1 and not self._on_device:  # CUDA has threads of its own
            raise WorkerFailure("rejected", "threads are left from before the call", "background_thread")
        before, waited = self._frozen_ns, self._waited_ns()
        spins = self._core not in (cores := os.sched_getaffinity(0))
        if self._on_device:
            spins = len(cores) > 1
            self._place(cores)
        self._send(command)
        start = time.perf_counter_ns()
        self._signal(signal.SIGCONT)
        answered = self._wait(start, timeout_s, spins)
        taken = time.perf_counter_ns() - start
        if not answered:
            raise self._timed_out(timeout_s)
        if self._on_device:
            self._signal(signal.SIGSTOP)
            try:
                described, spans = self._answer("outputs", "spans")
                source = outputs(spans)
                seconds = (time.perf_counter_ns() - start) * 1e-9
            finally:
                if self._alive:
                    self._freeze()  # to see all its threads stopped takes a while
            self._expect_silence()  # until it stopped it could have answered the next command, too
            return Run(seconds, described, spans, source)
        self._freeze()
        deadline = time.monotonic() + GRACE_S
        while self.threads() > 1 and time.monotonic() < deadline:
            self._signal(signal.SIGCONT)  # a thread that was joined, but is still on its way out
            time.sleep(0.002)
            self._freeze()
        processor = self._frozen_ns - before + min(self._waited_ns() - waited, RELEASE_NS)
        described, spans = self._answer("outputs", "spans")
        return Run(max(taken, processor) * 1e-9, described, spans, outputs(spans))

    def write(self, address: int, data: torch.Tensor) -> None:
        """Copy `data`, contiguous and on the CPU, into the worker's memory."""
        self._transfer("process_vm_writev", address, data)

    def read(self, address: int, n_bytes: int) -> torch.Tensor:
        """Copy `n_bytes` out of the worker's memory, as uint8."""
        data = torch.empty(n_bytes, dtype=torch.uint8)
        self._transfer("process_vm_readv", address, data)
        return data

    def threads(self) -> int:
        """Threads of the worker's process, as the kernel counts them."""
        with contextlib.suppress(OSError):
            return len(os.listdir(f"/proc/{self.pid}/task"))
        return 0

    def kill(self) -> None:
        """Have the worker end, without waiting for it; `close` does. Once: its number may be another's soon."""
        if self._alive and not self._killed:
            if self._on_device:
                self._place(range(os.cpu_count() or 1))  # it takes a while to give back its memory
            self._signal(signal.SIGKILL)
            self._killed = True

    def close(self) -> None:
        if self._alive:
            self._end()

    def _end(self) -> int:
        """Kill the worker, if it has not ended by itself; its wait status."""
        self.kill()  # changes nothing about a process that is ending already
        self._alive = False
        self._channel.close()
        try:
            return self._server.exit_status(self.pid)
        finally:
            os.close(self._output)
            remove_folder(self.scratch)

    def _require_alive(self) -> None:
        if self._killed or not self._alive:  # its number may be another's by now
            raise WorkerFailure("crash", "the process ended before")

    def await_start(self) -> None:
        """Wait until the worker is there. That it is not is no fault of a candidate, which it has not seen."""
        if self._is_ready:
            return
        self._require_alive()
        if not self._poll.poll(START_S * 1e3):
            self.kill()
            raise WorkerFailure("timeout", f"a worker was not ready within {START_S:g} s", BUSY_DEVICE)
        if not self._channel.recv(MAX_MESSAGE):
            failure = self._death()
            raise WorkerFailure(failure.status, f"a worker ended before it was ready: {failure.error}", BUSY_DEVICE)
        self._is_ready = True

    def _timed_out(self, timeout_s: float) -> WorkerFailure:
        self.kill()  # it is not frozen, and would disturb others
        return WorkerFailure("timeout", f"no answer within {timeout_s:g} s")

    def _wait(self, start_ns: int, timeout_s: float, spins: bool) -> bool:
        """Whether an answer came in time. Where it spins at first: waking up takes long enough to hide work in."""
        spin_until = start_ns + int(1e9 * min(SPIN_S, timeout_s)) if spins else 0
        while time.perf_counter_ns() < spin_until:
            if self._poll.poll(0):
                return True
        return bool(self._poll.poll(timeout_s * 1e3))

    def _send(self, message: bytes) -> None:
        self._require_alive()
        try:
            self._channel.send(message)
        except OSError:
            raise self._death() from None

    def _answer(self, *expect: str) -> list[Any]:
        try:
            message = self._channel.recv(MAX_MESSAGE)
        except ConnectionResetError:  # it ended without having read its last command
            message = b""
        if not message:
            raise self._death()
        try:
            answer = json.loads(message)
            if answer.get("failed") in FAILURES:
                raise WorkerFailure(answer["failed"], str(answer["error"]))
            wanted = [answer[name] for name in expect]
        except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
            raise forged() from None
        self._expect_silence()
        return wanted

    def _expect_silence(self) -> None:
        """Raise `WorkerFailure` if there is an answer that nobody asked for."""
        try:
            is_silent = not self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            is_silent = True
        except ConnectionResetError:  # it ended, and had answered a command that it never read
            is_silent = False
        if not is_silent:
            raise forged()

    def _death(self) -> WorkerFailure:
        if not self._alive:
            return WorkerFailure("crash", "the process ended before")
        size = os.fstat(self._output).st_size
        tail = os.pread(self._output, _OUTPUT_TAIL, max(0, size - _OUTPUT_TAIL)).decode(errors="replace").strip()
        code = os.waitstatus_to_exitcode(self._end())
        if code == -signal.SIGKILL:
            how = "it closed its channel, or was killed"
        else:
            how = _signal_name(-code) if code < 0 else f"exit code {code}"
        return WorkerFailure("crash", f"the process ended ({how}){': ' + tail if tail else ''}")

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _place(self, cores: Iterable[int]) -> None:
        """Have all its threads run on these cores."""
        with contextlib.suppress(OSError):  # it is gone, as whatever comes next will tell
            for task in os.listdir(f"/proc/{self.pid}/task"):
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(int(task), cores)

    def _processor_ns(self) -> int:
        """Processor time of the worker's process, all threads; exact while it is frozen, and 0 once it has ended."""
        try:
            return time.clock_gettime_ns((~self.pid << 3) | 2)  # the clock of another process, see clock_getcpuclockid
        except OSError:
            return 0

    def _waited_ns(self) -> int:
        """How long the worker's main thread was ready to run and waited for a processor; 0 where the kernel keeps none."""
        try:
            return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1])
        except (OSError, IndexError):
            return 0

    def _freeze(self) -> None:
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            if self._is_stopped():
                self._frozen_ns = self._processor_ns()
                return
            if self._on_device:
                time.sleep(FREEZE_PAUSE_S)
        self.kill()
        raise WorkerFailure("rejected", "the process could not be frozen", "unfreezable")

    def _is_stopped(self) -> bool:
        try:
            for task in os.listdir(f"/proc/{self.pid}/task"):
                folder = f"/proc/{self.pid}/task/{task}"
                # In bytes: the name before the bracket is the candidate's, and may be no text.
                state = chr(Path(f"{folder}/stat").read_bytes().rpartition(b")")[2].split()[0][0])
                # A task counts as stopped a little before it leaves its processor; this file knows better.
                if state not in "tTZX" or (state in "tT" and Path(f"{folder}/syscall").read_text() == "running\n"):
                    return False
        except (FileNotFoundError, ProcessLookupError):
            return not Path(f"/proc/{self.pid}").exists()  # else a thread ended meanwhile
        return True

    def _transfer(self, function: str, address: int, data: torch.Tensor) -> None:
        self._require_alive()
        done, flat = 0, data.reshape(-1).view(torch.uint8)
        while done < flat.nbytes:
            ours = _Iovec(flat.data_ptr() + done, flat.nbytes - done)
            theirs = _Iovec(address + done, flat.nbytes - done)
            moved = getattr(_LIBC, function)(self.pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
            if moved <= 0:
                code = ctypes.get_errno()
                if code == 1 and not self._server.has_read:  # EPERM, and never before
                    raise UserError(
                        f"this machine forbids {function}, by which the evaluator reads a candidate's outputs; "
                        "allow ptrace of own children (kernel.yama.ptrace_scope <= 1, or CAP_SYS_PTRACE in a container)"
                    )
                raise WorkerFailure(
                    "rejected", f"no memory at the address answered ({os.strerror(code)})", "bad_address"
                )
            self._server.has_read = True
            done += moved


def forged() -> WorkerFailure:
    return WorkerFailure("rejected", "an answer on the evaluator's channel that is not its own", "forged_answer")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have none
        return f"signal {number}"


def remove_folder(folder: Path) -> None:
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():  # folders within folders, deeper than Python goes
        subprocess.run(["rm", "-rf", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)
