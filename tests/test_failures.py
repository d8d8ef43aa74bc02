"""Failures injected for real around single commands: a full disk, a read-only folder, kill -9, broken tasks."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from injection import (
    Disk,
    environment,
    expert_tail,
    fill,
    kill_9,
    new_cache,
    only_line,
    problem,
    run,
    snakemake,
    started,
    write_checkout,
    write_samples,
)

from expert_tail import artifacts

GOOD = problem("torch.relu(x)")
QUICK = ["--evaluator.min_pairs=6", "--evaluator.max_pairs=6"]
PROBE = ["--prompt.examples=0", "--rlvr.tasks_per_step=1", "--rlvr.rollouts_per_task=2", "--rlvr.max_tokens=4", *QUICK]


@pytest.fixture
def disks() -> Iterator[Callable[[Path, str], Disk]]:
    made: list[Disk] = []

    def make(folder: Path, size: str) -> Disk:
        made.append(Disk(folder, size))
        return made[-1]

    yield make
    for disk in made:
        disk.close()


def test_full_disk_is_one_line_and_leaves_what_is_there(tmp_path: Path, disks: Callable[[Path, str], Disk]) -> None:
    disk = disks(tmp_path / "disk", "1m")
    first, second = disk.folder / "artifacts/first.parquet", disk.folder / "artifacts/second.parquet"

    def write(path: Path) -> subprocess.CompletedProcess[str]:
        command = expert_tail("--log", disk.folder / "artifacts/tasks.log", "tasks", "--output", path)
        return run(disk.command(command), tmp_path)

    assert write(first).returncode == 0
    kept = (disk.seen / "artifacts/first.parquet").read_bytes()
    filler = fill(disk.seen)

    for path in (first, second):
        done = write(path)
        assert done.returncode == 1
        line = only_line(done.stderr, "cannot write")
        assert f"cannot write {path}: No space left on device; free space" in line
    assert sorted(os.listdir(disk.seen / "artifacts")) == ["first.parquet", "tasks.log"]
    assert (disk.seen / "artifacts/first.parquet").read_bytes() == kept

    filler.unlink()
    assert write(second).returncode == 0
    assert artifacts.read(disk.seen / "artifacts/second.parquet", "tasks").num_rows == 100


@pytest.mark.slow
def test_training_goes_on_once_a_full_disk_has_room(
    tmp_path: Path, disks: Callable[[Path, str], Disk], smollm2: Path
) -> None:
    suite = write_checkout(tmp_path / "suite", {"19_ReLU.py": GOOD})
    tasks, output, cache = tmp_path / "tasks.parquet", tmp_path / "rollouts.parquet", new_cache(tmp_path / "cache")
    disk = disks(tmp_path / "state", "30m")
    assert run(expert_tail("tasks", "--suite", suite, "--output", tasks), tmp_path).returncode == 0
    command = expert_tail("rlvr_train", "--tasks", tasks, "--policy", smollm2, "--state", disk.folder)
    command += ["--checkpoints", str(tmp_path / "checkpoints"), "--output", str(output), *PROBE]
    command += ["--rlvr.steps=2", "--rlvr.checkpoints=2"]

    full = run(disk.command(command), cache)  # one adapter fits, two do not
    assert full.returncode == 1
    line = only_line(full.stderr, "cannot write")
    assert "step=0001" in line
    assert "No space left on device" in line
    assert "free space" in line
    (kept,) = disk.seen.rglob("rollouts.parquet")
    before = kept.read_bytes()
    assert "step=0000" in str(kept)
    assert not output.exists()

    disk.remount("size=100m")
    done = run(disk.command(command), cache)
    assert done.returncode == 0, done.stderr
    assert "going on after 1 of" in done.stderr
    assert kept.read_bytes() == before
    assert artifacts.read(output, "rollouts").num_rows == 4


def test_read_only_folder_is_named(tmp_path: Path, disks: Callable[[Path, str], Disk]) -> None:
    disk = disks(tmp_path / "artifacts", "1m")
    output = disk.folder / "tasks/level1.parquet"
    write = expert_tail("tasks", "--output", output)
    assert run(disk.command(write), tmp_path).returncode == 0
    kept = (disk.seen / "tasks/level1.parquet").read_bytes()
    disk.remount("ro")

    done = run(disk.command(write), tmp_path)
    assert done.returncode == 1
    assert f"cannot write {output}: Read-only file system" in only_line(done.stderr, "cannot write")
    logged = run(disk.command(expert_tail("--log", disk.folder / "x.log", "tasks", "--output", output)), tmp_path)
    assert logged.returncode == 1
    assert f"cannot write the log {disk.folder / 'x.log'}" in only_line(logged.stderr, "cannot write")
    of_workflow = run(disk.command(snakemake(tmp_path, "artifacts/samples/subset1/seed=42.parquet")), tmp_path)
    assert of_workflow.returncode == 1
    assert "artifacts/" in only_line(of_workflow.stdout + of_workflow.stderr, "Read-only file system")
    assert (disk.seen / "tasks/level1.parquet").read_bytes() == kept


def test_log_that_cannot_grow_ends_and_the_work_goes_on(tmp_path: Path) -> None:
    done = run(expert_tail("--log", "/dev/full", "tasks", "--show", "999"), tmp_path)
    assert "no task 999" in only_line(done.stderr, "no task 999")
    assert "the log /dev/full ends here: No space left on device" in done.stderr


def test_output_that_cannot_be_printed_is_one_line() -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = expert_tail("tasks", "--show", 5)
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, env=buffered, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "cannot write the output: No space left on device" in only_line(done.stderr, "cannot write")
    assert len(done.stderr.splitlines()) == 1


WRITER = """
import sys, time
from expert_tail.artifacts import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half of it")
    print(temporary, flush=True)
    time.sleep(60)
"""


def test_leftover_of_a_killed_writer_goes_and_a_living_writer_keeps_its_own(tmp_path: Path) -> None:
    output, other = tmp_path / "tasks.parquet", tmp_path / ".tasks.parquet.0123abcd.1@elsewhere-1.tmp"
    writers = []
    for _ in range(2):
        command = [sys.executable, "-c", WRITER, str(output)]
        writers.append(subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE, text=True))
    left, living = (Path((writer.stdout or sys.stdin).readline().strip()) for writer in writers)
    writers[0].kill()
    writers[0].wait()
    other.write_text("of another machine, whose processes nobody here can ask after")
    try:
        assert left.read_bytes() == b"half of it"
        assert run(expert_tail("tasks", "--output", output), tmp_path).returncode == 0
        assert {file.name for file in tmp_path.glob(".*.tmp")} == {living.name, other.name}
        os.utime(other, (time.time() - 2 * artifacts.ABANDONED_S,) * 2)
        assert run(expert_tail("tasks", "--output", output), tmp_path).returncode == 0
        assert {file.name for file in tmp_path.glob(".*.tmp")} == {living.name}
    finally:
        writers[1].kill()
        writers[1].wait()


def sampled(tmp_path: Path, suite: Path, bodies: dict[int, list[str]]) -> list[str]:
    """The command that evaluates these completions, a list for each task, all in subset `mine`."""
    tasks, samples = tmp_path / "tasks.parquet", tmp_path / "samples.parquet"
    write_samples(suite, tasks, samples, bodies)
    paths = ["--tasks", tasks, "--samples", samples, "--output", tmp_path / "evaluations.parquet"]
    return expert_tail("compile_and_time", *paths, *QUICK)


@dataclass
class Killed:
    finished: int  # evaluations that were in the cache when compile_and_time was killed, of `total`
    total: int
    at: datetime
    has_output: bool
    again: subprocess.CompletedProcess[str]
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """compile_and_time on a suite from a Parquet file, killed when a few candidates were measured, and run again."""
    base = tmp_path_factory.mktemp("evaluations")
    names, sources = ["19_ReLU", "21_Sigmoid", "22_Tanh"], [GOOD, problem("torch.sigmoid(x)"), problem("torch.tanh(x)")]
    columns = {"code": sources, "level": [1] * 3, "name": names, "problem_id": [19, 21, 22]}
    pq.write_table(pa.table(columns), base / "level_1.parquet")
    bodies = {19: [f"return torch.relu(x) + {number} - {number}" for number in range(15)], 22: ["return x"]}
    command, cache = sampled(base, base / "level_1.parquet", bodies), new_cache(base / "cache")
    with started(command, cache, base / "killed.log") as process:
        while len(list(cache.glob("??/*.json"))) < 4:
            assert process.poll() is None, (base / "killed.log").read_text()
            time.sleep(0.01)
        kill_9(process)
    finished, at, output = len(list(cache.glob("??/*.json"))), datetime.now(UTC), base / "evaluations.parquet"
    has_output, again = output.exists(), run(command, cache)
    assert again.returncode == 0, again.stderr
    return Killed(finished, 16, at, has_output, again, artifacts.read(output, "evaluations").to_pylist())


def test_kill_9_of_compile_and_time_loses_no_finished_evaluation(killed: Killed) -> None:
    assert not killed.has_output
    measured = killed.total - killed.finished
    assert measured > 0
    only_line(killed.again.stderr, f"{killed.total} distinct: {killed.finished} known, {measured} measured")
    assert sum(row["measured_at"] < killed.at for row in killed.rows) == killed.finished


def test_parquet_with_kernelbenchs_columns_is_evaluated(killed: Killed) -> None:
    assert {(row["task_id"], row["status"]) for row in killed.rows} == {(19, "correct"), (22, "incorrect")}


def test_evaluate_says_that_the_reference_fails(tmp_path: Path) -> None:
    suite = write_checkout(tmp_path / "suite", {"7_Broken.py": problem('raise ValueError("not today")')})
    (tmp_path / "body.py").write_text("return torch.relu(x)")
    arguments = ["--suite", suite, "--task", 7, "--candidate", tmp_path / "body.py", "--action", "forward_body"]
    done = run(expert_tail("evaluate", *arguments, *QUICK, "--json"), new_cache(tmp_path / "cache"))
    assert done.returncode == 1
    assert '"reason": "reference_failed"' in done.stdout
    assert "ValueError: not today" in done.stdout
    assert "the reference of task 7 fails itself" in only_line(done.stderr, "expert-tail evaluate:")


def truncated(path: Path, **columns: list) -> None:
    pq.write_table(pa.table({"problem_id": [1], "name": ["1_a"], "code": [GOOD], "level": [1]}), path)
    path.write_bytes(path.read_bytes()[:-20])


MALFORMED: dict[str, tuple[Callable[[Path], object], str]] = {
    "syntax": (lambda at: write_checkout(at, {"1_a.py": GOOD + "def f(:\n"}), "1_a.py: line 27: not valid Python"),
    "lacking": (
        lambda at: write_checkout(at, {"1_a.py": GOOD.replace("get_inputs", "inputs")}),
        "1_a.py: defines no function get_inputs",
    ),
    "column.parquet": (lambda at: pq.write_table(pa.table({"problem_id": [1]}), at), "missing column name, code"),
    "truncated.parquet": (truncated, "truncated.parquet: not a whole Parquet file"),
    "suite.csv": (lambda at: at.write_text("problem_id,name,code,level\n"), "suite.csv: not a whole Parquet file"),
}


@pytest.fixture(scope="module")
def malformed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds, for each malformed suite, a working folder in which the workflow has failed on it, all side by side."""
    base = tmp_path_factory.mktemp("malformed")
    with ExitStack() as stack:
        processes = []
        for name, (make, _) in MALFORMED.items():
            folder = base / Path(name).stem
            folder.mkdir()
            make(folder / name)
            target = f"artifacts/tasks/{Path(name).stem}.parquet"
            command = snakemake(folder, target, "--config", f"tasks={{source: {folder / name}}}")
            processes.append(stack.enter_context(started(command, base, folder / "output")))
        assert [process.wait(300) for process in processes] == [1] * len(MALFORMED)
    return base


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_suite_ends_the_workflow_with_its_name(malformed: Path, name: str) -> None:
    folder, message = malformed / Path(name).stem, MALFORMED[name][1]
    assert str(folder / name) in only_line((folder / "artifacts/logs/tasks.log").read_text(), message)
    output = (folder / "output").read_text()
    assert message in output
    assert "Traceback" not in output
