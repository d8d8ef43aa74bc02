"""What tests of failures share: the real command lines, problems in KernelBench's format, and a disk that can fill up."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from expert_tail import artifacts
from expert_tail.evaluator.cache import cache_folder
from expert_tail.evaluator.ceilings import ceilings_of
from expert_tail.evaluator.hardware import hardware
from expert_tail.policy.action import candidate_sha256, candidate_source

ROOT = Path(__file__).parents[1]
# The order of KernelBench's own files: model, sizes, get_inputs, get_init_inputs.
PROBLEM = '''import torch
import torch.nn as nn

class Model(nn.Module):
    """
    Simple model that performs one operation.
    """
    def __init__(self):
        super(Model, self).__init__()
        {init}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Applies the operation to the input tensor.
        """
        {forward}

batch_size = 16
dim = 256

def get_inputs():
    {inputs}
    return [x]

def get_init_inputs():
    return []  # No special initialization inputs needed
'''


def problem(result: str, *, init: str = "pass", inputs: str = "x = torch.rand(batch_size, dim) - 0.5") -> str:
    """A KernelBench problem file; `result` is what forward returns, or a statement that raises."""
    forward = result if result.startswith("raise") else f"return {result}"
    return PROBLEM.format(init=init, forward=forward, inputs=inputs)


def write_checkout(folder: Path, problems: dict[str, str]) -> Path:
    """A folder laid out like a KernelBench checkout, with these files in its level 1."""
    level = folder / "KernelBench" / "level1"
    level.mkdir(parents=True)
    for name, source in problems.items():
        (level / name).write_text(source)
    return folder


def write_samples(suite: Path, tasks: Path, samples: Path, bodies: dict[int, list[str]]) -> None:
    """The tasks artifact of a suite, and samples artifact of these completions, a list for each task of subset `mine`."""
    subsets = f'{{"mine": {sorted(bodies)}}}'
    made = run(expert_tail("tasks", "--suite", suite, "--tasks.subsets", subsets, "--output", tasks), tasks.parent)
    assert made.returncode == 0, made.stderr
    references = {row["task_id"]: row["reference_source"] for row in artifacts.read(tasks, "tasks").to_pylist()}
    rows = [
        {
            "task_id": task_id,
            "seed": 42,
            "sample": number,
            "checkpoint": "base",
            "completion": body,
            "candidate_sha256": candidate_sha256(candidate_source(references[task_id], body, "forward_body")),
            "token_ids": [1],
            "logprobs": [-0.1],
            "tempered_logprobs": [-0.1],
            "n_tokens": 1,
            "finish_reason": "stop",
        }
        for task_id, of_task in bodies.items()
        for number, body in enumerate(of_task)
    ]
    artifacts.write(samples, "samples", rows, subset="mine", action="forward_body")


def new_cache(folder: Path) -> Path:
    """An empty cache of evaluations, but for the machine's ceilings, which take seconds to measure."""
    ceilings_of("cpu", max(os.sched_getaffinity(0)), hardware(torch.device("cpu")))
    shutil.copytree(cache_folder() / "ceilings", folder / "ceilings")
    return folder


def environment(cache: Path) -> dict[str, str]:
    """That of the command lines: this checkout's package, two threads, and a cache of evaluations of their own."""
    before = os.environ.get("PYTHONPATH", "")
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT / 'src'}:{before}"}
    return os.environ | paths | {"EXPERT_TAIL_CACHE": str(cache), "OMP_NUM_THREADS": "2"}


def new_folder(folder: Path, smollm2: Path) -> Path:
    """A working folder that has the policy already."""
    shutil.copytree(smollm2, folder / "artifacts/policy/smollm2-135m-instruct", copy_function=_link)
    return folder


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy(source, target)


def expert_tail(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "expert_tail", *map(str, arguments)]


def snakemake(folder: Path, *arguments: object) -> list[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return [*command, "--cores", "1", *map(str, arguments)]


def run(command: list[str], cache: Path, timeout: float = 540) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(cache), capture_output=True, text=True, timeout=timeout)


@contextmanager
def started(command: list[str], cache: Path, log: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, running in a process group of its own; whatever of it is left in the end is killed."""
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, env=environment(cache), stdout=output, stderr=output, text=True, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_9(process)


def kill_9(process: subprocess.Popen[str]) -> None:
    """The process and all that it started, at once, as a power loss or an out-of-memory killer would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def only_line(output: str, words: str) -> str:
    """The one line of `output` that holds `words`."""
    found = [line for line in output.splitlines() if words in line]
    assert len(found) == 1, output[-3000:]
    assert "Traceback" not in output, output[-3000:]
    return found[0]


def fill(folder: Path) -> Path:
    """A file in `folder` that takes what room its disk has left."""
    filler = folder / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(folder).free == 0
    return filler


class Disk:
    """A file system in memory, at `folder` for the commands that `command` wraps; tests see it at `seen`."""

    def __init__(self, folder: Path, size: str) -> None:
        folder.mkdir(parents=True)
        script = 'mount -t tmpfs -o size="$1" tmpfs "$0" && echo mounted && exec sleep 600'
        unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(folder), size]
        try:
            self._holder = subprocess.Popen(unshare, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            pytest.skip("mounting a small disk needs util-linux (unshare)")
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "mounted\n":
            _, problem = self._holder.communicate()
            pytest.skip(f"this machine allows no mounts in a user namespace: {problem.strip()}")
        self.folder, self.seen = folder, Path(f"/proc/{self._holder.pid}/root{folder}")

    def command(self, command: list[str]) -> list[str]:
        enter = ["nsenter", f"--target={self._holder.pid}", "--user", "--mount", "--preserve-credentials"]
        return [*enter, *command]

    def remount(self, options: str) -> None:
        subprocess.run(self.command(["mount", "-o", f"remount,{options}", str(self.folder)]), check=True)

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()
