"""What samples from a policy, behind one interface: our sampler on transformers, or vLLM.

Whichever engine is chosen, the same seeds give the same samples up to rounding, and a completion carries the log-probs of
the engine that drew it. Scoring and updates are not an engine's: they run on transformers with shared prefixes.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol

import torch.distributed as dist
from accelerate.utils import broadcast_object_list

from expert_tail.errors import UserError
from expert_tail.policy.counting import counted_tokens
from expert_tail.policy.divide import divides
from expert_tail.policy.load import BASE, Policy, device_of, load_policy, load_tokenizer, save_adapter
from expert_tail.policy.sampler import sample
from expert_tail.policy.settings import RuntimeSettings
from expert_tail.policy.token_draws import Completion
from expert_tail.progress import Advance


class Engine(Protocol):
    """Draws completions from one policy, with the weights that it has at each call."""

    name: str  # with the version where that is another package's
    tokenizer: Any
    checkpoint: str  # "base", or the name of the adapter's folder
    computed_tokens: int  # that went through the model so far

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        *,
        temperature: float,
        max_tokens: int,
        seeds: Sequence[int],
        advance: Advance | None = None,
    ) -> list[list[Completion]]:
        """`n` completions of each prompt; arguments, result and errors are those of `sampler.sample`."""


class TransformersEngine:
    name = "transformers"

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.tokenizer, self.checkpoint, self.computed_tokens = policy.tokenizer, policy.checkpoint, 0

    def sample(self, prompts: Sequence[Sequence[int]], n: int, **options: Any) -> list[list[Completion]]:
        with counted_tokens(self._policy.model) as computed:
            drawn = sample(self._policy.model, prompts, n, stop_ids=self._policy.stop_ids, **options)
        self.computed_tokens += computed.tokens
        return drawn


class _FirstsEngine:
    """For all processes that train a divided policy: the engine that the first one has."""

    def __init__(self, policy: Policy, engine: Engine | None) -> None:
        self._engine, self.name = engine, "vllm" if engine is None else engine.name
        self.tokenizer, self.checkpoint, self.computed_tokens = policy.tokenizer, policy.checkpoint, 0

    def sample(self, prompts: Sequence[Sequence[int]], n: int, **options: Any) -> list[list[Completion]]:
        drawn = None
        if self._engine is not None:
            drawn = self._engine.sample(prompts, n, **options)
            self.computed_tokens = self._engine.computed_tokens
        (drawn,) = broadcast_object_list([drawn])
        return drawn


def chosen_engine(runtime: RuntimeSettings) -> Literal["transformers", "vllm"]:
    """The engine that the settings ask for; a `UserError` where that is vLLM and it is not installed, or there are several
    processes, each of which would start a vLLM of its own beside its whole policy in training."""
    is_installed = importlib.util.find_spec("vllm") is not None
    are_several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and runtime.shards == 1
    if runtime.engine == "auto":
        fits = is_installed and not are_several and device_of(runtime).type == "cuda"
        return "vllm" if fits else "transformers"
    if runtime.engine == "vllm" and are_several:
        raise UserError(
            "`policy.engine`: vllm does not go with `policy.processes` above 1, unless `policy.shards` is as many"
        )
    if runtime.engine == "vllm" and not is_installed:
        raise UserError(
            "`policy.engine`: vllm was asked for, but this Python has no vLLM. On a CPU `make install-vllm` makes an "
            "environment that has it (then PATH=.venv-vllm/bin:$PATH); on a GPU `pip install vllm`. Or set it to transformers"
        )
    return runtime.engine


@contextmanager
def engine_of_checkpoint(folder: Path, runtime: RuntimeSettings, adapter: Path | None = None) -> Iterator[Engine]:
    """An engine for the policy in `folder` with `adapter` on it. vLLM loads its own weights; transformers' stay away."""
    if chosen_engine(runtime) == "transformers":
        yield TransformersEngine(load_policy(folder, runtime, adapter))
        return
    tokenizer, stop_ids = load_tokenizer(folder)
    checkpoint = BASE if adapter is None else adapter.name
    with _vllm(folder, runtime, tokenizer, stop_ids, checkpoint, lambda: adapter) as engine:
        yield engine


@contextmanager
def engine_of_policy(policy: Policy, runtime: RuntimeSettings) -> Iterator[Engine]:
    """An engine for a policy in training. vLLM gets its adapter as a file, anew for each call."""
    if chosen_engine(runtime) == "transformers":
        yield TransformersEngine(policy)
        return
    if divides(runtime):
        with _vllm_of_policy(policy, runtime) if dist.get_rank() == 0 else nullcontext() as engine:
            yield _FirstsEngine(policy, engine)
        return
    with _vllm_of_policy(policy, runtime) as engine:
        yield engine


@contextmanager
def _vllm_of_policy(policy: Policy, runtime: RuntimeSettings) -> Iterator[Engine]:
    handed_over = Path(tempfile.mkdtemp(prefix="expert-tail-adapter-"))

    def adapter_now() -> Path:
        save_adapter(policy, handed_over / "now")
        return handed_over / "now"

    try:
        vocabulary = policy.tokenizer, policy.stop_ids
        with _vllm(policy.folder, runtime, *vocabulary, policy.checkpoint, adapter_now) as engine:
            yield engine
    finally:
        shutil.rmtree(handed_over, ignore_errors=True)


@contextmanager
def _vllm(
    folder: Path,
    runtime: RuntimeSettings,
    tokenizer: Any,
    stop_ids: tuple[int, ...],
    checkpoint: str,
    adapter_now: Callable[[], Path | None],
) -> Iterator[Engine]:
    from expert_tail.policy.vllm_engine import VllmEngine  # which imports vLLM

    engine = VllmEngine(folder, runtime, tokenizer, stop_ids, checkpoint, adapter_now)
    try:
        yield engine
    finally:
        engine.close()
