"""GPT-OSS from its weights to an update, on a tiny random model of its architecture: MXFP4, Harmony, adapters on experts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GptOssConfig, GptOssForCausalLM, PreTrainedTokenizerFast

from expert_tail.errors import UserError
from expert_tail.fetch_policy.stage import run as fetch_policy
from expert_tail.policy.draw import draw, prompts_of
from expert_tail.policy.engine import TransformersEngine
from expert_tail.policy.load import Policy, add_lora, load_policy, save_adapter
from expert_tail.policy.logprobs import completion_logprobs
from expert_tail.policy.prompt import prompt_tokens
from expert_tail.policy.settings import FetchSettings, LoraSettings, PromptSettings, RuntimeSettings
from expert_tail.tasks import load_suite
from expert_tail.training.update import Rollout, importance_sampling_step

SPECIAL = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"]
HIDDEN, INNER, EXPERTS, LAYERS = 32, 32, 4, 2
HARMONY = PromptSettings(template="harmony", examples=1)
ATTENTION = LoraSettings(rank=2, targets="q_proj,k_proj,v_proj,o_proj")
BOTH = ATTENTION.model_copy(update={"parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]})
TASK = next(task for task in load_suite("level1", "cpu") if task.task_id == 5)
DATED = (
    "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}{% endfor %}"
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint laid out like openai/gpt-oss-120b, and fetched: experts as MXFP4 blocks and scales, the rest bfloat16."""
    path = tmp_path_factory.mktemp("checkpoint")
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({character: i for i, character in enumerate(bytes_)}, []))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|return|>", additional_special_tokens=SPECIAL, chat_template=DATED
    )
    tokenizer.save_pretrained(path)
    config = GptOssConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=16,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    model = GptOssForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(std=1.0 if "sinks" in name else 0.2)
    model.to(torch.bfloat16).save_pretrained(path)
    weights = load_file(path / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for layer in range(LAYERS):
        for name, out in (("gate_up_proj", 2 * INNER), ("down_proj", HIDDEN)):
            key = f"model.layers.{layer}.mlp.experts.{name}"
            shape = (EXPERTS, out, 1)  # one block of 32 inputs
            weights[f"{key}_blocks"] = torch.randint(256, (*shape, 16), generator=generator, dtype=torch.uint8)
            weights[f"{key}_scales"] = torch.randint(122, 126, shape, generator=generator, dtype=torch.uint8)
            del weights[key]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((path / "config.json").read_text())
    skipped = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    written["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": skipped}
    (path / "config.json").write_text(json.dumps(written))
    fetched = tmp_path_factory.mktemp("policies") / "tiny-gpt-oss"
    fetch_policy(FetchSettings(source=f"path:{path}"), fetched / "provenance.json")
    return fetched


def loaded(folder: Path, lora: LoraSettings | None = None, **runtime: Any) -> Policy:
    policy = load_policy(folder, RuntimeSettings(**{"device": "cpu"} | runtime))
    if lora:
        add_lora(policy, lora, seed=3)
        generator = torch.Generator().manual_seed(4)
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.data.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    return policy


def decoded(blocks: torch.Tensor, scales: torch.Tensor) -> np.ndarray:
    """The oracle, from the OCP Microscaling specification: FP4 is sign, 2 bits exponent (bias 1), 1 bit mantissa; a block of
    32 shares the power of two 2^(scale - 127); the low half of a byte comes first."""
    packed = blocks.numpy()
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], 32).astype(np.int64)
    sign, exponent, mantissa = np.where(codes & 8, -1.0, 1.0), (codes >> 1) & 3, codes & 1
    values = np.where(exponent == 0, mantissa * 0.5, 2.0 ** (exponent - 1) * (1 + mantissa / 2))
    return (sign * values * 2.0 ** (scales.numpy().astype(int) - 127)[..., None]).reshape(*blocks.shape[:-2], -1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mxfp4_experts_are_expanded(folder: Path, dtype: str) -> None:
    stored, model = load_file(folder / "model.safetensors"), loaded(folder, dtype=dtype).model
    assert {weight.dtype for weight in model.parameters()} == {getattr(torch, dtype)}
    for name in ("gate_up_proj", "down_proj"):
        key = f"model.layers.1.mlp.experts.{name}"
        expected = decoded(stored[f"{key}_blocks"], stored[f"{key}_scales"]).swapaxes(1, 2)  # (expert, input, output)
        np.testing.assert_array_equal(model.get_parameter(key).float().numpy(), expected)


def test_harmony_without_a_system_message(folder: Path) -> None:
    tokenizer = loaded(folder).tokenizer
    text = tokenizer.decode(prompt_tokens(tokenizer, TASK.reference_source, HARMONY))
    developer, example, task = text.split("<|start|>user<|message|>")
    assert developer.startswith("<|start|>developer<|message|># Instructions\n\nRewrite the body of forward")
    assert developer.endswith("<|end|>")
    assert example.endswith("<|end|><|start|>assistant<|channel|>final<|message|>return x + x<|end|>")
    assert task.startswith("class Model(nn.Module):")
    assert task.endswith("<|end|><|start|>assistant")
    ids = tokenizer.convert_tokens_to_ids(SPECIAL)
    assert set(ids[:4]) < set(prompt_tokens(tokenizer, TASK.reference_source, HARMONY))  # tokens, not their letters


def test_a_template_that_writes_the_date_gives_the_same_prompt_on_every_day(folder: Path) -> None:
    tokenizer = loaded(folder).tokenizer
    text = tokenizer.decode(prompt_tokens(tokenizer, TASK.reference_source, PromptSettings()))
    assert text.startswith("2026-01-01<|start|>system")


def test_harmony_needs_its_tokens() -> None:
    other = Tokenizer(models.BPE({character: i for i, character in enumerate("abc")}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=other, chat_template=DATED)
    with pytest.raises(UserError, match=r"`prompt\.template`: harmony needs the token <\|start\|>"):
        prompt_tokens(tokenizer, TASK.reference_source, HARMONY)


@pytest.mark.parametrize("thought", ["", "<|channel|>analysis<|message|>return A<|end|><|start|>assistant"])
def test_the_final_channel_is_the_candidate(folder: Path, thought: str) -> None:
    policy = loaded(folder)
    script = policy.tokenizer.encode(f"{thought}<|channel|>final<|message|>return s * A<|return|>")
    rest = iter(script)

    def dictate(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        return torch.full_like(logits, -50).index_fill(-1, torch.tensor([next(rest)]), 50)

    policy.model.lm_head.register_forward_hook(dictate)
    ((one,),) = draw(TransformersEngine(policy), [TASK], 1, HARMONY, temperature=1.0, max_tokens=100, seed=(0,))
    assert one.completion.token_ids == script
    assert one.completion.finish_reason == "stop"
    assert "return s * A" in one.source
    assert "final" not in one.source.partition("class ModelNew")[2]


@pytest.mark.parametrize("lora", [ATTENTION, BOTH], ids=["attention", "experts"])
def test_sampling_scoring_and_update_agree_with_plain_passes(folder: Path, lora: LoraSettings) -> None:
    policy = loaded(folder, lora)
    trainable = {name for name, weight in policy.model.named_parameters() if weight.requires_grad}
    assert any("experts" in name for name in trainable) == bool(lora.parameters)
    assert all("lora" in name for name in trainable)
    (draws,) = draw(TransformersEngine(policy), [TASK], 6, HARMONY, temperature=0.7, max_tokens=6, seed=(1,))
    (prompt,) = prompts_of(policy.tokenizer, [TASK], HARMONY)
    completions = [one.completion for one in draws]
    with torch.no_grad():
        (scored,) = completion_logprobs(policy.model, [prompt], [[c.token_ids for c in completions]])
    advantages = [1.0, -1.0, 0.5, -0.5, 2.0, -2.0]
    losses = []
    for completion, scored_T, advantage in zip(completions, scored, advantages, strict=True):
        tokens = completion.token_ids
        logits_TV = policy.model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        rows = torch.arange(len(tokens))
        plain_T = logits_TV.log_softmax(-1)[rows, tokens]
        np.testing.assert_allclose(completion.logprobs, plain_T.detach(), atol=1e-4)
        np.testing.assert_allclose(scored_T, plain_T.detach(), atol=1e-4)
        tempered_T = (logits_TV / 0.7).log_softmax(-1)[rows, tokens]
        losses.append(-((tempered_T - torch.tensor(completion.tempered_logprobs)).exp() * advantage).sum() / 6)
    torch.stack(losses).sum().backward()
    parameters = {name: weight for name, weight in policy.model.named_parameters() if weight.requires_grad}
    expected = {name: weight.grad.clone() for name, weight in parameters.items()}
    if lora.parameters:
        assert expected[next(name for name in expected if "experts" in name and "lora_A" in name)].abs().max() > 0
    before = {name: weight.detach().clone() for name, weight in parameters.items()}
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    rollouts = [Rollout(c.token_ids, c.tempered_logprobs, a) for c, a in zip(completions, advantages, strict=True)]
    importance_sampling_step(
        policy.model, optimizer, [prompt], [rollouts], temperature=0.7, importance_cap=2.0, where="here"
    )
    for name, weight in parameters.items():
        torch.testing.assert_close(before[name] - weight.detach(), 0.1 * expected[name], atol=1e-5, rtol=1e-3)


def test_an_adapter_on_experts_comes_back(folder: Path, tmp_path: Path) -> None:
    policy = loaded(folder, BOTH)
    save_adapter(policy, tmp_path / "step=1")
    tokens = torch.tensor([[1, 5, 9, 20]])
    with torch.no_grad():
        expected = policy.model(tokens).logits
        for trainable in (True, False):
            again = load_policy(folder, RuntimeSettings(device="cpu"), tmp_path / "step=1", trainable=trainable)
            torch.testing.assert_close(again.model(tokens).logits, expected, atol=1e-4, rtol=1e-4)
    assert (loaded(folder).model(tokens).logits - expected).abs().max() > 1e-3


@pytest.mark.parametrize("wrong", [{"parameters": ["mlp.experts.gate"]}, {"targets": "q_projection"}])
def test_targets_that_are_not_there(folder: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"`lora\.{next(iter(wrong))}`"):
        add_lora(loaded(folder), ATTENTION.model_copy(update=wrong), 0)
