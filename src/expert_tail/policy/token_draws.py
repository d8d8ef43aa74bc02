"""Drawing tokens from logits: what the engines share, so that one set of random numbers gives the same samples under each.

A sample's token at a position is found by inverting the cumulative distribution at a random number that its seed, its
index and the position alone determine. Log-probs of both conventions and the entropy are taken from the same logits.

Letters: R rows of logits, A samples being drawn, S all samples, L positions, V vocabulary.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

CDF_BLOCK = 256  # the cumulative distribution is searched in two levels of about sqrt(V)


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    `token_ids` includes the stop token where `finish_reason` is "stop": its log-prob is part of the completion's
    likelihood. The text is what the ids before it decode to. `logprobs` are log p(token) at temperature 1 and
    `tempered_logprobs` those of the distribution that was drawn from, both in nats, one a token. `entropy` is the
    mean over the tokens of the entropy of the tempered distribution, in nats.
    """

    token_ids: list[int]
    logprobs: list[float]
    tempered_logprobs: list[float]
    entropy: float
    finish_reason: Literal["stop", "length"]


def check_request(
    prompts: Sequence[Sequence[int]],
    n: int,
    temperature: float,
    max_tokens: int,
    seeds: Sequence[int],
    limit: int | None,
) -> None:
    """Raise ValueError for a request that no engine can serve; `limit` is the number of the model's positions."""
    for name, count in {"n": n, "max_tokens": max_tokens}.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
    if not prompts:
        raise ValueError("no prompts to sample from")
    if len(seeds) != len(prompts):
        raise ValueError(f"one seed a prompt: got {len(seeds)} seeds for {len(prompts)} prompts")
    if any(seed < 0 for seed in seeds):
        raise ValueError(f"seeds must not be negative, got {min(seeds)}")
    for p, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(f"prompt {p} is empty")
        if limit is not None and len(prompt) + max_tokens > limit:
            raise ValueError(
                f"prompt {p} has {len(prompt)} tokens; with max_tokens = {max_tokens} that is more than the {limit} "
                "positions of the model"
            )


class TokenDraws:
    """The tokens of all samples and the random numbers that draw them; sample s is number s % n of prompt s // n."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        seeds: Sequence[int],
        stop_ids: Collection[int],
        temperature: float,
        max_tokens: int,
        agreed: Callable[[Tensor], Tensor] = lambda table: table,
    ) -> None:
        """`agreed` turns what was drawn into what all processes go on with."""
        samples = len(prompts) * n
        self.n, self.seeds, self.temperature, self.max_tokens = n, seeds, temperature, max_tokens
        self.prompts, self._agreed = prompts, agreed
        self.stop_ids = np.asarray(sorted(stop_ids), dtype=np.int64)
        self.length_S = np.zeros(samples, dtype=np.int64)
        self.token_SL = np.zeros((samples, max_tokens), dtype=np.int64)
        self.logprob_SL = np.zeros((samples, max_tokens))
        self.tempered_SL = np.zeros((samples, max_tokens))
        self.entropy_SL = np.zeros((samples, max_tokens))
        self.uniform_SL = np.zeros((samples, max_tokens))

    def _uniforms(self, sample_A: np.ndarray) -> np.ndarray:
        """The random number of each sample at its position: number `position` of the generator (seed, sample)."""
        for s in sample_A[self.length_S[sample_A] == 0].tolist():
            key = np.array([self.seeds[s // self.n], s % self.n], dtype=np.uint64)
            self.uniform_SL[s] = np.random.Generator(np.random.Philox(key=key)).random(self.max_tokens)
        return self.uniform_SL[sample_A, self.length_S[sample_A]]

    def rewind(self, sample_A: np.ndarray, length_A: np.ndarray) -> None:
        """Forget what was drawn of these samples after so many tokens; it comes out the same when drawn again."""
        self.length_S[sample_A] = length_A

    def draw(self, logits_RV: Tensor, row_A: np.ndarray, sample_A: np.ndarray) -> None:
        """Give each sample its next token, from the logits of its row."""
        device = logits_RV.device
        uniform_A = torch.from_numpy(self._uniforms(sample_A)).to(device)
        drawn = _draw(logits_RV, torch.from_numpy(row_A).to(device), uniform_A, self.temperature)
        table = self._agreed(torch.stack([column.double() for column in drawn])).cpu().numpy()  # one transfer
        if not table[4].all():
            s = sample_A[int(table[4].argmin())]
            p, position = s // self.n, self.length_S[s]
            raise FloatingPointError(
                f"the policy's logits are not finite (NaN or infinite) for prompt {p} at position "
                f"{len(self.prompts[p]) + position} (token {position} of the completion of sample {s % self.n})"
            )
        at = self.length_S[sample_A]
        self.token_SL[sample_A, at], self.logprob_SL[sample_A, at] = table[0].astype(np.int64), table[1]
        self.tempered_SL[sample_A, at], self.entropy_SL[sample_A, at] = table[2], table[3]
        self.length_S[sample_A] += 1

    def last_token(self, sample_A: np.ndarray) -> np.ndarray:
        return self.token_SL[sample_A, self.length_S[sample_A] - 1]

    def tokens_of(self, sample: int) -> list[int]:
        return self.token_SL[sample, : self.length_S[sample]].tolist()

    def stopped(self, sample_A: np.ndarray) -> np.ndarray:
        return np.isin(self.last_token(sample_A), self.stop_ids)

    def finished(self, sample_A: np.ndarray) -> np.ndarray:
        return self.stopped(sample_A) | (self.length_S[sample_A] == self.max_tokens)

    def completions(self) -> list[list[Completion]]:
        stopped_S = self.stopped(np.arange(len(self.length_S)))
        flat = [
            Completion(
                token_ids=self.tokens_of(s),
                logprobs=self.logprob_SL[s, :length].tolist(),
                tempered_logprobs=self.tempered_SL[s, :length].tolist(),
                entropy=float(self.entropy_SL[s, :length].mean()),
                finish_reason="stop" if stopped_S[s] else "length",
            )
            for s, length in enumerate(self.length_S.tolist())
        ]
        return [flat[first : first + self.n] for first in range(0, len(flat), self.n)]


class _Drawn(NamedTuple):
    token_A: Tensor
    logprob_A: Tensor
    tempered_A: Tensor
    entropy_A: Tensor
    valid_A: Tensor


def _draw(logits_RV: Tensor, row_A: Tensor, uniform_A: Tensor, temperature: float) -> _Drawn:
    """Inverse-CDF sampling from softmax(logits / temperature): the first token whose cumulative sum passes u."""
    logprob_RV = logits_RV.log_softmax(-1)
    tempered_RV = (logits_RV / temperature).log_softmax(-1)
    p_RV = tempered_RV.exp()
    valid_R = p_RV.sum(-1).isfinite()
    entropy_R = -(p_RV * tempered_RV.clamp_min(-1e30)).sum(-1)  # 0 * -inf is NaN, 0 * -1e30 is 0
    padded = torch.nn.functional.pad(p_RV, (0, -p_RV.shape[1] % CDF_BLOCK))
    p_RKX = padded.view(len(p_RV), -1, CDF_BLOCK)
    cdf_AK = p_RKX.sum(-1, dtype=torch.float64).cumsum(-1)[row_A]
    block_A, rest_A = _first_above(cdf_AK, uniform_A * cdf_AK[:, -1])
    token_A, _ = _first_above(p_RKX[row_A, block_A].double().cumsum(-1), rest_A)
    token_A = token_A + block_A * CDF_BLOCK
    return _Drawn(token_A, logprob_RV[row_A, token_A], tempered_RV[row_A, token_A], entropy_R[row_A], valid_R[row_A])


def _first_above(cdf_AK: Tensor, target_A: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first entry above `target_A`, and what of the target is left at its start."""
    # Rounding may put a target on the end of the range; what is found there must have a probability above zero.
    target_A = torch.minimum(target_A, cdf_AK[:, -1] * (1 - 1e-15))
    index_A = (cdf_AK <= target_A[:, None]).sum(-1).clamp_max(cdf_AK.shape[1] - 1)
    before_A = torch.where(index_A > 0, cdf_AK.gather(1, (index_A - 1).clamp_min(0)[:, None])[:, 0], 0.0)
    return index_A, target_A - before_A
