"""The aggregate stage on synthetic artifacts: values of every table, figures, and inputs that do not fit together."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from expert_tail import artifacts
from expert_tail.aggregate import stage, statistics, tables
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.artifacts import ArtifactError
from expert_tail.errors import UserError
from expert_tail.select import stage as select_stage
from expert_tail.select.settings import SelectSettings
from expert_tail.select.strategies import STRATEGIES

Row = dict[str, Any]
Verdict = tuple[str, float, float, float]  # status, speedup, speedup_low, nll

SETTINGS = AggregateSettings(bootstrap=200)
NAMES = {4: "Matvec", 5: "Scalar", 12: "Diag", 14: "Triu", 15: "Tril", 18: "Transposed"}
FILES = ["figure3.png", "figure3.svg", "figure4.png", "figure4.svg"]
FILES += [f"table{i}.csv" for i in (1, 2, 3, 5, 8)]


def blank(kind: str, **values: Any) -> Row:
    return dict.fromkeys(artifacts.SCHEMAS[kind].names) | values


class World:
    """Artifacts of one project below a folder; `add` writes the four files of a subset and seed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells: list[tuple[str, int]] = []
        self.tasks = folder / "tasks" / "level1.parquet"
        self.rollouts = folder / "rlvr" / "rollouts.parquet"
        self.output = folder / "results"
        self.split: dict[int, str] = {}

    def path(self, kind: str, subset: str, seed: int) -> Path:
        return self.folder / kind / subset / f"seed={seed}.parquet"

    def add(self, subset: str, seed: int, verdicts: dict[int, list[Verdict]]) -> None:
        self.split |= dict.fromkeys(verdicts, subset)
        rows = [blank("tasks", task_id=i, name=NAMES[i], level=1, split=split) for i, split in self.split.items()]
        artifacts.write(self.tasks, "tasks", rows)
        samples, evaluations, logprobs = [], [], []
        for task, of_task in verdicts.items():
            for i, (status, speedup, low, nll) in enumerate(of_task):
                key = {"task_id": task, "seed": seed, "sample": i}
                named = key | {"candidate_sha256": f"{task}:{status}:{speedup}"}
                samples.append(blank("samples", **named, n_tokens=10))
                timing = {"speedup": speedup, "speedup_low": low, "speedup_high": speedup * 1.1, "roofline_ms": 0.5}
                timing |= {"kernel_ms": 6 / speedup, "baseline_ms": 6.0} if speedup else {}
                evaluations.append(blank("evaluations", **named, status=status, evaluator="one", **timing))
                logprobs.append(key | {"scorer": "base", "nll": nll, "nll_mean": nll / 10, "n_tokens": 10})
        for kind, rows in (("samples", samples), ("evaluations", evaluations), ("logprobs", logprobs)):
            artifacts.write(self.path(kind, subset, seed), kind, rows)
        paths = [self.path(kind, subset, seed) for kind in ("evaluations", "logprobs", "selections")]
        select_stage.run(SelectSettings(), *paths[:2], self.tasks, subset, paths[2])
        self.cells.append((subset, seed))

    def train(
        self, correct_by_step: dict[int, list[int]], rollouts: int = 4, checkpoints: tuple[int, ...] = ()
    ) -> None:
        """`correct_by_step[step][task]` of `rollouts` rollouts are correct, the first of them also faster."""
        rows = []
        for step, of_step in correct_by_step.items():
            for task, correct in enumerate(of_step):
                for i in range(rollouts):
                    good, speedup = i < correct, 2.0 if i == 0 else 0.5
                    named = {"step": step, "task_id": task, "rollout": i, "candidate_sha256": f"{task}:{min(i, 1)}"}
                    timing = {"speedup": speedup, "speedup_low": speedup / 1.5} if good else {"speedup": 0.0}
                    outcome = {
                        "status": "correct" if good else "incorrect",
                        "reward": float(good),
                        "entropy": 0.25 * step,
                    }
                    rows.append(blank("rollouts", **named, **timing, **outcome))
        artifacts.write(self.rollouts, "rollouts", rows, settings=json.dumps({"checkpoints": checkpoints}))

    def run(self, settings: AggregateSettings = SETTINGS, output: Path | None = None) -> Path:
        kinds = ("samples", "evaluations", "logprobs", "selections")
        lists = [[self.path(kind, *cell) for cell in self.cells] for kind in kinds]
        output = output or self.output
        stage.run(settings, self.tasks, *lists, self.rollouts, output)
        return output

    def table(self, number: int) -> pl.DataFrame:
        return pl.read_csv(self.output / f"table{number}.csv")


def correct(speedup: float, nll: float, low: float | None = None) -> Verdict:
    return "correct", speedup, speedup * 0.9 if low is None else low, nll


def wrong(status: str = "incorrect") -> Verdict:
    return status, 0.0, 0.0, 1.0


# Task 4: the surprising sample is the fast one. Task 5: nothing is correct. Task 12 (seed 43): faster, not confidently.
ONE_42 = {
    4: [correct(0.5, 1.0), correct(4.0, 9.0), correct(2.0, 2.0), wrong()],
    5: [wrong(), wrong("compile_error"), wrong("timeout"), wrong("rejected")],
    12: [correct(1.0, 5.0), correct(1.0, 5.0), correct(3.0, 4.0), correct(0.8, 3.0)],
}
ONE_43 = {
    4: [correct(2.0, 1.0), correct(2.0, 1.0), correct(2.0, 1.0), correct(2.0, 1.0)],
    5: [wrong(), wrong(), wrong(), wrong("crash")],
    12: [correct(1.05, 5.0, low=0.9), wrong(), wrong(), wrong()],
}
TWO_42 = {18: [correct(1.5, 2.0), wrong()]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two subsets, of two seeds and of one; training of three steps, the first and the last kept."""
    world = World(tmp_path_factory.mktemp("world"))
    world.add("one", 42, ONE_42)
    world.add("one", 43, ONE_43)
    world.add("two", 42, TWO_42)
    world.train({0: [0, 0, 1, 0], 1: [2, 0, 1, 4], 2: [4, 4, 4, 4]}, checkpoints=(1, 3))
    world.run()
    return world


@pytest.fixture
def broken(world: World, tmp_path: Path) -> World:
    """A copy of the artifacts to damage, without results."""
    copy = World(tmp_path)
    shutil.copytree(world.folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("results"))
    copy.cells = list(world.cells)
    return copy


def only(table: pl.DataFrame, **keys: Any) -> Row:
    return table.filter(*(pl.col(key) == value for key, value in keys.items())).row(0, named=True)


def test_exactly_the_named_files_are_written(world: World) -> None:
    assert sorted(path.name for path in world.output.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("number", [1, 2, 3, 5, 8])
def test_every_table_has_both_metrics_and_plain_columns(world: World, number: int) -> None:
    columns = world.table(number).columns
    assert {"fast_1", "fast_1_confident"} <= set(columns)
    assert all(column.isidentifier() and column.islower() for column in columns)


def test_table1_by_hand(world: World) -> None:
    table = world.table(1)
    assert table.select("subset", "strategy").rows() == [(s, name) for s in ("one", "two") for name in STRATEGIES]
    surprisal = only(table, subset="one", strategy="surprisal-guided")
    # Seed 42: task 4 at 4.0, task 12 at 1.0; seed 43: task 4 at 2.0, task 12 at 1.05.
    assert surprisal["fast_1"] == pytest.approx(3 / 6)
    assert surprisal["fast_1_std"] == pytest.approx(np.std([1 / 3, 2 / 3], ddof=1), rel=1e-4)
    assert surprisal["fast_1_confident"] == pytest.approx(2 / 6, rel=1e-4)
    assert surprisal["mean_speedup"] == pytest.approx((4 + 1 + 2 + 1.05) / 6, rel=1e-4)
    assert surprisal["median_speedup"] == pytest.approx((1 + 1.05) / 2)
    assert surprisal["fast_1_low"] == 0 < surprisal["fast_1"] < surprisal["fast_1_high"] == 1
    assert (surprisal["n_tasks"], surprisal["n_seeds"]) == (3, 2)
    random = only(table, subset="one", strategy="random-correct")
    assert random["fast_1"] == pytest.approx((2 / 3 + 1 / 4 + 1 + 1) / 6, rel=1e-4)
    assert only(table, subset="one", strategy="best-correct")["evaluations_used"] == pytest.approx((3 + 4 + 4 + 1) / 6)


def test_one_seed_has_no_std_and_one_task_wilsons_interval(world: World) -> None:
    row = only(world.table(1), subset="two", strategy="surprisal-guided")
    assert (row["fast_1"], row["fast_1_std"], row["mean_speedup_std"]) == (1, None, None)
    expected = binomtest(1, 1).proportion_ci(method="wilson")
    assert (row["fast_1_low"], row["fast_1_high"]) == pytest.approx((expected.low, 1), rel=1e-4)


def test_table2_says_what_a_solved_set_of_tasks_leaves_open() -> None:
    """Half of the samples of each task succeed, so that of all of them one always does: Wilson's interval over five tasks."""
    rows = [
        {"subset": "one", "task_id": task, "seed": seed, "fast_1": i < 3, "fast_1_confident": False, "speedup": 2.0}
        for task in range(5)
        for seed in range(2)
        for i in range(6)
    ]
    table = tables.scaling(pl.DataFrame(rows), SETTINGS)
    assert table["k"].to_list() == [1, 2, 4, 6]  # the last is the whole budget, also where that is no power of two
    solved, expected = only(table, k=6), binomtest(5, 5).proportion_ci(0.95, "wilson")
    assert solved["fast_1"] == 1
    assert (solved["fast_1_low"], solved["fast_1_high"]) == pytest.approx((expected.low, 1))


def test_table2_by_hand(world: World) -> None:
    table = world.table(2)
    assert table.select("subset", "k").rows() == [("one", 1), ("one", 2), ("one", 4), ("two", 1), ("two", 2)]
    successes = np.array([[2, 4], [0, 0], [1, 1]])
    for k in (1, 2, 4):
        row, values = only(table, subset="one", k=k), statistics.pass_at_k(4, successes, k)
        assert row["fast_1"] == pytest.approx(values.mean(), rel=1e-4)
        assert row["fast_1_std"] == pytest.approx(values.mean(axis=0).std(ddof=1), rel=1e-4, abs=1e-12)
        assert row["fast_1_low"] <= row["fast_1"] <= row["fast_1_high"]
        assert all(row[f"fast_1_confident{end}"] <= row[f"fast_1{end}"] for end in ("", "_low", "_high"))
    assert only(table, subset="one", k=4)["fast_1_confident"] == pytest.approx((1 + 1 + 1 + 0) / 6)
    # Best of two of 0.5, 4, 2, 0: 4 in three pairs of six, 2 in two, 0.5 in one.
    task_4, task_12 = (3 * 4 + 2 * 2 + 0.5) / 6, (3 * 3 + 3 * 1) / 6
    assert only(table, subset="one", k=2)["best_speedup"] == pytest.approx(
        (task_4 + task_12 + 2 + 1.05 / 2) / 6, rel=1e-4
    )
    assert only(table, subset="one", k=4)["best_speedup"] == pytest.approx((4 + 3 + 2 + 1.05) / 6, rel=1e-4)


def test_table3_by_hand(world: World) -> None:
    table = world.table(3)
    names = ["Matvec", "Scalar", "Diag", "all"]
    assert table["name"].to_list() == [n for n in names for _ in STRATEGIES] + ["Transposed"] * 5 + ["all"] * 5
    row = only(table, subset="one", task_id=4, strategy="surprisal-guided")
    assert (row["fast_1"], row["speedup"], row["pick_nll"], row["pick_nll_mean"]) == (1, 3.0, 5.0, 0.5)
    assert row["speedup_std"] == pytest.approx(np.std([4, 2], ddof=1), rel=1e-4)
    assert row["speedup_high"] == pytest.approx(3.0 * 1.1, rel=1e-4)
    assert (row["n_samples"], row["n_correct"], row["n_distinct_correct"], row["n_seeds"]) == (8, 7, 3, 2)
    # Top-3 ties with it at 4 and 2; the oracle does not compete.
    won = table.filter((pl.col("task_id") == 4) & (pl.col("won") == 1))["strategy"].to_list()
    assert won == ["surprisal-guided", "surprisal-guided-top3"]
    nothing = table.filter(pl.col("task_id") == 5)
    assert nothing.select("fast_1", "speedup", "won", "n_correct").sum().row(0) == (0, 0, 0, 0)
    assert nothing["pick_nll"].null_count() == len(STRATEGIES)


def test_table3_means_are_table1s(world: World) -> None:
    means = world.table(3).filter(pl.col("name") == "all")
    assert means["task_id"].null_count() == means.height == 10
    for row in means.iter_rows(named=True):
        expected = only(world.table(1), subset=row["subset"], strategy=row["strategy"])
        for column in ("fast_1", "fast_1_std", "fast_1_confident", "fast_1_confident_std", "evaluations_used"):
            assert row[column] == (expected[column] and pytest.approx(expected[column], rel=1e-4)), column
        assert row["speedup"] == pytest.approx(expected["mean_speedup"], rel=1e-4)
    assert means.filter(pl.col("subset") == "one")["n_correct"].to_list() == [12] * 5


def test_table5_by_hand(world: World) -> None:
    table = world.table(5)
    assert table["step"].to_list() == [0, 1, 2]
    assert table["checkpoint"].to_list() == [1, None, 3]
    assert table["correct"].to_list() == [1 / 16, 7 / 16, 1]
    assert table["fast_1"].to_list() == [1 / 16, 3 / 16, 4 / 16]
    assert table["fast_1_confident"].to_list() == [1 / 16, 3 / 16, 4 / 16]
    assert table["mean_reward"].to_list() == table["correct"].to_list()
    assert table["distinct_candidates"].to_list() == [8, 8, 8]
    assert table["entropy"].to_list() == [0, 0.25, 0.5]
    assert table["mean_speedup"].to_list() == pytest.approx(
        [2, (3 * 2 + 4 * 0.5) / 7, (4 * 2 + 12 * 0.5) / 16], rel=1e-4
    )
    last = table.row(2, named=True)
    assert last["correct_low"] == pytest.approx(binomtest(4, 4).proportion_ci(method="wilson").low, rel=1e-4)
    assert last["correct_gain"] == pytest.approx(15 / 16)
    assert 0 < last["correct_gain_low"] < last["correct_gain"] < last["correct_gain_high"] <= 1 + 1e-9
    assert (table["correct_low"] <= table["correct"]).all()
    assert (table["correct_high"] >= table["correct"]).all()


def test_table8_by_hand(world: World) -> None:
    table = world.table(8)
    assert table.select("subset", "task_id", "seed").rows()[:3] == [("one", 4, 42), ("one", 4, 43), ("one", 5, 42)]
    best = only(table, task_id=4, seed=42)
    assert (best["name"], best["k"], best["speedup"], best["kernel_ms"], best["baseline_ms"]) == (
        "Matvec",
        4,
        4,
        1.5,
        6,
    )
    assert (best["speedup_low"], best["speedup_high"]) == (3.6, 4.4)
    assert (best["ceiling"], best["ceiling_share"]) == pytest.approx((12, 4 / 12), rel=1e-4)
    assert (best["correct"], best["incorrect"], best["n_distinct"], best["n_distinct_correct"]) == (3, 1, 4, 3)
    assert (best["correct_rate"], best["sample_fast_1"], best["mean_tokens"]) == (0.75, 0.5, 10)
    nothing = only(table, task_id=5, seed=42)
    assert (nothing["speedup"], nothing["fast_1"], nothing["fast_1_confident"]) == (0, 0, 0)
    assert (nothing["speedup_low"], nothing["kernel_ms"], nothing["ceiling"]) == (None, None, None)
    statuses = ("compile_error", "incorrect", "timeout", "rejected", "correct")
    assert [nothing[status] for status in statuses] == [1, 1, 1, 1, 0]
    unsure = only(table, task_id=12, seed=43)
    assert (unsure["fast_1"], unsure["fast_1_confident"]) == (1, 0)


def test_same_input_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    again = world.run(output=tmp_path / "again")
    for name in FILES:
        assert (again / name).read_bytes() == (world.output / name).read_bytes(), name


def test_intervals_follow_the_seed_and_estimates_do_not(world: World, tmp_path: Path) -> None:
    other = pl.read_csv(world.run(AggregateSettings(bootstrap=200, seed=1), tmp_path) / "table2.csv")
    estimates = [c for c in other.columns if not c.endswith(("_low", "_high"))]
    assert other.select(estimates).equals(world.table(2).select(estimates))
    assert not other.equals(world.table(2))


def test_a_world_without_any_correct_sample(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("one", 42, {4: [wrong(), wrong()], 5: [wrong(), wrong()]})
    world.train({0: [0, 0]})
    world.run()
    assert world.table(1).select("fast_1", "mean_speedup", "evaluations_used").sum().row(0) == (0, 0, 0)
    assert (world.table(2)["fast_1_high"] > 0.5).all()
    assert world.table(5).select("correct", "mean_speedup").row(0) == (0, None)
    assert (world.output / "figure4.png").stat().st_size > 10_000


def test_roofline_of_zero_or_none_leaves_the_ceiling_empty(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("one", 42, {4: [correct(2, 1)], 5: [correct(2, 1)]})
    path = world.path("evaluations", "one", 42)
    table = pl.DataFrame(artifacts.read(path, "evaluations")).with_columns(roofline_ms=pl.Series([0.0, None]))
    artifacts.write(path, "evaluations", table.to_arrow())
    world.train({0: [1]})
    world.run()
    assert world.table(8)["ceiling"].null_count() == 2


def edit(kind: str, seed: int, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[World], None]:
    def apply(world: World) -> None:
        path = world.path(kind, "one", seed)
        artifacts.write(path, kind, change(pl.DataFrame(artifacts.read(path, kind))).to_arrow())

    return apply


def truncate(world: World) -> None:
    path = world.path("evaluations", "one", 43)
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"evaluations/one/seed=43\.parquet is not a readable Parquet file"),
        (lambda w: w.path("logprobs", "one", 42).unlink(), r"logprobs/one/seed=42\.parquet does not exist"),
        (edit("logprobs", 42, lambda t: t[1:]), r"logprobs/one/seed=42\.parquet lacks task 4, seed 42, sample 0"),
        (edit("evaluations", 42, lambda t: pl.concat([t, t[2:3]])), r"evaluations/one/.* task 4, .*sample 2 twice"),
        (
            edit("evaluations", 43, lambda t: t.with_columns(candidate_sha256=pl.lit("other"))),
            r"evaluations/one/seed=43\.parquet: the candidate of task 4, seed 43, sample 0 is not that of",
        ),
        (
            edit("evaluations", 42, lambda t: t.with_columns(status=pl.lit("fine"))),
            r"status fine is not a known status",
        ),
        (edit("samples", 43, lambda t: t.with_columns(seed=pl.lit(7))), r"samples/one/seed=43.* under seed 43"),
        (
            edit("selections", 43, lambda t: t.filter(pl.col("strategy") != "random-correct")),
            r"selections/one/seed=43\.parquet lacks task 4, strategy random-correct",
        ),
        (
            edit("selections", 42, lambda t: t.with_columns(samples=pl.lit([99]).cast(pl.List(pl.Int32)))),
            r"selections/one/seed=42\.parquet picks task 4, seed 42, sample 99",
        ),
        (
            lambda w: artifacts.write(w.tasks, "tasks", [blank("tasks", task_id=4, name="x")]),
            r"level1\.parquet lacks task 5",
        ),
        (lambda w: artifacts.write(w.rollouts, "rollouts", []), r"rollouts\.parquet has no rollouts"),
    ],
)
def test_inputs_that_do_not_fit_name_the_file(broken: World, damage: Callable[[World], None], message: str) -> None:
    damage(broken)
    with pytest.raises(ArtifactError, match=message):
        broken.run()
    assert not broken.output.exists()


def test_a_task_missing_under_one_seed_names_the_file(broken: World) -> None:
    for kind in ("samples", "evaluations", "logprobs", "selections"):
        edit(kind, 43, lambda t: t.filter(pl.col("task_id") != 12))(broken)
    with pytest.raises(ArtifactError, match=r"samples/one/seed=43\.parquet lacks task 12"):
        broken.run()


def test_a_file_missing_from_a_list_is_named(broken: World) -> None:
    paths = [[broken.path(kind, "two", 42)] for kind in ("samples", "evaluations", "logprobs")]
    with pytest.raises(UserError, match="subset two, seed 42 has no file of selections"):
        stage.run(SETTINGS, broken.tasks, *paths, [], broken.rollouts, broken.output)


def test_a_path_without_a_seed_is_refused(broken: World) -> None:
    path = broken.folder / "samples" / "one" / "all.parquet"
    with pytest.raises(UserError, match=r"all\.parquet: expected a file"):
        stage.run(SETTINGS, broken.tasks, [path], [path], [path], [path], broken.rollouts, broken.output)


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(UserError, match=r"aggregate\.bootstrap"):
        AggregateSettings.checked({"bootstrap": 10}, "aggregate")
