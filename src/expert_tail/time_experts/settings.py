"""Settings of the headroom: where experts are, and from when a task counts as winnable or not."""

from pydantic import Field

from expert_tail.settings import Settings


class HeadroomSettings(Settings):
    experts: str = Field(
        "tests/experts",
        description="folder of expert solutions, ACTION/TASK_ID.py (a relative path starts at the workflow's folder)",
    )
    margin: float = Field(
        0.05, ge=0, description="a task is winnable if an expert's speedup is confidently above 1 + this"
    )
    slack: float = Field(
        0.15,
        ge=0,
        description="and is not if its reference takes at most 1 + this of what merely moving its data takes",
    )
    mark: bool = Field(True, description="whether tables mark tasks, which takes a few seconds a subset")
