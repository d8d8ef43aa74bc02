"""Probes of checkpoints, and the tables of adaptation: against plain passes, SciPy and hand calculation."""

import csv
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import spearmanr
from test_logprobs import one_at_a_time

from expert_tail import artifacts
from expert_tail.adapt.settings import AdaptationSettings, Run
from expert_tail.adaptation_tables.correlation import UNDEFINED, Samples, association, resampled_means, times_drawn
from expert_tail.adaptation_tables.probes import probe
from expert_tail.adaptation_tables.stage import run as write_tables
from expert_tail.adaptation_tables.trajectory import trajectory
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.cli import main
from expert_tail.errors import UserError
from expert_tail.nll_probe.stage import tail
from expert_tail.policy.load import add_lora, load_policy, save_adapter
from expert_tail.policy.prompt import prompt_tokens
from expert_tail.policy.settings import LoraSettings, PromptSettings, RuntimeSettings
from expert_tail.tasks.settings import TaskSettings
from expert_tail.tasks.stage import run as write_tasks
from expert_tail.tasks.stage import tasks_of

RUNTIME, PROMPT = RuntimeSettings(device="cpu"), PromptSettings(examples=0)
SETTINGS = AggregateSettings(bootstrap=400)
BODIES = ["return A * s", "return s * A", "return A * s", "return torch.mul(A, s)"]


# --- probing -------------------------------------------------------------------------------------------------------


def test_probe_is_the_surprisal_under_the_checkpoint(smollm2: Path, tmp_path: Path) -> None:
    """A changed adapter, against one plain pass of transformers a sample at temperature 1."""
    write_tasks(TaskSettings(subsets={"one": [5]}), tmp_path / "tasks.parquet")
    policy = add_lora(load_policy(smollm2, RUNTIME), LoraSettings(rank=4), seed=1)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02, generator=torch.Generator().manual_seed(len(name)))
    save_adapter(policy, tmp_path / "some-run" / "step=3")
    tokens = [policy.tokenizer(body, add_special_tokens=False)["input_ids"] + [2] for body in BODIES]
    write_samples(tmp_path / "seed=42.parquet", tokens)
    paths = dict(tasks="tasks.parquet", samples="seed=42.parquet", adapter="some-run/step=3", output="probe.parquet")
    given = [f"--{name}={tmp_path / path}" for name, path in paths.items()] + [f"--policy={smollm2}"]
    assert main(["nll_probe", *given, "--prompt.examples=0", "--policy.device=cpu"]) == 0

    rows = artifacts.read(tmp_path / "probe.parquet", "probes").to_pylist()
    task = tasks_of(tmp_path / "tasks.parquet", "one")[0]
    prompt = prompt_tokens(policy.tokenizer, task.reference_source, PROMPT)
    with torch.no_grad():
        expected = one_at_a_time(policy.model, [prompt], [tokens], 1.0)[0]
    assert {row["scorer"] for row in rows} == {"some-run/step=3"}
    for row, logprobs_T in zip(rows, expected, strict=True):
        assert row["nll"] == pytest.approx(-logprobs_T.sum().item(), rel=1e-4)
        assert row["nll_mean"] == pytest.approx(-logprobs_T.mean().item(), rel=1e-4)
        lowest = logprobs_T.sort().values[: -(-len(logprobs_T) // 4)]
        assert row["nll_tail"] == pytest.approx(-lowest.mean().item(), rel=1e-4)
    assert rows[0]["nll"] == rows[2]["nll"]
    noted = artifacts.notes(tmp_path / "probe.parquet")
    assert float(noted["seconds"]) > 0
    assert len(prompt) < int(noted["computed_tokens"]) < len(prompt) + sum(map(len, tokens))  # a duplicate costs none


def test_a_policy_whose_logprobs_are_no_numbers_is_named(
    smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tasks(TaskSettings(subsets={"one": [5]}), tmp_path / "tasks.parquet")
    policy = add_lora(load_policy(smollm2, RUNTIME), LoraSettings(rank=4), seed=1)
    with torch.no_grad():
        next(weight for name, weight in policy.model.named_parameters() if "lora_B" in name).fill_(torch.nan)
    save_adapter(policy, tmp_path / "step=3")
    write_samples(tmp_path / "seed=42.parquet", [[1, 2]])
    given = [f"--tasks={tmp_path / 'tasks.parquet'}", f"--adapter={tmp_path / 'step=3'}", f"--policy={smollm2}"]
    given += ["--prompt.examples=0", "--policy.device=cpu"]
    scored, sampled = tmp_path / "scored.parquet", tmp_path / "sampled.parquet"
    assert main(["score_logprobs", *given, f"--samples={tmp_path / 'seed=42.parquet'}", f"--output={scored}"]) == 1
    said = capsys.readouterr().err
    assert (
        f"seed=42.parquet, task_id 5, seed 42, sample 0: its log-probs under {tmp_path / 'step=3'} are not finite"
        in said
    )
    sampling = ["--sampling.k=2", "--sampling.max_tokens=4", "--subset=one", "--seed=1"]
    assert main(["sample_k64", *given, *sampling, f"--output={sampled}"]) == 1
    assert re.search(
        rf"{tmp_path / 'step=3'}: the policy's logits are not finite .*damaged, or training", capsys.readouterr().err
    )
    assert not scored.exists()
    assert not sampled.exists()


def write_samples(path: Path, tokens: list[list[int]]) -> None:
    common: dict[str, Any] = dict(task_id=5, seed=42, checkpoint="x", finish_reason="stop")
    rows = [
        common
        | dict(sample=i, completion=BODIES[i], candidate_sha256=BODIES[i], token_ids=ids, n_tokens=len(ids))
        | dict.fromkeys(("logprobs", "tempered_logprobs"), [0.0] * len(ids))
        for i, ids in enumerate(tokens)
    ]
    artifacts.write(path, "samples", rows, subset="one")


def test_tail_by_hand() -> None:
    assert tail([-1.0, -5.0, -2.0, -3.0]) == 5.0
    assert tail([-1.0, -5.0, -2.0, -3.0, -4.0]) == 4.5
    assert tail([-0.25]) == 0.25


# --- correlation ---------------------------------------------------------------------------------------------------


def made_samples(seed: int, candidates: int, tasks: int = 1, effect: float = 0.0, copies: int = 1) -> Samples:
    rng = np.random.default_rng(seed)
    task_C = np.arange(candidates) % tasks
    speedup_C = rng.lognormal(size=candidates)
    surprisal_C = rng.normal(size=candidates) + effect * np.log(speedup_C)
    return Samples(*(np.repeat(x, copies) for x in (surprisal_C, speedup_C, task_C, np.arange(candidates))))


def draw(samples: Samples, within: bool = False, resamples: int = 999) -> Any:
    return association(samples, resamples, 0.95, np.random.default_rng(1), within)


def test_rho_and_p_are_those_of_scipy_where_samples_are_independent() -> None:
    samples = made_samples(0, 60, effect=0.8)
    found, expected = draw(samples), spearmanr(samples.surprisal_N, samples.speedup_N)
    assert found.rho == pytest.approx(expected.statistic)
    assert found.p_independent == pytest.approx(expected.pvalue)
    assert found.low < found.rho < found.high
    assert found.null_low < 0 < found.null_high
    assert found.p_permutation < 0.01


def test_duplicates_are_no_evidence() -> None:
    """Every candidate 20 times over: the estimate stays, the p-value of independent samples collapses, ours does not."""
    once, often = made_samples(3, 12, effect=0.3), made_samples(3, 12, effect=0.3, copies=20)
    few, many = draw(once, resamples=3999), draw(often, resamples=3999)
    assert many.rho == pytest.approx(few.rho)
    assert many.p_independent < few.p_independent / 10
    assert many.p_permutation == pytest.approx(few.p_permutation, abs=0.03)


def test_permutation_p_is_uniform_under_the_null() -> None:
    p = np.sort([draw(made_samples(seed, 10, copies=1 + seed % 3), resamples=199).p_permutation for seed in range(200)])
    assert np.abs(p - (np.arange(200) + 0.5) / 200).max() < 0.115  # 1 % of the Kolmogorov-Smirnov statistic


def test_bootstrap_interval_covers() -> None:
    population = made_samples(0, 20_000, effect=0.6)
    truth = spearmanr(population.surprisal_N, population.speedup_N).statistic
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        chosen = rng.choice(20_000, 50, replace=False)
        found = draw(Samples(*(x[chosen] for x in population)), resamples=300)
        covered += found.low <= truth <= found.high
    assert covered >= 88


def test_within_tasks_a_difference_between_tasks_is_no_association() -> None:
    """Hard tasks are slow and surprising: pooled samples correlate, samples of one task do not."""
    samples = made_samples(5, 40, tasks=2)
    shifted = samples._replace(
        surprisal_N=samples.surprisal_N + 10 * samples.task_N, speedup_N=samples.speedup_N + 100 * samples.task_N
    )
    assert draw(shifted).p_permutation < 0.01
    assert draw(shifted, within=True).p_permutation > 0.05
    by_hand = []
    for task in (0, 1):
        own = samples.task_N == task
        by_hand.append(spearmanr(samples.surprisal_N[own], samples.speedup_N[own]).statistic)
    assert draw(shifted, within=True).rho == pytest.approx(np.mean(by_hand))


def test_bootstrap_draws_candidates_within_their_task() -> None:
    task_C = np.array([0, 1, 0, 1, 1])
    times_BC = times_drawn(task_C, 50, np.random.default_rng(0))
    for task in (0, 1):
        assert (times_BC[:, task_C == task].sum(axis=1) == (task_C == task).sum()).all()
    assert len(np.unique(times_BC, axis=0)) > 5


def test_resampled_means_are_those_of_every_sample_drawn_with_its_candidate() -> None:
    rng = np.random.default_rng(0)
    place_N, value_N, share_N = rng.integers(4, size=30), rng.normal(size=30), rng.random(30)
    times_BC = np.vstack([times_drawn(np.array([0, 0, 1, 1]), 20, rng), np.zeros((1, 4))])
    weight_BN = times_BC[:20, place_N] * share_N
    expected = (weight_BN * value_N).sum(axis=1) / weight_BN.sum(axis=1)
    np.testing.assert_allclose(resampled_means(value_N, share_N, place_N, times_BC), expected)


def test_what_has_no_correlation_is_undefined() -> None:
    samples = made_samples(0, 10)
    assert draw(samples._replace(speedup_N=np.ones(10))) == UNDEFINED
    assert draw(Samples(*(x[:2] for x in samples))) == UNDEFINED
    assert draw(Samples(*(x[:0] for x in samples))) == UNDEFINED


def test_probe_table_has_every_set_of_samples() -> None:
    rng = np.random.default_rng(0)
    n = 40
    speedup = rng.lognormal(size=n)
    samples = pl.DataFrame(
        {
            "task_id": [4, 5] * 20,
            "candidate_sha256": [f"c{i}" for i in range(n)],
            "status": ["correct"] * 30 + ["incorrect"] * 10,
            "speedup": speedup,
            "nll": rng.random(n),
            "nll_mean": rng.random(n),
            "nll_tail": rng.random(n),
        }
    )
    rows = {(row["set"], row["surprisal"]): row for row in probe("r", 2, samples, SETTINGS)}
    zeroed = np.where(np.arange(n) < 30, speedup, 0)
    assert rows["all", "sum"]["rho"] == pytest.approx(spearmanr(samples["nll"], zeroed).statistic)
    assert rows["all", "tail"]["rho"] == pytest.approx(spearmanr(samples["nll_tail"], zeroed).statistic)
    assert rows["all", "mean"]["mean_surprisal"] == pytest.approx(samples["nll_mean"].mean())
    assert rows["correct", "sum"]["n_samples"] == 30
    surprising = np.argsort(samples["nll"].to_numpy())[-10:]
    expected = spearmanr(samples["nll"].to_numpy()[surprising], zeroed[surprising]).statistic
    assert rows["bottom_quartile", "sum"]["n_samples"] == 10
    assert rows["bottom_quartile", "sum"]["rho"] == pytest.approx(expected)
    for row in rows.values():
        assert row["rho_low"] <= row["rho"] <= row["rho_high"]
        assert row["mean_surprisal_low"] <= row["mean_surprisal"] <= row["mean_surprisal_high"]


# --- trajectories --------------------------------------------------------------------------------------------------

SPEEDUPS = [  # of the steps: (in batch, fresh), two rollouts of each of two tasks; 0 is not correct
    ([0.9, 1.2, 0.0, 0.8], [0.9, 0.9, 0.9, 0.9]),
    ([1.2, 1.3, 1.1, 0.8], [1.2, 0.9, 0.9, 0.9]),
    ([1.2, 1.3, 0.9, 0.8], [1.2, 1.2, 1.2, 0.9]),
    ([1.2, 1.3, 1.1, 1.1], [1.2, 0.9, 0.9, 0.9]),
]
RUN = Run(subset="s", rollouts=2, steps=3, validation="fresh", fresh_rollouts=2)


def frames(step: int) -> dict[str, pl.DataFrame]:
    made: dict[str, Any] = {}
    for prefix, speedups in zip(("", "fresh_"), SPEEDUPS[step], strict=True):
        speedup = pl.Series("speedup", speedups)
        keys = {"step": [step] * 4, "task_id": [1, 1, 2, 2], "candidate_sha256": ["a", "b", "c", "c"]}
        made[prefix + "evaluations"] = pl.DataFrame(keys | {"evaluator": ["e"] * 4}).with_columns(
            speedup,
            status=pl.when(speedup > 0).then(pl.lit("correct")).otherwise(pl.lit("incorrect")),
            speedup_low=speedup - 0.15,
        )
        learnt: dict[str, Any] = {"reward": [1.0] * 4, "advantage": [0.0, 0.0, 0.5, -0.5], "entropy": [0.5] * 4}
        made[prefix + "rollouts"] = pl.DataFrame(keys | learnt)
    numbers = {name: 0 for name in artifacts.SCHEMAS["accounts"].names}
    spent = dict(student_tokens=100, fresh_tokens=50, teacher_tokens=30, sampling_s=2.0, scoring_s=1.0, update_s=0.5)
    made["account"] = pl.DataFrame([numbers | spent | {"step": step, "rollouts": 4, "fresh_rollouts": 4}])
    return made


def test_trajectory_by_hand() -> None:
    rows = trajectory("r", RUN, [frames(step) for step in range(4)], budget=4, patience=1, settings=SETTINGS)
    assert [row["fast_1"] for row in rows] == [0.25, 0.75, 0.5, 1.0]
    assert [row["fast_1_confident"] for row in rows] == [0.25, 0.5, 0.5, 0.5]
    assert [row["fresh_fast_1"] for row in rows] == [0.0, 0.25, 0.75, 0.25]
    assert [row["correct"] for row in rows] == [0.75, 1.0, 1.0, 1.0]
    assert rows[0]["mean_speedup"] == pytest.approx((0.9 + 1.2 + 0.8) / 3)
    assert rows[0]["distinct_candidates"] == 3
    assert rows[0]["zero_advantage"] == 0.5

    def chosen(rule: str) -> list[int]:
        return [row["step"] for row in rows if row[rule]]

    # The best by its own rollouts is step 3, which fresh ones put at 0.25; early stopping ends at the fall after step 1.
    assert chosen("is_boa") == [3]
    assert rows[3]["fresh_fast_1"] == 0.25
    assert chosen("is_boa_at_budget") == [1]
    assert chosen("is_early_stop") == [1]
    assert chosen("is_fresh_boa") == [2]
    assert chosen("is_boa_confident") == [1]
    assert chosen("is_within_budget") == [0, 1]
    assert [row["rollouts_to_here"] for row in rows] == [8, 16, 24, 32]
    assert [row["tokens_to_here"] for row in rows] == [150, 330, 510, 690]
    assert [row["seconds_to_here"] for row in rows] == [2.5, 6.0, 9.5, 13.0]
    for row in rows:
        assert row["fast_1_low"] <= row["fast_1"] <= row["fast_1_high"]


def test_unscored_last_step_has_no_share_of_zero_advantages() -> None:
    made = frames(0)
    made["rollouts"] = made["rollouts"].with_columns(advantage=pl.lit(None, dtype=pl.Float64))
    assert trajectory("r", RUN, [made], 64, 1, SETTINGS)[0]["zero_advantage"] is None


def test_tables_of_no_runs_are_headers(tmp_path: Path) -> None:
    paths = [f"--{name}={tmp_path}" for name in ("runs", "output")] + ["--probes", "--evaluations", "--budget=64"]
    assert main(["adaptation_tables", *paths, *shlex.split(AdaptationSettings().flags("adaptation"))]) == 0
    for name, column in (("adaptation.csv", "fast_1_confident"), ("probes.csv", "p_permutation")):
        with open(tmp_path / name) as file:
            assert column in next(csv.reader(file))
            assert not list(file)


def test_probe_of_other_samples_than_were_evaluated_is_refused(tmp_path: Path) -> None:
    row = dict(task_id=5, seed=42, sample=0, scorer="x", nll=1.0, nll_mean=1.0, n_tokens=1, nll_tail=1.0)
    artifacts.write(tmp_path / "r" / "step=0.parquet", "probes", [row])
    with pytest.raises(UserError, match=r"step=0.parquet: 1 samples, of which 0 have an evaluation"):
        write_tables(SETTINGS, AdaptationSettings(), tmp_path, [tmp_path / "r/step=0.parquet"], [], 64, tmp_path)
