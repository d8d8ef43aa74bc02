"""Copies of the workflow and its package that tests may edit, and dry runs of them read as data."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "config.yaml", "rules", "report", "profiles", "envs", "src")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy in which nothing was made yet."""
    return copied(ROOT, tmp_path)


@pytest.fixture
def finished(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which everything counts as made: `--touch` records today's parameters for files that exist."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all workers of this run
    template = shared / "finished"
    with FileLock(shared / "finished.lock"):
        if not template.exists():
            touched(copied(ROOT, shared / "touched")).rename(template)
    return copied(template, tmp_path, "artifacts", "results", ".snakemake")


def copied(source: Path, target: Path, *more: str) -> Path:
    target.mkdir(exist_ok=True)
    for name in (*PARTS, *more):
        (shutil.copytree if (source / name).is_dir() else shutil.copy2)(source / name, target / name)
    return target


def touched(folder: Path) -> Path:
    listed = snakemake(folder, "-n", "--summary", "all")
    assert listed.returncode == 0, listed.stderr[-3000:]
    for line in listed.stdout.splitlines():
        path = folder / line.split("\t")[0]
        if "/" in line.split("\t")[0]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert snakemake(folder, "--touch", "--forceall", "all").returncode == 0
    assert planned(folder, "all") == {}
    return folder


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    command = [sys.executable, "-m", "snakemake", *arguments, "--cores", "2"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def planned(folder: Path, target: str, *arguments: str) -> dict[str, int]:
    """Rule -> number of jobs that a run would execute."""
    done = snakemake(folder, target, "-n", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    _, _, table = done.stdout.partition("Job stats:")
    lines = (line.split() for line in table.partition("\n\n")[0].splitlines())
    return {
        parts[0]: int(parts[1]) for parts in lines if len(parts) == 2 and parts[1].isdigit() and parts[0] != "total"
    }


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
