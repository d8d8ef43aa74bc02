"""Jobs on a machine with several GPUs: each takes one that no other has, and the workflow starts as many as there are."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from workflow_copies import ROOT

HOLDER = """
import os, sys
from expert_tail.gpus import claim_gpus
claim_gpus(int(sys.argv[1]))
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


@contextmanager
def job(tmp_path: Path, visible: str, count: int = 1) -> Iterator[subprocess.Popen]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": visible, "TMPDIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(count)], env=environment, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def gpu_of(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_each_job_has_a_gpu_of_its_own_and_waits_for_one(tmp_path: Path) -> None:
    with job(tmp_path, "0,GPU-5e") as first, job(tmp_path, "0,GPU-5e") as second:
        assert {gpu_of(first), gpu_of(second)} == {"0", "GPU-5e"}
        with job(tmp_path, "0,GPU-5e") as third:
            assert third.stderr is not None
            assert "waiting for 1 of the GPUs 0, GPU-5e" in third.stderr.readline()
            second.kill()
            second.wait()
            assert gpu_of(third) in ("0", "GPU-5e")
            assert first.poll() is None


def test_a_job_on_several_holds_none_while_it_waits_for_the_rest(tmp_path: Path) -> None:
    with job(tmp_path, "0,1,2") as first:
        alone = gpu_of(first)
        with job(tmp_path, "0,1,2", 3) as second:
            assert second.stderr is not None
            assert "waiting for 3 of the GPUs 0, 1, 2" in second.stderr.readline()
            with job(tmp_path, "0,1,2", 2) as third:
                assert sorted([*gpu_of(third).split(","), alone]) == ["0", "1", "2"]
            first.kill()
            first.wait()
            assert gpu_of(second) == "0,1,2"


def test_a_claim_outlives_the_change_to_another_program(tmp_path: Path) -> None:
    """As a training of several processes becomes torchrun."""
    become = "import os, sys; os.execv('/bin/sh', ['sh', '-c', 'echo $CUDA_VISIBLE_DEVICES; read line'])"
    code = HOLDER.replace("print(", f"from expert_tail.gpus import keep_claims\nkeep_claims()\n{become}\nprint(")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "0,1", "TMPDIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, "1"], env=environment, text=True, **pipes) as first:
        taken = gpu_of(first)
        with job(tmp_path, "0,1") as second:
            assert {taken, gpu_of(second)} == {"0", "1"}
        first.kill()


def test_more_than_there_are_is_an_error(tmp_path: Path) -> None:
    with job(tmp_path, "0,1", 3) as process:
        assert process.stderr is not None
        assert (
            "`policy.shards` and `policy.processes` ask for 3 GPUs, and 2 are visible; lower them"
            in process.stderr.read()
        )


@pytest.mark.parametrize("visible", ["", "3"])
def test_one_gpu_or_none_is_shared_as_ever(tmp_path: Path, visible: str) -> None:
    with job(tmp_path, visible) as first, job(tmp_path, visible) as second:
        assert gpu_of(first) == gpu_of(second) == visible


def asked_for(tmp_path: Path, *arguments: str) -> str:
    """What the training job of a dry run asks for."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    command += ["--dry-run", "--cores", "8", *arguments, "--", "artifacts/rlvr/rollouts.parquet"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return said.stdout.partition("rule rlvr_train:")[2].partition("rule ")[0]


def threads_and_gpus(asked: str) -> tuple[int, int]:
    threads = re.search(r"threads: (\d+)", asked)
    gpus = re.search(r"resources:.*\bgpu=(\d+)", asked)
    assert threads is not None
    assert gpus is not None
    return int(threads[1]), int(gpus[1])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (8, 0)),
        (["--resources", "gpu=2"], (4, 1)),
        (["--resources", "gpu=1"], (8, 1)),
        (["--resources", "gpu=2", "--config", "policy={device: cpu}", "evaluator={device: cpu}"], (8, 0)),
        (["--config", "policy={device: cuda}"], (8, 1)),
        (["--config", "policy={device: cuda, shards: 4}"], (8, 4)),
        (["--config", "policy={device: cuda, processes: 2}"], (8, 2)),
        (["--config", "policy={device: cuda, shards: 4, processes: 4}"], (8, 4)),
    ],
)
def test_jobs_on_gpus_share_the_cores(tmp_path: Path, arguments: list[str], expected: tuple[int, int]) -> None:
    assert threads_and_gpus(asked_for(tmp_path, *arguments)) == expected


@pytest.mark.parametrize(("device", "is_alone"), [("cpu", True), ("cuda", False)])
def test_timing_on_a_cpu_asks_a_cluster_for_a_node_of_its_own(tmp_path: Path, device: str, is_alone: bool) -> None:
    assert ("slurm_extra=--exclusive" in asked_for(tmp_path, "--config", f"evaluator={{device: {device}}}")) == is_alone
