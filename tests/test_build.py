"""Code that is compiled ahead: kept under all that it depends on, each failure once, and found again where it is copied to."""

import json
from pathlib import Path
from typing import Any

import pytest

from expert_tail.evaluator.build import Builds, needs_build
from expert_tail.evaluator.compilers import FOLDER, relocate_triton
from expert_tail.evaluator.process import WorkerFailure


class Started:
    """Stands for a worker: a folder, and whether it was closed."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.closed = scratch, False

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
