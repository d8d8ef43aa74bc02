"""Settings of selection: which strategies run, and what they call surprisal."""

from typing import Literal

from pydantic import Field, field_validator

from expert_tail.select.strategies import STRATEGIES
from expert_tail.settings import Settings, nearest


class SelectSettings(Settings):
    strategies: list[str] = Field(list(STRATEGIES), min_length=1, description="strategies to compare")
    surprisal: Literal["sum", "mean"] = Field(
        "sum", description="sum: NLL of the completion; mean: NLL per token, which the paper's text names"
    )

    @field_validator("strategies")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in STRATEGIES:
                raise ValueError(f"unknown strategy `{name}`{nearest(name, STRATEGIES)}")
            if names.count(name) > 1:
                raise ValueError(f"strategy `{name}` is there twice; name it once")
        return names
