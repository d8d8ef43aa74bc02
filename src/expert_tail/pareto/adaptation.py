"""Adaptation runs as methods: what may be deployed after each step, and what it cost to get there.

Two things may be deployed after step s, and they are different in kind:

- a draw of the best checkpoint: one rollout of the step of the highest fast_1 so far (Best-of-Adaptation), which is how
  arXiv 2602.07670 scores adaptation. With fresh validation its values are those of the fresh rollouts, which did not choose.
- the fastest rollout so far: every rollout was evaluated, so the best of them can be kept, as Best-of-N keeps the best of
  its samples. This is what compares with Best-of-N; it is what one run found, while Best-of-N's values are expectations.

Costs add up over the steps, as in `adaptation_tables`: sampling and evaluating of steps 0 … s, fresh rollouts included,
updates up to s, and scores in hindsight of the steps before s. Evaluating costs distinct candidates, as if none were known.
"""

import polars as pl

from expert_tail.adapt.settings import Run
from expert_tail.aggregate.statistics import Floats
from expert_tail.best_of_adaptation.best import best_step
from expert_tail.pareto.costs import completed
from expert_tail.pareto.methods import ADAPTATION, VALUES, Method
from expert_tail.success import CORRECT, FAST_1, FAST_1_CONFIDENT, if_correct

Frames = dict[str, pl.DataFrame]
DRAW, FASTEST_ROLLOUT = "draw of the best checkpoint", "fastest rollout so far"


def of_run(name: str, run: Run, steps: list[Frames], per_candidate: float | None) -> list[Method]:
    """Two methods a step. Each of `steps` has what `adaptation_tables.stage.load_steps` gives."""
    judged = [_judged(frames["evaluations"]) for frames in steps]
    reported = [_judged(frames["fresh_evaluations"]) for frames in steps] if run.is_fresh else judged
    scores = [float(frame["fast_1"].mean()) for frame in judged]  # type: ignore[arg-type]
    costs = _costs(steps, per_candidate)
    methods = []
    for step, cost in enumerate(costs):
        best = reported[best_step(scores[: step + 1])]
        drawn = best.group_by("task_id").agg(pl.col(VALUES).mean()).sort("task_id")
        so_far = pl.concat([*judged[: step + 1], *(reported[: step + 1] if run.is_fresh else [])])
        kept = so_far.sort("correct", "speedup", descending=True, maintain_order=True).unique(
            "task_id", keep="first", maintain_order=True
        )
        for deploys, chosen in ((DRAW, drawn), (FASTEST_ROLLOUT, kept.sort("task_id"))):
            values: Floats = chosen.select(VALUES).to_numpy()[:, None]
            labels = {"family": ADAPTATION, "method": name, "deploys": deploys, "step": step}
            methods.append(Method(labels, values, cost))
    return methods


def _judged(evaluations: pl.DataFrame) -> pl.DataFrame:
    """The values of each rollout, 0 unless it is correct."""
    return evaluations.select(
        "task_id",
        if_correct("speedup"),
        if_correct("speedup_low"),
        correct=CORRECT,
        fast_1=FAST_1.cast(pl.Float64),
        fast_1_confident=FAST_1_CONFIDENT.cast(pl.Float64),
    )


def _costs(steps: list[Frames], per_candidate: float | None) -> list[dict[str, float | None]]:
    """Costs of each step's deployment, per task."""
    tasks = steps[0]["evaluations"]["task_id"].n_unique()
    known: set[tuple[int, str]] = set()
    total = dict.fromkeys(("rollouts", "tokens_sampled", "tokens_computed", "sampling_s", "scoring_s", "update_s"), 0.0)
    waiting = {"tokens_computed": 0.0, "scoring_s": 0.0}  # scores in hindsight, which the next update needs
    result = []
    for frames in steps:
        account = frames["account"].row(0, named=True)
        prompts = sum(int(frames[kind]["prompt_tokens"].sum()) for kind in _kinds(frames, "rollouts"))
        spent = {
            "rollouts": account["rollouts"] + account["fresh_rollouts"],
            "tokens_sampled": account["student_tokens"] + account["fresh_tokens"] - prompts,
            "tokens_computed": account["sampling_computed"] + account["update_computed"] + waiting["tokens_computed"],
            "sampling_s": account["sampling_s"],
            "scoring_s": waiting["scoring_s"],
            "update_s": account["update_s"],
        }
        waiting = {"tokens_computed": account["scoring_computed"], "scoring_s": account["scoring_s"]}
        total = {key: total[key] + float(spent[key]) for key in total}
        for kind in _kinds(frames, "evaluations"):
            known |= set(frames[kind].select("task_id", "candidate_sha256").rows())
        per_task: dict[str, float | None] = {key: value / tasks for key, value in total.items()}
        result.append(completed(per_task, len(known) / tasks, per_candidate))
    return result


def _kinds(frames: Frames, kind: str) -> list[str]:
    return [name for name in (kind, f"fresh_{kind}") if name in frames]
