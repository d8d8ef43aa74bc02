"""Load a policy (a causal LM and its tokenizer) from its folder, put a LoRA adapter on it, save the adapter."""

import json
import os
import shutil
import uuid
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.quantization_config import Mxfp4Config

from expert_tail.errors import UserError
from expert_tail.policy.divide import divided, divides
from expert_tail.policy.settings import LoraSettings, RuntimeSettings
from expert_tail.policy.weights import check_weights, quiet

warnings.filterwarnings(
    "ignore", "`is_gradient_checkpointing`", FutureWarning
)  # PEFT asks transformers by the old name

BASE = "base"  # name of the checkpoint that has no adapter
_REFETCH = "remove the folder and fetch the policy again"
_REMAKE = "remove the folder and run again what made it"
_IDENTITY = "policy.json"  # in an adapter's folder: the policy that it adapts


@dataclass
class Policy:
    """A causal LM in eval mode with what sampling and scoring need to know of it."""

    model: Any  # a transformers causal LM, or the PeftModel around it
    tokenizer: Any
    stop_ids: tuple[int, ...]
    name: str
    checkpoint: str  # "base", or the name of the adapter's folder
    device: torch.device
    identity: dict[str, str]  # name, and the weights' checksums where they are known
    folder: Path


def load_policy(
    folder: str | Path, runtime: RuntimeSettings, adapter: str | Path | None = None, *, trainable: bool = False
) -> Policy:
    """The policy in `folder`, with `adapter` on it; gradients are off unless the adapter is `trainable`.

    An adapter that is not to be trained is merged into float32 weights, which is faster and exact to rounding; in
    bfloat16, where rounding would swallow it, it stays beside them. MXFP4 weights (GPT-OSS) are expanded to the dtype: no
    gradient passes through their own kernels. With several `runtime.shards` layers lie on all visible GPUs, as Accelerate
    places them; or, if this is one of several processes, each holds a part (`divide`).
    """
    folder, device = Path(folder), device_of(runtime)
    tokenizer, stop_ids = load_tokenizer(folder)
    dtype = getattr(torch, runtime.dtype)
    with quiet():
        if divides(runtime):
            whole, outline = partial(_model, folder, dtype, {"": "cpu"}), partial(_outline, folder, dtype)
            model = divided(whole, outline, device)
        else:
            is_mapped = runtime.shards > 1 and device.type == "cuda"
            model = _model(folder, dtype, "auto" if is_mapped else {"": device})
    model.requires_grad_(False)
    if adapter is not None:
        model = _with_adapter(model, Path(adapter), folder, trainable)
        if not trainable and dtype == torch.float32:
            model = model.merge_and_unload()
    return Policy(
        model=model.eval(),
        tokenizer=tokenizer,
        stop_ids=stop_ids,
        name=folder.name,
        checkpoint=BASE if adapter is None else Path(adapter).name,
        device=device,
        identity=_identity(folder),
        folder=folder,
    )


def _model(folder: Path, dtype: torch.dtype, placement: Any) -> Any:
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation=_attention(config),
        device_map=placement,
        quantization_config=_expanded(config),
        local_files_only=True,
    )


def _outline(folder: Path, dtype: torch.dtype) -> Any:
    """The model that `_model` loads, without memory for its weights."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=_attention(config)).eval()


def load_tokenizer(folder: Path) -> tuple[Any, tuple[int, ...]]:
    """The tokenizer of the policy in `folder`, and the tokens that end a turn; its weights are checked to be whole.

    These are the model's and the tokenizer's, and those of GPT-OSS's channel format.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is not a policy (config.json is missing); run fetch_policy to make it")
    check_weights(folder, _REFETCH)
    with quiet():
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        try:
            generation = GenerationConfig.from_pretrained(folder, local_files_only=True)
        except OSError:  # no generation_config.json
            generation = GenerationConfig.from_model_config(config)
    ids = generation.eos_token_id
    found = set(ids if isinstance(ids, list) else [ids]) | {tokenizer.eos_token_id}
    if config.model_type == "gpt_oss":
        found |= {i for token in ("<|return|>", "<|call|>") for i in _ids_of(tokenizer, token)}
    return tokenizer, tuple(sorted(found - {None}))


def add_lora(policy: Policy, settings: LoraSettings, seed: int) -> Policy:
    """`policy` with a fresh trainable LoRA, which changes nothing until trained; equal seeds give equal adapters."""
    if policy.checkpoint != BASE or isinstance(policy.model, PeftModel):
        raise ValueError(f"{policy.name} carries the adapter {policy.checkpoint} already; load it with trainable=True")
    targets = settings.targets
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=targets if targets == "all-linear" else [t.strip() for t in targets.split(",")],
        target_parameters=settings.parameters or None,
        task_type="CAUSAL_LM",
    )
    cuda = [policy.device] if policy.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        try:
            model = get_peft_model(policy.model, config)
        except ValueError as error:
            raise UserError(f"`lora.targets`: {error}") from error
    for parameter in settings.parameters:  # PEFT itself would only warn
        if not any(name.endswith(parameter) for name in model.targeted_parameter_names):
            raise UserError(f"`lora.parameters`: {policy.name} has no parameter `{parameter}`")
    policy.model = model.eval()
    return policy


def save_adapter(policy: Policy, folder: str | Path) -> None:
    """Write the adapter to `folder`, whole or not at all; an earlier one there is replaced."""
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        # Not asking for embeddings keeps PEFT from looking for the base model's vocabulary online.
        policy.model.save_pretrained(temporary, save_embedding_layers=False)
        (temporary / "README.md").unlink(missing_ok=True)  # a form for a model card that nobody filled in
        (temporary / _IDENTITY).write_text(json.dumps(policy.identity, indent=1) + "\n")
        for file in temporary.iterdir():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; free space or permit writing there") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_adapter(adapter: Path, policy: Path) -> dict[str, Any]:
    """The configuration of an adapter; a `UserError` says what is wrong with it, or that it adapts another policy."""
    try:
        config = json.loads((adapter / "adapter_config.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{adapter} is not an adapter (adapter_config.json is missing); {_REMAKE}") from None
    except ValueError as error:
        raise UserError(f"{adapter / 'adapter_config.json'} is not JSON ({error}); {_REMAKE}") from error
    check_weights(adapter, _REMAKE)
    _check_base(adapter, config, _identity(policy))
    return config


def _with_adapter(model: Any, adapter: Path, policy: Path, trainable: bool) -> PeftModel:
    check_adapter(adapter, policy)
    try:
        with quiet():
            return PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{adapter} does not fit the policy {policy.name}: {error}") from error


def _check_base(adapter: Path, config: dict[str, Any], identity: dict[str, str]) -> None:
    """Refuse an adapter of another policy: by checksums of the weights where both are known, else by name."""
    try:
        of = json.loads((adapter / _IDENTITY).read_text())
    except FileNotFoundError:  # saved by PEFT itself
        of = {"name": Path(config.get("base_model_name_or_path") or "").name}
    weights, wanted = identity.get("weights"), of.get("weights")
    if weights and wanted:
        if weights != wanted:
            raise UserError(
                f"{adapter} adapts other weights of {of['name']} than those of {identity['name']}; {_REMAKE}"
            )
    elif of["name"].lower() != identity["name"].lower():
        raise UserError(f"{adapter} adapts the policy {of['name'] or '(unnamed)'}, not {identity['name']}; {_REMAKE}")


def _identity(folder: Path) -> dict[str, str]:
    name = folder.resolve().name
    try:
        files = json.loads((folder / "provenance.json").read_text())["files"]
    except (FileNotFoundError, ValueError, KeyError):
        return {"name": name}
    sums = [files[file]["sha256"] for file in sorted(files) if file.endswith(".safetensors")]
    return {"name": name, "weights": " ".join(sums)}


def device_of(runtime: RuntimeSettings) -> torch.device:
    there = torch.cuda.is_available()
    if runtime.device == "cuda" and not there:
        raise UserError("`device`: cuda was asked for, but torch sees no GPU here; set it to cpu or auto")
    if not there or runtime.device == "cpu":
        return torch.device("cpu")
    # Of several processes on one machine each has a GPU of its own, as torchrun numbers them.
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))


def _attention(config: Any) -> str:
    """sdpa, or eager for models whose attention it cannot express (GPT-OSS has attention sinks)."""
    supported = getattr(AutoModelForCausalLM._model_mapping[type(config)], "_supports_sdpa", False)
    return "sdpa" if supported else "eager"


def _expanded(config: Any) -> Mxfp4Config | None:
    """The instruction to expand MXFP4 weights while they are read; None for a policy that has none."""
    quantization = getattr(config, "quantization_config", None) or {}
    if quantization.get("quant_method") != "mxfp4":
        return None
    return Mxfp4Config(modules_to_not_convert=quantization.get("modules_to_not_convert"), dequantize=True)


def _ids_of(tokenizer: Any, token: str) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(token)] if token in tokenizer.get_vocab() else []
