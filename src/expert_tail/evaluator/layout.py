"""Where the input tensors of one or more calls lie in a worker's one input buffer. Pure."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from expert_tail.evaluator.tensors import Tensor

ALIGNMENT = 256  # bytes; what CUDA's own allocator gives


@dataclass(frozen=True)
class Layout:
    """The buffer holds `n_calls` times the tensors of `specs`; plain values stay in the specs."""

    specs: list[dict[str, Any]]  # {"dtype", "shape"} of a tensor, or {"value"}
    offsets: list[int | None]  # of each tensor within its call, in bytes
    call_bytes: int
    n_calls: int

    @classmethod
    def of(cls, example: list[Any], n_calls: int) -> "Layout":
        """The layout for calls whose inputs are like `example`, a list of `Tensor` and plain values."""
        offsets: list[int | None] = []
        end = 0
        for x in example:
            offsets.append(end if isinstance(x, Tensor) else None)
            if isinstance(x, Tensor):
                end = math.ceil((end + x.n_bytes) / ALIGNMENT) * ALIGNMENT
        specs = [{"dtype": x.dtype, "shape": x.shape} if isinstance(x, Tensor) else {"value": x} for x in example]
        return cls(specs, offsets, end, n_calls)

    @property
    def n_bytes(self) -> int:
        return max(1, self.call_bytes * self.n_calls)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of one or more calls, ready to be copied into a worker."""

    n_calls: int
    packed: torch.Tensor  # uint8, as a worker's buffer

    @classmethod
    def of(cls, layout: Layout, calls: Iterator[list[Any]], n_calls: int, device: torch.device) -> "Inputs":
        """From `calls`, which are taken one by one: large ones need no room together."""
        if n_calls == 1:
            only = next(calls)
            tensors = [x for x in only if isinstance(x, Tensor)]
            if len(tensors) == 1 and tensors[0].n_bytes == layout.call_bytes:  # large ones are not held twice
                return cls(1, tensors[0].data.view(-1).view(torch.uint8))
            calls = iter([only])
        packed = torch.zeros(max(1, layout.call_bytes * n_calls), dtype=torch.uint8, device=device)
        for i, call in enumerate(calls):
            for offset, x in zip(layout.offsets, call, strict=True):
                if offset is not None and x.n_bytes:
                    start = i * layout.call_bytes + offset
                    packed[start : start + x.n_bytes] = x.data.view(-1).view(torch.uint8)
        return cls(n_calls, packed)
