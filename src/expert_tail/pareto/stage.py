"""Read samples, verdicts, scores and adaptation runs; write the table and the figure of methods against cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from expert_tail.adapt.settings import AdaptationSettings
from expert_tail.adaptation_tables.steps import load_steps
from expert_tail.aggregate.loading import Cells, cells_of, scored_samples
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.aggregate.task_sets import task_sets
from expert_tail.budget_curve.pipeline import Cell
from expert_tail.comparison.settings import ComparisonSettings
from expert_tail.errors import UserError
from expert_tail.figure_style import save
from expert_tail.pareto.adaptation import Frames, of_run
from expert_tail.pareto.costs import samplings, seconds_per_candidate
from expert_tail.pareto.figure import draw
from expert_tail.pareto.methods import Method, Task, of_samples
from expert_tail.pareto.table import pareto_table
from expert_tail.progress import log
from expert_tail.results import write_table
from expert_tail.select.settings import SelectSettings
from expert_tail.select.stage import AGAIN, KEYS, load, refuse

Tasks = dict[str, dict[int, list[Task]]]  # subset -> task -> its seeds


def run(
    settings: AggregateSettings,
    comparison: ComparisonSettings,
    select: SelectSettings,
    adaptation: AdaptationSettings,
    samples: list[Path],
    evaluations: list[Path],
    logprobs: list[Path],
    runs: Path,
    output: Path,
) -> None:
    """Write pareto.csv and figure_pareto to the folder `output`, each whole or not at all.

    The three lists hold one file per subset and seed; `runs` is the folder of the adaptation runs that `adaptation` wants.
    Raises `ArtifactError` where files are damaged or do not fit together.
    """
    cells = cells_of(evaluations)
    tasks = _tasks(cells_of(samples), cells, cells_of(logprobs))
    steps = {name: load_steps(runs / name, adaptation.runs[name]) for name in adaptation.wanted}
    accounts = [frames["account"] for of_one in steps.values() for frames in of_one]
    per_candidate = seconds_per_candidate(evaluations, accounts)
    # A run that starts from another's checkpoint would be charged nothing for it.
    steps = {name: of_one for name, of_one in steps.items() if adaptation.runs[name].start is None}
    methods = _methods(tasks, task_sets(cells, comparison.groups), adaptation, steps, select, per_candidate)
    table = write_table(pareto_table(methods, settings), output / "pareto.csv")
    save(draw(table), output / "figure_pareto")
    costs = "not known" if per_candidate is None else f"{per_candidate:.2g} s a candidate"
    log(f"pareto: {table.height} methods of {len(methods)} sets, evaluation {costs} -> {output}/pareto.csv")


def _tasks(samples: Cells, evaluations: Cells, logprobs: Cells) -> Tasks:
    scored = scored_samples(evaluations, logprobs)
    for place, path in evaluations.items():
        if place not in samples:
            raise UserError(
                f"{path} has no samples beside it; give the file of subset {place[0]}, seed {place[1]}, too"
            )
        drawn = load(samples[place], "samples", KEYS)
        of_file = scored.filter(pl.col("subset") == place[0], pl.col("seed") == place[1])
        for rows, others, lacking in ((drawn, of_file, path), (of_file, drawn, samples[place])):
            refuse(rows.join(others, on=KEYS, how="anti"), KEYS, f"{lacking} lacks", f"; {AGAIN}")
    costs = {place: samplings(samples[place], logprobs[place]) for place in evaluations}
    tasks: Tasks = {subset: {} for subset, _ in evaluations}
    for (subset, task_id, seed), of_cell in scored.sort("subset", "task_id", "seed", "sample").group_by(
        "subset", "task_id", "seed", maintain_order=True
    ):
        task = Task(of_cell, Cell(of_cell), costs[subset, seed][task_id])
        tasks[subset].setdefault(task_id, []).append(task)
    return tasks


def _methods(
    tasks: Tasks,
    sets: Mapping[str, Sequence[str]],
    adaptation: AdaptationSettings,
    steps: Mapping[str, list[Frames]],
    select: SelectSettings,
    per_candidate: float | None,
) -> dict[str, list[Method]]:
    """All methods by set. A run on a single task is a set of its own, beside the sampling of that task."""
    grids = {name: [row for subset in subsets for row in tasks[subset].values()] for name, subsets in sets.items()}
    runs = {name: adaptation.runs[name] for name in steps}
    single = {row[0].samples["task_id"][0]: [row] for of_subset in tasks.values() for row in of_subset.values()}
    alone = sorted({run.task for run in runs.values() if run.task is not None})
    grids |= {f"task {task_id}": single[task_id] for task_id in alone if task_id in single}
    methods = {name: of_samples(grid, select, per_candidate) for name, grid in grids.items()}
    for name, run in runs.items():
        where = f"task {run.task}" if run.subset is None else run.subset
        methods.setdefault(where, []).extend(of_run(name, run, steps[name], per_candidate))
    return methods
