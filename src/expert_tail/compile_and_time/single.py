"""Evaluating one candidate file by hand: `expert-tail evaluate`."""

import tempfile
from pathlib import Path
from typing import Any

from expert_tail.errors import UserError
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.policy.action import candidate_sha256, candidate_source
from expert_tail.tasks import load_suite


def evaluate_file(
    path: Path, task_id: int, action: str, suite: str, scale: str | None, settings: EvaluatorSettings, use_cache: bool
) -> dict[str, Any]:
    """One row of the evaluations table for the candidate in `path`. Raises `UserError` for arguments that name nothing."""
    try:
        text = path.read_text(errors="surrogateescape")
    except OSError as error:
        raise UserError(f"cannot read --candidate {path}: {error.strerror}", is_usage=True) from None
    tasks = {task.task_id: task for task in load_suite(suite, scale or "cpu")}
    if task_id not in tasks:
        raise UserError(
            f"suite {suite} has no --task {task_id}; `expert-tail tasks --suite {suite}` lists them", is_usage=True
        )
    source = candidate_source(tasks[task_id].reference_source, text, action)
    with tempfile.TemporaryDirectory() as folder, Evaluator(settings, None if use_cache else Path(folder)) as evaluator:
        (evaluation,) = evaluator.evaluate([Candidate(tasks[task_id], source)])
    return {"task_id": task_id, "candidate_sha256": candidate_sha256(source), **evaluation.to_json()}
