"""The prompt of a task, with the real tokenizer and with chat templates of other families; loading what answers it."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from expert_tail.errors import UserError
from expert_tail.policy.action import candidate_source
from expert_tail.policy.load import Policy, add_lora, load_policy, save_adapter
from expert_tail.policy.prompt import prompt_tokens
from expert_tail.policy.settings import LoraSettings, PromptSettings, RuntimeSettings
from expert_tail.tasks import load_suite

ANNOTATED = '''
import torch
import torch.nn as nn


class Model(nn.Module):
    """Scales its input."""

    def __init__(self, scale: float = 2.0):
        """Keep the scale."""
        super().__init__()
        self.scale: float = scale  # kept

    def forward(self, x: torch.Tensor, *, twice: bool = False) -> torch.Tensor:
        """x times the scale."""
        return x * self.scale


def get_inputs():
    return [torch.rand(3)]


def get_init_inputs():
    return []
'''


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(scope="module")
def references() -> list[str]:
    return [task.reference_source for task in load_suite("level1", "cpu")]


def text_of(tokenizer: Any, source: str = ANNOTATED, **settings: Any) -> str:
    return tokenizer.decode(prompt_tokens(tokenizer, source, PromptSettings(**settings)))


def test_the_task_comes_last_and_only_as_its_class(tokenizer: Any):
    task = text_of(tokenizer).rpartition("<|im_start|>user\n")[2]
    assert task == (
        "class Model(nn.Module):\n    def __init__(self, scale=2.0):\n        super().__init__()\n        self.scale = scale\n"
        "    def forward(self, x, *, twice=False):\n        return x * self.scale<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_whole_module_may_be_shown(tokenizer: Any):
    text = text_of(tokenizer, reference="module")
    assert ANNOTATED.strip() in text
    assert text.count("def get_inputs") == 4


def test_the_number_of_examples(tokenizer: Any):
    assert [text_of(tokenizer, examples=n).count("<|im_start|>user") for n in range(4)] == [1, 2, 3, 4]


def test_examples_are_a_common_prefix_of_all_tasks(tokenizer: Any, references: list[str]):
    prompts = [prompt_tokens(tokenizer, source, PromptSettings()) for source in references]
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    common = [column[0] for column in columns]
    assert tokenizer.decode(common).count("<|im_start|>assistant") == 3
    assert "class Model(nn.Module):" in tokenizer.decode(common).rpartition("user\n")[2]
    assert max(map(len, prompts)) < 600
    assert min(map(len, prompts)) < 260


@pytest.mark.parametrize("action", ["forward_body", "module"])
def test_the_answers_shown_are_actions_that_equal_their_reference(tokenizer: Any, action: str):
    turns = text_of(tokenizer, action=action, reference="module").split("<|im_end|>\n")
    users = [turn.partition("user\n")[2] for turn in turns if "<|im_start|>user" in turn][:3]
    answers = [turn.partition("assistant\n")[2] for turn in turns if "<|im_start|>assistant" in turn][:3]
    for reference, answer in zip(users, answers, strict=True):
        names: dict[str, Any] = {}
        exec(reference, names)
        exec(candidate_source(reference, answer, action), names)
        inputs = names["get_inputs"]()
        torch.manual_seed(0)
        expected = names["Model"]()(*inputs)
        torch.manual_seed(0)
        torch.testing.assert_close(names["ModelNew"]()(*inputs), expected)


def test_no_example_is_a_task(tokenizer: Any, references: list[str]):
    turns = text_of(tokenizer).split("<|im_end|>\n")
    returned = [t.rpartition("return ")[2] for t in turns if "class Model" in t][:3]
    assert not [expression for expression in returned if any(f"return {expression}\n" in r for r in references)]


REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
)
DROPS_SYSTEM = (
    "{% for m in messages if m['role'] != 'system' %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
)
REFUSES_ALL = "{{ raise_exception('only tools') }}"


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM])
def test_the_instruction_joins_the_first_turn_where_there_is_no_system_role(smollm2: Path, template: str):
    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.chat_template = template
    text = text_of(tokenizer)
    first, *_, last = text.split("<user>")[1:]
    assert first.startswith("Rewrite the body of forward")
    assert "\n\nclass Model" in first
    assert text.count("Rewrite") == 1
    assert last.endswith("return x * self.scale<assistant>")


@pytest.mark.parametrize(("template", "message"), [(None, "no chat template"), (REFUSES_ALL, "only tools")])
def test_a_tokenizer_that_cannot_chat(smollm2: Path, template: str | None, message: str):
    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=message):
        text_of(tokenizer)


@pytest.mark.parametrize("source", ["class Model(", "x = 1", "\0"])
def test_a_reference_without_model(tokenizer: Any, source: str):
    with pytest.raises(UserError, match="reference"):
        prompt_tokens(tokenizer, source, PromptSettings())


# --- loading --------------------------------------------------------------------------------------------------------

CPU = RuntimeSettings(device="cpu")


@pytest.fixture
def policy(smollm2: Path) -> Policy:
    return load_policy(smollm2, CPU)


def logits(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.model(input_ids=torch.tensor([[1, 5, 9, 20]])).logits


def trained(policy: Policy, seed: int = 0) -> Policy:
    """`policy` with a LoRA that is no longer the identity."""
    policy = add_lora(policy, LoraSettings(rank=2), seed)
    torch.manual_seed(0)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
    return policy


def test_a_loaded_policy(policy: Policy, smollm2: Path):
    assert (policy.name, policy.checkpoint, policy.device.type) == (smollm2.name, "base", "cpu")
    assert policy.tokenizer.convert_tokens_to_ids("<|im_end|>") in policy.stop_ids
    assert not policy.model.training
    assert policy.model.config._attn_implementation == "sdpa"
    assert not any(p.requires_grad for p in policy.model.parameters())
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}


def test_a_fresh_lora_is_trainable_deterministic_and_the_identity(smollm2: Path, policy: Policy):
    before = logits(policy)
    one = add_lora(policy, LoraSettings(rank=2), seed=3)
    assert torch.equal(logits(one), before)
    names = {n for n, p in one.model.named_parameters() if p.requires_grad}
    assert names
    assert all("lora" in name for name in names)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    other, third = (add_lora(load_policy(smollm2, CPU), LoraSettings(rank=2), seed) for seed in (3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [dict(p.model.named_parameters()) for p in (one, other, third)]
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in names)
    assert not all(torch.equal(weights[0][n], weights[2][n]) for n in names)


@pytest.mark.parametrize("trainable", [True, False])
def test_an_adapter_comes_back(smollm2: Path, policy: Policy, tmp_path: Path, trainable: bool):
    made, folder = trained(policy), tmp_path / "checkpoints" / "step=10"
    folder.parent.mkdir()
    save_adapter(made, folder)
    save_adapter(made, folder)
    assert [p.name for p in folder.parent.iterdir()] == ["step=10"]
    loaded = load_policy(smollm2, CPU, folder, trainable=trainable)
    assert loaded.checkpoint == "step=10"
    assert any(p.requires_grad for p in loaded.model.parameters()) == trainable
    torch.testing.assert_close(logits(loaded), logits(made), rtol=1e-3, atol=2e-3)
    assert (logits(loaded) - logits(load_policy(smollm2, CPU))).abs().max() > 0.1
    with pytest.raises(ValueError, match="step=10"):
        add_lora(loaded, LoraSettings(), 0)


def test_unknown_lora_targets(policy: Policy):
    with pytest.raises(UserError, match=r"`lora\.targets`"):
        add_lora(policy, LoraSettings(targets="nonesuch"), 0)


def test_an_adapter_of_another_policy_is_refused(smollm2: Path, policy: Policy, tmp_path: Path):
    save_adapter(trained(policy), tmp_path / "adapter")
    other = tmp_path / "other"
    other.mkdir()
    for file in smollm2.iterdir():
        if file.name != "provenance.json":
            (other / file.name).symlink_to(file)
    with pytest.raises(UserError, match=f"adapts the policy {smollm2.name}, not other"):
        load_policy(other, CPU, tmp_path / "adapter")
    provenance = json.loads((smollm2 / "provenance.json").read_text())
    provenance["files"]["model.safetensors"]["sha256"] = "0" * 64
    (other / "provenance.json").write_text(json.dumps(provenance))
    with pytest.raises(UserError, match="other weights"):
        load_policy(other, CPU, tmp_path / "adapter")


def test_broken_folders_name_the_file(smollm2: Path, policy: Policy, tmp_path: Path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_policy(tmp_path, CPU)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in smollm2.iterdir():
        if file.name != "model.safetensors":
            (broken / file.name).symlink_to(file)
    with (smollm2 / "model.safetensors").open("rb") as whole:
        (broken / "model.safetensors").write_bytes(whole.read(1_000_000))
    with pytest.raises(UserError, match=r"model\.safetensors is truncated"):
        load_policy(broken, CPU)
    with pytest.raises(UserError, match=r"adapter_config\.json is missing"):
        load_policy(smollm2, CPU, tmp_path)
    adapter = tmp_path / "adapter"
    save_adapter(trained(policy), adapter)
    weights = adapter / "adapter_model.safetensors"
    save_file({name: t[:1].clone() for name, t in load_file(weights).items()}, weights)
    with pytest.raises(UserError, match="does not fit"):
        load_policy(smollm2, CPU, adapter)
    weights.write_bytes(b"")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is truncated"):
        load_policy(smollm2, CPU, adapter)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(smollm2: Path):
    with pytest.raises(UserError, match="`device`"):
        load_policy(smollm2, RuntimeSettings(device="cuda"))
