"""Sampling, selection and adaptation side by side: tables 4 and 9 to 12.

Every function is on one set of tasks: `samples` and `picks` are its rows (see `aggregate.tables`), `runs` the adaptation runs
on exactly these tasks. Rates are fractions in 0..1. Success of Best-of-N at K is that of its best sample; success of a policy
(K = 1, or an adapted checkpoint) is the rate among its samples. Rows of several runs are means over runs that differ in their
seed only, each at the step that the rule chose for it. Where `same_evaluator` is 0, a difference holds that of two evaluators too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from expert_tail.aggregate import tables as aggregate_tables
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.aggregate.statistics import Interval, std_over_seeds
from expert_tail.comparison.accounts import PromptTokens, tokens_per_sample
from expert_tail.comparison.adapted import (
    AT_BUDGET,
    BOA,
    FRESH,
    IN_BATCH,
    Adapted,
    Choice,
    choices,
    cost,
    families,
    joined,
    names_of,
)
from expert_tail.comparison.equivalent_k import equivalent_interval, equivalent_k
from expert_tail.comparison.rates import FAST, Arm, difference, interval
from expert_tail.comparison.surprisal import logprob_spread
from expert_tail.success import CORRECT

Row = dict[str, Any]
BEST_OF_N = "best-of-n"
COVERED = 0.3  # base coverage above which adaptation is said to help (paper, figure 7)
_RATES = [column for metric in FAST for column in (metric, f"{metric}_std", f"{metric}_low", f"{metric}_high")]
_DELTAS = [f"{metric}_{end}" for metric in FAST for end in ("delta", "delta_low", "delta_high")] + ["same_evaluator"]
_RUN = ["run", "objective", "chosen_by", "reported_on"]
METHOD_COLUMNS = ["subset", "method", *_RUN, "k", "step", *_RATES, "rollouts", "tokens", "evaluations_used"]
_EQUIVALENT = ("", "_place", "_low", "_high")
EQUIVALENT_COLUMNS = [f"equivalent_k{of}{end}" for of in ("", "_confident") for end in _EQUIVALENT]
METHOD_COLUMNS += EQUIVALENT_COLUMNS
METHOD_COLUMNS += ["n_tasks", "n_seeds"]
ISOLATED_COLUMNS = ["subset", "task_id", "name", "run", "objective", "seed", "step", "rollouts_to_here"]
ISOLATED_COLUMNS += [column for metric in FAST for column in (metric, f"{metric}_low", f"{metric}_high")]
ISOLATED_COLUMNS += ["is_boa", "is_boa_confident", "base_fast_1", "base_fast_1_confident"]
BY_TASK_COLUMNS = ["run", "objective", "subset", "seed", "reward", "step", "task_id", "n", "is_boa"]
BY_TASK_COLUMNS += [column for metric in FAST for column in (metric, f"{metric}_low", f"{metric}_high")]
BUDGET_COLUMNS = ["subset", "method", "run", "objective", "reported_on", "step", "rollouts", *_RATES, *_DELTAS]
BUDGET_COLUMNS += ["best_of_k_fast_1", "best_of_k_fast_1_confident", "n_tasks", "n_seeds"]
_ARMS = [f"{arm}_{metric}" for metric in FAST for arm in ("base", "adapted")]
TASK_COLUMNS = ["subset", "task_id", "name", "headroom", "run", "objective", "reported_on", "step", *_ARMS, *_DELTAS]
TASK_COLUMNS += ["higher", "winner", "winner_confident", "base_n", "adapted_n"]
REGIME_COLUMNS = ["subset", "task_id", "name", "headroom", "base_correct"]
REGIME_COLUMNS += [f"base_{metric}{end}" for metric in FAST for end in ("", "_low", "_high")]
REGIME_COLUMNS += ["best_of_k_fast_1", "best_of_k_fast_1_confident", "is_covered"]
REGIME_COLUMNS += ["logprob_std", "logprob_std_correct", "variance_regime", "run", "objective", "reported_on"]
REGIME_COLUMNS += [f"adapted_{metric}" for metric in FAST] + _DELTAS + ["n_tasks", "n_seeds"]


def methods(
    samples: pl.DataFrame,
    picks: pl.DataFrame,
    runs: Sequence[Adapted],
    prompts: PromptTokens,
    patience: int,
    settings: AggregateSettings,
) -> list[Row]:
    """Table 4: every way to spend the budget, what it reaches, what it takes, and its equivalent K (see `equivalent_k`).

    rollouts and tokens are of all tasks together, for one seed; evaluations_used are the samples of a task that are timed to
    choose. fast_1_confident is the rate of confident success of the same pick or step; the rule
    `best-of-adaptation-by-confident` chooses by it. std is over seeds.
    """
    subset, tasks, seeds = samples["subset"][0], samples["task_id"].n_unique(), samples["seed"].n_unique()
    curve = aggregate_tables.scaling(samples, settings)
    k_max, each = int(curve["k"].max()), tokens_per_sample(samples, prompts)  # type: ignore[arg-type]
    correct_rate = samples.filter(CORRECT).height / samples.height
    common: Row = {"subset": subset, "n_tasks": tasks, "n_seeds": seeds}
    rows: list[Row] = []
    for row in curve.iter_rows(named=True):
        took = {"rollouts": row["k"] * tasks, "tokens": each and each * row["k"] * tasks}
        named = {"method": BEST_OF_N, "k": row["k"], "evaluations_used": row["k"] * correct_rate}
        rows.append(common | named | took | {name: row[name] for name in _RATES})
    for row in aggregate_tables.strategies(picks, settings).iter_rows(named=True):
        took = {"rollouts": k_max * tasks, "tokens": each and each * k_max * tasks}
        named = {"method": row["strategy"], "k": k_max, "evaluations_used": row["evaluations_used"]}
        rows.append(common | named | took | {name: row[name] for name in _RATES})
    for family in families(runs):
        rows += _adaptation(common, family, k_max, patience, settings)
    ks = curve["k"].to_list()
    for row in rows:
        for metric, suffix in zip(FAST, ("", "_confident"), strict=True):
            reached = curve[metric].to_list()
            found = equivalent_k(row[metric], ks, reached)
            ends = equivalent_interval(row[f"{metric}_low"], row[f"{metric}_high"], ks, reached)
            parts = dict(zip(_EQUIVALENT, (*found, *ends), strict=True))
            row |= {f"equivalent_k{suffix}{part}": value for part, value in parts.items()}
    return rows


def _adaptation(
    common: Row, family: Sequence[Adapted], budget: int, patience: int, settings: AggregateSettings
) -> list[Row]:
    """Each run of a family by every rule, then the means over its seeds."""
    made = [choices(one, budget, patience) for one in family]
    groups = [([one], [choice]) for one, found in zip(family, made, strict=True) for choice in found]
    if len(family) > 1:
        groups += [(list(family), list(same)) for same in zip(*made, strict=True)]
    rows = []
    for runs, chosen in groups:
        arm = chosen[0].arm if len(chosen) == 1 else joined(chosen)
        costs = [cost(one, choice) for one, choice in zip(runs, chosen, strict=True)]
        row = common | _choice(runs, chosen[0]) | {"step": _step(chosen)}
        row |= {name: sum(each[name] for each in costs) / len(costs) for name in ("rollouts", "tokens")}
        names = (common["subset"], names_of(runs), chosen[0].rule, str(chosen[0].chosen_by), chosen[0].reported_on)
        row |= _rates(arm, interval(arm, settings, *names)) | {"n_seeds": len(runs)}
        if len(runs) == 1:  # what an arm has more than one of are halves then
            row |= dict.fromkeys((f"{metric}_std" for metric in FAST), None)
        rows.append(row)
    return rows


def _step(chosen: Sequence[Choice]) -> int | None:
    """The step of all choices, where it is the same."""
    steps = {step for choice in chosen for step in choice.steps}
    return steps.pop() if len(steps) == 1 else None


def _choice(runs: Sequence[Adapted], choice: Choice) -> Row:
    named = {"method": choice.rule, "run": names_of(runs), "objective": runs[0].run.objective}
    return named | {"chosen_by": choice.chosen_by, "reported_on": choice.reported_on}


def _rates(arm: Arm, intervals: Sequence[Interval], prefix: str = "") -> Row:
    row: Row = {}
    for m, (metric, found) in enumerate(zip(FAST, intervals, strict=True)):
        name = f"{prefix}{metric}"
        row |= {name: float(arm.rates_M[m]), f"{name}_low": found.low, f"{name}_high": found.high}
        row[f"{name}_std"] = std_over_seeds(arm.rates_TSM[..., m])
    return row


def _deltas(base: Arm, other: Arm, settings: AggregateSettings, *names: str) -> Row:
    row: Row = {}
    for metric, (delta, found) in zip(FAST, difference(base, other, settings, *names), strict=True):
        row |= {f"{metric}_delta": delta, f"{metric}_delta_low": found.low, f"{metric}_delta_high": found.high}
    return row | {"same_evaluator": int(base.evaluators == other.evaluators)}


def isolated(runs: Sequence[Adapted], samples: pl.DataFrame, names: pl.DataFrame) -> list[Row]:
    """Table 9: runs on a single task, step by step, and the step that Best-of-Adaptation deploys.

    base_… is the rate among the Best-of-N samples of the task, empty where none were drawn.
    """
    name_of = dict(names.select("task_id", "name").rows())
    base = {task: (fast, sure) for task, fast, sure in samples.group_by("task_id").agg(pl.col(*FAST).mean()).rows()}
    rows = []
    for one in sorted((one for one in runs if one.is_isolated), key=lambda one: (one.run.task, one.name)):
        task = one.run.task
        fast, sure = base.get(task, (None, None))
        named = {"subset": one.subset or "train", "name": name_of.get(task)}
        rows += [row | named | {"base_fast_1": fast, "base_fast_1_confident": sure} for row in one.rows]
    return rows


def by_task(runs: Sequence[Adapted], settings: AggregateSettings) -> list[Row]:
    """adaptation_by_task.csv: the trajectory of each run on each of its tasks (the paper's table 8), with Wilson intervals."""
    rows = []
    for one in runs:
        named = {"run": one.name, "objective": one.run.objective, "subset": one.run.subset, "seed": one.run.seed}
        named["reward"] = one.run.reward
        for step, row in enumerate(one.rows):
            arm = one.arm(step)
            for task in arm.tasks:
                own = arm.only(task)
                found = _rates(own, interval(own, settings)) | {"n": int(own.n_TS.sum()), "is_boa": row["is_boa"]}
                rows.append(named | {"step": step, "task_id": task} | found)
    return rows


def equal_budget(samples: pl.DataFrame, runs: Sequence[Adapted], settings: AggregateSettings) -> list[Row]:
    """Table 10: sampling and adaptation at the same budget of rollouts: steps up to which a run has drawn at most K a task.

    fast_1 is the rate among the samples of each policy, delta the difference to that of Best-of-N's samples, paired by task.
    best_of_k_… is what Best-of-N makes of its budget by timing all of its samples.
    """
    curve, base = aggregate_tables.scaling(samples, settings), Arm.of(samples)
    last = curve.row(-1, named=True)
    subset, tasks, budget = samples["subset"][0], len(base.tasks), last["k"]
    common = {"subset": subset, "n_tasks": tasks}
    best = {f"best_of_k_{metric}": last[metric] for metric in FAST}
    first = common | best | {"method": f"{BEST_OF_N}, K = {budget}", "reported_on": "samples"}
    first |= {"rollouts": budget * tasks, "n_seeds": base.n_TS.shape[1]}
    rows = [first | _rates(base, interval(base, settings, subset, "base"))]
    for family in families(runs):
        for reported_on in [IN_BATCH, FRESH] if all(one.fresh for one in family) else [IN_BATCH]:
            for step in range(len(family[0].rows)):
                if (step + 1) * family[0].run.rollouts > budget:
                    break
                arm = _crossed([one.arm(step, reported_on) for one in family])
                key = (subset, names_of(family), reported_on, str(step))
                row: Row = common | {"method": f"adaptation, step {step}", "reported_on": reported_on, "step": step}
                row |= {"run": names_of(family), "objective": family[0].run.objective, "n_seeds": len(family)}
                row["rollouts"] = (step + 1) * family[0].run.rollouts * tasks
                row |= _rates(arm, interval(arm, settings, *key)) | _deltas(base, arm, settings, *key)
                rows.append(row)
    return rows


def _crossed(arms: Sequence[Arm]) -> Arm:
    return joined([Choice(BOA, None, IN_BATCH, (0,), 0, arm) for arm in arms])


def per_task(
    samples: pl.DataFrame, runs: Sequence[Adapted], names: pl.DataFrame, patience: int, settings: AggregateSettings
) -> list[Row]:
    """Table 11: Best-of-N's samples against Best-of-Adaptation within the budget, task by task.

    higher says which rate of fast_1 is the higher; winner says so only where the interval of the difference excludes 0, and
    is empty elsewhere (winner_confident: for fast_1_confident). Intervals hold for each task by itself.
    """
    base, budget = Arm.of(samples), int(samples.group_by("task_id", "seed").len()["len"].min())  # type: ignore[arg-type]
    rows = []
    for family, reported_on, chosen, arm in _of_rule(AT_BUDGET, runs, budget, patience):
        for task in base.tasks:
            one, other = base.only(task), arm.only(task)
            row: Row = {"subset": samples["subset"][0], "task_id": task, "run": names_of(family)}
            row |= {"objective": family[0].run.objective, "reported_on": reported_on}
            row["step"] = _step(chosen)
            for m, metric in enumerate(FAST):
                row |= {f"base_{metric}": float(one.rates_M[m]), f"adapted_{metric}": float(other.rates_M[m])}
            row |= _deltas(one, other, settings) | {"base_n": int(one.n_TS.sum()), "adapted_n": int(other.n_TS.sum())}
            row["higher"] = _winner(row["fast_1_delta"], row["fast_1_delta"]) or "equal"
            row["winner"] = _winner(row["fast_1_delta_low"], row["fast_1_delta_high"])
            row["winner_confident"] = _winner(row["fast_1_confident_delta_low"], row["fast_1_confident_delta_high"])
            rows.append(row)
    return _named(rows, names)


def _winner(low: float, high: float) -> str | None:
    return BOA if low > 0 else BEST_OF_N if high < 0 else None


def regime(
    samples: pl.DataFrame,
    runs: Sequence[Adapted],
    names: pl.DataFrame,
    is_group: bool,
    patience: int,
    settings: AggregateSettings,
) -> list[Row]:
    """Table 12: how much the base policy covers (the rate of fast_1 among its samples) beside the effect of adaptation.

    One row for the set as a whole (task_id empty) and, but for groups, one a task; again for each family of runs on it, by
    Best-of-Adaptation over all steps. is_covered is 1 above the paper's 0.3. logprob_std is the spread of summed log-prob
    among a task's samples, in the row of a set its mean over tasks (see `surprisal.logprob_spread`).
    """
    subset, base = samples["subset"][0], Arm.of(samples)
    budget = int(samples.group_by("task_id", "seed").len()["len"].min())  # type: ignore[arg-type]
    found: list[tuple[Row, Arm | None]] = [({"run": None}, None)]
    for family, reported_on, _, arm in _of_rule(BOA, runs, budget, patience):
        named = {"run": names_of(family), "objective": family[0].run.objective}
        found.append((named | {"reported_on": reported_on, "n_seeds": len(family)}, arm))
    if len(found) > 1:
        found = found[1:]
    arms: dict[int | None, Arm] = {None: base} if is_group else {None: base} | {i: base.only(i) for i in base.tasks}
    bases = {task: _base(samples, own, task, settings) for task, own in arms.items()}
    rows = []
    for named, adapted in found:
        for task, own in arms.items():
            row: Row = {"subset": subset, "task_id": task, "n_tasks": len(own.tasks), **named, **bases[task]}
            if adapted is not None:
                other = adapted if task is None else adapted.only(task)
                row |= {f"adapted_{metric}": float(other.rates_M[m]) for m, metric in enumerate(FAST)}
                row |= _deltas(own, other, settings, subset, named["run"], named["reported_on"])
            rows.append(row)
    return _named(rows, names)


def _base(samples: pl.DataFrame, own: Arm, task: int | None, settings: AggregateSettings) -> Row:
    of_task = samples if task is None else samples.filter(pl.col("task_id") == task)
    spread = logprob_spread(of_task)
    row: Row = {f"logprob_std{end}": spread[f"logprob_std{end}"].mean() for end in ("", "_correct")}
    row["variance_regime"] = None if task is None else spread["variance_regime"][0]
    row["base_correct"] = of_task.filter(CORRECT).height / of_task.height
    row |= _rates(own, interval(own, settings, "regime", str(task)), "base_")
    row["is_covered"] = int(row["base_fast_1"] > COVERED)
    last = aggregate_tables.scaling(of_task, settings).row(-1, named=True)
    return row | {f"best_of_k_{metric}": last[metric] for metric in FAST}


def _of_rule(
    rule: str, runs: Sequence[Adapted], budget: int, patience: int
) -> list[tuple[list[Adapted], str, list[Choice], Arm]]:
    """Each family by a rule that chooses in batch, once by the rollouts that chose and once by fresh ones."""
    found = []
    for family in families(runs):
        made = [choices(one, budget, patience) for one in family]
        for reported_on in (IN_BATCH, FRESH):
            same = [c for of_run in made for c in of_run if _is(c, rule, reported_on)]
            if len(same) == len(family):
                found.append((family, reported_on, same, joined(same)))
    return found


def _is(choice: Choice, rule: str, reported_on: str) -> bool:
    return (choice.rule, choice.chosen_by, choice.reported_on) == (rule, IN_BATCH, reported_on)


def _named(rows: list[Row], names: pl.DataFrame) -> list[Row]:
    of: Mapping[int, Row] = {row["task_id"]: row for row in names.iter_rows(named=True)}
    blank = {"name": None, "headroom": None}
    return [row | {key: of.get(row["task_id"], blank)[key] for key in blank} for row in rows]
