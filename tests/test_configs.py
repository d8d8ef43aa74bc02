"""Every configuration that is shipped: it parses, and its dry run plans the jobs that its settings call for."""

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from injection import ROOT, snakemake

from expert_tail.config import Config, parse_config
from expert_tail.errors import UserError
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.policy.settings import PolicySettings, RuntimeSettings

# Each with what it is to be used with; all of them on top of config.yaml.
COMBINATIONS = [
    ["smoke"],
    ["h100"],
    ["qwen2.5-coder-7b"],
    ["qwen2.5-coder-7b", "adaptation"],
    ["gpt-oss-120b", "adaptation"],
]


def files_of(names: list[str]) -> list[Path]:
    return [ROOT / "configs" / f"{name}.yaml" for name in names]


def merged(files: list[Path]) -> Config:
    """As Snakemake merges configuration files: dictionaries key by key, everything else replaced."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())
    for file in files:
        _update(values, yaml.safe_load(file.read_text()))
    return parse_config(values)


def _update(values: dict[str, Any], others: dict[str, Any]) -> None:
    for key, value in others.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _update(values[key], value)
        else:
            values[key] = value


def jobs_of(folder: Path, files: list[Path]) -> dict[str, int]:
    options = ["--configfile", *files] if files else []
    done = subprocess.run(snakemake(folder, "-n", "all", *options), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    lines = (line.split() for line in done.stdout.partition("Job stats:")[2].partition("\n\n")[0].splitlines())
    return {parts[0]: int(parts[1]) for parts in lines if len(parts) == 2 and parts[1].isdigit()}


def test_every_file_is_tried() -> None:
    assert {name for names in COMBINATIONS for name in names} == {file.stem for file in ROOT.glob("configs/*.yaml")}


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_plans_the_jobs_of_its_settings(names: list[str], tmp_path: Path) -> None:
    config, jobs = merged(files_of(names)), Counter(jobs_of(tmp_path, files_of(names)))
    cells = len(config.compared_subsets) * len(config.sampling.seeds)
    for rule in ("sample_k64", "compile_and_time", "score_logprobs", "select"):
        assert jobs[rule] == cells, rule
    assert {rule.removeprefix("adapt_") for rule in jobs if rule.startswith("adapt_")} == set(config.runs)
    assert jobs["nll_probe"] == sum(config.adaptation.runs[run].steps + 1 for run in config.probed_runs)
    assert jobs["rlvr_train"] == jobs["fetch_policy"] == jobs["aggregate"] == jobs["null_audit"] == 1


def test_the_paper_is_what_gpt_oss_is_configured_for() -> None:
    config = merged(files_of(["gpt-oss-120b", "adaptation"]))
    evaluated = sorted(task for tasks in config.tasks.held_out.values() for task in tasks)
    assert evaluated == [4, 5, 12, 14, 15, 18, 28, 29, 30, 32, 36, 55, 65, 70, 76, 82, 87, 89, 95, 98]
    assert (config.rlvr.steps, config.rlvr.tasks_per_step, config.rlvr.rollouts_per_task) == (40, 8, 8)
    assert config.rlvr.checkpoints == [10, 20, 30, 40]
    assert config.lora.rank == 16
    assert (config.sampling.k, config.sampling.seeds) == (64, [42, 43])
    for drawn in (config.rlvr, config.sampling):
        assert (drawn.temperature, drawn.max_tokens) == (0.25, 1024)
    batch = [config.adaptation.runs[f"batch-{seed}"] for seed in (42, 43, 44)]
    assert [run.seed for run in batch] == [42, 43, 44]
    assert {(run.lr, run.steps, run.rollouts, run.reward) for run in batch} == {(1e-5, 8, 32, "normalised")}
    assert config.rlvr.learning_rate == 1e-5
    assert config.prompt.template == "harmony"


def test_how_memory_is_shared_out_is_no_other_training() -> None:
    usual = RuntimeSettings()
    assert RuntimeSettings(shards=2, kv_cache_gib=1).of_numbers() == usual.of_numbers()
    assert RuntimeSettings(dtype="bfloat16").of_numbers() != usual.of_numbers()


@pytest.mark.parametrize("section", ["rlvr", "sampling"])
def test_seeds_are_not_negative(section: str) -> None:
    with pytest.raises(UserError, match=rf"`{section}\.seed.*greater than or equal to 0"):
        parse_config({section: {"rlvr": {"seed": -1}, "sampling": {"seeds": [-1]}}[section]})


def test_a_policy_in_shards_is_one_process_or_as_many() -> None:
    assert PolicySettings(shards=2).processes == 1
    assert PolicySettings(shards=2, processes=2).shards == 2
    for processes in (2, 4):
        with pytest.raises(ValueError, match="let `processes` be 1 or as many"):
            PolicySettings(shards=3, processes=processes)


def test_settings_of_the_other_protocol_are_no_other_evaluation() -> None:
    def flags(**changes: Any) -> str:
        evaluator = EvaluatorSettings(**changes)
        return evaluator.flags("evaluator", without=evaluator.of_other_protocol)

    assert flags(paper_trials=6) == flags()
    assert flags(max_pairs=40) != flags()
    assert flags(protocol="paper", max_pairs=40) == flags(protocol="paper")


def test_a_group_has_no_subsets_name() -> None:
    with pytest.raises(UserError, match=r"^`comparison\.groups\.subset1` has the name of a subset"):
        parse_config({"tasks": {"subsets": {"subset1": [4]}}, "comparison": {"groups": {"subset1": ["subset1"]}}})


def test_the_key_to_change_is_named_and_no_section_is_printed() -> None:
    with pytest.raises(UserError, match=r"`rlvr`: `checkpoints` must end with the last step, 12, .* it is \[4, 8\]$"):
        parse_config({"rlvr": {"steps": 12, "checkpoints": [4, 8]}})


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"tasks": {"subsets": {"one": [4, 555]}}}, "tasks.subsets.one"),
        ({"null_audit": {"tasks": [555]}}, "null_audit.tasks"),
        ({"adaptation": {"runs": {"x": {"task": 555, "steps": 1, "rollouts": 2}}}}, "adaptation.runs.x.task"),
        ({"tasks": {"subsets": {"one": [0, 4]}}}, "tasks.subsets.one"),
        ({"adaptation": {"runs": {"x": {"task": 0, "steps": 1, "rollouts": 2}}}}, "adaptation.runs.x.task"),
    ],
)
def test_tasks_that_the_suite_does_not_have_are_refused_before_anything_runs(values: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=rf"^`{key}` names task (0|555), which level1 does not have: it has 1 to 100$"):
        parse_config(values)
    theirs = {"tasks": {"source": "mine.parquet", "subsets": {"one": [4, 555]}}, "sampling": {"subsets": ["one"]}}
    parse_config(values | theirs)
