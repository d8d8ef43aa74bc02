"""Regimes: how much the surprisal of a task's samples varies. Where it hardly does, a choice by surprisal is one by chance.

arXiv 2602.07670 separates tasks whose log-probs have a standard deviation above 1 from those below, and below 0.15. It does
not say of which log-probs. Here: the summed log-probs (nats) of all samples of a task, pooled over seeds, correct or not,
under the checkpoint that drew them. A task so belongs to the same regime under every scorer.
"""

import polars as pl

HIGH_STD, LOW_STD = 1.0, 0.15
ALL = "all"
REGIMES = (ALL, "high", "between", "low")


def regime(std: pl.Expr) -> pl.Expr:
    """high: above `HIGH_STD`; low: below `LOW_STD`, or of a single sample, whose `std` is null; between: neither."""
    named = pl.when(std > HIGH_STD).then(pl.lit("high")).when(std.fill_null(0.0) < LOW_STD).then(pl.lit("low"))
    return named.otherwise(pl.lit("between"))


def regimes(samples: pl.DataFrame) -> pl.DataFrame:
    """Columns subset, task_id, nll_std (ddof = 1; 0 with one sample) and regime of each task.

    `samples` has subset, task_id and nll.
    """
    return (
        samples.group_by("subset", "task_id")
        .agg(nll_std=pl.col("nll").std().fill_null(0.0))
        .with_columns(regime=regime(pl.col("nll_std")))
        .sort("subset", "task_id")
    )
