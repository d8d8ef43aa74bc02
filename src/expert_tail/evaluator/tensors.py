"""Tensors as bytes, and how the parent reads one that a worker describes. No description is trusted."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from expert_tail.evaluator.process import Worker, WorkerFailure, forged

_DTYPES = {
    name: np.dtype(name) for name in ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"]
} | {"bool": np.dtype("uint8")}  # as bytes, since a candidate's need not be 0 or 1
_BFLOAT16 = np.dtype("uint16")  # NumPy has none: kept as bits


@dataclass(frozen=True)
class Tensor:
    """A tensor's bytes as they lie in memory, contiguous, with torch's name of its dtype."""

    dtype: str
    shape: list[int]
    data: np.ndarray  # uint8, flat
    described: dict[str, Any] = field(default_factory=dict)  # by its worker

    @property
    def array(self) -> np.ndarray:
        return self.data.view(_DTYPES.get(self.dtype, _BFLOAT16)).reshape(self.shape)

    def with_values(self, array: np.ndarray) -> "Tensor":
        return Tensor(self.dtype, self.shape, np.ascontiguousarray(array).reshape(-1).view(np.uint8))

    def values(self) -> np.ndarray:
        """Flat values: floating ones as float64, others as they are."""
        if self.dtype == "bfloat16":
            return (self.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        flat = self.data.view(_DTYPES[self.dtype])
        return flat.astype(np.float64) if np.issubdtype(flat.dtype, np.floating) else flat


def same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two flat uint8 arrays are equal; eight bytes a comparison."""
    whole = a.size - a.size % 8
    return (
        a.size == b.size
        and np.array_equal(a[:whole].view("u8"), b[:whole].view("u8"))
        and np.array_equal(a[whole:], b[whole:])
    )


def read_tensor(worker: Worker, description: Any, wanted: Tensor | None = None) -> Tensor:
    """Read a tensor that a worker describes. The description is not trusted; what it says must agree with `wanted`."""
    if not isinstance(description, dict):
        raise forged()
    if "type" in description:
        raise WorkerFailure("incorrect", f"returned {description['type']}, not a torch.Tensor", "not_a_tensor")
    dtype, device = str(description.get("dtype")).removeprefix("torch."), description.get("device")
    shape: Any = description.get("shape")
    strides: Any = description.get("strides")
    address: Any = description.get("address")
    if not (_is_sizes(shape) and _is_sizes(strides) and len(shape) == len(strides) and isinstance(address, int)):
        raise forged()
    if device != "cpu":
        raise WorkerFailure("incorrect", f"returned a tensor on {device}", "wrong_device")
    if wanted is not None and shape != wanted.shape:
        raise WorkerFailure("incorrect", f"returned shape {shape} instead of {wanted.shape}", "wrong_shape")
    if wanted is not None and dtype != wanted.dtype:
        raise WorkerFailure("incorrect", f"returned {dtype} instead of {wanted.dtype}", "wrong_dtype")
    if dtype != "bfloat16" and dtype not in _DTYPES:
        raise WorkerFailure("incorrect", f"returned dtype {dtype}", "wrong_dtype")
    if 0 in shape:
        return Tensor(dtype, shape, np.empty(0, np.uint8))
    element = _DTYPES.get(dtype, _BFLOAT16)
    extent = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if extent > 4 * math.prod(shape) + 2**20:
        raise WorkerFailure(
            "incorrect", "returned a tensor spread over far more memory than it has values", "sparse_strides"
        )
    if not is_address(address):
        raise WorkerFailure("rejected", "no memory at the address answered", "bad_address")
    raw = worker.read(address, extent * element.itemsize)
    byte_strides = [stride * element.itemsize for stride in strides]
    strided = np.lib.stride_tricks.as_strided(raw.view(element), shape, byte_strides)
    return Tensor(dtype, shape, np.ascontiguousarray(strided).reshape(-1).view(np.uint8), description)


def is_address(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)
