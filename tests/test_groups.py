"""Candidates that are evaluated together: what they share, how they are timed, and claims that are made again."""

import gc
import itertools
import os
import re
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_task import FORWARD, ONCE, SETTINGS, TASK, candidate

from expert_tail.evaluator import protocols
from expert_tail.evaluator.arm import Arm, Ran
from expert_tail.evaluator.bench import WARM_UP_RUNS, Bench
from expert_tail.evaluator.cases import Question
from expert_tail.evaluator.evaluator import GROUP, Candidate, Evaluator
from expert_tail.evaluator.process import Worker, WorkerFailure
from expert_tail.evaluator.protocols import PATIENCE_S, Outcome, rounds
from expert_tail.evaluator.sandbox import Limits
from expert_tail.evaluator.server import ForkServer
from expert_tail.evaluator.timing import Speedup
from expert_tail.tasks import load_suite


def test_groups_larger_than_what_runs_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bench runs its own candidates in turn, however long those of the others take."""
    prove, busy, overlaps = Bench.prove, set[Bench](), list[Bench]()

    def watched(bench: Bench, arm: Arm) -> None:
        overlaps.extend({bench} & busy)
        busy.add(bench)
        prove(bench, arm)
        busy.discard(bench)

    monkeypatch.setattr(Bench, "prove", watched)
    settings = SETTINGS.model_copy(update={"protocol": "paper", "paper_trials": 3, "paper_threads": 2})
    sources = [candidate(f"time.sleep({0.2 if i == 1 else 0})\n{FORWARD}", top=f"# {i}") for i in range(6)]
    with Evaluator(settings, tmp_path) as running:
        found = running.evaluate([Candidate(TASK, source) for source in sources])
    assert [one.status for one in found] == ["correct"] * 6
    assert not overlaps


def test_each_group_has_a_baseline_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    baselines: list[int] = []

    def watched(baseline: Arm, candidates: dict[int, Arm], bench: Bench) -> dict[int, Outcome]:
        baselines.append(baseline.worker.pid)
        return rounds(baseline, candidates, bench)

    monkeypatch.setattr(protocols, "rounds", watched)
    with Evaluator(ONCE, tmp_path) as running:
        running.evaluate([Candidate(TASK, candidate(), repeat) for repeat in range(2 * GROUP["cpu"] + 1)])
    assert len(set(baselines)) == len(baselines) == 3


def test_nothing_is_timed_twice_on_the_same_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one process could leave answers for another of its kind, its replicates among them."""
    seen: list[bytes] = []
    trial = Bench.trial

    def watched(bench: Bench, index: int) -> Any:
        inputs = trial(bench, index)
        seen.append(inputs.packed.numpy().tobytes())
        return inputs

    monkeypatch.setattr(Bench, "trial", watched)
    with Evaluator(ONCE, tmp_path) as running:
        running.evaluate([Candidate(TASK, candidate(), repeat) for repeat in range(GROUP["cpu"] + 1)])
    assert len(set(seen)) == len(seen) == 2 * ONCE.max_pairs


def test_trials_in_which_the_reference_overflows_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def every_other(bench: Bench, index: int, expected: Any) -> bool:
        asked.append(index)
        return len(asked) % 2 == 1

    monkeypatch.setattr(Bench, "is_void", every_other)
    with Evaluator(ONCE, tmp_path) as running:
        (found,) = running.evaluate([Candidate(TASK, candidate())])
    assert (found.status, found.trials) == ("correct", ONCE.max_pairs)
    assert len(asked) == 2 * ONCE.max_pairs


def test_a_reference_that_always_overflows_where_it_is_timed_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "is_void", lambda *_: True)
    with Evaluator(ONCE, tmp_path) as running:
        found = running.evaluate([Candidate(TASK, candidate()), Candidate(TASK, candidate("return x"))])
    assert [one.reason for one in found] == ["reference_failed", "wrong_values"]
    assert "overflows" in found[0].error


@pytest.fixture
def threads_for_all_cores() -> Iterator[int]:
    before, n = torch.get_num_threads(), len(os.sched_getaffinity(0))
    torch.set_num_threads(n)
    yield n
    torch.set_num_threads(before)


@pytest.mark.parametrize(("protocol", "sharing"), [("paired", 1), ("paper", 2)])
def test_pytorch_has_no_more_threads_than_cores_are_left_to_it(
    tmp_path: Path, threads_for_all_cores: int, protocol: str, sharing: int
) -> None:
    """Two threads on the one core beside the timed one wait for each other: inputs took seven times as long to draw."""
    settings = ONCE.model_copy(update={"protocol": protocol, "paper_threads": 2})
    seen: list[int] = []
    with Evaluator(settings, tmp_path) as running:
        running.evaluate([Candidate(TASK, candidate())], lambda _: seen.append(torch.get_num_threads()))
    assert seen == [max(1, (threads_for_all_cores - 1) // sharing)]
    assert torch.get_num_threads() == threads_for_all_cores


def watch_asking(monkeypatch: pytest.MonkeyPatch, note: Callable[[Arm, Question], None]) -> None:
    ask = Bench.ask

    def watched(bench: Bench, arm: Arm, question: Question, before: Ran | None) -> Ran | None:
        note(arm, question)
        return ask(bench, arm, question, before)

    monkeypatch.setattr(Bench, "ask", watched)


def test_a_question_goes_to_all_of_a_group_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its inputs, which may fill a device, are drawn once; who is wrong is asked nothing more."""
    asked: list[tuple[int, int]] = []
    watch_asking(monkeypatch, lambda arm, question: asked.append((id(question.inputs), arm.worker.pid)))
    sources = [candidate(), candidate(top="#"), candidate("return x[1:]")]
    with Evaluator(ONCE, tmp_path) as running:
        found = running.evaluate([Candidate(TASK, source) for source in sources])
    assert [one.status for one in found] == ["correct", "correct", "incorrect"]
    n_cases = sum(worker == asked[0][1] for _, worker in asked)  # the bench's own baseline is asked alone
    group = asked[n_cases:]
    assert [len(list(asks)) for _, asks in itertools.groupby(group, lambda ask: ask[0])] == [4] + [3] * (n_cases - 1)


@pytest.mark.parametrize("protocol", ["paired", "paper"])
def test_no_failure_keeps_the_tensors_of_its_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """A traceback holds its frames and what they hold; on a GPU that has filled the device before Python collected it."""
    asked: list[weakref.ref[Question]] = []
    watch_asking(monkeypatch, lambda arm, question: asked.append(weakref.ref(question)))
    alive, close = [], Bench.close

    def closing(bench: Bench) -> None:
        alive.append(sum(question() is not None for question in asked))
        close(bench)

    monkeypatch.setattr(Bench, "close", closing)
    settings = SETTINGS.model_copy(update={"protocol": protocol, "timeout_s": 2})
    bodies = ["return x[1:]", "return x + 1", "raise ValueError", "os._exit(3)", "time.sleep(100)", FORWARD]
    gc.disable()
    try:
        with Evaluator(settings, tmp_path) as running:
            found = running.evaluate([Candidate(TASK, candidate(body)) for body in bodies])
    finally:
        gc.enable()
    assert [one.status for one in found] == [*["incorrect"] * 2, "runtime_error", "crash", "timeout", "correct"]
    assert len(asked) > len(bodies)
    assert set(alive) == {0}


@pytest.mark.parametrize("place", [0, 2, 4])
def test_the_baseline_gets_ready_when_chance_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Of processes with the same code the first to get ready stay slower than the last."""

    def baseline_at_place(population: list[int], k: int) -> list[int]:
        *others, last = population
        return [*others[:place], last, *others[place:]]

    asked: list[int] = []
    baselines: list[int] = []
    watch_asking(monkeypatch, lambda arm, question: asked.append(arm.worker.pid))

    def watched(baseline: Arm, candidates: dict[int, Arm], bench: Bench) -> dict[int, Outcome]:
        baselines.append(baseline.worker.pid)
        monkeypatch.undo()
        return rounds(baseline, candidates, bench)

    monkeypatch.setattr(protocols, "rounds", watched)
    monkeypatch.setattr(protocols.random, "sample", baseline_at_place)
    with Evaluator(SETTINGS, tmp_path) as running:
        running.evaluate([Candidate(TASK, candidate(), repeat) for repeat in range(4)])
    own, *group = dict.fromkeys(asked)  # the bench's own is proven first
    assert own not in baselines
    assert group.index(baselines[0]) == place


def test_a_candidate_gets_ready_before_its_baseline_and_after_it_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What depends on that cannot favour it in all replicates."""
    asked: list[int] = []
    pairs: list[tuple[int, int]] = []

    def watched(baseline: Arm, candidates: dict[int, Arm], bench: Bench) -> dict[int, Outcome]:
        pairs.append((candidates[0].worker.pid, baseline.worker.pid))
        return {0: Speedup(1.5, 1.4, 1.6, 1.0, 1.5, 12)}

    watch_asking(monkeypatch, lambda arm, question: asked.append(arm.worker.pid))
    monkeypatch.setattr(protocols, "rounds", watched)
    with Evaluator(SETTINGS.model_copy(update={"replicates": 5}), tmp_path) as running:
        (found,) = running.evaluate([Candidate(TASK, candidate())])
    assert found.trials == 5 * 12
    is_first = [asked.index(ours) < asked.index(baseline) for ours, baseline in pairs[1:]]
    assert is_first in ([True, False] * 2, [False, True] * 2)
    assert len({pid for pair in pairs for pid in pair}) == 10


def test_claims_of_a_group_are_made_again_together_and_then_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four claim to be faster, of whom one fails when all do it again, one does not stand, and two are looked at alone."""
    timed: list[list[str]] = []
    pids: list[int] = []

    def name_of(arm: Arm) -> str:
        found = re.search(r"# (\d)", (arm.worker.scratch / "candidate.py").read_text())
        assert found
        return found[1]

    def watched(baseline: Arm, candidates: dict[int, Arm], bench: Bench) -> dict[int, Outcome]:
        found: dict[int, Outcome] = {}
        for i, arm in candidates.items():
            name = name_of(arm)
            found[i] = Speedup(1.5, 1.4, 1.6, 1.0, 1.5, 12)
            if name == "4" or (name == "3" and timed):
                found[i] = Speedup(1.0, 0.9, 1.1, 1.0, 1.0, 12)
            elif name == "2" and timed:
                found[i] = WorkerFailure("incorrect", "wrong")
            pids.append(arm.worker.pid)
        pids.append(baseline.worker.pid)
        timed.append(sorted(map(name_of, candidates.values())))
        return found

    monkeypatch.setattr(protocols, "rounds", watched)
    with Evaluator(SETTINGS, tmp_path) as running:
        found = running.evaluate([Candidate(TASK, candidate(top=f"# {i}")) for i in range(5)])
    assert [one.status for one in found] == ["correct", "correct", "incorrect", "correct", "correct"]
    assert [one.trials for one in found] == [48, 48, 0, 24, 12]
    assert [one.speedup_low for one in found] == [1.4, 1.4, 0.0, 0.9, 0.9]
    assert timed[:2] == [["0", "1", "2", "3", "4"], ["0", "1", "2", "3"]]
    assert sorted(timed[2:]) == [["0"], ["0"], ["1"], ["1"]]
    assert len(set(pids)) == len(pids) == 6 + 5 + 4 * 2


def test_the_processes_of_the_next_group_get_ready_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do on a GPU, where that takes long."""
    other = next(task for task in load_suite("level1", "cpu") if task.task_id == 12)
    bodies = [candidate(), other.reference_source.replace("class Model(", "class ModelNew(")]
    prepared: list[tuple[int, bool]] = []

    def prepare(running: Evaluator, benches: Any, n_candidates: int, sources: list[str], has_bench: bool) -> None:
        prepared.append((len(sources), has_bench))
        if sources:
            running._prepare(1, sources, has_bench)

    late: list[int] = []
    new = ForkServer._new

    def noted(server: ForkServer, limits: Limits) -> Worker:
        late.append(len(prepared))
        return new(server, limits)

    left: list[int] = []
    discard = ForkServer.discard

    def discarded(server: ForkServer) -> None:
        left.append(sum(map(len, server._prepared.values())))
        discard(server)

    monkeypatch.setattr(ForkServer, "discard", discarded)
    monkeypatch.setattr(Evaluator, "_prepare_beside", prepare)
    monkeypatch.setattr(ForkServer, "_new", noted)
    n = GROUP["cpu"]
    with Evaluator(ONCE, tmp_path) as running:
        found = running.evaluate(
            [Candidate(TASK, bodies[0], i) for i in range(n + 1)] + [Candidate(other, bodies[1], i) for i in range(2)]
        )
        assert left == [0]  # nobody was started for nothing
    assert [one.status for one in found] == ["correct"] * (n + 3)
    assert prepared == [(1, True), (2, False), (0, False)]
    # Before anything: reference, baseline, and a group with its own baseline. Then the next; a reference, two baselines.
    assert [late.count(i) for i in range(4)] == [n + 3, 2, 5, 0]


def test_a_candidate_that_stalls_cannot_keep_the_baseline_cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_rounds = 0
    original = protocols._round

    def counted(*arguments: Any, **how: Any) -> Any:
        nonlocal n_rounds
        n_rounds += 1
        return original(*arguments, **how)

    monkeypatch.setattr(protocols, "_round", counted)
    monkeypatch.setattr(protocols, "WARM_UP_S", 60.0)  # else a busy machine has fewer rounds
    after_checks = f"self.calls = getattr(self, 'calls', 0) + 1\nif self.calls == 5: time.sleep(1)\n{FORWARD}"
    with Evaluator(ONCE, tmp_path) as running:
        (found,) = running.evaluate([Candidate(TASK, candidate(after_checks))])
    assert found.status == "correct"
    assert n_rounds == WARM_UP_RUNS + SETTINGS.max_pairs


def test_a_wrong_call_in_a_round_costs_that_candidate_alone(tmp_path: Path) -> None:
    late = "self.calls = getattr(self, 'calls', 0) + 1\nif self.calls > 8: return x @ x.T"
    sources = [
        candidate(),
        candidate(f"{late}\n{FORWARD}"),
        candidate(f"{late[:-14]} raise KeyError\n{FORWARD}"),
        candidate(top="#"),
    ]
    with Evaluator(ONCE, tmp_path) as running:
        found = running.evaluate([Candidate(TASK, source) for source in sources])
    assert [one.status for one in found] == ["correct", "incorrect", "runtime_error", "correct"]
    assert [one.trials for one in found] == [SETTINGS.max_pairs, 0, 0, SETTINGS.max_pairs]


def test_a_baseline_that_fails_is_held_against_no_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(baseline: Arm, candidates: dict[int, Arm], bench: Bench) -> dict[int, Outcome]:
        baseline.worker.kill()
        return rounds(baseline, candidates, bench)

    with Evaluator(SETTINGS, tmp_path) as running:
        monkeypatch.setattr(protocols, "rounds", failing)
        failed = running.evaluate([Candidate(TASK, candidate()), Candidate(TASK, candidate(top="#"))])
        monkeypatch.undo()
        again = running.evaluate([Candidate(TASK, candidate()), Candidate(TASK, candidate(top="#"))])
    assert [(one.status, one.reason) for one in failed] == [("crash", "reference_failed")] * 2
    assert [one.status for one in again] == ["correct"] * 2


def test_right_candidates_do_not_wait_for_all_that_never_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols.random, "sample", lambda population, k: list(population))  # in their own order
    settings = SETTINGS.model_copy(update={"timeout_s": PATIENCE_S + 1})
    order: list[int] = []

    def noted(*arguments: Any) -> Iterator[tuple[int, Outcome]]:
        for i, outcome in protocols.paired(*arguments):
            order.append(i)
            yield i, outcome

    monkeypatch.setattr("expert_tail.evaluator.evaluator.paired", noted)
    stuck = [candidate(f"time.sleep({100 + i})") for i in range(2)]
    with Evaluator(settings, tmp_path) as running:
        found = running.evaluate([Candidate(TASK, s) for s in (candidate(), *stuck)])
    assert [one.status for one in found] == ["correct", "timeout", "timeout"]
    assert order == [1, 0, 2]


def test_a_suspect_of_the_device_is_judged_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU is never busy or full through others: here every failure is taken for that."""
    monkeypatch.setattr(Evaluator, "_is_suspect", lambda self, evaluation: evaluation.status != "correct")
    sources = [candidate("return x[1]"), candidate(), candidate("raise ValueError"), candidate(top="# again")]
    with Evaluator(SETTINGS, tmp_path) as running:
        found = running.evaluate([Candidate(TASK, source) for source in sources])
    assert [one.status for one in found] == ["incorrect", "correct", "runtime_error", "correct"]
