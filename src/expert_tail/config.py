"""The whole configuration: every section of config.yaml, its defaults and its checks.

`python -m expert_tail.config` prints the JSON schema that `schemas/config.schema.yaml` holds.
"""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from expert_tail.adapt.settings import AdaptationSettings
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.comparison.settings import ComparisonSettings
from expert_tail.compile_and_time.settings import ShardSettings
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.nll_probe.settings import ProbeSettings
from expert_tail.null_audit.settings import NullAuditSettings
from expert_tail.policy.settings import LoraSettings, PolicySettings, PromptSettings
from expert_tail.rlvr_train.settings import RlvrSettings
from expert_tail.sample_k64.settings import SampleRuns
from expert_tail.select.settings import SelectSettings
from expert_tail.settings import Settings, nearest
from expert_tail.tasks.settings import TaskSettings
from expert_tail.tasks.suite import BUILT_IN
from expert_tail.time_experts.settings import HeadroomSettings


class Config(Settings):
    tasks: TaskSettings = Field(TaskSettings(), description="what is to be made fast")
    policy: PolicySettings = Field(PolicySettings(), description="the language model")
    prompt: PromptSettings = Field(PromptSettings(), description="what the policy is asked")
    lora: LoraSettings = Field(LoraSettings(), description="the adapter that training changes")
    rlvr: RlvrSettings = Field(RlvrSettings(), description="training before the test-time comparison")
    sampling: SampleRuns = Field(SampleRuns(), description="samples that selection chooses from")
    adaptation: AdaptationSettings = Field(
        AdaptationSettings(),
        description="gradient adaptation at test time; draws like `sampling`, from the last checkpoint",
    )
    probes: ProbeSettings = Field(ProbeSettings(), description="surprisal of Best-of-N samples along trajectories")
    evaluator: EvaluatorSettings = Field(EvaluatorSettings(), description="verdict and timing")
    evaluations: ShardSettings = Field(ShardSettings(), description="how evaluation is spread over jobs")
    null_audit: NullAuditSettings = Field(
        NullAuditSettings(), description="how often the evaluator calls a reference faster than itself"
    )
    headroom: HeadroomSettings = Field(HeadroomSettings(), description="what expert solutions of our own reach")
    select: SelectSettings = Field(SelectSettings(), description="selection strategies")
    aggregate: AggregateSettings = Field(AggregateSettings(), description="tables and figures")
    comparison: ComparisonSettings = Field(
        ComparisonSettings(), description="sampling, selection and adaptation side by side, over more tasks"
    )

    @model_validator(mode="after")
    def _tasks_exist(self) -> "Config":
        """Of the built-in suite, which is known before anything runs."""
        suite = self.tasks.source
        if suite not in BUILT_IN:
            return self
        known = {task.task_id for task in BUILT_IN[suite](self.tasks.scale)}
        named = {f"tasks.subsets.{name}": ids for name, ids in self.tasks.subsets.items()}
        named["null_audit.tasks"] = self.null_audit.tasks
        for name in self.adaptation.wanted:
            if (task := self.adaptation.runs[name].task) is not None:
                named[f"adaptation.runs.{name}.task"] = [task]
        for key, ids in named.items():
            if absent := sorted(set(ids) - known):
                raise ValueError(
                    f"`{key}` names task {absent[0]}, which {suite} does not have: it has {min(known)} to {max(known)}"
                )
        return self

    @model_validator(mode="after")
    def _subsets_exist(self) -> "Config":
        sections = ("sampling", "comparison", "null_audit")
        named = {f"{section}.subsets": getattr(self, section).subsets for section in sections}
        named |= {f"comparison.groups.{group}": names for group, names in self.comparison.groups.items()}
        for key, names in named.items():
            for name in names:
                if name not in self.tasks.subsets:
                    raise ValueError(
                        f"`{key}` names `{name}`, which `tasks.subsets` has not{nearest(name, self.tasks.subsets)}"
                    )
        for name in self.comparison.groups:
            if name in self.tasks.subsets:
                raise ValueError(f"`comparison.groups.{name}` has the name of a subset; give it another name")
        for name in self.sampling.subsets:
            if name not in self.tasks.held_out:
                raise ValueError(f"`sampling.subsets` names `{name}`, which `tasks.subsets` leaves empty")
        return self

    @model_validator(mode="after")
    def _runs_fit(self) -> "Config":
        # A run that is not made may name a subset that another suite has not.
        for name in dict.fromkeys(made for wanted in self.adaptation.wanted for made in self._with_starts(wanted)):
            run = self.adaptation.runs[name]
            if run.subset is not None and run.subset not in self.tasks.subsets:
                raise ValueError(
                    f"`adaptation.runs.{name}.subset` is `{run.subset}`, which `tasks.subsets` has not"
                    f"{nearest(run.subset, self.tasks.subsets)}; name the runs to make in `adaptation.only`"
                )
        for name in self.probes.runs:
            if name not in self.adaptation.runs:
                raise ValueError(
                    f"`probes.runs` names `{name}`, which `adaptation.runs` has not{nearest(name, self.adaptation.runs)}"
                )
            if self.subset_of(name) is None:
                raise ValueError(
                    f"`probes.runs` names `{name}`, whose task is in no subset, so nothing is sampled of it"
                )
        return self

    @property
    def runs(self) -> list[str]:
        """The adaptation runs to make: those wanted, less those on a subset that was emptied, and what starts from them."""
        emptied = self.tasks.subsets.keys() - self.tasks.held_out.keys()
        return [
            name
            for name in self.adaptation.wanted
            if not emptied.intersection(self.adaptation.runs[made].subset for made in self._with_starts(name))
        ]

    def _with_starts(self, name: str) -> list[str]:
        """A run, the run that it starts from, and so on."""
        start = self.adaptation.runs[name].start
        return [name, *(self._with_starts(start.run) if start else [])]

    @property
    def probed_runs(self) -> list[str]:
        return [name for name in self.probes.runs if name in self.runs]

    def subset_of(self, run: str) -> str | None:
        """The subset that an adaptation run is on, or that holds its single task; None for a training task."""
        chosen = self.adaptation.runs[run]
        holding = (name for name, ids in self.tasks.subsets.items() if chosen.task in ids)
        return chosen.subset or next(holding, None)

    @property
    def compared_subsets(self) -> list[str]:
        """All subsets that are sampled: those of `sampling`, then those that the comparison adds. Empty ones drop out."""
        named = dict.fromkeys([*self.sampling.subsets, *self.comparison.subsets])
        return [name for name in named if name in self.tasks.held_out]

    @property
    def probe_seed(self) -> int:
        return self.sampling.seeds[0] if self.probes.seed is None else self.probes.seed

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
