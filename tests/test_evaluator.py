"""The evaluator: every status for real, what is shared and what is cached, its command line."""

import contextlib
import gc
import itertools
import json
import os
import re
import textwrap
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from expert_tail.cli import main
from expert_tail.errors import UserError
from expert_tail.evaluator import protocols, sandbox
from expert_tail.evaluator.arm import Arm, Ran
from expert_tail.evaluator.bench import WARM_UP_RUNS, Bench
from expert_tail.evaluator.cases import Question
from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.evaluator.evaluator import GROUP, Candidate, Evaluator
from expert_tail.evaluator.process import BUSY_DEVICE, Worker, WorkerFailure
from expert_tail.evaluator.protocols import PATIENCE_S, WINDOW_S, Outcome, rounds
from expert_tail.evaluator.sandbox import Limits
from expert_tail.evaluator.server import ForkServer
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.evaluator.tensors import Tensor
from expert_tail.evaluator.timing import Speedup
from expert_tail.tasks import Task, load_suite

SETTINGS = EvaluatorSettings(device="cpu", min_pairs=6, max_pairs=6, timeout_s=4, memory_gib=1)
# For tests that count: what six pairs make look faster by chance, one candidate in 64, is not timed again.
ONCE = SETTINGS.model_copy(update={"replicates": 1})


def module(name: str, init: str, forward: str, top: str = "") -> str:
    return (
        f"import os, signal, sys, time\nimport torch\nimport torch.nn as nn\n{top}\n\nclass {name}(nn.Module):\n"
        f"    def __init__(self, features):\n        super().__init__()\n{textwrap.indent(textwrap.dedent(init), ' ' * 8)}\n"
        f"    def forward(self, x):\n{textwrap.indent(textwrap.dedent(forward), ' ' * 8)}\n"
    )


INIT = "self.norm = nn.LayerNorm(features)\nself.linear = nn.Linear(features, features)"
FORWARD = "return self.linear(self.norm(x))"
TASK = Task(
    1,
    "1_norm_linear",
    1,
    module("Model", INIT, FORWARD)
    + "\ndef get_inputs():\n    return [torch.rand(32, 64)]\n\ndef get_init_inputs():\n    return [64]\n",
)


def candidate(forward: str = FORWARD, init: str = INIT, top: str = "") -> str:
    return module("ModelNew", init, forward, top)


SWAPPED = "self.linear = nn.Linear(features, features)\nself.norm = nn.LayerNorm(features)"
RENAMED = "self.n = nn.LayerNorm(features)\nself.l = nn.Linear(features, features)"
RIGHT = f"y = {FORWARD.removeprefix('return ')}"
# Name: (source, status, reason, text in the error).
VERDICTS: dict[str, tuple[str, str, str, str]] = {
    "identical": (candidate(), "correct", "", ""),
    "parameters in another order": (candidate(init=SWAPPED), "correct", "", ""),
    "parameters under other names": (candidate("return self.l(self.n(x))", RENAMED), "correct", "", ""),
    "syntax error": ("class ModelNew(:\n", "compile_error", "", "SyntaxError"),
    "null byte": ("import torch\0", "compile_error", "", ""),
    "import error": (candidate(top="import no_such_module"), "compile_error", "", "no_such_module"),
    "no ModelNew": ("import torch\n", "compile_error", "", "defines no class ModelNew"),
    "exit at import": ("import sys\nsys.exit(0)\n", "compile_error", "", "SystemExit"),
    "raises in init": (candidate(init="raise KeyError('here')"), "runtime_error", "", "KeyError"),
    "raises in forward": (candidate("return x @ x.mT[:3]"), "runtime_error", "", "return x @ x.mT[:3]"),
    "exit in forward": (candidate("sys.exit(0)"), "runtime_error", "", "SystemExit"),
    "wrong values": (candidate(f"{RIGHT}\nreturn y * 1.001"), "incorrect", "wrong_values", "values off"),
    "one wrong value": (
        candidate(f"{RIGHT}\ny[3, 5] += 0.01\nreturn y"),
        "incorrect",
        "wrong_values",
        "1 of 2048 values off",
    ),
    "NaN": (candidate(f"{RIGHT}\ny[0, 0] = float('nan')\nreturn y"), "incorrect", "wrong_values", "1 of 2048"),
    "wrong shape": (candidate(f"{RIGHT}\nreturn y.reshape(-1)"), "incorrect", "wrong_shape", "[2048]"),
    "wrong dtype": (candidate(f"{RIGHT}\nreturn y.double()"), "incorrect", "wrong_dtype", "float64"),
    "two outputs": (candidate(f"{RIGHT}\nreturn y, y"), "incorrect", "wrong_arity", "2 tensors instead of 1"),
    "no output": (candidate("return ()"), "incorrect", "wrong_arity", "0 tensors"),
    "very many outputs": (candidate(f"{RIGHT}\nreturn [y] * 10000"), "incorrect", "wrong_arity", ""),
    "a number": (candidate("return 1.5"), "incorrect", "not_a_tensor", "builtins.float"),
    "None": (candidate("self.linear(self.norm(x))"), "incorrect", "not_a_tensor", "NoneType"),
    "meta tensor": (candidate(f"{RIGHT}\nreturn y.to('meta')"), "incorrect", "wrong_device", "meta"),
    "no affine": (candidate("return self.linear(torch.layer_norm(x, (64,)))"), "incorrect", "wrong_values", ""),
    "own parameters": (
        candidate("return self.linear(x)", "self.linear = nn.Linear(features, features)"),
        "incorrect",
        "wrong_values",
        "parameters have other names",
    ),
    "mutated input": (candidate(f"{RIGHT}\nx.zero_()\nreturn y"), "incorrect", "input_mutated", ""),
    "infinite loop": (candidate("while True: pass"), "timeout", "", "4 s"),
    "memory": (candidate("return torch.empty(1 << 34)"), "out_of_memory", "", ""),
    "Python memory": (candidate("return bytearray(1 << 34)"), "out_of_memory", "", "MemoryError"),
    "os._exit": (candidate("os._exit(7)"), "crash", "", "exit code 7"),
    "SIGSEGV": (candidate("os.kill(os.getpid(), signal.SIGSEGV)"), "crash", "", "SIGSEGV"),
    "abort": (candidate("print('last words', flush=True)\nos.abort()"), "crash", "", "last words"),
    "forged answer": (
        candidate(
            f"{RIGHT}\nfor fd in range(3, 64):\n    try: os.write(fd, b'{{}}')\n    except OSError: pass\nreturn y"
        ),
        "rejected",
        "forged_answer",
        "",
    ),
    "identical again": (candidate() + "\n# after all the others", "correct", "", ""),
}


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluator]:
    with Evaluator(SETTINGS, tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest.fixture(scope="module")
def verdicts(evaluator: Evaluator) -> dict[str, Evaluation]:
    """All verdicts from one call, so that each candidate also shows that those before it left no trace."""
    found = evaluator.evaluate([Candidate(TASK, source) for source, *_ in VERDICTS.values()])
    return dict(zip(VERDICTS, found, strict=True))


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(verdicts: dict[str, Evaluation], name: str) -> None:
    found, (_, status, reason, text) = verdicts[name], VERDICTS[name]
    assert (found.status, found.reason) == (status, reason), found.error
    assert text in found.error
    assert (found.speedup > 0) == (found.trials > 0) == (status == "correct")
    assert found.sandbox.endswith("rlimits")


def test_each_distinct_candidate_is_measured_once(evaluator: Evaluator) -> None:
    right, wrong = candidate() + "\n# twice", candidate("return x")
    before, advanced = evaluator.cache.misses, []
    first = evaluator.evaluate([Candidate(TASK, s) for s in (right, wrong, right, right)], advanced.append)
    assert [e.status for e in first] == ["correct", "incorrect", "correct", "correct"]
    assert first[0] == first[2] == first[3]
    assert sum(advanced) == 4
    assert evaluator.cache.misses == before + 2

    again = evaluator.evaluate([Candidate(TASK, s) for s in (wrong, right)])
    assert again == [first[1], first[0]]
    assert evaluator.cache.misses == before + 2


def test_results_keep_the_order_of_candidates_of_several_tasks(evaluator: Evaluator) -> None:
    other = Task(2, "2_sum", 1, TASK.reference_source.replace(FORWARD, "return self.linear(x)"))
    forwards = [(TASK, FORWARD), (other, FORWARD), (TASK, "return self.linear(x)"), (other, "return self.linear(x)")]
    found = evaluator.evaluate([Candidate(task, candidate(forward) + "\n# order") for task, forward in forwards])
    assert [e.status for e in found] == ["correct", "incorrect", "incorrect", "correct"]


@pytest.mark.parametrize(
    ("forward", "status"),
    [("raise ValueError('no such kernel')", "runtime_error"), ("os._exit(1)", "crash"), ("return 1", "incorrect")],
)
def test_a_reference_that_fails_is_a_row_and_no_exception(evaluator: Evaluator, forward: str, status: str) -> None:
    task = Task(3, "3_broken", 1, TASK.reference_source.replace(FORWARD, forward))
    broken, fine = evaluator.evaluate([Candidate(task, candidate()), Candidate(TASK, candidate() + "\n# beside it")])
    assert (broken.status, broken.reason) == (status, "reference_failed")
    assert "3_broken" in broken.error
    assert fine.status == "correct"


def test_paper_protocol_has_no_interval(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"protocol": "paper", "paper_trials": 3})
    with Evaluator(settings, tmp_path) as running:
        (found,) = running.evaluate([Candidate(TASK, candidate())])
    assert (found.status, found.speedup_low, found.speedup_high, found.trials) == ("correct", None, None, 3)
    assert found.speedup == pytest.approx(found.baseline_ms / found.kernel_ms)


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
    stuck = [candidate(f"time.sleep({100 + i})") for i in range(2)]
    with Evaluator(settings, tmp_path) as running:
        found = running.evaluate([Candidate(TASK, s) for s in (candidate(), *stuck)])
    assert [one.status for one in found] == ["correct", "timeout", "timeout"]
    at = [one.measured_at for one in found]
    assert at[1] < at[0] < at[2]


def test_a_suspect_of_the_device_is_judged_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU is never busy or full through others: here every failure is taken for that."""
    monkeypatch.setattr(Evaluator, "_is_suspect", lambda self, evaluation: evaluation.status != "correct")
    sources = [candidate("return x[1]"), candidate(), candidate("raise ValueError"), candidate(top="# again")]
    with Evaluator(SETTINGS, tmp_path) as running:
        found = running.evaluate([Candidate(TASK, source) for source in sources])
    assert [one.status for one in found] == ["incorrect", "correct", "runtime_error", "correct"]


@pytest.mark.gpu
def test_a_gpu_that_the_bench_has_used_is_at_rest(tmp_path: Path) -> None:
    task = next(task for task in load_suite("level1", "gpu") if task.task_id == 12)
    settings = SETTINGS.model_copy(update={"device": "cuda", "timeout_s": 30})
    with Evaluator(settings, tmp_path) as running, contextlib.ExitStack() as stack:
        (bench,) = running._benches(task, [task.reference_source], stack)
        bench.settle()
        bench.calibrate()
        n_disturbed = 0
        for _ in range(50):
            bench.wake()
            n_disturbed += bench.baseline.memory.is_disturbed(WINDOW_S)
        assert n_disturbed <= 2


@pytest.mark.gpu
@pytest.mark.parametrize("protocol", ["paired", "paper"])
@pytest.mark.parametrize("task_id", [20, 23, 45])
def test_the_largest_tensors_have_room_on_a_gpu(tmp_path: Path, task_id: int, protocol: str) -> None:
    task = next(task for task in load_suite("level1", "gpu") if task.task_id == task_id)
    right = task.reference_source.replace("class Model(", "class ModelNew(")
    with Evaluator(
        SETTINGS.model_copy(update={"device": "cuda", "timeout_s": 30, "protocol": protocol}), tmp_path
    ) as running:
        found = running.evaluate([Candidate(task, f"{right}\n# {i}") for i in range(6)])
    assert [(one.status, one.error) for one in found] == [("correct", "")] * 6


def test_sandbox_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EvaluatorSettings.checked({"sandbox": False}, "evaluator").sandbox == "off"  # as YAML reads it
    with Evaluator(SETTINGS.model_copy(update={"sandbox": "off"}), tmp_path) as running:
        (found,) = running.evaluate([Candidate(TASK, candidate())])
    assert (found.status, found.sandbox) == ("correct", "rlimits")
    monkeypatch.setattr(sandbox, "MIN_LAYERS", ("landlock", "moat"))
    required = Evaluator(SETTINGS.model_copy(update={"sandbox": "required"}), tmp_path)
    with required as running, pytest.raises(UserError, match="no moat"):
        running.evaluate([Candidate(TASK, candidate())])


# Command line


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPERT_TAIL_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "body.txt"
    fast = ["--evaluator.min_pairs", "6", "--evaluator.max_pairs", "6", "--evaluator.replicates", "1", "--json"]
    for text, status in (("return A * s", "correct"), ("return A + s", "incorrect"), ("return A *", "compile_error")):
        file.write_text(text)
        arguments = ["evaluate", "--task", "5", "--candidate", str(file), "--action", "forward_body", *fast]
        assert main(arguments) == 0
        row = json.loads(capsys.readouterr().out)
        assert row["status"] == status
        assert {"task_id", "candidate_sha256", "speedup_low", "kernel_ms", "roofline_ms", "evaluator", "sandbox"} < set(
            row
        )
        assert (row["task_id"], row["trials"]) == (5, 6 if status == "correct" else 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--task", "999", "--candidate", __file__],
        ["--task", "5", "--candidate", "no/such/file.py"],
        ["--task", "5"],
        ["--task", "five", "--candidate", __file__],
        ["--task", "5", "--candidate", __file__, "--protocol", "best_of"],
    ],
)
def test_command_line_with_bad_arguments(arguments: list[str]) -> None:
    try:
        code = main(["evaluate", *arguments])
    except SystemExit as error:  # argparse
        code = error.code  # type: ignore[assignment]
    assert code == 2


def test_command_line_where_no_worker_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: Worker) -> None:
        raise WorkerFailure("timeout", "a worker was not ready", BUSY_DEVICE)

    monkeypatch.setattr(Worker, "await_start", never)
    monkeypatch.setenv("EXPERT_TAIL_CACHE", str(tmp_path / "cache"))
    (file := tmp_path / "body.txt").write_text("return A * s")
    assert main(["evaluate", "--task", "5", "--candidate", str(file), "--action", "forward_body", "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["reason"] == "busy_device"
    assert "run again" in said.err


def test_missing_affine_of_a_built_in_task_is_caught(evaluator: Evaluator) -> None:
    task = next(t for t in load_suite("level1", "cpu") if t.task_id == 40)
    source = task.reference_source.replace("class Model(", "class ModelNew(")
    wrong = source.replace("return self.ln(x)", "return torch.layer_norm(x, self.ln.normalized_shape)")
    assert wrong != source
    found = evaluator.evaluate([Candidate(task, source), Candidate(task, wrong)])
    assert [e.status for e in found] == ["correct", "incorrect"]


def test_runs_share_outputs_of_the_same_bytes_and_no_others() -> None:
    def ran(*values: float) -> Ran:
        return Ran(1.0, [[Tensor("float32", torch.tensor(values))]], None)

    first, same, other = ran(0.0, float("nan")), ran(0.0, float("nan")), ran(-0.0, float("nan"))
    assert same.sharing([other, first]).outputs is first.outputs
    assert other.sharing([first, same]) is other
