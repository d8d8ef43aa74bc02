"""The `tasks` artifact: a suite as a table, with the split; and its way back to `Task` objects."""

from pathlib import Path

from expert_tail import artifacts
from expert_tail.errors import UserError
from expert_tail.settings import nearest
from expert_tail.tasks.settings import TaskSettings
from expert_tail.tasks.suite import load_suite, split
from expert_tail.tasks.task import Task


def run(settings: TaskSettings, output: Path) -> None:
    suite = load_suite(settings.source, settings.scale)
    splits = split(suite, settings.subsets)
    rows = [
        {
            "task_id": task.task_id,
            "name": task.name,
            "level": task.level,
            "reference_source": task.reference_source,
            "source_sha256": task.source_sha256,
            "split": splits[task.task_id],
        }
        for task in suite
    ]
    artifacts.write(output, "tasks", rows)


def tasks_of(path: Path, subset: str) -> list[Task]:
    """The tasks of a subset (or `train`) in a `tasks` artifact; an unknown or empty one is a `UserError`."""
    rows = artifacts.read(path, "tasks").to_pylist()
    found = [Task(r["task_id"], r["name"], r["level"], r["reference_source"]) for r in rows if r["split"] == subset]
    if not found:
        raise UserError(
            f"{path} has no tasks in subset `{subset}`{nearest(subset, sorted({r['split'] for r in rows}))}"
        )
    return found
