"""The sampler against a plain forward pass of one sequence at a time, and against the distribution it must draw from."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import chisquare
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from expert_tail.policy import sampler
from expert_tail.policy.decode_cache import DecodeCache
from expert_tail.policy.sampler import Completion, sample

VOCABULARY = 97
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SHARED = list(range(20, 50))
PROMPTS = [[*SHARED, 60, 61], [*SHARED, 62], [*SHARED, 60, 63, 64, 65, 66]]
STOP = list(range(8))
SETTINGS = {"stop_ids": STOP, "temperature": 0.7, "max_tokens": 20}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def llama(**other) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, **other))


def qwen2() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=9, max_window_layers=1))


def gpt_oss() -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    config = GptOssConfig(
        **SHAPE, head_dim=8, sliding_window=7, num_local_experts=4, num_experts_per_tok=2, rope_parameters=rope
    )
    return GptOssForCausalLM._from_config(config, experts_implementation="eager")


FAMILIES = [llama, qwen2, gpt_oss]


def tiny(family, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """Random weights large enough that attention and the next-token distributions are far from uniform."""
    torch.manual_seed(0)
    model = family()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 or "sinks" in name or name.endswith("bias"):
                weight.normal_(0, 1.0 if "sinks" in name else 0.25)
    return model.to(dtype).eval()


def recomputed(model, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """Next-token logits at every token of a completion, from one plain forward pass; (tokens, V)."""
    with torch.no_grad():
        logits_LV = model(torch.tensor([prompt + tokens])).logits[0]
    return logits_LV[len(prompt) - 1 : -1]


def assert_likelihoods(model, prompt: list[int], completion: Completion, tolerance: float) -> None:
    logits_LV = recomputed(model, prompt, completion.token_ids)
    rows = torch.arange(len(completion.token_ids))
    for values, scaled_LV in (
        (completion.logprobs, logits_LV),
        (completion.tempered_logprobs, logits_LV / SETTINGS["temperature"]),
    ):
        expected_L = scaled_LV.log_softmax(-1)[rows, completion.token_ids]
        np.testing.assert_allclose(values, expected_L.numpy(), atol=tolerance)
    entropy = torch.distributions.Categorical(logits=logits_LV / SETTINGS["temperature"]).entropy().mean()
    assert completion.entropy == pytest.approx(entropy.item(), abs=tolerance)


def tokens_of(completions: list[Completion]) -> list[list[int]]:
    return [completion.token_ids for completion in completions]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 5e-5)])
def test_likelihoods_are_those_of_a_plain_forward_pass(family, dtype, tolerance):
    model = tiny(family, dtype)
    batch = sample(model, PROMPTS, 12, **SETTINGS, seeds=[1, 2, 3], max_rows=13)
    for prompt, completions in zip(PROMPTS, batch, strict=True):
        for completion in completions:
            assert_likelihoods(model, prompt, completion, tolerance)
    assert len({len(tokens) for completions in batch for tokens in tokens_of(completions)}) > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_long_completions_and_long_prompts(family, monkeypatch):
    monkeypatch.setattr(sampler, "PREFILL_TOKENS", 30)
    monkeypatch.setattr("expert_tail.policy.decode_cache.QUERY_BLOCK", 7)
    model = tiny(family)
    prompts = [list(range(8, 30)), list(range(9, 50))]
    settings = SETTINGS | {"stop_ids": [], "max_tokens": 50}
    for prompt, completions in zip(prompts, sample(model, prompts, 2, **settings, seeds=[5, 6]), strict=True):
        for completion in completions:
            assert completion.finish_reason == "length"
            assert len(completion.token_ids) == 50
            assert_likelihoods(model, prompt, completion, 1e-10)


def test_first_tokens_follow_the_tempered_distribution():
    model, n, temperature = tiny(llama), 20_000, 0.9
    settings = SETTINGS | {"temperature": temperature, "max_tokens": 1}
    [completions] = sample(model, PROMPTS[:1], n, **settings, seeds=[7])
    count = Counter(completion.token_ids[0] for completion in completions)
    p_V = (recomputed(model, PROMPTS[0], [0])[0] / temperature).softmax(-1).numpy() * n
    common = p_V >= 5  # the chi-square test wants no small cells: the rest is one
    observed = [count[v] for v in np.flatnonzero(common)]
    observed, expected = [*observed, n - sum(observed)], [*p_V[common], p_V[~common].sum()]
    assert len(observed) > 10
    assert chisquare(observed, expected).pvalue > 0.01


def test_second_tokens_follow_the_tempered_distribution():
    """Draws of one sample at different positions are independent."""
    model, n = tiny(llama), 20_000
    [completions] = sample(model, PROMPTS[:1], n, **(SETTINGS | {"max_tokens": 2}), seeds=[8])
    first = Counter(completion.token_ids[0] for completion in completions if len(completion.token_ids) > 1)
    token, n = first.most_common(1)[0]
    count = Counter(completion.token_ids[1] for completion in completions if completion.token_ids[0] == token)
    p_V = (recomputed(model, PROMPTS[0], [token, 0])[1] / SETTINGS["temperature"]).softmax(-1).numpy() * n
    common = p_V >= 5
    observed = [count[v] for v in np.flatnonzero(common)]
    assert chisquare([*observed, n - sum(observed)], [*p_V[common], p_V[~common].sum()]).pvalue > 0.01


def test_the_same_call_gives_the_same_completions():
    model = tiny(llama, torch.float32)
    first, second = (sample(model, PROMPTS, 16, **SETTINGS, seeds=[1, 2, 3]) for _ in range(2))
    assert first == second
    assert tokens_of(sample(model, PROMPTS[:1], 16, **SETTINGS, seeds=[2])[0]) != tokens_of(first[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fewer_samples_are_a_prefix_of_more(dtype):
    model = tiny(llama, dtype)
    [few], [many] = (sample(model, PROMPTS[:1], n, **SETTINGS, seeds=[4]) for n in (8, 64))
    assert tokens_of(few) == tokens_of(many)[:8]


def test_a_shorter_limit_cuts_the_same_completions():
    model = tiny(llama)
    [short], [long] = (sample(model, PROMPTS[:1], 16, **(SETTINGS | {"max_tokens": m}), seeds=[4]) for m in (5, 20))
    assert tokens_of(short) == [tokens[:5] for tokens in tokens_of(long)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_rows", [None, 1, 7, 40])
def test_several_prompts_in_one_batch_equal_one_by_one(family, max_rows):
    model, seeds = tiny(family), [1, 2, 3]
    together = sample(model, PROMPTS, 8, **SETTINGS, seeds=seeds, max_rows=max_rows)
    for prompt, seed, completions in zip(PROMPTS, seeds, together, strict=True):
        [alone] = sample(model, [prompt], 8, **SETTINGS, seeds=[seed])
        assert tokens_of(completions) == tokens_of(alone)
        for a, b in zip(completions, alone, strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-11)


def test_one_prompt_twice_with_two_seeds():
    model = tiny(llama)
    first, second = sample(model, [PROMPTS[0], PROMPTS[0]], 8, **SETTINGS, seeds=[1, 2])
    assert tokens_of(first) == tokens_of(sample(model, PROMPTS[:1], 8, **SETTINGS, seeds=[1])[0])
    assert tokens_of(second) == tokens_of(sample(model, PROMPTS[:1], 8, **SETTINGS, seeds=[2])[0])


def test_rows_stop_at_the_first_stop_token():
    model = tiny(llama)
    completions = [c for task in sample(model, PROMPTS, 32, **SETTINGS, seeds=[1, 2, 3]) for c in task]
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for completion in completions:
        stops = [i for i, token in enumerate(completion.token_ids) if token in STOP]
        assert stops == ([len(completion.token_ids) - 1] if completion.finish_reason == "stop" else [])
        assert completion.finish_reason == "stop" or len(completion.token_ids) == SETTINGS["max_tokens"]
        lengths = {len(v) for v in (completion.token_ids, completion.logprobs, completion.tempered_logprobs)}
        assert len(lengths) == 1


def test_equal_partial_completions_are_computed_once(monkeypatch):
    rows = []
    begin = DecodeCache.begin_step
    monkeypatch.setattr(
        DecodeCache, "begin_step", lambda self, device: rows.append(len(self.prompt_B)) or begin(self, device)
    )
    model = tiny(llama)
    completions = [c for task in sample(model, PROMPTS, 32, **SETTINGS, seeds=[1, 2, 3]) for c in task]
    states = {
        (prompt, tuple(c.token_ids[:i]))
        for prompt in range(3)
        for c in completions[prompt * 32 : prompt * 32 + 32]
        for i in range(1, len(c.token_ids))
    }
    assert sum(rows) == len(states) < sum(len(c.token_ids) for c in completions)
    rows.clear()
    sample(model, PROMPTS, 32, **SETTINGS, seeds=[1, 2, 3], max_rows=10)
    assert max(rows) <= 10


def test_progress_counts_every_completion():
    done = []
    sample(tiny(llama), PROMPTS, 10, **SETTINGS, seeds=[1, 2, 3], advance=done.append, max_rows=9)
    assert sum(done) == 30
    assert min(done) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_an_active_adapter_is_sampled_and_the_model_left_as_it_was(family):
    model = tiny(family)
    [plain] = sample(model, PROMPTS[:1], 8, **SETTINGS, seeds=[1])
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=0.5))
    generator = torch.Generator().manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    adapted.train()
    attention = model.config._attn_implementation
    before = {name: weight.clone() for name, weight in adapted.named_parameters()}
    batch = sample(adapted, PROMPTS, 8, **SETTINGS, seeds=[1, 2, 3])
    assert adapted.training
    assert all(module.training for module in adapted.modules())
    assert model.config._attn_implementation == attention
    for name, weight in adapted.named_parameters():
        assert torch.equal(weight, before[name]), name
    adapted.eval()
    for prompt, completions in zip(PROMPTS, batch, strict=True):
        for completion in completions:
            assert_likelihoods(adapted, prompt, completion, 1e-6)
    assert tokens_of(batch[0]) != tokens_of(plain)
    with adapted.disable_adapter():
        assert tokens_of(sample(adapted, PROMPTS[:1], 8, **SETTINGS, seeds=[1])[0]) == tokens_of(plain)
    loss = adapted(torch.tensor([PROMPTS[0]]), labels=torch.tensor([PROMPTS[0]])).loss
    loss.backward()  # sampling must leave nothing behind that autograd refuses


def test_bfloat16_runs():
    completions = sample(tiny(llama, torch.bfloat16), PROMPTS, 8, **SETTINGS, seeds=[1, 2, 3])
    assert all(math.isfinite(value) for task in completions for c in task for value in c.logprobs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"max_rows": 0}, "max_rows must be at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": math.nan}, "temperature must be above 0"),
        ({"prompts": [[1, 2], []]}, "prompt 1 is empty"),
        ({"prompts": []}, "no prompts"),
        ({"prompts": [[1, 2]]}, "one seed a prompt: got 2 seeds for 1 prompts"),
        ({"seeds": [0, -1]}, "seeds must not be negative"),
        ({"max_tokens": 127}, "prompt 0 has 2 tokens; with max_tokens = 127 that is more than the 128 positions"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"prompts": [[1, 2], [3]], "n": 2, "seeds": [0, 1], **SETTINGS} | change
    with pytest.raises(ValueError, match=message):
        sample(tiny(llama), **arguments)


def test_logits_that_are_not_a_number_name_prompt_and_position():
    model = tiny(llama)
    hook = model.lm_head.register_forward_hook(lambda module, inputs, logits: poison(logits))
    steps = 0

    def poison(logits):
        nonlocal steps
        steps += 1
        return logits if steps < 4 else torch.full_like(logits, torch.nan)

    with pytest.raises(FloatingPointError, match=r"prompt 0 at position 34 \(token 2 of the completion of sample 0\)"):
        sample(model, PROMPTS[:2], 1, **(SETTINGS | {"stop_ids": []}), seeds=[1, 2])
    hook.remove()
    assert model.config._attn_implementation != "expert_tail_cascade"


def test_a_forbidden_token_is_never_drawn():
    model = tiny(llama)
    model.lm_head.register_forward_hook(
        lambda module, inputs, logits: logits.index_fill(-1, torch.arange(50, 97), -torch.inf)
    )
    [completions] = sample(model, PROMPTS[:1], 32, **SETTINGS, seeds=[1])
    assert all(token < 50 for c in completions for token in c.token_ids)
    assert all(math.isfinite(c.entropy) for c in completions)
