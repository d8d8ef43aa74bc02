"""Tensors in the parent, and how it reads one that a worker describes. No description is trusted."""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from expert_tail.evaluator.process import WorkerFailure, forged

_NAMES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")
SPARSE_BYTES = 1 << 28  # that a view may span beyond four times its values: enough for one of most inputs
DTYPES = {name: getattr(torch, name) for name in _NAMES} | {"bool": torch.uint8}


class Source(Protocol):
    """Memory of a worker, on its device."""

    device: torch.device

    def bytes_at(self, address: int, n_bytes: int) -> torch.Tensor:
        """The bytes, as uint8: a copy, unless they are borrowed. Raises `WorkerFailure` for an address that the worker has not."""
        ...


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor's values, contiguous, with torch's name of its dtype: a bool is kept as bytes, which need not be 0 or 1."""

    dtype: str
    data: torch.Tensor
    described: dict[str, Any] = field(default_factory=dict)  # by its worker
    place: tuple[int, ...] = ()  # among lists and tuples that were returned: () of one returned by itself

    @property
    def shape(self) -> list[int]:
        return list(self.data.shape)

    @property
    def n_bytes(self) -> int:
        return self.data.nbytes

    def rows(self, n_calls: int) -> torch.Tensor:
        """Values as `rows_NS`, one row a call."""
        return self.data.reshape(n_calls, -1) if self.data.numel() else self.data.new_empty(n_calls, 0)

    def described_only(self) -> "Tensor":
        """Dtype and shape without the values."""
        return Tensor(self.dtype, self.data.to("meta"), place=self.place)


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two contiguous tensors hold the same bytes, NaN or not."""
    flat_a, flat_b = a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)
    if flat_a.shape != flat_b.shape:
        return False
    if flat_a.data_ptr() == flat_b.data_ptr():
        return True
    whole = flat_a.numel() - flat_a.numel() % 8  # eight bytes a comparison
    same = torch.equal if a.is_cuda else _equal_on_cpu
    return same(flat_a[:whole].view(torch.int64), flat_b[:whole].view(torch.int64)) and same(
        flat_a[whole:], flat_b[whole:]
    )


def _equal_on_cpu(a: torch.Tensor, b: torch.Tensor) -> bool:
    return np.array_equal(a.numpy(), b.numpy())  # three times as fast as torch's own


def are_finite(values_NS: torch.Tensor) -> torch.Tensor:
    """For each row whether all of it is finite; makes no other tensor of this size."""
    if not values_NS.is_floating_point() or not values_NS.numel():
        return torch.ones(len(values_NS), dtype=torch.bool, device=values_NS.device)
    low_N, high_N = torch.aminmax(values_NS) if len(values_NS) == 1 else torch.aminmax(values_NS, dim=1)
    return (low_N.isfinite() & high_N.isfinite()).reshape(len(values_NS))


def flat_array(x: torch.Tensor) -> Any:
    """Values as a flat NumPy array, which knows no bfloat16."""
    return (x.float() if x.dtype is torch.bfloat16 else x).flatten().cpu().numpy()


def read_tensor(source: Source, description: Any, wanted: Tensor | None = None) -> Tensor:
    """Read a tensor that a worker describes. The description is not trusted; what it says must agree with `wanted`."""
    if not isinstance(description, dict):
        raise forged()
    if "type" in description:
        raise WorkerFailure("incorrect", f"returned {description['type']}, not a torch.Tensor", "not_a_tensor")
    dtype, device = str(description.get("dtype")).removeprefix("torch."), description.get("device")
    shape: Any = description.get("shape")
    strides: Any = description.get("strides")
    address: Any = description.get("address")
    place: Any = description.get("place", [])
    if not all(map(_is_sizes, (shape, strides, place))) or len(shape) != len(strides) or not isinstance(address, int):
        raise forged()
    if device != source.device.type:
        raise WorkerFailure("incorrect", f"returned a tensor on {device}", "wrong_device")
    if wanted is not None and tuple(place) != wanted.place:
        raise WorkerFailure(
            "incorrect", "returned tensors in other lists or tuples than the reference", "wrong_nesting"
        )
    if wanted is not None and shape != wanted.shape:
        raise WorkerFailure("incorrect", f"returned shape {shape} instead of {wanted.shape}", "wrong_shape")
    if wanted is not None and dtype != wanted.dtype:
        raise WorkerFailure("incorrect", f"returned {dtype} instead of {wanted.dtype}", "wrong_dtype")
    if dtype not in DTYPES:
        raise WorkerFailure("incorrect", f"returned dtype {dtype}", "wrong_dtype")
    element: torch.dtype = DTYPES[dtype]
    if 0 in shape:
        return Tensor(dtype, torch.empty(shape, dtype=element, device=source.device), place=tuple(place))
    extent = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if extent * element.itemsize > 4 * math.prod(shape) * element.itemsize + SPARSE_BYTES:
        raise WorkerFailure(
            "incorrect", "returned a tensor spread over far more memory than it has values", "sparse_strides"
        )
    if not is_address(address) or address % element.itemsize:
        raise WorkerFailure("rejected", "no memory at the address answered", "bad_address")
    raw = source.bytes_at(address, extent * element.itemsize)
    return Tensor(dtype, raw.view(element).as_strided(shape, strides).contiguous(), description, tuple(place))


def is_address(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)
