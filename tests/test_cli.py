"""The command line itself: what cannot be written or is not there is said in one line, without a traceback."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from expert_tail.tasks.settings import TaskSettings
from expert_tail.tasks.stage import run as write_tasks


def expert_tail(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "expert_tail", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = expert_tail("--log", str(tmp_path / "file/stage.log"), "tasks", "--show", "5")
    assert done.returncode == 1
    assert "cannot write the log" in done.stderr
    assert "stage.log" in done.stderr
    assert "Traceback" not in done.stderr


def test_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = expert_tail("tasks", "--output", str(tmp_path / "file/tasks.parquet"))
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr


def test_log_keeps_the_error(tmp_path: Path) -> None:
    done = expert_tail("--log", str(tmp_path / "a/b.log"), "tasks", "--show", "999")
    assert done.returncode == 1
    assert (tmp_path / "a/b.log").read_text() == done.stderr
    assert "no task 999" in done.stderr


SAMPLING = ["sample_k64", "--tasks=x", "--policy=x", "--output=x", "--subset=x", "--seed=1"]


def test_unknown_engine_is_refused() -> None:
    done = expert_tail(*SAMPLING, "--policy.engine=sglang")
    assert done.returncode == 2
    assert "`policy.engine`" in done.stderr
    assert "transformers" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_that_is_not_installed_is_refused_at_the_start() -> None:
    done = expert_tail(*SAMPLING, "--policy.engine=vllm")
    assert done.returncode == 1
    assert "this Python has no vLLM" in done.stderr
    assert "make install-vllm" in done.stderr
    assert "Traceback" not in done.stderr


def test_memory_that_runs_out_is_said_in_a_line_with_advice(smollm2: Path, tmp_path: Path) -> None:
    """Terabytes of samples, which no machine grants."""
    write_tasks(TaskSettings(subsets={"one": [19]}), tmp_path / "tasks.parquet")
    paths = [f"--tasks={tmp_path / 'tasks.parquet'}", f"--policy={smollm2}", f"--output={tmp_path / 'samples.parquet'}"]
    done = expert_tail(
        "sample_k64", *paths, "--subset=one", "--seed=1", f"--sampling.k={10**11}", "--policy.device=cpu"
    )
    assert done.returncode == 1
    assert "Unable to allocate" in done.stderr
    assert "out of memory: `policy.shards` divides" in done.stderr
    assert "Traceback" not in done.stderr


def test_work_that_is_stopped_says_so_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "candidate.py").write_text("import time\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "expert_tail", "evaluate", "--task=20", f"--candidate={tmp_path / 'candidate.py'}"]
    environment = os.environ | {"EXPERT_TAIL_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr
        assert process.stderr.readline()  # it has begun
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.strip() == ("expert-tail evaluate: stopped; what is finished is kept, so run the same command again")
