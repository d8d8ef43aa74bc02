"""The aggregate stage: checks that artifacts fit together, then writes the tables and figures of the results folder."""

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from expert_tail import artifacts
from expert_tail.aggregate import figures, tables
from expert_tail.aggregate.loading import cells_of, check_grid
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.artifacts import ArtifactError, replacing
from expert_tail.errors import UserError
from expert_tail.figure_style import save
from expert_tail.progress import log, progress
from expert_tail.select.stage import AGAIN, KEYS, join_samples, load, refuse
from expert_tail.time_experts.verdict import NOT_WINNABLE, UNKNOWN

_MEASURED = ["speedup", "speedup_low", "speedup_high", "kernel_ms", "baseline_ms", "roofline_ms"]
_PICKS = ["task_id", "seed", "strategy", "samples", "fast_1", "fast_1_confident", "speedup", "evaluations_used"]
_ROLLOUTS = ["step", "task_id", "candidate_sha256", "status", "speedup", "speedup_low", "reward", "entropy"]
_SIGNIFICANT = 5


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
    names = load(tasks, "tasks", ["task_id", "name"]).unique("task_id", keep="first", maintain_order=True)
    names = _marked(names, headroom)
    all_samples, picks = _load_cells(samples, evaluations, logprobs, selections)
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
        with replacing(output / f"{name}.csv") as temporary:
            temporary.write_text(table.write_csv())
    save(figures.scaling(scaling, settings.confidence), output / "figure3")
    save(figures.strategies(strategies, settings.confidence), output / "figure4")
    log(f"aggregate: {len(results)} tables and 2 figures of {all_samples.height} samples -> {output}")


def _marked(names: pl.DataFrame, headroom: Sequence[Path]) -> pl.DataFrame:
    """Add the column headroom: the verdict on each task, unknown where it was not measured."""
    schema = pl.Schema({"task_id": pl.Int32, "headroom": pl.String})
    found = [load(path, "headroom", ["task_id", "verdict"]).rename({"verdict": "headroom"}) for path in headroom]
    verdicts = pl.concat([pl.DataFrame(schema=schema), *found]).unique("task_id")
    return names.join(verdicts, on="task_id", how="left", maintain_order="left").with_columns(
        pl.col("headroom").fill_null(UNKNOWN)
    )


def _unwinnable(samples: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """How many tasks of each subset have nothing to be won."""
    tasks = samples.select("subset", "task_id").unique().join(names, on="task_id")
    return tasks.group_by("subset").agg(n_not_winnable=(pl.col("headroom") == NOT_WINNABLE).sum())


def rounded(table: pl.DataFrame) -> pl.DataFrame:
    """Floats to five significant digits: more than the measurements hold, few enough to read."""
    return table.with_columns(pl.col(pl.Float64).round_sig_figs(_SIGNIFICANT))


def _load_cells(
    samples: list[Path], evaluations: list[Path], logprobs: list[Path], selections: list[Path]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The frames `samples` and `picks` of `tables`, over all subsets and seeds."""
    files = {"samples": cells_of(samples), "evaluations": cells_of(evaluations)}
    files |= {"logprobs": cells_of(logprobs), "selections": cells_of(selections)}
    every = sorted(set().union(*files.values()))
    if not every:
        raise UserError("nothing to aggregate: no samples were given")
    for kind, cells in files.items():
        for subset, seed in every:
            if (subset, seed) not in cells:
                raise UserError(
                    f"subset {subset}, seed {seed} has no file of {kind}, while others have one; give all four"
                )

    loaded, picked = [], []
    with progress("aggregate", len(every)) as advance:
        for cell in every:
            kept, picks = _load_cell(cell, **{kind: cells[cell] for kind, cells in files.items()})
            loaded.append(kept)
            picked.append(picks)
            advance()
    all_samples, all_picks = pl.concat(loaded), pl.concat(picked)
    for name in sorted({subset for subset, _ in every}):
        drawn, chosen = (
            {s: path for (of, s), path in files[kind].items() if of == name} for kind in ("samples", "selections")
        )
        found = all_samples.filter(pl.col("subset") == name).select("task_id", "seed").unique()
        tasks = found.select("task_id").unique()
        check_grid(tasks, found, drawn)
        picks = all_picks.filter(pl.col("subset") == name).select("task_id", "strategy", "seed")
        check_grid(tasks.join(picks.select("strategy").unique(), how="cross"), picks, chosen)
    return all_samples, all_picks


def _load_cell(
    cell: tuple[str, int], samples: Path, evaluations: Path, logprobs: Path, selections: Path
) -> tuple[pl.DataFrame, pl.DataFrame]:
    subset, seed = cell
    drawn = load(samples, "samples", [*KEYS, "candidate_sha256", "n_tokens"])
    refuse(drawn.filter(pl.col("seed") != seed), KEYS, f"{samples} has", f"under seed {seed}; {AGAIN}")
    verdicts = load(evaluations, "evaluations", [*KEYS, "candidate_sha256", "status", *_MEASURED])
    verdicts = verdicts.rename({"candidate_sha256": "evaluated"})
    scores = load(logprobs, "logprobs", [*KEYS, "nll", "nll_mean"])
    joined = join_samples(drawn, samples, verdicts, evaluations)
    stale = joined.filter(pl.col("candidate_sha256") != pl.col("evaluated"))
    refuse(stale, KEYS, f"{evaluations}: the candidate of", f"is not that of {samples}; {AGAIN}")
    known = pl.col("status").is_in(tables.STATUSES).fill_null(False)
    refuse(joined.filter(~known), [*KEYS, "status"], f"{evaluations}:", f"is not a known status; {AGAIN}")
    joined = join_samples(joined, samples, scores, logprobs)

    chosen = load(selections, "selections", _PICKS)
    refuse(
        chosen.filter(pl.col("seed") != seed), ["task_id", "seed"], f"{selections} has", f"under seed {seed}; {AGAIN}"
    )
    key = ["task_id", "seed", "strategy"]
    refuse(chosen.filter(chosen.select(key).is_duplicated()), key, f"{selections} has", f"twice; {AGAIN}")
    return _compact(subset, joined), _with_surprisal(subset, chosen, joined, selections, samples)


def _compact(subset: str, joined: pl.DataFrame) -> pl.DataFrame:
    """One row a sample at a few dozen bytes: millions of them stay in memory at once."""
    correct = pl.col("status") == "correct"
    fast = correct & (pl.col("speedup") > 1).fill_null(False)
    return joined.select(
        pl.lit(subset).alias("subset"),
        *KEYS,
        pl.col("status").cast(pl.Enum(tables.STATUSES)),
        pl.when(correct).then("speedup").otherwise(0.0).alias("speedup"),
        *_MEASURED[1:],
        fast.alias("fast_1"),
        (fast & (pl.col("speedup_low") > 1).fill_null(False)).alias("fast_1_confident"),
        pl.col("candidate_sha256").hash().alias("candidate"),
        "n_tokens",
    )


def _with_surprisal(
    subset: str, chosen: pl.DataFrame, scored: pl.DataFrame, selections: Path, samples: Path
) -> pl.DataFrame:
    key = ["task_id", "seed", "strategy"]
    picked = chosen.select(*key, pl.col("samples").alias("sample")).explode("sample").drop_nulls("sample")
    refuse(picked.join(scored, on=KEYS, how="anti"), KEYS, f"{selections} picks", f"which {samples} lacks; {AGAIN}")
    surprisal = (
        picked.join(scored, on=KEYS, how="left")
        .group_by(key)
        .agg(pick_nll=pl.col("nll").mean(), pick_nll_mean=pl.col("nll_mean").mean())
    )
    return chosen.drop("samples").join(surprisal, on=key, how="left").select(pl.lit(subset).alias("subset"), pl.all())


def _checkpoints(rollouts: Path) -> list[int]:
    """After how many updates an adapter was kept, as training noted it in its settings beside the rollouts."""
    return json.loads(artifacts.notes(rollouts).get("settings", "{}")).get("checkpoints", [])
