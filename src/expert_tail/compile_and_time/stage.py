"""Evaluate a samples artifact."""

import time
from pathlib import Path

from expert_tail import artifacts
from expert_tail.compile_and_time.shard import Shard
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.policy.action import candidate_sha256, candidate_source
from expert_tail.progress import log, progress
from expert_tail.tasks.stage import tasks_of


def run(evaluator: EvaluatorSettings, tasks: Path, samples: Path, output: Path, shard: str | None = None) -> None:
    """Write an evaluation for each sample; with a `shard`, for those whose candidates are of it."""
    part = Shard.parse(shard) if shard else Shard()
    notes = artifacts.notes(samples)
    columns = ["task_id", "seed", "sample", "completion", "candidate_sha256"]
    rows = artifacts.read(samples, "samples", columns).to_pylist()
    held = part.holds([(row["task_id"], row["candidate_sha256"]) for row in rows])
    rows = [row for row, is_held in zip(rows, held, strict=True) if is_held]
    by_id = {task.task_id: task for task in tasks_of(tasks, notes["subset"])}
    candidates = []
    for row in rows:
        task = by_id.get(row["task_id"])
        if task is None:
            raise artifacts.ArtifactError(
                f"{samples} has samples of task {row['task_id']}, which {tasks} has not; sample again"
            )
        source = candidate_source(task.reference_source, row["completion"], notes["action"])
        if candidate_sha256(source) != row["candidate_sha256"]:
            raise artifacts.ArtifactError(
                f"{samples}: sample {row['sample']} of task {row['task_id']} now gives another candidate; sample again"
            )
        candidates.append(Candidate(task, source))
    began = time.monotonic()
    with progress(f"evaluating {notes['subset']}", len(candidates)) as advance, Evaluator(evaluator) as running:
        evaluations = running.evaluate(candidates, advance)
    seconds, measured = time.monotonic() - began, running.cache.misses
    log(f"{len(candidates)} samples, {len(set(candidates))} distinct: {running.cache.hits} known, {measured} measured")
    artifacts.write(
        output,
        "evaluations",
        [
            {key: row[key] for key in ("task_id", "seed", "sample", "candidate_sha256")}
            | {name: getattr(evaluation, name) for name in artifacts.EVALUATION_COLUMNS}
            for row, evaluation in zip(rows, evaluations, strict=True)
        ],
        subset=notes["subset"],
        settings=evaluator.model_dump_json(),
        seconds=str(seconds),
        measured=str(measured),
    )
