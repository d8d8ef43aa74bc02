"""Read scores of several checkpoints, write the table and the figure of sensitivity."""

import re
from pathlib import Path

import polars as pl

from expert_tail.aggregate.loading import Cells, cells_of, scored_samples
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.aggregate.task_sets import task_sets
from expert_tail.artifacts import ArtifactError
from expert_tail.comparison.settings import ComparisonSettings
from expert_tail.errors import UserError
from expert_tail.figure_style import save
from expert_tail.progress import log
from expert_tail.results import write_table
from expert_tail.select.stage import AGAIN, KEYS, load, refuse
from expert_tail.selection_sensitivity.figure import draw
from expert_tail.selection_sensitivity.table import BASE, sensitivity

_SCORES = [*KEYS, "nll", "nll_mean"]


def run(
    settings: AggregateSettings,
    comparison: ComparisonSettings,
    evaluations: list[Path],
    logprobs: list[Path],
    base: list[Path],
    probes: list[Path],
    output: Path,
) -> None:
    """Write selection_sensitivity.csv and figure_selection_sensitivity to the folder `output`, each whole or not at all.

    `evaluations`, `logprobs` and `base` hold one file per subset and seed; `probes` are files …/RUN/step=N.parquet, each of
    the samples of some subset and seed. Raises `ArtifactError` where files do not fit together.
    """
    cells = cells_of(evaluations)
    samples = scored_samples(cells, cells_of(logprobs))
    scores = {BASE: found} if (found := _base(cells_of(base), cells, samples)) is not None else {}
    for path in probes:
        if not re.fullmatch(r"step=\d+\.parquet", path.name):
            raise UserError(f"{path}: expected a file …/RUN/step=N.parquet")
        scores[f"{path.parent.name}/{path.stem}"] = _scores_of(path, "probes", samples)
    table = sensitivity(samples, scores, task_sets(cells, comparison.groups), settings)
    table = write_table(table, output / "selection_sensitivity.csv")
    save(draw(table, settings.confidence), output / "figure_selection_sensitivity")
    log(f"selection_sensitivity: {table.height} rows, {len(scores) + 1} scorers -> {output}/selection_sensitivity.csv")


def _base(base: Cells, cells: Cells, samples: pl.DataFrame) -> pl.DataFrame | None:
    if not base:
        return None
    for (subset, seed), path in cells.items():
        if (subset, seed) not in base:
            raise UserError(
                f"{path} has no log-probs under the base policy; give those of subset {subset}, seed {seed}"
            )
    return pl.concat([_scores_of(path, "logprobs", samples) for path in base.values()])


def _scores_of(path: Path, kind: str, samples: pl.DataFrame) -> pl.DataFrame:
    """The scores of a file, with the subset of its samples; it must have all samples of its tasks and seed."""
    scores = load(path, kind, _SCORES)
    refuse(scores.filter(scores.select(KEYS).is_duplicated()), KEYS, f"{path} has", f"twice; {AGAIN}")
    unusable = scores.filter(~(pl.col("nll").is_finite() & pl.col("nll_mean").is_finite()).fill_null(False))
    refuse(unusable, KEYS, f"{path}:", f"has no usable surprisal; {AGAIN}")
    refuse(
        scores.join(samples, on=KEYS, how="anti"), KEYS, f"{path} has", "which was not evaluated; give its evaluations"
    )
    if scores.is_empty():
        raise ArtifactError(f"{path} has no samples; {AGAIN}")
    named = scores.join(samples.select("subset", *KEYS), on=KEYS, how="left")
    cells = named.select("subset", "seed").unique()
    lacking = samples.join(cells, on=["subset", "seed"], how="semi").join(scores, on=KEYS, how="anti")
    refuse(lacking, KEYS, f"{path} lacks", f"of its subset; {AGAIN}")
    return named
