"""Settings of the tasks: which suite, at which scale, and its evaluation subsets."""

from typing import Literal

from pydantic import Field, field_validator

from expert_tail.settings import Settings
from expert_tail.tasks.suite import TRAIN


class TaskSettings(Settings):
    source: str = Field(
        "level1", description="level1 (built in), a KernelBench folder, or a Parquet file with its columns"
    )
    scale: Literal["cpu", "gpu"] = Field("cpu", description="sizes of the built-in suite: gpu is KernelBench's own")
    subsets: dict[str, list[int]] = Field(
        {}, description="evaluation subsets by name ([]: no such subset); all other tasks are for training"
    )

    @field_validator("subsets")
    @classmethod
    def _disjoint(cls, subsets: dict[str, list[int]]) -> dict[str, list[int]]:
        owner: dict[int, str] = {}
        for name, ids in subsets.items():
            if name == TRAIN:
                raise ValueError(f"a subset cannot be called {TRAIN}, the name of all other tasks")
            for task_id in ids:
                if task_id in owner:
                    raise ValueError(f"task {task_id} is in `{owner[task_id]}` and in `{name}`; keep it in one")
                owner[task_id] = name
        return subsets

    @property
    def held_out(self) -> dict[str, list[int]]:
        """The subsets that have tasks. Configurations are merged: a file can empty a subset of the default, not remove it."""
        return {name: ids for name, ids in self.subsets.items() if ids}
