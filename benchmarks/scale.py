"""The workflow at a large size, on synthetic artifacts: jobs, time of the dry run, files, and what each analysis rule takes.

By default 250 tasks x 16 seeds x K = 1024, four million samples, as 1 subset or (`--subsets 50`) many. Samples, evaluations
and log-probs are made up: a few dozen distinct candidates a task, of which half are right and some are fast. Selection,
tables and figures are then made from them by the workflow's own rules, one job at a time; their time and peak memory are
what Snakemake's benchmarks say. Prints one JSON object. Takes about 3 GB of disk below `--folder`, removed afterwards.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from expert_tail import artifacts
from expert_tail.config import parse_config
from expert_tail.tasks import load_suite
from expert_tail.tasks.stage import run as write_tasks

ROOT = Path(__file__).parents[1]
ANALYSES = {
    "select": None,  # all of them
    "aggregate": "results/table3.csv",
    "budget_curve": "results/budget_curve.csv",
    "selection_sensitivity": "results/selection_sensitivity.csv",
    "pareto": "results/pareto.csv",
    "comparison": "results/statistics.json",
    "report_page": "results/report.html",
}
STATUSES = np.array(["correct", "incorrect", "runtime_error", "compile_error"])
CANDIDATES = 40  # distinct ones of a task
POLICY = "artifacts/policy/smollm2-135m-instruct/provenance.json"
# What the page shows beside the analyses, and what does not grow with the samples.
STAND_INS = [f"results/{name}.csv" for name in ("headroom", "null_audit")]
STAND_INS += [f"results/figure_{name}.{kind}" for name in ("headroom", "null_audit") for kind in ("svg", "png")]


def configuration(folder: Path, tasks: int, subsets: int, seeds: int, k: int) -> dict[str, Any]:
    ids = np.arange(1, tasks + 1).tolist()
    named = {f"part{i:03d}": ids[i::subsets] for i in range(subsets)}
    emptied = {name: [] for name in ("subset1", "subset2", "rest", "headroom")}
    names = list(named)
    return {
        "tasks": {"source": str(folder / "suite.parquet"), "scale": "cpu", "subsets": named | emptied},
        "sampling": {"k": k, "seeds": list(range(42, 42 + seeds)), "subsets": names},
        "comparison": {"subsets": names, "groups": {"everything": names} if subsets > 1 else {}},
        "adaptation": {"only": []},
        "headroom": {"mark": False},
    }


def write_suite(path: Path, tasks: int) -> None:
    """A suite of `tasks` problems: the built-in ones, again and again, and one to train on."""
    suite = load_suite("level1", "cpu")
    rows = [
        {
            "problem_id": i + 1,
            "level": 1,
            "name": f"{i + 1}_{suite[i % 100].name}",
            "code": suite[i % 100].reference_source,
        }
        for i in range(tasks + 1)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_cell(folder: Path, subset: str, tasks: list[int], seed: int, k: int) -> None:
    """Samples, evaluations and log-probs of a subset under a seed."""
    rng = np.random.default_rng((seed, tasks[0]))
    n = len(tasks) * k
    task_id, sample = np.repeat(np.array(tasks, np.int32), k), np.tile(np.arange(k, dtype=np.int32), len(tasks))
    candidate = np.minimum(rng.geometric(0.2, n) - 1, CANDIDATES - 1)  # a few are most of the samples
    names = [f"{t:032x}{c:032x}" for t in tasks for c in range(CANDIDATES)]
    sha256 = pa.array(names).take(pa.array(np.repeat(np.arange(len(tasks)), k) * CANDIDATES + candidate))
    tokens = 6 + candidate % 20
    offsets = np.concatenate([[0], np.cumsum(tokens)]).astype(np.int32)
    lists = {
        "token_ids": pa.ListArray.from_arrays(offsets, rng.integers(0, 49152, offsets[-1]).astype(np.int32)),
        "logprobs": pa.ListArray.from_arrays(offsets, -rng.exponential(0.3, offsets[-1]).astype(np.float32)),
    }
    completions = pa.array([f"return torch.relu(x) + {c} - {c}" for c in range(CANDIDATES)]).take(pa.array(candidate))
    key = {"task_id": task_id, "seed": np.full(n, seed), "sample": sample}
    named = key | {"candidate_sha256": sha256}
    constant = {"checkpoint": "step=8", "finish_reason": "stop"}
    samples = named | lists | {"tempered_logprobs": lists["logprobs"], "completion": completions, "n_tokens": tokens}
    write(folder / "samples", "samples", subset, seed, n, samples | constant, computed_tokens="1", seconds="1")
    status = STATUSES[np.where(candidate % 2 == 0, 0, 1 + candidate % 3)]
    speedup = np.where(status == "correct", 0.8 + (candidate % 7) / 10, 0.0)
    timing = {"speedup": speedup, "speedup_low": speedup * 0.97, "speedup_high": speedup * 1.03, "trials": 24}
    timing |= {"kernel_ms": 2 / np.maximum(speedup, 0.1), "baseline_ms": 2.0, "roofline_ms": 1.0}
    texts = {"reason": None, "error": None, "evaluator": "0" * 16, "hardware": "made up", "sandbox": "none"}
    texts["measured_at"] = None
    evaluations = named | {"status": status} | timing | texts
    write(folder / "evaluations", "evaluations", subset, seed, n, evaluations, measured="40", seconds="40")
    for kind, scorer in (("logprobs", "step=8"), ("logprobs_base", "base")):
        nll = candidate * 0.7 + 1 + (kind == "logprobs_base")
        scores = key | {"scorer": scorer, "nll": nll, "nll_mean": nll / tokens, "n_tokens": tokens}
        write(folder / kind, "logprobs", subset, seed, n, scores, computed_tokens="1", seconds="1")


def write(folder: Path, kind: str, subset: str, seed: int, n: int, columns: dict[str, Any], **notes: str) -> None:
    schema = artifacts.SCHEMAS[kind]
    arrays = []
    for name, type_ in zip(schema.names, schema.types, strict=True):
        value = columns[name]
        if value is None or isinstance(value, str | int | float):
            arrays.append(
                pa.nulls(n, type_) if value is None else pa.array([value], type_).take(pa.array(np.zeros(n, int)))
            )
        else:
            arrays.append((value if isinstance(value, pa.Array) else pa.array(value)).cast(type_))
    more = {"action": "forward_body", "settings": "{}", **notes}
    artifacts.write(
        folder / subset / f"seed={seed}.parquet",
        kind,
        pa.Table.from_arrays(arrays, schema=schema),
        subset=subset,
        **more,
    )


def write_training(folder: Path) -> None:
    """What the tables need of training: a few rollouts, and files in the places of its checkpoints."""
    row = dict.fromkeys(artifacts.SCHEMAS["rollouts"].names) | {"step": 0, "task_id": 1, "rollout": 0, "reward": 1.0}
    row |= {"candidate_sha256": "0", "status": "correct", "speedup": 1.0, "speedup_low": 0.9, "entropy": 0.1}
    settings = json.dumps({"checkpoints": [4, 8]})
    artifacts.write(folder / "rlvr" / "rollouts.parquet", "rollouts", [row, row | {"rollout": 1}], settings=settings)
    for step in (4, 8):
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            place = folder / "rlvr" / "checkpoints" / f"step={step}" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()


def write_stand_ins(folder: Path) -> None:
    """One row for each table, an empty picture for each figure."""
    for name in STAND_INS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(
            "name,task_id\nmade up,1\n" if name.endswith(".csv") else '<svg xmlns="http://www.w3.org/2000/svg"/>'
        )


def snakemake(folder: Path, *arguments: str) -> tuple[str, float]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--configfile", str(folder / "scale.yaml"), "--cores", "2", "--jobs", "1", *arguments],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"snakemake {' '.join(arguments)}:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout, time.perf_counter() - began


def jobs_in(stdout: str) -> int:
    lines = (line.split() for line in stdout.splitlines())
    return next((int(parts[1]) for parts in lines if len(parts) == 2 and parts[0] == "total"), 0)


def benchmarked(folder: Path, rule: str) -> dict[str, float]:
    """Seconds and peak memory of the jobs of a rule, the largest of each."""
    files = [*folder.glob(f"artifacts/benchmarks/{rule}.tsv"), *folder.glob(f"artifacts/benchmarks/{rule}/**/*.tsv")]
    rows = [dict(zip(*(line.split("\t") for line in file.read_text().splitlines()), strict=True)) for file in files]
    peaks = [float(row["max_rss"]) for row in rows if row["max_rss"] not in ("NA", "-")]
    found = {"jobs": len(rows), "seconds": max(float(row["s"]) for row in rows)}
    return found | {"peak_gib": round(max(peaks) / 1024, 2) if peaks else 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=250)
    parser.add_argument("--subsets", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--k", type=int, default=1024)
    parser.add_argument(
        "--rules", nargs="*", choices=list(ANALYSES), default=list(ANALYSES), help="none: dry runs alone"
    )
    parser.add_argument(
        "--folder", type=Path, help="where to work, and to keep what was made (default: a temporary one)"
    )
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="expert-tail-scale-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        print(json.dumps(measure(folder, given), indent=1))
    finally:
        if not given.folder:
            shutil.rmtree(folder)


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    write_suite(folder / "suite.parquet", given.tasks)
    config = configuration(folder, given.tasks, given.subsets, given.seeds, given.k)
    (folder / "scale.yaml").write_text(yaml.safe_dump(config))
    planned, seconds = snakemake(folder, "-n", "--quiet=rules", "all")
    result: dict[str, Any] = {"samples": given.tasks * given.seeds * given.k, "subsets": given.subsets}
    result |= {"jobs": jobs_in(planned), "dry_run_s": round(seconds, 1)}
    if not given.rules:
        return result
    kinds = ("samples", "evaluations", "logprobs", "logprobs_base")
    stored = folder / "artifacts"
    write_tasks(
        parse_config(yaml.safe_load((folder / "scale.yaml").read_text())).tasks, stored / "tasks" / "suite.parquet"
    )
    if not (stored / "rlvr").exists():
        write_training(stored)
        write_stand_ins(folder)
        snakemake(folder, POLICY)
    cells = [(subset, seed) for subset in config["sampling"]["subsets"] for seed in config["sampling"]["seeds"]]
    for subset, seed in cells:
        if not (stored / "logprobs_base" / subset / f"seed={seed}.parquet").exists():
            write_cell(stored, subset, config["tasks"]["subsets"][subset], seed, given.k)
    made = [f"artifacts/{kind}/{subset}/seed={seed}.parquet" for subset, seed in cells for kind in kinds]
    snakemake(folder, "--touch", *made, *STAND_INS)
    result["stored_gb"] = round(sum(file.stat().st_size for file in stored.rglob("*.parquet")) / 1e9, 2)
    selections = [f"artifacts/selections/{subset}/seed={seed}.parquet" for subset, seed in cells]
    for rule in given.rules:
        target = ANALYSES[rule]
        snakemake(folder, *([target] if target else selections))
        result[rule] = benchmarked(folder, rule)
    again, seconds = snakemake(folder, "-n", "--quiet=rules", "results/table3.csv")
    result |= {"dry_run_with_artifacts_s": round(seconds, 1), "jobs_left": jobs_in(again)}
    return result | {"files": sum(1 for file in folder.rglob("*") if file.is_file() and ".snakemake" not in file.parts)}


if __name__ == "__main__":
    main()
