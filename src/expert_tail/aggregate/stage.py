"""The aggregate stage: checks that artifacts fit together, then writes the tables and figures of the results folder."""

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from expert_tail import artifacts
from expert_tail.aggregate import figures, tables
from expert_tail.aggregate.cells import load_cells, load_names
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.artifacts import ArtifactError
from expert_tail.figure_style import save
from expert_tail.progress import log
from expert_tail.results import rounded, write_table
from expert_tail.select.stage import AGAIN, load, refuse
from expert_tail.time_experts.verdict import NOT_WINNABLE

_ROLLOUTS = ["step", "task_id", "candidate_sha256", "status", "speedup", "speedup_low", "reward", "entropy"]


def run(
    settings: AggregateSettings,
    tasks: Path,
    samples: list[Path],
    evaluations: list[Path],
    logprobs: list[Path],
    selections: list[Path],
    rollouts: Path,
    output: Path,
    headroom: Sequence[Path] = (),
) -> None:
    """Write the tables and figures to the folder `output`, each file whole or not at all.

    The four lists hold one file per subset and seed, at `.../{subset}/seed={seed}.parquet`; `headroom` marks tasks. Raises `ArtifactError`
    with the file and the key where artifacts are damaged or do not fit together, `UserError` where a file is missing
    from a list.
    """
    names = load_names(tasks, headroom)
    all_samples, picks = load_cells(samples, evaluations, logprobs, selections)
    refuse(all_samples.join(names, on="task_id", how="anti"), ["task_id"], f"{tasks} lacks", f"; {AGAIN}")
    training = load(rollouts, "rollouts", _ROLLOUTS)
    if training.is_empty():
        raise ArtifactError(f"{rollouts} has no rollouts; {AGAIN}")

    unwinnable = _unwinnable(all_samples, names)
    strategies = rounded(tables.strategies(picks, settings)).join(unwinnable, on="subset", maintain_order="left")
    scaling = rounded(tables.scaling(all_samples, settings)).join(unwinnable, on="subset", maintain_order="left")
    results = {
        "table1": strategies,
        "table2": scaling,
        "table3": rounded(tables.headline(picks, all_samples, names)),
        "table5": rounded(tables.training(training, _checkpoints(rollouts), settings)),
        "table8": rounded(tables.best_of_k(all_samples, names, settings)),
    }
    for name, table in results.items():
        write_table(table, output / f"{name}.csv")
    save(figures.scaling(scaling, settings.confidence), output / "figure3")
    save(figures.strategies(strategies, settings.confidence), output / "figure4")
    log(f"aggregate: {len(results)} tables and 2 figures of {all_samples.height} samples -> {output}")


def _unwinnable(samples: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """How many tasks of each subset have nothing to be won."""
    tasks = samples.select("subset", "task_id").unique().join(names, on="task_id")
    return tasks.group_by("subset").agg(n_not_winnable=(pl.col("headroom") == NOT_WINNABLE).sum())


def _checkpoints(rollouts: Path) -> list[int]:
    """After how many updates an adapter was kept, as training noted it in its settings beside the rollouts."""
    return json.loads(artifacts.notes(rollouts).get("settings", "{}")).get("checkpoints", [])
