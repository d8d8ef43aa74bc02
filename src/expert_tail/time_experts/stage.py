"""Measure the experts of a split, and judge its tasks."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expert_tail import artifacts
from expert_tail.evaluator.ceilings import ceilings_of
from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.policy.action import candidate_sha256
from expert_tail.progress import log, progress
from expert_tail.tasks import Task
from expert_tail.tasks.work import work_of
from expert_tail.time_experts.experts import Expert, experts_for
from expert_tail.time_experts.floor import Movement, movement_of
from expert_tail.time_experts.settings import HeadroomSettings
from expert_tail.time_experts.verdict import is_won, verdict

Measured = list[tuple[Expert, Evaluation]]


def run(
    settings: HeadroomSettings, evaluator: EvaluatorSettings, tasks: Path, experts: Path, split: str, output: Path
) -> None:
    """Write a `headroom` artifact: a row for every expert of every task of `split`, and one for a task without experts.

    Experts are evaluated like any candidate, and cached; always by the protocol `paired`, since no other has an interval.
    """
    rows = artifacts.read(tasks, "tasks").to_pylist()
    chosen = [Task(r["task_id"], r["name"], r["level"], r["reference_source"]) for r in rows if r["split"] == split]
    with Evaluator(evaluator.model_copy(update={"protocol": "paired"})) as running:
        is_own = settings.experts == HeadroomSettings().experts
        found = experts_for(chosen, experts, running.device.type, of_level1=is_own)
        if chosen and not found:
            log(f"time_experts: {experts} has no experts for tasks of `{split}`, so that their headroom is unknown")
        with progress(f"timing experts of {split}", len(found)) as advance:
            evaluations = running.evaluate([expert.candidate for expert in found], advance)
        measured: dict[Task, Measured] = defaultdict(list)
        for expert, evaluation in zip(found, evaluations, strict=True):
            measured[expert.candidate.task].append((expert, evaluation))
        winless = [task for task, of_task in measured.items() if not is_won(_lows(of_task), settings)]
        floors = _floors(winless, running)
    artifacts.write(
        output,
        "headroom",
        [
            row
            for task in chosen
            for row in _rows(task, split, measured[task], floors.get(task), running.hardware, settings)
        ],
        settings=settings.model_dump_json(),
        evaluator=evaluator.model_dump_json(),
    )


def _floors(tasks: Sequence[Task], evaluator: Evaluator) -> dict[Task, float]:
    """The floor of each built-in task, ms. Tasks that move as much share one measurement."""
    movements: dict[Task, Movement] = {}
    for task in tasks:
        if (work := work_of(task)) is not None:
            movements[task] = movement_of(task, work)
    moving = {task: movement.task() for task, movement in movements.items()}
    with progress("timing mere movement of data", len(moving)) as advance:
        timed = evaluator.evaluate([_against_itself(task) for task in moving.values()], advance)
    ceilings = ceilings_of(str(evaluator.device), evaluator.core, evaluator.hardware) if moving else None
    return {
        task: max(min(found.kernel_ms, found.baseline_ms), movements[task].arithmetic_ms(ceilings))
        for task, found in zip(moving, timed, strict=True)
        if found.kernel_ms is not None and found.baseline_ms is not None
    }


def _against_itself(task: Task) -> Candidate:
    return Candidate(task, task.reference_source.replace("class Model(", "class ModelNew("))


def _rows(
    task: Task, split: str, measured: Measured, floor_ms: float | None, hardware: str, settings: HeadroomSettings
) -> list[dict[str, Any]]:
    correct = [evaluation for _, evaluation in measured if evaluation.status == "correct"]
    baselines = [e.baseline_ms for e in correct if e.baseline_ms is not None]
    rooflines = [e.roofline_ms for e in correct if e.roofline_ms is not None]
    baseline_ms = min(baselines, default=None)
    ceiling = min(baselines) / max(rooflines) if baselines and rooflines else None
    of_task = {
        "task_id": task.task_id,
        "name": task.name,
        "split": split,
        "ceiling": ceiling,
        "floor_ms": floor_ms,
        "verdict": verdict(_lows(measured), baseline_ms, ceiling, floor_ms, settings),
    }
    blank = dict.fromkeys(artifacts.EVALUATION_COLUMNS) | {"hardware": hardware}
    return [
        {**of_task, "expert": expert.action, "candidate_sha256": candidate_sha256(expert.candidate.source)}
        | {name: getattr(evaluation, name) for name in artifacts.EVALUATION_COLUMNS}
        for expert, evaluation in measured
    ] or [{**of_task, "expert": None, "candidate_sha256": None, **blank}]


def _lows(measured: Measured) -> list[float | None]:
    return [evaluation.speedup_low for _, evaluation in measured if evaluation.status == "correct"]
