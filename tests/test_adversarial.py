"""Every candidate of tests/adversarial gets the verdict its docstring says: no cheat is accepted, no honest one rejected.

The docstring of a candidate says the trick on its first line, then `task: ID` of the built-in suite, then `verdict:` with
the statuses it may get, each with its reason or a word on its speed: `correct, not faster` is a cheat that does no harm,
whose interval must not lie above 1. An attack on the machine that gets through raises a SystemError that begins with BREACH.
`verdict without sandbox:`, where there is one, is for a machine whose kernel offers no sandbox.
"""

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.evaluator.sandbox import missing
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.tasks import Task, load_suite

SETTINGS = EvaluatorSettings(device="cpu", min_pairs=6, max_pairs=8, timeout_s=5, memory_gib=2)
TASKS = {task.task_id: task for task in load_suite("level1", "cpu")}
GPU_TASKS = {task.task_id: task for task in load_suite("level1", "gpu")}
REPEATS = 3  # an honest interval lies above 1 once in 40 times; a cheat that gains shows it every time
SECRET = "EXPERT_TAIL_TEST_TOKEN"


@dataclass(frozen=True)
class Case:
    name: str
    task: Task
    source: str
    verdicts: tuple[str, ...]
    verdicts_without_sandbox: tuple[str, ...]


def read(path: Path, tasks: dict[int, Task] = TASKS) -> Case:
    source = path.read_text()
    found = re.match(
        r'"""(?P<trick>.+)\ntask: (?P<task>\d+)\nverdict: (?P<verdict>.+)\n(?:verdict without sandbox: (?P<off>.+)\n)?"""\n',
        source,
    )
    assert found, f"{path.name} has no such docstring"
    return Case(
        path.stem,
        tasks[int(found["task"])],
        source,
        tuple(found["verdict"].split(" | ")),
        tuple(found["off"].split(" | ")) if found["off"] else (),
    )


CASES = {case.name: case for case in map(read, sorted(Path(__file__).with_name("adversarial").glob("*.py")))}
GPU_CASES = {
    case.name: case
    for case in (read(path, GPU_TASKS) for path in sorted(Path(__file__).with_name("adversarial").glob("gpu/*.py")))
}
WITHOUT_SANDBOX = {name: case for name, case in CASES.items() if case.verdicts_without_sandbox}


@pytest.fixture(scope="module")
def victim() -> Iterator[Path]:
    """A folder that candidates try to damage; its name is known to them."""
    folder = Path(f"/tmp/expert-tail-victim-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text("untouched")
    yield folder
    (folder / "file").unlink()
    folder.rmdir()


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory, victim: Path) -> Iterator[Evaluator]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET, "hidden")
        with Evaluator(SETTINGS, tmp_path_factory.mktemp("cache")) as running:
            yield running


@pytest.fixture(scope="module")
def verdicts(evaluator: Evaluator) -> dict[str, Evaluation]:
    return evaluate_all(evaluator, CASES)


def evaluate_all(evaluator: Evaluator, cases: dict[str, Case]) -> dict[str, Evaluation]:
    """Together, so that each reference is built once, and no candidate may harm those after it."""
    by_task: dict[int, list[str]] = defaultdict(list)
    for name, case in cases.items():
        by_task[case.task.task_id].append(name)
    names = [name for group in by_task.values() for name in group]
    found = evaluator.evaluate([Candidate(cases[name].task, cases[name].source) for name in names])
    return dict(zip(names, found, strict=True))


def fits(found: Evaluation, verdict: str) -> bool:
    status, _, speed = verdict.partition(", ")
    if status != f"{found.status} {found.reason}".strip():
        return False
    assert found.status != "correct" or found.speedup_low is not None
    return {
        "": True,
        "not faster": found.speedup_low <= 1,  # type: ignore[operator]
        "faster": found.speedup_low > 1,  # type: ignore[operator]
        "slower": found.speedup < 1,
    }[speed]


def test_there_are_enough() -> None:
    honest = [name for name in CASES if name.startswith("honest_")]
    assert len(honest) >= 10
    assert len(CASES) - len(honest) >= 45
    for name in honest:
        assert all(re.fullmatch("correct(, faster|, slower)?", verdict) for verdict in CASES[name].verdicts)


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str, verdicts: dict[str, Evaluation], evaluator: Evaluator) -> None:
    if missing(verdicts[name].sandbox):
        pytest.skip("this machine has no sandbox; see test_verdict_without_sandbox")
    if ("inline_extension" in name or "torch_compile" in name) and not shutil.which("c++"):
        pytest.skip("this machine has no C++ compiler")
    check(CASES[name], verdicts[name], evaluator)


@pytest.fixture(scope="module")
def gpu_evaluator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluator]:
    settings = SETTINGS.model_copy(update={"device": "cuda", "memory_gib": 4.0, "max_pairs": 12, "timeout_s": 10.0})
    with Evaluator(settings, tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest.fixture(scope="module")
def gpu_verdicts(gpu_evaluator: Evaluator) -> dict[str, Evaluation]:
    return evaluate_all(gpu_evaluator, GPU_CASES)


@pytest.mark.gpu
@pytest.mark.parametrize("name", GPU_CASES)
def test_verdict_on_a_gpu(name: str, gpu_verdicts: dict[str, Evaluation], gpu_evaluator: Evaluator) -> None:
    check(GPU_CASES[name], gpu_verdicts[name], gpu_evaluator)


def check(case: Case, found: Evaluation, evaluator: Evaluator) -> None:
    """One of the verdicts that the case allows; where timing decides, within `REPEATS` evaluations."""
    for repeat in range(1, REPEATS):
        assert "BREACH" not in found.error
        if any(fits(found, verdict) for verdict in case.verdicts):
            return
        assert found.status == "correct", f"{found.status} {found.reason}: {found.error}"
        (found,) = evaluator.evaluate([Candidate(case.task, f"{case.source}\n# {repeat}\n")])
    assert any(fits(found, verdict) for verdict in case.verdicts), found


def test_nothing_outside_was_touched(verdicts: dict[str, Evaluation], victim: Path) -> None:
    assert verdicts
    assert [path.name for path in victim.iterdir()] == ["file"]
    assert (victim / "file").read_text() == "untouched"
    assert victim.stat().st_mode & 0o700 == 0o700


@pytest.fixture(scope="module")
def verdicts_without_sandbox(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Evaluation]:
    settings = SETTINGS.model_copy(update={"sandbox": "off"})
    with Evaluator(settings, tmp_path_factory.mktemp("cache")) as running:
        return evaluate_all(running, WITHOUT_SANDBOX)


@pytest.mark.parametrize("name", WITHOUT_SANDBOX)
def test_verdict_without_sandbox(name: str, verdicts_without_sandbox: dict[str, Evaluation]) -> None:
    found = verdicts_without_sandbox[name]
    assert any(fits(found, verdict) for verdict in CASES[name].verdicts_without_sandbox), found
