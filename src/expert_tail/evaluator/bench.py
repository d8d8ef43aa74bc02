"""The reference's side of a task: its worker, the inputs drawn, and what the outputs must be. Shared by all candidates."""

import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from expert_tail.evaluator.correctness import VARIATIONS, Expected, expect, mismatch, vary
from expert_tail.evaluator.process import ForkServer, Worker, WorkerFailure
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.tasks import Task

POOL_BYTES = 1 << 29  # inputs kept for the next candidate; more are drawn again
REFERENCE_MEMORY = 4.0  # times a candidate's, since it also holds a float64 copy

_DTYPES = {
    name: np.dtype(name)
    for name in ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]
}
_BFLOAT16 = np.dtype("uint16")  # NumPy has none: kept as bits


class Bench:
    """A task's reference, ready to be compared with. Raises `WorkerFailure` where the reference itself fails."""

    def __init__(self, server: ForkServer, task: Task, settings: EvaluatorSettings, core: int) -> None:
        self.settings, self.core = settings, core
        self.seed = int.from_bytes(os.urandom(6))  # unknown to candidates; a new one each time
        self.worker = server.start(limits(settings, core, memory=REFERENCE_MEMORY))
        try:
            source = self.worker.scratch / "candidate.py"
            source.write_text(task.reference_source)
            self.blob = self.worker.scratch / "parameters.pickle"
            self._call({"do": "load", "path": str(source)}, "loaded")
            self._call({"do": "describe", "blob": str(self.blob), "seed": self.seed}, "done")
            self._pool: dict[int, list[Any]] = {}
            first = self.inputs(0)
            self.specs = [
                {"dtype": x.dtype, "shape": x.shape} if isinstance(x, Tensor) else {"value": x} for x in first
            ]
            self.addresses = self._call({"do": "allocate", "specs": self.specs}, "addresses")
            self.cases = [case for i in range(settings.correctness_trials) if (case := self._case(i)) is not None]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.worker.close()

    def inputs(self, index: int) -> list[Any]:
        """Inputs number `index` of this session: tensors and plain values, as `get_inputs` of the task draws them."""
        if index not in self._pool:
            answer = self._call({"do": "draw", "seed": self.seed + index}, "drawn")
            inputs = [read_tensor(self.worker, x) if "address" in x else x["value"] for x in answer]
            if (
                sum(x.data.nbytes for i in [*self._pool.values(), inputs] for x in i if isinstance(x, Tensor))
                > POOL_BYTES
            ):
                return inputs
            self._pool[index] = inputs
        return self._pool[index]

    def _case(self, index: int) -> "Case | None":
        rng = np.random.default_rng(self.seed + index)
        variation = VARIATIONS[index % len(VARIATIONS)]
        drawn = self.inputs(index)
        varied = vary([x.array if isinstance(x, Tensor) else x for x in drawn], variation, rng)
        inputs = [x.with_values(v) if isinstance(x, Tensor) else v for x, v in zip(drawn, varied, strict=True)]
        try:
            _, single = run(self.worker, self.addresses, inputs, self.settings.timeout_s)
            expected = self._expected(inputs, single)
        except WorkerFailure:
            if index == 0:
                raise
            return None  # the task does not allow this variation, for example class indices that were floats
        finite = all(np.isfinite(e.exact.values).all() for e in expected)
        return Case(inputs, expected) if finite or index == 0 else None

    def _expected(self, inputs: list[Any], single: list["Tensor"]) -> list["Output"]:
        try:
            _, double = run(self.worker, self.addresses, inputs, self.settings.timeout_s, double=True)
        except WorkerFailure as failure:
            if failure.status != "runtime_error":
                raise
            double = single  # a reference that names its dtype cannot run in float64
        return [Output(s, expect(s.values(), d.values())) for s, d in zip(single, double, strict=True)]

    def _call(self, command: dict[str, Any], expect_key: str) -> Any:
        return self.worker.call(command, expect_key, self.settings.timeout_s)


@dataclass(frozen=True)
class Tensor:
    """A tensor's bytes as they lie in memory, contiguous, with torch's name of its dtype."""

    dtype: str
    shape: list[int]
    data: np.ndarray  # uint8, flat

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


@dataclass(frozen=True)
class Output:
    """An output of the reference as computed, and what it is in exact arithmetic."""

    computed: Tensor
    exact: Expected


@dataclass(frozen=True)
class Case:
    inputs: list[Any]
    expected: list[Output]


def check(outputs: list[Tensor], expected: list[Output]) -> None:
    """Raise `WorkerFailure` unless the outputs are what they must be."""
    if len(outputs) != len(expected):
        raise WorkerFailure("incorrect", f"returned {len(outputs)} tensors instead of {len(expected)}", "wrong_arity")
    for output, wanted in zip(outputs, expected, strict=True):
        if output.shape != wanted.computed.shape:
            raise WorkerFailure(
                "incorrect", f"returned shape {output.shape} instead of {wanted.computed.shape}", "wrong_shape"
            )
        if output.dtype != wanted.computed.dtype:
            raise WorkerFailure(
                "incorrect", f"returned {output.dtype} instead of {wanted.computed.dtype}", "wrong_dtype"
            )
        if same_bytes(output.data, wanted.computed.data):
            continue  # most candidates compute the reference's very bits
        if problem := mismatch(output.values(), wanted.exact):
            raise WorkerFailure("incorrect", problem, "wrong_values")


def same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two flat uint8 arrays are equal; eight bytes a comparison."""
    whole = a.size - a.size % 8
    return (
        a.size == b.size
        and np.array_equal(a[:whole].view("u8"), b[:whole].view("u8"))
        and np.array_equal(a[whole:], b[whole:])
    )


def limits(settings: EvaluatorSettings, core: int, memory: float = 1.0) -> dict[str, float]:
    return {
        "memory_bytes": settings.memory_gib * memory * 2**30,
        "file_bytes": settings.output_mib * 2**20 if memory == 1.0 else 2**32,
        "core": core,
        "threads": 1,
    }


def run(
    worker: Worker, addresses: list[int | None], inputs: list[Any], timeout_s: float, double: bool = False
) -> tuple[float, list[Tensor]]:
    """Run the worker's model once on `inputs`; seconds by the parent's clock, and the outputs. It stays frozen.

    Raises `WorkerFailure`, also for a worker that changed its inputs.
    """
    worker.call({"do": "run", "double": double}, "ready", timeout_s)
    for address, value in zip(addresses, inputs, strict=True):
        if address is not None:
            worker.write(address, value.data)
    seconds, described = worker.timed_go(timeout_s)
    outputs = [read_tensor(worker, description) for description in described]
    for address, value in zip(addresses, inputs, strict=True):
        if address is not None and not same_bytes(worker.read(address, value.data.nbytes), value.data):
            raise WorkerFailure("incorrect", "the inputs are changed after the call", "input_mutated")
    return seconds, outputs


def read_tensor(worker: Worker, description: dict[str, Any]) -> Tensor:
    """Read a tensor that a worker describes. The description is not trusted."""
    if "type" in description:
        raise WorkerFailure("incorrect", f"returned {description['type']}, not a torch.Tensor", "not_a_tensor")
    try:
        dtype, device = str(description["dtype"]), description["device"]
        shape = [int(n) for n in description["shape"]]
        strides = [int(n) for n in description["strides"]]
        address = int(description["address"])
        if len(shape) != len(strides) or min([*shape, *strides, 0]) < 0:
            raise ValueError("negative size")
    except (KeyError, TypeError, ValueError):
        raise WorkerFailure(
            "rejected", "an answer on the evaluator's channel that is not its own", "forged_answer"
        ) from None
    if device != "cpu":
        raise WorkerFailure("incorrect", f"returned a tensor on {device}", "wrong_device")
    if dtype != "bfloat16" and dtype not in _DTYPES:
        raise WorkerFailure("incorrect", f"returned dtype {dtype}", "wrong_dtype")
    element = _DTYPES.get(dtype, _BFLOAT16)
    if 0 in shape:
        return Tensor(dtype, shape, np.empty(0, np.uint8))
    extent = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if extent * element.itemsize > sys.maxsize or extent > 4 * np.prod(shape, dtype=float) + 2**20:
        raise WorkerFailure(
            "incorrect", "returned a tensor spread over far more memory than it has values", "sparse_strides"
        )
    raw = worker.read(address, extent * element.itemsize)
    byte_strides = [stride * element.itemsize for stride in strides]
    strided = np.lib.stride_tricks.as_strided(raw.view(element), shape, byte_strides)
    return Tensor(dtype, shape, np.ascontiguousarray(strided).reshape(-1).view(np.uint8))
