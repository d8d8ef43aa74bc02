"""Settings of the evaluator: protocol, limits and precision."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from expert_tail.settings import Settings

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
PAIRED_ONLY = ("min_pairs", "max_pairs", "precision", "timing_budget_s", "replicates")
PAPER_ONLY = ("paper_trials", "paper_threads")


class EvaluatorSettings(Settings):
    protocol: Literal["paired", "paper"] = Field(
        "paired", description="paired: interleaved, with an interval; paper: 5 unpaired trials, mean"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where candidates run; auto: on a GPU if this machine has one"
    )
    correctness_trials: Count = Field(4, description="inputs that a candidate is checked on before it is timed")
    min_pairs: Annotated[int, Field(ge=6)] = Field(
        12, description="fewest timed pairs (6 is the least that gives a 95 % interval)"
    )
    max_pairs: Annotated[int, Field(ge=6)] = Field(48, description="most timed pairs")
    precision: Positive = Field(0.02, description="stop once the interval's high / low is below 1 + this")
    timing_budget_s: Positive = Field(
        2.0, description="stop timing a candidate after this long, once min_pairs are there"
    )
    replicates: Count = Field(
        3,
        description="times that a candidate must come out confidently faster, in fresh processes each, to be called so "
        "(where several of a group do, they are timed together once more)",
    )
    timeout_s: Positive = Field(
        30.0, description="longest wait for one call of a candidate: import, construction or forward"
    )
    build_timeout_s: Positive = Field(
        300.0, description="longest wait for a candidate's own kernels to be compiled (CUDA, C++, Triton)"
    )
    memory_gib: Positive = Field(4.0, description="address space a candidate may add to that of an idle worker")
    device_memory_gib: Positive = Field(48.0, description="memory of a GPU that a candidate may take beside that")
    output_mib: Positive = Field(1.0, description="most that a candidate may print or write to a file")
    paper_trials: Count = Field(5, description="timed trials of the paper protocol")
    paper_threads: Count = Field(
        4, description="candidates that the paper protocol evaluates at the same time on one device, as published"
    )
    sandbox: Literal["auto", "required", "off"] = Field(
        "auto",
        description="auto: every layer that this machine has; required: refuse without Landlock and seccomp; "
        "off: only limits on memory, files and time",
    )

    def of_verdicts(self) -> str:
        """What verdicts and timings depend on, as text: not the other protocol's settings; the device is the hardware's name."""
        return self.model_dump_json(exclude={"device", *self.of_other_protocol})

    @property
    def of_other_protocol(self) -> tuple[str, ...]:
        """Settings that only the protocol reads which is not chosen."""
        return PAIRED_ONLY if self.protocol == "paper" else PAPER_ONLY

    @field_validator("sandbox", mode="before")
    @classmethod
    def _off_in_yaml(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false

    @model_validator(mode="after")
    def _ordered(self) -> "EvaluatorSettings":
        if self.max_pairs < self.min_pairs:
            raise ValueError(f"max_pairs ({self.max_pairs}) is below min_pairs ({self.min_pairs})")
        return self
