"""The comparison in the DAG: what it waits for, and what an edit runs again."""

from pathlib import Path

from test_adapt_workflow import CONFIG, RUNS
from workflow_copies import ROOT, checkout, edit, finished, planned

__all__ = ["checkout", "finished"]  # fixtures

TARGET = "results/paper_vs_run.csv"


def test_comparison_is_over_all_compared_subsets_and_table3_is_not(checkout: Path) -> None:
    jobs = planned(checkout, TARGET)
    assert set(jobs) >= RUNS | {"comparison", "paper_vs_run", "aggregate", "adaptation_tables", "record_config"}
    cells = len(CONFIG.compared_subsets) * len(CONFIG.sampling.seeds)
    assert jobs["sample_k64"] == jobs["compile_and_time"] == jobs["score_logprobs"] == jobs["select"] == cells
    headline = planned(checkout, "results/table3.csv")
    assert "comparison" not in headline
    assert headline["sample_k64"] == len(CONFIG.sampling.subsets) * len(CONFIG.sampling.seeds)


def test_without_adaptation_and_further_subsets_it_is_planned_too(checkout: Path) -> None:
    config = ["--config", "adaptation={only: []}", "probes={runs: []}", "comparison={subsets: []}"]
    jobs = planned(checkout, TARGET, *config)
    assert jobs["sample_k64"] == len(CONFIG.sampling.seeds)
    assert not RUNS & set(jobs)


def test_edits_run_again_what_they_are_about(finished: Path) -> None:
    published = finished / "src/expert_tail/paper_vs_run/published.csv"
    edit(published, "0.533", "0.534")
    assert set(planned(finished, TARGET)) == {"paper_vs_run"}
    edit(published, "0.534", "0.533")
    edit(finished / "src/expert_tail/comparison/paired.py", "FLOOR = 1e-6", "FLOOR = 1e-5")
    assert set(planned(finished, TARGET)) == {"comparison", "paper_vs_run"}


def test_smoke_configuration_has_a_plan(checkout: Path) -> None:
    smoke = ["--configfile", str(ROOT / "configs/smoke.yaml")]
    jobs = planned(checkout, TARGET, *smoke)
    assert jobs["sample_k64"] == 1
    assert {"adapt_smoke-grpo", "adapt_smoke-sdpo", "comparison"} <= set(jobs)
