"""The comparison in the DAG: what it waits for, and what an edit runs again."""

from pathlib import Path

import pytest
from test_adapt_workflow import CONFIG, RUNS, planned
from test_workflow import ROOT, checkout, edit, snakemake

__all__ = ["checkout"]  # a fixture

TARGET = "results/paper_vs_run.csv"


@pytest.fixture
def finished(checkout: Path) -> Path:
    """A checkout in which everything that the target needs counts as made."""
    listed = snakemake(checkout, "-n", "--summary", TARGET)
    assert listed.returncode == 0, listed.stderr[-3000:]
    for line in listed.stdout.splitlines():
        path = checkout / line.split("\t")[0]
        if "/" in line.split("\t")[0]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert snakemake(checkout, "--touch", "--forceall", TARGET).returncode == 0
    assert planned(checkout, target=TARGET) == {}
    return checkout


def test_comparison_is_over_all_compared_subsets_and_table3_is_not(checkout: Path) -> None:
    jobs = planned(checkout, target=TARGET)
    assert set(jobs) >= RUNS | {"comparison", "paper_vs_run", "aggregate", "adaptation_tables", "record_config"}
    cells = len(CONFIG.compared_subsets) * len(CONFIG.sampling.seeds)
    assert jobs["sample_k64"] == jobs["compile_and_time"] == jobs["score_logprobs"] == jobs["select"] == cells
    headline = planned(checkout, target="results/table3.csv")
    assert "comparison" not in headline
    assert headline["sample_k64"] == len(CONFIG.sampling.subsets) * len(CONFIG.sampling.seeds)


def test_without_adaptation_and_further_subsets_it_is_planned_too(checkout: Path) -> None:
    config = ["--config", "adaptation={only: []}", "probes={runs: []}", "comparison={subsets: []}"]
    jobs = planned(checkout, *config, target=TARGET)
    assert jobs["sample_k64"] == len(CONFIG.sampling.seeds)
    assert not RUNS & set(jobs)


def test_edits_run_again_what_they_are_about(finished: Path) -> None:
    published = finished / "src/expert_tail/paper_vs_run/published.csv"
    edit(published, "0.533", "0.534")
    assert set(planned(finished, target=TARGET)) == {"paper_vs_run"}
    edit(published, "0.534", "0.533")
    edit(finished / "src/expert_tail/comparison/paired.py", "FLOOR = 1e-6", "FLOOR = 1e-5")
    assert set(planned(finished, target=TARGET)) == {"comparison", "paper_vs_run"}


def test_smoke_configuration_has_a_plan(checkout: Path) -> None:
    smoke = ["--configfile", str(ROOT / "configs/smoke.yaml")]
    jobs = planned(checkout, *smoke, target=TARGET)
    assert jobs["sample_k64"] == 1
    assert {"adapt_smoke-grpo", "adapt_smoke-sdpo", "comparison"} <= set(jobs)
