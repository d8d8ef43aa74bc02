"""A task's reference: the inputs drawn, what the outputs must be, and the baseline. Shared by all candidates of a task."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from expert_tail.evaluator.arm import Arm
from expert_tail.evaluator.correctness import VARIATIONS, Expected, Variation, expect, mismatch, vary
from expert_tail.evaluator.process import ForkServer, Worker, WorkerFailure
from expert_tail.evaluator.sandbox import Limits
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.evaluator.tensors import Tensor, read_tensor, same_bytes
from expert_tail.evaluator.worker import RUN_DOUBLE, RUN_KEEPING
from expert_tail.tasks import Task

POOL_BYTES = 1 << 29  # inputs kept for the next candidate; more are drawn again
REFERENCE_MEMORY = 4.0  # times a candidate's, since it also holds a float64 copy


class Bench:
    """A task's reference, ready to be compared with. Raises `WorkerFailure` where the reference itself fails."""

    def __init__(self, server: ForkServer, task: Task, settings: EvaluatorSettings, core: int) -> None:
        self.settings, self._server, self._core = settings, server, core
        self._stack = contextlib.ExitStack()
        self._secret = os.urandom(16)  # what inputs are drawn from: no process that runs a candidate ever holds it
        self.seed = self._seed("parameters")  # this one candidates do get
        try:
            self.worker = self._start(is_reference=True)
            self._stack.callback(self.worker.close)
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
            self._reference = Arm.allocate(self.worker, self.specs, settings.timeout_s)
            found = {index: self._case(index) for index in range(settings.correctness_trials)}
            self.cases = [case for case in found.values() if case is not None]
            self.outputs = [output.computed for output in self.cases[0].expected]
            self._usable = [VARIATIONS[i] for i, case in found.items() if case is not None and i < len(VARIATIONS)]
            self._errors = [[output.exact.reference_error for output in case.expected] for case in self.cases]
            self.baseline = self._stack.enter_context(self.prepared(task.reference_source, "Model"))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def prepared(self, source: str, name: str) -> Iterator[Arm]:
        """A fresh worker with the class `name` of `source`, warm and right on every case. Raises `WorkerFailure`.

        The baseline is made like a candidate, since a process with another history runs the same code up to 5 % faster
        or slower: its memory lies elsewhere.
        """
        worker = self._start()
        try:
            yield self._prepare(worker, source, name)
        finally:
            worker.close()

    def _prepare(self, worker: Worker, source: str, name: str) -> Arm:
        path, blob = worker.scratch / "candidate.py", worker.scratch / "parameters.pickle"
        path.write_text(source, errors="replace")
        os.link(self.blob, blob)  # it may read its own folder alone
        timeout_s = self.settings.timeout_s
        worker.call({"do": "load", "path": str(path)}, "loaded", timeout_s)
        construct = {"do": "construct", "name": name, "blob": str(blob), "seed": self.seed}
        parameters = worker.call(construct, "parameters", timeout_s)
        arm = Arm.allocate(worker, self.specs, timeout_s)
        before: list[Tensor] = []
        for case in self.cases:
            _, outputs = arm.run(case.inputs, timeout_s, RUN_KEEPING, self.outputs)
            try:
                check(outputs, case.expected)
            except WorkerFailure as failure:
                if parameters == "own":
                    failure.error += "; its parameters have other names and shapes than the reference's"
                raise
            arm.check_intact(before, case.inputs)
            before = outputs
        return arm

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

    def _start(self, is_reference: bool = False) -> Worker:
        """A new worker. The reference's holds a float64 copy, and writes its parameters to a file."""
        limits = Limits(
            memory_bytes=int(self.settings.memory_gib * 2**30 * (REFERENCE_MEMORY if is_reference else 1)),
            file_bytes=2**32 if is_reference else int(self.settings.output_mib * 2**20),
            core=self._core,
            writable=is_reference,
            sandbox=self.settings.sandbox != "off",
        )
        return self._server.start(limits)

    def _seed(self, purpose: str) -> int:
        return int.from_bytes(hashlib.sha256(self._secret + purpose.encode()).digest()[:6])

    def _case(self, index: int) -> "Case | None":
        inputs = self.inputs(index)
        try:
            _, single = self._reference.run(inputs, self.settings.timeout_s)
            expected = self._expected(inputs, single)
        except WorkerFailure as failure:
            if index == 0 or failure.status != "runtime_error":
                raise
            return None  # the task does not allow this variation, for example class indices that were floats
        finite = all(np.isfinite(e.exact.values).all() for e in expected)
        return Case(inputs, expected) if finite or index == 0 else None

    def _expected(self, inputs: list[Any], single: list["Tensor"]) -> list["Output"]:
        try:
            _, double = self._reference.run(inputs, self.settings.timeout_s, RUN_DOUBLE)
        except WorkerFailure as failure:
            if failure.status != "runtime_error":
                raise
            double = single  # a reference that names its dtype cannot run in float64
        return [Output(s, expect(s.values(), d.values())) for s, d in zip(single, double, strict=True)]

    def _call(self, command: dict[str, Any], expect_key: str) -> Any:
        return self.worker.call(command, expect_key, self.settings.timeout_s)


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
