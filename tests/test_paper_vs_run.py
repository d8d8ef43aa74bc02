"""Published numbers beside a run's: every counterpart that is named exists, is the right cell, and says why it is empty."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from adaptation_artifacts import write_run
from test_aggregate import correct, wrong
from test_comparison import Compared

from expert_tail.adapt.settings import AdaptationSettings
from expert_tail.adaptation_tables.stage import run as adaptation_tables
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.cli import main
from expert_tail.config import parse_config
from expert_tail.errors import UserError
from expert_tail.paper_vs_run import PUBLISHED
from expert_tail.paper_vs_run.lookup import Results

ROOT = Path(__file__).parents[1]
SETTINGS = AggregateSettings(bootstrap=100)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All results of a small run of the subsets 1 and 2, with adaptation under one seed."""
    world = Compared(tmp_path_factory.mktemp("paper"))
    for seed in (42, 43):
        world.add("subset1", seed, {4: [correct(2, 9), correct(0.5, 1), wrong(), wrong()], 5: [correct(1.5, 2)] * 4})
        world.add("subset2", seed, {18: [correct(1.1, 2, low=0.9)] * 4})
    world.train({0: [0, 1], 1: [2, 4]}, checkpoints=(2,))
    runs: dict[str, Any] = {
        "batch-42": dict(subset="subset1", seed=42, steps=1, rollouts=2),
        "moved": dict(subset="subset2", steps=0, rollouts=2, start={"run": "batch-42"}),
    }
    world.adaptation = AdaptationSettings(runs=runs)
    rates = {"batch-42": {4: [(0, 0), (1, 0)], 5: [(1, 0), (1, 1)]}, "moved": {18: [(1, 0)]}}
    for name, run in world.adaptation.runs.items():
        write_run(world.folder / "adapt" / name, run, rates[name])
    world.run(SETTINGS)
    adaptation_tables(SETTINGS, world.adaptation, world.folder / "adapt", [], [], 4, world.output)
    assert world.compare() == 0
    config = parse_config(yaml.safe_load((ROOT / "config.yaml").read_text()))
    (world.output / "config.yaml").write_text(yaml.safe_dump(json.loads(config.model_dump_json())))
    assert main(["paper_vs_run", f"--results={world.output}", f"--output={world.output}/paper_vs_run.csv"]) == 0
    return world.output


def row(results: Path, table: str, name: str, metric: str) -> dict[str, Any]:
    rows = pl.read_csv(results / "paper_vs_run.csv", infer_schema=False)
    (found,) = rows.filter(table=table, row=name, metric=metric).to_dicts()
    return found


def test_every_published_number_has_a_row(results: Path) -> None:
    rows = pl.read_csv(results / "paper_vs_run.csv", infer_schema=False)
    published = pl.read_csv(PUBLISHED, infer_schema=False)
    key = ["table", "row", "metric", "paper"]
    assert rows.select(key).equals(published.select(key))
    assert not published.select(key[:3]).is_duplicated().any()
    tables = set(published["table"])
    assert tables == {*map(str, range(1, 13)), "B", "C.1", "D.1", "D.2", "E.1", "text", "Figure 6"}
    # Either a number and where it is from, or why there is none.
    assert rows.filter(pl.col("run").is_null() & pl.col("note").fill_null("").eq("")).is_empty()
    assert rows.filter(pl.col("run").is_not_null() & pl.col("source").fill_null("").eq("")).is_empty()
    assert rows["run"].is_not_null().sum() > 80


def test_rates_are_fractions() -> None:
    published = pl.read_csv(PUBLISHED, infer_schema=False)
    rates = published.filter(pl.col("metric").str.contains("fast_1|correct|%")).filter(pl.col("metric") != "difference")
    assert rates["paper"].cast(pl.Float64).is_between(0, 1).all()


def test_counterparts_by_hand(results: Path) -> None:
    found = row(results, "3", "K = 1", "fast_1")
    assert (found["paper"], found["run"], found["run_confident"]) == ("0.533", "0.625", "0.625")
    assert float(found["run_low"]) <= 0.625 <= float(found["run_high"])
    assert found["source"] == "table2.csv: subset subset1, k 1"
    assert row(results, "8", "step 1, task 4", "fast_1")["run"] == "0.5"
    assert row(results, "9", "task 4, step 0", "fast_1")["note"].startswith("this run has no row of table9.csv")
    assert row(results, "1", "both", "temperature")["run"] == "0.7"
    assert row(results, "text", "transfer from subset 1 to 2", "fast_1")["run"] == "0.5"
    assert row(results, "B", "step 10", "correct")["run"] is None
    h = row(results, "text", "surprisal against confidence", "Cohen's h")
    # Surprisal picks 2.0 and 1.5 everywhere, confidence 0.5 on task 4: 100 % against 50 %.
    assert float(h["run"]) == pytest.approx(1.5708, rel=1e-4)
    assert h["run_confident"] == h["run"]


def test_inconsistencies_of_the_paper_are_noted(results: Path) -> None:
    assert "30.6" in row(results, "4", "TTT BoA", "fast_1")["note"]
    assert "39.8" in row(results, "3", "K = 1", "fast_1")["note"]


def test_result_that_is_missing_or_of_another_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"table2\.csv does not exist; run `snakemake results/table2\.csv`"):
        Results(tmp_path).find("table2.csv", "k=1", "fast_1")
    (tmp_path / "table2.csv").write_text("k,rate\n1,0.5\n")
    with pytest.raises(UserError, match="no column `fast_1`"):
        Results(tmp_path).find("table2.csv", "k=1", "fast_1")
    (tmp_path / "statistics.json").write_text("{")
    with pytest.raises(UserError, match=r"statistics\.json cannot be read"):
        Results(tmp_path).find("statistics.json", "", "a/b")


def test_lookup_in_tables_and_trees(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("k,task_id,v,v_low,v_place,run\n1,,0.1,0.0,,a\n1,4,,,below K = 1,b\n1,4,0.3,,,c\n")
    results = Results(tmp_path)
    assert results.find("t.csv", "k=1.0;task_id=", "v")[:3] == (0.1, 0.0, None)
    empty = results.find("t.csv", "k=1;task_id=4", "v")
    assert (empty.value, empty.note) == (None, "below K = 1; the first of 2 rows")
    assert empty.source == "t.csv: k 1, task_id 4, run b"
    tree = {
        "a": [{"n": 1, "fast_1": {"p": 0.5}, "fast_1_confident": {"p": 0.6}}, {"n": 2, "p": None, "reason": "none"}]
    }
    (tmp_path / "s.json").write_text(json.dumps(tree))
    assert results.find("s.json", "", "a/n=1/fast_1/p")[:4] == (0.5, None, None, 0.6)
    assert results.find("s.json", "", "a/n=2/p").note == "none"
    assert results.find("s.json", "", "a/n=3/p").note == "this run has no a/n=3/p in s.json"
