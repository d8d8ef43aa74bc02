"""Sampling with transformers: each prefix is computed once, equal partial completions are computed once.

Samples of one prompt that have drawn the same tokens so far are in the same state, so they share one row of the batch;
the row splits where their next tokens differ. At the temperatures used here most samples are duplicates, so there are
far fewer rows than samples. What a sample draws depends on its own counter-based random numbers and on the policy, not
on the samples beside it.

Letters: B rows, N distinct prompts, A samples being drawn, V vocabulary.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expert_tail.policy.decode_cache import ATTENTION, DecodeCache
from expert_tail.policy.divide import as_the_first, without_gradients
from expert_tail.policy.token_draws import Completion, TokenDraws, check_request
from expert_tail.progress import Advance

MIN_COMMON = 16  # a shorter common prefix is not worth a pass of its own
PREFILL_TOKENS = 2048  # prompt tokens in one pass, so that activations stay small
HOST_BUDGET = 1 << 30  # bytes for rows on a CPU


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    n: int,
    *,
    stop_ids: Collection[int],
    temperature: float,
    max_tokens: int,
    seeds: Sequence[int],
    advance: Advance | None = None,
    max_rows: int | None = None,
) -> list[list[Completion]]:
    """Draw `n` completions of each prompt (token ids); result[p][i] is sample i of prompt p.

    Sample i of a prompt is a function of the policy, the prompt, `seeds[p]` and i: it comes out the same whatever `n`,
    `max_rows` and the other prompts are, up to floating-point ties. Prompts with equal seeds draw with the same random
    numbers. `max_rows` bounds the rows decoded at once (default: what fits the memory); samples beyond it follow as
    others end. `advance(k)` is called when k more samples are done. The model is used as it is (a PEFT adapter is
    active) and left as it was.

    Raises ValueError for bad arguments and FloatingPointError where the policy's logits are not finite.
    """
    config = model.config.get_text_config()
    check_request(prompts, n, temperature, max_tokens, seeds, getattr(config, "max_position_embeddings", None))
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, got {max_rows}")
    if unknown := set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"the sampler does not implement attention of type {', '.join(sorted(unknown))}")
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    distinct = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    index_of = {prompt: i for i, prompt in enumerate(distinct)}
    agreed = as_the_first(base)
    draws = TokenDraws(prompts, n, seeds, stop_ids, temperature, max_tokens, agreed)
    with _ready(base), without_gradients(base):
        cache, root_NV = _prefill(base, distinct)
        if max_rows is None:
            affordable = _affordable_rows(config, root_NV, max_tokens, next(base.parameters()).dtype)
            max_rows = int(agreed(torch.tensor(affordable, device=root_NV.device)))
        prompt_S = np.repeat([index_of[tuple(prompt)] for prompt in prompts], n)
        _decode(base, cache, root_NV, prompt_S, draws, max_rows, advance)
    return draws.completions()


@contextmanager
def _ready(base: Any) -> Iterator[None]:
    """Evaluation mode and the cascade attention for the duration; the model is left as it was."""
    training, attention = base.training, base.config._attn_implementation
    base.eval()
    base.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        base.config._attn_implementation = attention
        base.train(training)


def _forward(base: Any, cache: DecodeCache, tokens: Any, positions: Tensor, keep: Any = 0) -> Tensor:
    """Logits, in at least float32, of one pass over a packed sequence; (positions kept, V)."""
    tokens_1R = torch.as_tensor(tokens, device=positions.device)[None]
    cache.layers_seen = 0
    logits_RV = base(
        input_ids=tokens_1R, position_ids=positions[None], use_cache=False, logits_to_keep=keep, cascade=cache
    ).logits[0]
    if cache.layers_seen != base.config.get_text_config().num_hidden_layers:
        raise ValueError(f"{type(base).__name__} does not call transformers' attention interface in every layer")
    return logits_RV.to(torch.promote_types(logits_RV.dtype, torch.float32))


def _prefill(base: Any, prompts: Sequence[tuple[int, ...]]) -> tuple[DecodeCache, Tensor]:
    """Run every prompt once and their common leading tokens once in all; returns the next-token logits, (N, V)."""
    device = base.get_input_embeddings().weight.device
    common = _common_length(prompts) if len(prompts) > 1 else 0
    suffixes = [prompt[common:] for prompt in prompts]
    cache = DecodeCache(common, [len(suffix) for suffix in suffixes])
    if common:
        cache.begin_common()
        _forward(base, cache, prompts[0][:common], torch.arange(common, device=device), keep=1)
    logits, first = [], 0
    while first < len(suffixes):
        last, size = first + 1, len(suffixes[first])
        while last < len(suffixes) and size + len(suffixes[last]) <= PREFILL_TOKENS:
            size, last = size + len(suffixes[last]), last + 1
        group = suffixes[first:last]
        cache.begin_prompts(first, last)
        positions = torch.cat([torch.arange(common, common + len(suffix)) for suffix in group]).to(device)
        ends = torch.tensor([len(suffix) for suffix in group], device=device).cumsum(0) - 1
        logits.append(_forward(base, cache, [token for s in group for token in s], positions, keep=ends))
        first = last
    return cache, torch.cat(logits)


def _common_length(prompts: Sequence[tuple[int, ...]]) -> int:
    """Leading tokens that all prompts share, leaving each at least one token of its own; 0 where too few."""
    low, high = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    common = next((i for i in range(limit) if low[i] != high[i]), limit)
    return common if common >= MIN_COMMON else 0


def _affordable_rows(config: Any, root_NV: Tensor, max_tokens: int, dtype: torch.dtype) -> int:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * heads * size * max_tokens * dtype.itemsize
    logits = 6 * root_NV.shape[1] * root_NV.dtype.itemsize  # the logits and the distributions made of them
    budget = HOST_BUDGET
    if root_NV.is_cuda:
        budget = torch.cuda.mem_get_info(root_NV.device)[0] // 2
    return max(1, budget // (cached + logits))


def _decode(
    base: Any,
    cache: DecodeCache,
    root_NV: Tensor,
    prompt_S: np.ndarray,
    draws: TokenDraws,
    max_rows: int,
    advance: Advance | None,
) -> None:
    vocabulary, waiting = root_NV.shape[1], 0
    sample_A = row_A = np.empty(0, dtype=np.int64)
    token_B = np.empty(0, dtype=np.int64)
    while True:
        # Each sample may end in a row of its own, so samples are what is bounded. Together they share more rows.
        room, left = max_rows - len(sample_A), len(prompt_S) - waiting
        joining = min(room, left) if room >= min(left, max(1, max_rows // 4)) else 0
        new_A = np.arange(waiting, waiting + joining)
        waiting += joining
        if len(sample_A) + len(new_A) == 0:
            return
        rows = len(token_B)
        if rows:
            position_B = cache.begin_step(root_NV.device)
            logits_BV = _forward(base, cache, token_B, position_B)
            cache.end_step()
            draws.draw(logits_BV, row_A, sample_A)
        if len(new_A):
            draws.draw(root_NV, prompt_S[new_A], new_A)
        # The states that samples leave: a row of the batch, or (numbered after those) the end of a prompt.
        sample_A, row_A = np.concatenate([sample_A, new_A]), np.concatenate([row_A, rows + prompt_S[new_A]])
        going_A = ~draws.finished(sample_A)
        if advance is not None and not going_A.all():
            advance(int((~going_A).sum()))
        sample_A, row_A = sample_A[going_A], row_A[going_A]
        branch_B, row_A = np.unique(row_A * vocabulary + draws.last_token(sample_A), return_inverse=True)
        left_B, token_B = np.divmod(branch_B, vocabulary)
        old_B = left_B < rows
        prompt_B = left_B - rows
        prompt_B[old_B] = cache.prompt_B[left_B[old_B]]
        cache.select_rows(np.where(old_B, left_B, -1), prompt_B)
