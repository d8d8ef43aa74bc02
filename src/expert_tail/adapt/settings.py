"""Settings of adaptation: the runs of a configuration, each with its objective, tasks and budget."""

import fnmatch
import math
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from expert_tail.adapt.objectives import ENTROPIC_KL, OBJECTIVES, Objective
from expert_tail.settings import Settings, nearest

Count = Annotated[int, Field(ge=1)]


class Start(Settings):
    """Another run's checkpoint."""

    run: str = Field(description="name of the run")
    step: Annotated[int, Field(ge=0)] | Literal["boa"] = Field(
        "boa", description="its step, or boa: the one that Best-of-Adaptation picks"
    )


class Run(Settings):
    objective: str = Field("grpo", description=f"how rollouts become advantages: {', '.join(OBJECTIVES)}")
    subset: str | None = Field(None, description="subset of the tasks to adapt on, all in one batch")
    task: int | None = Field(None, description="instead of a subset, the one task to adapt on")
    seed: Annotated[int, Field(ge=0)] = Field(42, description="of sampling")
    lr: float = Field(1e-4, gt=0, description="learning rate of Adam")
    importance_cap: float = Field(
        2.0, ge=1, description="largest importance weight of a token (truncated importance sampling)"
    )
    steps: Annotated[int, Field(ge=0)] = Field(
        4, description="updates S; checkpoints 0 … S are sampled and evaluated, 0 being the start (0: no update at all)"
    )
    rollouts: Annotated[int, Field(ge=2)] = Field(32, description="rollouts of each task and step")
    start: Start | None = Field(None, description="checkpoint to start from (left out: the last one of rlvr)")
    reward: Literal["normalised", "speedup", "sparse"] = Field(
        "normalised",
        description="of a correct rollout: normalised: speedup / running median of the task's earlier ones; "
        "speedup: itself; sparse: 1 above `threshold`, else 0. Others get 0",
    )
    reward_window: Count = Field(32, description="normalised: how many correct speedups the running median is of")
    threshold: float = Field(1.0, ge=0, description="speedup that a sparse reward asks for")
    over: Literal["batch", "task"] | None = Field(
        None,
        description="rewards compared with one another: of all tasks or of each (left out: as the objective's paper)",
    )
    kl_target: float = Field(ENTROPIC_KL, gt=0, description="entropic: divergence of the reweighted rollouts, nats")
    kl_penalty: float = Field(0.0, ge=0, description="weight of each token's divergence from the start's policy")
    beta: float = Field(1.0, gt=0, description="sdpo: weight of the teacher")
    solution: bool = Field(True, description="sdpo_feedback: show the teacher another rollout's correct solution")
    validation: Literal["in_batch", "fresh"] = Field(
        "in_batch",
        description="in_batch: checkpoints are compared by the rollouts they were updated on; fresh: rollouts of their "
        "own are drawn beside those",
    )
    fresh_rollouts: Count = Field(32, description="fresh rollouts of each task and step")

    @field_validator("objective")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in OBJECTIVES:
            raise ValueError(f"unknown objective `{name}`{nearest(name, OBJECTIVES)}")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> "Run":
        if (self.subset is None) == (self.task is None):
            raise ValueError("a run adapts on a `subset` or on a single `task`: set one of the two")
        own = {*self.method.parameters, *self.method.settings}
        for name in _OF_SOME_OBJECTIVES - own:
            if getattr(self, name) != type(self).model_fields[name].default:
                having = [other for other, it in OBJECTIVES.items() if name in {*it.parameters, *it.settings}]
                raise ValueError(f"`{name}` has no meaning for {self.objective}, only for {', '.join(having)}")
        for name, setting, value in _OF_SOME_VALUES:
            if getattr(self, name) != type(self).model_fields[name].default and getattr(self, setting) != value:
                raise ValueError(f"`{name}` has a meaning for `{setting}: {value}` only")
        if self.objective == "entropic" and self.rollouts <= math.exp(self.kl_target):
            raise ValueError(
                f"`kl_target` {self.kl_target:.4g} takes more than {math.exp(self.kl_target):.4g} rollouts"
            )
        return self

    @property
    def method(self) -> Objective:
        return OBJECTIVES[self.objective]

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings that the objective's estimate takes."""
        return {name: getattr(self, name) for name in self.method.parameters}

    @property
    def is_fresh(self) -> bool:
        return self.validation == "fresh"

    @property
    def needs_scoring(self) -> bool:
        """Whether advantages take more than rewards: log-probs of a teacher, or of the start."""
        return self.method.teacher is not None or self.kl_penalty > 0


_OF_SOME_VALUES = [
    ("threshold", "reward", "sparse"),
    ("reward_window", "reward", "normalised"),
    ("fresh_rollouts", "validation", "fresh"),
]
_OF_SOME_OBJECTIVES = {name for it in OBJECTIVES.values() for name in (*it.parameters, *it.settings)}


class AdaptationSettings(Settings):
    runs: dict[str, Run] = Field({}, description="adaptation runs by name")
    only: list[str] = Field(["*"], description="names of those to make; * stands for anything")
    patience: Count = Field(1, description="early stopping: steps without a new best after which it stops")
    rerun_on_evaluator_change: bool = Field(
        False, description="whether an edited evaluator makes all runs again, rewards and verdicts"
    )

    @model_validator(mode="after")
    def _runs_exist(self) -> "AdaptationSettings":
        for name in self.runs:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(f"`{name}` cannot name a run: use letters, digits, `_`, `-` and `.`")
        for pattern in self.only:
            if pattern != "*" and not fnmatch.filter(self.runs, pattern):
                raise ValueError(f"`only` names `{pattern}`, which `runs` has not{nearest(pattern, self.runs)}")
        for name, run in self.runs.items():
            self._check_start(name, run)
        return self

    def _check_start(self, name: str, run: Run) -> None:
        before, start = [name], run.start
        while start is not None:
            if start.run not in self.runs:
                raise ValueError(
                    f"`{before[-1]}` starts from `{start.run}`, which `runs` has not{nearest(start.run, self.runs)}"
                )
            if start.run in before:
                raise ValueError(f"`{name}` starts from itself: {' from '.join([*before, start.run])}")
            of = self.runs[start.run]
            if isinstance(start.step, int) and start.step > of.steps:
                raise ValueError(
                    f"`{before[-1]}` starts from step {start.step} of `{start.run}`, which ends at {of.steps}"
                )
            before.append(start.run)
            start = of.start

    @property
    def wanted(self) -> list[str]:
        """Names of the runs to make."""
        return [name for name in self.runs if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.only)]
