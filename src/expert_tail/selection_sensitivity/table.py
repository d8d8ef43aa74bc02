"""The table of sensitivity: every strategy under each surprisal, scorer, treatment of duplicates and regime.

What differs between rows of one set, regime and seeds is the choice alone: they are of the same samples and verdicts, and
their intervals are of the same bootstrap resamples, those of table 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from expert_tail.aggregate import statistics, tables
from expert_tail.aggregate.regimes import ALL, REGIMES, regimes
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.aggregate.statistics import Floats, Interval
from expert_tail.select.strategies import STRATEGIES, SURPRISAL, select

BASE, SAMPLER = "base", "rlvr"
DIFFERENCE = "surprisal-minus-confidence"
METRICS = ("fast_1", "fast_1_confident", "mean_speedup")
Row = dict[str, Any]
COLUMNS = [
    *("set", "regime", "seeds", "scorer", "surprisal", "duplicates", "strategy"),
    *(f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")),
    *("median_speedup", "evaluations_used", "n_tasks", "n_seeds"),
]
_CELL = ["subset", "task_id", "seed"]
_KIND = ["scorer", "surprisal", "duplicates"]


def sensitivity(
    samples: pl.DataFrame,
    scores: Mapping[str, pl.DataFrame],
    sets: Mapping[str, Sequence[str]],
    settings: AggregateSettings,
) -> pl.DataFrame:
    """One row a set of tasks, regime, seeds, scorer, kind of surprisal, treatment of duplicates and strategy.

    `samples` is what `loading.scored_samples` gives, under the checkpoint that drew them, which is the scorer `rlvr`.
    `scores` has further scorers by name: subset, task_id, seed, sample, nll, nll_mean of samples of some subsets and
    seeds. Where a scorer has fewer seeds than there are, all scorers are compared on those too (column seeds). The
    strategy `surprisal-minus-confidence` is their paired difference.

    Without duplicates a candidate is one row: its sample of the lowest index, with that sample's surprisal. Candidates are
    told apart by candidate_sha256: other tokens (blanks, comments) can make the same candidate, and have another surprisal.
    Ties in surprisal go to the lowest sample index, as in `select.strategies`.
    """
    drawn = samples.select(*_CELL, "sample", "candidate_sha256", "status", "speedup", "speedup_low")
    own = samples.select(*_CELL, "sample", "nll", "nll_mean")
    scorers = {SAMPLER: own, **scores}
    picks = pl.concat([_picks(drawn, scored, name) for name, scored in scorers.items()])
    of_task = regimes(samples)
    rows: list[Row] = []
    for name, subsets in sets.items():
        for seeds in _coverages(picks, subsets):
            for regime in REGIMES:
                tasks = of_task.filter(pl.col("subset").is_in(list(subsets)))
                if regime != ALL:
                    tasks = tasks.filter(pl.col("regime") == regime)
                chosen = picks.join(tasks, on=["subset", "task_id"], how="semi").filter(pl.col("seed").is_in(seeds))
                for kind, of_kind in _complete(chosen, tasks.height * len(seeds)):
                    where = {"set": name, "regime": regime, "seeds": " ".join(map(str, seeds))}
                    rows += _rows(where | kind, of_kind, settings)
    return pl.DataFrame(rows, infer_schema_length=None).select(COLUMNS)


def _picks(drawn: pl.DataFrame, scored: pl.DataFrame, scorer: str) -> pl.DataFrame:
    """What every strategy picks in each (task, seed) that the scorer has, by each surprisal, with and without duplicates."""
    joined = drawn.join(scored, on=[*_CELL, "sample"], how="inner", maintain_order="left")
    once = joined.sort("sample").unique([*_CELL, "candidate_sha256"], keep="first", maintain_order=True)
    rows = [
        dict(zip(_CELL, key, strict=True))
        | {"scorer": scorer, "surprisal": kind, "duplicates": duplicates, "strategy": strategy}
        | select(of_cell, strategy, kind)
        for duplicates, chosen in (("kept", joined), ("dropped", once))
        for key, of_cell in chosen.group_by(_CELL, maintain_order=True)
        for kind in SURPRISAL
        for strategy in STRATEGIES
    ]
    return pl.DataFrame(rows, infer_schema_length=None).drop("samples")


def _coverages(picks: pl.DataFrame, subsets: Sequence[str]) -> list[list[int]]:
    """Lists of seeds under which scorers are compared: those of every scorer that has all these subsets, each list once."""
    seeds: dict[tuple[int, ...], None] = {}
    for _, of_scorer in picks.group_by("scorer", maintain_order=True):
        found = [set(of_scorer.filter(pl.col("subset") == subset)["seed"]) for subset in subsets]
        if common := set.intersection(*found):
            seeds[tuple(sorted(common))] = None
    return [list(each) for each in sorted(seeds, key=lambda each: (-len(each), each))]


def _complete(picks: pl.DataFrame, cells: int) -> Iterator[tuple[Row, pl.DataFrame]]:
    """The picks of each kind that has all the tasks and seeds."""
    for key, of_kind in picks.group_by(_KIND, maintain_order=True):
        if of_kind.height == cells * len(STRATEGIES) > 0:
            yield dict(zip(_KIND, key, strict=True)), of_kind


def _rows(where: Row, picks: pl.DataFrame, settings: AggregateSettings) -> list[Row]:
    picks = picks.with_columns(subset=pl.lit(where["set"]))
    table = tables.strategies(picks, settings)
    rows = [where | row for row in table.select(set(table.columns) & set(COLUMNS)).iter_rows(named=True)]
    return [*rows, where | _difference(picks, where["set"], settings)]


def _difference(picks: pl.DataFrame, name: str, settings: AggregateSettings) -> Row:
    """Surprisal-guided less confidence-guided, with intervals of the resamples that `tables.strategies` draws."""
    tasks, seeds = picks["task_id"].n_unique(), picks["seed"].n_unique()
    rng = statistics.generator(settings.seed, "strategies", name)
    weights_BTS = statistics.hierarchical_weights(tasks, seeds, settings.bootstrap, rng)
    row: Row = {"strategy": DIFFERENCE, "median_speedup": None, "evaluations_used": None}
    for metric in METRICS:
        column = metric.removeprefix("mean_")
        differences_TS = _grid(picks, "surprisal-guided", column) - _grid(picks, "confidence-guided", column)
        mean, draws = float(differences_TS.mean()), np.einsum("bts,ts->b", weights_BTS, differences_TS)
        interval = statistics.percentile_interval(draws, mean, settings.confidence)
        if metric != "mean_speedup" and np.ptp(differences_TS) == 0:
            interval = unanimous_difference(mean, tasks, settings.confidence)
        row |= {metric: mean, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
    return row | {"n_tasks": tasks, "n_seeds": seeds}


def _grid(picks: pl.DataFrame, strategy: str, column: str) -> Floats:
    of_strategy = picks.filter(pl.col("strategy") == strategy).sort("task_id", "seed")
    return of_strategy[column].to_numpy().reshape(of_strategy["task_id"].n_unique(), -1)


def unanimous_difference(difference: float, tasks: int, confidence: float) -> Interval:
    """Interval of a paired difference of rates that is the same on all tasks: −1, 0 or 1. Resampling reports none.

    A difference of rates is at most the rate of discordant tasks, whose Wilson interval over the tasks it takes: about 0
    it reaches as far to both sides as that rate may.
    """
    low, high = map(float, statistics.wilson_interval(abs(difference) * tasks, tasks, confidence))
    if difference == 0:
        return Interval(-high, high)
    return Interval(low, high) if difference > 0 else Interval(-high, -low)
