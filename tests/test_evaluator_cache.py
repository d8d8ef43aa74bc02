"""The cache of evaluations survives two writers, damaged entries, a changed evaluator, and kill -9 at any moment."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expert_tail.errors import UserError
from expert_tail.evaluator.cache import Cache, key
from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.tasks import Task

SETTINGS = EvaluatorSettings(min_pairs=6, max_pairs=6, timeout_s=10)
SOURCE = """
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x):
        return torch.relu(x)

def get_inputs():
    return [torch.rand(64, 64) - 0.5]

def get_init_inputs():
    return []
"""
DAMAGE = ("", '{"status": "corr', "[]", "null", '"text"', "\0\0\0", '{"status": "splendid"}', "{}")
TASK = Task(19, "19_relu", 1, SOURCE)


def candidate(number: int = 0) -> Candidate:
    return Candidate(TASK, SOURCE.replace("class Model(", "class ModelNew(") + f"\n# {number}\n")


def evaluate(folder: Path, settings: EvaluatorSettings = SETTINGS, numbers: range = range(1)) -> Evaluator:
    with Evaluator(settings, folder) as running:
        found = running.evaluate([candidate(number) for number in numbers])
    assert {e.status for e in found} == {"correct"}
    return running


def test_a_second_evaluator_measures_nothing(tmp_path: Path) -> None:
    assert evaluate(tmp_path).cache.misses == 1
    again = evaluate(tmp_path)
    assert (again.cache.hits, again.cache.misses) == (1, 0)


def test_hit_rate_counts_duplicates_and_what_was_known(tmp_path: Path) -> None:
    evaluate(tmp_path)
    evaluate(tmp_path)
    cache = Cache(tmp_path)
    (tmp_path / "lookups.txt").open("a").write("not a line\n")
    found = cache.summary()
    assert (found["asked"], found["measured"], found["hit_rate"]) == (2, 1, 0.5)
    cache.note(asked=8, measured=1)
    assert cache.summary()["hit_rate"] == 0.8


def test_compiled_code_is_counted_and_removed(tmp_path: Path) -> None:
    (tmp_path / "builds" / "ab" / "cd" / "extensions").mkdir(parents=True)
    (tmp_path / "builds" / "ab" / "cd" / "extensions" / "a.so").write_bytes(bytes(1000))
    evaluate(tmp_path)
    found = Cache(tmp_path).summary()
    assert (found["entries"], found["compiled"], found["compiled_bytes"]) == (1, 1, 1000)
    found = Cache(tmp_path).summary(prune_compiled=True)
    assert (found["entries"], found["compiled"], found["compiled_bytes"]) == (1, 0, 0)
    assert Cache(tmp_path).summary(prune_compiled=True)["compiled"] == 0


def test_a_damaged_entry_is_measured_again(tmp_path: Path) -> None:
    with Evaluator(SETTINGS, tmp_path) as running:
        (first,) = running.evaluate([candidate()])
        (entry,) = Cache(tmp_path).entries()
        for damage in DAMAGE:
            entry.write_text(damage)
            (again,) = running.evaluate([candidate()])
            assert again.status == "correct"
            assert again.measured_at > first.measured_at
            assert running.evaluate([candidate()]) == [again]
    entry.write_text("truncat")
    assert Cache(tmp_path).summary()["entries"] == 0
    assert not entry.exists()


def test_a_changed_evaluator_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(tmp_path)
    monkeypatch.setattr("expert_tail.evaluator.evaluator.code_digest", lambda *_, **__: "another")
    assert evaluate(tmp_path).cache.misses == 1
    assert evaluate(tmp_path).cache.misses == 0


def test_another_machine_or_setting_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(tmp_path)
    other = evaluate(tmp_path, SETTINGS.model_copy(update={"precision": 0.5}))
    assert other.cache.misses == 1
    monkeypatch.setattr("expert_tail.evaluator.evaluator.hardware", lambda device: f"{device}: another")
    assert evaluate(tmp_path).cache.misses == 1
    assert Cache(tmp_path).summary(keep=[first.digest, other.digest])["removed"] == 0
    found = Cache(tmp_path).summary(keep=[first.digest])
    assert (found["removed"], {one["evaluator"] for one in found["measured_by"]}) == (1, {first.digest})
    with pytest.raises(UserError, match=f"nothing that evaluator {other.digest} measured"):
        Cache(tmp_path).summary(keep=[other.digest])


@pytest.mark.parametrize(
    ("protocol", "changed"),
    [("paired", {"paper_trials": 7}), ("paired", {"device": "cpu"}), ("paper", {"precision": 0.5, "replicates": 1})],
)
def test_settings_that_no_verdict_depends_on_measure_nothing_again(protocol: str, changed: dict[str, Any]) -> None:
    settings = SETTINGS.model_copy(update={"protocol": protocol})
    assert Evaluator(settings.model_copy(update=changed)).digest == Evaluator(settings).digest
    assert Evaluator(settings.model_copy(update={"timeout_s": 11})).digest != Evaluator(settings).digest


@pytest.mark.parametrize("reason", ["busy_device", "reference_failed"])
def test_what_may_be_the_machines_fault_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    def disturbed(
        running: Evaluator, task: Task, sources: dict[str, str], following: list[str]
    ) -> Iterator[tuple[str, Evaluation]]:
        for name in sources:
            yield name, Evaluation("rejected", running.digest, running.hardware, reason=reason)

    monkeypatch.setattr(Evaluator, "_evaluate_task", disturbed)
    with Evaluator(SETTINGS, tmp_path) as running:
        assert running.evaluate([candidate()])[0].reason == reason
    monkeypatch.undo()
    assert evaluate(tmp_path).cache.misses == 1


def test_two_writers_and_a_reader(tmp_path: Path) -> None:
    """Both write the same entries over and over; whoever reads meanwhile sees one of the two whole."""
    writer = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from expert_tail.evaluator.cache import Cache, key
        from expert_tail.evaluator.evaluation import Evaluation
        cache = Cache(Path(sys.argv[1]))
        for turn in range(60):
            for number in range(5):
                cache.put(key(number=str(number)), Evaluation("crash", sys.argv[2], "none", error="x" * 20_000, trials=turn))
        """
    )
    processes = [subprocess.Popen([sys.executable, "-c", writer, str(tmp_path), name]) for name in "ab"]
    cache, names, seen = Cache(tmp_path), [key(number=str(number)) for number in range(5)], 0
    while any(process.poll() is None for process in processes):
        for name in names:
            path = cache._path(name)
            if path.exists():
                assert len(json.loads(path.read_text())["error"]) == 20_000
                seen += 1
    assert [process.returncode for process in processes] == [0, 0]
    assert seen > 0
    assert all((found := cache.get(name)) and found.trials == 59 for name in names)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 5  # no temporary file is left


def test_kill_9_loses_no_finished_evaluation(tmp_path: Path) -> None:
    cache, total = tmp_path / "cache", 40
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import {Path(__file__).stem} as t\n"
    code += f"from pathlib import Path; t.evaluate(Path({str(cache)!r}), numbers=range({total}))"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    deadline = time.monotonic() + 120
    while len(list(Cache(cache).entries())) < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = list(Cache(cache).entries())
    assert 4 <= len(finished) < total
    assert all(json.loads(path.read_text())["status"] == "correct" for path in finished)

    resumed = evaluate(cache, numbers=range(total))
    assert (resumed.cache.hits, resumed.cache.misses) == (len(finished), total - len(finished))

    # The fork server and its worker, frozen or not, do not outlive the process that was killed.
    while survivors := [p for p in _processes() if str(tmp_path) in p]:
        assert time.monotonic() < deadline, survivors
        time.sleep(0.05)


def _processes() -> list[str]:
    """Working folder and TMPDIR of every process that this one may look at."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append(f"{os.readlink(folder / 'cwd')} {(folder / 'environ').read_bytes().decode(errors='replace')}")
        except OSError:
            continue
    return found
