"""The vLLM engine against transformers: SmolLM2 with and without an adapter, on a CPU, in float32.

TOLERANCE: both compute a log-prob in float32, but add up in another order in every matrix product of 30 layers, and one has the
adapter merged into the weights. The largest difference seen over some thousand tokens was 4e-5 nats; an error of convention
(temperature, position, adapter) is 0.01 and more.
"""

import importlib.util
import json
import math
import os
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from injection import expert_tail
from scipy.stats import chisquare

from expert_tail import artifacts
from expert_tail.adapt.settings import Run
from expert_tail.adapt.stage import run as adapt
from expert_tail.errors import UserError
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.policy.draw import prompts_of
from expert_tail.policy.engine import Engine, chosen_engine, engine_of_checkpoint, engine_of_policy
from expert_tail.policy.load import Policy, add_lora, load_policy, save_adapter
from expert_tail.policy.logprobs import completion_logprobs
from expert_tail.policy.settings import DrawSettings, LoraSettings, PromptSettings, RuntimeSettings
from expert_tail.policy.token_draws import Completion
from expert_tail.sample_k64.settings import SampleSettings
from expert_tail.sample_k64.stage import run as sample_k64
from expert_tail.tasks import load_suite
from expert_tail.tasks.settings import TaskSettings
from expert_tail.tasks.stage import run as write_tasks

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make install-vllm"),
]

TOLERANCE = 3e-4  # nats
VLLM = RuntimeSettings(engine="vllm", device="cpu", kv_cache_gib=0.5)
TRANSFORMERS = RuntimeSettings(engine="transformers", device="cpu")
OPTIONS = {"temperature": 0.7, "max_tokens": 20}
N = 24


def trained(folder: Path, seed: int = 0) -> Policy:
    """The policy with a LoRA that changes what it says."""
    policy = add_lora(load_policy(folder, TRANSFORMERS), LoraSettings(rank=4), seed)
    change(policy, seed)
    return policy


def change(policy: Policy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.01, generator=generator)


@pytest.fixture(scope="module")
def prompts(smollm2: Path) -> list[list[int]]:
    """Two real prompts: they share instructions and examples, and differ in the task."""
    tasks = [task for task in load_suite("level1", "cpu") if task.task_id in (5, 19)]
    return prompts_of(load_policy(smollm2, TRANSFORMERS).tokenizer, tasks, PromptSettings())


@pytest.fixture(scope="module")
def adapter(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "step=3"
    save_adapter(trained(smollm2), folder)
    return folder


class Both:
    """A checkpoint under both engines, what each drew of the same prompts and seeds, and the model that scores them."""

    def __init__(self, engine: Engine, folder: Path, adapter: Path | None, prompts: list[list[int]]) -> None:
        self.vllm, self.prompts = engine, prompts
        self.policy = load_policy(folder, TRANSFORMERS, adapter)
        self.drawn = engine.sample(prompts, N, seeds=[1, 2], **OPTIONS)


@pytest.fixture(scope="module", params=["base", "adapter"])
def both(request: Any, smollm2: Path, adapter: Path, prompts: list[list[int]]) -> Iterator[Both]:
    chosen = adapter if request.param == "adapter" else None
    with engine_of_checkpoint(smollm2, VLLM, chosen) as engine:
        yield Both(engine, smollm2, chosen, prompts)


def scored(policy: Policy, prompts: list[list[int]], drawn: list[list[Completion]], temperature: float) -> list[float]:
    with torch.no_grad():
        tokens = [[one.token_ids for one in of_prompt] for of_prompt in drawn]
        logprobs = completion_logprobs(policy.model, prompts, tokens, temperature=temperature)
    return torch.cat([logprobs_T for of_prompt in logprobs for logprobs_T in of_prompt]).tolist()


def flat(drawn: list[list[Completion]]) -> list[Completion]:
    return [one for of_prompt in drawn for one in of_prompt]


def tokens_of(drawn: list[list[Completion]]) -> list[list[int]]:
    return [one.token_ids for one in flat(drawn)]


def assert_likelihoods(
    policy: Policy,
    prompts: list[list[int]],
    drawn: list[list[Completion]],
    temperature: float = OPTIONS["temperature"],
) -> None:
    for at, name in ((1.0, "logprobs"), (temperature, "tempered_logprobs")):
        found = [value for one in flat(drawn) for value in getattr(one, name)]
        expected = scored(policy, prompts, drawn, at)
        worst = np.abs(np.subtract(found, expected)).max()
        print(f"{name}: {len(found)} tokens, largest difference {worst:.2g}")
        assert worst < TOLERANCE, name


def assert_same_but_for_ties(
    policy: Policy, prompts: list[list[int]], seeds: list[int], temperature: float, ours: Any, theirs: Any
) -> None:
    """Samples may differ only where a random number falls, within rounding, on the border between two tokens."""
    equal = 0
    for prompt, seed, of_ours, of_theirs in zip(prompts, seeds, ours, theirs, strict=True):
        for number, (one, other) in enumerate(zip(of_ours, of_theirs, strict=True)):
            a, b = one.token_ids, other.token_ids
            if a == b:
                equal += 1
                assert one.finish_reason == other.finish_reason
                assert one.entropy == pytest.approx(other.entropy, abs=TOLERANCE)
                continue
            t = next(t for t in range(min(len(a), len(b))) if a[t] != b[t])
            with torch.no_grad():
                logits = policy.model(input_ids=torch.tensor([[*prompt, *a[:t]]])).logits[0, -1].double()
            p = (logits / temperature).softmax(-1)
            u = np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64))).random(t + 1)[t]
            for token in (a[t], b[t]):
                end = float(p[: token + 1].sum())
                assert end - float(p[token]) - TOLERANCE < u < end + TOLERANCE
    print(f"{equal} of {len(flat(ours))} samples are equal")
    assert equal > len(flat(ours)) / 2


def test_every_logprob_of_both_conventions_is_that_of_transformers(both: Both) -> None:
    assert_likelihoods(both.policy, both.prompts, both.drawn)


def test_the_same_seeds_give_the_samples_of_the_transformers_engine(both: Both, smollm2: Path, adapter: Path) -> None:
    chosen = None if both.vllm.checkpoint == "base" else adapter
    with engine_of_checkpoint(smollm2, TRANSFORMERS, chosen) as engine:
        ours = engine.sample(both.prompts, N, seeds=[1, 2], **OPTIONS)
    assert_same_but_for_ties(both.policy, both.prompts, [1, 2], OPTIONS["temperature"], ours, both.drawn)
    assert {one.finish_reason for one in flat(both.drawn)} == {"stop", "length"}


def test_the_stop_token_is_the_last_and_only_one(both: Both) -> None:
    for one in flat(both.drawn):
        stops = [token in both.policy.stop_ids for token in one.token_ids]
        assert not any(stops[:-1])
        assert stops[-1] == (one.finish_reason == "stop")
        assert len(one.token_ids) == OPTIONS["max_tokens"] or one.finish_reason == "stop"


def test_first_tokens_follow_the_tempered_distribution(both: Both) -> None:
    n, prompt = 400, both.prompts[0]
    (drawn,) = both.vllm.sample([prompt], n, temperature=1.5, max_tokens=1, seeds=[7])
    with torch.no_grad():
        logits = both.policy.model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    p = (logits / 1.5).softmax(-1)
    counts = Counter(one.token_ids[0] for one in drawn)
    often = [token for token in p.argsort(descending=True).tolist() if p[token] * n >= 5]
    assert len(often) >= 4
    observed = [counts[token] for token in often]
    expected = [float(p[token]) * n for token in often]
    rest = n - sum(expected)
    assert chisquare([*observed, n - sum(observed)], [*expected, rest]).pvalue > 1e-3


def test_a_sample_depends_on_its_seed_and_number_alone(both: Both) -> None:
    again = both.vllm.sample(both.prompts, N, seeds=[1, 2], **OPTIONS)
    assert tokens_of(again) == tokens_of(both.drawn)
    (alone,) = both.vllm.sample(both.prompts[1:], 5, seeds=[2], **OPTIONS)
    assert tokens_of([alone]) == tokens_of(both.drawn)[N : N + 5]
    other = both.vllm.sample(both.prompts, N, seeds=[3, 4], **OPTIONS)
    assert tokens_of(other) != tokens_of(both.drawn)


def test_prompts_are_computed_once(both: Both) -> None:
    prompt = [*both.prompts[0][:-40], *reversed(both.prompts[0][-40:])]  # not seen before, but for its beginning
    done = both.vllm.computed_tokens
    (drawn,) = both.vllm.sample([prompt], N, seeds=[5], **OPTIONS)
    computed = both.vllm.computed_tokens - done
    decoded = sum(len(one.token_ids) - 1 for one in drawn)
    whole, parts = (
        len(prompt) + decoded,
        32 * N,
    )  # each sample runs the last block of its prompt itself, at most 32 tokens
    assert len(prompt) > 5 * 32
    assert computed <= whole + parts
    assert computed < (len(prompt) * N + decoded) / 4


def test_prompts_that_are_run_in_parts_and_samples_that_are_interrupted_come_out_the_same(
    smollm2: Path,
) -> None:
    """More prompt tokens than one pass of vLLM takes, and a cache so small that samples lose their blocks and start again."""
    generator = np.random.default_rng(0)
    prompts = [generator.integers(100, 40_000, 250).tolist() for _ in range(9)]
    options = {"temperature": 0.9, "max_tokens": 12, "seeds": list(range(9))}
    with engine_of_checkpoint(smollm2, VLLM.model_copy(update={"kv_cache_gib": 0.12})) as engine:
        small = engine.sample(prompts, 2, **options)
    with engine_of_checkpoint(smollm2, TRANSFORMERS) as engine:
        ours = engine.sample(prompts, 2, **options)
    policy = load_policy(smollm2, TRANSFORMERS)
    assert_likelihoods(policy, prompts, small, temperature=0.9)
    assert_same_but_for_ties(policy, prompts, options["seeds"], 0.9, ours, small)


# --- adapters ------------------------------------------------------------------------------------------------------


def test_a_changed_adapter_is_sampled_and_not_what_was_cached_of_the_one_before(
    smollm2: Path, prompts: list[list[int]]
) -> None:
    policy = trained(smollm2, seed=1)
    with engine_of_policy(policy, VLLM) as engine:
        first, name = engine.sample(prompts, 6, seeds=[1, 2], **OPTIONS), engine.adapter_name
        assert_likelihoods(policy, prompts, first)
        engine.sample(prompts, 2, seeds=[1, 2], **OPTIONS)
        assert engine.adapter_name == name
        change(policy, seed=2)
        second = engine.sample(prompts, 6, seeds=[1, 2], **OPTIONS)
        assert engine.adapter_name != name
        assert tokens_of(second) != tokens_of(first)
        # With keys and values of the earlier adapter these would be off by far more than the tolerance.
        assert_likelihoods(policy, prompts, second)
        difference = np.subtract(scored(policy, prompts, first, 1.0), [x for one in flat(first) for x in one.logprobs])
        assert np.abs(difference).max() > 100 * TOLERANCE


def test_logits_that_are_not_a_number_are_named(smollm2: Path, prompts: list[list[int]]) -> None:
    policy = trained(smollm2)
    next(p for name, p in policy.model.named_parameters() if "lora_B" in name).data.fill_(math.nan)
    with engine_of_policy(policy, VLLM) as engine, pytest.raises(FloatingPointError, match="not finite"):
        engine.sample(prompts, 2, seeds=[1, 2], **OPTIONS)


# --- shards --------------------------------------------------------------------------------------------------------

SHARDS = VLLM.model_copy(update={"shards": 3, "kv_cache_gib": 0.2})  # SmolLM2 has 9 heads, and 3 for keys and values


def test_a_policy_in_shards_draws_what_a_whole_one_draws(
    smollm2: Path, adapter: Path, prompts: list[list[int]]
) -> None:
    with engine_of_checkpoint(smollm2, SHARDS, adapter) as engine:
        titles = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
        drawn = engine.sample(prompts, 6, seeds=[1, 2], **OPTIONS)
        again = engine.sample(prompts[1:], 3, seeds=[2], **OPTIONS)
        computed = engine.computed_tokens
    assert sum("Worker" in title for title in titles) == 3, titles
    assert computed < sum(map(len, prompts)) * 6
    assert tokens_of(again) == tokens_of(drawn)[6:9]
    policy = load_policy(smollm2, TRANSFORMERS, adapter)
    assert_likelihoods(policy, prompts, drawn)
    with engine_of_checkpoint(smollm2, TRANSFORMERS, adapter) as whole:
        ours = whole.sample(prompts, 6, seeds=[1, 2], **OPTIONS)
    assert_same_but_for_ties(policy, prompts, [1, 2], OPTIONS["temperature"], ours, drawn)


def test_shards_get_every_new_adapter_and_name_logits_that_are_not_a_number(
    smollm2: Path, prompts: list[list[int]]
) -> None:
    policy = trained(smollm2, seed=1)
    with engine_of_policy(policy, SHARDS) as engine:
        assert_likelihoods(policy, prompts, engine.sample(prompts, 2, seeds=[1, 2], **OPTIONS))
        change(policy, seed=2)
        assert_likelihoods(policy, prompts, engine.sample(prompts, 2, seeds=[1, 2], **OPTIONS))
        next(p for name, p in policy.model.named_parameters() if "lora_B" in name).data.fill_(math.nan)
        with pytest.raises(FloatingPointError, match="not finite"):
            engine.sample(prompts, 2, seeds=[1, 2], **OPTIONS)


def test_shards_that_do_not_divide_the_policy_are_named(smollm2: Path) -> None:
    with (
        pytest.raises(UserError, match=r"vLLM cannot serve .*divisib.*`policy\.shards` 2"),
        engine_of_checkpoint(smollm2, VLLM.model_copy(update={"shards": 2})),
    ):
        pass


# --- stages --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "level1.parquet"
    write_tasks(TaskSettings(subsets={"pair": [5, 19]}), path)
    return path


def test_samples_of_the_stage_say_which_engine_drew_them(
    smollm2: Path, adapter: Path, tasks: Path, tmp_path: Path
) -> None:
    output, affinity = tmp_path / "samples.parquet", os.sched_getaffinity(0)
    sample_k64(SampleSettings(k=4, max_tokens=12), PromptSettings(), VLLM, tasks, smollm2, adapter, "pair", 42, output)
    rows = artifacts.read(output, "samples").to_pylist()
    assert [(row["task_id"], row["sample"]) for row in rows] == [(t, k) for t in (5, 19) for k in range(4)]
    assert {row["checkpoint"] for row in rows} == {"step=3"}
    assert artifacts.notes(output)["engine"].startswith("vllm 0.")
    assert os.sched_getaffinity(0) == affinity  # what is run after it still has all cores


def test_adaptation_records_how_far_engine_and_trainer_disagree(
    smollm2: Path, adapter: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPERT_TAIL_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "run"
    adapt(
        Run(subset="pair", rollouts=4, steps=1, lr=1e-3, reward="sparse", threshold=0.0, seed=4),
        DrawSettings(temperature=0.9, max_tokens=16),
        PromptSettings(),
        VLLM,
        EvaluatorSettings(correctness_trials=1, min_pairs=6, max_pairs=6),
        **{"tasks": tasks, "policy": smollm2, "adapter": adapter, "state": output / "state", "output": output},
    )
    start, step = (artifacts.read(output / f"step={n}/account.parquet", "accounts").to_pylist()[0] for n in (0, 1))
    assert start["logprob_gap_mean"] is start["logprob_gap_max"] is None
    assert step["gradient_norm"] > 0
    assert 0 < step["logprob_gap_mean"] <= step["logprob_gap_max"] < TOLERANCE
    assert step["sampling_computed"] > 0


def test_processes_that_divide_the_policy_learn_from_what_the_firsts_vllm_draws(
    smollm2: Path, adapter: Path, tasks: Path, tmp_path: Path
) -> None:
    run = Run(subset="pair", rollouts=4, steps=1, lr=1e-3, reward="sparse", threshold=0.0, seed=4)
    sections = {
        "run": run,
        "sampling": DrawSettings(temperature=0.9, max_tokens=16),
        "prompt": PromptSettings(),
        "policy": VLLM.model_copy(update={"shards": 3}),  # which divides its nine heads
        "evaluator": EvaluatorSettings(correctness_trials=1, min_pairs=6, max_pairs=6),
    }
    output = tmp_path / "run"
    paths = {"tasks": tasks, "policy": smollm2, "adapter": adapter, "state": output / "state", "output": output}
    flags = [part for name, settings in sections.items() for part in shlex.split(settings.flags(name))]
    command = expert_tail("--processes", "3", "adapt", *(f"--{name}={path}" for name, path in paths.items()), *flags)
    environment = os.environ | {"EXPERT_TAIL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    (step,) = artifacts.read(output / "step=1/account.parquet", "accounts").to_pylist()
    assert step["gradient_norm"] > 0
    assert 0 < step["logprob_gap_mean"] <= step["logprob_gap_max"] < TOLERANCE
    assert step["sampling_computed"] > 0


# --- bad input -----------------------------------------------------------------------------------------------------


def test_automatic_choice_takes_vllm_only_beside_a_gpu() -> None:
    assert chosen_engine(RuntimeSettings(device="cpu")) == "transformers"
    assert chosen_engine(VLLM) == "vllm"


def test_a_rank_that_vllm_does_not_serve_is_named(smollm2: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "wide")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "wide/adapter_config.json").write_text(json.dumps(config | {"r": 513}))
    with (
        pytest.raises(UserError, match=r"rank 513, and vLLM serves adapters up to rank 512; lower `lora\.rank`"),
        engine_of_checkpoint(smollm2, VLLM, tmp_path / "wide"),
    ):
        pass


def test_an_adapter_that_vllm_does_not_implement_is_named(
    smollm2: Path, adapter: Path, tmp_path: Path, prompts: list[list[int]]
) -> None:
    shutil.copytree(adapter, tmp_path / "dora")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "dora/adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with (
        engine_of_checkpoint(smollm2, VLLM, tmp_path / "dora") as engine,
        pytest.raises(UserError, match=r"cannot serve the adapter .*dora.*DoRA"),
    ):
        engine.sample(prompts, 1, seeds=[1, 2], **OPTIONS)


@pytest.mark.parametrize("gib", [1e6, 1e-5])
def test_a_cache_that_cannot_be_is_named(smollm2: Path, gib: float) -> None:
    with (
        pytest.raises(UserError, match=r"vLLM cannot serve .*`policy\.kv_cache_gib` is 1e.0"),
        engine_of_checkpoint(smollm2, VLLM.model_copy(update={"kv_cache_gib": gib})),
    ):
        pass


def test_a_prompt_longer_than_the_cache_is_named(smollm2: Path, prompts: list[list[int]]) -> None:
    with (
        engine_of_checkpoint(smollm2, VLLM.model_copy(update={"kv_cache_gib": 0.01})) as engine,
        pytest.raises(UserError, match=r"cache of 0\.01 GiB holds \d+; raise `policy\.kv_cache_gib`"),
    ):
        engine.sample(prompts, 1, seeds=[1, 2], **OPTIONS)
