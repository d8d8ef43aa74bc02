"""One small project on the real policy and its mishaps: killed with -9 in a later training step, a second run beside it,
broken tasks. Then what it has nevertheless come to, and its report."""

import csv
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from injection import (
    ROOT,
    expert_tail,
    kill_9,
    new_cache,
    new_folder,
    only_line,
    problem,
    run,
    snakemake,
    started,
    write_checkout,
)

from expert_tail import artifacts

pytestmark = pytest.mark.slow

TARGET = "results/table3.csv"
ROLLOUTS = "artifacts/rlvr/rollouts.parquet"
PROBLEMS = {
    "19_ReLU.py": problem("torch.relu(x)"),
    "21_Sigmoid.py": problem("torch.sigmoid(x)"),
    "22_Tanh.py": problem("torch.tanh(x)"),
}
BROKEN = {
    "1_Init.py": problem("torch.relu(x)", init='raise ValueError("broken in init")'),
    "2_Forward.py": problem('raise ValueError("broken in forward")'),
    "3_Inputs.py": problem("torch.relu(x)", inputs='raise ValueError("broken in inputs")'),
}
SUBSETS = yaml.safe_load((ROOT / "config.yaml").read_text())["tasks"]["subsets"]  # tasks that this suite does not have
CONFIG: dict[str, Any] = {
    "tasks": {"subsets": {name: [] for name in SUBSETS} | {"subset1": [1, 2, 3, 19]}},
    "prompt": {"examples": 2},
    "rlvr": {"steps": 3, "tasks_per_step": 1, "rollouts_per_task": 4, "max_tokens": 10, "checkpoints": [3]},
    "sampling": {"k": 4, "max_tokens": 10, "seeds": [42]},
    "adaptation": {"only": []},
    "probes": {"runs": []},
    "evaluator": {"min_pairs": 6, "max_pairs": 6},
    "aggregate": {"bootstrap": 100},
}


@dataclass
class Project:
    folder: Path
    cache: Path
    config: Path
    kept: dict[Path, bytes]  # rollouts of the steps that were finished when the run was killed
    second_training: str  # what one says that is started while the first is in its third step
    second_workflow: str
    resumed: str  # what the command says that was killed, when it is given again

    def snakemake(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return run(snakemake(self.folder, *arguments, "--configfile", self.config), self.cache)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Project:
    """Trains into its third step, is stopped there, is killed, and is run again to the end."""
    base = tmp_path_factory.mktemp("project")
    folder, cache, config = new_folder(base / "run", smollm2), new_cache(base / "cache"), base / "config.yaml"
    suite = write_checkout(base / "KernelBench-main", PROBLEMS | BROKEN)
    config.write_text(json.dumps(CONFIG | {"tasks": CONFIG["tasks"] | {"source": str(suite)}}))
    state, logs = folder / "artifacts/rlvr/state", [base / f"{number}.log" for number in range(3)]
    command = snakemake(folder, TARGET, "--configfile", config)

    with started(command, cache, logs[0]) as process:
        while not list(state.glob("*/step=0001")):
            assert process.poll() is None, logs[0].read_text()
            time.sleep(0.05)
        time.sleep(0.2)  # into the third step
        os.killpg(process.pid, signal.SIGSTOP)  # so that it cannot end while the others are started
        paths = ["--tasks", folder / "artifacts/tasks/KernelBench-main.parquet", "--policy", smollm2, "--state", state]
        paths += ["--checkpoints", base / "checkpoints", "--output", base / "rollouts.parquet"]
        with (
            started(expert_tail("rlvr_train", *paths), cache, logs[1]) as training,
            started(command, cache, logs[2]) as workflow,
        ):
            assert (training.wait(300), workflow.wait(300)) == (1, 1)
        kill_9(process)
    kept = {path: path.read_bytes() for path in state.glob("*/step=*/rollouts.parquet")}
    assert sorted(path.parent.name for path in kept) == ["step=0000", "step=0001"]

    resumed = run(command, cache)
    assert resumed.returncode == 0, resumed.stderr[-5000:]
    return Project(folder, cache, config, kept, logs[1].read_text(), logs[2].read_text(), resumed.stderr)


def test_second_training_in_a_state_folder_is_refused(project: Project) -> None:
    assert "artifacts/rlvr/state" in only_line(project.second_training, "another run is using")


def test_second_workflow_in_a_folder_is_refused_while_the_first_lives(project: Project) -> None:
    assert "Directory cannot be locked" in project.second_workflow


def test_killed_workflow_runs_again_without_unlocking(project: Project) -> None:
    assert (project.folder / TARGET).exists()
    assert not list((project.folder / ".snakemake/locks").glob("*"))
    assert "Nothing to be done" in project.snakemake(TARGET).stderr


def test_killed_training_goes_on_after_its_last_finished_step(project: Project) -> None:
    only_line(project.resumed, "rlvr_train: going on after 2 of")
    assert {path: path.read_bytes() for path in project.kept} == project.kept
    steps = artifacts.read(project.folder / ROLLOUTS, "rollouts")["step"].to_pylist()
    assert steps == [0] * 4 + [1] * 4 + [2] * 4


def test_killed_training_draws_what_an_uninterrupted_one_draws(project: Project, tmp_path: Path, smollm2: Path) -> None:
    # From the same cache of evaluations, since rewards rest on timings, and no two timings are equal.
    whole = new_folder(tmp_path / "whole", smollm2)
    done = run(snakemake(whole, ROLLOUTS, "--configfile", project.config), project.cache)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "going on" not in done.stderr
    columns = ["step", "task_id", "rollout", "completion", "token_ids", "advantage"]
    killed, uninterrupted = (artifacts.read(at / ROLLOUTS, "rollouts", columns) for at in (project.folder, whole))
    assert any(killed["advantage"].to_pylist()), "nothing was learnt, so that this test shows nothing"
    assert killed.to_pylist() == uninterrupted.to_pylist()


def test_diverging_adaptation_fails_alone_and_keeps_its_trajectory(project: Project) -> None:
    runs = {"wild": {"objective": "sdpo_prompt", "task": 19, "lr": 1e30, "steps": 2, "rollouts": 2}}
    config = project.config.with_name("wild.yaml")
    config.write_text(json.dumps({"adaptation": {"runs": runs, "only": ["wild"]}}))
    target = "artifacts/adapt/wild/step=2/rollouts.parquet"
    done = run(snakemake(project.folder, target, "--configfile", project.config, config), project.cache)
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert re.search(r"wild step 1: .*not finite.*lower `lr`; step 0 is kept in \S*artifacts/adapt/wild/state/", said)
    (kept,) = (project.folder / "artifacts/adapt/wild/state").glob("*/step=*")
    assert kept.name == "step=0000"
    assert len(artifacts.read(kept / "rollouts.parquet", "adapt_rollouts")) == 2


def test_damaged_state_is_named_and_training_goes_on_from_the_step_before(project: Project, tmp_path: Path) -> None:
    folder = shutil.copytree(project.folder, tmp_path / "run")
    (last,) = (folder / "artifacts/rlvr/state").glob("*/step=0002")
    weights = last / "adapter/adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    (folder / ROLLOUTS).unlink()
    command = snakemake(folder, ROLLOUTS, "--configfile", project.config)
    refused = run(command, project.cache)
    assert refused.returncode == 1
    said = " ".join(refused.stderr.split())
    assert "adapter_model.safetensors is truncated" in said
    assert f"remove {last.relative_to(folder)} and run again, which goes on after the step before it" in said
    shutil.rmtree(last)
    done = run(command, project.cache)
    assert done.returncode == 0, done.stderr[-5000:]
    only_line(done.stderr, "rlvr_train: going on after 2 of")


def test_broken_references_cost_no_other_task_its_rows(project: Project) -> None:
    path = project.folder / "artifacts/evaluations/subset1/seed=42.parquet"
    rows = artifacts.read(path, "evaluations").to_pylist()
    assert [row["task_id"] for row in rows] == [1] * 4 + [2] * 4 + [3] * 4 + [19] * 4
    for row in rows:
        name = {1: "1_Init", 2: "2_Forward", 3: "3_Inputs"}.get(row["task_id"])
        if name:
            where = name.partition("_")[2].lower()
            assert (row["status"], row["reason"]) == ("runtime_error", "reference_failed")
            assert f"the reference of task {row['task_id']} ({name}) fails itself" in row["error"]
            assert f"ValueError: broken in {where}" in row["error"]
        else:
            assert row["reason"] != "reference_failed"
    assert "correct" in {row["status"] for row in rows if row["task_id"] == 19}

    with open(project.folder / TARGET) as file:
        picks = [row for row in csv.DictReader(file) if row["strategy"] == "best-correct" and row["task_id"]]
    assert {row["task_id"]: float(row["speedup"]) > 0 for row in picks} == {
        "1": False,
        "2": False,
        "3": False,
        "19": True,
    }


def test_edited_problem_file_runs_everything_again(project: Project) -> None:
    file = next(project.config.parent.rglob("22_Tanh.py"))
    file.write_text(PROBLEMS["22_Tanh.py"].replace("batch_size = 16", "batch_size = 32"))
    planned = project.snakemake(TARGET, "-n").stdout
    file.write_text(PROBLEMS["22_Tanh.py"])
    assert "rule tasks:" in planned
    assert "rule rlvr_train:" in planned


def test_report_holds_tables_figures_and_captions(project: Project) -> None:
    done = project.snakemake(TARGET, "--report", project.folder / "report.zip")
    assert done.returncode == 0, done.stderr[-3000:]
    with zipfile.ZipFile(project.folder / "report.zip") as report:
        names = {Path(name).name for name in report.namelist()}
        page = report.read("report/report.html").decode()
    assert {"table1.csv", "table2.csv", "table3.csv", "table5.csv", "table8.csv", "figure3.svg", "figure4.svg"} <= names
    for name in {"workflow", *(Path(name).stem for name in names)} - {"report"}:
        assert (ROOT / "report" / f"{name}.rst").read_text()[:40] in page, name


def test_lock_of_another_machine_is_left_to_the_user(tmp_path: Path) -> None:
    target, folder = "artifacts/tasks/level1.parquet", tmp_path / ".snakemake"
    (folder / "locks").mkdir(parents=True)
    (folder / "locks/0.output.lock").write_text(f"{target}\n")
    (folder / "expert-tail.lock").write_text(f"not-{platform.node()}")
    refused = run(snakemake(tmp_path, target), tmp_path)
    assert refused.returncode != 0
    assert "--unlock" in refused.stderr
    assert list((folder / "locks").glob("*"))
