"""Settings of probing: which trajectories, by which samples."""

from typing import Annotated

from pydantic import Field

from expert_tail.settings import Settings


class ProbeSettings(Settings):
    runs: list[str] = Field([], description="adaptation runs whose checkpoints are probed")
    seed: Annotated[int, Field(ge=0)] | None = Field(
        None, description="seed of the samples that are scored (left out: the first of `sampling.seeds`)"
    )
