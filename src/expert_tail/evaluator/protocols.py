"""How candidates are timed: in rounds with their baseline, which gives an interval; or as it was published."""

import random
import time
from collections.abc import Mapping

import torch

from expert_tail.evaluator.arm import Arm, Ran
from expert_tail.evaluator.bench import Bench
from expert_tail.evaluator.cases import check
from expert_tail.evaluator.process import WorkerFailure
from expert_tail.evaluator.timing import Speedup, agreed, paired_speedup

Outcome = Speedup | WorkerFailure
FAILURES = (WorkerFailure, torch.OutOfMemoryError)


def rounds(baseline: Arm, candidates: Mapping[int, Arm], bench: Bench) -> dict[int, Outcome]:
    """Time candidates that were proven, each until its interval is tight or its share of the time is used up.

    In each round all run once, in random order, on the same fresh inputs; a pair is a candidate's run and the baseline's
    of the same round. So inputs are drawn and the baseline runs once for all of them. Raises where the baseline fails.
    """
    settings = bench.settings
    outcomes: dict[int, Outcome] = {}
    baseline_s: list[float] = []
    seconds: dict[int, list[float]] = {key: [] for key in candidates}
    active = dict(candidates)
    spent_s = 0.0  # by each: two runs' share of every round
    for number in range(settings.max_pairs):
        start, n_arms = time.monotonic(), 1 + len(active)
        inputs = bench.trial(number)
        ran: dict[int | None, Ran] = {}
        for key in random.sample([None, *active], n_arms):
            try:
                arm = baseline if key is None else active[key]
                ran[key] = arm.run(inputs, settings.timeout_s, wanted=bench.outputs)
            except FAILURES as error:
                if key is None:
                    raise
                outcomes[key] = as_failure(error)
        expected = bench.expected(number, ran[None])
        baseline_s.append(bench.seconds(ran[None]))
        spent_s += (time.monotonic() - start) * 2 / n_arms
        for key in active:
            if key in outcomes:
                continue
            try:
                check(ran[key].outputs, expected)
            except FAILURES as error:
                outcomes[key] = as_failure(error)
                continue
            seconds[key].append(bench.seconds(ran[key]))
            if number + 1 >= settings.min_pairs:
                speedup = paired_speedup(baseline_s, seconds[key])
                is_last = number + 1 == settings.max_pairs or spent_s > settings.timing_budget_s
                if is_last or speedup.is_tight(settings.precision):
                    outcomes[key] = speedup
        del ran, expected  # of large outputs, before the next are made
        active = {key: arm for key, arm in active.items() if key not in outcomes}
        if not active:
            break
    return outcomes


def replicated(first: Outcome, source: str, bench: Bench) -> Outcome:
    """What remains of a claim to be faster when it is made again, in fresh processes each time."""
    if isinstance(first, WorkerFailure):
        return first
    replicates = [first]
    try:
        while replicates[-1].low > 1.0 and len(replicates) < bench.settings.replicates:  # type: ignore[operator]
            with bench.fresh_pair(source) as (baseline, again):
                (outcome,) = rounds(baseline, {0: again}, bench).values()
            if isinstance(outcome, WorkerFailure):
                return outcome
            replicates.append(outcome)
    except FAILURES as error:
        return as_failure(error)
    return agreed(replicates)


def published(candidate: Arm, bench: Bench) -> Speedup:
    """The published protocol: a few unpaired trials on one input, and the ratio of means, which has no interval."""
    inputs, n = bench.trial(0), bench.settings.paper_trials
    means = []
    for arm in (bench.baseline, candidate):
        runs = [arm.run(inputs, bench.settings.timeout_s, wanted=bench.outputs) for _ in range(n)]
        if arm is bench.baseline:
            expected = bench.expected(0, runs[0])
        for ran in runs:
            check(ran.outputs, expected)
        means.append(sum(map(bench.seconds, runs)) / n)
    return Speedup(means[0] / means[1], None, None, 1e3 * means[1], 1e3 * means[0], n)


def as_failure(error: Exception) -> WorkerFailure:
    if isinstance(error, WorkerFailure):
        return error
    torch.cuda.empty_cache()
    return WorkerFailure("out_of_memory", f"no room on the device to hold its outputs: {str(error).splitlines()[0]}")
