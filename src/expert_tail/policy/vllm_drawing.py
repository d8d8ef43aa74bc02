"""Drawing tokens inside vLLM's workers: in the engine's own process, or, where the policy is in shards, in a process for each.

Every worker has the logits of the whole vocabulary, and draws the same tokens from them; the first one's are taken. `begin` and
`end` are called in each through `LLMEngine.collective_rpc`; between them `Drawing` draws. Import this where vLLM is installed only.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from expert_tail.policy.token_draws import Completion, TokenDraws


@dataclass(frozen=True)
class Drawn:
    """What a worker has drawn: completions of the first one; from the others their checksum, to compare."""

    completions: list[list[Completion]] | None
    checksum: int
    failure: str | None  # what was wrong with the logits


@dataclass
class _Call:
    draws: TokenDraws
    failure: str | None = None


_call: _Call | None = None  # of this process; an engine samples for one caller at a time


def begin(worker: Any, *request: Any) -> None:
    """`request` is what `TokenDraws` is made from."""
    global _call
    _call = _Call(TokenDraws(*request))


def end(worker: Any) -> Drawn | None:
    """What was drawn since `begin`; None without one."""
    global _call
    call, _call = _call, None
    if call is None:
        return None
    draws, is_first = call.draws, getattr(worker, "rank", 0) == 0
    checksum = zlib.crc32(draws.token_SL.tobytes() + draws.length_S.tobytes())
    is_whole = call.failure is None and bool(draws.length_S.all())
    return Drawn(draws.completions() if is_first and is_whole else None, checksum, call.failure)


class Drawing(LogitsProcessor):
    """Draws a token for each request, and leaves vLLM that one to choose. vLLM makes the instance, in each worker."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.requests: dict[int, tuple[int, list[int]]] = {}  # row: sample, its tokens so far (vLLM's own list)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.requests.pop(row, None)
        for row, params, _, tokens in batch_update.added:
            self.requests[row] = (params.extra_args["sample"], tokens)
        for one, other, direction in batch_update.moved:
            moved, replaced = self.requests.pop(one, None), self.requests.pop(other, None)
            if moved is not None:
                self.requests[other] = moved
            if replaced is not None and direction == MoveDirectionality.SWAP:
                self.requests[one] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if _call is None or not self.requests:
            return logits
        row_A = np.array(sorted(self.requests), dtype=np.int64)
        chosen_A = torch.from_numpy(self._tokens(_call, logits, row_A)).to(logits.device)
        logits.fill_(-torch.inf)
        logits[torch.from_numpy(row_A).to(logits.device), chosen_A] = 0.0
        return logits

    def _tokens(self, call: _Call, logits: torch.Tensor, row_A: np.ndarray) -> np.ndarray:
        if call.failure is None:
            sample_A = np.array([self.requests[row][0] for row in row_A.tolist()], dtype=np.int64)
            # A prompt that is run in parts, or again after its blocks were taken, has drawn in vain: vLLM's count holds.
            call.draws.rewind(sample_A, np.array([len(self.requests[row][1]) for row in row_A.tolist()]))
            try:
                call.draws.draw(logits, row_A, sample_A)
                return call.draws.last_token(sample_A)
            except FloatingPointError as error:  # raised here it would end vLLM's worker
                call.failure = str(error)
        return np.full(len(row_A), call.draws.stop_ids[0])  # all requests end now
