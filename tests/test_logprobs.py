"""Shared-prefix log-probs and gradients against plain forward passes of transformers, for tiny random models."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from expert_tail.errors import UserError
from expert_tail.policy import attention
from expert_tail.policy.logprobs import completion_logprobs, packed_passes

VOCABULARY = 61
SHAPE: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    pad_token_id=None,
)
MODELS = ["llama", "qwen2", "qwen2-sliding", "gpt-oss"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices: a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    if name == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(**SHAPE, intermediate_size=48))
    elif name.startswith("qwen2"):
        sliding = dict(use_sliding_window=True, sliding_window=5, max_window_layers=1) if name != "qwen2" else {}
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, intermediate_size=48, **sliding))
    else:
        rope = {"rope_type": "default", "rope_theta": 10000.0}
        model = GptOssForCausalLM(
            GptOssConfig(
                **SHAPE,
                intermediate_size=24,
                num_local_experts=4,
                num_experts_per_tok=2,
                sliding_window=5,  # shorter than the prompts
                layer_types=["sliding_attention", "full_attention"],
                rope_parameters=rope,
                experts_implementation="eager",
            )
        )
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" not in parameter_name:
                parameter.normal_(std=1.0 if "sinks" in parameter_name else 0.2)
    model = model.to(dtype).eval()
    if dtype == torch.float64:
        with_float64_norms(model)
    return model


def with_float64_norms(model: Any) -> None:
    """transformers' RMSNorm rounds to float32 whatever the model's dtype, which would hide errors below 1e-7."""
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if type(norm).__name__.endswith("RMSNorm"):
                exact = torch.nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon, dtype=torch.float64)
                exact.weight = norm.weight
                setattr(parent, name, exact)


def with_lora(model: Any) -> Any:
    torch.manual_seed(1)
    return get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], init_lora_weights=False)
    )


def make_case() -> tuple[list[list[int]], list[list[list[int]]]]:
    """Prompts of different length with a common beginning; ragged, one-token, duplicate and similar completions."""
    generator = torch.Generator().manual_seed(2)

    def draw(n: int) -> list[int]:
        return torch.randint(VOCABULARY, (n,), generator=generator).tolist()

    common = draw(9)
    a, b = draw(6), draw(4)
    prompts = [common + draw(12), common + draw(3), draw(2), draw(1)]
    completions = [[a, draw(1), b, a, a[:3] + draw(2), a[:1], draw(11)], [draw(5)], [b, b], []]
    return prompts, completions


def one_at_a_time(model: Any, prompts: Any, completions: Any, temperature: float) -> list[list[Tensor]]:
    """The oracle: one plain forward pass a sequence."""

    def logprobs(prompt: list[int], completion: list[int]) -> Tensor:
        logits_TV = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        logits_TV = logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
        return (logits_TV / temperature).log_softmax(-1)[torch.arange(len(completion)), torch.tensor(completion)]

    return [
        [logprobs(prompt, completion) for completion in of_prompt]
        for prompt, of_prompt in zip(prompts, completions, strict=True)
    ]


def padded_batch(model: Any, prompts: Any, completions: Any, temperature: float) -> list[list[Tensor]]:
    """Right-padded batch of all sequences, with its attention mask."""
    sequences = [prompt + c for prompt, of_prompt in zip(prompts, completions, strict=True) for c in of_prompt]
    longest = max(map(len, sequences))
    tokens_KS = torch.tensor([seq + [0] * (longest - len(seq)) for seq in sequences])
    mask_KS = torch.tensor([[1] * len(seq) + [0] * (longest - len(seq)) for seq in sequences])
    logprobs_KSV = (model(tokens_KS, attention_mask=mask_KS).logits / temperature).log_softmax(-1)
    rows = iter(logprobs_KSV[:, :-1].gather(2, tokens_KS[:, 1:, None]).squeeze(2))
    return [
        [next(rows)[len(prompt) - 1 : len(prompt) + len(c) - 1] for c in of_prompt]
        for prompt, of_prompt in zip(prompts, completions, strict=True)
    ]


def weights_of(i: int, j: int, n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(100 * i + j), dtype=torch.float64)


def gradients(model: Any, logprobs: list[list[Tensor]]) -> dict[str, Tensor]:
    model.zero_grad()
    terms = [
        (weights_of(i, j, len(logprobs_T)) * logprobs_T).sum()
        for i, of_prompt in enumerate(logprobs)
        for j, logprobs_T in enumerate(of_prompt)
    ]
    torch.stack(terms).sum().backward()
    return collect(model)


def packed_gradients(model: Any, prompts: Any, completions: Any, **options: Any) -> dict[str, Tensor]:
    model.zero_grad()
    for pairs, logprobs in packed_passes(model, prompts, completions, **options):
        terms = [(weights_of(i, j, len(lp)) * lp).sum() for (i, j), lp in zip(pairs, logprobs, strict=True)]
        torch.stack(terms).sum().backward()
    return collect(model)


def collect(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def assert_same(actual: Any, expected: Any, **tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, **tolerance)


@pytest.mark.parametrize("budget", [10**6, 25, 1])
@pytest.mark.parametrize("name", MODELS)
def test_logprobs_are_those_of_plain_passes(name: str, budget: int) -> None:
    model, (prompts, completions) = with_lora(make_model(name)), make_case()
    with torch.no_grad():
        actual = completion_logprobs(model, prompts, completions, temperature=0.7, max_tokens_per_pass=budget)
        tolerance = dict(atol=2e-5, rtol=1e-5)
        assert_same(actual, one_at_a_time(model, prompts, completions, 0.7), **tolerance)
        assert_same(actual, padded_batch(model, prompts, completions, 0.7), **tolerance)
    assert all(logprobs_T.dtype == torch.float32 for of_prompt in actual for logprobs_T in of_prompt)


@pytest.mark.parametrize("name", MODELS)
def test_lora_gradients_are_those_of_the_padded_batch(name: str) -> None:
    model, (prompts, completions) = with_lora(make_model(name)), make_case()
    expected = gradients(model, padded_batch(model, prompts, completions, 0.7))
    assert any(gradient.abs().max() > 0 for gradient in expected.values())
    for budget in (10**6, 25):
        options = dict(temperature=0.7, max_tokens_per_pass=budget)
        assert_same(packed_gradients(model, prompts, completions, **options), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("block_rows", [512, 4])
@pytest.mark.parametrize("name", MODELS)
def test_all_gradients_agree_in_float64(name: str, block_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK_ROWS", block_rows)
    model, (prompts, completions) = make_model(name, torch.float64), make_case()
    expected_logprobs = one_at_a_time(model, prompts, completions, 0.7)
    expected = gradients(model, expected_logprobs)
    actual_logprobs = completion_logprobs(model, prompts, completions, temperature=0.7)
    assert_same(actual_logprobs, expected_logprobs, atol=1e-12, rtol=1e-12)
    actual = gradients(model, actual_logprobs)
    assert len(actual) == len(list(model.parameters()))
    assert name != "gpt-oss" or any("sinks" in key and value.abs().max() > 1e-3 for key, value in actual.items())
    assert_same(actual, expected, atol=1e-10, rtol=1e-10)
    one_by_one = packed_gradients(model, prompts, completions, temperature=0.7, max_tokens_per_pass=1)
    assert_same(one_by_one, expected, atol=1e-10, rtol=1e-10)


def test_one_prompt_with_one_completion() -> None:
    model = make_model("llama")
    with torch.no_grad():
        for completion in ([7], [7, 8, 9]):
            actual = completion_logprobs(model, [[3, 1, 4, 1, 5]], [[completion]])
            assert_same(actual, one_at_a_time(model, [[3, 1, 4, 1, 5]], [[completion]], 1.0), atol=1e-5, rtol=1e-5)
            actual = completion_logprobs(model, [[3]], [[completion]])
            assert_same(actual, one_at_a_time(model, [[3]], [[completion]], 1.0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt-oss"])
def test_a_prompt_longer_than_a_block_takes_the_causal_kernel(name: str) -> None:
    model = make_model(name)
    model.config.max_position_embeddings = 1024
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(VOCABULARY, (n,), generator=generator).tolist() for n in (600, 590, 3)]
    completions = [torch.randint(VOCABULARY, (3, 5), generator=generator).tolist() for _ in prompts]
    with torch.no_grad():
        actual = completion_logprobs(model, prompts, completions, max_tokens_per_pass=2000)
        assert_same(actual, one_at_a_time(model, prompts, completions, 1.0), atol=5e-5, rtol=1e-5)


def test_logits_in_chunks_change_nothing() -> None:
    model, (prompts, completions) = with_lora(make_model("llama", torch.float64)), make_case()
    whole = completion_logprobs(model, prompts, completions)
    chunks = completion_logprobs(model, prompts, completions, max_logit_bytes=3 * 4 * VOCABULARY)
    assert_same(chunks, whole, atol=1e-12, rtol=1e-12)
    assert_same(gradients(model, chunks), gradients(model, whole), atol=1e-10, rtol=1e-10)


def test_bfloat16_models_give_float32_logprobs() -> None:
    model, (prompts, completions) = make_model("llama", torch.bfloat16), make_case()
    with torch.no_grad():
        actual = completion_logprobs(model, prompts, completions)
        assert_same(actual, one_at_a_time(model, prompts, completions, 1.0), atol=0.5, rtol=0.1)


@pytest.mark.parametrize("name", ["llama", "gpt-oss"])
def test_gradient_checkpointing(name: str) -> None:
    model, (prompts, completions) = make_model(name, torch.float64), make_case()
    expected = packed_gradients(model, prompts, completions)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(packed_gradients(model, prompts, completions), expected, atol=1e-10, rtol=1e-10)
    with pytest.raises(UserError, match="gradient checkpointing needs packed_passes"):
        completion_logprobs(model, prompts, completions)


def test_the_models_own_attention_is_back_afterwards() -> None:
    model, (prompts, completions) = make_model("llama"), make_case()
    before = model.config._attn_implementation
    for _ in packed_passes(model, prompts, completions, max_tokens_per_pass=1):
        with pytest.raises(RuntimeError, match="outside packed_passes"):
            model(torch.tensor([[1, 2]]))
        break
    assert model.config._attn_implementation == before

    def fail_in_the_loop() -> None:
        for _ in packed_passes(model, prompts, completions):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_loop()
    assert model.config._attn_implementation == before


def test_what_cannot_be_scored_is_named() -> None:
    model = make_model("llama")
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        completion_logprobs(model, [[]], [[[1]]])
    with pytest.raises(ValueError, match="completion 1 of prompt 0 is empty"):
        completion_logprobs(model, [[1]], [[[1], []]])
    with pytest.raises(ValueError, match=r"prompt 0 with its completion 1 has 60 \+ 5 tokens, but the model has 64"):
        completion_logprobs(model, [[1] * 60], [[[1] * 4, [1] * 5]])
    with pytest.raises(ValueError, match="completion 0 of prompt 1 has a token outside the vocabulary of 61"):
        completion_logprobs(model, [[1], [2]], [[], [[61]]])
    with pytest.raises(ValueError, match="prompt 0 has a token outside"):
        completion_logprobs(model, [[-1]], [[[1]]])
    with pytest.raises(ValueError, match="temperature must be positive"):
        completion_logprobs(model, [[1]], [[[1]]], temperature=0.0)
    assert completion_logprobs(model, [], []) == []
    assert completion_logprobs(model, [[1]], [[]]) == [[]]


def test_models_that_packing_would_compute_wrongly_are_refused() -> None:
    prompts, completions = [[1, 2]], [[[3]]]
    tuned = get_peft_model(make_model("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(UserError, match="prompt-learning"):
        completion_logprobs(tuned, prompts, completions)
    for name, value in (("final_logit_softcapping", 30.0), ("logits_scaling", 8.0)):
        model = make_model("llama")
        setattr(model.config, name, value)
        with pytest.raises(UserError, match=name):
            completion_logprobs(model, prompts, completions)
    model = make_model("llama")
    model.config.layer_types = ["chunked_attention", "full_attention"]
    with pytest.raises(UserError, match="chunked_attention"):
        completion_logprobs(model, prompts, completions)
