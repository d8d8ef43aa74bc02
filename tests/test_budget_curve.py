"""The ranked pipeline against enumeration of orders and a plain loop; its table and figure from the command line."""

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_aggregate import ONE_42, ONE_43, TWO_42, Verdict, World, correct, edit, wrong

from expert_tail.aggregate.loading import cells_of
from expert_tail.aggregate.statistics import expected_best, pass_at_k
from expert_tail.aggregate.task_sets import task_sets
from expert_tail.budget_curve.pipeline import (
    OUTCOMES,
    RANKINGS,
    Cell,
    Ranking,
    budgets_up_to,
    deployed,
    distinct_evaluations,
)
from expert_tail.cli import main
from expert_tail.errors import UserError

Row = dict[str, Any]
IN_ORDER = [ranking for ranking in RANKINGS if ranking.order != "random"]
RANDOM, DISTINCT_RANDOM = (Ranking("random", is_distinct, None) for is_distinct in (False, True))


@st.composite
def drawn_samples(draw: st.DrawFn, most: int = 5) -> list[Row]:
    """Samples of one task and seed, some of them duplicates: a candidate has one verdict, a sample its own surprisal."""
    speedup = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 8.0])  # 0: not correct
    verdicts = draw(st.lists(st.tuples(speedup, st.floats(0.5, 0.99)), min_size=1, max_size=4))
    which = draw(st.lists(st.integers(0, len(verdicts) - 1), min_size=1, max_size=most))
    samples = []
    for i, candidate in enumerate(which):
        value, share = verdicts[candidate]
        nll, tokens = draw(st.integers(0, 6)), draw(st.integers(1, 3))
        row: Row = {"sample": i, "candidate_sha256": f"c{candidate}", "nll": float(nll), "nll_mean": nll / tokens}
        row |= {"status": "correct" if value else "incorrect", "speedup": value, "speedup_low": value * share}
        samples.append(row | {"fast_1": value > 1, "fast_1_confident": value > 1 and value * share > 1})
    return samples


def cell(samples: list[Row]) -> Cell:
    return Cell(pl.DataFrame(samples).sample(fraction=1, shuffle=True, seed=0))


def outcome(evaluated: list[Row]) -> list[float]:
    """What is deployed, by the definition: the fastest correct candidate, of equals the first by name."""
    right = [row for row in evaluated if row["status"] == "correct"]
    best = min(right, key=lambda row: (-row["speedup"], row["candidate_sha256"]), default=None)
    return [float(best is not None and (name == "correct" or best[name])) for name in OUTCOMES[:3]] + [
        best[name] if best else 0.0 for name in OUTCOMES[3:]
    ]


def in_order(samples: list[Row], ranking: Ranking) -> list[Row]:
    column = {"sum": "nll", "mean": "nll_mean"}[ranking.surprisal or ""]
    sign = -1 if ranking.order == "surprisal" else 1
    ordered = sorted(samples, key=lambda row: (sign * row[column], row["sample"]))
    return distinct_first(ordered) if ranking.is_distinct else ordered


def distinct_first(ordered: list[Row]) -> list[Row]:
    seen: set[str] = set()
    first = [row for row in ordered if not (row["candidate_sha256"] in seen or seen.add(row["candidate_sha256"]))]  # type: ignore[func-returns-value]
    return first + [row for row in ordered if row not in first]


@given(drawn_samples(most=8))
@settings(max_examples=60)
def test_rankings_are_those_of_a_plain_loop(samples: list[Row]) -> None:
    budgets = list(range(1, len(samples) + 1))
    for ranking in IN_ORDER:
        ordered = in_order(samples, ranking)
        np.testing.assert_allclose(
            deployed(cell(samples), ranking, budgets)[0], [outcome(ordered[:m]) for m in budgets]
        )
        paid = [len({row["candidate_sha256"] for row in ordered[:m]}) for m in budgets]
        np.testing.assert_array_equal(distinct_evaluations(cell(samples), ranking, budgets), paid)


@given(drawn_samples())
@settings(max_examples=40)
def test_random_order_is_the_mean_over_all_orders(samples: list[Row]) -> None:
    budgets = list(range(1, len(samples) + 1))
    for ranking in (RANDOM, DISTINCT_RANDOM):
        orders = [list(order) for order in permutations(samples)]
        if ranking.is_distinct:
            # All orders of the distinct candidates: of each its first sample, then the rest.
            heads = [distinct_first(order) for order in permutations(distinct_first(samples)[: len(names(samples))])]
            orders = [head + [row for row in samples if row not in head] for head in heads]
        expected = np.mean([[outcome(order[:m]) for m in budgets] for order in orders], axis=0)
        paid = np.mean([[len(names(order[:m])) for m in budgets] for order in orders], axis=0)
        np.testing.assert_allclose(deployed(cell(samples), ranking, budgets)[0], expected, atol=1e-12)
        np.testing.assert_allclose(distinct_evaluations(cell(samples), ranking, budgets), paid)


def names(samples: list[Row]) -> set[str]:
    return {row["candidate_sha256"] for row in samples}


@given(drawn_samples(most=12))
def test_random_order_agrees_with_the_estimators_of_table_2(samples: list[Row]) -> None:
    speedups = np.array([row["speedup"] for row in samples])
    for m in range(1, len(samples) + 1):
        fast, _, right, speedup, _ = deployed(cell(samples), RANDOM, [m])[0, 0]
        assert speedup == pytest.approx(expected_best(speedups, m))
        assert fast == pytest.approx(pass_at_k(len(samples), int((speedups > 1).sum()), m))
        assert right == pytest.approx(pass_at_k(len(samples), int((speedups > 0).sum()), m))


@given(drawn_samples(most=12))
def test_more_evaluations_never_hurt_and_all_of_them_make_rankings_equal(samples: list[Row]) -> None:
    budgets = list(range(1, len(samples) + 1))
    found = {ranking: deployed(cell(samples), ranking, budgets)[0] for ranking in RANKINGS}
    for values in found.values():
        for name in ("fast_1", "correct", "speedup"):
            assert (np.diff(values[:, OUTCOMES.index(name)]) >= -1e-12).all()
        np.testing.assert_allclose(values[-1], found[RANDOM][-1])
        assert values.min() >= 0


@given(drawn_samples(most=7), st.integers(0, 2**32))
@settings(max_examples=40)
def test_resample_is_a_cell_of_the_samples_it_drew(samples: list[Row], seed: int) -> None:
    drawn_from = cell(samples)
    counts_BG = drawn_from.resampled(3, np.random.default_rng(seed))
    budgets = list(range(1, len(samples) + 1))
    for ranking in RANKINGS:
        found = deployed(drawn_from, ranking, budgets, counts_BG)
        for counts_G, values in zip(counts_BG, found, strict=True):
            drawn = np.repeat(drawn_from.sample_G, counts_G)
            again = [samples[i] | {"sample": place} for place, i in enumerate(drawn)]
            np.testing.assert_allclose(values, deployed(cell(again), ranking, budgets)[0], atol=1e-12)


def test_resamples_draw_each_sample_as_often() -> None:
    """A group of equal samples is drawn as often as all of them together would be."""
    row: Row = {"nll": 1.0, "nll_mean": 1.0, "status": "incorrect"} | dict.fromkeys(
        ("fast_1", "fast_1_confident"), False
    )
    row |= dict.fromkeys(("speedup", "speedup_low"), 0.0)
    samples = [row | {"sample": i, "candidate_sha256": "a", "nll": 2.0, "nll_mean": 2.0} for i in range(3)]
    drawn_from = cell([*samples, row | {"sample": 3, "candidate_sha256": "b"}])
    counts_BG = drawn_from.resampled(20_000, np.random.default_rng(0))
    assert counts_BG.sum(axis=1).tolist() == [4] * 20_000
    np.testing.assert_allclose(counts_BG.mean(axis=0), [3, 1], atol=0.03)  # four draws with 3/4 and 1/4
    np.testing.assert_allclose(counts_BG.var(axis=0), [0.75, 0.75], atol=0.03)


def test_budgets_are_all_to_16_then_powers_of_two_and_n() -> None:
    assert budgets_up_to(5) == [1, 2, 3, 4, 5]
    assert budgets_up_to(64) == [*range(1, 17), 32, 64]
    assert budgets_up_to(100) == [*range(1, 17), 32, 64, 100]


@pytest.mark.parametrize("ranking", RANKINGS)
def test_budget_beyond_the_samples_is_refused(ranking: Ranking) -> None:
    row: Row = {"sample": 0, "candidate_sha256": "a", "nll": 1.0, "nll_mean": 1.0, "status": "correct"}
    row |= dict.fromkeys(("fast_1", "fast_1_confident"), True) | dict.fromkeys(("speedup", "speedup_low"), 2.0)
    with pytest.raises(ValueError, match=r"budgets 1\.\.2"):
        deployed(cell([row]), ranking, [1, 2])


# --- the command line ----------------------------------------------------------------------------------------------


def made(world: World, *arguments: str, output: Path | None = None) -> pl.DataFrame:
    output = output or world.output
    files = [part for kind in ("evaluations", "logprobs") for part in (f"--{kind}", *paths(world, kind))]
    assert main(["budget_curve", *files, "--output", str(output), "--aggregate.bootstrap", "200", *arguments]) == 0
    for suffix in ("png", "svg"):
        assert (output / f"figure_budget_curve.{suffix}").stat().st_size > 1000
    return pl.read_csv(output / "budget_curve.csv", infer_schema_length=None)


def paths(world: World, kind: str) -> list[str]:
    return [str(world.path(kind, *place)) for place in world.cells]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    world = World(tmp_path_factory.mktemp("world"))
    world.add("one", 42, ONE_42)
    world.add("one", 43, ONE_43)
    world.add("two", 42, TWO_42)
    return made(world, "--comparison.groups", '{"alone": ["one"], "absent": ["one", "three"]}')


def only(table: pl.DataFrame, **keys: Any) -> Row:
    chosen = table.filter(*(pl.col(key) == value for key, value in keys.items()))
    assert chosen.height == 1
    return chosen.row(0, named=True)


def test_table_by_hand(table: pl.DataFrame) -> None:
    sets = table.filter(pl.col("task_id").is_null())
    assert sets["set"].unique(maintain_order=True).to_list() == ["one", "two", "alone"]
    # Seed 42, highest surprisal first: task 4: 4.0; task 12: 1.0, 1.0, 3.0. Seed 43: 2.0 and 1.05, which is not confident.
    first = only(sets, set="one", ranking="surprisal", surprisal="sum", m=1)
    assert first["fast_1"] == pytest.approx(3 / 6)
    assert first["fast_1_confident"] == pytest.approx(2 / 6, rel=1e-4)
    assert first["mean_speedup"] == pytest.approx((4 + 1 + 2 + 1.05) / 6, rel=1e-4)
    assert first["correct"] == pytest.approx(4 / 6, rel=1e-4)
    assert first["fast_1_low"] == 0 < first["fast_1"] < first["fast_1_high"]
    assert only(sets, set="one", ranking="surprisal", surprisal="sum", m=2)["fast_1"] == pytest.approx(3 / 6)
    # Task 12's two slow samples are one candidate, so that the fast one is second.
    distinct = only(sets, set="one", ranking="distinct-surprisal", surprisal="sum", m=2)
    assert distinct["fast_1"] == pytest.approx(4 / 6, rel=1e-4)
    assert distinct["distinct_evaluations"] == pytest.approx((2 + 2 + 2 + 1 + 2 + 2) / 6, rel=1e-4)
    assert (first["n_tasks"], first["n_seeds"], first["n_samples"], first["resampled"]) == (
        3,
        2,
        4,
        "tasks, then seeds",
    )
    same = [column for column in sets.columns if not column.endswith(("_low", "_high")) and column != "set"]
    assert sets.filter(pl.col("set") == "one").select(same).equals(sets.filter(pl.col("set") == "alone").select(same))


def test_single_tasks_are_beside_their_set(table: pl.DataFrame) -> None:
    tasks = table.filter(pl.col("task_id").is_not_null())
    assert tasks.select("set", "task_id").unique().sort("task_id").rows() == [("one", t) for t in (4, 5, 12)] + [
        ("two", 18)
    ]
    whole = table.filter(pl.col("task_id").is_null(), pl.col("set") == "one")
    keys = ["ranking", "surprisal", "m"]
    means = tasks.filter(pl.col("set") == "one").group_by(keys).agg(pl.col("fast_1", "mean_speedup").mean())
    joined = whole.join(means, on=keys, nulls_equal=True, suffix="_of_tasks")
    assert joined.height == whole.height
    for column in ("fast_1", "mean_speedup"):
        np.testing.assert_allclose(joined[column], joined[f"{column}_of_tasks"], rtol=1e-4)
    row = only(tasks, task_id=4, ranking="random", m=1)
    assert (row["resampled"], row["fast_1"]) == ("samples", pytest.approx((2 / 4 + 4 / 4) / 2))
    assert row["fast_1_low"] < row["fast_1"] < row["fast_1_high"]


def test_task_without_a_correct_sample_fails_at_every_budget(table: pl.DataFrame) -> None:
    nothing = table.filter(pl.col("task_id") == 5)
    assert nothing.select("fast_1", "fast_1_confident", "correct", "mean_speedup").sum().row(0) == (0, 0, 0, 0)
    assert (nothing["fast_1_high"] > 0.5).all()  # two seeds say little


def test_every_interval_holds_its_estimate(table: pl.DataFrame) -> None:
    for column in ("fast_1", "fast_1_confident", "correct", "mean_speedup"):
        assert (table[f"{column}_low"] <= table[column]).all()
        assert (table[column] <= table[f"{column}_high"]).all()
    assert (table["fast_1_confident"] <= table["fast_1"]).all()


def test_one_seed_one_task_one_sample(tmp_path: Path) -> None:
    verdict: list[Verdict] = [correct(2.0, 1.0)]
    world = World(tmp_path)
    world.add("one", 42, {4: verdict})
    table = made(world, "--select.surprisal", "mean")
    assert set(table["m"]) == {1}
    assert (table["fast_1"] == 1).all()
    world = World(tmp_path / "none")
    world.add("one", 42, {4: [wrong()], 5: [wrong()]})
    assert (made(world)["correct"] == 0).all()


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("one", 42, ONE_42)
    made(world)
    made(world, output=tmp_path / "again")
    for name in ("budget_curve.csv", "figure_budget_curve.png", "figure_budget_curve.svg"):
        assert (tmp_path / "again" / name).read_bytes() == (world.output / name).read_bytes()


def test_inputs_that_do_not_fit_name_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    world.add("one", 42, ONE_42)
    world.add("one", 43, ONE_43)
    every = paths(world, "evaluations")

    def said(*logprobs: str, status: int = 1) -> str:
        arguments = ["--evaluations", *every, "--logprobs", *logprobs, "--output", str(tmp_path / "out")]
        assert main(["budget_curve", *arguments]) == status
        return capsys.readouterr().err

    assert "give the file of subset one, seed 43" in said(paths(world, "logprobs")[0])
    edit("logprobs", 42, lambda t: t.with_columns(nll=pl.lit(float("nan"))))(world)
    assert "logprobs/one/seed=42.parquet: task 4, seed 42, sample 0 has no usable nll" in said(
        *paths(world, "logprobs")
    )
    edit("evaluations", 43, lambda t: t.filter(pl.col("task_id") != 12))(world)
    edit("logprobs", 42, lambda t: t.with_columns(nll=pl.lit(1.0)))(world)
    edit("logprobs", 43, lambda t: t.filter(pl.col("task_id") != 12))(world)
    assert "seed=43.parquet lacks task 12" in said(*paths(world, "logprobs"))
    every = []
    assert "--evaluations names no file" in said(status=2)


def test_sets_are_subsets_then_groups_that_are_all_there() -> None:
    cells = cells_of([Path(f"{subset}/seed=1.parquet") for subset in ("b", "a")])
    assert task_sets(cells, {"both": ["a", "b"], "more": ["a", "c"], "none": []}) == {
        "b": ("b",),
        "a": ("a",),
        "both": ("a", "b"),
    }
    with pytest.raises(UserError, match="has the name of a subset"):
        task_sets(cells, {"a": ["b"]})
    with pytest.raises(UserError, match="different seeds"):
        task_sets(cells | cells_of([Path("a/seed=2.parquet")]), {"both": ["a", "b"]})
