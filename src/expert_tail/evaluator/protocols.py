"""How candidates are timed: in rounds with their baseline, which gives an interval; or as it was published."""

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TypeGuard

import torch

from expert_tail.evaluator.arm import Arm, Disturbed, Ran, close_all, made_together
from expert_tail.evaluator.bench import Bench
from expert_tail.evaluator.cases import Output, check
from expert_tail.evaluator.layout import Inputs
from expert_tail.evaluator.process import BUSY_DEVICE, INPUT_MUTATED, WorkerFailure
from expert_tail.evaluator.timing import Speedup, agreed, paired_speedup

Outcome = Speedup | WorkerFailure
FAILURES = (WorkerFailure, torch.OutOfMemoryError)
PATIENCE_S = 5.0  # how long candidates that are right wait for others to be proven, some of which may never answer
TRIALS_A_PAIR = 3  # at most, since some may be void
WARM_UP_S = 0.1  # how long the baseline runs untimed
# Whether a device is at rest is seen from the time of one's own kernels, for so long; for longer, by an exponential time, where
# a candidate is alone with its baseline.
WINDOW_S, WINDOW_MORE_S = 1.6e-3, 6e-3
MAX_DISTURBED, SHARE_DISTURBED = 3, 0.05  # of such looks at the device that find others at work: so many, and of all


def paired(
    candidates: Sequence["Future[Arm]"], baseline: "Future[Arm] | None", bench: Bench, order: Sequence[int] = ()
) -> Iterator[tuple[int, Outcome]]:
    """Prove candidates and the baseline (None: the bench's own, which is), and time those that are right in rounds.

    As many at a time as there is room for, in random order, or in the given one, the baseline, which is the last, among them:
    of processes that run the same code the first to get ready are slower for as long as they live, by some percent. Raises
    where the baseline fails.
    """
    n = len(candidates)
    arms = [*candidates, baseline] if baseline else candidates
    waiting = deque(order or random.sample(range(len(arms)), len(arms)))
    timed_against = None if baseline else bench.baseline
    while any(i < n for i in waiting):
        right, failed = _proven(arms, waiting, bench)
        if n in failed:
            raise failed[n]
        yield from failed.items()
        timed_against = right.pop(n, timed_against)
        if right:
            if timed_against is None:
                waiting.remove(n)
                timed_against = arms[n].result()
                bench.prove(timed_against)
            with bench.on_one_core():
                outcomes = rounds(timed_against, right, bench)
            close_all(list(right.values()))
            yield from outcomes.items()


def _proven(
    arms: Sequence["Future[Arm]"], waiting: deque[int], bench: Bench
) -> tuple[dict[int, Arm], dict[int, WorkerFailure]]:
    """Ask some of those that wait every question; those that are right on all, and why others are not.

    Each question goes to all of them before the next, so that its inputs are drawn once. The first one tells how many there
    is room for; none is taken any more once one has kept the others waiting. Raises where the reference fails.
    """
    right: dict[int, Arm] = {}
    failed: dict[int, WorkerFailure] = {}
    before: dict[int, Ran | None] = {}
    until = time.monotonic() + PATIENCE_S

    def taken() -> Iterator[int]:
        while waiting and (not right or (time.monotonic() < until and bench.has_room_beside(len(right)))):
            yield waiting.popleft()

    questions, is_first = bench.questions(), True
    while True:
        try:
            question = next(questions)
        except StopIteration:
            return right, failed
        except FAILURES as error:
            failure = as_failure(error)
            if not right or bench.device.type == "cpu" or failure.status != "out_of_memory":
                raise
            return {}, failed | dict.fromkeys(right, failure)  # they have taken the device's memory
        for i in taken() if is_first else list(right):
            try:
                right[i] = arms[i].result()
                before[i] = bench.ask(right[i], question, before.get(i))
            except FAILURES as error:
                failed[i] = as_failure(error)
                if (arm := right.pop(i, None)) and bench.device.type == "cpu":
                    arm.worker.kill()  # with all that it holds; on a GPU ending one that is frozen disturbs those that are left
        del question  # of large tensors, before the next are made
        is_first = False


def rounds(baseline: Arm, candidates: Mapping[int, Arm], bench: Bench) -> dict[int, Outcome]:
    """Time candidates that were proven, each until its interval is tight or its share of the time is used up.

    In each round all run once, in random order, on the same fresh inputs; a pair is a candidate's run and the baseline's
    of the same round. So inputs are drawn and the baseline runs once for all of them. Raises where the baseline fails.
    A round in which a candidate changes the inputs of others does not count; from then on each is checked by itself.
    """
    settings = bench.settings
    bench.settle()
    outcomes: dict[int, Outcome] = {}
    baseline_s: list[float] = []
    seconds: dict[int, list[float]] = {key: [] for key in candidates}
    active = dict(candidates)
    checks_each = not baseline.memory.is_shared
    outcomes.update(_warm_up(baseline, active, bench))
    active = {key: arm for key, arm in active.items() if key not in outcomes}
    spent_s = 0.0  # by each: two runs' share of every round
    n_looks = n_disturbed = 0
    # Of what others were timed on a process may have left answers somewhere, even for its own replicates.
    n_trials = TRIALS_A_PAIR * settings.max_pairs
    first = bench.new_trials(n_trials)
    for trial in range(first + 1, first + 1 + n_trials):
        if not active or (spent_s > settings.timing_budget_s and len(baseline_s) >= settings.min_pairs):
            break
        start = time.monotonic()
        inputs = bench.trial(trial)
        done = _round(baseline, active, inputs, bench, checks_each or len(active) == 1)
        checks_each = checks_each or not done.is_intact
        outcomes.update(done.failed)
        spent_s += (time.monotonic() - start) * 2 / (1 + len(active))
        active = {key: arm for key, arm in active.items() if key not in outcomes}
        n_looks, n_disturbed = n_looks + done.n_looks, n_disturbed + done.n_disturbed
        if n_disturbed > MAX_DISTURBED + SHARE_DISTURBED * n_looks:
            return outcomes | dict.fromkeys(active, _disturbed())
        if done.has_ended:
            del done, inputs  # of large tensors, before the next are made
            continue
        expected = bench.expected(trial, done.ran[None])
        is_void = not done.is_intact or bench.is_void(trial, expected)
        if not is_void:
            baseline_s.append(bench.seconds(done.ran[None]))
        number = len(baseline_s)
        for key in () if is_void else active:
            try:
                check(done.ran[key].outputs, expected)
            except FAILURES as error:
                outcomes[key] = as_failure(error)
                continue
            seconds[key].append(bench.seconds(done.ran[key]))
            if number >= settings.min_pairs:
                speedup = paired_speedup(baseline_s, seconds[key])
                is_last = number == settings.max_pairs or spent_s > settings.timing_budget_s
                if is_last or speedup.is_tight(settings.precision):
                    outcomes[key] = speedup
        del done, expected, inputs  # of large tensors, before the next are made
        active = {key: arm for key, arm in active.items() if key not in outcomes}
    if active and len(baseline_s) < settings.min_pairs:
        raise WorkerFailure("runtime_error", "the reference overflows on nearly all inputs that it is timed on")
    return outcomes | {key: paired_speedup(baseline_s, seconds[key]) for key in active}


def _warm_up(baseline: Arm, candidates: Mapping[int, Arm], bench: Bench) -> dict[int, WorkerFailure]:
    """Run all untimed; who fails. Raises where the baseline fails."""
    failed: dict[int, WorkerFailure] = {}
    warm_s = 0.0  # the baseline's: else a candidate that stalls could keep the baseline cold
    for inputs in bench.warm_ups():
        active = {key: arm for key, arm in candidates.items() if key not in failed}
        done = _round(baseline, active, inputs, bench, checks_each=True, is_timed=False)
        failed.update(done.failed)
        if (warm_s := warm_s + done.ran[None].seconds) > WARM_UP_S:
            break
    return failed


@dataclass
class _Round:
    """What each ran, the baseline's under None; who failed. It does not count if it ended early, or not all had the inputs."""

    ran: dict[int | None, Ran] = field(default_factory=dict)
    failed: dict[int, WorkerFailure] = field(default_factory=dict)
    is_intact: bool = True
    has_ended: bool = False
    n_looks: int = 0  # whether the device is at rest
    n_disturbed: int = 0


def _round(
    baseline: Arm, candidates: Mapping[int, Arm], inputs: Inputs, bench: Bench, checks_each: bool, is_timed: bool = True
) -> _Round:
    """Run each once, in random order.

    The buffer of inputs is checked after each run or, which is faster, in the end: to check large ones takes longer than a run.
    If one of several candidates has changed what all share, those after it had other inputs, and a failure tells nothing.
    Where other work is seen on a device before any candidate has run, the new inputs may have set it off, and the round ends.
    Later, that is waited for: else whoever ran and left it could choose which rounds count. It is looked for before the first
    run and one other; before the first twice, with a run of the bench's own in between. Raises where the baseline fails, or
    the device stays busy.
    """
    arms: dict[int | None, Arm] = {None: baseline} | dict(candidates.items())
    order = random.sample(list(arms), len(arms))
    looked_at = {order[0], random.choice(order[1:])} if is_timed and baseline.memory.is_shared else set()
    done, waiting = _Round(), deque(order)

    def look(arm: Arm) -> None:
        done.n_looks += 1
        arm.look(_window_s(len(order)))

    while waiting:
        key = waiting[0]
        try:
            arms[key].put(inputs)
            if key in looked_at:
                if len(waiting) == len(order):
                    look(arms[key])  # new inputs may have set something off
                    bench.wake()
                look(arms[key])
            how = {"checks_inputs": checks_each, "puts_inputs": False}
            run = arms[key].run(inputs, bench.settings.timeout_s, wanted=bench.outputs, **how)  # type: ignore[arg-type]
            done.ran[key] = run.sharing(done.ran.values())
        except Disturbed:
            done.n_disturbed += 1
            if not arms[key].memory.settles():
                raise _disturbed() from None
            if not (done.ran.keys() | done.failed.keys()) - {None} or done.n_disturbed > MAX_DISTURBED:
                done.has_ended = True
                break
            continue
        except FAILURES as error:
            failure = as_failure(error)
            if key is None:
                raise (failure if checks_each or baseline.memory.holds(inputs) else _changed()) from None
            done.failed[key] = failure
        waiting.popleft()
    done.is_intact = checks_each or baseline.memory.holds(inputs)
    if not done.is_intact:
        done.failed = dict.fromkeys(done.failed, _changed())
    return done


def _window_s(n_arms: int) -> float:
    """For how long it is looked whether the device is at rest: where a candidate is alone with its baseline nobody can know."""
    return WINDOW_S + (random.expovariate(1 / WINDOW_MORE_S) if n_arms == 2 else 0.0)


def _changed() -> WorkerFailure:
    return WorkerFailure("incorrect", "one of several candidates has changed the inputs of all", INPUT_MUTATED)


def _disturbed() -> WorkerFailure:
    return WorkerFailure("rejected", "other work runs on the device while the process is frozen", BUSY_DEVICE)


def replicated(
    claims: Mapping[int, Speedup], sources: Mapping[int, str], bench: Bench
) -> Iterator[tuple[int, Outcome]]:
    """What remains of claims to be faster when they are made again, in fresh processes each time.

    Several are made again together first: in rounds with one baseline that takes little time, and leaves few that chance
    made. Those that stand, each by itself: the candidate gets ready before its baseline in one of two, and after it in the
    other, so that what depends on that favours each of them once. Raises where the baseline fails.
    """
    standing = {i: [claim] for i, claim in claims.items()}
    if len(claims) > 1:
        keys = list(claims)
        with made_together(_made_again([sources[i] for i in keys], bench)) as making:
            for place, outcome in paired(making[:-1], making[-1], bench):
                if isinstance(outcome, WorkerFailure):
                    del standing[keys[place]]
                    yield keys[place], outcome
                else:
                    standing[keys[place]].append(outcome)
    for i in [i for i, replicates in standing.items() if not claims_to_be_faster(replicates[-1])]:
        yield i, agreed(standing.pop(i))
    for i, replicates in standing.items():
        yield i, _replicated_alone(replicates, sources[i], bench)


def _replicated_alone(replicates: list[Speedup], source: str, bench: Bench) -> Outcome:
    makers = _made_again([source], bench)
    order = random.sample(range(2), 2)
    for _ in range(bench.settings.replicates - 1):
        if not claims_to_be_faster(replicates[-1]):
            break
        with made_together(makers, order) as (candidate, baseline):
            ((_, outcome),) = paired([candidate], baseline, bench, order)
        if isinstance(outcome, WorkerFailure):
            return outcome
        replicates.append(outcome)
        order.reverse()
    return agreed(replicates)


def _made_again(sources: Sequence[str], bench: Bench) -> list[Callable[[], Arm]]:
    """Makers of new arms for candidates, and of one for their baseline."""
    candidates = [partial(bench.loaded, source, "ModelNew", is_new=True) for source in sources]
    return [*candidates, partial(bench.new_baseline, is_new=True)]


def claims_to_be_faster(outcome: Outcome) -> TypeGuard[Speedup]:
    return isinstance(outcome, Speedup) and outcome.low is not None and outcome.low > 1.0


def published(candidate: Arm, bench: Bench) -> Outcome:
    """The published protocol: a few unpaired trials on one input, and the ratio of means, which has no interval.

    Where the reference overflows on the input, another one is taken. Raises where the reference or the baseline fails.
    """
    before: Ran | None = None
    for question in bench.questions():
        try:
            before = bench.ask(candidate, question, before)
        except FAILURES as error:
            return as_failure(error)
        del question  # of large tensors, before the next are made
    n, trial = bench.settings.paper_trials, 0
    while True:
        inputs = bench.trial(trial)
        first = bench.baseline.run(inputs, bench.settings.timeout_s, wanted=bench.outputs)
        expected = bench.expected(trial, first)
        if not bench.is_void(trial, expected) or trial >= TRIALS_A_PAIR * n:
            break
        trial = bench.new_trials(1) + 1
    baseline_s = bench.seconds(first)
    del first  # of large outputs, before the next are made
    baseline_s += _seconds(bench.baseline, n - 1, inputs, expected, bench)
    try:
        candidate_s = _seconds(candidate, n, inputs, expected, bench)
    except FAILURES as error:
        return as_failure(error)
    return Speedup(baseline_s / candidate_s, None, None, 1e3 * candidate_s / n, 1e3 * baseline_s / n, n)


def _seconds(arm: Arm, n_trials: int, inputs: Inputs, expected: list[Output], bench: Bench) -> float:
    """Of so many trials together. Raises unless each is right."""
    total_s = 0.0
    for _ in range(n_trials):
        ran = arm.run(inputs, bench.settings.timeout_s, wanted=bench.outputs)
        check(ran.outputs, expected)
        total_s += bench.seconds(ran)
        del ran  # of large outputs, before the next are made
    return total_s


def as_failure(error: Exception) -> WorkerFailure:
    """What is reported of an error. It lets go of the frames that the error went through, and of the tensors in them."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    if isinstance(error, WorkerFailure):
        return error
    torch.cuda.empty_cache()
    return WorkerFailure("out_of_memory", f"no room on the device to hold its outputs: {str(error).splitlines()[0]}")
