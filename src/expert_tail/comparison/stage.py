"""Read samples, selections, adaptation runs and probes; write the tables, statistics.json and figures of the comparison."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from expert_tail.adapt.settings import AdaptationSettings
from expert_tail.adaptation_tables.probes import probe
from expert_tail.adaptation_tables.steps import load_probe, load_steps, load_verdicts, place
from expert_tail.aggregate.cells import load_cells, load_names
from expert_tail.aggregate.loading import cells_of
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.aggregate.task_sets import pooled, task_sets
from expert_tail.artifacts import replacing
from expert_tail.comparison import accounts, figures, loops, summary, surprisal, tables, teaser
from expert_tail.comparison.adapted import Adapted, adapted
from expert_tail.comparison.settings import ComparisonSettings
from expert_tail.errors import UserError
from expert_tail.figure_style import save
from expert_tail.policy.settings import PromptSettings
from expert_tail.progress import log, progress
from expert_tail.results import SIGNIFICANT, write_table
from expert_tail.select.stage import AGAIN, load, refuse
from expert_tail.tasks import TRAIN

Row = dict[str, Any]
COLUMNS = {
    "table4": tables.METHOD_COLUMNS,
    "table6": surprisal.LENGTH_COLUMNS,
    "table7": surprisal.QUARTILE_COLUMNS,
    "table9": tables.ISOLATED_COLUMNS,
    "table10": tables.BUDGET_COLUMNS,
    "table11": tables.TASK_COLUMNS,
    "table12": tables.REGIME_COLUMNS,
    "adaptation_by_task": tables.BY_TASK_COLUMNS,
}
_PROBED = (("all", "bottom_quartile"), ("sum", "tail"))  # what figure 6 shows


def run(
    settings: AggregateSettings,
    comparison: ComparisonSettings,
    adaptation: AdaptationSettings,
    prompt: PromptSettings,
    tasks: Path,
    samples: list[Path],
    evaluations: list[Path],
    logprobs: list[Path],
    selections: list[Path],
    rollouts: Path,
    runs: Path,
    probes: list[Path],
    probed: list[Path],
    output: Path,
    policy: Path | None = None,
    headroom: Sequence[Path] = (),
) -> None:
    """Write tables 4, 6, 7, 9 to 12, adaptation_by_task.csv, statistics.json and figures 1, 2, 5, 6, 7 to the folder `output`.

    The first four lists hold one file per subset and seed, at `.../{subset}/seed={seed}.parquet`; `runs` holds the runs that
    `adaptation` wants, `rollouts` are those of training, `probes` files …/RUN/step=N.parquet, and `probed` the evaluations of
    their samples. `policy` is the folder whose tokenizer counts the tokens of prompts; without it token counts of Best-of-N are
    empty. Raises `ArtifactError` or `UserError` with the file where something is missing, damaged or does not fit.
    """
    names = load_names(tasks, headroom)
    all_samples, picks = load_cells(samples, evaluations, logprobs, selections, of_evaluations=["evaluator"])
    refuse(all_samples.join(names, on="task_id", how="anti"), ["task_id"], f"{tasks} lacks", f"; {AGAIN}")
    _check_seeds(all_samples)
    budget = int(all_samples.group_by("task_id", "seed").len()["len"].min())  # type: ignore[arg-type]
    made = _load_runs(adaptation, runs, tasks, budget, settings)
    _warn_of_other_evaluators(all_samples, made)
    prompts = _prompt_tokens(tasks, all_samples, policy, prompt)
    taken = accounts.noted(samples, evaluations)
    sets = task_sets(cells_of(samples), comparison.groups)

    found: dict[str, list[Row]] = {name: [] for name in COLUMNS}
    by_set: Row = {}
    with progress("comparison", len(sets)) as advance:
        for name, subsets in sets.items():
            rows, chosen = pooled(all_samples, name, sets), pooled(picks, name, sets)
            on_set = [one for one in made if one.is_comparable and subsets == (one.run.subset,)]
            of_set = {
                "table4": tables.methods(rows, chosen, on_set, prompts, adaptation.patience, settings),
                "table6": surprisal.length_control(rows, settings),
                "table7": surprisal.quartiles(rows, settings),
                "table10": tables.equal_budget(rows, on_set, settings),
                "table11": tables.per_task(rows, on_set, names, adaptation.patience, settings),
                "table12": tables.regime(rows, on_set, names, name not in subsets, adaptation.patience, settings),
            }
            spent = pooled(taken, name, sets)
            by_set[name] = summary.of_set(rows, chosen, of_set["table4"], of_set["table6"], prompts, spent)
            for table, of_table in of_set.items():
                found[table] += of_table
            advance()
    found["table9"] = tables.isolated(made, all_samples, names)
    found["adaptation_by_task"] = tables.by_task(made, settings)
    made_tables = {name: _table(rows, COLUMNS[name]) for name, rows in found.items()}
    correlations = _probe(probes, probed, settings)

    for name, made_table in made_tables.items():
        write_table(made_table, output / f"{name}.csv")
    statistics = {
        "settings": settings.model_dump(),
        "sets": by_set,
        "transfers": summary.transfers(made, all_samples, budget, adaptation.patience, settings),
        "compute_of_adaptation": accounts.adaptation(made),
    }
    with replacing(output / "statistics.json") as temporary:
        temporary.write_text(json.dumps(_rounded(statistics), indent=1, allow_nan=False) + "\n")
    first = next(iter(sets))
    save(teaser.draw(made_tables["table4"], first, settings.confidence), output / "figure1")
    numbers = loops.numbers(load(rollouts, "rollouts", loops.ROLLOUTS), all_samples, made)
    save(loops.draw(numbers), output / "figure2")
    save(figures.trajectories(made, made_tables["table4"], settings.confidence), output / "figure5")
    save(figures.correlation(correlations, settings.confidence), output / "figure6")
    save(figures.regime(made_tables["table12"], settings.confidence), output / "figure7")
    log(
        f"comparison: {len(made_tables)} tables and 5 figures of {all_samples.height} samples and {len(made)} runs -> {output}"
    )


def _check_seeds(samples: pl.DataFrame) -> None:
    """Groups pool subsets, which takes the same seeds of all."""
    seeds = {subset: sorted(of) for subset, of in samples.group_by("subset").agg(pl.col("seed").unique()).rows()}
    first = min(seeds)
    for subset, of in sorted(seeds.items()):
        if of != seeds[first]:
            raise UserError(f"subset {subset} has seeds {of}, and {first} has {seeds[first]}; give the same of all")


def _warn_of_other_evaluators(samples: pl.DataFrame, made: Sequence[Adapted]) -> None:
    judged_by = frozenset(samples["evaluator"].unique())
    if others := [one.name for one in made if one.arm(0).evaluators != judged_by]:
        log(
            f"comparison: WARNING: another evaluator than that of the samples judged {', '.join(others)}: their differences "
            "(where same_evaluator is 0) hold that of the evaluators; `adaptation.rerun_on_evaluator_change` adapts again"
        )


def _load_runs(
    adaptation: AdaptationSettings, runs: Path, tasks: Path, budget: int, settings: AggregateSettings
) -> list[Adapted]:
    split = dict(load(tasks, "tasks", ["task_id", "split"]).rows())
    found = []
    for name in adaptation.wanted:
        one = adaptation.runs[name]
        subset = one.subset or split.get(one.task)
        steps = load_steps(runs / name, one)
        found.append(adapted(name, one, None if subset == TRAIN else subset, steps, budget, adaptation, settings))
    return found


def _prompt_tokens(
    tasks: Path, samples: pl.DataFrame, policy: Path | None, prompt: PromptSettings
) -> accounts.PromptTokens:
    if policy is None:
        return {}
    from transformers import AutoTokenizer

    from expert_tail.policy.prompt import prompt_tokens

    tokenizer = AutoTokenizer.from_pretrained(policy, local_files_only=True)
    wanted = set(samples["task_id"].unique())
    sources = load(tasks, "tasks", ["task_id", "reference_source"]).rows()
    return {task: len(prompt_tokens(tokenizer, source, prompt)) for task, source in sources if task in wanted}


def _probe(probes: list[Path], probed: list[Path], settings: AggregateSettings) -> pl.DataFrame:
    """Rows of probes.csv that figure 6 shows, of every run and step."""
    verdicts = load_verdicts(probed)
    rows = []
    for path in sorted(probes, key=place):
        rows += probe(*place(path), load_probe(path, verdicts), settings, *_PROBED)
    return pl.DataFrame(rows, infer_schema_length=None)


def _table(rows: list[Row], columns: list[str]) -> pl.DataFrame:
    if not rows:
        return pl.DataFrame(schema=columns)
    return pl.DataFrame([{name: row.get(name) for name in columns} for row in rows], infer_schema_length=None)


def _rounded(value: Any) -> Any:
    """Every number to the significant digits of the tables."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.{SIGNIFICANT}g}") if isinstance(value, float) else value
