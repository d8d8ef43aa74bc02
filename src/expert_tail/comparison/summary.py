"""statistics.json: every test and summary of the comparison, by set of tasks. What is not defined is null, with a reason."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from expert_tail.aggregate.regimes import HIGH_STD, LOW_STD
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.comparison import accounts
from expert_tail.comparison.adapted import FRESH, IN_BATCH, START, Adapted, choices
from expert_tail.comparison.paired import compare, head_to_head
from expert_tail.comparison.rates import FAST, Arm, difference, interval
from expert_tail.comparison.surprisal import logprob_spread
from expert_tail.comparison.tables import EQUIVALENT_COLUMNS
from expert_tail.select.strategies import STRATEGIES
from expert_tail.success import CORRECT

Row = dict[str, Any]
GUIDED = "surprisal-guided"
OPPONENTS = ("confidence-guided", "random-correct")
_RHO = ("rho", "rho_low", "rho_high", "null_low", "null_high", "p_permutation", "p_independent", "reason")


def of_set(
    samples: pl.DataFrame,
    picks: pl.DataFrame,
    methods: list[Row],
    length_control: list[Row],
    prompts: accounts.PromptTokens,
    taken: pl.DataFrame,
) -> Row:
    """On one set of tasks; `methods` and `length_control` are the rows of its tables 4 and 6, `taken` of `accounts.noted`."""
    there = [name for name in STRATEGIES if name in picks["strategy"].unique()]
    spread = logprob_spread(samples)
    return {
        "tasks": samples["task_id"].unique().sort().to_list(),
        "seeds": samples["seed"].unique().sort().to_list(),
        "samples": samples.height,
        "correct_samples": samples.filter(CORRECT).height,
        "comparisons": [compare(picks, GUIDED, name) for name in OPPONENTS if {GUIDED, name} <= set(there)],
        "head_to_head": head_to_head(picks, there),
        "spearman": [{name: row[name] for name in ("ranks", "analysis", "surprisal", *_RHO)} for row in length_control],
        "logprob_spread": {
            "above_nats": HIGH_STD,
            "below_nats": LOW_STD,
            "regimes": {name: int((spread["variance_regime"] == name).sum()) for name in ("high", "between", "low")},
            "tasks": spread.to_dicts(),
        },
        "equivalent_k": [
            {name: row.get(name) for name in ("method", "run", "chosen_by", "reported_on", *FAST, *EQUIVALENT_COLUMNS)}
            for row in methods
            if row["method"] != "best-of-n"
        ],
        "compute": accounts.best_of_n(samples, prompts, taken),
    }


def transfers(
    runs: Sequence[Adapted], samples: pl.DataFrame, budget: int, patience: int, settings: AggregateSettings
) -> list[Row]:
    """Runs that start from another run's checkpoint: what it reaches on their tasks before any update there, and how much
    more that is than the rate among Best-of-N's samples of the same tasks (the policy before adaptation).
    """
    rows = []
    for one in runs:
        if one.run.start is None:
            continue
        for choice in choices(one, budget, patience):
            if choice.rule != START or choice.reported_on not in (IN_BATCH, FRESH):
                continue
            row: Row = {"run": one.name, "from": one.run.start.run, "from_step": one.run.start.step}
            row |= {"subset": one.run.subset, "task_id": one.run.task, "reported_on": choice.reported_on}
            found_M = interval(choice.arm, settings, "transfer", one.name, choice.reported_on)
            for metric, rate, found in zip(FAST, choice.arm.rates_M, found_M, strict=True):
                row |= {metric: float(rate), f"{metric}_low": found.low, f"{metric}_high": found.high}
            base = samples.filter(pl.col("task_id").is_in(list(choice.arm.tasks)))
            if base["task_id"].n_unique() < len(choice.arm.tasks):
                rows.append(row | {"delta": None, "reason": "its tasks are not sampled"})
                continue
            arm = Arm.of(base)
            for m, (delta, found) in enumerate(difference(arm, choice.arm, settings, "transfer", one.name)):
                values = {
                    "base": float(arm.rates_M[m]),
                    "delta": delta,
                    "delta_low": found.low,
                    "delta_high": found.high,
                }
                row |= {f"{FAST[m]}_{name}": value for name, value in values.items()}
            rows.append(row | {"same_evaluator": int(arm.evaluators == choice.arm.evaluators)})
    return rows
