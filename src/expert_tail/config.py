"""The whole configuration: every section of config.yaml, its defaults and its checks.

`python -m expert_tail.config` prints the JSON schema that `schemas/config.schema.yaml` holds.
"""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.policy.settings import LoraSettings, PolicySettings, PromptSettings
from expert_tail.rlvr_train.settings import RlvrSettings
from expert_tail.sample_k64.settings import SampleRuns
from expert_tail.select.settings import SelectSettings
from expert_tail.settings import Settings, nearest
from expert_tail.tasks.settings import TaskSettings


class Config(Settings):
    tasks: TaskSettings = Field(TaskSettings(), description="what is to be made fast")
    policy: PolicySettings = Field(PolicySettings(), description="the language model")
    prompt: PromptSettings = Field(PromptSettings(), description="what the policy is asked")
    lora: LoraSettings = Field(LoraSettings(), description="the adapter that training changes")
    rlvr: RlvrSettings = Field(RlvrSettings(), description="training before the test-time comparison")
    sampling: SampleRuns = Field(SampleRuns(), description="samples that selection chooses from")
    evaluator: EvaluatorSettings = Field(EvaluatorSettings(), description="verdict and timing")
    select: SelectSettings = Field(SelectSettings(), description="selection strategies")
    aggregate: AggregateSettings = Field(AggregateSettings(), description="tables and figures")

    @model_validator(mode="after")
    def _subsets_exist(self) -> "Config":
        for name in self.sampling.subsets:
            if name not in self.tasks.subsets:
                raise ValueError(
                    f"`sampling.subsets` names `{name}`, which `tasks.subsets` has not{nearest(name, self.tasks.subsets)}"
                )
        return self

    @property
    def suite(self) -> str:
        """Name of the suite in file names: `level1`, or the last part of a folder's or file's path."""
        return Path(self.tasks.source).stem


def parse_config(values: dict[str, Any]) -> Config:
    """Check a loaded configuration; a `UserError` names each wrong key and the nearest known one."""
    return Config.checked(values, where="")


def schema_yaml() -> str:
    import yaml

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Config.model_json_schema()
    return yaml.safe_dump(schema, sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    print(schema_yaml(), end="")
