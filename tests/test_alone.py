"""One process at a time measures on a device, and on a core."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import Timeout

from expert_tail.evaluator import alone
from expert_tail.evaluator.alone import NO_CORE, alone_on, core_to_share

HOLD = "from expert_tail.evaluator.alone import core_to_share\nwith core_to_share() as core:\n    print(core, flush=True)\n    input()"


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_each_has_a_core_of_its_own_as_long_as_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5})
    with core_to_share() as first, core_to_share() as second:
        assert (first, second) == (2, 1)  # 5 is where a CPU is measured
        with core_to_share() as third, core_to_share() as fourth:
            assert (third, fourth) == (0, NO_CORE)
    with core_to_share() as again:
        assert again == first
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    with core_to_share() as only:
        assert only == NO_CORE


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_another_process_has_another_core_and_leaves_it_when_it_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        with core_to_share() as ours:
            assert ours != theirs
        other.kill()
    with core_to_share() as ours:
        assert ours == theirs


def test_what_the_body_raises_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(Timeout), core_to_share():
        raise Timeout(str(tmp_path))
    with pytest.raises(Timeout), alone_on(torch.device("cpu")):
        raise Timeout(str(tmp_path))


def test_a_device_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with alone_on(torch.device("cpu")):
        held = alone._lock("cpu")
        with pytest.raises(Timeout):
            held.acquire(timeout=0)
    with held.acquire(timeout=0):
        monkeypatch.setattr(alone, "log", lambda message: held.release())
        with alone_on(torch.device("cpu")):
            assert not held.is_locked
