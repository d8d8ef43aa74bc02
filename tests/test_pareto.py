"""The Pareto front by its properties, costs against enumeration and the real sampler, and the table by hand."""

import json
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_aggregate import World, blank, correct, edit, wrong
from test_sampler import PROMPTS, SETTINGS, llama

from expert_tail import artifacts
from expert_tail.adapt.settings import Run
from expert_tail.adaptation_tables.steps import load_steps
from expert_tail.cli import main
from expert_tail.pareto.adaptation import DRAW, FASTEST_ROLLOUT, of_run
from expert_tail.pareto.costs import COSTS, beginnings, samplings, seconds_per_candidate
from expert_tail.pareto.figure import AXES, draw
from expert_tail.pareto.front import on_front
from expert_tail.pareto.table import FRONT_COSTS
from expert_tail.pareto.table import NAMES as VALUES
from expert_tail.policy.counting import counted_tokens
from expert_tail.policy.sampler import sample

Row = dict[str, Any]
TOKENS = [[1, 2, 3], [1, 2, 4], [1, 2, 3], [5, 9]]  # of the four samples of a task
BEGINNINGS = 3  # (1), (1, 2), (5)

# --- the front -----------------------------------------------------------------------------------------------------

points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25)


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(points)
def test_front_is_what_nothing_dominates(made: list[tuple[int, int]]) -> None:
    front = on_front(*zip(*made, strict=True))
    assert front.tolist() == [not any(dominates(a, b) for a in made) for b in made]


@given(points)
def test_front_covers_every_point_and_has_the_cheapest_and_the_best(made: list[tuple[int, int]]) -> None:
    front = [point for point, is_on in zip(made, on_front(*zip(*made, strict=True)), strict=True) if is_on]
    assert all(point in front or any(dominates(other, point) for other in front) for point in made)
    assert min(cost for cost, _ in front) == min(cost for cost, _ in made)
    assert max(value for _, value in front) == max(value for _, value in made)
    ordered = sorted(set(front))
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(ordered))


@given(points, st.randoms())
def test_front_depends_on_neither_order_nor_scale(made: list[tuple[int, int]], random: Any) -> None:
    place = list(range(len(made)))
    random.shuffle(place)
    cost, value = np.array(made, dtype=float).T
    np.testing.assert_array_equal(on_front(cost[place], value[place]), on_front(cost, value)[place])
    np.testing.assert_array_equal(on_front(np.exp(cost), value**3), on_front(cost, value))


@given(points, st.integers(0, 30))
def test_a_dominated_point_changes_nothing(made: list[tuple[int, int]], which: int) -> None:
    cost, value = made[which % len(made)]
    front = on_front(*zip(*made, strict=True))
    more = on_front(*zip(*[*made, (cost + 1, value)], strict=True))
    assert more[:-1].tolist() == front.tolist()
    assert not more[-1]


def test_cost_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        on_front([1.0, float("nan")], [1.0, 2.0])


# --- costs ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=6))
@settings(max_examples=50)
def test_expected_tokens_are_the_mean_over_all_subsets(tmp_path_factory: Any, completions: list[list[int]]) -> None:
    folder = tmp_path_factory.mktemp("costs")
    write_samples(folder / "samples.parquet", {4: completions}, computed_tokens="1000", seconds="10")
    artifacts.write(folder / "logprobs.parquet", "logprobs", [])
    cost = samplings(folder / "samples.parquet", folder / "logprobs.parquet")[4]
    prompt = 1000 - len(beginnings(completions))
    for k in range(1, len(completions) + 1):
        expected = np.mean([prompt + len(beginnings(chosen)) for chosen in combinations(completions, k)])
        assert cost.cost(k)["tokens_computed"] == pytest.approx(expected)
        assert cost.cost(k)["sampling_s"] == pytest.approx(expected / 100)
        assert cost.cost(k)["tokens_sampled"] == pytest.approx(k * np.mean([len(c) for c in completions]))


def write_samples(path: Path, completions: dict[int, list[list[int]]], **notes: str) -> None:
    rows = [
        blank("samples", task_id=task, seed=42, sample=i, token_ids=tokens, n_tokens=len(tokens))
        for task, of_task in completions.items()
        for i, tokens in enumerate(of_task)
    ]
    artifacts.write(path, "samples", rows, **notes)


def test_beginnings_are_what_the_sampler_computes() -> None:
    """Between n = 2 and n = 8 of the same draws, the sampler computes as many more tokens as there are beginnings."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, seeds = llama(), [1, 2, 3]
    computed, distinct = [], []
    for n in (2, 8):
        with counted_tokens(model) as count:
            drawn = sample(model, PROMPTS, n, seeds=seeds, **SETTINGS)
        computed.append(count.tokens)
        distinct.append(sum(len(beginnings([one.token_ids for one in of_prompt])) for of_prompt in drawn))
    assert computed[1] - computed[0] == distinct[1] - distinct[0] > 0


def test_seconds_a_candidate_are_over_what_was_measured(tmp_path: Path) -> None:
    known, measured = tmp_path / "known.parquet", tmp_path / "measured.parquet"
    artifacts.write(known, "evaluations", [], seconds="3.0", measured="0")
    artifacts.write(measured, "evaluations", [], seconds="8.0", measured="4")
    accounts = [pl.DataFrame({"evaluating_s": [4.0, 9.0], "measured": [2, 0]})]
    assert seconds_per_candidate([known, measured], accounts) == pytest.approx(12 / 6)
    assert seconds_per_candidate([known], []) is None


# --- the table -----------------------------------------------------------------------------------------------------

VERDICTS = {
    4: [correct(0.5, 1.0), correct(4.0, 9.0), correct(4.0, 9.0), wrong()],
    5: [wrong(), wrong(), wrong(), wrong()],
}


def add_tokens(world: World, place: tuple[str, int], noted: bool = True) -> None:
    """Token ids of the samples, and what sampling, scoring and evaluating spent."""
    paths = {kind: world.path(kind, *place) for kind in ("samples", "logprobs", "evaluations")}
    spent: dict[str, dict[str, str]] = {
        "samples": {"computed_tokens": "206", "seconds": "20.6"},  # 100 for each of two prompts
        "logprobs": {"computed_tokens": "300", "seconds": "6.0"},
        "evaluations": {"measured": "2", "seconds": "3.0"},
    }
    for kind, path in paths.items():
        rows = pl.DataFrame(artifacts.read(path, kind))
        if kind == "samples":
            tokens = [TOKENS[i] for i in rows["sample"]]
            rows = rows.with_columns(
                token_ids=pl.Series(tokens, dtype=pl.List(pl.Int32)), n_tokens=pl.Series(map(len, tokens))
            )
        artifacts.write(path, kind, rows.to_arrow(), **(spent[kind] if noted else {}))


RUN = Run(subset="one", rollouts=2, steps=2, seed=42)
STEPS = [  # of each step: the speedups of two rollouts of tasks 4 and 5; 0 is not correct
    [0.9, 1.2, 0.0, 0.0],
    [1.2, 5.0, 0.8, 0.0],
    [1.2, 0.0, 0.0, 0.0],
]


def write_run(folder: Path, tasks: tuple[int, ...] = (4, 5), fresh: bool = False) -> Path:
    for step, speedups in enumerate(STEPS):
        rollouts, evaluations = [], []
        for task in tasks:
            for i, speedup in enumerate(speedups[2 * (task - 4) :][:2]):
                common = {"step": step, "task_id": task, "candidate_sha256": f"{task}:{speedup}"}
                verdict: Row = {
                    "status": "correct" if speedup else "crash",
                    "speedup": speedup,
                    "speedup_low": speedup - 0.3,
                }
                rollouts.append(blank("adapt_rollouts", **common, rollout=i, prompt_tokens=50, **verdict))
                evaluations.append(blank("adapt_evaluations", **common, **verdict, seed=42, sample=i))
        at = folder / f"step={step}"
        artifacts.write(at / "rollouts.parquet", "adapt_rollouts", rollouts)
        artifacts.write(at / "evaluations.parquet", "adapt_evaluations", evaluations)
        n = len(rollouts)
        account: Row = dict.fromkeys(artifacts.SCHEMAS["accounts"].names, 0) | {"step": step, "objective": "grpo"}
        account |= {"rollouts": n, "student_tokens": 60 * n, "sampling_computed": 120, "sampling_s": 4.0}
        account |= {"evaluating_s": 2.0, "measured": 1, "scoring_s": 1.0, "scoring_computed": 30}
        account |= {"update_s": 3.0, "update_computed": 200} if step else {}
        if fresh:
            fresh_rows = [row | {"speedup": 0.5, "speedup_low": 0.4, "status": "correct"} for row in evaluations]
            artifacts.write(at / "fresh_rollouts.parquet", "adapt_rollouts", rollouts)
            artifacts.write(at / "fresh_evaluations.parquet", "adapt_evaluations", fresh_rows)
            account |= {"fresh_rollouts": n, "fresh_tokens": 55 * n}
        artifacts.write(at / "account.parquet", "accounts", [account])
    return folder


def made(world: World, adaptation: Row | None = None, *arguments: str) -> pl.DataFrame:
    kinds = ("samples", "evaluations", "logprobs")
    files = [part for kind in kinds for part in (f"--{kind}", *(str(world.path(kind, *at)) for at in world.cells))]
    files += ["--runs", str(world.folder / "adapt"), "--output", str(world.output), "--aggregate.bootstrap", "200"]
    assert main(["pareto", *files, "--adaptation.runs", json.dumps(adaptation or {}), *arguments]) == 0
    for suffix in ("png", "svg"):
        assert (world.output / f"figure_pareto.{suffix}").stat().st_size > 1000
    return pl.read_csv(world.output / "pareto.csv", infer_schema_length=None)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    world = World(tmp_path_factory.mktemp("world"))
    for place in (("one", 42), ("one", 43)):
        world.add(*place, VERDICTS)
        add_tokens(world, place)
    write_run(world.folder / "adapt" / "all")
    write_run(world.folder / "adapt" / "alone", tasks=(4,))
    runs = {"all": {"subset": "one", "steps": 2}, "alone": {"task": 4, "steps": 2}}
    return made(world, runs, "--comparison.groups", '{"group": ["one"]}')


def only(table: pl.DataFrame, **keys: Any) -> Row:
    chosen = table.filter(*(pl.col(key) == value for key, value in keys.items()))
    assert chosen.height == 1
    return chosen.row(0, named=True)


def test_figure_has_seconds_and_tokens_and_keeps_numbers_apart(table: pl.DataFrame) -> None:
    figure = draw(table)
    sets = table.filter(table["n_tasks"] > 1)["set"].unique(maintain_order=True).to_list()
    assert len(sets) < table["set"].n_unique()  # those of a single task are in the table alone
    costs = ("seconds", "tokens_computed")
    rows = [figure.axes[5 * i : 5 * i + 5] for i in range(len(sets))]
    assert [row[0].get_ylabel().split("\n")[0] for row in rows] == sets
    assert [axis.get_xlabel() for axis in rows[-1][:4]] == 2 * [AXES[cost] for cost in costs]
    for axis in (axis for row in rows for axis in row[:4]):
        numbers = [text for text in axis.texts if text.get_text().isdigit()]
        assert len({text.get_text() for text in numbers}) == len(numbers) > 0
        to_points = 72 / figure.dpi
        at = [axis.transData.transform(text.xy) * to_points + text.get_position() for text in numbers]
        assert all(np.hypot(*(one - other)) > 7 for one, other in combinations(at, 2))


SECONDS = 18 / 10  # a candidate: twice 3 s for 2 by Best-of-N; 2 s for 1 in each of the six steps of the runs


def test_sampling_by_hand(table: pl.DataFrame) -> None:
    row = only(table, set="one", method="best-of-n", k=2)
    # Of task 4's six pairs one has neither fast sample, nor is it wrong; task 5 has nothing.
    assert (row["fast_1"], row["fast_1_confident"]) == pytest.approx((5 / 12, 5 / 12), rel=1e-4)
    assert row["mean_speedup"] == pytest.approx((5 * 4 + 0.5) / 6 / 2, rel=1e-4)
    assert row["mean_speedup_bound"] == pytest.approx(0.9 * row["mean_speedup"], rel=1e-4)
    assert (row["rollouts"], row["tokens_sampled"], row["scoring_s"], row["update_s"]) == (2, 11 / 2, 0, 0)
    # Pairs of samples: (1) and (1, 2) are computed in all six, (5) in three of them.
    assert row["tokens_computed"] == pytest.approx(100 + 2 + 1 / 2)
    assert row["sampling_s"] == pytest.approx(10.25, rel=1e-4)
    # Task 4 has three candidates, two samples of one: 11/6 in a pair; task 5 has one.
    assert row["evaluations"] == pytest.approx((11 / 6 + 1) / 2, rel=1e-4)
    assert row["evaluating_s"] == pytest.approx(SECONDS * row["evaluations"], rel=1e-4)
    assert row["seconds"] == pytest.approx(row["sampling_s"] + row["evaluating_s"], rel=1e-4)
    assert (row["n_tasks"], row["n_seeds"]) == (2, 2)


def test_selection_pays_for_all_samples_and_their_scores(table: pl.DataFrame) -> None:
    picked, free = (only(table, set="one", method=name) for name in ("surprisal-guided", "random-correct"))
    assert (picked["k"], picked["rollouts"], picked["evaluations"]) == (4, 4, 2)
    assert (picked["tokens_computed"], picked["scoring_s"]) == (100 + BEGINNINGS + 150, 3)
    assert (free["tokens_computed"], free["scoring_s"]) == (100 + BEGINNINGS, 0)
    assert (picked["fast_1"], picked["mean_speedup"], free["mean_speedup"]) == pytest.approx(
        (0.5, 2, (8.5 / 3) / 2), rel=1e-4
    )
    ranked = only(table, set="one", method="ranked-surprisal", m=1)
    assert (ranked["rollouts"], ranked["evaluations"], ranked["mean_speedup"]) == (4, 1, 2)
    assert ranked["seconds"] == pytest.approx(picked["seconds"] - SECONDS, rel=1e-4)
    unscored = only(table, set="one", method="ranked-distinct-random", m=4)
    assert (unscored["evaluations"], unscored["scoring_s"], unscored["mean_speedup"]) == (2, 0, 2)


def test_adaptation_by_hand(table: pl.DataFrame) -> None:
    of_run = table.filter(pl.col("set") == "one", pl.col("family") == "adaptation")
    drawn, kept = (of_run.filter(pl.col("deploys") == deploys) for deploys in (DRAW, FASTEST_ROLLOUT))
    # Shares of fast rollouts: 1/4, 2/4, 1/4, so that step 1 stays the best; its task 4 makes 1.2 and 5.0, its task 5 0.8.
    assert drawn["fast_1"].to_list() == [0.25, 0.5, 0.5]
    assert drawn["fast_1_confident"].to_list() == [0, 0.25, 0.25]
    assert drawn["mean_speedup"].to_list() == pytest.approx([2.1 / 4, 7 / 4, 7 / 4], rel=1e-4)
    assert kept["fast_1"].to_list() == [0.5, 0.5, 0.5]
    assert kept["mean_speedup"].to_list() == pytest.approx([1.2 / 2, 5.8 / 2, 5.8 / 2], rel=1e-4)
    assert kept["rollouts"].to_list() == [2, 4, 6]
    assert kept["tokens_sampled"].to_list() == [20, 40, 60]
    assert kept["tokens_computed"].to_list() == [60, (240 + 200 + 30) / 2, (360 + 400 + 60) / 2]
    assert kept["update_s"].to_list() == [0, 1.5, 3]
    assert kept["scoring_s"].to_list() == [0, 0.5, 1]
    # Candidates: 4 at 0.9 and 1.2, 5 at 0; then 4 at 5.0, 5 at 0.8; then 4 at 0.
    assert kept["evaluations"].to_list() == [3 / 2, 5 / 2, 6 / 2]
    assert kept["seconds"].to_list() == pytest.approx(
        [s + SECONDS * e for s, e in zip([2, 4 + 1.5 + 0.5, 6 + 3 + 1], [1.5, 2.5, 3], strict=True)], rel=1e-4
    )
    assert of_run.select("n_tasks", "n_seeds").unique().rows() == [(2, 1)]


def test_run_on_one_task_is_beside_the_sampling_of_that_task(table: pl.DataFrame) -> None:
    alone = table.filter(pl.col("set") == "task 4")
    assert set(alone["family"]) == {"sampling", "selection", "adaptation"}
    assert set(alone["n_tasks"]) == {1}
    assert only(alone, method="best-of-n", k=4)["mean_speedup"] == 4
    assert alone["fast_1_low"].null_count() == alone.height
    assert table["set"].unique(maintain_order=True).to_list() == ["one", "group", "task 4"]


def test_fresh_rollouts_report_on_the_checkpoint_and_are_paid_for(tmp_path: Path) -> None:
    run = Run(subset="one", rollouts=2, steps=2, validation="fresh", fresh_rollouts=2)
    methods = of_run("r", run, load_steps(write_run(tmp_path, fresh=True), run), 1.0)
    drawn, kept = (method for method in methods if method.labels["step"] == 2)
    assert drawn.values_TSV[..., 2].mean() == 0.5  # what fresh rollouts made, not those that chose
    assert kept.values_TSV[..., 2].mean() == pytest.approx(5.8 / 2)
    assert drawn.costs["rollouts"] == 12
    assert drawn.costs["tokens_sampled"] == (60 + 55 - 100) * 6


def test_every_front_is_one_of_its_set(table: pl.DataFrame) -> None:
    for _, of_set in table.group_by("set"):
        for value in VALUES.values():
            for cost in FRONT_COSTS:
                front = of_set.filter(pl.col(f"front_{value}_by_{cost}") == 1)
                expected = on_front(of_set[cost].to_numpy(), of_set[value].to_numpy())
                assert front.height == expected.sum() > 0
                assert front[value].max() == of_set[value].max()


def test_every_interval_holds_its_estimate(table: pl.DataFrame) -> None:
    with_interval = table.filter(pl.col("n_tasks") > 1)
    for value in VALUES.values():
        assert (with_interval[f"{value}_low"] <= with_interval[value]).all()
        assert (with_interval[value] <= with_interval[f"{value}_high"]).all()


def test_a_run_that_starts_from_anothers_checkpoint_is_left_out(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("one", 42, VERDICTS)
    add_tokens(world, ("one", 42))
    for name in ("all", "moved"):
        write_run(world.folder / "adapt" / name)
    runs = {"all": {"subset": "one", "steps": 2}, "moved": {"subset": "one", "steps": 0, "start": {"run": "all"}}}
    assert set(made(world, runs).filter(family="adaptation")["method"]) == {"all"}


def test_only_strategies_that_are_compared(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("one", 42, VERDICTS)
    add_tokens(world, ("one", 42))
    found = made(world, None, "--select.strategies", "surprisal-guided,confidence-guided")
    picks = found.filter(family="selection", deploys="pick")["method"]
    assert picks.to_list() == ["surprisal-guided", "confidence-guided"]


def test_without_notes_or_runs_costs_in_time_are_empty(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("one", 42, {4: [wrong(), wrong()]})
    add_tokens(world, ("one", 42), noted=False)
    table = made(world)
    assert table.select("fast_1", "mean_speedup").sum().row(0) == (0, 0)
    for column in ("seconds", "tokens_computed", "evaluating_s", "front_fast_1_by_seconds"):
        assert table[column].null_count() == table.height
    assert set(table.filter(pl.col("front_fast_1_by_rollouts") == 1)["k"]) == {1}
    assert set(COSTS) <= set(table.columns)


def test_inputs_that_do_not_fit_name_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    world.add("one", 42, VERDICTS)
    add_tokens(world, ("one", 42))
    files = {kind: str(world.path(kind, "one", 42)) for kind in ("evaluations", "logprobs", "samples")}

    def said(samples: list[str], status: int = 1) -> str:
        arguments = ["--samples", *samples, *(f"--{kind}={files[kind]}" for kind in ("evaluations", "logprobs"))]
        assert main(["pareto", *arguments, f"--runs={tmp_path / 'adapt'}", f"--output={tmp_path / 'out'}"]) == status
        return capsys.readouterr().err

    assert "--samples names no file" in said([], status=2)
    edit("samples", 42, lambda t: t[1:])(world)
    assert "samples/one/seed=42.parquet lacks task 4, seed 42, sample 0" in said([files["samples"]])
