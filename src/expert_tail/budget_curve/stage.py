"""Write the table and the figure of the deployable pipeline."""

from pathlib import Path

from expert_tail.aggregate.loading import cells_of, scored_samples
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.aggregate.task_sets import task_sets
from expert_tail.budget_curve.figure import draw
from expert_tail.budget_curve.table import budget_curve
from expert_tail.comparison.settings import ComparisonSettings
from expert_tail.figure_style import save
from expert_tail.progress import log
from expert_tail.results import write_table
from expert_tail.select.settings import SelectSettings


def run(
    settings: AggregateSettings,
    comparison: ComparisonSettings,
    select: SelectSettings,
    evaluations: list[Path],
    logprobs: list[Path],
    output: Path,
) -> None:
    """Write budget_curve.csv and figure_budget_curve to the folder `output`, each whole or not at all.

    Both lists hold one file per subset and seed, at `.../{subset}/seed={seed}.parquet`. Raises `ArtifactError` with the
    file and the key where artifacts are damaged or do not fit together, `UserError` where a file is missing from a list.
    """
    cells = cells_of(evaluations)
    samples = scored_samples(cells, cells_of(logprobs))
    sets = task_sets(cells, comparison.groups)
    table = write_table(budget_curve(samples, sets, settings), output / "budget_curve.csv")
    save(draw(table, select.surprisal, settings.confidence), output / "figure_budget_curve")
    log(f"budget_curve: {len(sets)} sets of tasks, {samples.height} samples -> {output}/budget_curve.csv")
