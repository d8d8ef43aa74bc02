"""Code that is compiled ahead: kept under all that it depends on, each failure once, and found again where it is copied to."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from expert_tail.evaluator.build import Builds, needs_build
from expert_tail.evaluator.compilers import FOLDER, relocate_triton, remember_programs
from expert_tail.evaluator.process import BUSY_DEVICE, WorkerFailure


class Started:
    """Stands for a worker: a folder, and whether it was closed."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.closed = scratch, False

    def kill(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def worker(tmp_path: Path) -> Started:
    (tmp_path / "scratch" / FOLDER / "tmp").mkdir(parents=True)
    return Started(tmp_path / "scratch")


def test_what_is_built_is_kept_once_without_leftovers(tmp_path: Path, worker: Started) -> None:
    builds, runs = Builds(tmp_path / "builds", "cpu"), []

    def compile_it(built: Any) -> None:
        runs.append(built)
        (built.scratch / FOLDER / "kernel.so").write_text("code")
        (built.scratch / FOLDER / "main.o").write_text("object")

    key = builds.key("source", "reference")
    assert builds.find(key) is None
    for _ in range(2):
        builds.build(key, lambda: worker, compile_it)  # type: ignore[arg-type, return-value]
    assert len(runs) == 1
    assert worker.closed
    kept = builds.find(key)
    assert kept is not None
    assert [path.name for path in kept.iterdir()] == ["kernel.so"]
    assert Builds(tmp_path / "builds", "cpu").find(key) == kept
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_a_worker_that_does_not_start_is_tried_again(tmp_path: Path, worker: Started) -> None:
    builds = Builds(tmp_path / "builds", "cpu")

    def fail(_: Any) -> None:
        raise WorkerFailure("timeout", "not ready", BUSY_DEVICE)

    for run in (fail, lambda built: (built.scratch / FOLDER / "kernel.so").write_text("code")):
        builds.build("aa1", lambda: worker, run)  # type: ignore[arg-type, return-value]
    assert builds.find("aa1") is not None


def test_a_failure_is_told_to_all_and_nothing_is_kept(tmp_path: Path, worker: Started) -> None:
    builds = Builds(tmp_path / "builds", "cpu")

    def fail(_: Any) -> None:
        raise WorkerFailure("compile_error", "no such header")

    key = builds.key("source", "reference")
    builds.build(key, lambda: worker, fail)  # type: ignore[arg-type, return-value]
    with pytest.raises(WorkerFailure, match="no such header"):
        builds.find(key)
    assert not (tmp_path / "builds").exists()
    assert Builds(tmp_path / "builds", "cpu").find(key) is None  # another session tries again


def test_a_build_belongs_to_its_candidate_task_and_device(tmp_path: Path) -> None:
    keys = {
        Builds(tmp_path, hardware).key(source, reference)
        for hardware in ("cpu", "cuda")
        for source in ("a", "b")
        for reference in ("c", "d")
    }
    assert len(keys) == 8


@pytest.mark.parametrize(
    ("source", "needed"),
    [
        ("from torch.utils.cpp_extension import load_inline\n", True),
        ("import triton\n", True),
        ("@torch.compile\ndef f(x): ...", True),
        ("torch.relu(x)", False),
        ("tritone = 3", False),
    ],
)
def test_which_candidates_are_built(source: str, needed: bool) -> None:
    assert needs_build(source) == needed


def test_copies_of_tritons_cache_name_their_own_files(tmp_path: Path) -> None:
    folder = tmp_path / "triton" / "KEY"
    folder.mkdir(parents=True)
    group = folder / "__grp__kernel.json"
    group.write_text(json.dumps({"child_paths": {"kernel.cubin": "/made/in/KEY/kernel.cubin"}}))
    relocate_triton(tmp_path / "triton")
    assert json.loads(group.read_text()) == {"child_paths": {"kernel.cubin": str(folder / "kernel.cubin")}}


def test_programs_answer_as_they_did_when_the_code_was_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, copied = tmp_path / "made", tmp_path / "copied"
    made.mkdir()
    (made / "version").write_text("1")
    show = [sys.executable, "-c", "import sys; print(open(sys.argv[1]).read())"]
    for name in ("run", "call"):
        monkeypatch.setattr(subprocess, name, getattr(subprocess, name))
    with monkeypatch.context() as while_compiling:
        for name in ("run", "call"):
            while_compiling.setattr(subprocess, name, getattr(subprocess, name))
        remember_programs(made, compiles=True)
        assert subprocess.check_output([*show, made / "version"]) == b"1\n"
        assert subprocess.check_call([*show, str(made / "version"), "again"], stdout=subprocess.DEVNULL) == 0
        assert subprocess.run([sys.executable, "-c", "raise SystemExit(3)"], check=False).returncode == 3
    made.rename(copied)
    (copied / "version").unlink()
    remember_programs(copied, compiles=False)
    assert subprocess.check_output([*show, str(copied / "version")], text=True) == "1\n"
    assert subprocess.check_call([*show, copied / "version", "again"]) == 0
    with pytest.raises(subprocess.CalledProcessError):  # not known: it is started, as far as that is allowed
        subprocess.check_output([*show, str(copied / "version"), "another"], stderr=subprocess.DEVNULL)
    assert subprocess.run([sys.executable, "-c", "raise SystemExit(3)"], check=False).returncode == 3


def test_two_extensions_are_both_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are built by the same words, in other folders: while compiling nothing may be answered from memory."""
    for name in ("run", "call"):
        monkeypatch.setattr(subprocess, name, getattr(subprocess, name))
    remember_programs(tmp_path, compiles=True)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        subprocess.run(args=["touch", "made"], cwd=tmp_path / folder, check=True)
        assert (tmp_path / folder / "made").exists()
