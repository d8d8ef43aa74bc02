"""The evaluator: every status for real, what is shared and what is cached, its command line."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_task import FORWARD, ONCE, SETTINGS, TASK, candidate

from expert_tail.cli import main
from expert_tail.errors import UserError
from expert_tail.evaluator import sandbox
from expert_tail.evaluator.arm import Ran
from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.evaluator.process import BUSY_DEVICE, Worker, WorkerFailure
from expert_tail.evaluator.protocols import WINDOW_S
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.evaluator.tensors import Tensor
from expert_tail.tasks import Task, load_suite

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
        assert bench._can_wake
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


def test_a_reference_whose_inputs_change_their_shape_fails(tmp_path: Path) -> None:
    source = TASK.reference_source.replace(
        "    return [torch.rand(32, 64)]",
        "    Model.n = getattr(Model, 'n', 30) + 1\n    return [torch.rand(Model.n, 64)]",
    )
    with Evaluator(ONCE, tmp_path) as running:
        (found,) = running.evaluate([Candidate(Task(1, "grows", 1, source), candidate())])
    assert (found.status, found.reason) == ("runtime_error", "reference_failed")
    assert "other shapes each time" in found.error
