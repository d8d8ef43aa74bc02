"""A GGUF file as a Hugging Face folder: weights unpacked to float32, tokenizer, chat template, generation config."""

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expert_tail.errors import UserError
from expert_tail.policy.weights import quiet
from expert_tail.progress import log

# Pre-tokenizers that split digits one by one before the byte-level split; transformers' conversion drops that step,
# and the policy would then see spaces before numbers in pieces it was not trained on.
_DIGIT_SPLITTING = {"smollm", "starcoder", "refact", "command-r", "codeshell"}


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Save what `gguf` holds to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    log(f"fetch_policy: unpacking {gguf.name} to float32 (about 20 s)")
    with _read_once(), quiet():
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
            )
            tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        except (ValueError, KeyError, IndexError, RuntimeError, NotImplementedError) as error:
            raise UserError(f"{gguf.name} cannot be read as a causal language model: {error}") from error
        if _pre_tokenizer(gguf) in _DIGIT_SPLITTING:
            _split_digits(tokenizer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def _read_once() -> Iterator[None]:
    """Share one reader of the file: it parses the whole vocabulary, and transformers would make three of them."""
    module: Any = importlib.import_module("gguf")
    reader = module.GGUFReader
    cached = functools.lru_cache(maxsize=1)(lambda path, *_: reader(path))
    module.GGUFReader = lambda path, *rest: cached(str(path), *rest)
    try:
        yield
    finally:
        module.GGUFReader = reader


def _pre_tokenizer(gguf: Path) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    return field.contents() if field else None


def _split_digits(tokenizer: Any) -> None:
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
