"""Settings of sampling: how many, for what, and how."""

from typing import Annotated

from pydantic import Field, field_validator

from expert_tail.policy.settings import DrawSettings


class SampleSettings(DrawSettings):
    k: Annotated[int, Field(ge=1)] = Field(64, description="samples of each task and seed")


class SampleRuns(SampleSettings):
    """What the workflow samples: every subset under every seed."""

    subsets: list[str] = Field(["subset1"], min_length=1, description="subsets of `tasks.subsets` to evaluate")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [42, 43], min_length=1, description="each gives its own samples file"
    )

    @field_validator("subsets", "seeds")
    @classmethod
    def _distinct(cls, values: list) -> list:
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"{value} is listed twice")
        return values
