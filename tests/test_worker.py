"""A worker: the parameters a candidate takes, the calls that it may not make, and what the parent does when it does not obey."""

import contextlib
import os
import pickle
import platform
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expert_tail.evaluator import seccomp
from expert_tail.evaluator.process import Worker, WorkerFailure
from expert_tail.evaluator.sandbox import Limits
from expert_tail.evaluator.server import ForkServer
from expert_tail.evaluator.worker import _matching


class Norm(nn.Module):
    def __init__(self, gain: str = "weight", shift: str = "bias", axes: int = 0, buffer: str = "") -> None:
        super().__init__()
        shape = (4,) + (1,) * axes
        self.register_parameter(gain, nn.Parameter(torch.ones(shape)))
        self.register_parameter(shift, nn.Parameter(torch.zeros(shape)))
        if buffer:
            self.register_buffer(buffer, torch.zeros(4))


class Tied(nn.Module):
    def __init__(self, is_tied: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        if is_tied:
            self.b.weight = self.a.weight


def matching(candidate: nn.Module, reference: nn.Module) -> dict[str, str] | None:
    own, given = ({name for name, _ in model.named_parameters()} for model in (candidate, reference))
    return _matching(candidate.state_dict(), own, reference.state_dict(), given)


def test_parameters_are_taken_by_name() -> None:
    assert matching(Norm("bias", "weight"), Norm()) == {"bias": "bias", "weight": "weight"}


def test_other_names_are_taken_in_order_and_whatever_axes_of_length_one() -> None:
    assert matching(Norm("gain", "shift", axes=2), Norm()) == {"gain": "weight", "shift": "bias"}


def test_a_candidate_may_have_more_and_lack_buffers() -> None:
    assert matching(Norm(buffer="own"), Norm()) == {"weight": "weight", "bias": "bias"}
    assert matching(Norm("gain", "shift"), nn.BatchNorm2d(4)) == {"gain": "weight", "shift": "bias"}


def test_a_parameter_that_nobody_takes_is_no_fit() -> None:
    assert matching(nn.ReLU(), Norm()) is None
    assert matching(nn.LayerNorm(5), Norm()) is None


def test_tied_parameters_and_untied_ones() -> None:
    untied = {name: name for name in Tied(False).state_dict()}
    assert matching(Tied(False), Tied(True)) == untied
    assert matching(Tied(True), Tied(True)) == untied


def test_a_buffer_of_the_reference_may_be_a_parameter() -> None:
    candidate = Norm()
    candidate.running_mean = nn.Parameter(torch.zeros(4))
    found = matching(candidate, nn.BatchNorm1d(4))
    assert found is not None
    assert found["running_mean"] == "running_mean"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("compiles", [False, True])
def test_there_is_a_program_for_every_architecture(
    machine: str, compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    code = seccomp.program(1, compiles)
    assert len(code) % 8 == 0
    assert len(code) // 8 < 4096  # the kernel's limit


LIMITS = {"memory_bytes": 1 << 32, "file_bytes": 1 << 20, "core": -1, "writable": False}
# A thread sends a second answer while the parent copies the outputs of the first.
PLANTS = """
import os, threading, time, torch
def plant():
    time.sleep(0.1)
    for descriptor in range(3, 16):
        try:
            os.write(descriptor, b'{"outputs": [], "spans": "planted"}')
        except OSError:
            pass
class ModelNew(torch.nn.Module):
    def forward(self):
        threading.Thread(target=plant).start()
        return torch.zeros(1)
"""
# It speaks the protocol itself, and is gone before it has read the command that it answers.
ENDS = """
import os, select, socket, sys, time, torch
class ModelNew(torch.nn.Module):
    def forward(self):
        frame = sys._getframe(1)
        while not isinstance(frame.f_locals.get("channel"), socket.socket):
            frame = frame.f_back
        channel = frame.f_locals["channel"]
        channel.send(b'{"outputs": [], "spans": []}')
        select.select([channel], [], [])
        channel.send(b'{"outputs": [], "spans": []}')
        time.sleep(0.1)
        os._exit(0)
"""


def load(worker: Worker, source: str, timeout_s: float = 30) -> None:
    path, blob = worker.scratch / "candidate.py", worker.scratch / "parameters.pickle"
    path.write_text(source)
    blob.write_bytes(pickle.dumps(([], {}, [])))
    worker.call({"do": "load", "path": str(path)}, "loaded", timeout_s)
    worker.call({"do": "construct", "name": "ModelNew", "blob": str(blob), "seed": 1}, "parameters", timeout_s)
    layout: dict[str, Any] = {"specs": [], "offsets": [], "call_bytes": 0, "n_calls": 1, "n_bytes": 1, "handle": None}
    worker.call({"do": "allocate", **layout}, "address", timeout_s)


@pytest.mark.parametrize(("source", "runs"), [(PLANTS, 1), (ENDS, 2)], ids=["plants", "ends"])
def test_one_that_goes_on_while_its_outputs_are_copied(source: str, runs: int) -> None:
    with ForkServer(use_sandbox=False) as server:
        worker = server.start(Limits(**LIMITS, sandbox=False))
        worker._on_device = True  # where outputs are copied before it is seen to be frozen
        load(worker, source)

        def copied(spans: Any) -> None:
            os.kill(worker.pid, signal.SIGCONT)  # as it could itself, without a sandbox
            assert select.select([worker._channel], [], [], 30)[0]  # until it has written again, or is gone

        for _ in range(runs - 1):
            worker.run(b"run 1", 30, lambda spans: None)
        with pytest.raises(WorkerFailure) as caught:
            worker.run(b"run 1", 30, copied)
        assert caught.value.reason == "forged_answer"
        worker.close()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_one_on_a_device_runs_where_the_callers_thread_may() -> None:
    before = os.sched_getaffinity(0)
    source = """
import os, torch
class ModelNew(torch.nn.Module):
    def forward(self):
        return torch.tensor(sorted(os.sched_getaffinity(0)))
"""
    with ForkServer(use_sandbox=False) as server:
        worker = server.start(Limits(**LIMITS, sandbox=False))
        worker._on_device = True
        load(worker, source)
        try:
            for cores in ({max(before)}, {min(before)}, before):
                os.sched_setaffinity(0, cores)
                ran = worker.run(b"run 1", 30, lambda spans: None)
                assert ran.outputs[0][0]["shape"] == [len(cores)]
                assert os.sched_getaffinity(worker.pid) == cores
        finally:
            os.sched_setaffinity(0, before)
        worker.close()


def test_one_that_does_not_answer_runs_no_longer(tmp_path: Path) -> None:
    with ForkServer(use_sandbox=False) as server:
        worker = server.start(Limits(**LIMITS, sandbox=False))
        with pytest.raises(WorkerFailure, match=r"no answer within 0\.5 s"):
            load(worker, "while True: pass", timeout_s=0.5)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{worker.pid}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        worker.close()


def test_those_that_are_prepared_are_handed_out_first() -> None:
    plain, other = (Limits(**LIMITS | {"writable": writable}, sandbox=False) for writable in (False, True))
    with ForkServer(use_sandbox=False) as server:
        server.prepare([plain, plain])
        server.prepare([other, plain, plain])  # two of which are there
        server.prepare([plain, other, other, plain])
        server.settle()
        (kept, _) = (worker.pid for worker in server._prepared[other])
        server.prepare([plain, other, plain])
        prepared = [worker.pid for worker in server._prepared[plain]]
        assert len(prepared) == 2
        assert [worker.pid for worker in server._prepared[other]] == [kept]  # the other has ended
        new = server.start(plain, is_new=True)
        assert new.pid not in prepared
        workers = [new, *(server.start(limits) for limits in (plain, plain, plain))]
        assert [worker.pid for worker in workers[1:3]] == prepared
        assert len({worker.pid for worker in workers}) == 4
        for worker in workers:
            worker.call({"do": "release"}, "done", 30)
            worker.close()


def test_those_that_nobody_wanted_end() -> None:
    limits = Limits(**LIMITS, sandbox=False)
    with ForkServer(use_sandbox=False) as server:
        server.prepare([limits, limits])
        discarded = [worker.pid for worker in server._prepared[limits]]
        server.discard()
        assert not any(Path(f"/proc/{pid}").exists() for pid in discarded)
        assert server.start(limits).pid not in discarded
        server.prepare([limits])
        (left,) = (worker.pid for worker in server._prepared[limits])
    assert not Path(f"/proc/{left}").exists()


def test_a_fork_server_that_dies_leaves_no_descriptors() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with ForkServer(use_sandbox=False) as server:
        server.prepare([Limits(**LIMITS, sandbox=False)] * 3)
        server.settle()
        server._process.kill()
        server._process.wait()
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("is_ready", [False, True])
def test_one_that_is_prepared_and_ends_is_replaced(is_ready: bool) -> None:
    limits = Limits(**LIMITS, sandbox=False)
    with ForkServer(use_sandbox=False) as server:
        server.prepare([limits, limits])
        if is_ready:
            server.settle()
        broken, sound = server._prepared[limits]
        os.kill(broken.pid, signal.SIGKILL)
        while Path(f"/proc/{broken.pid}").exists():
            time.sleep(0.01)
        if not is_ready:
            broken._channel.setblocking(False)
            with contextlib.suppress(BlockingIOError):  # what it said before
                broken._channel.recv(100)
            server.settle()
        worker = server.start(limits)
        assert worker.pid == sound.pid
        worker.call({"do": "release"}, "done", 30)
        worker.close()


def test_one_that_ends_before_it_is_ready_is_nobodys_fault() -> None:
    with ForkServer(use_sandbox=False) as server:
        worker = server.start(Limits(**LIMITS, sandbox=False, device="cuda"))  # there is none
        with pytest.raises(WorkerFailure, match="ended before it was ready") as caught:
            worker.call({"do": "release"}, "done", 30)
        assert caught.value.reason == "busy_device"
        worker.close()


GONE = """
import os, signal, time
from expert_tail.evaluator.server import ForkServer
from expert_tail.evaluator.sandbox import Limits

with ForkServer(use_sandbox=False) as server:
    worker = server.start(Limits(memory_bytes=1 << 32, file_bytes=1 << 20, core=-1, writable=False, sandbox=False))
    os.kill(worker.pid, signal.SIGKILL)
    time.sleep(0.5)  # its end is told, and nobody reads it
    server._socket.close()
    server._process.wait(10)
"""


def test_fork_server_ends_quietly_when_its_parent_has_not_read_all() -> None:
    done = subprocess.run([sys.executable, "-c", GONE], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
