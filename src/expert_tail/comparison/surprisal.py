"""How surprisal goes with speedup among the correct samples, which selection chooses from (paper section 5.2).

`samples` has one row a sample of one set of tasks: subset, task_id, seed, status, speedup, fast_1, fast_1_confident,
candidate, n_tokens, nll, nll_mean. Log-prob is minus surprisal: the sum over the tokens, or their mean. Samples of all tasks
in one pool confound two things, a task's own speedups and its own surprisal, so every analysis comes twice: `pooled`, as the
paper has it, and `within_task`, by ranks within each task.

Axes: N samples, B resamples, Q quartiles.
"""

from typing import Any

import numpy as np
import polars as pl

from expert_tail.adaptation_tables.correlation import (
    Association,
    Floats,
    Ints,
    Samples,
    association,
    resampled_means,
    resolved,
    times_drawn,
)
from expert_tail.aggregate import statistics
from expert_tail.aggregate.regimes import regime
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.comparison.rates import FAST
from expert_tail.select.strategies import SURPRISAL
from expert_tail.success import CORRECT

Row = dict[str, Any]
RANKS = ("pooled", "within_task")
_ASSOCIATION = ["rho", "rho_low", "rho_high", "null_low", "null_high", "p_permutation", "p_independent"]
LENGTH_COLUMNS = ["subset", "ranks", "analysis", "surprisal", "n_samples", "n_candidates", "n_tasks"]
LENGTH_COLUMNS += [*_ASSOCIATION, "reason"]
QUARTILE_COLUMNS = ["subset", "ranks", "surprisal", "quartile", "n", "n_candidates"]
QUARTILE_COLUMNS += [column for metric in FAST for column in (metric, f"{metric}_low", f"{metric}_high")]
QUARTILE_COLUMNS += ["mean_speedup", "median_speedup", "mean_tokens", "mean_surprisal"]
_MEASURED = ["speedup", "n_tokens"]


def length_control(samples: pl.DataFrame, settings: AggregateSettings) -> list[Row]:
    """Table 6: Spearman's ρ of log-prob and speedup, the same controlling for length (partial, of ranks), and of length
    and speedup. Length is in tokens. Each has its interval and the range that chance gives (see `correlation`).
    """
    subset, correct = samples["subset"][0], _correct(samples)
    speedup_N, tokens_N = (correct[name].to_numpy().astype(np.float64) for name in _MEASURED)
    rows = []
    for ranks in RANKS:
        analyses: list[tuple[str, str | None, Floats, Floats | None]] = []
        for kind, column in SURPRISAL.items():
            logprob_N = -resolved(correct[column].to_numpy())
            analyses += [("raw", kind, logprob_N, None), ("length_controlled", kind, logprob_N, tokens_N)]
        analyses.append(("length", None, tokens_N, None))
        for analysis, of, x_N, control_N in analyses:
            row: Row = {"subset": subset, "ranks": ranks, "analysis": analysis, "surprisal": of}
            row |= {"n_samples": correct.height, "n_candidates": correct["candidate"].n_unique()}
            row["n_tasks"] = correct["task_id"].n_unique()
            chosen = Samples(x_N, speedup_N, _codes(correct, "task_id"), _codes(correct, "candidate"))
            rng = statistics.generator(settings.seed, "length_control", subset, ranks, analysis, str(of))
            is_within = ranks == "within_task"
            found = association(chosen, settings.bootstrap, settings.confidence, rng, is_within, control_N)
            row |= dict(zip(_ASSOCIATION, found, strict=True))
            rows.append(row | {"reason": _reason(found, chosen)})
    return rows


def _reason(found: Association, samples: Samples) -> str | None:
    """Why there is no ρ."""
    if found.rho is not None:
        return None
    if len(samples.surprisal_N) == 0:
        return "no correct sample"
    if len(np.unique(samples.candidate_N)) < 3:
        return "fewer than three distinct correct candidates"
    for name, values_N in (("log-prob or length", samples.surprisal_N), ("speedup", samples.speedup_N)):
        if np.ptp(values_N) == 0:
            return f"{name} is constant"
    return "nothing varies within a task, or beside the length"


def quartiles(samples: pl.DataFrame, settings: AggregateSettings) -> list[Row]:
    """Table 7: the correct samples in four equal parts by surprisal, 1 the highest.

    Samples of equal surprisal that lie across a boundary are split in proportion, which is the expectation over all ways to
    order them; so n need not be whole. Intervals are for these boundaries: they resample tasks, and candidates within.
    """
    subset, correct = samples["subset"][0], _correct(samples)
    task_N, candidate_N = _codes(correct, "task_id"), _codes(correct, "candidate")
    speedup_N, tokens_N = (correct[name].to_numpy().astype(np.float64) for name in _MEASURED)
    fast = {metric: correct[metric].to_numpy().astype(np.float64) for metric in FAST}
    _, first_C, place_N = np.unique(candidate_N, return_index=True, return_inverse=True)
    rows = []
    for ranks in RANKS:
        for kind, column in SURPRISAL.items():
            surprisal_N = resolved(correct[column].to_numpy())
            rng = statistics.generator(settings.seed, "quartiles", subset, ranks, kind)
            times_BC = times_drawn(task_N[first_C], settings.bootstrap, rng)
            tasks = len(np.unique(task_N))
            if tasks > 1:
                times_BC *= rng.multinomial(tasks, np.full(tasks, 1 / tasks), settings.bootstrap)[
                    :, task_N[first_C] - 1
                ]
            share_NQ = quartile_shares(surprisal_N, task_N if ranks == "within_task" else np.zeros_like(task_N))
            for q, share_N in enumerate(share_NQ.T):
                row: Row = {"subset": subset, "ranks": ranks, "surprisal": kind, "quartile": q + 1}
                row |= {"n": float(share_N.sum()), "n_candidates": len(np.unique(candidate_N[share_N > 0]))}
                for metric, value_N in fast.items():
                    row |= _mean(metric, value_N, share_N, place_N, times_BC, task_N, settings)
                row |= {"mean_speedup": _average(speedup_N, share_N), "median_speedup": _median(speedup_N, share_N)}
                row |= {"mean_tokens": _average(tokens_N, share_N), "mean_surprisal": _average(surprisal_N, share_N)}
                rows.append(row)
    return rows


def quartile_shares(surprisal_N: Floats, strata_N: Ints) -> Floats:
    """`share_NQ`: how much of each sample lies in each quarter of its stratum, from the highest surprisal down."""
    share_NQ = np.zeros((len(surprisal_N), 4))
    for stratum in np.unique(strata_N):
        own = np.flatnonzero(strata_N == stratum)
        _, tie, size = np.unique(-surprisal_N[own], return_inverse=True, return_counts=True)
        end = size.cumsum()
        start, quarter = end - size, len(own) / 4
        for q in range(4):
            overlap = np.minimum(end, (q + 1) * quarter) - np.maximum(start, q * quarter)
            share_NQ[own, q] = (np.maximum(overlap, 0) / size)[tie]
    return share_NQ


def logprob_spread(samples: pl.DataFrame) -> pl.DataFrame:
    """Of each task, the standard deviation (ddof = 1) of the summed log-prob over all its samples, and over the correct
    ones; and which regime the first is in (paper section 5.4).
    """
    return (
        samples.group_by("task_id")
        .agg(logprob_std=pl.col("nll").std(), logprob_std_correct=pl.col("nll").filter(CORRECT).std())
        .with_columns(variance_regime=regime(pl.col("logprob_std")))
        .sort("task_id")
    )


def _correct(samples: pl.DataFrame) -> pl.DataFrame:
    return samples.filter(CORRECT).sort("task_id", "seed", "sample")


def _codes(rows: pl.DataFrame, column: str) -> Ints:
    """Equal values as equal small numbers; a candidate is one of its task."""
    key = ["task_id", column] if column != "task_id" else [column]
    return rows.select(pl.struct(key).rank("dense").cast(pl.Int64)).to_series().to_numpy()


def _mean(
    name: str,
    value_N: Floats,
    share_N: Floats,
    place_N: Ints,
    times_BC: Floats,
    task_N: Ints,
    settings: AggregateSettings,
) -> Row:
    """A mean over the samples, each counted by its share; candidates (`place_N` says which) are drawn `times_BC` times."""
    mean = _average(value_N, share_N)
    if mean is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    draws_B = resampled_means(value_N, share_N, place_N, times_BC)
    of_tasks = (share_N * (task_N == task) for task in np.unique(task_N[share_N > 0]))
    rates_T = np.array([value_N @ share_of_task / share_of_task.sum() for share_of_task in of_tasks])
    found = statistics.proportion_interval(draws_B, mean, rates_T, settings.confidence)
    return {name: mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _average(value_N: Floats, share_N: Floats) -> float | None:
    return float(value_N @ share_N / share_N.sum()) if share_N.sum() > 0 else None


def _median(value_N: Floats, share_N: Floats) -> float | None:
    """Of weighted values: where half of the weight is below; in the middle of the two where exactly half is."""
    if share_N.sum() <= 0:
        return None
    kept = share_N > 0
    order = np.argsort(value_N[kept], kind="stable")
    value, below = value_N[kept][order], share_N[kept][order].cumsum() / share_N.sum()
    first = int(np.searchsorted(below, 0.5 - 1e-12))
    return float(
        (value[first] + value[min(first + 1, len(value) - 1)]) / 2 if abs(below[first] - 0.5) < 1e-12 else value[first]
    )
