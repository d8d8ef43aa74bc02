"""Headroom: what counts as winnable, what experts are timed, that marks reach the tables, and what leaves training."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from test_aggregate import ONE_42, ONE_43, World

from expert_tail import artifacts
from expert_tail.aggregate import stage as aggregate
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.config import parse_config
from expert_tail.evaluator.cache import cache_folder
from expert_tail.evaluator.ceilings import ceilings_of
from expert_tail.evaluator.hardware import hardware
from expert_tail.evaluator.roofline import Ceilings
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.headroom import stage as headroom_stage
from expert_tail.tasks import TRAIN, load_suite
from expert_tail.tasks.settings import TaskSettings
from expert_tail.tasks.stage import run as write_tasks
from expert_tail.tasks.stage import tasks_of
from expert_tail.tasks.work import work_of
from expert_tail.time_experts import stage
from expert_tail.time_experts.experts import experts_for
from expert_tail.time_experts.floor import Movement, movement_of
from expert_tail.time_experts.folder import digest_of
from expert_tail.time_experts.settings import HeadroomSettings
from expert_tail.time_experts.verdict import NOT_WINNABLE, UNKNOWN, WINNABLE, verdict

ROOT = Path(__file__).parents[1]
LEVEL1 = {task.task_id: task for task in load_suite("level1", "cpu")}
SETTINGS = HeadroomSettings(margin=0.05, slack=0.15)


def blank(**values: Any) -> dict[str, Any]:
    return dict.fromkeys(artifacts.SCHEMAS["headroom"].names) | {"hardware": "an abacus"} | values


# Verdicts


@pytest.mark.parametrize(
    ("lows", "baseline_ms", "ceiling", "floor_ms", "expected"),
    [
        ([1.06], 10.0, 50.0, None, WINNABLE),
        ([0.9, 1.2], 10.0, 50.0, 9.9, WINNABLE),  # one of two experts is enough, whatever else
        ([1.04], 10.0, 50.0, 2.0, UNKNOWN),  # within the margin
        ([1.04], 10.0, 1.05, None, NOT_WINNABLE),  # physics leaves nothing
        ([0.99], 11.4, 50.0, 10.0, NOT_WINNABLE),  # as fast as merely moving the data
        ([0.99], 11.6, 50.0, 10.0, UNKNOWN),
        ([None], 10.0, 50.0, 2.0, UNKNOWN),  # no interval
        ([], None, None, None, UNKNOWN),
    ],
)
def test_verdict(
    lows: list[float | None], baseline_ms: float | None, ceiling: float | None, floor_ms: float | None, expected: str
) -> None:
    assert verdict(lows, baseline_ms, ceiling, floor_ms, SETTINGS) == expected


# Floors


@pytest.mark.parametrize(
    ("read", "written", "result"),
    [
        (4000, 4000, "x.clone()"),
        (4000, 8000, "x.clone()"),  # never more than is read
        (4000, 4, "x.sum()"),
        (4000, 2000, "x[:500].clone(), x[500:].sum()"),
        (0, 4000, "x.sum()"),
    ],
)
def test_a_movement_copies_what_is_written_and_sums_the_rest(read: int, written: int, result: str) -> None:
    source = Movement(read, written, 0).task().reference_source
    assert f"return {result}\n" in source
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    (x,) = namespace["get_inputs"]()
    assert x.nbytes == max(read, 4)
    namespace["Model"]()(x)


def test_movements_by_hand() -> None:
    moved = {i: movement_of(LEVEL1[i], work_of(LEVEL1[i])) for i in (1, 5, 15, 47)}
    assert moved[1] == Movement(2 * 4 * 512**2, 4 * 512**2, 512**3)
    assert moved[5] == Movement(4 * 2048 * 1024, 4 * 2048 * 1024, 0)
    assert moved[15] == Movement(4 * 512**2, 4 * 512**2, pytest.approx(512**3 / 6))
    assert moved[47] == Movement(4 * 8 * 512 * 511, 4 * 8 * 511, 0)
    assert moved[1].arithmetic_ms(Ceilings(((1, 1.0),), 1e9)) == pytest.approx(2e-6 * 512**3)


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_every_task_has_a_movement_without_computing_it(scale: str) -> None:
    for task in load_suite("level1", scale):
        work = work_of(task)
        assert work is not None
        assert movement_of(task, work).written > 0


# Experts


def expert(folder: Path, action: str, task_id: int, text: str) -> None:
    path = folder / action / f"{task_id}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_modules_are_for_gpus(tmp_path: Path) -> None:
    expert(tmp_path, "forward_body", 12, 'def forward(self, A, B):\n    """Rows."""\n    return A[:, None] * B\n')
    expert(tmp_path, "module", 12, "import torch.nn as nn\nclass ModelNew(nn.Module):\n    pass\n")
    expert(tmp_path, "module", 5, "import torch.nn as nn\nclass ModelNew(nn.Module):\n    pass\n")
    tasks = [LEVEL1[12], LEVEL1[5], LEVEL1[4]]
    found = {
        device: [(e.candidate.task.task_id, e.action) for e in experts_for(tasks, tmp_path, device)]
        for device in ("cpu", "cuda")
    }
    assert found["cpu"] == [(12, "forward_body")]
    assert found["cuda"] == [(12, "forward_body"), (12, "module"), (5, "module")]
    (only,) = experts_for(tasks, tmp_path, "cpu")
    assert "return A[:, None] * B" in only.candidate.source
    assert "Rows" not in only.candidate.source
    assert experts_for(tasks, tmp_path / "nothing here", "cpu") == []


def test_experts_of_level_1_are_not_for_another_suites_tasks(tmp_path: Path) -> None:
    expert(tmp_path, "forward_body", 12, "def forward(self, A, B):\n    return A[:, None] * B\n")
    other = replace(LEVEL1[12], name="12_something_else")
    assert [e.candidate.task for e in experts_for([LEVEL1[12], other], tmp_path, "cpu", of_level1=True)] == [LEVEL1[12]]
    assert len(experts_for([LEVEL1[12], other], tmp_path, "cpu")) == 2


def test_digest_follows_contents_only(tmp_path: Path) -> None:
    expert(tmp_path, "forward_body", 5, "return A * s\n")
    before = digest_of(tmp_path)
    os.utime(tmp_path / "forward_body/5.py", (0, 0))
    assert digest_of(tmp_path) == before
    expert(tmp_path, "forward_body", 5, "return s * A\n")
    assert digest_of(tmp_path) != before
    assert digest_of(tmp_path / "nothing here")


def test_no_expert_is_in_what_a_policy_sees() -> None:
    """Policies see the tasks artifact and the package; experts lie outside both."""
    package = ROOT / "src/expert_tail"
    assert not any("tests" in path.read_text() for path in (package / "policy").glob("*.py"))
    assert (ROOT / HeadroomSettings().experts).is_dir()
    assert not (ROOT / HeadroomSettings().experts).is_relative_to(package)


# Stages


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks with a winning expert, one that is the reference, one that is wrong, and without any."""
    folder = tmp_path_factory.mktemp("headroom")
    known = cache_folder() / "ceilings"
    ceilings_of("cpu", max(os.sched_getaffinity(0)), hardware(torch.device("cpu")))
    shutil.copytree(known, folder / "cache" / "ceilings")
    write_tasks(TaskSettings(subsets={"one": [12, 5, 47, 48]}), folder / "tasks.parquet")
    experts = folder / "experts"
    expert(experts, "forward_body", 12, "return A[:, None] * B\n")
    expert(experts, "forward_body", 5, "def forward(self, A, s):\n    return A * s\n")
    expert(experts, "forward_body", 47, "return x\n")
    evaluator = EvaluatorSettings(min_pairs=12, max_pairs=48, protocol="paper")  # more where neighbours disturb it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPERT_TAIL_CACHE", str(folder / "cache"))
        stage.run(SETTINGS, evaluator, folder / "tasks.parquet", experts, "one", folder / "one.parquet")
    return folder


def test_a_row_for_every_expert_and_every_task(measured: Path) -> None:
    rows = {row["task_id"]: row for row in artifacts.read(measured / "one.parquet", "headroom").to_pylist()}
    assert list(rows) == [5, 12, 47, 48]
    won, same, wrong, none = (rows[i] for i in (12, 5, 47, 48))
    assert (won["verdict"], won["expert"], won["status"]) == (WINNABLE, "forward_body", "correct")
    assert 1.05 < won["speedup_low"] <= won["speedup"] < won["ceiling"]
    assert won["floor_ms"] is None
    assert same["status"] == "correct"
    assert same["verdict"] in (NOT_WINNABLE, UNKNOWN)  # as the machine is idle or busy
    assert 0 < same["roofline_ms"] < same["floor_ms"]
    assert (wrong["status"], wrong["verdict"], wrong["ceiling"]) == ("incorrect", UNKNOWN, None)
    assert (none["status"], none["expert"], none["verdict"]) == (None, None, UNKNOWN)
    assert {row["split"] for row in rows.values()} == {"one"}


def test_a_split_without_tasks_has_no_rows(measured: Path, tmp_path: Path) -> None:
    output = tmp_path / "none.parquet"
    stage.run(SETTINGS, EvaluatorSettings(), measured / "tasks.parquet", measured / "experts", "none", output)
    assert artifacts.read(output, "headroom").num_rows == 0


def test_table_and_figure(measured: Path, tmp_path: Path) -> None:
    headroom_stage.run([measured / "one.parquet"], tmp_path)
    table = pl.read_csv(tmp_path / "headroom.csv")
    assert table.columns == headroom_stage.COLUMNS
    assert table["task_id"].to_list() == [5, 12, 47, 48]
    assert (tmp_path / "figure_headroom.png").stat().st_size > 10_000
    before = (tmp_path / "figure_headroom.svg").read_bytes()
    headroom_stage.run([measured / "one.parquet"], tmp_path)
    assert (tmp_path / "figure_headroom.svg").read_bytes() == before


def test_a_task_in_the_wrong_subset_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {1: WINNABLE, 2: UNKNOWN, 3: NOT_WINNABLE}
    rows = [blank(task_id=i, name=f"{i}_name", split="headroom", verdict=v) for i, v in names.items()]
    rows.append(blank(task_id=4, name="4_name", split="train", verdict=UNKNOWN))
    artifacts.write(tmp_path / "headroom.parquet", "headroom", rows)
    headroom_stage.run([tmp_path / "headroom.parquet"], tmp_path)
    warned = capsys.readouterr().err
    assert "task 2 (2_name) is in the subset `headroom`, but is not known to be winnable on an abacus" in warned
    assert "task 3 (3_name) is in the subset `headroom`, but is not winnable on an abacus" in warned
    assert "task 1 " not in warned
    assert "task 4 " not in warned


def test_tables_and_figures_mark_tasks(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("one", 42, ONE_42)
    world.add("one", 43, ONE_43)
    world.train({0: [1]})
    kinds = ("samples", "evaluations", "logprobs", "selections")
    lists = [[world.path(kind, *cell) for cell in world.cells] for kind in kinds]
    marks = [
        blank(task_id=4, verdict=WINNABLE),
        blank(task_id=5, verdict=NOT_WINNABLE),
        blank(task_id=4, verdict=WINNABLE),
    ]
    artifacts.write(tmp_path / "one.parquet", "headroom", marks)
    settings = AggregateSettings(bootstrap=100)
    aggregate.run(settings, world.tasks, *lists, world.rollouts, world.output, [tmp_path / "one.parquet"])
    expected = {4: WINNABLE, 5: NOT_WINNABLE, 12: UNKNOWN}
    for number in (3, 8):
        table = world.table(number).drop_nulls("task_id")
        assert dict(table.select("task_id", "headroom").unique().rows()) == expected
    assert world.table(1)["n_not_winnable"].to_list() == [1] * 5
    assert "3 tasks (1 not winnable), 2 seeds" in (world.output / "figure4.svg").read_text().replace("<!-- ", "")

    aggregate.run(settings, world.tasks, *lists, world.rollouts, world.output)
    assert world.table(3).drop_nulls("task_id")["headroom"].unique().to_list() == [UNKNOWN]


# Configuration


def test_tasks_of_subsets_are_never_trained_on(tmp_path: Path) -> None:
    config = parse_config(yaml.safe_load((ROOT / "config.yaml").read_text()))
    write_tasks(config.tasks, tmp_path / "tasks.parquet")
    trained = {task.task_id for task in tasks_of(tmp_path / "tasks.parquet", TRAIN)}
    held_out = [i for ids in config.tasks.subsets.values() for i in ids]
    assert trained.isdisjoint(held_out)
    assert len(trained) == 100 - len(held_out)
    winnable = config.tasks.subsets["headroom"]
    assert len(winnable) >= 8
    assert all(task.task_id in winnable for task in tasks_of(tmp_path / "tasks.parquet", "headroom"))
    assert all((ROOT / config.headroom.experts / "forward_body" / f"{i}.py").is_file() for i in winnable)


def planned(folder: Path, target: str, *config: str) -> str:
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-n",
        "--cores",
        "2",
        "--snakefile",
        str(ROOT / "Snakefile"),
        target,
        *(["--config", *config] if config else []),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def test_tables_need_the_headroom_of_their_subsets_alone(tmp_path: Path) -> None:
    plan = planned(tmp_path, "results/table3.csv", "headroom={mark: true}")
    assert "artifacts/headroom/subset1.parquet" in plan
    assert "artifacts/headroom/subset2.parquet" not in plan
    assert "artifacts/headroom/" not in planned(tmp_path, "results/table3.csv", "headroom={mark: false}")
