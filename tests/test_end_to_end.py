"""The whole DAG on the real policy at its smallest size: results, nothing to do afterwards, and a truncated artifact."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from expert_tail import artifacts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--cores", "1", *arguments, "--configfile", str(ROOT / "configs/smoke.yaml")]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=540)


def test_smoke_run_from_policy_to_table3(tmp_path: Path) -> None:
    target = "results/table3.csv"
    done = snakemake(tmp_path, target)
    assert done.returncode == 0, done.stderr[-5000:]

    with open(tmp_path / target) as file:
        rows = list(csv.DictReader(file))
    assert {row["strategy"] for row in rows} == {
        "best-correct",
        "random-correct",
        "confidence-guided",
        "surprisal-guided",
        "surprisal-guided-top3",
    }
    assert {row["task_id"] for row in rows} == {"4", "5", "12", "14", "15", ""}
    assert all({"fast_1", "fast_1_confident"} <= row.keys() for row in rows)
    for name in ("table1.csv", "table2.csv", "table5.csv", "table8.csv", "figure3.png", "figure4.svg"):
        assert (tmp_path / "results" / name).stat().st_size > 0

    notes = {
        kind: artifacts.notes(tmp_path / f"artifacts/{kind}/subset1/seed=42.parquet")
        for kind in ("samples", "logprobs", "evaluations")
    }
    assert all(float(noted["seconds"]) > 0 for noted in notes.values())
    assert all(int(notes[kind]["computed_tokens"]) > 0 for kind in ("samples", "logprobs"))
    assert int(notes["evaluations"]["measured"]) > 0

    again = snakemake(tmp_path, target)
    assert "Nothing to be done" in again.stdout + again.stderr

    samples = tmp_path / "artifacts/samples/subset1/seed=42.parquet"
    samples.write_bytes(samples.read_bytes()[:-100])
    broken = snakemake(tmp_path, target, "--forcerun", "compile_and_time")
    assert broken.returncode != 0
    assert "seed=42.parquet is not a readable Parquet file" in broken.stdout + broken.stderr
