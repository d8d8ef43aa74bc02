"""Settings of RLVR training."""

from typing import Annotated

from pydantic import Field, model_validator

from expert_tail.settings import Settings

Count = Annotated[int, Field(ge=1)]


class RlvrSettings(Settings):
    steps: Count = Field(12, description="optimiser steps")
    tasks_per_step: Count = Field(8, description="training tasks drawn for a step")
    rollouts_per_task: Annotated[int, Field(ge=2)] = Field(
        8, description="rollouts of each; their rewards are normalised together"
    )
    learning_rate: float = Field(3e-4, gt=0, description="of Adam")
    temperature: float = Field(0.8, gt=0, description="at which rollouts are sampled")
    max_tokens: Count = Field(64, description="longest rollout, tokens")
    importance_cap: float = Field(
        2.0, ge=1, description="largest importance weight of a token (truncated importance sampling)"
    )
    reward_window: Count = Field(32, description="correct speedups of a task whose running median scales its reward")
    seed: int = Field(42, ge=0, description="of task order, adapter initialisation and sampling")
    checkpoints: list[int] = Field(
        [4, 8, 12], description="steps after which the adapter is kept; the last one samples"
    )
    retrain_on_evaluator_change: bool = Field(False, description="whether an edited evaluator re-runs training")

    @model_validator(mode="after")
    def _checkpoints_exist(self) -> "RlvrSettings":
        if not self.checkpoints or sorted(set(self.checkpoints)) != self.checkpoints:
            raise ValueError("`checkpoints` must be a rising list of steps")
        if self.checkpoints[-1] != self.steps or self.checkpoints[0] < 1:
            raise ValueError(
                f"`checkpoints` must end with the last step, {self.steps}, and begin at 1 or later; it is {self.checkpoints}"
            )
        return self
