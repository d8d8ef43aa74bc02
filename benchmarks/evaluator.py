"""Our evaluator against KernelBench's own, on the same GPU, tasks and candidates: seconds a sample, and width of the interval.

    python benchmarks/evaluator.py --samples artifacts/samples/subset1/seed=42.parquet --kernelbench FOLDER

FOLDER is a checkout of KernelBench, which stays outside of this repository. `drawn` are the samples as the policy drew
them, duplicates included; `distinct` as many candidates that all differ (by a comment). KernelBench evaluates one sample
like the next, so a few of each task are enough: only correct ones, since others cost it no timing. Protocol of both: theirs
is 1 correctness and 5 timing trials, ours the default. Prints JSON.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from scipy.stats import t as student

from expert_tail import artifacts
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.policy.action import candidate_source
from expert_tail.tasks import Task, load_suite

CORRECT_TRIALS, TIMED_TRIALS = 1, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, required=True, help="a samples artifact")
    parser.add_argument("--kernelbench", type=Path, help="checkout of KernelBench (default: time ours alone)")
    parser.add_argument(
        "--kernelbench-samples", type=int, default=1, help="correct samples of each task that it evaluates"
    )
    parser.add_argument("--distinct", type=int, default=64, help="distinct candidates of each task")
    parser.add_argument("--tasks", type=int, nargs="+", default=[4, 5, 12, 14, 15])
    args = parser.parse_args()

    rows = pq.read_table(args.samples, columns=["task_id", "completion"]).to_pylist()
    action = artifacts.notes(args.samples)["action"]
    suite = {task.task_id: task for task in load_suite("level1", "gpu")}
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "tasks": {}}
    totals = dict.fromkeys(("samples", "drawn_s", "distinct_s", "kernelbench_s"), 0.0)
    for task_id in args.tasks:
        task = suite[task_id]
        drawn = [
            candidate_source(task.reference_source, r["completion"], action) for r in rows if r["task_id"] == task_id
        ]
        right = task.reference_source.replace("class Model(", "class ModelNew(")
        ours = {
            "drawn": measure(task, drawn),
            "distinct": measure(task, [f"{right}\n# {i}\n" for i in range(args.distinct)]),
        }
        entry: dict[str, Any] = {"samples": len(drawn), "candidates": len(set(drawn))} | ours
        totals["samples"] += len(drawn)
        totals["drawn_s"] += ours["drawn"]["seconds"]
        totals["distinct_s"] += ours["distinct"]["seconds"] * len(drawn) / args.distinct
        if args.kernelbench:
            theirs = kernelbench(args.kernelbench, task, right, args.kernelbench_samples)
            entry["kernelbench"] = theirs
            totals["kernelbench_s"] += theirs["seconds_a_sample"] * len(drawn)
        report["tasks"][task_id] = entry
        print(json.dumps({task_id: entry}), file=sys.stderr, flush=True)
    report["totals"] = totals
    if args.kernelbench:
        report["ratio"] = {
            name: round(totals["kernelbench_s"] / totals[f"{name}_s"], 1) for name in ("drawn", "distinct")
        }
    print(json.dumps(report, indent=2))


def measure(task: Task, sources: Sequence[str]) -> dict[str, Any]:
    """Seconds for all of `sources` from a cold start, workers' and reference's included; width of the intervals."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with Evaluator(EvaluatorSettings(device="cuda"), Path(folder)) as evaluator:
            found = evaluator.evaluate([Candidate(task, source) for source in sources])
        seconds = time.perf_counter() - start
    timed = [e for e in found if e.status == "correct" and e.speedup_low and e.speedup_high]
    return {
        "seconds": round(seconds, 2),
        "correct": len(timed),
        "interval_width": round(statistics.median(e.speedup_high / e.speedup_low - 1 for e in timed), 4)
        if timed
        else None,
        "kernel_ms": round(statistics.median(e.kernel_ms for e in timed), 4) if timed else None,
    }


def kernelbench(folder: Path, task: Task, source: str, samples: int) -> dict[str, Any]:
    """Seconds a sample of `eval_kernel_against_ref`; the relative width of a 95 % interval of its mean time."""
    if str(folder / "src") not in sys.path:
        sys.path.insert(0, str(folder / "src"))
        for name, member in (("openai", "OpenAI"), ("litellm", "completion"), ("dotenv", "load_dotenv")):
            # Clients of model providers, which it imports and an evaluation does not use.
            stand_in = types.ModuleType(name)
            setattr(stand_in, member, lambda *_, **__: None)
            sys.modules.setdefault(name, stand_in)
    with contextlib.redirect_stdout(io.StringIO()):
        from kernelbench.eval import eval_kernel_against_ref

        seconds, widths, runtimes = [], [], []
        for _ in range(samples):
            start = time.perf_counter()
            found = eval_kernel_against_ref(
                task.reference_source,
                source,
                num_correct_trials=CORRECT_TRIALS,
                num_perf_trials=TIMED_TRIALS,
                measure_performance=True,
                device=torch.device("cuda:0"),
            )
            seconds.append(time.perf_counter() - start)
            stats = found.runtime_stats
            half = student.ppf(0.975, TIMED_TRIALS - 1) * stats["std"] / TIMED_TRIALS**0.5
            widths.append(2 * half / stats["mean"])
            runtimes.append(stats["mean"])
    return {
        "seconds_a_sample": round(statistics.mean(seconds), 2),
        "interval_width": round(statistics.median(widths), 4),  # of one time alone: a speedup's is wider
        "kernel_ms": round(statistics.median(runtimes), 4),
    }


if __name__ == "__main__":
    main()
