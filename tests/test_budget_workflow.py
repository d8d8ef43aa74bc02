"""What lies behind the tables of budget, sensitivity and cost in the DAG."""

from pathlib import Path

import yaml
from workflow_copies import ROOT, checkout, planned

from expert_tail.config import parse_config

__all__ = ["checkout"]  # a fixture

CONFIG = parse_config(yaml.safe_load((ROOT / "config.yaml").read_text()))
FILES = len(CONFIG.compared_subsets) * len(CONFIG.sampling.seeds)


def test_all_compared_subsets_are_sampled_evaluated_and_scored_twice(checkout: Path) -> None:
    jobs = planned(checkout, "all")
    for rule in ("sample_k64", "compile_and_time", "score_logprobs", "score_logprobs_base"):
        assert jobs[rule] == FILES
    assert {f"adapt_{run}" for run in CONFIG.adaptation.runs} <= set(jobs)
    assert {"budget_curve", "selection_sensitivity", "pareto"} <= set(jobs)


def test_without_adaptation_and_further_subsets_only_the_headlines_are_needed(checkout: Path) -> None:
    config = ("--config", "adaptation={only: []}", "probes={runs: []}", "comparison={subsets: [], groups: {}}")
    jobs = [planned(checkout, f"results/{rule}.csv", *config) for rule in ("selection_sensitivity", "pareto")]
    assert jobs[0]["score_logprobs_base"] == len(CONFIG.sampling.subsets) * len(CONFIG.sampling.seeds)
    assert not any("adapt" in rule or "probe" in rule for of_target in jobs for rule in of_target)
