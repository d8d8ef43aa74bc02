"""Sampling with vLLM. It runs the model, with its scheduler and its prefix cache; tokens are drawn by `TokenDraws`.

vLLM returns log-probs of one convention (`logprobs_mode`), and its random numbers are its own. So it is asked for neither:
a logits processor, vLLM's interface for changing logits, draws each token from the logits as the transformers engine does,
takes both log-probs and the entropy from the same logits, and leaves vLLM nothing to choose but that token. The same seeds
therefore give the same samples under both engines, whatever else is in the batch, as far as the logits agree.

The engine runs in this process, on one device, or with a worker process for each of several shards of the policy (tensor
parallel). Import this module where vLLM is installed only.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from expert_tail.errors import UserError
from expert_tail.policy.load import check_adapter, device_of
from expert_tail.policy.settings import RuntimeSettings
from expert_tail.policy.token_draws import Completion, check_request
from expert_tail.progress import Advance

# Read when vLLM is imported or started. The scheduler is to be in this process; the logits processor is of the first model
# runner's kind.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")  # what fails is raised
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # or it wants a NUMA node for each shard

import vllm
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.config.lora import MaxLoRARanks
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

from expert_tail.policy.vllm_drawing import Drawing, Drawn, begin, end

RANKS = sorted(get_args(MaxLoRARanks))  # that vLLM has kernels for
CPU_BLOCK = 32  # tokens of a cached block; its default on a CPU, 128, would leave much of a prompt to each sample


class VllmEngine:
    """An `Engine` on vLLM, for the policy in `folder` with the adapter that `adapter_now` gives at each call.

    Raises `UserError` where vLLM cannot serve the policy or its adapter, or lacks the memory.
    """

    name = f"vllm {vllm.__version__}"

    def __init__(
        self,
        folder: Path,
        runtime: RuntimeSettings,
        tokenizer: Any,
        stop_ids: Sequence[int],
        checkpoint: str,
        adapter_now: Callable[[], Path | None],
    ) -> None:
        self.tokenizer, self.checkpoint, self.computed_tokens = tokenizer, checkpoint, 0
        self._folder, self._runtime, self._stop_ids = folder, runtime, list(stop_ids)
        self._adapter_now = adapter_now
        self._lora: LoRARequest | None = None
        self._engine = self._start()
        self._positions = getattr(self._engine.model_config.hf_text_config, "max_position_embeddings", None)

    def _start(self) -> LLMEngine:
        device, adapter = device_of(self._runtime).type, self._adapter_now()
        if device != current_platform.device_type:
            raise UserError(
                f"`policy.device` is {device}, but the vLLM that is installed here runs on {current_platform.device_type}; "
                "change `policy.device`, or set `policy.engine` to transformers"
            )
        on_cpu, shards = device == "cpu", self._runtime.shards
        if on_cpu and shards > 1:  # else each worker takes all cores, and vLLM leaves this process one
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // shards)))
        lora = {} if adapter is None else {"enable_lora": True, "max_loras": 1, "max_lora_rank": self._rank(adapter)}
        try:
            return LLMEngine.from_engine_args(
                EngineArgs(
                    model=str(self._folder),
                    skip_tokenizer_init=True,
                    dtype=self._runtime.dtype,
                    max_model_len=-1,  # what the model and the KV cache hold
                    kv_cache_memory_bytes=int(self._runtime.kv_cache_gib * 2**30),
                    gpu_memory_utilization=0.01,  # beside that it asks for none: a policy in training may have the rest
                    block_size=CPU_BLOCK if on_cpu else None,
                    enable_prefix_caching=True,
                    enforce_eager=on_cpu,  # compiling would take longer than it saves
                    async_scheduling=False,  # a token is drawn when those before it are known
                    logits_processors=[Drawing],
                    tensor_parallel_size=shards,
                    distributed_executor_backend="mp" if shards > 1 else "uni",
                    disable_log_stats=True,
                    use_tqdm_on_load=False,
                    **lora,
                )
            )
        except Exception as error:
            # Of workers in processes of their own vLLM tells only that they failed, by a bare Exception.
            if not isinstance(error, (ValueError, RuntimeError)) and type(error) is not Exception:
                raise
            raise UserError(
                f"vLLM cannot serve {self._folder}: {_brief(error)}; `policy.kv_cache_gib` is {self._runtime.kv_cache_gib:g}, "
                f"`policy.shards` {shards}: change them if memory or divisibility is the matter, else set `policy.engine` to "
                "transformers (VLLM_LOGGING_LEVEL=INFO tells more)"
            ) from error

    def _rank(self, adapter: Path) -> int:
        """The smallest of vLLM's ranks that holds the adapter's."""
        rank = check_adapter(adapter, self._folder)["r"]
        if rank > RANKS[-1]:
            raise UserError(
                f"{adapter} has rank {rank}, and vLLM serves adapters up to rank {RANKS[-1]}; lower `lora.rank`, or set "
                "`policy.engine` to transformers"
            )
        return next(one for one in RANKS if one >= rank)

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
        check_request(prompts, n, temperature, max_tokens, seeds, self._positions)
        longest, held = max(map(len, prompts)) + max_tokens, self._engine.model_config.max_model_len
        if longest > held:
            raise UserError(
                f"a prompt with `max_tokens` has {longest} tokens, and vLLM's cache of {self._runtime.kv_cache_gib:g} GiB holds "
                f"{held}; raise `policy.kv_cache_gib`"
            )
        lora = self._current_lora()
        request = (prompts, n, seeds, self._stop_ids, temperature, max_tokens)
        self._engine.collective_rpc(begin, args=request)
        left = {str(s) for s in range(len(prompts) * n)}
        taken: dict[int, list[int]] = {}
        try:
            for s in range(len(left)):
                prompt, params = {"prompt_token_ids": list(prompts[s // n])}, self._params(s, max_tokens)
                self._engine.add_request(str(s), prompt, params, lora_request=lora)
            while self._engine.has_unfinished_requests():
                done = [output for output in self._engine.step() if output.finished]
                for output in done:
                    taken[int(output.request_id)] = self._account(output)
                    left.remove(output.request_id)
                if advance is not None and done:
                    advance(len(done))
        except BaseException:
            with suppress(Exception):  # a worker that is gone would fail again
                self._engine.abort_request(sorted(left))
                self._engine.collective_rpc(end)
            raise
        return self._checked(self._engine.collective_rpc(end), taken)

    def _params(self, sample: int, max_tokens: int) -> SamplingParams:
        """Of the one token that is left to choose from, vLLM takes the likeliest."""
        return SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            stop_token_ids=self._stop_ids,
            ignore_eos=True,  # the stop tokens are ours
            detokenize=False,
            extra_args={"sample": sample},
        )

    def _account(self, output: Any) -> list[int]:
        """The tokens of a finished request; those that went through the model are counted."""
        tokens = list(output.outputs[0].token_ids)
        # The last token is drawn and not run.
        self.computed_tokens += len(output.prompt_token_ids) - (output.num_cached_tokens or 0) + len(tokens) - 1
        return tokens

    def _checked(self, drawn: Sequence[Drawn], taken: dict[int, list[int]]) -> list[list[Completion]]:
        """What the first worker drew, if the others drew the same and vLLM took it."""
        if failures := [one.failure for one in drawn if one.failure is not None]:
            raise FloatingPointError(failures[0])
        completions = drawn[0].completions
        if completions is None or len({one.checksum for one in drawn}) > 1:
            raise RuntimeError(f"the {len(drawn)} shards of vLLM {vllm.__version__} drew different tokens, or not all")
        for sample, one in enumerate(one for of_prompt in completions for one in of_prompt):
            if one.token_ids != taken[sample]:
                raise RuntimeError(
                    f"vLLM {vllm.__version__} did not take the tokens that were drawn for sample {sample}"
                )
        return completions

    @property
    def adapter_name(self) -> str | None:
        """What vLLM knows the last adapter by."""
        return self._lora.lora_name if self._lora else None

    def _current_lora(self) -> LoRARequest | None:
        """The adapter as it is now. Its name says what it holds: vLLM's prefix cache goes by the name."""
        adapter = self._adapter_now()
        if adapter is None:
            return None
        name = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()[:16]
        if self._lora is None or self._lora.lora_name != name:
            number = self._lora.lora_int_id + 1 if self._lora else 1
            lora = LoRARequest(name, number, str(adapter))
            try:
                self._engine.add_lora(lora)
            except (ValueError, RuntimeError) as error:
                raise UserError(
                    f"vLLM cannot serve the adapter {adapter}: {_brief(error)}; set `policy.engine` to transformers"
                ) from error
            self._lora = lora
        return self._lora

    def close(self) -> None:
        """Give back the memory and what else vLLM holds of this process."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._engine.engine_core.shutdown()
        del self._engine
        cleanup_dist_env_and_memory()


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
