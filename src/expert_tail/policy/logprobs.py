"""Log-probs of completions under a policy, differentiable, with every shared prefix run once.

    log p(token_t | prompt, completion_<t) = log softmax(logits / temperature)[token_t],    in float32

Surprisal is minus its sum at temperature 1. Equal to a padded batch up to rounding, gradients included; a duplicate costs
nothing and its gradients add up. A mixture-of-experts model routes each token by itself, so it is equal there too, except
where rounding decides a tie between experts.

Scoring:

    with torch.no_grad():
        logprobs = completion_logprobs(model, prompts, completions)     # logprobs[i][j][t]

Update; only one pass's graph exists at a time, and gradients add up over passes:

    for pairs, logprobs in packed_passes(model, prompts, completions, temperature=0.7):
        loss = sum(objective(logprobs_T, i, j) for (i, j), logprobs_T in zip(pairs, logprobs))
        loss.backward()
    optimizer.step()

Axes: S rows of a pack, D hidden size, N completion tokens of a pack, U rows that predict a completion token, V vocabulary,
T tokens of one completion.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from expert_tail.errors import UserError
from expert_tail.policy.attention import TreeAttention, check_supported, tree_attention
from expert_tail.policy.packing import Pack, Pair, Tokens, pack_sequences

MAX_TOKENS_PER_PASS = 1536  # an update of a 135M model in float32 holds about 2.7 MiB a token: 4.7 GiB with the model
MAX_LOGIT_BYTES = 512 * 2**20


class PackedPass(NamedTuple):
    """One forward pass: which completions it scored, and their log-probs in the same order."""

    pairs: list[Pair]  # (index of the prompt, index of the completion)
    logprobs: list[Tensor]  # one `logprobs_T` for each pair


def completion_logprobs(
    model: nn.Module,
    prompts: Sequence[Tokens],
    completions: Sequence[Sequence[Tokens]],
    *,
    temperature: float = 1.0,
    max_tokens_per_pass: int = MAX_TOKENS_PER_PASS,
    max_logit_bytes: int = MAX_LOGIT_BYTES,
) -> list[list[Tensor]]:
    """Log-probs (nats) of every token of `completions[i][j]` after `prompts[i]`, as `result[i][j]`, a `logprobs_T`.

    Arguments and errors are those of `packed_passes`. With gradients on, the graphs of all passes live until the result
    is dropped; an update on more than one pass takes `packed_passes`.
    """
    result: list[list[Tensor]] = [[torch.empty(0)] * len(of_prompt) for of_prompt in completions]
    passes = packed_passes(
        model,
        prompts,
        completions,
        temperature=temperature,
        max_tokens_per_pass=max_tokens_per_pass,
        max_logit_bytes=max_logit_bytes,
    )
    recomputes = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if torch.is_grad_enabled() and model.training and recomputes:
        # Layers are run again in backward, which must happen while the attention is still the tree's.
        raise UserError("gradient checkpointing needs packed_passes, with backward() inside its loop")
    for pairs, logprobs in passes:
        for (i, j), logprobs_T in zip(pairs, logprobs, strict=True):
            result[i][j] = logprobs_T
    return result


def packed_passes(
    model: nn.Module,
    prompts: Sequence[Tokens],
    completions: Sequence[Sequence[Tokens]],
    *,
    temperature: float = 1.0,
    max_tokens_per_pass: int = MAX_TOKENS_PER_PASS,
    max_logit_bytes: int = MAX_LOGIT_BYTES,
    share: tuple[int, int] = (0, 1),
) -> Iterator[PackedPass]:
    """Log-probs of completions, one forward pass at a time.

    Passes come in an order of their own; every completion is in exactly one of all processes' passes. Until the loop ends
    the model's attention is the tree's: inside it call `backward()`, no other forward of `model`.

    Args:
        model: a causal LM, or one wrapped by PEFT with LoRA. Its dropout applies in training mode.
        prompts: token ids.
        completions: for each prompt any number of token id lists.
        temperature: divides the logits.
        max_tokens_per_pass: rows of a pass after sharing. With gradients on, memory grows with it.
        max_logit_bytes: bound on rows x vocabulary in float32; beyond it logits are computed in chunks, and again in
            backward.
        share: this process' number and how many there are, which all run as many passes. One for which nothing is left runs
            a pass again, with no `pairs`: its `logprobs` are to be weighed with 0.

    Returns:
        An iterator of passes; `logprobs_T` is float32, or float64 for a model in float64.

    Raises:
        ValueError: an empty prompt or completion, a token outside the vocabulary, a sequence longer than the model's
            positions (each named by its index), a temperature that is not positive.
        UserError: a model that packing would compute wrongly.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive (got {temperature})")
    causal_lm: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise UserError("shared-prefix packing does not support prompt-learning adapters; use LoRA")
    check_supported(causal_lm)
    _check_tokens(causal_lm, prompts, completions)
    packs = list(pack_sequences(prompts, completions, max_tokens_per_pass))
    rank, size = share
    mine = packs[rank::size]
    if packs and len(mine) * size < len(packs):
        mine.append(replace(packs[0], pairs=[]))
    return _run(causal_lm, mine, temperature, max_logit_bytes)


def _check_tokens(model: PreTrainedModel, prompts: Sequence[Tokens], completions: Sequence[Sequence[Tokens]]) -> None:
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    for i, (prompt, of_prompt) in enumerate(zip(prompts, completions, strict=False)):
        named = [(f"prompt {i}", prompt), *((f"completion {j} of prompt {i}", c) for j, c in enumerate(of_prompt))]
        for name, tokens in named:
            if len(tokens) and not (min(tokens) >= 0 and max(tokens) < config.vocab_size):
                raise ValueError(f"{name} has a token outside the vocabulary of {config.vocab_size}")
        for j, completion in enumerate(of_prompt):
            if longest is not None and len(prompt) + len(completion) > longest:
                raise ValueError(
                    f"prompt {i} with its completion {j} has {len(prompt)} + {len(completion)} tokens, "
                    f"but the model has {longest} positions"
                )


def _run(model: PreTrainedModel, packs: list[Pack], temperature: float, max_logit_bytes: int) -> Iterator[PackedPass]:
    with tree_attention(model):
        for pack in packs:
            # No local name holds a pass's graph while the next one is computed.
            yield PackedPass(pack.pairs, _logprobs(model, pack, temperature, max_logit_bytes))


def _logprobs(model: PreTrainedModel, pack: Pack, temperature: float, max_logit_bytes: int) -> list[Tensor]:
    device: torch.device = model.device
    hidden_SD = model.get_decoder()(
        input_ids=torch.from_numpy(pack.tokens_S).to(device)[None],
        position_ids=torch.from_numpy(pack.positions_S).to(device)[None],
        use_cache=False,
        token_tree=TreeAttention(pack),
    ).last_hidden_state[0]

    rows_U, row_of_N = np.unique(pack.predictor_N, return_inverse=True)
    hidden_UD = hidden_SD.index_select(0, torch.from_numpy(rows_U).to(hidden_SD.device))
    n_chunk = max(1, max_logit_bytes // (4 * model.config.get_text_config().vocab_size))
    by_row = np.argsort(row_of_N, kind="stable")
    head = cast(nn.Module, model.get_output_embeddings())
    parts = []
    for start in range(0, len(rows_U), n_chunk):
        first, last = np.searchsorted(row_of_N[by_row], [start, start + n_chunk])
        tokens = by_row[first:last]
        chunk = (
            hidden_UD[start : start + n_chunk],
            torch.from_numpy(row_of_N[tokens] - start).to(hidden_UD.device),
            torch.from_numpy(pack.targets_N[tokens]).to(hidden_UD.device),
        )
        if len(rows_U) > n_chunk and torch.is_grad_enabled():
            parts.append(checkpoint(_head_logprobs, head, *chunk, temperature, use_reentrant=False))
        else:
            parts.append(_head_logprobs(head, *chunk, temperature))
    place = np.empty_like(by_row)
    place[by_row] = np.arange(len(by_row))
    logprobs_N = torch.cat(parts).index_select(0, torch.from_numpy(place).to(hidden_UD.device))
    return list(logprobs_N.split(pack.lengths))


def _head_logprobs(head: nn.Module, hidden_UD: Tensor, row_N: Tensor, token_N: Tensor, temperature: float) -> Tensor:
    logits_UV = head(hidden_UD)
    logits_UV = logits_UV.to(torch.promote_types(logits_UV.dtype, torch.float32))
    if temperature != 1.0:
        logits_UV = logits_UV / temperature
    return logits_UV[row_N, token_N] - logits_UV.logsumexp(dim=-1)[row_N]
