"""Where the input tensors of one or more calls lie in a worker's one input buffer. Pure."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from expert_tail.evaluator.tensors import DTYPES, Tensor

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

    @property
    def tensors(self) -> list[dict[str, Any]]:
        """Specs of a call's tensors."""
        return [spec for spec, offset in zip(self.specs, self.offsets, strict=True) if offset is not None]

    def places(self, call: int) -> list[tuple[int, int]]:
        """Where each tensor of a call begins in the buffer, and its bytes."""
        starts = [call * self.call_bytes + offset for offset in self.offsets if offset is not None]
        sizes = [math.prod(spec["shape"]) * DTYPES[spec["dtype"]].itemsize for spec in self.tensors]
        return list(zip(starts, sizes, strict=True))


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of one or more calls, ready to be copied into a worker."""

    n_calls: int
    packed: torch.Tensor  # uint8, as a worker's buffer

    @classmethod
    def blank(cls, layout: Layout, n_calls: int, device: torch.device) -> "Inputs":
        """To be filled. What lies between tensors is zero."""
        is_full = layout.call_bytes == sum(n_bytes for _, n_bytes in layout.places(0))
        make = torch.empty if is_full and layout.call_bytes else torch.zeros
        return cls(n_calls, make(max(1, layout.call_bytes * n_calls), dtype=torch.uint8, device=device))

    def of_call(self, layout: Layout, call: int) -> list[Tensor]:
        """Its tensors, which are views of the bytes."""
        found = []
        for spec, (start, n_bytes) in zip(layout.tensors, layout.places(call), strict=True):
            flat = self.packed[start : start + n_bytes].view(DTYPES[spec["dtype"]])
            found.append(Tensor(spec["dtype"], flat.view(spec["shape"])))
        return found
