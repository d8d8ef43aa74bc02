"""Attention over a token tree, as an attention implementation of transformers: models work unmodified.

Each block of a tree (packing.py) attends to its path and to itself. A block without a path that is a plain chain (a prompt)
takes the causal kernel and no mask; the others get an additive mask of rule (1). Everything is
`scaled_dot_product_attention`, so gradients through a shared prompt's keys and values are autograd's own.

Axes: S rows, H heads, D head dimension; B blocks of a batch, Q query rows, K key rows (see packing.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, PreTrainedModel

from expert_tail.errors import UserError
from expert_tail.policy.packing import BLOCK_ROWS, BlockBatch, Ints, Pack, attention_blocks, batch_blocks

IMPLEMENTATION = "expert_tail_token_tree"
ALIGNMENT = 8  # CUDA's memory-efficient kernel reads masks and heads in units of 8 elements

Rows = slice | Tensor  # a slice where rows are contiguous, which costs no copy


class TreeAttention:
    """What every layer needs to attend over one pack; passed through the model as the keyword `token_tree`.

    Masks and row indices are made once per pass, not once per layer.
    """

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self.batches = batch_blocks(attention_blocks(pack.end_S, BLOCK_ROWS))
        self._cached: dict[Any, Any] = {}
        flat = np.concatenate([batch.query_rows_BQ.ravel() for batch in self.batches])
        valid = np.concatenate([batch.query_valid_BQ.ravel() for batch in self.batches])
        # output_of_S[r] is where row r lies among the outputs of all blocks.
        self._output_of_S = np.empty(len(pack.end_S), dtype=np.int64)
        self._output_of_S[flat[valid]] = np.flatnonzero(valid)

    def queries(self, batch: int, device: torch.device) -> Rows:
        return self._rows(("queries", batch, device), self.batches[batch].query_rows_BQ, device)

    def keys(self, batch: int, device: torch.device) -> Rows:
        return self._rows(("keys", batch, device), self.batches[batch].key_rows_BK, device)

    def outputs(self, device: torch.device) -> Rows:
        return self._rows(("outputs", device), self._output_of_S, device)

    def _rows(self, name: Any, rows: Ints, device: torch.device) -> Rows:
        if name not in self._cached:
            flat = rows.ravel()
            contiguous = bool((np.diff(flat) == 1).all())
            self._cached[name] = (
                slice(int(flat[0]), int(flat[-1]) + 1) if contiguous else torch.from_numpy(flat).to(device)
            )
        return self._cached[name]

    def bias(self, batch: int, window: int | None, with_sink: bool, like: Tensor) -> Tensor | None:
        """Additive mask `bias_B1QK` (0 where visible, else -inf); None where plain causality says the same.

        With `with_sink`, key 0 is an extra one that every query sees.
        """
        blocks = self.batches[batch]
        if window is not None and window > self._pack.positions_S.max():
            window = None
        if blocks.is_causal and window is None and not with_sink:
            return None
        name = ("bias", batch, window, with_sink, like.dtype, like.device)
        if name not in self._cached:
            visible_BQK = F.pad(visible(self._pack, blocks, window, like.device), (int(with_sink), 0), value=True)
            n_batch, n_queries, n_keys = visible_BQK.shape
            padded = -(-n_keys // ALIGNMENT) * ALIGNMENT
            bias_B1QK = like.new_full((n_batch, 1, n_queries, padded), -torch.inf)[..., :n_keys]
            self._cached[name] = bias_B1QK.masked_fill_(visible_BQK[:, None], 0.0)
        return self._cached[name]


def visible(pack: Pack, batch: BlockBatch, window: int | None, device: torch.device) -> Tensor:
    """`visible_BQK`: rule (1) and, with a sliding window, position(q) - position(k) < window."""
    q_BQ1 = torch.from_numpy(batch.query_rows_BQ).to(device)[:, :, None]
    k_B1K = torch.from_numpy(batch.key_rows_BK).to(device)[:, None, :]
    # A padding key ends before it begins, so that nothing sees it.
    end_B1K = torch.from_numpy(np.where(batch.key_valid_BK, pack.end_S[batch.key_rows_BK], -1)).to(device)[:, None, :]
    visible_BQK = (k_B1K <= q_BQ1) & (q_BQ1 < end_B1K)
    if window is not None:
        position_S = torch.from_numpy(pack.positions_S).to(device)
        visible_BQK &= position_S[q_BQ1] - position_S[k_B1K] < window
    return visible_BQK


def tree_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    token_tree: TreeAttention | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function in the form of `transformers.AttentionInterface`.

    Args:
        query: `query_1HSD`; `key` and `value` may have fewer heads (grouped-query attention).
        sliding_window: a query sees positions > its own - sliding_window.
        s_aux: attention sinks, one logit a head that takes part in the softmax and has no value.
        token_tree: the tree of the S rows.

    Returns:
        `output_1SHD` and no attention weights.
    """
    if token_tree is None or attention_mask is not None:
        raise RuntimeError(
            f"{type(module).__name__} was called outside packed_passes, or does not hand on `token_tree`"
        )
    for name in ("softcap", "position_bias"):
        if kwargs.get(name) is not None:
            raise UserError(f"{type(module).__name__} uses `{name}`, which shared-prefix packing does not support")
    query_SHD, key_SHD, value_SHD = (x_1HSD[0].transpose(0, 1) for x_1HSD in (query, key, value))
    outputs = []
    for b, batch in enumerate(token_tree.batches):
        n_blocks, device = len(batch.query_rows_BQ), query.device
        output_BHQD = _attend(
            _take(query_SHD, token_tree.queries(b, device), n_blocks),
            _take(key_SHD, token_tree.keys(b, device), n_blocks),
            _take(value_SHD, token_tree.keys(b, device), n_blocks),
            token_tree.bias(b, sliding_window, s_aux is not None, query),
            scaling,
            dropout,
            s_aux,
        )
        outputs.append(output_BHQD.transpose(1, 2).flatten(0, 1))
    output_SHD = _take(torch.cat(outputs), token_tree.outputs(query.device), 1)[0].transpose(0, 1)
    return output_SHD[None], None


def _take(x_SHD: Tensor, rows: Rows, n_blocks: int) -> Tensor:
    """`x_BHND`: the N rows of each of the B blocks."""
    taken = x_SHD[rows] if isinstance(rows, slice) else x_SHD.index_select(0, rows)
    return taken.unflatten(0, (n_blocks, -1)).transpose(1, 2)


def _attend(
    query_BHQD: Tensor,
    key_BGKD: Tensor,
    value_BGKD: Tensor,
    bias_B1QK: Tensor | None,
    scaling: float,
    dropout: float,
    sinks_H: Tensor | None,
) -> Tensor:
    """Softmax attention; causal where `bias_B1QK` is None. G key heads are shared by groups of H/G query heads."""
    head_dim = value_BGKD.shape[-1]
    if sinks_H is not None:
        query_BHQD, key_BGKD, value_BGKD = _with_sink_key(query_BHQD, key_BGKD, value_BGKD, sinks_H, scaling)
    repeats = query_BHQD.shape[1] // key_BGKD.shape[1]
    # Only CUDA's flash kernel gains from heads left grouped: the others do not know them, or are slower in backward.
    grouped = bias_B1QK is None and query_BHQD.is_cuda and query_BHQD.dtype in (torch.float16, torch.bfloat16)
    if not grouped and repeats > 1:
        key_BGKD, value_BGKD = (x.repeat_interleave(repeats, dim=1) for x in (key_BGKD, value_BGKD))
    return F.scaled_dot_product_attention(
        query_BHQD,
        key_BGKD,
        value_BGKD,
        attn_mask=bias_B1QK,
        is_causal=bias_B1QK is None,
        scale=scaling,
        dropout_p=dropout,
        enable_gqa=grouped,
    )[..., :head_dim]


def _with_sink_key(
    query_BHQD: Tensor, key_BGKD: Tensor, value_BGKD: Tensor, sinks_H: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A sink is one more key, of value 0, whose logit is the same for all queries: one more head dimension carries it.

    Unlike an additive mask, this leaves the sinks' gradient to the fused kernels.
    """
    extra_BHQD = (sinks_H / scaling)[:, None, None].to(query_BHQD).expand(*query_BHQD.shape[:3], 1)
    query_BHQD = F.pad(torch.cat([query_BHQD, extra_BHQD], dim=-1), (0, ALIGNMENT - 1))
    key_BGKD, value_BGKD = (F.pad(x, (0, ALIGNMENT, 1, 0)) for x in (key_BGKD, value_BGKD))
    sink_1D = F.one_hot(torch.tensor(key_BGKD.shape[-1] - ALIGNMENT), key_BGKD.shape[-1]).to(key_BGKD)
    return query_BHQD, torch.cat([sink_1D.expand_as(key_BGKD[:, :, :1]), key_BGKD[:, :, 1:]], dim=2), value_BGKD


AttentionInterface.register(IMPLEMENTATION, tree_attention_forward)


@contextmanager
def tree_attention(model: PreTrainedModel) -> Iterator[None]:
    """Run `model` with attention over token trees; an implementation without a mask function gets no mask built.

    cuDNN's attention is left out: it compiles a plan for every new shape, and each pass has shapes of its own.
    """
    before = model.config._attn_implementation or "eager"
    model.set_attn_implementation(IMPLEMENTATION)
    try:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            yield
    finally:
        model.set_attn_implementation(before)


def check_supported(model: PreTrainedModel) -> None:
    """Refuse what would be computed wrongly without a word.

    Raises:
        UserError: naming the setting of the model's config.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise UserError(f"shared-prefix packing does not support layers of type {', '.join(sorted(unknown))}")
    for name, neutral in (
        ("final_logit_softcapping", None),
        ("attn_logit_softcapping", None),
        ("logit_scale", 1),
        ("logits_scaling", 1),
    ):
        if getattr(config, name, None) not in (None, neutral):
            raise UserError(f"shared-prefix packing does not support `{name}` of {type(config).__name__}")
