"""Selection strategies by hand and by property; the stage on artifacts, damaged ones included."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from expert_tail import artifacts
from expert_tail.artifacts import ArtifactError
from expert_tail.errors import UserError
from expert_tail.select import stage
from expert_tail.select.settings import SelectSettings
from expert_tail.select.strategies import STRATEGIES, select

Row = dict[str, Any]

# sample, nll, nll_mean, status, speedup, speedup_low
HAND = [
    (0, 1.0, 0.50, "correct", 0.9, 0.8),
    (1, 2.0, 0.10, "correct", 1.2, 0.9),
    (2, 5.0, 0.25, "correct", 0.5, 0.4),
    (3, 9.0, 0.90, "incorrect", 0.0, None),
    (4, 4.0, 0.20, "correct", 3.0, 2.5),
    (5, 3.0, 0.30, "correct", 1.0, None),
]


def table(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    columns = {"sample": pl.Int32, "nll": pl.Float64, "nll_mean": pl.Float64}
    columns |= {"status": pl.String, "speedup": pl.Float64, "speedup_low": pl.Float64}
    return pl.DataFrame(rows, schema=columns, orient="row")


@pytest.mark.parametrize(
    ("strategy", "surprisal", "samples", "fast", "confident", "speedup", "evaluations"),
    [
        ("best-correct", "sum", [4], 1, 1, 3.0, 5),
        ("random-correct", "sum", [0, 1, 2, 4, 5], 2 / 5, 1 / 5, 6.6 / 5, 1),
        ("confidence-guided", "sum", [0], 0, 0, 0.9, 1),
        ("confidence-guided", "mean", [1], 1, 0, 1.2, 1),
        ("surprisal-guided", "sum", [2], 0, 0, 0.5, 1),
        ("surprisal-guided", "mean", [0], 0, 0, 0.9, 1),
        ("surprisal-guided-top3", "sum", [4], 1, 1, 3.0, 3),
        ("surprisal-guided-top3", "mean", [5], 0, 0, 1.0, 3),
    ],
)
def test_strategy_by_hand(
    strategy: str, surprisal: str, samples: list[int], fast: float, confident: float, speedup: float, evaluations: int
) -> None:
    found = select(table(HAND), strategy, surprisal)
    assert found["samples"] == samples
    assert found["fast_1"] == pytest.approx(fast)
    assert found["fast_1_confident"] == pytest.approx(confident)
    assert found["speedup"] == pytest.approx(speedup)
    assert found["evaluations_used"] == evaluations


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_correct_sample_is_a_failure(strategy: str) -> None:
    expected = {"samples": [], "fast_1": 0, "fast_1_confident": 0, "speedup": 0, "evaluations_used": 0}
    assert select(table([HAND[3]]), strategy) == expected


def test_top3_with_fewer_than_three_correct_times_those() -> None:
    found = select(table(HAND[:2]), "surprisal-guided-top3")
    assert (found["samples"], found["evaluations_used"]) == ([1], 2)


def test_duplicates_fill_the_top3() -> None:
    rows = [(i, 5.0, 1.0, "correct", 0.5, 0.4) for i in range(3)] + [(3, 4.0, 1.0, "correct", 9.0, 8.0)]
    assert select(table(rows), "surprisal-guided-top3")["speedup"] == 0.5


@pytest.mark.parametrize("strategy", ["best-correct", "confidence-guided", "surprisal-guided", "surprisal-guided-top3"])
def test_ties_go_to_the_lowest_sample(strategy: str) -> None:
    rows = [(i, 5.0, 1.0, "correct", 2.0, 1.5) for i in (7, 2, 5, 9)]
    assert select(table(rows), strategy)["samples"] == [2]


few = st.sampled_from([0.5, 1.0, 1.5, 2.0])
samples_of_a_task = st.lists(
    st.tuples(few, few, st.sampled_from(["correct", "incorrect"]), few, st.none() | few), min_size=1, max_size=12
).map(lambda rows: [(i, *row) for i, row in enumerate(rows)])


@given(rows=samples_of_a_task, data=st.data(), surprisal=st.sampled_from(["sum", "mean"]))
def test_picks_do_not_depend_on_the_order_of_rows(
    rows: list[tuple[Any, ...]], data: st.DataObject, surprisal: str
) -> None:
    shuffled = data.draw(st.permutations(rows))
    for strategy in STRATEGIES:
        assert select(table(rows), strategy, surprisal) == select(table(shuffled), strategy, surprisal)


@given(rows=samples_of_a_task)
def test_outcomes_are_bounded_by_the_oracle(rows: list[tuple[Any, ...]]) -> None:
    oracle = select(table(rows), "best-correct")
    for strategy in STRATEGIES:
        found = select(table(rows), strategy)
        assert 0 <= found["fast_1"] <= oracle["fast_1"]
        assert found["speedup"] <= oracle["speedup"] + 1e-12
        assert set(found["samples"]) <= {row[0] for row in rows if row[3] == "correct"}
        assert found["evaluations_used"] <= max(oracle["evaluations_used"], 0)


def evaluation(task: int, sample: int, status: str = "correct", speedup: float | None = 2.0, seed: int = 42) -> Row:
    row: Row = dict.fromkeys(artifacts.SCHEMAS["evaluations"].names)
    low = speedup and speedup * 0.9
    keys = {"task_id": task, "seed": seed, "sample": sample, "candidate_sha256": "aa"}
    return row | keys | {"status": status, "speedup": speedup, "speedup_low": low}


def score(task: int, sample: int, nll: float | None = 3.0, seed: int = 42) -> Row:
    keys = {"task_id": task, "seed": seed, "sample": sample}
    return keys | {"scorer": "base", "nll": nll, "nll_mean": nll, "n_tokens": 4}


class Case:
    """Two tasks of three samples, task 5 without a correct one; rows can be changed before the stage runs."""

    def __init__(self, folder: Path) -> None:
        self.evaluations, self.logprobs = folder / "evaluations.parquet", folder / "logprobs.parquet"
        self.tasks, self.output = folder / "tasks.parquet", folder / "selections" / "one" / "seed=42.parquet"
        self.verdicts = [evaluation(4, i, speedup=1.0 + i) for i in range(3)]
        self.verdicts += [evaluation(5, i, "compile_error", 0.0) for i in range(3)]
        self.scores = [score(task, i, nll=3.0 - i) for task in (4, 5) for i in range(3)]

    def run(self, tasks: Sequence[int] = (4, 5), **settings: Any) -> pl.DataFrame:
        blank: Row = dict.fromkeys(artifacts.SCHEMAS["tasks"].names)
        rows = [blank | {"task_id": task, "split": "one" if task in tasks else "train"} for task in {4, 5, *tasks}]
        artifacts.write(self.tasks, "tasks", rows)
        artifacts.write(self.evaluations, "evaluations", self.verdicts)
        artifacts.write(self.logprobs, "logprobs", self.scores)
        self.select(SelectSettings(**settings))
        return pl.DataFrame(artifacts.read(self.output, "selections"))

    def select(self, settings: SelectSettings) -> None:
        stage.run(settings, self.evaluations, self.logprobs, self.tasks, "one", self.output)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_stage_writes_one_sorted_row_per_task_and_strategy(case: Case) -> None:
    found = case.run()
    keys = found.select("task_id", "seed", "strategy").rows()
    assert keys == sorted((task, 42, strategy) for task in (4, 5) for strategy in STRATEGIES)
    pick = found.filter((pl.col("task_id") == 4) & (pl.col("strategy") == "surprisal-guided")).row(0, named=True)
    assert (pick["samples"], pick["speedup"], pick["fast_1"], pick["evaluations_used"]) == ([0], 1.0, 0.0, 1.0)
    assert found.filter(pl.col("task_id") == 5).select(pl.col("fast_1", "speedup").sum()).row(0) == (0.0, 0.0)
    assert "--select.surprisal sum" in artifacts.notes(case.output)["settings"]


def test_stage_output_does_not_depend_on_the_order_of_rows(case: Case) -> None:
    found = case.run()
    case.verdicts.reverse()
    case.scores = case.scores[3:] + case.scores[:3]
    assert_frame_equal(case.run(), found)


def test_stage_keeps_to_the_tasks_of_the_subset_and_to_the_strategies(case: Case) -> None:
    found = case.run(tasks=[4], strategies=["random-correct"])
    assert found.select("task_id", "strategy").rows() == [(4, "random-correct")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.scores.pop(4), r"logprobs\.parquet lacks task 5, seed 42, sample 1 of .*evaluations\.parquet"),
        (lambda c: c.verdicts.pop(0), r"evaluations\.parquet lacks task 4, seed 42, sample 0 of .*logprobs\.parquet"),
        (lambda c: c.scores.append(c.scores[2]), r"logprobs\.parquet has task 4, seed 42, sample 2 twice"),
        (lambda c: c.verdicts.append(c.verdicts[3]), r"evaluations\.parquet has task 5, seed 42, sample 0 twice"),
        (lambda c: c.verdicts[1].update(speedup=None), r"evaluations\.parquet: task 4, .*sample 1 .*usable speedup"),
        (lambda c: c.verdicts[1].update(speedup=float("nan")), r"sample 1 is correct but has no usable speedup"),
        (lambda c: c.scores[0].update(nll=float("nan")), r"logprobs\.parquet: .*sample 0 .*usable nll"),
        (lambda c: c.scores[0].update(nll=float("inf")), r"logprobs\.parquet: .*sample 0 .*usable nll"),
    ],
)
def test_damaged_inputs_name_the_file_and_the_first_bad_key(case: Case, change: Any, message: str) -> None:
    change(case)
    with pytest.raises(ArtifactError, match=message):
        case.run()
    assert not case.output.exists()


def test_a_task_without_samples_is_an_error(case: Case) -> None:
    with pytest.raises(ArtifactError, match=r"evaluations\.parquet has no samples of task 12"):
        case.run(tasks=[4, 12])


def test_truncated_parquet_names_the_file(case: Case) -> None:
    case.run()
    case.logprobs.write_bytes(case.logprobs.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"logprobs\.parquet is not a readable Parquet file"):
        case.select(SelectSettings())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategies": "surprisal-guide"}, "unknown strategy `surprisal-guide`; did you mean `surprisal-guided`"),
        ({"strategies": ["random-correct", "random-correct"]}, "`random-correct` is there twice"),
        ({"strategies": []}, "select.strategies"),
        ({"surprisal": "median"}, "select.surprisal"),
    ],
)
def test_bad_settings_name_the_key(values: Row, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SelectSettings.checked(values, "select")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_picks_among_equal_samples_are_exactly_equal(strategy: str) -> None:
    """The mean of 64 equal floats is often another float, which would count as a difference between strategies."""
    rows = [(i, 1.0, 0.1, "correct", 0.987, 0.9) for i in range(64)]
    assert select(table(rows), strategy)["speedup"] == 0.987
