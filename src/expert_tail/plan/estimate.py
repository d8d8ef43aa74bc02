"""From counts to time, tokens, memory and disk, by the rates of `rates.json`."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from expert_tail.config import Config
from expert_tail.errors import UserError
from expert_tail.plan.quantity import NOTHING, Range
from expert_tail.plan.work import Work
from expert_tail.policy.settings import LoraSettings

BYTES = {"float32": 4, "bfloat16": 2}
_MEASURED = 1.35e8  # parameters of the policy that rates were measured with
_BANDWIDTH = 3.35e12  # bytes a second, H100
_PEAK = 9.9e14  # FLOP a second in bfloat16, H100
_EFFICIENCY = Range(0.4, 0.1)
_UPDATE_COST = 3.0  # of a token's forward pass: backward through frozen weights, and what is computed again
_PASS_TOKENS = 1536  # of an update, see policy/logprobs.py
_SECONDS_OF_TABLES = Range(1.0, 15.0)


@cache
def rates() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("rates.json").read_text())


@dataclass(frozen=True)
class Size:
    """Of a policy: its parameters, those that a token goes through, its layers, and its files' bytes."""

    parameters: float
    active: float
    layers: int
    stored_bytes: float


def size_of(source: str) -> Size:
    """A known policy's size, or what its name says (`7B`); a `UserError` where it says nothing."""
    for name, known in rates()["policies"].items():
        if name in source.lower():
            return Size(**known)
    said = re.search(r"(\d+(?:\.\d+)?)([bm])(?![a-z])", source.lower())
    if not said:
        raise UserError(
            f"`policy.source` {source} does not say how large the policy is; give --parameters, in billions"
        )
    return dense(float(said[1]) * (1e9 if said[2] == "b" else 1e6))


def dense(parameters: float) -> Size:
    """A dense model of this size: parameters = 12 x layers x width², width = 100 x layers (within a factor of 1.5)."""
    layers = round((parameters / 12 / 1e4) ** (1 / 3))
    return Size(parameters, parameters, layers, parameters * 2)


@dataclass(frozen=True)
class Estimate:
    seconds: Range = NOTHING
    tokens: Range = NOTHING  # prompt and completion of every sample, as the paper counts
    computed: Range = NOTHING  # tokens through the model, sampling, scoring and updates together
    distinct: Range = NOTHING  # candidates measured
    disk: Range = NOTHING  # bytes

    def plus(self, other: "Estimate") -> "Estimate":
        return Estimate(*(getattr(self, name).plus(getattr(other, name)) for name in self.__dataclass_fields__))


class Estimator:
    def __init__(self, config: Config, size: Size, device: str) -> None:
        self.config, self.size, self.device = config, size, device
        self._rates = rates()["devices"][device]

    def of(self, rule: str, work: Work) -> Estimate:
        """What one job of a rule takes."""
        if work == Work():
            return Estimate(seconds=_SECONDS_OF_TABLES)
        answer, prompt = (
            self._habit("answer_tokens", work.longest or self.config.sampling.max_tokens),
            self._habit("prompt_tokens"),
        )
        share = self._habit("distinct_share_training" if rule == "rlvr_train" else "distinct_share")
        distinct, referenced = self._measured(rule, share, work)
        # Each prompt once, and what all prompts of a pass begin with once a pass; of the answers, only distinct ones.
        common = self._habit("common_tokens")
        own = Range(prompt.low - common.high, prompt.high - common.low)
        forward = own.times(work.drawn_prompts + work.scored_prompts).plus(common.times(work.batches + work.passes))
        forward = forward.plus(answer.times(share).times(work.samples + work.scored))
        update = own.times(work.updated_prompts).plus(common.times(work.updates))
        update = update.plus(answer.times(share).times(work.updated))
        seconds = self._rate("job_start_s")
        if work.loads_policy:
            seconds = seconds.plus(self._loading())
        if rule == "fetch_policy":
            seconds = seconds.plus(Range(self.size.stored_bytes / 1e9, self.size.stored_bytes / 2e7))
        steps = Range(min(answer.low * 2, work.longest), work.longest)  # until the longest answer of a batch ends
        seconds = seconds.plus(self._decode_step().times(steps).times(work.batches))
        seconds = seconds.plus(self._token().times(forward.plus(update.times(_UPDATE_COST))))
        seconds = seconds.plus(self._rate("candidate_s").times(distinct)).plus(self._repeats(work))
        seconds = seconds.plus(self._rate("reference_s").times(referenced))
        return Estimate(
            seconds=seconds,
            tokens=prompt.plus(answer).times(work.samples),
            computed=forward.plus(update),
            distinct=distinct.plus(Range.exactly(work.repeated)),
            disk=self._disk(rule, work, distinct),
        )

    def _measured(self, rule: str, share: Range, work: Work) -> tuple[Range, Range]:
        """Candidates that are measured, and tasks whose reference is run for them: not where every candidate is known."""
        referenced = Range.exactly(work.referenced)
        if rule.startswith("adapt_"):
            distinct = self._habit("measured_share_adaptation").times(work.evaluated)
            return distinct, Range(min(referenced.low, distinct.low), min(referenced.high, distinct.high))
        if not work.evaluated:
            return NOTHING, referenced
        return Range(*(max(work.referenced, end) for end in share.times(work.evaluated))), referenced

    def memory(self) -> dict[str, Range]:
        """Bytes: of the weights, of an update's activations and optimiser, and of the whole on the device it is on.

        A policy in shards has them on all of its GPUs together. vLLM has weights of its own, and a cache on each GPU.
        """
        weights = Range.exactly(self.size.parameters * BYTES[self.config.policy.dtype])
        per_token = rates()["memory"]["update_bytes_per_token_135m"]["value"] * BYTES[self.config.policy.dtype] / 4
        # Activations grow with layers times width, about the power 2/3 of the parameters.
        grown = per_token * (self.size.active / _MEASURED) ** (2 / 3) * _PASS_TOKENS
        update = Range(grown / 2, grown * 1.5).plus(adapter_bytes(self.size, self.config.lora).times(3))
        process = _range(rates()["memory"]["job_bytes"])
        policy, engine = self.config.policy, Range.exactly(0)
        if policy.engine == "vllm":
            engine = Range.exactly(self.size.stored_bytes + policy.shards * policy.kv_cache_gib * 2**30)
        return {"weights": weights, "update": update, "all": weights.plus(update).plus(process).plus(engine)}

    def _loading(self) -> Range:
        speed = self._rate("load_bytes_per_s")
        return Range(self.size.stored_bytes / speed.high, self.size.stored_bytes / speed.low)

    def _decode_step(self) -> Range:
        measured = self._rate("decode_step_s")
        if self.device == "cpu":
            return measured.times(self.size.active / _MEASURED)
        reading = self.size.active * BYTES[self.config.policy.dtype] / _BANDWIDTH
        launches = 1e-3 * self.size.layers
        return Range(max(measured.low, reading, launches / 3), max(measured.high, 3 * reading, 2 * launches))

    def _token(self) -> Range:
        if self.device == "cpu":
            return self._rate("forward_token_s").times(self.size.active / _MEASURED)
        flops = 2 * self.size.active / _PEAK * (2 if self.config.policy.dtype == "float32" else 1)
        floor = self._rate("forward_token_s")
        return Range(max(floor.low, flops / _EFFICIENCY.low), max(floor.high, flops / _EFFICIENCY.high))

    def _repeats(self, work: Work) -> Range:
        """Of the null audit: its own budget of time instead of the evaluator's."""
        budget, own = self.config.null_audit.timing_budget_s, self.config.evaluator.timing_budget_s
        share = 1.0 if budget is None else min(1.0, 0.3 + 0.7 * budget / own)
        return self._rate("candidate_s").times(work.repeated * share)

    def _disk(self, rule: str, work: Work, distinct: Range) -> Range:
        known = rates()["bytes"]
        disk = NOTHING
        if rule == "fetch_policy":
            disk = Range.exactly(self.size.stored_bytes)
        disk = disk.plus(_range(known["sample"]).times(work.samples + work.scored))
        disk = disk.plus(_range(known["evaluation"]).times(work.evaluated))
        disk = disk.plus(_range(known["cached_evaluation"]).times(distinct.plus(Range.exactly(work.repeated))))
        if work.adapters:  # and the optimiser's state of the last step
            disk = disk.plus(adapter_bytes(self.size, self.config.lora).times(work.adapters + 2))
        return disk

    def _habit(self, name: str, most: int | None = None) -> Range:
        habit = _range(rates()["habits"][name])
        return habit if most is None else Range(min(habit.low, most), min(habit.high, most))

    def _rate(self, name: str) -> Range:
        return _range(self._rates[name])


def adapter_bytes(size: Size, lora: LoraSettings) -> Range:
    """Of one adapter: grows with the rank and the root of the parameters (measured at 135M, all linear layers; rank 16 of a
    7B policy has 40 million, which fits). With experts as targets, that much for the share of the parameters they hold."""
    known = rates()["bytes"]["adapter_135m_rank16"]["value"] * lora.rank / 16
    through = known * (size.active / _MEASURED) ** 0.5
    experts = through * size.parameters / size.active if lora.parameters else 0.0
    return Range(through / 3 + experts / 2, 1.5 * through + 2 * experts)  # attention alone is a third


def _range(rate: dict[str, Any]) -> Range:
    return Range(rate["low"], rate["high"])
