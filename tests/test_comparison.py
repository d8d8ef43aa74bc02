"""The comparison of sampling, selection and adaptation: against hand calculation and SciPy, and whatever may be missing."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from adaptation_artifacts import write_probe, write_run
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, spearmanr, wilcoxon
from test_aggregate import NAMES, World, blank, correct, edit, wrong

from expert_tail import artifacts
from expert_tail.adapt.settings import AdaptationSettings
from expert_tail.adaptation_tables.correlation import Samples, association, resolved
from expert_tail.aggregate import statistics
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.cli import main
from expert_tail.comparison import accounts
from expert_tail.comparison.equivalent_k import FLAT, ON_CURVE, equivalent_interval, equivalent_k
from expert_tail.comparison.paired import cohens_h, compare, head_to_head, sign_test, signed_rank_test
from expert_tail.comparison.rates import Arm, difference, interval
from expert_tail.comparison.settings import ComparisonSettings
from expert_tail.comparison.surprisal import logprob_spread, quartile_shares
from expert_tail.errors import UserError

Row = dict[str, Any]
SETTINGS = AggregateSettings(bootstrap=200)
TABLES = [f"table{n}.csv" for n in (4, 6, 7, 9, 10, 11, 12)]
FILES = sorted(
    [
        *TABLES,
        "adaptation_by_task.csv",
        "statistics.json",
        *(f"figure{n}.{end}" for n in (1, 2, 5, 6, 7) for end in ("png", "svg")),
    ]
)

# Eight samples of each task and seed. Task 4: the surprising are fast. Task 5: nothing is correct. Task 12: lucky ones only.
ONE = {
    42: {
        4: [
            correct(2.0, 9.0),
            correct(2.0, 9.0),
            correct(1.5, 8.0),
            *[correct(0.5, 1.0 + i) for i in range(4)],
            wrong(),
        ],
        5: [wrong()] * 8,
        12: [correct(1.1, 5.0 + i, low=0.9) for i in range(4)] + [correct(0.9, 1.0 + i) for i in range(4)],
    },
    43: {
        4: [correct(2.0, 9.0), correct(0.5, 1.0), *[wrong()] * 6],
        5: [wrong()] * 8,
        12: [correct(0.9, 5.0)] * 8,
    },
}
TWO = {seed: {18: [correct(1.5, 2.0)] * 4 + [wrong()] * 4} for seed in (42, 43)}
RUNS: dict[str, Any] = {
    "batch-42": dict(subset="one", seed=42, steps=2, rollouts=4, validation="fresh", fresh_rollouts=4),
    "batch-43": dict(subset="one", seed=43, steps=2, rollouts=4, validation="fresh", fresh_rollouts=4),
    "hints-42": dict(subset="one", objective="sdpo_feedback", steps=1, rollouts=4),
    "alone-12": dict(task=12, steps=2, rollouts=4),
    "moved": dict(subset="two", steps=0, rollouts=4, start={"run": "batch-42", "step": "boa"}),
}
# (fast, lucky) of four rollouts, by task and step.
RATES: dict[str, dict[int, list[tuple[int, int]]]] = {
    "batch-42": {4: [(0, 0), (2, 1), (4, 0)], 5: [(0, 0), (0, 0), (0, 0)], 12: [(0, 1), (2, 2), (0, 0)]},
    "batch-43": {4: [(1, 0), (0, 0), (0, 0)], 5: [(0, 0), (0, 0), (0, 0)], 12: [(0, 0), (0, 0), (0, 0)]},
    "hints-42": {4: [(1, 0), (1, 0)], 5: [(0, 0), (0, 0)], 12: [(0, 0), (0, 0)]},
    "alone-12": {12: [(0, 1), (0, 3), (1, 2)]},
    "moved": {18: [(1, 0)]},
}


class Compared(World):
    """A project with adaptation runs and probes; `compare` is the command line."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.adaptation = AdaptationSettings()
        self.probes: list[Path] = []

    def adapt(self, runs: dict[str, Any]) -> None:
        self.adaptation = AdaptationSettings(runs=runs)
        for name, run in self.adaptation.runs.items():
            write_run(self.folder / "adapt" / name, run, RATES[name])

    def probe(self, run: str, steps: int) -> None:
        rows = artifacts.read(self.path("logprobs", "one", 42), "logprobs").to_pylist()
        for step in range(steps + 1):
            self.probes.append(self.folder / "probes" / run / f"step={step}.parquet")
            write_probe(self.probes[-1], rows, step)

    def compare(self, groups: dict[str, list[str]] | None = None, *more: str) -> int:
        arguments = ["comparison", f"--tasks={self.tasks}", f"--rollouts={self.rollouts}", "--headroom"]
        for kind in ("samples", "evaluations", "logprobs", "selections"):
            arguments += [f"--{kind}", *(str(self.path(kind, *cell)) for cell in self.cells)]
        probed = [str(self.path("evaluations", "one", 42))] if self.probes else []
        arguments += [
            "--probes",
            *map(str, self.probes),
            "--probed",
            *probed,
            f"--runs={self.folder / 'adapt'}",
            f"--output={self.output}",
        ]
        arguments += shlex.split(SETTINGS.flags("aggregate")) + shlex.split(self.adaptation.flags("adaptation"))
        return main([*arguments, *shlex.split(ComparisonSettings(groups=groups or {}).flags("comparison")), *more])

    def rows(self, number: int, **keys: Any) -> list[Row]:
        table = pl.read_csv(self.output / f"table{number}.csv", infer_schema_length=None)
        return table.filter(*(pl.col(key).eq_missing(value) for key, value in keys.items())).to_dicts()

    def one(self, number: int, **keys: Any) -> Row:
        (row,) = self.rows(number, **keys)
        return row

    @property
    def statistics(self) -> Row:
        return json.loads((self.output / "statistics.json").read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    world = Compared(tmp_path_factory.mktemp("compared"))
    for seed in (42, 43):
        world.add("one", seed, ONE[seed])
        world.add("two", seed, TWO[seed])
    world.train({0: [0, 1], 1: [2, 4]})
    world.adapt(RUNS)
    world.probe("batch-42", 2)
    assert world.compare({"both": ["one", "two"], "missing": ["one", "three"]}) == 0
    return world


def test_exactly_the_named_files_are_written(world: Compared) -> None:
    assert sorted(path.name for path in world.output.iterdir()) == FILES


def test_sets_are_subsets_then_groups_of_sampled_ones(world: Compared) -> None:
    assert list(world.statistics["sets"]) == ["one", "two", "both"]
    pooled = world.statistics["sets"]["both"]
    assert (pooled["tasks"], pooled["samples"]) == ([4, 5, 12, 18], 64)


@pytest.mark.parametrize("number", [4, 7, 9, 10, 11, 12])
def test_success_comes_in_both_metrics(world: Compared, number: int) -> None:
    columns = set(world.rows(number)[0])
    assert any("fast_1_confident" in column for column in columns)
    for column in columns:
        if "fast_1" in column and "confident" not in column:
            assert column.replace("fast_1", "fast_1_confident") in columns


# --- equivalent K --------------------------------------------------------------------------------------------------


def test_equivalent_k_by_hand() -> None:
    ks, curve = [1, 2, 4, 8], [0.2, 0.4, 0.8, 0.8]
    assert equivalent_k(0.2, ks, curve) == (1, ON_CURVE)
    assert equivalent_k(0.6, ks, curve) == (pytest.approx(2**1.5), ON_CURVE)
    assert equivalent_k(0.8, ks, curve) == (4, ON_CURVE)  # the least that reaches it
    assert equivalent_k(0.19, ks, curve) == (None, "below K = 1")
    assert equivalent_k(0.81, ks, curve) == (None, "above K = 8")
    assert equivalent_k(0.0, ks, [0.0] * 4) == (None, FLAT)
    assert equivalent_k(0.1, ks, [0.0] * 4) == (None, "above K = 8")
    assert equivalent_interval(0.6, 0.8, ks, curve) == [pytest.approx(2**1.5), 4]
    assert equivalent_interval(0.0, 1.0, ks, curve) == [1, 4]  # the curve ends before either
    assert equivalent_interval(0.0, 1.0, ks, [0.0] * 4) == [None, None]
    assert equivalent_interval(0.0, 0.1, ks, curve) == [None, None]
    assert equivalent_interval(0.9, 1.0, ks, curve) == [None, None]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=7), st.floats(0, 1))
def test_equivalent_k_inverts_the_curve(values: list[float], value: float) -> None:
    ks, curve = [2**i for i in range(len(values))], sorted(values)
    found = equivalent_k(value, ks, curve)
    if found.k is not None:
        assert np.interp(np.log2(found.k), np.log2(ks), curve) == pytest.approx(value, abs=1e-6)


def test_table4_curve_is_table2s(world: Compared, tmp_path: Path) -> None:
    world.run(SETTINGS, tmp_path)
    expected = pl.read_csv(tmp_path / "table2.csv").filter(pl.col("subset") == "one")
    found = world.rows(4, subset="one", method="best-of-n")
    for column in ("k", "fast_1", "fast_1_low", "fast_1_high", "fast_1_confident", "fast_1_std"):
        assert [row[column] for row in found] == expected[column].to_list()
    assert [row["rollouts"] for row in found] == [3, 6, 12, 24]
    assert [row["equivalent_k"] for row in found] == [1, 2, 4, 8]


# --- adaptation ----------------------------------------------------------------------------------------------------


def test_table4_adaptation_by_hand(world: Compared) -> None:
    """batch-42 has rates 1/12, 7/12, 4/12; within the budget of 8 rollouts it may make steps 0 and 1."""
    keys = dict(subset="one", run="batch-42", chosen_by="in_batch", reported_on="in_batch")
    best = world.one(4, method="best-of-adaptation", **keys)
    assert (best["step"], best["fast_1"], best["fast_1_confident"]) == (
        1,
        pytest.approx(7 / 12, rel=1e-4),
        pytest.approx(4 / 12, rel=1e-4),
    )
    assert (best["rollouts"], best["tokens"]) == (36, 110 * 36)  # every step is made before the best is known
    within = world.one(4, method="best-of-adaptation-at-budget", **keys)
    assert (within["step"], within["rollouts"]) == (1, 24)
    stopped = world.one(4, method="early-stopping", **keys)
    assert (stopped["step"], stopped["rollouts"]) == (1, 36)
    fresh = world.one(4, method="best-of-adaptation", **keys | {"reported_on": "fresh"})
    # Halved and rounded down: task 4 (1, 0) and task 12 (1, 1) of four each.
    assert (fresh["step"], fresh["fast_1"], fresh["rollouts"]) == (1, 0.25, 36)
    by_fresh = world.one(4, method="best-of-adaptation", **keys | {"chosen_by": "fresh"})
    assert (by_fresh["rollouts"], by_fresh["fast_1"]) == (72, best["fast_1"])  # what chooses is paid for
    assert world.one(4, method="start", **keys | {"chosen_by": None})["fast_1"] == pytest.approx(1 / 12, rel=1e-4)


def test_halves_choose_and_report_by_turns(world: Compared) -> None:
    """Of four fresh rollouts, batch-42 has a fast first one on tasks 4 and 12 at step 1, and a lucky third one on 12; at
    step 2 the first and the third on task 4. Even ones choose step 1, of which odd ones have none. To odd ones all steps are
    alike, so they choose step 0, of which even ones have none."""
    for step, expected in ((1, [(4, 0), (12, 0), (12, 2)]), (2, [(4, 0), (4, 2)])):
        path = world.folder / f"adapt/batch-42/step={step}/fresh_evaluations.parquet"
        above = pl.DataFrame(artifacts.read(path, "adapt_evaluations")).filter(pl.col("speedup") > 1)
        assert above.select("task_id", "sample").rows() == expected
    row = world.one(4, run="batch-42", reported_on="other_half")
    assert (row["fast_1"], row["step"], row["rollouts"]) == (0, None, 72)
    assert (row["n_seeds"], row["fast_1_std"], row["fast_1_confident_std"]) == (1, None, None)  # halves are no seeds


def test_mean_over_seeds_is_of_runs_that_differ_in_their_seed_only(world: Compared) -> None:
    keys = dict(method="best-of-adaptation", chosen_by="in_batch", reported_on="in_batch")
    row = world.one(4, run="batch-42 batch-43", **keys)
    assert row["fast_1"] == pytest.approx((7 / 12 + 1 / 12) / 2, rel=1e-4)
    assert row["fast_1_std"] == pytest.approx(np.std([7 / 12, 1 / 12], ddof=1), rel=1e-4)
    assert (row["step"], row["n_seeds"], row["rollouts"]) == (None, 2, 36)  # the seeds chose different steps
    assert row["fast_1_low"] <= row["fast_1"] <= row["fast_1_high"]
    assert {r["run"] for r in world.rows(4, subset="one") if r["run"]} == {
        "batch-42",
        "batch-43",
        "batch-42 batch-43",
        "hints-42",
    }


def test_a_teachers_tokens_count_up_to_the_last_update(world: Compared) -> None:
    row = world.one(4, run="hints-42", method="last-step")
    assert row["tokens"] == 2 * 12 * 110 + 12 * 130


def test_table9_is_the_trajectory_of_single_tasks(world: Compared) -> None:
    rows = world.rows(9)
    assert [(row["run"], row["task_id"], row["step"], row["fast_1"]) for row in rows] == [
        ("alone-12", 12, 0, 0.25),
        ("alone-12", 12, 1, 0.75),
        ("alone-12", 12, 2, 0.75),
    ]
    assert [row["is_boa"] for row in rows] == [0, 1, 0]  # the earliest in a tie
    assert [row["is_boa_confident"] for row in rows] == [0, 0, 1]
    assert {(row["subset"], row["base_fast_1"], row["base_fast_1_confident"]) for row in rows} == {("one", 0.25, 0)}


def test_trajectory_by_task_is_that_of_the_run(world: Compared) -> None:
    table = pl.read_csv(world.output / "adaptation_by_task.csv").filter(run="batch-42")
    assert table.filter(task_id=4)["fast_1"].to_list() == [0, 0.75, 1]
    assert table.filter(task_id=4)["is_boa"].to_list() == [0, 1, 0]
    expected = binomtest(3, 4).proportion_ci(0.95, "wilson")
    assert table.filter(task_id=4)["fast_1_low"][1] == pytest.approx(expected.low, rel=1e-4)


def test_subsets_of_different_seeds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = Compared(tmp_path)
    world.add("one", 42, {4: [wrong()] * 2})
    world.add("two", 43, {18: [wrong()] * 2})
    world.train({0: [0]})
    assert world.compare() == 1
    assert "subset two has seeds [43]" in capsys.readouterr().err


def test_table10_by_hand(world: Compared) -> None:
    base = world.one(10, subset="one", reported_on="samples")
    # Of 48 samples: task 4 has 3 and 1, task 12 has 4 and 0.
    assert (base["fast_1"], base["rollouts"]) == (pytest.approx(8 / 48, rel=1e-4), 24)
    rows = world.rows(10, subset="one", run="batch-42 batch-43", reported_on="in_batch")
    assert [(row["step"], row["rollouts"]) for row in rows] == [(0, 12), (1, 24)]
    assert rows[1]["fast_1"] == pytest.approx(7 / 24, rel=1e-4)
    assert rows[1]["fast_1_delta"] == pytest.approx(7 / 24 - 8 / 48, rel=1e-4)
    assert rows[1]["fast_1_delta_low"] <= rows[1]["fast_1_delta"] <= rows[1]["fast_1_delta_high"]


def test_table11_claims_a_winner_only_beyond_the_interval(world: Compared) -> None:
    rows = {row["task_id"]: row for row in world.rows(11, run="hints-42")}
    assert (rows[4]["base_fast_1"], rows[4]["adapted_fast_1"], rows[4]["higher"], rows[4]["winner"]) == (
        0.25,
        0.25,
        "equal",
        None,
    )
    for row in world.rows(11):
        is_clear = row["fast_1_delta_low"] > 0 or row["fast_1_delta_high"] < 0
        assert (row["winner"] is not None) == is_clear
    # Newcombe's interval by hand, of 4 in 16, and of two policies that succeed in 3 and 1 of 4: worth 0.25 / (0.125 / 2) trials.
    row = world.one(11, task_id=4, run="batch-42 batch-43", reported_on="in_batch")
    assert (row["base_n"], row["adapted_n"], row["fast_1_delta"]) == (16, 8, pytest.approx(4 / 8 - 4 / 16))
    ends = [binomtest(c, n).proportion_ci(0.95, "wilson") for c, n in ((4, 16), (2, 4))]
    low = 0.25 - np.hypot(0.5 - ends[1].low, ends[0].high - 0.25)
    assert row["fast_1_delta_low"] == pytest.approx(low, rel=1e-4)


@pytest.mark.parametrize(
    ("successes", "worth"), [([0, 0, 0], 96), ([8, 8, 8], 96), ([0, 32, 32], 3), ([8, 16, 24], (0.25 * 3 / 0.0625))]
)
def test_policies_of_several_seeds_are_worth_what_they_agree_on(successes: list[int], worth: float) -> None:
    counts = np.array(successes)[None, :, None].repeat(2, axis=2)
    arm = Arm((4,), np.full((1, 3), 32), counts, is_crossed=True)
    expected = statistics.wilson_interval(sum(successes) / 96 * worth, worth)
    assert interval(arm, AggregateSettings())[0] == pytest.approx([float(end) for end in expected])


def test_table12_coverage_and_variance(world: Compared) -> None:
    row = world.one(12, subset="one", task_id=4, run="batch-42 batch-43", reported_on="in_batch")
    assert (row["base_fast_1"], row["is_covered"], row["name"]) == (0.25, 0, "Matvec")
    assert row["fast_1_delta"] == pytest.approx((3 / 4 + 1 / 4) / 2 - 0.25)
    nothing = world.one(12, task_id=5, run="batch-42 batch-43", reported_on="in_batch")
    assert (nothing["logprob_std"], nothing["logprob_std_correct"], nothing["variance_regime"]) == (0, None, "low")
    assert [r["task_id"] for r in world.rows(12, subset="both")] == [None]  # a group's tasks are in its subsets' rows
    assert all(r["run"] is None and r["fast_1_delta"] is None for r in world.rows(12, subset="both"))


def test_transfers_are_compared_with_the_policy_before(world: Compared) -> None:
    (row,) = world.statistics["transfers"]
    # What its checkpoint cost is not among its rollouts, so it is in no table of the same budget.
    assert not any("moved" in str(row["run"]) for n in (4, 10, 11, 12) for row in world.rows(n))
    assert (row["run"], row["from"], row["from_step"], row["fast_1"], row["fast_1_base"]) == (
        "moved",
        "batch-42",
        "boa",
        0.25,
        0.5,
    )
    assert row["fast_1_delta"] == -0.25
    assert row["fast_1_delta_low"] < -0.25 < row["fast_1_delta_high"]
    assert row["fast_1_low"] < 0.25 < row["fast_1_high"]


def test_compute_is_accounted_for(world: Compared) -> None:
    of = {row["run"]: row for row in world.statistics["compute_of_adaptation"]}
    batch = of["batch-42"]
    assert (batch["rollouts"], batch["fresh_rollouts"]) == (36, 36)
    assert (batch["student_tokens"], batch["fresh_tokens"], batch["total_tokens"]) == (3960, 3960, 7920)
    assert (batch["computed_tokens"], batch["seconds"], batch["candidates_measured"]) == (720, 9, 6)
    assert of["hints-42"]["teacher_tokens"] == 12 * 130
    sampled = world.statistics["sets"]["one"]["compute"]
    assert (sampled["rollouts"], sampled["student_tokens"], sampled["seconds"]) == (24, None, None)
    assert "policy was not given" in sampled["reason"]
    assert "does not say what it took" in sampled["reason"]


def test_what_best_of_n_took_is_summed_over_subsets_and_averaged_over_seeds(tmp_path: Path) -> None:
    took = {
        ("one", 42): (2.0, 8.0, 100),
        ("one", 43): (4.0, 0.5, 120),
        ("two", 42): (1.0, 2.0, 50),
        ("two", 43): (1, 1, 70),
    }
    for (subset, seed), (sampling, evaluating, tokens) in took.items():
        for kind, notes in (
            ("samples", {"seconds": str(sampling), "computed_tokens": str(tokens)}),
            ("evaluations", {"seconds": str(evaluating)}),
        ):
            artifacts.write(tmp_path / kind / subset / f"seed={seed}.parquet", kind, [], **notes)
    taken = accounts.noted(*(sorted((tmp_path / kind).glob("*/*")) for kind in ("samples", "evaluations")))
    samples = pl.DataFrame({"task_id": [4, 4], "seed": [42, 43], "candidate": ["a", "b"], "n_tokens": [9, 9]})
    both = accounts.best_of_n(samples, {4: 20}, taken)
    assert (both["seconds"], both["computed_tokens"], both["student_tokens"]) == ((13 + 6.5) / 2, 340 / 2, 29)
    assert both["reason"] is None
    one = accounts.best_of_n(samples, {4: 20}, taken.filter(pl.col("subset") == "one"))
    assert (one["seconds"], one["computed_tokens"]) == ((10 + 4.5) / 2, 110)


def test_prompts_are_counted_with_the_policys_tokenizer(smollm2: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from expert_tail.policy.prompt import prompt_tokens
    from expert_tail.policy.settings import PromptSettings

    world = Compared(tmp_path)
    world.add("one", 42, {4: [correct(2, 1)] * 2})
    source = "import torch.nn as nn\n\n\nclass Model(nn.Module):\n    def forward(self, x):\n        return x\n"
    task = blank("tasks", task_id=4, name="x", level=1, split="one", reference_source=source)
    artifacts.write(world.tasks, "tasks", [task])
    world.train({0: [1]})
    assert world.compare({}, f"--policy={smollm2}", "--prompt.examples=1") == 0
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    expected = len(prompt_tokens(tokenizer, source, PromptSettings(examples=1))) + 10
    assert world.statistics["sets"]["one"]["compute"]["student_tokens"] == 2 * expected
    assert world.one(4, method="best-of-n", k=2)["tokens"] == 2 * expected


def test_two_evaluators_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = Compared(tmp_path)
    for seed in (42, 43):
        world.add("one", seed, ONE[seed])
        world.add("two", seed, TWO[seed])
    world.train({0: [0, 1], 1: [2, 4]})
    world.adapt({name: RUNS[name] for name in ("batch-42", "batch-43", "moved")})
    assert world.compare() == 0
    assert "another evaluator" not in capsys.readouterr().err
    assert {row["same_evaluator"] for row in world.rows(10, subset="one") if row["run"]} == {1}
    edit("evaluations", 43, lambda t: t.with_columns(evaluator=pl.lit("other")))(world)
    assert world.compare() == 0
    assert "WARNING: another evaluator than that of the samples judged batch-42, batch-43" in capsys.readouterr().err
    for number in (10, 11, 12):
        assert {row["same_evaluator"] for row in world.rows(number, subset="one") if row["run"]} == {0}


# --- rates ---------------------------------------------------------------------------------------------------------


def arm(c: list[list[int]], n: int, is_crossed: bool = False) -> Arm:
    c_TS = np.array(c)
    return Arm(tuple(range(len(c))), np.full(c_TS.shape, n), np.stack([c_TS, c_TS * 0], axis=-1), is_crossed)


def test_difference_of_many_tasks_is_that_of_a_paired_normal() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.2, 0.8, 200)
    first, second = (arm(rng.binomial(50, q)[:, None].tolist(), 50) for q in (p, p + 0.1))
    (delta, found), (_, none) = difference(first, second, AggregateSettings(), "x")
    of_task = (second.rates_TSM - first.rates_TSM)[:, 0, 0]
    # A resample draws tasks and then samples again, so the noise of samples counts twice: conservative.
    within = (first.rates_TSM * (1 - first.rates_TSM) + second.rates_TSM * (1 - second.rates_TSM))[:, 0, 0].mean() / 50
    half = norm.ppf(0.975) * np.sqrt((of_task.var() + within) / 200)
    assert delta == pytest.approx(of_task.mean())
    assert (found.low, found.high) == pytest.approx((delta - half, delta + half), abs=half * 0.1)
    assert none.low < 0 < none.high  # both always fail: the interval of no successes at all, not [0, 0]


def test_seeds_of_adaptation_widen_the_interval() -> None:
    counts = [[10, 40]] * 12
    plain, crossed = (interval(arm(counts, 50, is_crossed), SETTINGS, "x")[0] for is_crossed in (False, True))
    assert crossed.high - crossed.low > 3 * (plain.high - plain.low)


def test_arms_on_different_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="different tasks"):
        difference(arm([[1]], 2), arm([[1], [1]], 2), SETTINGS)


# --- strategies ----------------------------------------------------------------------------------------------------


def test_papers_effect_size_and_tests() -> None:
    """80 % against 50 %: h = 0.64; three of three discordant pairs: p = 0.125 (arXiv 2602.07670, section 5.2)."""
    assert cohens_h(0.8, 0.5) == pytest.approx(0.6435, abs=1e-4)
    assert cohens_h(1, 0) == pytest.approx(np.pi)
    first, second = np.array([1.0] * 8 + [0, 0]), np.array([1.0] * 5 + [0] * 5)
    found = sign_test(first, second)
    assert (found["wins"], found["losses"], found["ties"]) == (3, 0, 7)
    assert (found["p_one_sided"], found["p_two_sided"]) == (0.125, 0.25)
    assert sign_test(first, first)["reason"] == "no pair differs"


def test_signed_ranks_by_hand() -> None:
    """Log-ratios ln 2, ln 3, -ln 1.5, 0 and one floored: ranks 2, 3, 1 and 4; the sum of the negative ones is 1."""
    first, second = np.array([2.0, 3.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.5, 1.0, 0.0])
    found = signed_rank_test(first, second)
    assert (found["n_different"], found["zeros"], found["statistic"]) == (4, 1, 1)
    expected = wilcoxon(np.log(np.array([2.0, 3.0, 1 / 1.5, 1.0, 1e6])))
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["median_ratio"] == pytest.approx(2)
    assert signed_rank_test(first, first)["p"] is None


def picks(**of: list[float]) -> pl.DataFrame:
    """Speedups of each strategy on tasks 0, 0, 1, 1, ... under two seeds."""
    rows = [
        {
            "task_id": i // 2,
            "seed": i % 2,
            "strategy": name,
            "speedup": s,
            "fast_1": float(s > 1),
            "fast_1_confident": 0.0,
        }
        for name, speedups in of.items()
        for i, s in enumerate(speedups)
    ]
    return pl.DataFrame(rows)


def test_comparison_over_pairs_and_over_tasks() -> None:
    table = picks(a=[2, 2, 2, 0.5], b=[1, 3, 0, 0.5])
    found = compare(table, "a", "b")
    assert found["fast_1"]["sign_test"]["pairs"]["wins"] == 2
    assert found["fast_1"]["sign_test"]["tasks"] == {
        "n": 2,
        "wins": 2,
        "losses": 0,
        "ties": 0,
        "p_one_sided": 0.25,
        "p_two_sided": 0.5,
    }
    assert found["fast_1_confident"]["cohens_h"] == 0
    assert found["wilcoxon"]["tasks"]["n"] == 2
    (duel,) = head_to_head(table, ["a", "b"])
    assert duel["speedup"] == {"wins": 2, "losses": 1, "ties": 1}


def test_statistics_compare_surprisal_with_confidence_and_chance(world: Compared) -> None:
    of = world.statistics["sets"]["one"]
    assert [(c["first"], c["second"]) for c in of["comparisons"]] == [
        ("surprisal-guided", "confidence-guided"),
        ("surprisal-guided", "random-correct"),
    ]
    # Picks of surprisal: 2.0, 2.0 (task 4), 0, 0, 1.1, 0.9; of confidence: 0.5, 0.5, 0, 0, 0.9, 0.9.
    first = of["comparisons"][0]
    assert (first["fast_1"]["first"], first["fast_1"]["second"]) == (0.5, 0)
    assert first["fast_1"]["sign_test"]["pairs"]["p_one_sided"] == 0.125
    assert first["wilcoxon"]["pairs"]["n_different"] == 3
    assert len(of["head_to_head"]) == 10


# --- surprisal -----------------------------------------------------------------------------------------------------


def test_partial_correlation_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(1)
    z = rng.integers(5, 15, 80).astype(float)
    x, y = z + rng.normal(size=80), -z + rng.normal(size=80)
    found = association(Samples(x, y, np.zeros(80, int), np.arange(80)), 199, 0.95, rng, control_N=z)
    xy, xz, yz = (spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    partial = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert found.rho == pytest.approx(partial)
    t = abs(partial) * np.sqrt(77 / (1 - partial**2))
    from scipy.stats import t as student

    assert found.p_independent == pytest.approx(2 * student.sf(t, 77))
    assert abs(found.rho) < abs(xy) / 2  # the length was all of it


def test_partial_correlation_beside_an_exact_control_is_undefined() -> None:
    x = np.arange(20.0)
    samples = Samples(x, np.sin(x), np.zeros(20, int), np.arange(20))
    assert association(samples, 100, 0.95, np.random.default_rng(0), control_N=2 * x).rho is None


def test_table6_rho_is_scipys(world: Compared) -> None:
    scored = [pl.DataFrame(artifacts.read(world.path(kind, "one", 42), kind)) for kind in ("logprobs", "evaluations")]
    other = [pl.DataFrame(artifacts.read(world.path(kind, "one", 43), kind)) for kind in ("logprobs", "evaluations")]
    joined = pl.concat([a.join(b, on=["task_id", "seed", "sample"]) for a, b in (scored, other)])
    joined = joined.filter(pl.col("status") == "correct")
    row = world.one(6, subset="one", ranks="pooled", analysis="raw", surprisal="sum")
    expected = spearmanr(-joined["nll"], joined["speedup"])
    assert (row["n_samples"], row["n_tasks"]) == (joined.height, 2)
    assert row["rho"] == pytest.approx(expected.statistic, rel=1e-4)
    assert row["p_independent"] == pytest.approx(expected.pvalue, rel=1e-4)
    length = world.one(6, subset="one", ranks="pooled", analysis="length")
    assert (length["rho"], length["reason"]) == (None, "log-prob or length is constant")
    assert world.one(6, subset="two", ranks="pooled", analysis="raw", surprisal="sum")["reason"].startswith(
        "fewer than"
    )


def test_noise_of_float32_ranks_nothing() -> None:
    noisy = np.array([0.3000012, 0.3, 0.5, 0.300002, 0.4999999])
    assert resolved(noisy).tolist() == [0.3, 0.3, 0.4999999, 0.3, 0.4999999]
    assert resolved(np.array([])).tolist() == []


def test_quartiles_split_ties_in_proportion() -> None:
    shares = quartile_shares(np.array([5.0, 1.0, 1.0, 1.0, 0.0]), np.zeros(5, int))
    # Quarters of 1.25: the first has the 5 and a quarter of the ties' three.
    assert shares.sum(axis=0) == pytest.approx([1.25] * 4)
    assert shares.sum(axis=1) == pytest.approx([1] * 5)
    assert shares[0].tolist() == [1, 0, 0, 0]
    assert shares[1] == pytest.approx([0.25 / 3, 1.25 / 3, 1.25 / 3, 0.25 / 3])
    assert shares[4].tolist() == [0, 0, 0, 1]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=30))
def test_quartiles_are_equal_parts_of_every_stratum(rows: list[tuple[int, int]]) -> None:
    strata, surprisal = (np.array(x) for x in zip(*rows, strict=True))
    shares = quartile_shares(surprisal.astype(float), strata)
    assert shares.sum(axis=1) == pytest.approx(np.ones(len(rows)))
    for stratum in np.unique(strata):
        assert shares[strata == stratum].sum(axis=0) == pytest.approx([(strata == stratum).sum() / 4] * 4)


def test_table7_by_hand(world: Compared) -> None:
    """Task 18: eight correct samples of equal surprisal, so every quarter has two of all of them."""
    for row in world.rows(7, subset="two"):
        assert (row["n"], row["fast_1"], row["fast_1_confident"], row["mean_speedup"]) == (2, 1, 1, 1.5)
        low = binomtest(1, 1).proportion_ci(0.95, "wilson").low  # nothing varies: of one task that succeeds
        assert (row["fast_1_low"], row["fast_1_high"]) == pytest.approx((low, 1), rel=1e-4)
    one = [world.one(7, subset="one", ranks="pooled", surprisal="sum", quartile=q) for q in (1, 2, 3, 4)]
    # 25 correct samples; the four of surprisal 9, three of 8 or 7 or 6 ..., hence the first quarter is the fastest.
    assert sum(row["n"] for row in one) == 25
    assert one[0]["mean_surprisal"] > one[1]["mean_surprisal"] > one[3]["mean_surprisal"]
    assert one[0]["fast_1"] > one[3]["fast_1"] == 0


def test_logprob_spread_by_hand() -> None:
    samples = pl.DataFrame(
        {
            "task_id": [1, 1, 1, 2, 2, 3, 3, 4],
            "status": ["correct", "correct", "incorrect", *["correct"] * 5],
            "nll": [1.0, 3.0, 8.0, 1.0, 1.1, 1.0, 2.0, 1.0],
        }
    )
    found = logprob_spread(samples)
    assert found["logprob_std"].to_list() == pytest.approx([np.std([1, 3, 8], ddof=1), 0.05 * 2**0.5, 0.5**0.5, None])
    assert found["logprob_std_correct"][0] == pytest.approx(2**0.5)
    assert found["variance_regime"].to_list() == ["high", "low", "between", "low"]


# --- what may be missing -------------------------------------------------------------------------------------------


def test_nothing_but_samples_of_one_seed_and_none_correct(tmp_path: Path) -> None:
    world = Compared(tmp_path)
    world.add("one", 42, {4: [wrong(), wrong()], 5: [wrong(), wrong()]})
    world.train({0: [0]})
    assert world.compare() == 0
    assert sorted(path.name for path in world.output.iterdir()) == FILES
    assert {row["reason"] for row in world.rows(6)} == {"no correct sample"}
    assert {row["rho"] for row in world.rows(6)} == {None}
    assert {row["n"] for row in world.rows(7)} == {0}
    assert {row["equivalent_k_place"] for row in world.rows(4)} == {FLAT}
    assert (world.rows(9), world.rows(11)) == ([], [])
    assert {row["fast_1_delta"] for row in world.rows(12)} == {None}
    duel = world.statistics["sets"]["one"]["comparisons"][0]
    assert duel["wilcoxon"]["pairs"]["reason"] == "no pair differs"


def test_constant_surprisal_has_no_rho(tmp_path: Path) -> None:
    world = Compared(tmp_path)
    world.add("one", 42, {4: [correct(s, 1.0) for s in (0.5, 1.5, 2.0, 3.0)]})
    world.train({0: [1]})
    assert world.compare() == 0
    reasons = {row["reason"] for row in world.rows(6, analysis="raw")}
    assert reasons == {"log-prob or length is constant"}


def test_same_input_gives_the_same_bytes(world: Compared, tmp_path: Path) -> None:
    before = {name: (world.output / name).read_bytes() for name in FILES}
    assert world.compare({"both": ["one", "two"], "missing": ["one", "three"]}) == 0
    for name in FILES:
        assert (world.output / name).read_bytes() == before[name], name


def test_missing_step_names_the_file(world: Compared, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Compared(world.folder)
    other.cells, other.output = world.cells, tmp_path
    other.adaptation = AdaptationSettings(runs={"never-made": dict(subset="one", steps=1)})
    assert other.compare() == 1
    assert "never-made/step=0/" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_name_is_known() -> None:
    assert set(ONE[42]) | set(TWO[42]) <= set(NAMES)
    with pytest.raises(UserError):
        ComparisonSettings.checked({"group": {}}, "comparison")
