"""Sensitivity of selection: against table 1, by hand, and under scorers that have some of the samples only."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from test_aggregate import ONE_42, ONE_43, SETTINGS, TWO_42, World, blank, edit, wrong

from expert_tail import artifacts
from expert_tail.aggregate import statistics
from expert_tail.aggregate.regimes import regimes
from expert_tail.cli import main
from expert_tail.select.strategies import STRATEGIES
from expert_tail.selection_sensitivity.table import DIFFERENCE, METRICS, sensitivity, unanimous_difference

Row = dict[str, Any]
RUN = "some-run/step=3"


def write_scores(world: World, subset: str, seed: int, path: Path, kind: str) -> Path:
    """Scores of the samples under another checkpoint, whose surprisal is the other way round."""
    scores = pl.DataFrame(artifacts.read(world.path("logprobs", subset, seed), "logprobs"))
    scores = scores.with_columns(nll=10 - pl.col("nll"), nll_tail=pl.lit(0.0))
    artifacts.write(path, kind, scores.to_arrow())
    return path


def base_of(world: World) -> list[Path]:
    folder = world.folder / "logprobs_base"
    return [write_scores(world, *at, folder / at[0] / f"seed={at[1]}.parquet", "logprobs") for at in world.cells]


def probe_of(world: World, subset: str, seed: int) -> Path:
    return write_scores(world, subset, seed, world.folder / "probes" / f"{RUN}.parquet", "probes")


def made(world: World, base: list[Path] | None = None, probes: list[Path] | None = None, *arguments: str) -> int:
    kinds = {kind: [world.path(kind, *place) for place in world.cells] for kind in ("evaluations", "logprobs")}
    files = [part for kind, paths in kinds.items() for part in (f"--{kind}", *map(str, paths))]
    files += ["--base", *map(str, base or []), "--probes", *map(str, probes or [])]
    files += ["--output", str(world.output), "--aggregate.bootstrap", "200"]
    return main(["selection_sensitivity", *files, *arguments])


def table_of(world: World) -> pl.DataFrame:
    for suffix in ("png", "svg"):
        assert (world.output / f"figure_selection_sensitivity.{suffix}").stat().st_size > 1000
    return pl.read_csv(world.output / "selection_sensitivity.csv", schema_overrides={"seeds": pl.String})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("world"))
    world.add("one", 42, ONE_42)
    world.add("one", 43, ONE_43)
    world.add("two", 42, TWO_42)
    world.train({0: [1]})
    world.run()
    assert made(world, base_of(world), [probe_of(world, "one", 42)], "--comparison.groups", '{"alone": ["one"]}') == 0
    return world


@pytest.fixture(scope="module")
def table(world: World) -> pl.DataFrame:
    return table_of(world)


DEFAULT = {"set": "one", "regime": "all", "seeds": "42 43", "scorer": "rlvr", "surprisal": "sum", "duplicates": "kept"}


def only(table: pl.DataFrame, **keys: Any) -> Row:
    chosen = table.filter(*(pl.col(key) == value for key, value in keys.items()))
    assert chosen.height == 1
    return chosen.row(0, named=True)


def test_default_choice_is_table_1_with_its_intervals(world: World, table: pl.DataFrame) -> None:
    for subset, seeds in (("one", "42 43"), ("two", "42")):
        for expected in world.table(1).filter(pl.col("subset") == subset).iter_rows(named=True):
            row = only(table, **(DEFAULT | {"set": subset, "seeds": seeds}), strategy=expected["strategy"])
            shared = set(row) & set(expected)
            assert len(shared) == 14
            assert {key: row[key] for key in shared} == {key: expected[key] for key in shared}


def test_grid_of_choices_is_complete(table: pl.DataFrame) -> None:
    every = table.filter(pl.col("set") == "one", pl.col("regime") == "all")
    of_seeds = {seeds: set(rows["scorer"]) for (seeds,), rows in every.group_by("seeds")}
    assert of_seeds == {"42 43": {"rlvr", "base"}, "42": {"rlvr", "base", RUN}}
    assert every.height == (2 + 3) * 2 * 2 * (len(STRATEGIES) + 1)
    assert table["set"].unique(maintain_order=True).to_list() == ["one", "two", "alone"]
    assert set(table.filter(pl.col("set") == "two")["scorer"]) == {"rlvr", "base"}


def test_scorer_of_opposite_surprisal_swaps_surprisal_and_confidence(table: pl.DataFrame) -> None:
    where = DEFAULT | {"seeds": "42"}
    for scorer in ("base", RUN):
        for metric in METRICS:
            ours = only(table, **where, strategy=DIFFERENCE)[metric]
            theirs = only(table, **(where | {"scorer": scorer}), strategy=DIFFERENCE)[metric]
            # Task 12 has two samples of one candidate at the top, so that no tie decides.
            assert ours == pytest.approx(-theirs, rel=1e-4)
        assert only(table, **(where | {"scorer": scorer}), strategy="random-correct")["fast_1"] == pytest.approx(
            only(table, **where, strategy="random-correct")["fast_1"]
        )


def test_difference_is_paired(table: pl.DataFrame) -> None:
    row = only(table, **DEFAULT, strategy=DIFFERENCE)
    guided = [only(table, **DEFAULT, strategy=f"{name}-guided") for name in ("surprisal", "confidence")]
    for metric in METRICS:
        assert row[metric] == pytest.approx(guided[0][metric] - guided[1][metric], rel=1e-3)
    # Surprisal: (4.0, 2.0), (0, 0), (1.0, 1.05); confidence: (0.5, 2.0), (0, 0), (0.8, 1.05).
    differences = np.array([[1, 0], [0, 0], [0, 0]], dtype=float)
    weights = statistics.hierarchical_weights(3, 2, 200, statistics.generator(0, "strategies", "one"))
    draws = [(weights[b] * differences).sum() for b in range(200)]
    assert (row["fast_1_low"], row["fast_1_high"]) == pytest.approx(np.quantile(draws, [0.025, 0.975]), rel=1e-4)
    assert row["mean_speedup"] == pytest.approx((3.5 + 0.2) / 6, rel=1e-4)
    assert row["evaluations_used"] is None


def test_without_duplicates_a_candidate_is_its_first_sample() -> None:
    def row(sample: int, candidate: str, nll: float, speedup: float) -> Row:
        keys: Row = {"subset": "s", "task_id": 1, "seed": 7, "sample": sample, "candidate_sha256": candidate}
        return keys | {
            "nll": nll,
            "nll_mean": nll,
            "status": "correct",
            "speedup": speedup,
            "speedup_low": speedup - 0.1,
        }

    # The most surprising sample is other tokens of candidate a, whose first sample is the least surprising one.
    samples = [row(0, "a", 1.0, 2.0), row(1, "b", 2.0, 0.5), row(2, "a", 9.0, 2.0), row(3, "a", 8.0, 2.0)]
    samples += [row(4, "c", 7.0, 0.8), row(5, "d", 6.0, 3.0)]
    found = sensitivity(pl.DataFrame(samples), {}, {"s": ["s"]}, SETTINGS).filter(
        pl.col("regime") == "all", pl.col("surprisal") == "sum"
    )
    kept, once = (found.filter(pl.col("duplicates") == which) for which in ("kept", "dropped"))
    assert [only(kept, strategy=name)["mean_speedup"] for name in STRATEGIES] == pytest.approx(
        [3, (3 * 2 + 0.5 + 0.8 + 3) / 6, 2, 2, 2], rel=1e-15
    )
    assert [only(once, strategy=name)["mean_speedup"] for name in STRATEGIES] == [3, (2 + 0.5 + 0.8 + 3) / 4, 2, 0.8, 3]


def test_regimes_by_hand() -> None:
    rows = [
        ("s", task, nll) for task, nlls in {1: [0, 4, 1], 2: [0.1, 0.2], 3: [0, 0.9], 4: [5]}.items() for nll in nlls
    ]
    found = regimes(pl.DataFrame(rows, schema=["subset", "task_id", "nll"], orient="row"))
    assert found["regime"].to_list() == ["high", "low", "between", "low"]
    assert found["nll_std"].to_list() == pytest.approx(
        [np.std([0, 4, 1], ddof=1), np.std([0.1, 0.2], ddof=1), 0.6364, 0], abs=1e-4
    )


def test_regimes_share_out_the_tasks(table: pl.DataFrame) -> None:
    chosen = table.filter(
        pl.col("strategy") == DIFFERENCE, pl.col("surprisal") == "sum", pl.col("duplicates") == "kept"
    )
    for _, rows in chosen.group_by("set", "seeds", "scorer"):
        whole = rows.filter(pl.col("regime") == "all")["n_tasks"].item()
        assert rows.filter(pl.col("regime") != "all")["n_tasks"].sum() == whole


@given(st.integers(1, 30), st.sampled_from([0.8, 0.95]))
def test_unanimous_difference_is_the_discordant_rates_interval(tasks: int, confidence: float) -> None:
    none = binomtest(0, tasks).proportion_ci(confidence, method="wilson")
    every = binomtest(tasks, tasks).proportion_ci(confidence, method="wilson")
    assert unanimous_difference(0.0, tasks, confidence) == pytest.approx((-none.high, none.high))
    assert unanimous_difference(1.0, tasks, confidence) == pytest.approx((every.low, 1))
    assert unanimous_difference(-1.0, tasks, confidence) == pytest.approx((-1, -every.low))


def test_nothing_correct_nothing_else_scored(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add("one", 42, {4: [wrong(), wrong()]})
    assert made(world) == 0
    table = table_of(world)
    assert set(table["scorer"]) == {"rlvr"}
    assert table.select("fast_1", "fast_1_confident", "mean_speedup").sum().row(0) == (0, 0, 0)
    assert only(table, regime="all", surprisal="sum", duplicates="kept", strategy=DIFFERENCE)["fast_1_low"] < -0.5


def test_scores_that_do_not_fit_name_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    world.add("one", 42, ONE_42)
    world.add("one", 43, ONE_43)
    base, probe = base_of(world), probe_of(world, "one", 42)

    def said(base: list[Path], probes: list[Path]) -> str:
        assert made(world, base, probes) == 1
        return capsys.readouterr().err

    assert "give those of subset one, seed 43" in said(base[:1], [])
    assert "expected a file …/RUN/step=N.parquet" in said([], [base[0]])
    rows = pl.DataFrame(artifacts.read(probe, "probes"))
    artifacts.write(probe, "probes", rows[1:].to_arrow())
    assert "step=3.parquet lacks task 4, seed 42, sample 0 of its subset" in said(base, [probe])
    artifacts.write(probe, "probes", rows.with_columns(seed=pl.lit(44)).to_arrow())
    assert "which was not evaluated" in said(base, [probe])
    artifacts.write(probe, "probes", [blank("probes", task_id=4, seed=42, sample=0)])
    assert "step=3.parquet: task 4, seed 42, sample 0 has no usable surprisal" in said(base, [probe])
    edit("logprobs", 42, lambda t: t[1:])(world)
    assert "logprobs/one/seed=42.parquet lacks task 4, seed 42, sample 0" in said(base, [])
