"""Adaptation runs as the comparison sees them: their steps, and what each rule to choose a step deploys and costs.

Rules: Best-of-Adaptation (all steps are made; the best is deployed), the same within the budget of Best-of-N, early stopping,
and the last step. A step is chosen by the rollouts of all steps (`in_batch`) or by fresh ones (`fresh`), and reported by
either. Where one set chooses and reports, the report is too good. `other_half`: half of the fresh rollouts chooses, the other
half reports, and the other way round; the mean of the two.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from expert_tail.adapt.settings import AdaptationSettings, Run
from expert_tail.adaptation_tables.trajectory import trajectory
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.best_of_adaptation.best import affordable, best_step, early_stop
from expert_tail.comparison.rates import Arm
from expert_tail.success import CORRECT, FAST_1, FAST_1_CONFIDENT

Row = dict[str, Any]
BOA, BOA_CONFIDENT, AT_BUDGET = "best-of-adaptation", "best-of-adaptation-by-confident", "best-of-adaptation-at-budget"
EARLY_STOP, LAST, START = "early-stopping", "last-step", "start"
IN_BATCH, FRESH, OTHER_HALF = "in_batch", "fresh", "other_half"


class Adapted(NamedTuple):
    """A run: its rows of adaptation.csv in full precision, and its judged rollouts of each step (task_id, sample,
    candidate_sha256, evaluator, correct, fast_1, fast_1_confident), fresh ones too if it has them. `subset` holds its tasks;
    None for a training task.
    """

    name: str
    run: Run
    subset: str | None
    rows: list[Row]
    in_batch: list[pl.DataFrame]
    fresh: list[pl.DataFrame] | None

    @property
    def is_isolated(self) -> bool:
        return self.run.task is not None

    @property
    def is_comparable(self) -> bool:
        """Whether its rollouts are all that it took, as those of Best-of-N are: a run that starts from another took that one's."""
        return not self.is_isolated and self.run.start is None

    def arm(self, step: int, reported_on: str = IN_BATCH) -> Arm:
        rollouts = self.in_batch[step] if reported_on == IN_BATCH else (self.fresh or [])[step]
        return Arm.of(rollouts.with_columns(seed=pl.lit(self.run.seed)), is_crossed=True)


class Choice(NamedTuple):
    """What a rule deploys of a run. `steps` has one step, or one a half; `last` is the last step it has to make."""

    rule: str
    chosen_by: str | None
    reported_on: str
    steps: tuple[int, ...]
    last: int
    arm: Arm


def adapted(
    name: str,
    run: Run,
    subset: str | None,
    steps: list[dict[str, pl.DataFrame]],
    budget: int,
    adaptation: AdaptationSettings,
    settings: AggregateSettings,
) -> Adapted:
    """From the frames of each step, as `load_steps` gives them."""
    rows = trajectory(name, run, steps, budget, adaptation.patience, settings)
    in_batch = [_judged(step["evaluations"]) for step in steps]
    fresh = [_judged(step["fresh_evaluations"]) for step in steps] if run.is_fresh else None
    return Adapted(name, run, subset, rows, in_batch, fresh)


def _judged(evaluations: pl.DataFrame) -> pl.DataFrame:
    return evaluations.select(
        *("task_id", "sample", "candidate_sha256", "evaluator"),
        correct=CORRECT,
        fast_1=FAST_1,
        fast_1_confident=FAST_1_CONFIDENT,
    )


def choices(one: Adapted, budget: int, patience: int) -> list[Choice]:
    """Every rule that has something to go by; a run without an update has its start alone."""
    last = len(one.rows) - 1
    in_batch, confident = ([row[metric] for row in one.rows] for metric in ("fast_1", "fast_1_confident"))
    start = [Choice(START, None, IN_BATCH, (0,), 0, one.arm(0))]
    start += [Choice(START, None, FRESH, (0,), 0, one.arm(0, FRESH))] if one.fresh else []
    if last == 0:
        return start
    stop = early_stop(in_batch, patience)
    rules = [(BOA, best_step(in_batch), last), (BOA_CONFIDENT, best_step(confident), last)]
    if steps := affordable([one.run.rollouts] * len(one.rows), budget):
        rules.append((AT_BUDGET, best_step(in_batch[:steps]), steps - 1))
    rules += [(EARLY_STOP, stop.step, stop.last)]
    found = start
    for rule, step, needed in rules:
        found += [
            Choice(rule, IN_BATCH, reported_on, (step,), needed, one.arm(step, reported_on))
            for reported_on in ([IN_BATCH, FRESH] if one.fresh else [IN_BATCH])
        ]
    if one.fresh:
        by_fresh = best_step([row["fresh_fast_1"] for row in one.rows])
        found.append(Choice(BOA, FRESH, IN_BATCH, (by_fresh,), last, one.arm(by_fresh)))
        found += _by_halves(one, last)
    return [*found, Choice(LAST, None, IN_BATCH, (last,), last, one.arm(last))]


def _by_halves(one: Adapted, last: int) -> list[Choice]:
    """Best-of-Adaptation by one half of the fresh rollouts, reported by the other; nothing where a half would be empty."""
    assert one.fresh is not None
    halves = [[rows.filter(pl.col("sample") % 2 == half) for rows in one.fresh] for half in (0, 1)]
    tasks = one.fresh[0]["task_id"].n_unique()
    if any(rows["task_id"].n_unique() < tasks for half in halves for rows in half):
        return []
    scores = [[float(rows["fast_1"].mean() or 0) for rows in half] for half in halves]  # type: ignore[arg-type]
    steps = tuple(best_step(of_half) for of_half in scores)
    reported = [halves[1 - half][step].with_columns(half=pl.lit(half)) for half, step in enumerate(steps)]
    return [Choice(BOA, FRESH, OTHER_HALF, steps, last, Arm.of(pl.concat(reported), by="half"))]


def cost(one: Adapted, choice: Choice) -> Row:
    """Rollouts and tokens that it takes to know the choice. Fresh rollouts count where they choose, not where they report.

    A teacher scores the rollouts of a step for the next update, so those of the last step that is made do not count.
    """
    made = one.rows[: choice.last + 1]
    is_fresh = choice.chosen_by == FRESH
    rollouts = sum(row["rollouts"] + is_fresh * row["fresh_rollouts"] for row in made)
    tokens = sum(row["student_tokens"] + is_fresh * row["fresh_tokens"] for row in made)
    return {"rollouts": rollouts, "tokens": tokens + sum(row["teacher_tokens"] for row in made[:-1])}


def families(runs: Sequence[Adapted]) -> list[list[Adapted]]:
    """Runs that differ in their seed only, together; in the order of their first."""
    found: dict[str, list[Adapted]] = {}
    for one in runs:
        found.setdefault(one.run.model_dump_json(exclude={"seed"}), []).append(one)
    return list(found.values())


def names_of(family: Sequence[Adapted]) -> str:
    return " ".join(one.name for one in family)


def joined(choices_of_seeds: Sequence[Choice]) -> Arm:
    """The arms of the same choice of several seeds as one: a column a seed. Halves become their sum."""
    arms = [choice.arm for choice in choices_of_seeds]
    first = arms[0]
    n_TS = np.concatenate([arm.n_TS.sum(axis=1, keepdims=True) for arm in arms], axis=1)
    c_TSM = np.concatenate([arm.c_TSM.sum(axis=1, keepdims=True) for arm in arms], axis=1)
    evaluators = frozenset().union(*(arm.evaluators for arm in arms))
    return Arm(first.tasks, n_TS, c_TSM, is_crossed=True, evaluators=evaluators)
