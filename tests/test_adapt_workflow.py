"""Adaptation in the DAG: what depends on what, and what an edit runs again."""

import json
from pathlib import Path

import pytest
import yaml
from workflow_copies import ROOT, checkout, edit, finished, planned, snakemake

from expert_tail.config import parse_config

__all__ = ["checkout", "finished"]  # fixtures

TARGET = "results/adaptation.csv"
CONFIG = parse_config(yaml.safe_load((ROOT / "config.yaml").read_text()))
RUNS = {f"adapt_{run}" for run in CONFIG.adaptation.runs}
TRANSFERS = {f"adapt_{name}" for name, run in CONFIG.adaptation.runs.items() if run.start}


def test_adaptation_is_planned_beside_table3_and_not_under_it(checkout: Path) -> None:
    jobs = planned(checkout, TARGET)
    assert set(jobs) >= RUNS
    assert jobs["nll_probe"] == sum(CONFIG.adaptation.runs[run].steps + 1 for run in CONFIG.probes.runs)
    assert jobs["rlvr_train"] == jobs["adaptation_tables"] == 1
    assert not any("adapt" in rule or "probe" in rule for rule in planned(checkout, "results/table3.csv"))
    assert set(jobs) < set(planned(checkout, "all"))


def test_run_from_another_runs_best_step_waits_for_it(checkout: Path) -> None:
    transfer = {"subset": "subset2", "start": {"run": "grpo-42", "step": "boa"}, "steps": 0}
    config = {"runs": {"transfer": transfer}, "only": ["transfer"]}
    jobs = planned(checkout, TARGET, "--config", f"adaptation={json.dumps(config)}")
    assert "nll_probe" not in jobs
    assert {"adapt_transfer", "adapt_grpo-42", "best_of_adaptation"} <= set(jobs)
    assert "adapt_grpo-43" not in jobs


def test_runs_on_an_emptied_subset_drop_out_with_what_starts_from_them(checkout: Path) -> None:
    tasks = {"subsets": {"own": [1, 2], "subset1": [], "subset2": [30]}}
    jobs = planned(checkout, TARGET, "--config", f"tasks={json.dumps(tasks)}", "sampling={subsets: [own]}")
    left = {f"adapt_isolated-{task}" for task in (4, 5, 12, 14, 15)} | {"adapt_grpo-subset2"}
    assert {rule for rule in jobs if rule.startswith("adapt_")} == left
    assert not {"nll_probe", "best_of_adaptation"} & set(jobs)


def test_edits_run_again_what_they_are_about(finished: Path) -> None:
    everything = RUNS | {"best_of_adaptation", "nll_probe", "adaptation_tables"}
    rules = finished / "src/expert_tail/best_of_adaptation/best.py"
    edit(rules, "scores[step] > scores[best]", "scores[step] >= scores[best]")
    assert set(planned(finished, TARGET)) == TRANSFERS | {"best_of_adaptation", "adaptation_tables"}
    edit(rules, "scores[step] >= scores[best]", "scores[step] > scores[best]")
    timing = finished / "src/expert_tail/evaluator/timing.py"
    timing.write_text(timing.read_text() + "\nANOTHER = 1\n")
    assert set(planned(finished, TARGET)) == {"compile_and_time", "adaptation_tables"}
    again = planned(finished, TARGET, "--config", "adaptation={rerun_on_evaluator_change: true}")
    assert set(again) == everything | {"compile_and_time"}
    timing.write_text(timing.read_text().removesuffix("\nANOTHER = 1\n"))
    edit(finished / "src/expert_tail/adapt/objectives.py", "n / (n - 1) * (reward", "(n + 1) / n * (reward")
    assert set(planned(finished, TARGET)) == everything


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("adaptation={runs: {x: {objective: gropo, subset: subset1}}}", "did you mean `grpo`?"),
        ("adaptation={runs: {x: {subset: subset9}}}", "`subset9`"),
        ("probes={runs: [gpro-42]}", "did you mean `grpo-42`?"),
    ],
)
def test_wrong_configuration_names_the_key(checkout: Path, config: str, message: str) -> None:
    done = snakemake(checkout, "-n", TARGET, "--config", config)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
