"""Settings of the comparison: which tasks it is over."""

from pydantic import Field, field_validator

from expert_tail.settings import Settings


class ComparisonSettings(Settings):
    subsets: list[str] = Field(
        [], description="subsets of `tasks.subsets` that are sampled and evaluated beside `sampling.subsets`"
    )
    groups: dict[str, list[str]] = Field(
        {}, description="further sets of tasks to report on: a name and its subsets (left out where one is not sampled)"
    )

    @field_validator("subsets")
    @classmethod
    def _distinct(cls, names: list[str]) -> list[str]:
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is listed twice")
        return names
