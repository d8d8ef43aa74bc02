"""Settings of aggregation: how intervals are computed."""

from pydantic import Field

from expert_tail.settings import Settings


class AggregateSettings(Settings):
    bootstrap: int = Field(2000, ge=100, description="bootstrap resamples behind every interval")
    seed: int = Field(0, ge=0, description="seed of the bootstrap")
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of intervals")
