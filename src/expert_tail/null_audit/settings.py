"""Settings of the null audit: how many repeats of which tasks, under which protocols."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from expert_tail.settings import Settings

Protocol = Literal["paired", "paper"]


class NullAuditSettings(Settings):
    repeats: Annotated[int, Field(ge=1)] = Field(
        64, description="times that each reference is measured against itself, under each protocol"
    )
    protocols: Annotated[list[Protocol], Field(min_length=1)] = Field(
        ["paired", "paper"], description="protocols to audit, see evaluator.protocol"
    )
    subsets: list[str] = Field(
        [],
        description="subsets whose tasks are audited; empty ones drop out, and where none is left it is every evaluation subset",
    )
    tasks: list[int] = Field([], description="ids of the tasks to audit instead; none: all of `subsets`")
    timing_budget_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="evaluator.timing_budget_s of the audit, to make it shorter; null: the evaluator's own"
    )

    @field_validator("protocols", "subsets", "tasks")
    @classmethod
    def _distinct(cls, values: list[Any]) -> list[Any]:
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"{value} is listed twice; name it once")
        return values
