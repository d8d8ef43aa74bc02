"""How many tokens a model really computed: what sharing prefixes and duplicates has saved is the rest."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class TokenCount:
    tokens: int = 0


@contextmanager
def counted_tokens(model: Any) -> Iterator[TokenCount]:
    """Count the tokens that go through `model` in the block, at its input embedding; a backward pass adds none.

    `model` is a causal LM, or the PEFT model around it.
    """
    count = TokenCount()

    def add(module: Any, arguments: tuple[Any, ...]) -> None:
        count.tokens += arguments[0].numel()

    hook = model.get_input_embeddings().register_forward_pre_hook(add)
    try:
        yield count
    finally:
        hook.remove()
