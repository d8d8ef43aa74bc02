"""The evaluator: every status for real, what is shared and what is cached, its statistics, its tolerance, its command line."""

import gc
import itertools
import json
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest
from scipy.stats import t as student_t

from expert_tail.cli import main
from expert_tail.errors import UserError
from expert_tail.evaluator import correctness, protocols, sandbox
from expert_tail.evaluator.arm import Arm, Ran
from expert_tail.evaluator.bench import WARM_UP_RUNS, Bench
from expert_tail.evaluator.cases import Question
from expert_tail.evaluator.correctness import VARIATIONS, expect, mismatch, vary
from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.evaluator.evaluator import GROUP, Candidate, Evaluator
from expert_tail.evaluator.protocols import PATIENCE_S, Outcome, rounds
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.evaluator.tensors import Tensor
from expert_tail.evaluator.timing import Speedup, agreed, order_statistic, paired_speedup
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


def test_a_candidate_that_stalls_cannot_keep_the_baseline_cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_rounds = 0
    original = protocols._round

    def counted(*arguments: Any) -> Any:
        nonlocal n_rounds
        n_rounds += 1
        return original(*arguments)

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


# Timing


@pytest.mark.parametrize("n", [*range(6, 60), 100, 499, 1000])
def test_order_statistic_is_that_of_the_binomial(n: int) -> None:
    k = order_statistic(n)
    assert binom.cdf(k - 1, n, 0.5) <= 0.025 < binom.cdf(k, n, 0.5)


@pytest.mark.parametrize("n", [1, 5])
def test_too_few_pairs_have_no_interval(n: int) -> None:
    with pytest.raises(ValueError, match="at least 6"):
        order_statistic(n)


times = st.floats(1e-6, 10.0)
pairs = st.lists(st.tuples(times, times), min_size=6, max_size=60)


@given(pairs, st.floats(0.01, 100.0))
def test_interval_holds_the_median_scales_and_inverts(values: list[tuple[float, float]], factor: float) -> None:
    baseline, measured = zip(*values, strict=True)
    found = paired_speedup(baseline, measured)
    assert found.low <= found.median * (1 + 1e-12)
    assert found.median <= found.high * (1 + 1e-12)
    assert found.trials == len(values)
    scaled = paired_speedup([factor * b for b in baseline], measured)
    assert (scaled.low, scaled.high) == pytest.approx((factor * found.low, factor * found.high))
    swapped = paired_speedup(measured, baseline)
    assert (swapped.low, swapped.high) == pytest.approx((1 / found.high, 1 / found.low))


@pytest.mark.parametrize("n", [6, 12, 48])
@pytest.mark.parametrize("noise", ["lognormal", "cauchy", "bursts"])
def test_interval_covers_the_true_ratio_whatever_the_noise(n: int, noise: str) -> None:
    rng, repeats, covered = np.random.default_rng(n), 2000, 0
    for _ in range(repeats):
        logs = {
            "lognormal": lambda: rng.normal(0.0, 0.2, n),
            "cauchy": lambda: np.clip(rng.standard_cauchy(n), -20, 20),
            "bursts": lambda: rng.normal(0.0, 0.01, n) + 3.0 * (rng.random(n) < 0.2) * rng.choice([-1, 1], n),
        }[noise]()
        found = paired_speedup(list(1.7 * np.exp(logs)), [1.0] * n)
        covered += found.low <= 1.7 <= found.high
    assert covered / repeats > 0.95 - 3 * np.sqrt(0.05 * 0.95 / repeats)


def test_replicates_agree_on_no_more_than_all_of_them_show() -> None:
    replicates = [Speedup(m, m - 0.02, m + 0.03, 1 / m, 1.0, 12) for m in (1.05, 1.01, 1.2)]
    found = agreed(replicates)
    assert (found.median, found.kernel_ms, found.trials) == (1.05, 1 / 1.05, 36)
    assert (found.low, found.high) == pytest.approx((0.99, 1.23))


def test_interval_may_be_wider_far_from_one() -> None:
    assert not Speedup(1.0, 0.97, 1.03, 1, 1, 12).is_tight(0.02)
    assert Speedup(1.0, 0.995, 1.005, 1, 1, 12).is_tight(0.02)
    assert Speedup(4.0, 3.8, 4.2, 1, 1, 12).is_tight(0.02)
    assert not Speedup(4.0, 3.0, 5.0, 1, 1, 12).is_tight(0.02)


# Tolerance


def product(variation: Any, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.rand(64, 512, generator=rng), torch.rand(512, 48, generator=rng)
    vary([a, b], variation, rng)
    assert a.dtype == b.dtype == torch.float32
    return a, b


def row(values: torch.Tensor) -> torch.Tensor:
    return values.double().reshape(1, -1)


def test_noise_of_the_shifted_variation_is_students_t() -> None:
    x = torch.zeros(1 << 14)
    VARIATIONS[3](x, torch.Generator().manual_seed(3))
    noise = (x - x.median()) / 0.3  # its shift is one for all
    assert noise.abs().max() <= 41
    assert kstest(noise.numpy(), student_t(df=2).cdf).pvalue > 0.01


@pytest.mark.parametrize("variation", VARIATIONS)
def test_tolerance_passes_other_orders_of_summation_and_no_lower_precision(variation: Any) -> None:
    a, b = product(variation)
    exact = a.double().numpy() @ b.double().numpy()
    expected = expect(row(a @ b), row(torch.from_numpy(exact)))
    assert np.abs((a @ b).numpy() - exact).max() == pytest.approx(float(expected.errors_N))

    order = torch.randperm(512, generator=torch.Generator().manual_seed(1))
    in_blocks = torch.stack([a[:, i : i + 16] @ b[i : i + 16] for i in range(0, 512, 16)]).sum(0)
    one_by_one = torch.zeros(64, 48)
    for i in range(512):
        one_by_one += a[:, i, None] * b[i]
    for honest in (a[:, order] @ b[order], in_blocks, one_by_one):
        assert mismatch(row(honest), expected) == ""

    rounded = a.bfloat16().float() @ b.bfloat16().float()
    half = a.half() @ b.half()
    most = a[:, :507] @ b[:507]  # 99 % of the reduction
    for wrong in (rounded, half, most, torch.full((64, 48), exact.mean()), torch.zeros(64, 48)):
        assert "values off" in mismatch(row(wrong), expected)


def test_outputs_are_compared_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correctness, "CHUNK", 7)
    rng = torch.Generator().manual_seed(0)
    wanted = torch.rand(3, 50, generator=rng, dtype=torch.float64)
    expected = expect(wanted.float(), wanted)
    assert torch.equal(expected.errors_N, (wanted.float() - wanted).abs().amax(dim=1))
    assert mismatch(wanted, expected) == ""
    off = wanted.clone()
    off[2, 48] += 1
    assert mismatch(off, expected) == "1 of 150 values off, largest difference 1"


def test_what_is_near_the_end_of_the_range_is_judged_like_the_rest() -> None:
    wanted = torch.tensor([[1e200, 2e200, -3e200, 1e-9]], dtype=torch.float64)
    expected = expect(wanted, wanted)
    assert mismatch(wanted, expected) == ""
    assert mismatch(wanted * 1.01, expected) != ""
    assert mismatch(torch.zeros_like(wanted), expected).startswith("3 of 4 values off")


@pytest.mark.parametrize("variation", VARIATIONS)
def test_variations_keep_triangles_and_symmetry(variation: Any) -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = torch.rand(40, 40, generator=rng)
    triangle, symmetric = drawn.triu(), drawn + drawn.T
    vary([triangle, symmetric], variation, rng)
    assert torch.equal(triangle, triangle.triu())
    assert (triangle.triu() != 0).sum() > 700
    assert torch.equal(symmetric, symmetric.T)


def test_each_call_is_judged_by_its_own_scale() -> None:
    wanted = torch.stack([torch.linspace(1, 2, 50), torch.linspace(1000, 2000, 50)]).double()
    expected = expect(wanted.float(), wanted)
    assert mismatch(wanted * (1 + 1e-5), expected) == ""
    off = wanted.clone()
    off[0, 7] += 0.01  # nothing beside the second call's values
    assert mismatch(off, expected).startswith("1 of 100 values off")


def test_variations_after_the_first_leave_no_constant() -> None:
    """A mean of 10 000 uniform values is nearly one half. Varied, it is not."""
    rng = torch.Generator().manual_seed(0)
    for variation in VARIATIONS[1:]:
        means = []
        for _ in range(50):
            vary([drawn := torch.rand(100, 100, generator=rng)], variation, rng)
            means.append(float(drawn.mean()))
        assert np.ptp(means) > 0.05 * np.mean(np.abs(means))
    drawn = torch.rand(30, 40, generator=rng)
    vary([mild := drawn.clone()], VARIATIONS[1], rng)
    assert bool(((mild > 0) == (drawn > 0)).all())
    assert 0.2 < float(mild.median() / drawn.median()) < 5


@pytest.mark.parametrize(
    ("output", "is_right"),
    [
        ([1.0, np.nan, np.inf], True),
        ([1.0, np.nan, -np.inf], False),
        ([1.0, 0.0, np.inf], False),
        ([np.nan, np.nan, np.inf], False),
        ([np.inf, np.nan, np.inf], False),
    ],
)
def test_values_that_are_not_finite_must_be_where_the_reference_has_them(output: list[float], is_right: bool) -> None:
    wanted = torch.tensor([[1.0, np.nan, np.inf]], dtype=torch.float64)
    assert (mismatch(torch.tensor([output], dtype=torch.float64), expect(wanted, wanted)) == "") == is_right


def test_whole_numbers_must_be_equal() -> None:
    wanted = torch.arange(5)[None]
    assert mismatch(wanted, expect(wanted, wanted)) == ""
    assert mismatch(wanted + (wanted == 3), expect(wanted, wanted)) == "1 of 5 values differ"


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


GONE = """
import os, signal, time
from expert_tail.evaluator.process import ForkServer
from expert_tail.evaluator.sandbox import Limits

with ForkServer(use_sandbox=False) as server:
    worker = server.start(Limits(memory_bytes=1 << 32, file_bytes=1 << 20, core=-1, writable=False, sandbox=False))
    os.kill(worker.pid, signal.SIGKILL)
    time.sleep(0.5)  # its end is told, and nobody reads it
    server._socket.close()
    server._process.wait(10)
"""


def test_fork_server_ends_quietly_when_its_parent_has_not_read_all() -> None:
    done = subprocess.run([sys.executable, "-c", GONE], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
