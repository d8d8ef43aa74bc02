"""Load what was sampled: samples with their verdict and surprisal, and what each strategy picked, over subsets and seeds."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from expert_tail.aggregate.loading import cells_of, check_grid, refuse_what_is_not_finite
from expert_tail.errors import UserError
from expert_tail.evaluator.evaluation import STATUSES
from expert_tail.progress import progress
from expert_tail.select.stage import AGAIN, KEYS, join_samples, load, refuse
from expert_tail.success import FAST_1, FAST_1_CONFIDENT, if_correct
from expert_tail.time_experts.verdict import UNKNOWN

_MEASURED = ["speedup", "speedup_low", "speedup_high", "kernel_ms", "baseline_ms", "roofline_ms"]
_PICKS = ["task_id", "seed", "strategy", "samples", "fast_1", "fast_1_confident", "speedup", "evaluations_used"]


def load_names(tasks: Path, headroom: Sequence[Path]) -> pl.DataFrame:
    """Tasks with their name and headroom: the verdict on each, unknown where it was not measured."""
    names = load(tasks, "tasks", ["task_id", "name"]).unique("task_id", keep="first", maintain_order=True)
    schema = pl.Schema({"task_id": pl.Int32, "headroom": pl.String})
    found = [load(path, "headroom", ["task_id", "verdict"]).rename({"verdict": "headroom"}) for path in headroom]
    verdicts = pl.concat([pl.DataFrame(schema=schema), *found]).unique("task_id")
    return names.join(verdicts, on="task_id", how="left", maintain_order="left").with_columns(
        pl.col("headroom").fill_null(UNKNOWN)
    )


def load_cells(
    samples: list[Path],
    evaluations: list[Path],
    logprobs: list[Path],
    selections: list[Path],
    *,
    of_samples: Sequence[str] = (),
    of_evaluations: Sequence[str] = (),
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The frames `samples` and `picks` of `tables`, over all subsets and seeds; `samples` has nll and nll_mean, too.

    It also has the columns that `of_samples` and `of_evaluations` name of these files. The four lists hold one file per
    subset and seed, at `.../{subset}/seed={seed}.parquet`. Raises `ArtifactError` with the file and the key where artifacts
    are damaged or do not fit together, `UserError` where a list lacks a file.
    """
    files = {"samples": cells_of(samples), "evaluations": cells_of(evaluations)}
    files |= {"logprobs": cells_of(logprobs), "selections": cells_of(selections)}
    every = sorted(set().union(*files.values()))
    if not every:
        raise UserError("no samples were given")
    for kind, cells in files.items():
        for subset, seed in every:
            if (subset, seed) not in cells:
                raise UserError(
                    f"subset {subset}, seed {seed} has no file of {kind}, while others have one; give all four"
                )

    loaded, picked = [], []
    with progress("reading samples", len(every)) as advance:
        for cell in every:
            paths = {kind: cells[cell] for kind, cells in files.items()}
            kept, picks = _load_cell(cell, **paths, of_samples=of_samples, of_evaluations=of_evaluations)
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
    cell: tuple[str, int],
    samples: Path,
    evaluations: Path,
    logprobs: Path,
    selections: Path,
    of_samples: Sequence[str],
    of_evaluations: Sequence[str],
) -> tuple[pl.DataFrame, pl.DataFrame]:
    subset, seed = cell
    drawn = load(samples, "samples", [*KEYS, "candidate_sha256", "n_tokens", *of_samples])
    refuse(drawn.filter(pl.col("seed") != seed), KEYS, f"{samples} has", f"under seed {seed}; {AGAIN}")
    verdicts = load(evaluations, "evaluations", [*KEYS, "candidate_sha256", "status", *_MEASURED, *of_evaluations])
    verdicts = verdicts.rename({"candidate_sha256": "evaluated"})
    scores = load(logprobs, "logprobs", [*KEYS, "nll", "nll_mean"])
    joined = join_samples(drawn, samples, verdicts, evaluations)
    stale = joined.filter(pl.col("candidate_sha256") != pl.col("evaluated"))
    refuse(stale, KEYS, f"{evaluations}: the candidate of", f"is not that of {samples}; {AGAIN}")
    known = pl.col("status").is_in(STATUSES).fill_null(False)
    refuse(joined.filter(~known), [*KEYS, "status"], f"{evaluations}:", f"is not a known status; {AGAIN}")
    joined = join_samples(joined, samples, scores, logprobs)
    refuse_what_is_not_finite(joined, logprobs)

    chosen = load(selections, "selections", _PICKS)
    refuse(
        chosen.filter(pl.col("seed") != seed), ["task_id", "seed"], f"{selections} has", f"under seed {seed}; {AGAIN}"
    )
    key = ["task_id", "seed", "strategy"]
    refuse(chosen.filter(chosen.select(key).is_duplicated()), key, f"{selections} has", f"twice; {AGAIN}")
    return _compact(subset, joined, [*of_samples, *of_evaluations]), _with_surprisal(
        subset, chosen, joined, selections, samples
    )


def _compact(subset: str, joined: pl.DataFrame, more: Sequence[str]) -> pl.DataFrame:
    """One row a sample at a few dozen bytes: millions of them stay in memory at once."""
    return joined.select(
        pl.lit(subset).alias("subset"),
        *KEYS,
        pl.col("status").cast(pl.Enum(STATUSES)),
        if_correct("speedup"),
        *_MEASURED[1:],
        FAST_1.alias("fast_1"),
        FAST_1_CONFIDENT.alias("fast_1_confident"),
        pl.col("candidate_sha256").hash().alias("candidate"),
        "n_tokens",
        "nll",
        "nll_mean",
        *more,
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
        .agg(
            pl.col("speedup_low", "speedup_high").mean(),
            pick_nll=pl.col("nll").mean(),
            pick_nll_mean=pl.col("nll_mean").mean(),
        )
    )
    return chosen.join(surprisal, on=key, how="left").select(pl.lit(subset).alias("subset"), pl.all())
