"""Shared-prefix packing against the padded batch: time, difference and peak memory of scoring and of the policy update.

    python benchmarks/shared_prefix.py --policy FOLDER [--device cuda --dtype bfloat16 --tasks 16]

The baseline is what one would write with transformers alone: for each task a right-padded batch of its K completions, each
with the prompt before it, in minibatches of `--baseline-rows`, logits only where completion tokens are predicted. The
update is forward and backward of Σ_t weight_t · log p(token_t) through a rank-16 LoRA on all linear layers, base frozen.
A repeat is packed, padded, packed. Tokens are random, so that prompts and completions share nothing by chance. Prints JSON.
"""

import argparse
import gc
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from expert_tail.policy.logprobs import completion_logprobs, packed_passes

Arm = Callable[[], list[Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="folder of a causal LM")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--prompt", type=int, default=900, help="tokens of a prompt")
    parser.add_argument("--completions", type=int, default=32, help="completions of a prompt, all different")
    parser.add_argument("--length", type=int, default=12, help="tokens of a completion")
    parser.add_argument("--tasks", type=int, default=1, help="prompts, packed into one pass")
    parser.add_argument("--tokens-per-pass", type=int, help="default: all tasks in one pass")
    parser.add_argument("--baseline-rows", type=int, help="rows of a minibatch (default: 2 on a CPU, 32 on a GPU)")
    parser.add_argument("--repeats", type=int, help="default: 2 on a CPU, 3 on a GPU")
    parser.add_argument("--what", default="both", choices=("both", "scoring", "update"))
    args = parser.parse_args()
    on_cpu = args.device == "cpu"
    rows = args.baseline_rows or (2 if on_cpu else 32)
    repeats = args.repeats or (2 if on_cpu else 3)
    budget = args.tokens_per_pass or args.tasks * (args.prompt + args.completions * args.length)

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_pretrained(args.policy, dtype=getattr(torch, args.dtype)).to(args.device)
    # Random B as well as A: with B = 0 (the default) A would have no gradient to compare.
    model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False))
    model.eval()
    vocabulary = model.config.vocab_size
    prompts = torch.randint(vocabulary, (args.tasks, args.prompt)).tolist()
    completions = torch.randint(vocabulary, (args.tasks, args.completions, args.length)).tolist()
    weight_T = torch.randn(args.length, device=args.device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def loss(logprobs: list[Tensor]) -> Tensor:
        return (torch.stack(logprobs) * weight_T).sum() / len(logprobs)

    @torch.no_grad()
    def packed_scoring() -> list[Tensor]:
        scored = completion_logprobs(model, prompts, completions, max_tokens_per_pass=budget)
        return [logprobs for of_prompt in scored for logprobs in of_prompt]

    @torch.no_grad()
    def padded_scoring() -> list[Tensor]:
        return [
            logprobs
            for prompt, of_prompt in zip(prompts, completions, strict=True)
            for start in range(0, len(of_prompt), rows)
            for logprobs in padded_logprobs(model, prompt, of_prompt[start : start + rows])
        ]

    def packed_update() -> list[Tensor]:
        model.zero_grad(set_to_none=True)
        for _, logprobs in packed_passes(model, prompts, completions, max_tokens_per_pass=budget):
            loss(logprobs).mul(len(logprobs)).backward()
        return [parameter.grad for parameter in parameters]

    def padded_update() -> list[Tensor]:
        model.zero_grad(set_to_none=True)
        for prompt, of_prompt in zip(prompts, completions, strict=True):
            for start in range(0, len(of_prompt), rows):
                logprobs = padded_logprobs(model, prompt, of_prompt[start : start + rows])
                loss(logprobs).mul(len(logprobs)).backward()
        return [parameter.grad for parameter in parameters]

    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if not on_cpu else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "dtype": args.dtype,
        "tasks": args.tasks,
        "prompt": args.prompt,
        "completions": args.completions,
        "length": args.length,
        "repeats": repeats,
    }
    if args.what != "update":
        report["scoring"] = compare(packed_scoring, padded_scoring, repeats, args.device)
    if args.what != "scoring":
        report["update"] = compare(packed_update, padded_update, repeats, args.device)
    print(json.dumps(report, indent=2))


def padded_logprobs(model: Any, prompt: list[int], completions: list[list[int]]) -> list[Tensor]:
    """`logprobs_T` of each completion, from a plain forward pass over [prompt | completion] rows."""
    length = max(map(len, completions))
    tokens_KS = torch.tensor([prompt + c + [0] * (length - len(c)) for c in completions], device=model.device)
    mask_KS = torch.tensor([[1] * len(prompt + c) + [0] * (length - len(c)) for c in completions], device=model.device)
    logits_KTV = model(input_ids=tokens_KS, attention_mask=mask_KS, use_cache=False, logits_to_keep=length + 1).logits
    logprobs_KT = -torch.nn.functional.cross_entropy(
        logits_KTV[:, :-1].float().flatten(0, 1), tokens_KS[:, -length:].flatten(), reduction="none"
    ).unflatten(0, (-1, length))
    return [row_T[: len(c)] for row_T, c in zip(logprobs_KT, completions, strict=True)]


def compare(packed: Arm, padded: Arm, repeats: int, device: str) -> dict[str, Any]:
    """Warm both arms once and compare what they compute, then time them in turn."""
    peaks = {}
    outputs = {}
    for name, arm in (("packed", packed), ("padded", padded)):
        reset_peak(device)
        outputs[name] = [output.clone() for output in arm()]
        peaks[name] = peak_gib(device)
    difference = max((a - b).abs().max().item() for a, b in zip(outputs["packed"], outputs["padded"], strict=True))
    scale = max(b.abs().max().item() for b in outputs["padded"])
    del outputs
    seconds: dict[str, list[float]] = {"packed": [], "padded": []}
    for _ in range(repeats):
        # Packed before and after: the padded arm is so much longer that the machine's load may change meanwhile.
        before, between, after = (timed(arm, device) for arm in (packed, padded, packed))
        seconds["packed"].append((before + after) / 2)
        seconds["padded"].append(between)
    ratios = [slow / quick for quick, slow in zip(seconds["packed"], seconds["padded"], strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "packed_seconds": round(statistics.median(seconds["packed"]), 4),
        "padded_seconds": round(statistics.median(seconds["padded"]), 4),
        "largest_difference": difference,
        "largest_value": scale,
        "packed_peak_gib": peaks["packed"],
        "padded_peak_gib": peaks["padded"],
    }


def timed(arm: Arm, device: str) -> float:
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    arm()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def reset_peak(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM


def peak_gib(device: str) -> float:
    """Peak since `reset_peak`: allocated on the GPU, or resident on the CPU (the model included)."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 2**20, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


if __name__ == "__main__":
    main()
