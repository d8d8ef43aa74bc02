"""Our evaluator against KernelBench's own, on the same GPU, tasks and candidates: seconds a sample, and width of the interval.

    python benchmarks/evaluator.py --samples artifacts/samples/subset1/seed=42.parquet --kernelbench FOLDER

FOLDER is a checkout of KernelBench, which stays outside of this repository. `drawn` are the samples as the policy drew
them, duplicates included; `distinct` as many candidates that all differ (by a comment): ours evaluates each in one call, from
an empty cache. KernelBench evaluates one sample like the next, so some of each task are enough: only correct ones, since
others cost it no timing. Protocol of both: theirs is 1 correctness and 5 timing trials, ours the default. The ceilings of the
device, which a machine measures once, are measured before. `scatter` is how far apart the speedups of equal candidates lie,
95 % of them: of ours the `distinct` ones, of theirs the ratios of any two samples' times. Prints JSON.
"""

import argparse
import contextlib
import io
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
import types
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from scipy.stats import t as student

from expert_tail import artifacts
from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.policy.action import candidate_source
from expert_tail.tasks import Task, load_suite

CORRECT_TRIALS, TIMED_TRIALS = 1, 5
Z = statistics.NormalDist().inv_cdf(0.975)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, required=True, help="a samples artifact")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: ours alone, at sizes of a CPU")
    parser.add_argument("--kernelbench", type=Path, help="checkout of KernelBench (default: time ours alone)")
    parser.add_argument(
        "--kernelbench-seconds", type=float, default=20, help="how long it evaluates samples of each task; one at least"
    )
    parser.add_argument("--distinct", type=int, default=64, help="distinct candidates of each task")
    parser.add_argument("--tasks", type=int, nargs="+", default=[4, 5, 12, 14, 15])
    args = parser.parse_args()

    rows = pq.read_table(args.samples, columns=["task_id", "completion"]).to_pylist()
    action = artifacts.notes(args.samples)["action"]
    suite = {task.task_id: task for task in load_suite("level1", "gpu" if args.device == "cuda" else "cpu")}
    tasks = [suite[task_id] for task_id in args.tasks]
    right = {task: task.reference_source.replace("class Model(", "class ModelNew(") for task in tasks}
    drawn = [
        Candidate(task, candidate_source(task.reference_source, row["completion"], action))
        for task in tasks
        for row in rows
        if row["task_id"] == task.task_id
    ]
    distinct = [Candidate(task, f"{right[task]}\n# {i}\n") for task in tasks for i in range(args.distinct)]
    evaluate(distinct[:1], args.device)  # the ceilings, and the machine's caches of files
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "drawn": evaluate(drawn, args.device),
        "distinct": evaluate(distinct, args.device, are_equal=True),
    }
    if args.kernelbench:
        theirs = {
            task.task_id: kernelbench(args.kernelbench, task, right[task], args.kernelbench_seconds) for task in tasks
        }
        report["kernelbench"] = theirs
        report["ratio"] = {
            name: round(
                sum(theirs[c.task.task_id]["seconds_a_sample"] for c in candidates) / report[name]["seconds"], 1
            )
            for name, candidates in (("drawn", drawn), ("distinct", distinct))
        }
    print(json.dumps(report, indent=2))


def evaluate(candidates: Sequence[Candidate], device: str, are_equal: bool = False) -> dict[str, Any]:
    """Seconds for all candidates in one call from a cold start; of each task what was measured, and how exactly."""
    settled: list[float] = []  # when each was
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with Evaluator(EvaluatorSettings(device=device), Path(folder)) as evaluator:
            found = evaluator.evaluate(candidates, lambda n: settled.extend([time.perf_counter() - start] * n))
        seconds = time.perf_counter() - start
    by_task: dict[int, list[Evaluation]] = defaultdict(list)
    for candidate, evaluation in zip(candidates, found, strict=True):
        by_task[candidate.task.task_id].append(evaluation)
    counts = itertools.accumulate(map(len, by_task.values()))  # one task after the other
    ends = [0.0, *(settled[n - 1] for n in counts)]
    n_distinct = len({(candidate.task.task_id, candidate.source) for candidate in candidates})
    return {
        "seconds": round(seconds, 2),
        "candidates": len(candidates),
        "distinct": n_distinct,
        "tasks": {
            task_id: {"seconds": round(end - begin, 2), **measured(evaluations, are_equal)}
            for (task_id, evaluations), (begin, end) in zip(by_task.items(), itertools.pairwise(ends), strict=True)
        },
    }


def measured(evaluations: Sequence[Evaluation], are_equal: bool) -> dict[str, Any]:
    timed = [e for e in evaluations if e.status == "correct" and e.speedup_low and e.speedup_high]
    found: dict[str, Any] = {"candidates": len(evaluations), "correct": len(timed)}
    if timed:
        found["interval_width"] = round(statistics.median(e.speedup_high / e.speedup_low - 1 for e in timed), 4)
        found["kernel_ms"] = round(statistics.median(e.kernel_ms for e in timed), 4)
    if are_equal:
        found["scatter"] = scatter([e.speedup for e in timed], 1)
    return found


def scatter(values: Sequence[float], n_times: int) -> float | None:
    """Relative width of the range of 95 % of ratios of so many values, if they are normal."""
    if len(values) < 2:
        return None
    deviation = statistics.stdev(map(math.log, values)) * n_times**0.5
    return round(math.expm1(2 * Z * deviation), 4)


def kernelbench(folder: Path, task: Task, source: str, at_least_s: float) -> dict[str, Any]:
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
        while sum(seconds) < at_least_s or not seconds:
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
        "samples": len(seconds),
        "seconds_a_sample": round(statistics.mean(seconds), 2),
        "interval_width": round(statistics.median(widths), 4),  # of one time alone: a speedup's is wider
        "scatter": scatter(runtimes, 2),
        "kernel_ms": round(statistics.median(runtimes), 4),
    }


if __name__ == "__main__":
    main()
