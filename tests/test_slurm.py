"""The workflow on a real SLURM of several nodes (tests/slurm/start.sh): spread over them, and hit by what happens there.

Each scenario is a function with a folder of its own; three run at the same time, since most of it is waiting.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
import yaml
from injection import (
    ROOT,
    environment,
    expert_tail,
    fill,
    kill_9,
    new_cache,
    new_folder,
    only_line,
    problem,
    snakemake,
    write_checkout,
    write_samples,
)

from expert_tail import artifacts
from expert_tail.evaluator.evaluator import GROUP

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]
START = ROOT / "tests/slurm/start.sh"
BASE = Path(os.environ.get("SLURM_BASE", "/tmp/expert-tail-slurm"))
EVALUATIONS = "artifacts/evaluations/mine/seed=42.parquet"
FINISH_S = 1200  # a machine may be busy


def cannot(reason: str) -> NoReturn:
    """Skip, or fail where REQUIRE_SLURM is set: there nothing may be left untested."""
    (pytest.fail if os.environ.get("REQUIRE_SLURM") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """SLURM is running; one that was started here is stopped in the end."""
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        cannot("submitting to SLURM needs a plugin: `pip install -r envs/slurm.txt`")
    was_running = any(p.info["name"] == "slurmctld" for p in psutil.process_iter(["name"]))
    started = subprocess.run([START, "start"], capture_output=True, text=True)
    if started.returncode != 0:
        cannot(started.stderr.strip().splitlines()[-1])
    yield
    if not was_running:
        subprocess.run([START, "stop"], check=True)


@dataclass(frozen=True)
class Job:
    number: str
    state: str
    node: str
    comment: str  # rule and wildcards


def jobs(folder: Path) -> list[Job]:
    """All SLURM jobs ever submitted from this folder."""
    listed = subprocess.run(["squeue", "-ah", "-tall", "-o%A|%T|%N|%k|%Z"], capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in listed.stdout.splitlines()]
    return [Job(*row[:4]) for row in rows if row[4] == str(folder)]


class World:
    """A working folder with a log, a cache and a temporary folder of its own, and so a lock on timing of its own."""

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self.folder = folder
        self.cache = cache or new_cache(folder / "artifacts/cache")
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.log = folder / "snakemake.log"

    def start(self, *arguments: object, log: str = "snakemake.log") -> subprocess.Popen[str]:
        command = snakemake(self.folder, *arguments, "--workflow-profile", ROOT / "profiles/slurm")
        command += ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"]
        command += ["--latency-wait", "10"]
        given = environment(self.cache) | {"TMPDIR": str(self.temporary)}
        with open(self.folder / log, "w") as file:
            return subprocess.Popen(
                command, env=given, cwd=self.folder, stdout=file, stderr=file, start_new_session=True
            )

    def finish(self, process: subprocess.Popen[str], status: int = 0, log: str = "snakemake.log") -> str:
        """Wait until it has ended, with this status; what it said."""
        try:
            process.wait(FINISH_S)
        except subprocess.TimeoutExpired:
            kill_9(process)
        said = (self.folder / log).read_text()
        assert process.returncode == status, said[-8000:]
        return said

    def run(self, *arguments: object, status: int = 0) -> str:
        return self.finish(self.start(*arguments), status)

    def entries(self) -> list[Path]:
        return list(self.cache.glob("??/*.json"))

    def wait_until(self, process: subprocess.Popen[str], holds: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + FINISH_S
        while not (found := holds()):
            assert process.poll() is None, self.log.read_text()[-8000:]
            assert time.monotonic() < deadline, self.log.read_text()[-8000:]
            time.sleep(0.05)
        return found

    def rows(self, path: str = EVALUATIONS) -> list[dict[str, Any]]:
        return artifacts.read(self.folder / path, "evaluations").to_pylist()


def slurm_log(said: str) -> str:
    """The SLURM logs that Snakemake names in what it says of failed jobs."""
    found = sorted(set(re.findall(r"/\S+/slurm_logs/\S+/\d+\.log", said.partition("Error in rule")[2])))
    return "".join(Path(path).read_text() for path in found if Path(path).exists())


def lasting(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Evaluations that the cache keeps: all but those where the reference failed, which a busy machine can bring about."""
    return [row for row in rows if row["reason"] != "reference_failed"]


def processes(*words: str) -> list[psutil.Process]:
    """Processes whose command line holds all these words."""
    listed = psutil.process_iter(["cmdline"])
    return [p for p in listed if all(word in " ".join(p.info["cmdline"] or []) for word in words)]


# --- the whole workflow ---------------------------------------------------------------------------------------------

SMOKE = ["--configfile", ROOT / "configs/smoke.yaml", "--set-scatter", "evaluations=3"]
SAMPLES = "artifacts/samples/subset1/seed=42.parquet"
SHARDED = "artifacts/evaluations/subset1/seed=42.parquet"
TRAINED = "artifacts/rlvr/checkpoints/step=2/adapter_model.safetensors"


@dataclass
class Smoke:
    world: World
    killed: str  # the shard whose process was killed with -9
    cancelled: str  # … and whose SLURM job was cancelled
    at: datetime
    finished: int  # evaluations of this stage that were finished then
    copy: Path  # of the folder in the end


def trained(folder: Path, smollm2: Path) -> tuple[World, World]:
    """configs/smoke.yaml up to its samples; and a copy of that, for another fate."""
    world = World(new_folder(folder, smollm2))
    world.run(SAMPLES, "artifacts/headroom/subset1.parquet", *SMOKE)
    shutil.copytree(folder, folder.with_name("copy"))
    copy = folder.with_name("copy")
    return world, World(copy, copy / "artifacts/cache")


def smoke_run(world: World) -> Smoke:
    """… and on to table 3; while its three shards run one is killed and one is cancelled."""
    known = len(world.entries())
    process = world.start("results/table3.csv", *SMOKE)
    logs = world.folder / "artifacts/logs/compile_and_time/subset1/seed=42"

    def waiting() -> list[str]:
        """The shards that wait for the third."""
        return [log.stem for log in logs.glob("*.log") if "waiting for another evaluation" in log.read_text()]

    world.wait_until(process, lambda: len(waiting()) == 2 and len(world.entries()) > known)
    cancelled, killed = waiting()[0], ({f"{n}-of-3" for n in (1, 2, 3)} - set(waiting())).pop()
    victims = [p for p in processes("-m expert_tail", f"--shard {killed}") if p.cwd() == str(world.folder)]
    assert victims
    for victim in victims:
        victim.kill()
    at, finished = datetime.now(UTC), len(world.entries()) - known
    (job,) = [job for job in jobs(world.folder) if cancelled in job.comment and job.state == "RUNNING"]
    subprocess.run(["scancel", job.number], check=True)
    world.finish(process)
    whole = shutil.copytree(world.folder, world.folder.with_name("whole"))
    return Smoke(world, killed, cancelled, at, finished, whole)


def everything(smoke: Smoke) -> tuple[World, str]:
    """… and, in its copy, on to the end; jobs that sample, score or measure ask for a GPU, and a table of partitions is given."""
    world = World(smoke.copy, smoke.copy / "artifacts/cache")
    partitions = world.folder / "partitions.yaml"
    offered = {"max_runtime": "1d", "max_mem_mb": 32000, "max_threads": 4}
    table = {"main": offered | {"max_gpu": 1}, "failing": offered | {"max_mem_mb": 100}}
    partitions.write_text(yaml.safe_dump({"partitions": table}))
    experts, config = world.folder / "experts", world.folder / "few.yaml"  # all of them would take a quarter of an hour
    (experts / "forward_body").mkdir(parents=True)
    for task in (5, 12):
        shutil.copy(ROOT / f"tests/experts/forward_body/{task}.py", experts / "forward_body")
    config.write_text(yaml.safe_dump({"headroom": {"experts": str(experts)}, "null_audit": {"subsets": ["subset1"]}}))
    resources = ["--resources", "gpu=3", "--slurm-partition-config", partitions]
    return world, world.run("all", SMOKE[0], SMOKE[1], config, *SMOKE[2:], *resources)


def test_workflow_runs_to_its_end_though_jobs_were_killed(smoke: Smoke) -> None:
    assert (smoke.world.folder / "results/table3.csv").stat().st_size > 0
    of_shards = [job for job in jobs(smoke.world.folder) if "rule_compile_and_time" in job.comment]
    states = {
        shard: sorted(job.state for job in of_shards if shard in job.comment)
        for shard in (smoke.killed, smoke.cancelled)
    }
    assert states == {smoke.killed: ["COMPLETED", "FAILED"], smoke.cancelled: ["CANCELLED", "COMPLETED"]}
    assert len({job.node for job in of_shards}) >= 3


def test_everything_is_made_and_jobs_ask_for_what_they_need(scenarios: dict[str, Future[Any]]) -> None:
    world, said = scenarios["everything"].result()
    assert (world.folder / "results/report.html").stat().st_size > 0
    assert not re.search("Error in (rule|group)", said)
    assert "Auto-selected partition 'main'" in said
    assert "No suitable partition" not in said
    (probes,) = [job for job in jobs(world.folder) if "probes" in job.comment]  # of two checkpoints
    assert len(list((world.folder / "artifacts/probes").rglob("step=*.parquet"))) == 2
    (adapt,) = [job for job in jobs(world.folder) if "smoke-grpo" in job.comment and "adapt" in job.comment]
    (table,) = [job for job in jobs(world.folder) if "comparison" in job.comment]
    for job, n_gpus in ((probes, 1), (adapt, 1), (table, 0)):
        shown = subprocess.run(
            ["scontrol", "show", "job", job.number], capture_output=True, text=True, check=True
        ).stdout
        assert "Partition=main" in shown
        assert len(re.findall(r"TresPer\w+=gres[:/]gpu:1\b", shown)) == n_gpus, shown


def test_killed_shards_lose_no_finished_evaluation_and_measure_none_twice(smoke: Smoke) -> None:
    rows = smoke.world.rows(SHARDED)
    early = {row["candidate_sha256"] for row in rows if row["measured_at"] < smoke.at}
    assert smoke.finished >= 1
    assert len(early) >= smoke.finished
    measured = {(row["candidate_sha256"], row["measured_at"]) for row in rows}
    assert len(measured) == len({row["candidate_sha256"] for row in rows})
    log = smoke.world.folder / f"artifacts/logs/compile_and_time/subset1/seed=42/{smoke.killed}.log"
    assert " 0 known" not in only_line(log.read_text(), "distinct")


def test_shards_put_together_are_what_one_job_writes(smoke: Smoke, tmp_path: Path) -> None:
    folder, output = smoke.world.folder, tmp_path / "one.parquet"
    command = expert_tail("compile_and_time", "--tasks", folder / "artifacts/tasks/level1.parquet", "--output", output)
    command += ["--samples", str(folder / SAMPLES)]
    command += ["--evaluator.min_pairs=6", "--evaluator.max_pairs=8", "--evaluator.timing_budget_s=0.8"]
    one = subprocess.run(command, env=environment(smoke.world.cache), capture_output=True, text=True)
    assert one.returncode == 0, one.stderr
    rows = smoke.world.rows(SHARDED)
    kept = {(row["task_id"], row["sample"]) for row in lasting(rows)}
    again = artifacts.read(output, "evaluations").to_pylist()
    assert [(row["task_id"], row["sample"]) for row in again] == [(row["task_id"], row["sample"]) for row in rows]
    assert [row for row in again if (row["task_id"], row["sample"]) in kept] == lasting(rows)
    assert kept


def test_truncated_shard_is_named_and_made_again_from_the_cache(smoke: Smoke) -> None:
    shard = smoke.world.folder / "artifacts/evaluations/subset1/seed=42/2-of-3.parquet"
    before = lasting(smoke.world.rows(SHARDED))
    shard.write_bytes(shard.read_bytes()[:-50])
    refused = smoke.world.run(SHARDED, *SMOKE, "--retries", "0", status=1)
    assert "2-of-3.parquet is not a readable Parquet file" in refused
    assert "remove it and run again" in refused
    shard.unlink()
    smoke.world.run(SHARDED, *SMOKE)
    rows = smoke.world.rows(SHARDED)
    assert len(rows) == 40
    assert all(row in rows for row in before)


# --- faults of a cluster --------------------------------------------------------------------------------------------

SUITE = {"19_ReLU.py": problem("torch.relu(x)"), "22_Tanh.py": problem("torch.tanh(x)")}
FAST = [f"return torch.relu(x) + {number} - {number}" for number in range(12)]
ASLEEP = [f"import time\ntime.sleep({1000 + number})\nreturn x" for number in range(3)]
HUNGRY = """import time
held = torch.ones(750_000_000)
if not hasattr(self, "rested"):
    self.rested = True
    time.sleep(5)
return torch.relu(x)"""
TIMEOUT_S = 25
ONLY = ["--allowed-rules", "compile_and_time", "--set-scatter", "evaluations=1"]
SUBSETS = yaml.safe_load((ROOT / "config.yaml").read_text())["tasks"]["subsets"]


def sampled(folder: Path, bodies: list[str]) -> World:
    """A folder in which all is ready to evaluate these completions of one task."""
    suite = write_checkout(folder / "KernelBench-main", SUITE)
    tasks, samples = (
        folder / "artifacts/tasks/KernelBench-main.parquet",
        folder / "artifacts/samples/mine/seed=42.parquet",
    )
    write_samples(suite, tasks, samples, {19: bodies})
    config = {
        "tasks": {"source": str(suite), "subsets": {name: [] for name in SUBSETS} | {"mine": [19]}},
        "sampling": {"subsets": ["mine"], "seeds": [42]},
        "adaptation": {"only": []},
        "probes": {"runs": []},
        "evaluator": {"min_pairs": 6, "max_pairs": 6, "timeout_s": TIMEOUT_S},
        "comparison": {"subsets": [], "groups": {}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return World(folder)


def evaluate(world: World, *arguments: object, log: str = "snakemake.log") -> subprocess.Popen[str]:
    return world.start(EVALUATIONS, *ONLY, "--configfile", world.folder / "config.yaml", *arguments, log=log)


def over_time(folder: Path) -> tuple[World, str]:
    """Candidates that sleep, until the job has run for longer than its TimeLimit of one minute.

    Those before them fill a group: within one, sleepers may come first, and take the whole minute.
    """
    world = sampled(folder, FAST[: GROUP["cpu"]] + ASLEEP)
    said = world.finish(evaluate(world, "--set-resources", "compile_and_time:runtime=1*attempt**3"))
    return world, said


def over_memory(folder: Path) -> tuple[World, str]:
    """A candidate takes 3 GB of the job's 4, after a group of others. SLURM without cgroups kills it, and calls that a failure."""
    world = sampled(folder, [*FAST[: GROUP["cpu"]], HUNGRY])
    said = world.finish(evaluate(world, "--set-resources", "compile_and_time:mem_mb=4000*attempt**2"))
    return world, said


def node_lost(folder: Path) -> tuple[World, str, int, str]:
    """Its node is gone, with all that ran there, after some candidates were measured."""
    world = sampled(folder, FAST)
    process = evaluate(world, "--default-resources", "slurm_partition='failing'", "mem_mb=2000", "runtime=30")
    world.wait_until(process, lambda: len(world.entries()) >= 2)
    (job,) = [job for job in jobs(world.folder) if job.state == "RUNNING"]
    daemon = psutil.Process(int((BASE / f"{job.node}.pid").read_text()))
    steps = processes("slurmstepd:", f"[{job.number}.")
    victims = [daemon, *steps, *(child for step in steps for child in step.children(recursive=True))]
    for send in (psutil.Process.suspend, psutil.Process.kill):  # all at once: none is to tell of another's end
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                send(victim)
    finished = len(world.entries())
    try:
        return world, world.finish(process), finished, job.node
    finally:
        subprocess.run([START, "node", job.node], check=True)


def disk_full(folder: Path) -> tuple[World, str, int]:
    """The artifacts' file system is full, after some candidates were measured; then there is room again."""
    (folder / "artifacts").mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder / "artifacts"], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        cannot(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        world = sampled(folder, FAST)
        process = evaluate(world, "--retries", "0")
        world.wait_until(process, lambda: len(world.entries()) >= 2)
        filler = fill(folder / "artifacts")
        said = world.finish(process, status=1)
        finished = len(world.entries())
        filler.unlink()
        world.finish(evaluate(world))
        shutil.copytree(folder / "artifacts", folder / "kept")
        return world, said, finished
    finally:
        subprocess.run(["umount", "--lazy", folder / "artifacts"], check=True)
        if (folder / "kept").exists():
            shutil.copytree(folder / "kept", folder / "artifacts", dirs_exist_ok=True)


def snakemake_killed(folder: Path) -> tuple[World, str, str]:
    """A second run beside the first; then the first Snakemake is killed, but not its job; then it is started again."""
    world = sampled(folder, FAST[:3] + ASLEEP)
    process = evaluate(world)
    world.wait_until(process, lambda: len(world.entries()) >= 1)
    second = world.finish(evaluate(world, log="second.log"), status=1, log="second.log")
    kill_9(process)
    return world, second, world.finish(evaluate(world))


def half_adapter(world: World) -> tuple[World, str, bytes, bytes]:
    """The last checkpoint is half there; then its folder is removed, as the message says. Weights before, and then."""
    adapter = world.folder / TRAINED
    before = adapter.read_bytes()
    adapter.write_bytes(before[: len(before) // 2])
    said = world.finish(world.start(SAMPLES, *SMOKE, "--retries", "0"), status=1)
    shutil.rmtree(adapter.parent)
    world.run(TRAINED, *SMOKE)
    return world, said, before, adapter.read_bytes()


@pytest.fixture(scope="module")
def scenarios(slurm: None, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Any]]]:
    """Name -> the scenario, done or under way."""
    base = tmp_path_factory.mktemp("slurm")
    with ThreadPoolExecutor(3) as pool:
        made: dict[str, Future[Any]] = {"over_time": pool.submit(over_time, base / "over_time")}
        half = pool.submit(trained, base / "smoke", smollm2)
        made["node_lost"] = pool.submit(node_lost, base / "node_lost")
        made["smoke_run"] = pool.submit(lambda: smoke_run(half.result()[0]))
        made["everything"] = pool.submit(lambda: everything(made["smoke_run"].result()))
        made["half_adapter"] = pool.submit(lambda: half_adapter(half.result()[1]))
        for scenario in (over_memory, disk_full, snakemake_killed):
            made[scenario.__name__] = pool.submit(scenario, base / scenario.__name__)
        yield made


@pytest.fixture
def smoke(scenarios: dict[str, Future[Any]]) -> Smoke:
    return scenarios["smoke_run"].result()


def states(world: World) -> list[str]:
    return sorted(job.state for job in jobs(world.folder))


def known(world: World) -> int:
    """Candidates that the last job found in the cache."""
    line = only_line((world.folder / "artifacts/logs/compile_and_time/mine/seed=42.log").read_text(), "distinct")
    return int(line.split(" known")[0].split()[-1])


def test_job_over_its_time_goes_on_with_more(scenarios: dict[str, Future[Any]]) -> None:
    world, said = scenarios["over_time"].result()
    assert "SLURM status is: 'TIMEOUT'" in said
    assert states(world) == ["COMPLETED", "TIMEOUT"]
    assert [row["status"] for row in world.rows()] == ["correct"] * GROUP["cpu"] + ["timeout"] * 3
    assert known(world) >= GROUP["cpu"]


def test_job_over_its_memory_gets_more(scenarios: dict[str, Future[Any]]) -> None:
    world, said = scenarios["over_memory"].result()
    assert states(world) == ["COMPLETED", "FAILED"]
    assert "Exceeded job memory limit" in slurm_log(said)
    assert [row["status"] for row in world.rows()][:-1] == ["correct"] * GROUP["cpu"]
    assert len(world.rows()) == GROUP["cpu"] + 1  # the last with a verdict of its own, by a candidate's limits
    assert known(world) == GROUP["cpu"]


def test_lost_node_costs_no_finished_evaluation(scenarios: dict[str, Future[Any]]) -> None:
    world, said, finished, node = scenarios["node_lost"].result()
    assert "failed due to a node failure" in said
    assert states(world) == ["COMPLETED", "NODE_FAIL"]
    (last,) = [job for job in jobs(world.folder) if job.state == "COMPLETED"]
    assert last.node != node
    assert known(world) == finished >= 2
    assert len(world.rows()) == len(FAST)


def test_full_disk_is_named_and_costs_no_finished_evaluation(scenarios: dict[str, Future[Any]]) -> None:
    world, said, finished = scenarios["disk_full"].result()
    assert "No space left on device; free space" in slurm_log(said)  # the rule's own log has no room for it
    assert known(world) == finished >= 2
    assert [row["status"] for row in world.rows()] == ["correct"] * len(FAST)


def test_second_run_is_refused_and_a_job_without_its_snakemake_is_waited_for(scenarios: dict[str, Future[Any]]) -> None:
    world, second, _ = scenarios["snakemake_killed"].result()
    assert "cannot be locked" in second
    assert states(world) == ["COMPLETED", "COMPLETED"]
    assert [row["status"] for row in world.rows()] == ["correct"] * 3 + ["timeout"] * 3
    assert known(world) == 6  # the job that was left measured them all, the new one none


def test_half_written_adapter_is_named_and_comes_back_without_training(scenarios: dict[str, Future[Any]]) -> None:
    world, said, before, after = scenarios["half_adapter"].result()
    assert "adapter_model.safetensors" in said
    assert "remove the folder and run again what made it" in said
    assert after == before
    assert "going on after 2 of" in (world.folder / "artifacts/logs/rlvr_train.log").read_text()
