"""Measure every reference against itself, and write what came of it."""

from pathlib import Path

import polars as pl

from expert_tail import artifacts
from expert_tail.errors import UserError
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.figure_style import save
from expert_tail.null_audit.figure import draw
from expert_tail.null_audit.settings import NullAuditSettings
from expert_tail.null_audit.table import audit
from expert_tail.progress import log, progress
from expert_tail.results import write_table
from expert_tail.settings import nearest
from expert_tail.tasks import Task
from expert_tail.tasks.suite import TRAIN


def run(
    settings: NullAuditSettings, evaluator: EvaluatorSettings, tasks: Path, measurements: Path, output: Path
) -> None:
    """Write `{protocol}.parquet` to the folder `measurements`, the table and the figure to the folder `output`.

    Repeats are cached like any evaluation, each on its own: after a kill, those that were finished are not made again.
    """
    audited = _audited(tasks, settings)
    found = [_measure(protocol, settings, evaluator, audited, measurements) for protocol in settings.protocols]
    repeats = pl.concat(found)
    table = audit(repeats, {task.task_id: task.name for task in audited})
    table = write_table(table, output / "null_audit.csv")
    save(draw(repeats, table), output / "figure_null_audit")
    for row in table.filter(pl.col("task_id").is_null()).iter_rows(named=True):
        log(f"null audit: {_summary(row)}")


def _audited(path: Path, settings: NullAuditSettings) -> list[Task]:
    rows = {row["task_id"]: row for row in artifacts.read(path, "tasks").to_pylist()}
    for task_id in settings.tasks:
        if task_id not in rows:
            raise UserError(f"`null_audit.tasks`: {path} has no task {task_id}{nearest(str(task_id), map(str, rows))}")
    held_out = {task_id: row["split"] for task_id, row in rows.items() if row["split"] != TRAIN}
    chosen = [task_id for task_id, split in held_out.items() if split in settings.subsets]
    wanted = settings.tasks or chosen or list(held_out)
    if not wanted:
        raise UserError(f"{path} has no evaluation tasks: name some in `tasks.subsets` or in `null_audit.tasks`")
    columns = ("task_id", "name", "level", "reference_source")
    return [Task(*(rows[task_id][column] for column in columns)) for task_id in sorted(wanted)]


def _measure(
    protocol: str, settings: NullAuditSettings, evaluator: EvaluatorSettings, tasks: list[Task], folder: Path
) -> pl.DataFrame:
    # Repeat 0 is the evaluation that any stage makes of such a candidate.
    numbers = range(1, settings.repeats + 1)
    candidates = [Candidate(task, itself(task), number) for task in tasks for number in numbers]
    budget = settings.timing_budget_s or evaluator.timing_budget_s
    evaluator = evaluator.model_copy(update={"protocol": protocol, "timing_budget_s": budget})
    with progress(f"null audit, {protocol}", len(candidates)) as advance, Evaluator(evaluator) as running:
        evaluations = running.evaluate(candidates, advance)
    log(f"{len(candidates)} repeats: {running.cache.hits} known, {running.cache.misses} measured")
    path = folder / f"{protocol}.parquet"
    rows = [
        {"protocol": protocol, "task_id": candidate.task.task_id, "repeat": candidate.repeat}
        | {name: getattr(evaluation, name) for name in artifacts.EVALUATION_COLUMNS}
        for candidate, evaluation in zip(candidates, evaluations, strict=True)
    ]
    artifacts.write(path, "null_audit", rows, settings=evaluator.model_dump_json())
    return pl.DataFrame(artifacts.read(path, "null_audit"))


def itself(task: Task) -> str:
    """The reference as a candidate."""
    return f"{task.reference_source}\n\nModelNew = Model\n"


def _summary(row: dict[str, float]) -> str:
    text = f"{row['protocol']}: of {row['repeats']} references against themselves {_percent(row['fast_1'])} faster"
    if row["fast_1_confident"] is not None:
        verdict = "within" if row["within_nominal"] else "MORE THAN"
        text += f", {_percent(row['fast_1_confident'])} confidently so: {verdict} the nominal 2.5 %"
    return f"{text}; largest speedup {row['largest_speedup'] or 0:.3g}"


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"
