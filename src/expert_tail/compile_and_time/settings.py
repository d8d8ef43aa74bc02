"""How many jobs the evaluation of one subset and seed is split into."""

from typing import Annotated

from pydantic import Field

from expert_tail.settings import Settings


class ShardSettings(Settings):
    shards: Annotated[int, Field(ge=1)] = Field(
        1,
        description="jobs that the evaluation of one subset and seed is split into, for many nodes at the same time; "
        "`--set-scatter evaluations=N` overrides it",
    )
