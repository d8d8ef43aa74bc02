"""The select stage: evaluations and log-probs of one subset and seed in, one row per task and strategy out."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from expert_tail import artifacts
from expert_tail.artifacts import ArtifactError
from expert_tail.progress import log
from expert_tail.select.settings import SelectSettings
from expert_tail.select.strategies import SURPRISAL, select
from expert_tail.success import CORRECT
from expert_tail.tasks.stage import tasks_of

KEYS = ["task_id", "seed", "sample"]
AGAIN = "remove the file and run again"


def run(settings: SelectSettings, evaluations: Path, logprobs: Path, tasks: Path, subset: str, output: Path) -> None:
    """Write the selections among the samples of a subset's tasks, sorted by task, seed and strategy.

    Raises `ArtifactError` where the two files do not hold the same samples, where a task has no samples at all, or
    where a correct sample has no speedup or surprisal to go by.
    """
    wanted_ids = sorted(task.task_id for task in tasks_of(tasks, subset))
    verdicts = load(evaluations, "evaluations", [*KEYS, "status", "speedup", "speedup_low"])
    scores = load(logprobs, "logprobs", [*KEYS, "nll", "nll_mean"])
    joined = join_samples(verdicts, evaluations, scores, logprobs)
    _check_correct(joined, evaluations, "speedup", pl.col("speedup").is_finite())
    _check_correct(joined, logprobs, SURPRISAL[settings.surprisal], pl.col(SURPRISAL[settings.surprisal]).is_finite())
    if absent := sorted(set(wanted_ids) - set(joined["task_id"].unique())):
        raise ArtifactError(f"{evaluations} has no samples of task {absent[0]}; {AGAIN}")

    rows = []
    wanted = joined.filter(pl.col("task_id").is_in(wanted_ids))
    for (task_id, seed), samples in wanted.group_by("task_id", "seed"):
        for strategy in settings.strategies:
            picked = select(samples, strategy, settings.surprisal)
            rows.append({"task_id": task_id, "seed": seed, "strategy": strategy, **picked})
    rows.sort(key=lambda row: (row["task_id"], row["seed"], row["strategy"]))
    artifacts.write(output, "selections", rows, settings=settings.flags("select"))
    log(
        f"select: {len(settings.strategies)} strategies on {len(wanted_ids)} tasks, {wanted.height} samples -> {output}"
    )


def load(path: Path, kind: str, columns: list[str]) -> pl.DataFrame:
    """The named columns of an artifact; other columns stay on disk."""
    return pl.DataFrame(artifacts.read(path, kind, columns))


def join_samples(left: pl.DataFrame, left_path: Path, right: pl.DataFrame, right_path: Path) -> pl.DataFrame:
    """Join two artifacts one to one on (task, seed, sample), in the order of the left one.

    Raises `ArtifactError` with the first key that is there twice in a file, or in one file and not in the other.
    """
    for rows, path in ((left, left_path), (right, right_path)):
        refuse(rows.filter(rows.select(KEYS).is_duplicated()), KEYS, f"{path} has", f"twice; {AGAIN}")
    for rows, path, others, other_path in ((left, left_path, right, right_path), (right, right_path, left, left_path)):
        alone = rows.join(others, on=KEYS, how="anti")
        refuse(alone, KEYS, f"{other_path} lacks", f"of {path}; remove both files and run again")
    return left.join(right, on=KEYS, how="left", maintain_order="left")


def refuse(rows: pl.DataFrame, keys: Sequence[str], before: str, after: str) -> None:
    """Raise an `ArtifactError` if there are rows: `before`, the keys of the first of them, `after`."""
    if not rows.is_empty():
        first = rows.select(keys).sort(keys).row(0, named=True)
        named = ", ".join(f"{key.removesuffix('_id')} {value}" for key, value in first.items())
        raise ArtifactError(f"{before} {named} {after}")


def _check_correct(samples: pl.DataFrame, path: Path, column: str, usable: pl.Expr) -> None:
    bad = samples.filter(CORRECT & ~usable.fill_null(False))
    refuse(bad, KEYS, f"{path}:", f"is correct but has no usable {column}; {AGAIN}")
