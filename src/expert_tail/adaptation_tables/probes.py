"""The table of probes: how the surprisal of fixed samples, and its relation to their speedup, moves with adaptation.

Read figure 6 of arXiv 2602.07670 with care: there, "bottom quartile" can mean the samples of the lowest log-probs or each
sample's lowest token log-probs. Both are here: the set `bottom_quartile`, and the surprisal `tail`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from expert_tail.adaptation_tables.correlation import Samples, association, resampled_means, resolved, times_drawn
from expert_tail.aggregate import statistics
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.success import CORRECT, if_correct

Row = dict[str, Any]
SURPRISAL = {"sum": "nll", "mean": "nll_mean", "tail": "nll_tail"}
SETS = ("all", "bottom_quartile", "correct", "within_task")
COLUMNS = [
    *("run", "step", "set", "surprisal", "n_samples", "n_candidates"),
    *("rho", "rho_low", "rho_high", "null_low", "null_high", "p_permutation", "p_independent"),
    *("mean_surprisal", "mean_surprisal_low", "mean_surprisal_high"),
]


def probe(
    run: str,
    step: int,
    samples: pl.DataFrame,
    settings: AggregateSettings,
    sets: Sequence[str] = SETS,
    kinds: Sequence[str] = tuple(SURPRISAL),
) -> list[Row]:
    """Rows of one checkpoint, one for each set of samples and kind of surprisal.

    `samples` has task_id, candidate_sha256, status, speedup, nll, nll_mean, nll_tail. A sample that is not correct has
    speedup 0. The sets: all samples; the quarter of highest surprisal (ties with the least of them included); the correct
    ones; and all again, ranked within their task, which is where selection chooses.
    """
    samples = samples.with_columns(
        speedup=if_correct("speedup"),
        candidate=pl.struct("task_id", "candidate_sha256").rank("dense").cast(pl.Int64),
    )
    return [_row(run, step, which, kind, samples, settings) for which in sets for kind in kinds]


def _row(run: str, step: int, which: str, kind: str, samples: pl.DataFrame, settings: AggregateSettings) -> Row:
    samples = samples.with_columns(surprisal=pl.Series(resolved(samples[SURPRISAL[kind]].to_numpy())))
    if which == "correct":
        samples = samples.filter(CORRECT)
    elif which == "bottom_quartile":
        least = samples["surprisal"].top_k(-(-samples.height // 4)).min()
        samples = samples.filter(pl.col("surprisal") >= least)
    chosen = Samples(*(samples[name].to_numpy() for name in ("surprisal", "speedup", "task_id", "candidate")))
    row: Row = {"run": run, "step": step, "set": which, "surprisal": kind, "n_samples": samples.height}
    row["n_candidates"] = samples["candidate"].n_unique()
    rng = statistics.generator(settings.seed, "probes", run, str(step), which, kind)
    found = association(chosen, settings.bootstrap, settings.confidence, rng, within=which == "within_task")
    names = ("rho", "rho_low", "rho_high", "null_low", "null_high", "p_permutation", "p_independent")
    row |= dict(zip(names, found, strict=True))
    return row | _mean(chosen, settings, rng)


def _mean(samples: Samples, settings: AggregateSettings, rng: np.random.Generator) -> Row:
    if len(samples.surprisal_N) == 0:
        return {"mean_surprisal": None, "mean_surprisal_low": None, "mean_surprisal_high": None}
    _, first_C, place_N = np.unique(samples.candidate_N, return_index=True, return_inverse=True)
    times_BC = times_drawn(samples.task_N[first_C], settings.bootstrap, rng)
    draws_B = resampled_means(samples.surprisal_N, np.ones(len(place_N)), place_N, times_BC)
    mean = float(samples.surprisal_N.mean())
    interval = statistics.percentile_interval(draws_B, mean, settings.confidence)
    return {"mean_surprisal": mean, "mean_surprisal_low": interval.low, "mean_surprisal_high": interval.high}
