"""The reference's side of a task: its worker, the inputs drawn, and what the outputs must be. Shared by all candidates."""

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from expert_tail.evaluator.correctness import VARIATIONS, Expected, Variation, expect, mismatch, vary
from expert_tail.evaluator.process import ForkServer, Worker, WorkerFailure, forged
from expert_tail.evaluator.sandbox import Limits
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.evaluator.worker import RUN, RUN_DOUBLE
from expert_tail.tasks import Task

POOL_BYTES = 1 << 29  # inputs kept for the next candidate; more are drawn again
REFERENCE_MEMORY = 4.0  # times a candidate's, since it also holds a float64 copy

_DTYPES = {
    name: np.dtype(name) for name in ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"]
} | {"bool": np.dtype("uint8")}  # as bytes, since a candidate's need not be 0 or 1
_BFLOAT16 = np.dtype("uint16")  # NumPy has none: kept as bits


class Bench:
    """A task's reference, ready to be compared with. Raises `WorkerFailure` where the reference itself fails."""

    def __init__(self, server: ForkServer, task: Task, settings: EvaluatorSettings, core: int) -> None:
        self.settings, self.core = settings, core
        self._secret = os.urandom(16)  # what inputs are drawn from: no process that runs a candidate ever holds it
        self.seed = self._seed("parameters")  # this one candidates do get
        self.worker = server.start(limits(settings, core, is_reference=True))
        try:
            source = self.worker.scratch / "candidate.py"
            source.write_text(task.reference_source)
            self.blob = self.worker.scratch / "parameters.pickle"
            self._call({"do": "load", "path": str(source)}, "loaded")
            self._call({"do": "describe", "blob": str(self.blob), "seed": self.seed}, "done")
            self._pool: dict[int, list[Any]] = {}
            self._usable = [VARIATIONS[0]]
            first = self.inputs(0)
            self.specs = [
                {"dtype": x.dtype, "shape": x.shape} if isinstance(x, Tensor) else {"value": x} for x in first
            ]
            self.addresses = allocate(self.worker, self.specs, settings.timeout_s)
            found = {index: self._case(index) for index in range(settings.correctness_trials)}
            self.cases = [case for case in found.values() if case is not None]
            self.outputs = [output.computed for output in self.cases[0].expected]
            self._usable = [VARIATIONS[i] for i, case in found.items() if case is not None and i < len(VARIATIONS)]
            self._errors = [[output.exact.reference_error for output in case.expected] for case in self.cases]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.worker.close()

    def inputs(self, index: int) -> list[Any]:
        """Inputs number `index` of this session: tensors and plain values, drawn by the task's `get_inputs`, and varied.

        The first ones are those of the cases, one variation after the other. Later ones, for timing, take the variations
        that the task allows, as often each, in an order that is not known: else a candidate could tell by its count of
        calls which inputs follow, and be right on those alone.
        """
        if index not in self._pool:
            answer = self._call({"do": "draw", "seed": self._seed(f"inputs {index}")}, "drawn")
            drawn = [read_tensor(self.worker, x) if "address" in x else x["value"] for x in answer]
            rng = np.random.default_rng(self._seed(f"variation {index}"))
            varied = vary([x.array if isinstance(x, Tensor) else x for x in drawn], self._variation(index), rng)
            inputs = [x.with_values(v) if isinstance(x, Tensor) else v for x, v in zip(drawn, varied, strict=True)]
            held = sum(x.data.nbytes for i in [*self._pool.values(), inputs] for x in i if isinstance(x, Tensor))
            if held > POOL_BYTES:
                return inputs
            self._pool[index] = inputs
        return self._pool[index]

    def errors(self, index: int) -> list[float]:
        """The reference's own error on inputs like number `index`, for each output."""
        return self._errors[self._place(index)]

    def _place(self, index: int) -> int:
        timed, n = index - self.settings.correctness_trials, len(self._usable)
        order = np.random.default_rng(self._seed(f"order {timed // n}")).permutation(n)
        return int(order[timed % n])

    def _variation(self, index: int) -> Variation:
        if index < self.settings.correctness_trials:
            return VARIATIONS[index % len(VARIATIONS)]
        return self._usable[self._place(index)]

    def _seed(self, purpose: str) -> int:
        return int.from_bytes(hashlib.sha256(self._secret + purpose.encode()).digest()[:6])

    def _case(self, index: int) -> "Case | None":
        inputs = self.inputs(index)
        try:
            _, single = run(self.worker, self.addresses, inputs, self.settings.timeout_s)
            expected = self._expected(inputs, single)
        except WorkerFailure as failure:
            if index == 0 or failure.status != "runtime_error":
                raise
            return None  # the task does not allow this variation, for example class indices that were floats
        finite = all(np.isfinite(e.exact.values).all() for e in expected)
        return Case(inputs, expected) if finite or index == 0 else None

    def _expected(self, inputs: list[Any], single: list["Tensor"]) -> list["Output"]:
        try:
            _, double = run(self.worker, self.addresses, inputs, self.settings.timeout_s, RUN_DOUBLE)
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
    """Raise `WorkerFailure` unless the values of outputs are what they must be; their shapes and dtypes are already."""
    for output, wanted in zip(outputs, expected, strict=True):
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


def limits(settings: EvaluatorSettings, core: int, is_reference: bool = False) -> Limits:
    """The reference holds a float64 copy besides, and writes its parameters to a file."""
    return Limits(
        memory_bytes=int(settings.memory_gib * 2**30 * (REFERENCE_MEMORY if is_reference else 1)),
        file_bytes=2**32 if is_reference else int(settings.output_mib * 2**20),
        core=core,
        writable=is_reference,
        sandbox=settings.sandbox != "off",
    )


def allocate(worker: Worker, specs: list[dict[str, Any]], timeout_s: float) -> list[int | None]:
    """Have the worker make input buffers; their addresses, null for plain values. The answer is not trusted."""
    answer = worker.call({"do": "allocate", "specs": specs}, "addresses", timeout_s)
    if not isinstance(answer, list) or [_is_address(x) for x in answer] != ["dtype" in spec for spec in specs]:
        raise forged()
    return answer


def run(
    worker: Worker,
    addresses: list[int | None],
    inputs: list[Any],
    timeout_s: float,
    command: bytes = RUN,
    wanted: Sequence[Tensor] | None = None,
) -> tuple[float, list[Tensor]]:
    """Run the worker's model once on `inputs`; seconds by the parent's clock, and the outputs. It stays frozen.

    Raises `WorkerFailure`, also for a worker that changed its inputs, or whose outputs are not like `wanted`, if given.
    """
    for address, value in zip(addresses, inputs, strict=True):
        if address is not None:
            worker.write(address, value.data)
    seconds, described = worker.run(command, timeout_s)
    if not isinstance(described, list):
        raise forged()
    if wanted is not None and len(described) != len(wanted):
        raise WorkerFailure("incorrect", f"returned {len(described)} tensors instead of {len(wanted)}", "wrong_arity")
    outputs = [
        read_tensor(worker, description, None if wanted is None else wanted[i])
        for i, description in enumerate(described)
    ]
    for address, value in zip(addresses, inputs, strict=True):
        if address is not None and not same_bytes(worker.read(address, value.data.nbytes), value.data):
            raise WorkerFailure("incorrect", "the inputs are changed after the call", "input_mutated")
    return seconds, outputs


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
    if not _is_address(address):
        raise WorkerFailure("rejected", "no memory at the address answered", "bad_address")
    raw = worker.read(address, extent * element.itemsize)
    byte_strides = [stride * element.itemsize for stride in strides]
    strided = np.lib.stride_tricks.as_strided(raw.view(element), shape, byte_strides)
    return Tensor(dtype, shape, np.ascontiguousarray(strided).reshape(-1).view(np.uint8), description)


def _is_address(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)
