"""Tokens per second of our engines against `generate(num_return_sequences=...)`: transformers, and vLLM where it is installed.

All draw the same number of completions of one chat prompt, in turn, in one process; each round has a prompt of its own, so
that nothing is left in a cache from the round before. A token counts once, up to and including the end of its completion.
Prints one JSON object.
"""

import argparse
import importlib.util
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from expert_tail.policy.engine import engine_of_checkpoint
from expert_tail.policy.sampler import sample
from expert_tail.policy.settings import RuntimeSettings

SYSTEM = "Round {seed}. Write the body of forward in one line."
CLASS = "class Model(nn.Module):\n    def forward(self, {arguments}):\n        return {reference}"
EXAMPLES = [
    ("x", "torch.relu(x)", "return F.relu(x)"),
    ("A, B", "torch.matmul(A, B)", "return A @ B"),
    ("x", "torch.sum(x, dim=1, keepdim=True)", "return x.sum(1, keepdim=True)"),
]
QUESTION = ("x", "torch.nn.functional.hardsigmoid(x)")


def prompt_ids(tokenizer: Any, tokens: int, seed: int) -> list[int]:
    """A chat of worked examples and a question: as many turns as fit into `tokens` tokens."""
    chat = [{"role": "system", "content": SYSTEM.format(seed=seed)}]
    question = {"role": "user", "content": CLASS.format(arguments=QUESTION[0], reference=QUESTION[1])}

    def encode(turns: list[dict[str, str]]) -> list[int]:
        text = tokenizer.apply_chat_template([*turns, question], tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False).input_ids

    ids, turn = encode(chat), 0
    while True:
        arguments, reference, body = EXAMPLES[turn % len(EXAMPLES)]
        chat.append({"role": "user", "content": CLASS.format(arguments=arguments, reference=reference)})
        chat.append({"role": "assistant", "content": body})
        longer = encode(chat)
        if len(longer) > tokens and turn >= len(EXAMPLES):
            return ids
        ids, turn = longer, turn + 1


def timed(function: Any, device: str) -> tuple[float, list[int]]:
    start = time.perf_counter()
    lengths = function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, lengths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", required=True, help="folder of a causal LM and its tokenizer")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--prompt", type=int, default=250, help="tokens of the prompt, at most")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(arguments.policy)
    model: Any = AutoModelForCausalLM.from_pretrained(arguments.policy, dtype=getattr(torch, arguments.dtype))
    model = model.to(arguments.device).eval()
    stop = tokenizer.eos_token_id
    settings: dict[str, Any] = {"temperature": arguments.temperature, "max_tokens": arguments.max_tokens}

    def ours(ids: list[int], seed: int) -> list[int]:
        completions = sample(model, [ids], arguments.samples, stop_ids=[stop], seeds=[seed], **settings)[0]
        return [len(completion.token_ids) for completion in completions]

    def generate(ids: list[int], seed: int) -> list[int]:
        torch.manual_seed(seed)
        output = model.generate(
            torch.tensor([ids], device=arguments.device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=arguments.device),
            num_return_sequences=arguments.samples,
            do_sample=True,
            temperature=arguments.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=arguments.max_tokens,
            eos_token_id=stop,
            pad_token_id=stop,
        )
        rows = output[:, len(ids) :].tolist()
        return [row.index(stop) + 1 if stop in row else len(row) for row in rows]

    engines = {"sampler": ours, "generate": generate}
    runs: dict[str, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        if importlib.util.find_spec("vllm"):
            runtime = RuntimeSettings(engine="vllm", device=arguments.device, dtype=arguments.dtype)
            vllm = stack.enter_context(engine_of_checkpoint(Path(arguments.policy), runtime))

            def on_vllm(ids: list[int], seed: int) -> list[int]:
                return [
                    len(one.token_ids) for one in vllm.sample([ids], arguments.samples, seeds=[seed], **settings)[0]
                ]

            engines["vllm"] = on_vllm
        for seed in range(arguments.repeats + 1):
            ids = prompt_ids(tokenizer, arguments.prompt, seed)
            for name, engine in engines.items():
                seconds, lengths = timed(lambda: engine(ids, seed), arguments.device)  # noqa: B023
                if seed > 0:  # the first round warms all up
                    run = {"seconds": seconds, "tokens": sum(lengths), "rate": sum(lengths) / seconds}
                    runs.setdefault(name, []).append(run)
    rate = {name: statistics.median(run["rate"] for run in runs[name]) for name in engines}
    report = {
        "prompt_tokens": len(ids),
        "samples": arguments.samples,
        "max_tokens": arguments.max_tokens,
        "temperature": arguments.temperature,
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        "dtype": arguments.dtype,
        "threads": torch.get_num_threads(),
        "mean_tokens": {
            name: sum(run["tokens"] for run in runs[name]) / arguments.repeats / arguments.samples for name in engines
        },
        "seconds": {name: statistics.median(run["seconds"] for run in runs[name]) for name in engines},
        "tokens_per_second": rate,
        "ratio": {name: rate[name] / rate["generate"] for name in engines},
        "ratios": {
            name: [a["rate"] / b["rate"] for a, b in zip(runs[name], runs["generate"], strict=True)] for name in engines
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
