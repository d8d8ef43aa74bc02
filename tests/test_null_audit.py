"""The null audit: its statistics, its table, the stage for real, its resumption, and several evaluations at a time."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from expert_tail import artifacts
from expert_tail.cli import main
from expert_tail.errors import UserError
from expert_tail.evaluator.cache import Cache
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.null_audit.settings import NullAuditSettings
from expert_tail.null_audit.table import NOMINAL, audit, binomial
from expert_tail.tasks import Task

ROOT = Path(__file__).parents[1]
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
TASK = Task(19, "19_relu", 1, SOURCE)


def at_least(k: int, n: int, p: float) -> float:
    """P(k or more successes among n), summed term by term, each from its logarithm."""
    ways = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(n + 1)]
    return math.fsum(math.exp(ways[i] + i * math.log(p) + (n - i) * math.log1p(-p)) for i in range(k, n + 1))


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 64), (1, 64), (5, 64), (64, 64), (2, 240), (31, 1280)])
def test_binomial(k: int, n: int) -> None:
    found = binomial(k, n)
    assert found.p_value == pytest.approx(at_least(k, n, NOMINAL))
    # Clopper and Pearson: the lowest and highest probabilities under which k is not too far out, 2.5 % on either side.
    assert (found.low == 0) if k == 0 else at_least(k, n, found.low) == pytest.approx(0.025)
    assert (found.high == 1) if k == n else 1 - at_least(k + 1, n, found.high) == pytest.approx(0.025)


def repeats(
    protocol: str, task_id: int, speedups: list[float], lows: list[float | None], statuses: str = ""
) -> list[dict[str, Any]]:
    """`statuses`: one letter a repeat, c for correct."""
    return [
        {"protocol": protocol, "task_id": task_id, "status": "correct" if status == "c" else "crash"}
        | {"speedup": speedup, "speedup_low": low, "hardware": "cpu: a", "evaluator": protocol[:3]}
        for speedup, low, status in zip(speedups, lows, statuses or "c" * len(speedups), strict=True)
    ]


def test_table() -> None:
    rows = [
        *repeats("paired", 5, [1.2, 1.1, 0.9, 1.0], [1.1, 1.0, 0.8, 0.9]),
        *repeats("paired", 4, [0.5, 0.0, 2.0, 0.7], [0.4, 0.0, 1.9, 0.6], "cxcc"),
        *repeats("paper", 5, [3.0, 0.5, 0.5, 0.6], [None] * 4),
        *repeats("paper", 4, [0.0] * 4, [0.0] * 4, "xxxx"),
    ]
    table = audit(pl.DataFrame(rows, infer_schema_length=None), {4: "4_product", 5: "5_scaled"})
    columns = ["protocol", "task_id", "name", "repeats", "correct", "fast_1", "fast_1_confident", "largest_speedup"]
    assert table.select(columns).rows() == [
        ("paired", 4, "4_product", 4, 0.75, 0.25, 0.25, 2.0),
        ("paired", 5, "5_scaled", 4, 1.0, 0.5, 0.25, 1.2),
        ("paired", None, "all", 8, 0.875, 0.375, 0.25, 2.0),
        ("paper", 4, "4_product", 4, 0.0, 0.0, None, None),
        ("paper", 5, "5_scaled", 4, 1.0, 0.25, None, 3.0),
        ("paper", None, "all", 8, 0.5, 0.125, None, 3.0),
    ]
    assert table["median_speedup"].to_list() == [0.7, 1.05, 1.0, None, 0.55, 0.55]
    assert table["evaluator"].to_list() == ["pai"] * 3 + ["pap"] * 3
    of_paper = table.filter(pl.col("protocol") == "paper")
    for name in ("fast_1_confident", "fast_1_confident_low", "fast_1_confident_high", "p_value", "within_nominal"):
        assert of_paper[name].to_list() == [None] * 3


def test_verdict_of_a_task_allows_for_the_number_of_tasks() -> None:
    """Four of 40 are too many for one task looked at alone, and not for the worst of 20."""
    assert NOMINAL / 20 < at_least(4, 40, NOMINAL) < NOMINAL
    lows: list[float | None] = [1.01] * 4 + [0.99] * 36
    one = repeats("paired", 1, [1.02] * 40, lows)
    others = [row for task_id in range(2, 21) for row in repeats("paired", task_id, [1.0] * 40, [0.99] * 40)]
    names = {task_id: str(task_id) for task_id in range(1, 21)}
    many = audit(pl.DataFrame(one + others), names)
    assert many["within_nominal"].to_list() == [True] * 21
    assert many["p_value"][0] == pytest.approx(at_least(4, 40, NOMINAL))
    assert audit(pl.DataFrame(one), names)["within_nominal"].to_list() == [False] * 2


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests of the stage, since the machine's ceilings lie beside it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Two tasks of a few microseconds, as a `tasks` artifact: 1 for training, 2 for evaluation."""
    (tmp_path / "suite").mkdir()
    for name, body in (("1_relu", "torch.relu(x)"), ("2_sum", "x.sum(1)")):
        (tmp_path / "suite" / f"{name}.py").write_text(SOURCE.replace("torch.relu(x)", body))
    path = tmp_path / "tasks.parquet"
    flags = ["--suite", str(tmp_path / "suite"), "--tasks.subsets", '{"held_out": [2]}']
    assert main(["tasks", "--output", str(path), *flags]) == 0
    return path


def arguments(suite: Path, *more: str) -> list[str]:
    folder = suite.parent
    paths = ["--tasks", str(suite), "--measurements", str(folder / "measured"), "--output", str(folder / "results")]
    fast = ["--evaluator.min_pairs", "6", "--evaluator.max_pairs", "6", "--evaluator.paper_threads", "2"]
    return ["null_audit", *paths, *fast, *more]


def test_stage(suite: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EXPERT_TAIL_CACHE", str(cache))
    assert main(arguments(suite, "--null_audit.repeats", "3")) == 0
    results = suite.parent / "results"
    table = pl.read_csv(results / "null_audit.csv")
    assert table.select("protocol", "task_id", "name", "repeats").rows() == [
        ("paired", 2, "2_sum", 3),
        ("paired", None, "all", 3),
        ("paper", 2, "2_sum", 3),
        ("paper", None, "all", 3),
    ]
    assert table["correct"].to_list() == [1.0] * 4
    assert table["fast_1_confident"].is_null().to_list() == [False, False, True, True]
    for suffix in ("png", "svg"):
        assert (results / f"figure_null_audit.{suffix}").stat().st_size > 0
    for protocol, has_interval in (("paired", True), ("paper", False)):
        rows = artifacts.read(suite.parent / f"measured/{protocol}.parquet", "null_audit").to_pylist()
        assert [(row["protocol"], row["task_id"], row["repeat"]) for row in rows] == [
            (protocol, 2, i) for i in (1, 2, 3)
        ]
        assert len({row["measured_at"] for row in rows}) == 3  # each was measured
        assert all((row["speedup_low"] is not None) == has_interval for row in rows)
    shown = capsys.readouterr().err
    assert "3 repeats: 0 known, 3 measured" in shown
    assert "paper: of 3 references against themselves" in shown

    drawn = (results / "figure_null_audit.svg").read_bytes()
    more = ["--null_audit.repeats", "4", "--null_audit.protocols", "paired", "--null_audit.tasks", "1,2"]
    assert main(arguments(suite, *more)) == 0
    assert "8 repeats: 3 known, 5 measured" in capsys.readouterr().err
    assert pl.read_csv(results / "null_audit.csv")["task_id"].to_list() == [1, 2, None]
    assert (results / "figure_null_audit.svg").read_bytes() != drawn


@pytest.mark.parametrize(("subsets", "audited"), [("first", [1]), ("second,none", [2]), ("none", [1, 2]), ("", [1, 2])])
def test_subsets_without_tasks_drop_out(
    suite: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, subsets: str, audited: list[int]
) -> None:
    monkeypatch.setenv("EXPERT_TAIL_CACHE", str(cache))
    flags = ["--suite", str(suite.parent / "suite"), "--tasks.subsets", '{"first": [1], "second": [2], "none": []}']
    assert main(["tasks", "--output", str(suite), *flags]) == 0
    more = ["--null_audit.repeats", "1", "--null_audit.protocols", "paired", "--null_audit.subsets", subsets]
    assert main(arguments(suite, *more)) == 0
    assert pl.read_csv(suite.parent / "results" / "null_audit.csv")["task_id"].to_list() == [*audited, None]


def test_stage_names_what_is_wrong(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(suite, "--null_audit.tasks", "7")) == 1
    assert "has no task 7" in capsys.readouterr().err
    assert main(["tasks", "--output", str(suite), "--suite", str(suite.parent / "suite")]) == 0
    assert main(arguments(suite)) == 1
    assert "has no evaluation tasks" in capsys.readouterr().err
    for values in ({"tasks": [3, 3]}, {"protocols": ["paper", "paper"]}, {"protocols": []}, {"repeats": 0}):
        with pytest.raises(UserError, match=next(iter(values))):
            NullAuditSettings.checked(values, "null_audit")


def test_kill_9_loses_no_finished_repeat(suite: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPERT_TAIL_CACHE", str(cache))
    total, before = 30, len(list(Cache(cache).entries()))
    own = ["--null_audit.protocols", "paired", "--evaluator.precision", "0.01"]  # nothing is cached for that
    again = arguments(suite, "--null_audit.repeats", str(total), *own)
    process = subprocess.Popen(
        [sys.executable, "-m", "expert_tail", *again], env=os.environ | {"TMPDIR": str(suite.parent)}
    )
    deadline = time.monotonic() + 60
    while len(list(Cache(cache).entries())) < before + 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(list(Cache(cache).entries())) - before
    assert 3 <= finished < total
    log = suite.parent / "again.log"
    assert main(["--log", str(log), *again]) == 0
    assert f"{total} repeats: {finished} known, {total - finished} measured" in log.read_text()


def sleeping(seconds: float) -> str:
    body = f"__import__('time').sleep({seconds})\n        return torch.relu(x)"
    return SOURCE.replace("class Model(", "class ModelNew(").replace("return torch.relu(x)", body)


def test_paper_threads_overlap_and_keep_order_and_cache(tmp_path: Path) -> None:
    """Candidates that sleep while they are timed: at the same time they take as long as the slowest of them."""
    durations = [0.12, 0.09, 0.06]
    candidates = [Candidate(TASK, sleeping(seconds)) for seconds in durations]
    spread = {}
    for threads in (1, 3):
        settings = EvaluatorSettings(protocol="paper", paper_trials=3, paper_threads=threads, timeout_s=10)
        with Evaluator(settings, tmp_path) as running:
            advanced: list[int] = []
            found = running.evaluate([*candidates, candidates[0]], advanced.append)
            assert [e.status for e in found] == ["correct"] * 4
            assert found[3] == found[0]
            assert sum(advanced) == 4
            # The first ones sleep longest and end last, and yet come first.
            slept = [e.kernel_ms for e in found[:3]]
            assert slept == sorted(slept, reverse=True)  # type: ignore[type-var]
            assert running.evaluate(candidates) == found[:3]
            assert (running.cache.hits, running.cache.misses) == (3, 3)
        ends = [e.measured_at for e in found]
        spread[threads] = (max(ends) - min(ends)).total_seconds()
    # One after the other, two whole evaluations of seven calls lie between the first end and the last.
    assert spread[1] > 7 * sum(durations[1:])
    assert spread[3] < 0.75 * spread[1]


def test_repeats_are_measured_anew_and_cached_each(tmp_path: Path) -> None:
    settings = EvaluatorSettings(min_pairs=6, max_pairs=6)
    candidates = [Candidate(TASK, SOURCE + "\nModelNew = Model\n", repeat) for repeat in range(3)]
    with Evaluator(settings, tmp_path) as running:
        first = running.evaluate(candidates)
        assert len({e.measured_at for e in first}) == 3
        assert running.evaluate(candidates[::-1]) == first[::-1]


def test_audit_needs_no_policy() -> None:
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "2", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--forceall", "results/null_audit.csv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    jobs = [
        line.split()[1] for line in (done.stdout + done.stderr).splitlines() if line.startswith(("rule ", "localrule "))
    ]
    assert sorted(job.rstrip(":") for job in jobs) == ["null_audit", "tasks"]
