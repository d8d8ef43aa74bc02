"""Keys and values of rows that share prefixes, and the attention over them: every prefix is held and read once.

A row is one partial completion. It attends to three pieces: the tokens common to all prompts, the rest of its own
prompt, and its own tokens. The first two are one matrix product for all rows that share them (a cascade); a joint
softmax over the three gives the same numbers as attention over the whole sequence.

Letters: B rows, N prompts, H key/value heads, G query heads per key/value head, D head size, C common tokens,
S tokens of the longest prompt after the common ones, T columns of the rows' own tokens, Q queries of a prefill.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface

ATTENTION = "expert_tail_cascade"
GROWTH = 16  # columns added at a time: most completions end within the first block
QUERY_BLOCK = 256  # bounds the score matrix of a long prompt


class DecodeCache:
    """The key/value store of one call of `sample`; also the state that the attention function reads.

    All rows write their newest token into the same column, so a step is one contiguous write. A row that joins
    later ignores the columns before its `start_B`.
    """

    def __init__(self, common: int, suffixes: Sequence[int]) -> None:
        """`common`: tokens shared by all prompts; `suffixes`: number of tokens of each prompt after them (>= 1)."""
        self.common = common
        self.suffix_N = np.asarray(suffixes)
        self.prompt_B = np.empty(0, dtype=np.int64)
        self.start_B = np.empty(0, dtype=np.int64)
        self.column = 0
        self.layers_seen = 0
        self._common_2HCD: dict[int, Tensor] = {}
        self._prompts_2HNSD: dict[int, Tensor] = {}
        self._own_2BHTD: dict[int, Tensor] = {}
        self._attend: Callable[..., Tensor] = self._attend_common

    # Phases: each names what the next forward pass of the model computes.

    def begin_common(self) -> None:
        """The next pass runs the common tokens as one sequence of C positions."""
        self._attend = self._attend_common

    def begin_prompts(self, first: int, last: int) -> None:
        """The next pass runs the suffixes of prompts `first`..`last` - 1, packed one behind the other."""
        self._attend = partial(self._attend_prompts, range(first, last))

    def begin_step(self, device: torch.device) -> Tensor:
        """The next pass runs one token of every row; returns their positions, shape (B,)."""
        self._attend = self._attend_rows
        length_B = self.suffix_N[self.prompt_B]
        self._first, self._last = int(self.prompt_B.min()), int(self.prompt_B.max()) + 1
        self._longest = int(length_B.max())
        self._ragged = bool((length_B != self._longest).any() or (self.start_B > 0).any())
        self._masks: dict[int | None, Tensor | None] = {}
        position_B = self.common + length_B + self.column - self.start_B
        self._furthest = int(position_B.max())
        parts = [position_B, self.start_B, length_B, *self._slots()]
        moved = torch.from_numpy(np.concatenate(parts)).to(device)  # one transfer: each one waits for the device
        self._position_B, self._start_B, self._length_B, self._slot_B, self._row_of_slot = moved.split(
            [len(part) for part in parts]
        )
        return self._position_B

    def _slots(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows in a rectangle (prompt, rank within the prompt), the shape of one batched product over prompts.

        Returns the slot of each row and the row in each slot; an empty slot repeats row 0, and nothing reads it back.
        """
        prompt_B = self.prompt_B - self._first
        count_N = np.bincount(prompt_B)
        order_B = np.argsort(prompt_B, kind="stable")
        rank_B = np.empty_like(order_B)
        rank_B[order_B] = np.arange(len(order_B)) - np.repeat(np.cumsum(count_N) - count_N, count_N)
        self._width = int(count_N.max())
        slot_B = prompt_B * self._width + rank_B
        row_of_slot = np.zeros(len(count_N) * self._width, dtype=np.int64)
        row_of_slot[slot_B] = np.arange(len(slot_B))
        return slot_B, row_of_slot

    def end_step(self) -> None:
        self.column += 1

    def select_rows(self, parent_B: np.ndarray, prompt_B: np.ndarray) -> None:
        """Make new rows: row i continues old row `parent_B[i]`, or starts at the end of its prompt where that is -1."""
        fresh_B = parent_B < 0
        unchanged = len(parent_B) == len(self.prompt_B) and bool((parent_B == np.arange(len(parent_B))).all())
        start_B = np.full(len(parent_B), self.column)
        start_B[~fresh_B] = self.start_B[parent_B[~fresh_B]]
        shift = int(start_B.min()) if len(start_B) else 0
        if not unchanged or shift:
            index_B = torch.from_numpy(np.maximum(parent_B, 0))
            for layer, own in self._own_2BHTD.items():
                index_B = index_B.to(own.device)  # a copy only where the layer lies on another device
                if own.shape[1] == 0:  # no old row to take: every new one starts afresh
                    own = own.new_zeros(2, 1, *own.shape[2:])
                self._own_2BHTD[layer] = own[:, :, :, shift:].index_select(1, index_B)
        self.prompt_B, self.start_B, self.column = prompt_B, start_B - shift, self.column - shift

    # Attention of each phase. q_RHGD is scaled already; R is Q or B.

    def attend(
        self, layer: int, q_RHGD: Tensor, k_RHD: Tensor, v_RHD: Tensor, window: int | None, sinks_HG: Tensor | None
    ) -> Tensor:
        """Store the new keys and values and return the attention output, shape (R, H, G, D)."""
        self.layers_seen += 1
        return self._attend(layer, q_RHGD, k_RHD, v_RHD, window, sinks_HG)

    def _attend_common(
        self, layer: int, q_QHGD: Tensor, k_QHD: Tensor, v_QHD: Tensor, window: int | None, sinks_HG: Tensor | None
    ) -> Tensor:
        kv_2HCD = torch.stack([k_QHD.transpose(0, 1), v_QHD.transpose(0, 1)])
        self._common_2HCD[layer] = kv_2HCD
        return _causal(q_QHGD, kv_2HCD, window, sinks_HG)

    def _attend_prompts(
        self,
        prompts: range,
        layer: int,
        q_QHGD: Tensor,
        k_QHD: Tensor,
        v_QHD: Tensor,
        window: int | None,
        sinks_HG: Tensor | None,
    ) -> Tensor:
        heads, size = k_QHD.shape[1:]
        if layer not in self._prompts_2HNSD:
            shape = (2, heads, len(self.suffix_N), int(self.suffix_N.max()), size)
            self._prompts_2HNSD[layer] = k_QHD.new_zeros(shape)  # padding must be finite: 0 * NaN is NaN
        kv_2HQD = torch.stack([k_QHD.transpose(0, 1), v_QHD.transpose(0, 1)])
        out_QHGD = torch.empty_like(q_QHGD)
        first = 0
        for prompt in prompts:
            part = slice(first, first := first + int(self.suffix_N[prompt]))
            suffix_2HSD = kv_2HQD[:, :, part]
            self._prompts_2HNSD[layer][:, :, prompt, : suffix_2HSD.shape[2]] = suffix_2HSD
            seen = torch.cat([self._common_2HCD[layer], suffix_2HSD], 2) if self.common else suffix_2HSD
            out_QHGD[part] = _causal(q_QHGD[part], seen, window, sinks_HG)
        return out_QHGD

    def _attend_rows(
        self, layer: int, q_BHGD: Tensor, k_BHD: Tensor, v_BHD: Tensor, window: int | None, sinks_HG: Tensor | None
    ) -> Tensor:
        k_BHTD, v_BHTD = self._write(layer, k_BHD, v_BHD)
        rows, heads, group, size = q_BHGD.shape
        q_HBGD = q_BHGD.transpose(0, 1).contiguous()
        scores = []
        k_HCD, v_HCD = self._common_2HCD[layer] if self.common else (None, None)
        if k_HCD is not None:
            scores.append((q_HBGD.view(heads, -1, size) @ k_HCD.mT).view(heads, rows, group, -1))
        k_HNSD, v_HNSD = self._prompts_2HNSD[layer][:, :, self._first : self._last, : self._longest]
        scores.append(self._from_slots(self._to_slots(q_HBGD) @ k_HNSD.mT, group))
        scores.append((q_BHGD @ k_BHTD.mT).transpose(0, 1))
        weights_HBGK = _softmax(torch.cat(scores, -1), self._mask(window), sinks_HG).to(v_BHD.dtype)

        parts = weights_HBGK.split([s.shape[-1] for s in scores], -1)
        out_BHGD = parts[-1].transpose(0, 1) @ v_BHTD
        out_HBGD = self._from_slots(self._to_slots(parts[-2]) @ v_HNSD, group)
        if v_HCD is not None:
            out_HBGD = out_HBGD + (parts[0].reshape(heads, -1, self.common) @ v_HCD).view_as(out_HBGD)
        return out_BHGD + out_HBGD.transpose(0, 1)

    def _write(self, layer: int, k_BHD: Tensor, v_BHD: Tensor) -> Tensor:
        own = self._own_2BHTD.get(layer)
        if own is None:
            own = k_BHD.new_zeros(2, k_BHD.shape[0], k_BHD.shape[1], GROWTH, k_BHD.shape[2])
        elif own.shape[3] <= self.column:
            own = torch.nn.functional.pad(own, (0, 0, 0, self.column + GROWTH - own.shape[3]))
        own[0, :, :, self.column] = k_BHD
        own[1, :, :, self.column] = v_BHD
        self._own_2BHTD[layer] = own
        return own[:, :, :, : self.column + 1]

    def _to_slots(self, x_HBGX: Tensor) -> Tensor:
        """(H, B, G, X) to (H, N, rows of a prompt times G, X)."""
        heads, _, group, width = x_HBGX.shape
        if self._last - self._first > 1:
            x_HBGX = x_HBGX.index_select(1, self._row_of_slot.to(x_HBGX.device))
        return x_HBGX.reshape(heads, self._last - self._first, self._width * group, width)

    def _from_slots(self, x_HNRX: Tensor, group: int) -> Tensor:
        """Inverse of `_to_slots`."""
        x_HBGX = x_HNRX.view(x_HNRX.shape[0], -1, group, x_HNRX.shape[-1])
        return x_HBGX.index_select(1, self._slot_B.to(x_HBGX.device)) if self._last - self._first > 1 else x_HBGX

    def _mask(self, window: int | None) -> Tensor | None:
        """What a row must not see: padding of its prompt, columns before its start, tokens out of its window."""
        if window not in self._masks:
            self._masks[window] = self._build_mask(window)
        return self._masks[window]

    def _build_mask(self, window: int | None) -> Tensor | None:
        if not self._ragged and (window is None or self._furthest < window):
            return None
        device = self._position_B.device
        prefix_K = torch.arange(self.common + self._longest, device=device)
        column_T = torch.arange(self.column + 1, device=device)
        hidden_prefix_BK = prefix_K >= (self.common + self._length_B)[:, None]
        hidden_own_BT = column_T < self._start_B[:, None]
        if window is not None:
            hidden_prefix_BK |= self._position_B[:, None] - prefix_K >= window
            hidden_own_BT |= self.column - column_T >= window
        return torch.cat([hidden_prefix_BK, hidden_own_BT], -1)


def _causal(q_QHGD: Tensor, kv_2HKD: Tensor, window: int | None, sinks_HG: Tensor | None) -> Tensor:
    """Causal attention in which the last query sees the last key; returns (Q, H, G, D)."""
    queries, heads, group, size = q_QHGD.shape
    keys = kv_2HKD.shape[2]
    out_QHGD = torch.empty_like(q_QHGD)
    for first in range(0, queries, QUERY_BLOCK):
        last = min(first + QUERY_BLOCK, queries)
        seen = keys - queries + last
        k_HKD, v_HKD = kv_2HKD[:, :, :seen]
        q_HRD = q_QHGD[first:last].transpose(0, 1).reshape(heads, -1, size)
        distance_QK = torch.arange(seen - last + first, seen, device=q_HRD.device)[:, None]
        distance_QK = distance_QK - torch.arange(seen, device=q_HRD.device)
        hidden_QK = distance_QK < 0 if window is None else (distance_QK < 0) | (distance_QK >= window)
        scores_HQGK = (q_HRD @ k_HKD.mT).view(heads, last - first, group, seen)
        weights = _softmax(scores_HQGK, hidden_QK, sinks_HG).to(v_HKD.dtype)
        out_HQGD = (weights.view(heads, -1, seen) @ v_HKD).view(heads, last - first, group, size)
        out_QHGD[first:last] = out_HQGD.transpose(0, 1)
    return out_QHGD


def _softmax(scores_HRGK: Tensor, hidden_RK: Tensor | None, sinks_HG: Tensor | None) -> Tensor:
    """Softmax over the last axis, in at least float32; a sink is one more logit whose weight is dropped."""
    dtype = torch.promote_types(scores_HRGK.dtype, torch.float32)
    scores_HRGK = scores_HRGK.to(dtype)
    if hidden_RK is not None:
        scores_HRGK = scores_HRGK.masked_fill(hidden_RK.to(scores_HRGK.device)[:, None], -torch.inf)
    if sinks_HG is None:
        return scores_HRGK.softmax(-1)
    sink_HRG1 = sinks_HG.to(dtype)[:, None, :, None].expand(*scores_HRGK.shape[:3], 1)
    return torch.cat([scores_HRGK, sink_HRG1], -1).softmax(-1)[..., :-1].contiguous()


def cascade_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    softcap: float | None = None,
    cascade: DecodeCache | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer; `query` is (1, H * G, R, D)."""
    if cascade is None:
        raise RuntimeError(f"attention `{ATTENTION}` only works inside expert_tail.policy.sampler.sample")
    if softcap is not None:
        raise NotImplementedError("the sampler does not implement soft-capped attention scores")
    heads, rows, size = key.shape[1:]
    q_RHGD = query[0].transpose(0, 1).reshape(rows, heads, -1, size)
    q_RHGD = q_RHGD * (size**-0.5 if scaling is None else scaling)
    sinks_HG = None if s_aux is None else s_aux.view(heads, -1)
    k_RHD, v_RHD = key[0].transpose(0, 1), value[0].transpose(0, 1)
    layer: Any = module.layer_idx
    out_RHGD = cascade.attend(layer, q_RHGD, k_RHD, v_RHD, sliding_window, sinks_HG)
    return out_RHGD.reshape(1, rows, -1, size), None


AttentionInterface.register(ATTENTION, cascade_attention)
